"""Which stretch of the cache belongs to whom: a list of holes. Plain Python, no tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

STEPS_AN_OCTAVE = 8  # sizes are rounded up to one of so many between two powers of two: at most an eighth is lost
SMALLEST_STEP = 64


@dataclass(frozen=True, order=True)
class Slot:
    """Rows ``start`` to ``end`` of the cache, one a token."""

    start: int
    tokens: int

    @property
    def end(self) -> int:
        return self.start + self.tokens


@dataclass(frozen=True)
class Move:
    """What ``source`` holds goes to the start of ``target``."""

    source: Slot
    target: Slot


class SlotAllocator:
    """``tokens`` rows, handed out in slots. The lowest hole that is large enough is taken, so that memory that has
    been used once is used again, and answers of like sizes lie at even distances."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._holes = [Slot(0, tokens)] if tokens else []

    @property
    def free(self) -> int:
        """Rows in all holes."""
        return sum(hole.tokens for hole in self._holes)

    def largest(self, given: Iterable[Slot] = ()) -> int:
        """Rows in the largest hole that there is, or would be if the slots ``given`` were taken back."""
        return max((hole.tokens for hole in _merged([*self._holes, *given])), default=0)

    def take(self, tokens: int) -> Slot | None:
        """A slot of at least ``tokens`` rows, None where no hole is large enough."""
        for index, hole in enumerate(self._holes):
            if hole.tokens >= tokens:
                taken = Slot(hole.start, min(rounded(tokens), hole.tokens))
                self._holes[index : index + 1] = _rest(hole, taken.end)
                return taken
        return None

    def extend(self, slot: Slot, tokens: int) -> Slot | None:
        """``slot`` made ``tokens`` rows long where it lies, None where its neighbour is in the way."""
        if slot.tokens >= tokens:
            return slot
        for index, hole in enumerate(self._holes):
            if hole.start == slot.end and slot.tokens + hole.tokens >= tokens:
                longer = Slot(slot.start, min(rounded(tokens), slot.tokens + hole.tokens))
                self._holes[index : index + 1] = _rest(hole, longer.end)
                return longer
        return None

    def give(self, slot: Slot) -> None:
        """Take ``slot`` back."""
        self._holes = _merged([*self._holes, slot])


def compact(slots: Iterable[Slot], tokens: int) -> tuple[SlotAllocator, tuple[Move, ...]]:
    """A new space of ``tokens`` rows with ``slots``, which it must have room for, side by side at its start."""
    space = SlotAllocator(tokens)
    moves = []
    for slot in sorted(slots):
        target = Slot(tokens - space.free, slot.tokens)
        assert target.end <= tokens, "a space cannot be smaller than what it holds"
        space._holes = _rest(Slot(target.start, tokens - target.start), target.end)
        moves.append(Move(slot, target))
    return space, tuple(moves)


def rounded(tokens: int) -> int:
    """``tokens`` or a little more, so that requests of about the same size take the same."""
    step = max(SMALLEST_STEP, (1 << tokens.bit_length()) // (2 * STEPS_AN_OCTAVE))
    return -(-tokens // step) * step


def _merged(holes: list[Slot]) -> list[Slot]:
    """In order, neighbours as one."""
    merged: list[Slot] = []
    for hole in sorted(holes):
        if merged and merged[-1].end == hole.start:
            hole = Slot(merged[-1].start, merged.pop().tokens + hole.tokens)
        merged.append(hole)
    return merged


def _rest(hole: Slot, start: int) -> list[Slot]:
    return [Slot(start, hole.end - start)] if start < hole.end else []
