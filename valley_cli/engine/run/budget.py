"""How many tokens the cache may hold and how many answers may run: less of both after memory ran out, then slowly more.

What is given back must be memory: the newer half of the answers wait again, kept pictures and slots are forgotten,
and the cache shrinks. A request fails only when it is alone and memory runs out for the second time.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from valley_cli.engine.schedule.scheduler import Scheduler
from valley_cli.engine.schedule.sequence import Sequence
from valley_cli.errors import RoomError, option

if TYPE_CHECKING:
    from valley_cli.engine.run.runner import Runner

log = logging.getLogger(__name__)
LESS = f"send fewer or smaller pictures, or lower {option('max_new_tokens')} or {option('max_pixels')}"


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on whatever device. No torch here: known by its name."""
    named = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or named or "allocate memory" in str(error)


class Budget:
    """The memory that ``runner``'s cache may take. Speaks for ``scheduler`` to it."""

    def __init__(self, runner: Runner, scheduler: Scheduler) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.most_tokens = runner.cache_tokens(scheduler.max_running)

    @property
    def share(self) -> int:
        """Tokens the cache may hold now: in proportion to the answers that may run."""
        return self.most_tokens * self.scheduler.allowed // self.scheduler.max_running

    def refusal(self, sequence: Sequence) -> RoomError | None:
        """Why ``sequence`` can never run, with the numbers; None if it can.

        Nobody is refused for what was free some time ago. What is less than it was is found out by trying.
        """
        if sequence.reserved_tokens > self.most_tokens:
            self.most_tokens = max(self.most_tokens, self.runner.cache_tokens(self.scheduler.max_running))
        return self._too_long(sequence, self.most_tokens) if sequence.reserved_tokens > self.most_tokens else None

    def _too_long(self, sequence: Sequence, most_tokens: int) -> RoomError:
        def size(tokens: int) -> str:
            return f"{tokens} tokens ({tokens * self.runner.cache.token_bytes / 1e9:.2f} GB)"

        answer = f"{sequence.prompt_tokens} of the prompt and up to {sequence.max_new_tokens} of the answer"
        needed = f"the request needs a cache of {size(sequence.reserved_tokens)}: {answer}"
        return RoomError(f"out of memory: {needed}; there is room for {size(most_tokens)}", LESS)

    def grow_for(self, first: Sequence) -> RoomError | None:
        """Nobody runs and the cache is too small for ``first``: at the start, and after memory ran out.

        The error if there is no memory even for ``first`` alone.
        """
        tokens = max(self.share, first.reserved_tokens)
        while not self._resize(tokens):
            self.runner.drop_caches()
            if tokens == first.reserved_tokens:
                return self._too_long(first, 0)
            self.scheduler.allowed = max(self.scheduler.allowed // 2, 1)
            tokens = max(self.share, first.reserved_tokens) if self.scheduler.allowed > 1 else first.reserved_tokens
        return None

    def on_out_of_memory(self) -> bool:
        """Memory ran out: halve what runs, and let go of what is kept. False if nothing helps: one alone, again."""
        active = self.scheduler.active
        if not active or (len(active) == 1 and active[0].ran_alone):
            return False
        active[0].ran_alone = len(active) == 1
        self.scheduler.preempt_newer_half()
        self.runner.drop_caches()
        self._resize(self.share if len(active) > 1 else 0)
        return True

    def on_good_step(self) -> None:
        """A step of all answers went well."""
        if self.scheduler.on_good_step() and self.share > self.scheduler.allocator.tokens:
            self._resize(self.share)

    def _resize(self, tokens: int) -> bool:
        """Give the cache ``tokens`` rows, at least what is in use. False: that was too much, and now it is empty."""
        moves = self.scheduler.resize(tokens)
        log.info("the cache is made %d tokens long, %d answers may run", tokens, self.scheduler.allowed)
        try:
            self.runner.resize(self.scheduler.allocator.tokens, moves)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
        else:
            return True
        for sequence in reversed(self.scheduler.active):
            self.scheduler.preempt(sequence)
        self.scheduler.resize(0)
        return False
