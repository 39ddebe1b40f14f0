"""Token ids to text, one at a time: never half a character, never part of a stop string. Plain Python."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from valley_cli.api import TextDelta, ThinkDelta

Phase = Literal["start", "think", "behind", "answer", "plain"]


@dataclass
class Detokenizer:
    """Feed ids with ``push``, end with ``finish``; both return text that is safe to show.

    Broken UTF-8 becomes U+FFFD as in a decoding of the whole. ``hidden`` ids (end of turn) give no text.
    ``stopped`` turns true when a stop string was met; what follows it is dropped.
    """

    token_bytes: Callable[[int], bytes]
    hidden: Collection[int] = ()
    stop: tuple[str, ...] = ()
    stopped: bool = False
    _held: str = ""
    _utf8: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    def push(self, token_id: int) -> str:
        if self.stopped:
            return ""
        if token_id in self.hidden:  # ends a character begun before it, as in a decoding of the whole
            return self._release(self._utf8.decode(b"", final=True))
        return self._release(self._utf8.decode(self.token_bytes(token_id)))

    def finish(self) -> str:
        """What was held back, now that nothing more will come."""
        if self.stopped:
            return ""
        tail = self._release(self._utf8.decode(b"", final=True))
        if not self.stopped:
            tail, self._held = tail + self._held, ""
        return tail

    def _release(self, text: str) -> str:
        text = self._held + text
        found = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self.stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` that ``mark`` begins with."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:n])), 0)


@dataclass
class ThinkSplitter:
    """Splits ``<think>...</think><answer>...</answer>`` into thinking and answer (spec valley2, section 10.1).

    A tag is one in its place only, and is not shown there: ``<think>`` at the start, the first ``</think>`` behind it,
    ``<answer>`` at the start or right behind ``</think>``, ``</answer>`` at the end of an answer so begun. White space
    may come before an opening tag and after the last; newlines next to any tag go with it. All else is text.
    """

    _phase: Phase = "start"
    _held: str = ""
    _after_tag: bool = False

    def push(self, text: str, *, final: bool = False) -> list[TextDelta | ThinkDelta]:
        """Events for ``text``; ``final`` lets go of what might have become a tag."""
        self._held += text
        thought = said = ""
        if self._phase == "start":
            self._open({"think": "<think>", "answer": "<answer>"}, final)
        if self._phase == "think":
            thought = self._think(final)
        if self._phase == "behind":
            self._open({"answer": "<answer>"}, final)
        if self._phase == "answer":
            said = self._answer(final)
        elif self._phase == "plain":
            said = self._release(0, final=True)
        return [*([ThinkDelta(thought)] if thought else ()), *([TextDelta(said)] if said else ())]

    def _open(self, tags: Mapping[Phase, str], final: bool) -> None:
        """Enter the phase whose tag comes next, or plain text as soon as it can be none of ``tags``."""
        text = self._held.lstrip()
        for phase, tag in tags.items():
            if text.startswith(tag):
                self._enter(phase, text[len(tag) :])
                return
        if final or not any(tag.startswith(text) for tag in tags.values()):
            self._phase = "plain"

    def _enter(self, phase: Phase, rest: str) -> None:
        self._phase, self._held, self._after_tag = phase, rest, True

    def _think(self, final: bool) -> str:
        """What can be shown of the thinking."""
        body, tag, rest = self._held.partition("</think>")
        if not tag:
            return self._release(_overlap(body, "</think>"), final)
        thought = self._release(len(tag + rest))
        self._enter("behind", rest)
        return thought

    def _answer(self, final: bool) -> str:
        """What can be shown of the answer. Its closing tag is known by what does not follow."""
        body = self._held.rstrip()
        if not body.endswith("</answer>"):
            return self._release(_overlap(self._held, "</answer>"), final)
        return self._release(len(self._held) - len(body) + len("</answer>"))

    def _release(self, n_kept: int, final: bool = False) -> str:
        """All that is held but for the last ``n_kept`` characters, and newlines before them; ``final``: all."""
        if self._after_tag:
            self._held = self._held.lstrip("\n")
            self._after_tag = not self._held
        body = self._held if final else self._held[: len(self._held) - n_kept].rstrip("\n")
        self._held = self._held[len(body) :]
        return body
