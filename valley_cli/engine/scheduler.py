"""Who runs next and who holds which slot. Plain Python, no tensors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from valley_cli.engine.sequence import Sequence


@dataclass(frozen=True)
class Step:
    """What the runner does next: read one prompt, or give every running answer one more token."""

    prefill: Sequence | None = None
    decode: tuple[Sequence, ...] = ()


class Scheduler:
    """First come, first served, up to ``max_running`` at a time; a new prompt is read before the next token step."""

    def __init__(self, max_running: int) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.free_slots = list(range(max_running))

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def next_step(self) -> Step:
        """The step to take; a sequence that joins holds the lowest free slot from here on."""
        if self.waiting and self.free_slots:
            sequence = self.waiting.popleft()
            sequence.slot = self.free_slots.pop(0)
            self.running.append(sequence)
            self.running.sort(key=lambda s: s.slot or 0)
            return Step(prefill=sequence)
        return Step(decode=tuple(self.running))

    def release(self, sequence: Sequence) -> None:
        """Forget a sequence that ended, waiting or running."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        if sequence.slot is not None:
            self.free_slots.append(sequence.slot)
            self.free_slots.sort()
            sequence.slot = None

    def cancelled(self) -> list[Sequence]:
        """Sequences whose caller went away."""
        return [s for s in (*self.waiting, *self.running) if s.cancelled]
