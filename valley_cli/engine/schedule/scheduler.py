"""Who runs next and who holds which slot of the cache. Plain Python, no tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Row
from dataclasses import dataclass

from valley_cli.engine.families.base import Unit, count_tokens
from valley_cli.engine.schedule.sequence import Sequence
from valley_cli.engine.schedule.slots import Move, Slot, SlotAllocator, compact

KEPT = 16  # slots that outlive their request, where there is room
WORTH_COPYING = 16  # tokens
PIECE_TOKENS = 512
RECOVERY_STEPS = 64  # of all answers without a failure, until one more may run


@dataclass(frozen=True)
class Step:
    """What the runner does next: read prompts, or give every running answer one more token.

    Of the first prompt to be read a piece, as long as it may be; of the others all that is left.
    """

    prefill: tuple[Sequence, ...] = ()
    decode: tuple[Sequence, ...] = ()


class Scheduler:
    """First come, first served: the first in the queue waits until there is room for all it may need, and nobody
    overtakes it; so nobody who began is put back for want of room, and nobody waits for ever.

    Prompts are read in turn with the answers under way: a long one piece by piece, short ones several at a time, at
    most ``piece_tokens`` together. A slot outlives its request: up to ``kept`` go on holding what they held until
    their room is needed, the longest unused going first. A request continues from whatever it begins with that is
    held, or that a running one has read (the second turn of a chat, another question about the same picture).
    """

    def __init__(self, space: SlotAllocator, max_running: int, kept: int = KEPT) -> None:
        self.allocator = space
        self.max_running = self.allowed = max_running
        self.kept = kept
        self.piece_tokens = PIECE_TOKENS
        self.recovery_steps = RECOVERY_STEPS
        self.waiting: deque[Sequence] = deque()
        self.reading: list[Sequence] = []  # whose prompts are being read; after a step at most one
        self.running: list[Sequence] = []  # those that answer
        self.prefix_cache: dict[Slot, tuple[Unit, ...]] = {}  # the longest unused first
        self._answers_turn = False
        self._n_added = 0
        self._good_steps = 0

    def add(self, sequence: Sequence) -> None:
        self._n_added += 1
        sequence.number = self._n_added
        self.waiting.append(sequence)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.active

    @property
    def active(self) -> list[Sequence]:
        """All with a slot, by arrival."""
        return sorted([*self.running, *self.reading], key=lambda s: s.number)

    def next_step(self) -> Step:
        """The step to take. Neither: the first in the queue needs more room than there is."""
        if not (self.running and self._answers_turn) and (prompts := self._next_prompts()):
            self._answers_turn = True
            return Step(prefill=prompts)
        self._answers_turn = False
        return Step(decode=tuple(self.running))

    def _next_prompts(self) -> tuple[Sequence, ...]:
        """The prompts that are read in one step, with a slot each."""
        left = self.piece_tokens - sum(sequence.unread_tokens for sequence in self.reading)
        while self.waiting and len(self.active) < self.allowed and self._joins(self.waiting[0], left):
            if not self._seat(self.waiting[0]):
                break
            sequence = self.waiting.popleft()
            self.reading.append(sequence)
            left -= sequence.unread_tokens
        return tuple(self.reading)

    def _joins(self, sequence: Sequence, left: int) -> bool:
        """Whether ``sequence`` is read in the same step as those that are: if it fits wholly into ``left`` tokens, and
        would not find most of its prompt in the cache once they are read."""
        if not self.reading:
            return True
        _, n_units = self._best_source(sequence)
        wanted = sequence.all_units
        known = count_tokens(wanted[:n_units])
        unread = sequence.prompt_tokens + len(sequence.new_ids) - known
        soon = max(count_tokens(wanted[: shared_units(other.all_units, wanted)]) for other in self.reading)
        alone = sequence.reads_alone or any(other.reads_alone for other in self.reading)
        return not alone and unread <= left and 2 * (soon - known) < unread

    def start_decoding(self, sequence: Sequence) -> None:
        """The whole prompt is in the cache: from now on ``sequence`` answers."""
        self.reading.remove(sequence)
        self.running.append(sequence)
        self.running.sort(key=lambda s: s.slot or Slot(0, 0))

    def _seat(self, sequence: Sequence) -> bool:
        """Find ``sequence`` a slot, and what it can continue from; False if there is no room now.

        Nothing that is held gives way for one that has to wait all the same.
        """
        if self.allocator.largest(self.prefix_cache) < sequence.reserved_tokens:
            return False  # asked at every step while somebody waits
        source, n_units = self._best_source(sequence)
        take_over = source in self.prefix_cache and self._worth_taking(source, n_units, sequence)
        if source in self.prefix_cache:
            self.prefix_cache[source] = self.prefix_cache.pop(source)  # used, so the last to go
        while True:
            if take_over and source and (longer := self.allocator.extend(source, sequence.reserved_tokens)):
                del self.prefix_cache[source]
                sequence.begin(longer, n_units, source if longer != source else None)
                return True
            if slot := self.allocator.take(sequence.reserved_tokens):
                sequence.begin(slot, n_units, source)
                return True
            oldest = next(iter(self.prefix_cache))  # there is one: without them all there would be room
            self._evict(oldest)
            if oldest == source:
                source, n_units, take_over = None, 0, False

    def _best_source(self, sequence: Sequence) -> tuple[Slot | None, int]:
        """The slot that shares most with what is to be read, and how many units."""
        known = dict(self.prefix_cache)
        known |= {other.slot: other.cached_units for other in self.running if other.slot}
        best, n_units, wanted = None, 0, sequence.all_units
        for slot, units in known.items():
            if (shared := shared_units(units, wanted)) > n_units:
                best, n_units = slot, shared
        if count_tokens(wanted[:n_units]) < WORTH_COPYING:
            return None, 0
        return best, n_units

    def _worth_taking(self, slot: Slot, n_units: int, sequence: Sequence) -> bool:
        """Whether to go on in a held slot rather than in a copy: if half of what it holds, or of what is asked, is
        shared. A shared system prompt alone is not worth another conversation's picture."""
        held = self.prefix_cache[slot]
        return 2 * count_tokens(held[:n_units]) >= min(count_tokens(held), sequence.prompt_tokens)

    def release(self, sequence: Sequence, *, intact: bool = True) -> None:
        """Forget a sequence that ended, waiting or running. Not ``intact``: nobody knows what its slot holds."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.reading:
            self.reading.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        if sequence.slot is not None:
            self._free(sequence.slot, sequence.cached_units if intact else ())
            sequence.slot = None

    def _free(self, slot: Slot, units: tuple[Unit, ...]) -> None:
        if not units or not self.kept:
            self.allocator.give(slot)
            return
        self.prefix_cache[slot] = units
        if len(self.prefix_cache) > self.kept:
            self._evict(next(iter(self.prefix_cache)))

    def _evict(self, held: Slot) -> None:
        del self.prefix_cache[held]
        self.allocator.give(held)

    def drop_prefix_cache(self) -> None:
        """Nothing is kept any more."""
        for held in [*self.prefix_cache]:
            self._evict(held)

    def preempt_newer_half(self) -> int:
        """Memory ran out: the newer half of those with a slot wait again, first in the queue and in their order,
        and no more than the others may run for a while. -> how many go on"""
        active = self.active
        self.allowed = max(len(active) // 2, 1)
        self._good_steps = 0
        for sequence in reversed(active[len(active) // 2 :]):
            self.preempt(sequence)
        return len(active) // 2

    def preempt(self, sequence: Sequence) -> None:
        """Let ``sequence`` wait again, before all others."""
        self.release(sequence, intact=False)
        sequence.preempt()
        self.waiting.appendleft(sequence)

    def on_good_step(self) -> bool:
        """Every answer got its token. True when one more may run than before, after memory had run out."""
        if self.allowed == self.max_running:
            return False
        self._good_steps += 1
        if self._good_steps % self.recovery_steps:
            return False
        self.allowed += 1
        return True

    def resize(self, tokens: int) -> tuple[Move, ...]:
        """A space of ``tokens`` rows, or as many as those with a slot hold; kept ones are forgotten."""
        self.drop_prefix_cache()
        owners = {sequence.slot: sequence for sequence in self.active if sequence.slot}
        held = sum(slot.tokens for slot in owners)
        self.allocator, moves = compact(owners, max(tokens, held))
        for move in moves:
            owners[move.source].slot = move.target
        return moves

    def cancelled(self) -> list[Sequence]:
        """Sequences whose caller went away."""
        return [sequence for sequence in self.everyone() if sequence.cancelled]

    def everyone(self) -> list[Sequence]:
        """All sequences, whatever they are doing."""
        return [*self.waiting, *self.reading, *self.running]


def shared_units(held: Row[Unit], wanted: Row[Unit]) -> int:
    """How many units both begin with; the last of ``wanted`` never counts: its logits are needed."""
    limit = min(len(held), len(wanted) - 1)
    return next((i for i in range(limit) if held[i] != wanted[i]), max(limit, 0))
