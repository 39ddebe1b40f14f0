"""Who runs next and who holds which slot. Plain Python, no tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Row
from dataclasses import dataclass

from valley_cli.engine.sequence import Sequence, Unit, count_tokens

KEPT_SLOTS = 4


@dataclass(frozen=True)
class Step:
    """What the runner does next: read a piece of one prompt, or give every running answer one more token."""

    prefill: Sequence | None = None
    decode: tuple[Sequence, ...] = ()


class Scheduler:
    """First come, first served, up to ``max_running`` at a time.

    One prompt is read at a time, piece by piece in turn with the answers under way. A slot outlives its request: up to
    ``kept`` free ones go on holding what they held, and a request that begins with most of that continues there (the
    second turn of a chat, another question about the same picture).
    """

    def __init__(self, max_running: int, kept: int = KEPT_SLOTS) -> None:
        self.waiting: deque[Sequence] = deque()
        self.reading: Sequence | None = None
        self.running: list[Sequence] = []  # those that answer
        self._answers_turn = False
        self.empty_slots = list(range(max_running))
        self.held: dict[int, tuple[Unit, ...]] = {}  # free slots and their units, the longest unused first
        self.kept = kept

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running and self.reading is None

    def next_step(self) -> Step:
        """The step to take; a sequence holds its slot from the first step that reads it."""
        if self.reading is None and self.waiting and (self.empty_slots or self.held):
            self.reading = self.waiting.popleft()
            self._seat(self.reading)
        if self.reading and not (self.running and self._answers_turn):
            self._answers_turn = True
            return Step(prefill=self.reading)
        self._answers_turn = False
        return Step(decode=tuple(self.running))

    def has_read(self, sequence: Sequence) -> None:
        """The whole prompt is in the cache: from now on ``sequence`` answers."""
        self.reading = None
        self.running.append(sequence)
        self.running.sort(key=lambda s: s.slot or 0)

    def _seat(self, sequence: Sequence) -> None:
        """The slot that shares most, if that is half of what it holds or of what is asked; else an empty one, else
        the oldest. A shared system prompt alone is not worth another conversation's picture."""
        shared = {slot: shared_units(units, sequence.units) for slot, units in self.held.items()}
        best = max(shared, key=lambda slot: shared[slot], default=None)
        if best is not None and shared[best]:
            held = self.held[best]
            if 2 * count_tokens(held[: shared[best]]) >= min(count_tokens(held), sequence.prompt_tokens):
                self._take(sequence, best, shared[best])
                return
        if self.empty_slots and len(self.held) < max(self.kept, 1):
            sequence.slot = self.empty_slots.pop(0)
            return
        oldest = next(iter(self.held))
        self._take(sequence, oldest, shared[oldest])

    def _take(self, sequence: Sequence, slot: int, n_units: int) -> None:
        sequence.slot = slot
        sequence.reused_units = n_units
        sequence.reused_tokens = count_tokens(self.held.pop(slot)[:n_units])

    def forget_held(self, sequence: Sequence) -> None:
        """Nothing is kept any more, and ``sequence``, the only one with a slot, sits in the first."""
        n_slots = len(self.held) + len(self.empty_slots) + 1
        self.held.clear()
        self.empty_slots = list(range(1, n_slots))
        sequence.slot = sequence.reused_units = sequence.reused_tokens = 0

    def release(self, sequence: Sequence, *, intact: bool = True) -> None:
        """Forget a sequence that ended, waiting or running. Not ``intact``: nobody knows what its slot holds."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence is self.reading:
            self.reading = None
        if sequence in self.running:
            self.running.remove(sequence)
        if sequence.slot is not None:
            self._free(sequence.slot, sequence.held_units if intact else ())
            sequence.slot = None

    def _free(self, slot: int, units: tuple[Unit, ...]) -> None:
        if units and self.kept:
            self.held[slot] = units
            if len(self.held) > self.kept:
                slot = next(iter(self.held))
                del self.held[slot]
            else:
                return
        self.empty_slots.append(slot)
        self.empty_slots.sort()

    def cancelled(self) -> list[Sequence]:
        """Sequences whose caller went away."""
        return [sequence for sequence in self.everyone() if sequence.cancelled]

    def everyone(self) -> list[Sequence]:
        """All sequences, whatever they are doing."""
        return [*self.waiting, *([self.reading] if self.reading else []), *self.running]


def shared_units(held: Row[Unit], wanted: Row[Unit]) -> int:
    """How many units both begin with; the last of ``wanted`` never counts: its logits are needed."""
    limit = min(len(held), len(wanted) - 1)
    return next((i for i in range(limit) if held[i] != wanted[i]), max(limit, 0))
