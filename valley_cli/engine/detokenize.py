"""Token ids to text, one at a time: never half a character, never part of a stop string. Plain Python."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from valley_cli.engine.base import TextDelta, ThinkDelta

TAGS = {"<think>": "think", "</think>": "answer", "<answer>": "answer", "</answer>": "answer"}


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

    The tags themselves are not shown. Text in neither is answer, except white space next to a tag.
    """

    _mode: str = "answer"
    _held: str = ""
    _at_start: bool = True

    def push(self, text: str, *, final: bool = False) -> list[TextDelta | ThinkDelta]:
        """Events for ``text``; ``final`` lets go of what might have become a tag."""
        events: list[TextDelta | ThinkDelta] = []
        self._held += text
        while True:
            tag, place = min(
                ((tag, self._held.find(tag)) for tag in TAGS if tag in self._held),
                key=lambda pair: pair[1],
                default=("", -1),
            )
            if place < 0:
                break
            self._emit(self._held[:place].rstrip("\n"), events)
            self._mode, self._at_start = TAGS[tag], True
            self._held = self._held[place + len(tag) :]
        keep = 0 if final else max(_overlap(self._held, tag) for tag in TAGS)
        body = self._held[: len(self._held) - keep]
        if not final:  # newlines before a closing tag belong to the tag
            keep += len(body) - len(body.rstrip("\n"))
        self._emit(self._held[: len(self._held) - keep], events)
        self._held = self._held[len(self._held) - keep :]
        return events

    def _emit(self, text: str, events: list[TextDelta | ThinkDelta]) -> None:
        if self._at_start:
            text = text.lstrip("\n")
        if text:
            self._at_start = False
            events.append(ThinkDelta(text) if self._mode == "think" else TextDelta(text))
