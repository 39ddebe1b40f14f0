"""Text of messages that stays text: whoever writes ``<|im_end|>`` in a question ends no turn by it.

A chat template joins messages and its own tokens to one string, in which nobody can tell them apart any more. So the
first character of whatever would read as a token, or as a picture's place, goes through the template as an escape, the
noncharacter U+FDD0 with the character's code and a semicolon; what is a token afterwards is the template's. An escape
is taken back once its stretch of text is cut out, and that stretch is read without any token but those of plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from valley_cli.api import Message

IMAGE = "<image>"
THINKING = ("<think>", "</think>")
_MARK = "\ufdd0"
_ESCAPE = re.compile(f"{_MARK}([0-9a-f]+);")


class Escaper:
    """Escapes ``tokens`` and places that are none. A token counts as one even if placeholders stand between its
    characters: the github flavour deletes surplus ones."""

    def __init__(self, tokens: Iterable[str]) -> None:
        words = [f"(?:{IMAGE})*".join(map(re.escape, word)) for word in (_MARK, IMAGE, *tokens)]
        self._first_character = re.compile(f"(?={'|'.join(words)}).", re.DOTALL)

    def escape(self, message: Message) -> Message:
        """``message`` with its text escaped, but for the places of its pictures and the tags around an answer's
        thinking: templates look for those, mostly to leave the thinking out."""
        text, places = message.content, message.places
        thought = text.rfind(THINKING[1]) if message.role == "assistant" else -1

        def escaped(match: re.Match[str]) -> str:
            at = match.start()
            is_place = text.startswith(IMAGE, at) and (places is None or at in places)
            is_tag = at <= thought and text.startswith(THINKING, at)
            return match[0] if is_place or is_tag else f"{_MARK}{ord(match[0]):x};"

        return replace(message, content=self._first_character.sub(escaped, text))


def unescape(text: str) -> str:
    """``text`` as it was written."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
