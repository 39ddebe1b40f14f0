"""One request on its way through the engine: what it has said so far and when it must stop. Plain Python."""

from __future__ import annotations

import queue
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from valley_cli.api import Event, FinishReason, Sampling, TextDelta
from valley_cli.engine.families.base import Unit, count_tokens
from valley_cli.engine.schedule.detokenize import Detokenizer, ThinkSplitter
from valley_cli.engine.schedule.slots import Slot


@dataclass(eq=False)
class Sequence:
    """``payload`` is the prepared prompt, which only the runner looks into. ``length`` counts tokens in the cache.

    ``units`` are the prompt as the cache knows it, empty for prompts whose rows may not be reused. The first
    ``reused_units``, ``reused_tokens`` rows, were found in ``slot`` or are to be copied from ``source``.

    The worker thread writes ``events``; whoever iterates over the answer reads them. ``cancelled`` goes the other way.
    """

    payload: Any  # a prepared prompt; None once it is let go of
    prompt_tokens: int
    prompt_ids: tuple[int, ...]  # real token ids only, for the repetition penalty
    max_new_tokens: int
    sampling: Sampling
    eos_ids: Collection[int]
    detokenizer: Detokenizer
    splitter: ThinkSplitter | None = None
    units: tuple[Unit, ...] = ()
    reused_units: int = 0
    reused_tokens: int = 0
    source: Slot | None = None
    unread: Any = None  # the rest of the prompt's rows, while it is read in pieces
    sampler: Any = None  # how the runner chooses its tokens; None: to be made, or made anew
    slot: Slot | None = None
    length: int = 0
    number: int = 0  # by arrival
    reads_alone: bool = False  # something went wrong when its prompt was read together with others
    ran_alone: bool = False  # what it failed at alone it will fail at again
    new_ids: list[int] = field(default_factory=list)
    events: queue.SimpleQueue[Event | BaseException | FinishReason] = field(default_factory=queue.SimpleQueue)
    cancelled: bool = False
    arrived_at: float = 0.0
    wait_s: float = 0.0  # until its prompt was first looked at
    encode_s: float = 0.0  # of its pictures, by the towers
    first_token_at: float | None = None
    last_token_at: float | None = None

    @property
    def reserved_tokens(self) -> int:
        """Rows it needs in all."""
        return self.prompt_tokens + self.max_new_tokens

    @property
    def unread_tokens(self) -> int:
        """Rows of prompt and answer that are to be read before the next token."""
        return self.prompt_tokens + len(self.new_ids) - self.length

    @property
    def all_units(self) -> tuple[Unit, ...]:
        """The prompt and what was said so far: what is read anew after the sequence was put back."""
        return (*self.units, *self.new_ids) if self.units else ()

    @property
    def cached_units(self) -> tuple[Unit, ...]:
        """What the slot holds of this sequence: the prompt, and the answer but for tokens not read back yet."""
        if not self.units or self.length < self.prompt_tokens:  # not whole: only what was there before is known
            return () if self.source else self.all_units[: self.reused_units]
        return (*self.units, *self.new_ids[: self.length - self.prompt_tokens])

    def begin(self, slot: Slot, reused_units: int = 0, source: Slot | None = None) -> None:
        """Take ``slot``, whose first ``reused_units`` are there or come from ``source``."""
        self.slot, self.source, self.reused_units = slot, source, reused_units
        self.reused_tokens = self.length = count_tokens(self.all_units[:reused_units])

    def preempt(self) -> None:
        """Leave the cache; what was said stays said."""
        self.slot = self.source = self.unread = None
        self.length = self.reused_units = self.reused_tokens = 0

    def append(self, token_id: int) -> FinishReason | None:
        """Take a new token, send what can be shown of it, and say whether the answer ends here."""
        self.last_token_at = time.perf_counter()
        self.first_token_at = self.first_token_at or self.last_token_at
        self.new_ids.append(token_id)
        self._send(self.detokenizer.push(token_id))
        if token_id in self.eos_ids or self.detokenizer.stopped:
            return "stop"
        return "length" if len(self.new_ids) >= self.max_new_tokens else None

    def finish(self, reason: FinishReason) -> None:
        """Send what was held back, then the reason."""
        self._send(self.detokenizer.finish(), final=True)
        self._release_payload()
        self.events.put(reason)

    def fail(self, error: BaseException) -> None:
        """End with ``error``, which the answer raises in its caller's thread."""
        self._release_payload()
        self.events.put(error)

    def _release_payload(self) -> None:
        """Of pixels and tensors, before the caller hears of the end: tensors must not die on the caller's thread."""
        self.payload = self.unread = self.sampler = None

    def _send(self, text: str, *, final: bool = False) -> None:
        if self.splitter:
            for event in self.splitter.push(text, final=final):
                self.events.put(event)
        elif text:
            self.events.put(TextDelta(text))
