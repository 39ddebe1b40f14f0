"""The one thread that owns the model: takes sequences from any thread, runs the scheduler's steps, sends tokens."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valley_cli.engine.base import FinishReason
from valley_cli.engine.scheduler import Scheduler, Step
from valley_cli.engine.sequence import Sequence
from valley_cli.errors import RoomError, ValleyError

if TYPE_CHECKING:
    from valley_cli.engine.runner import Runner

MAX_RUNNING = 16
PIECE_TOKENS = 512  # of a prompt that are read between two tokens of the answers under way


@dataclass
class _Stop:
    """Put into the inbox to end the thread."""


class Worker:
    """Starts loading at once, so that the caller can read pictures meanwhile."""

    def __init__(self, load: Callable[[], Runner]) -> None:
        self.load_s = 0.0
        self.memory_bytes = 0
        self._load = load
        self._inbox: queue.SimpleQueue[Sequence | _Stop] = queue.SimpleQueue()
        self._scheduler = Scheduler(MAX_RUNNING)
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="valley-engine", daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; its events say the rest. Raises ValleyError after ``close``."""
        with self._lock:
            if self._closed:
                raise ValleyError("the engine was closed")
            self._inbox.put(sequence)

    def close(self) -> None:
        """End the thread; sequences still there finish as ``cancelled``."""
        with self._lock:
            self._closed = True
            self._inbox.put(_Stop())
        self._thread.join()

    def _run(self) -> None:
        start = time.perf_counter()
        try:
            runner = self._load()
        except BaseException as error:
            self._refuse_all(error)
            return
        self.load_s = time.perf_counter() - start
        while self._take_new():
            for sequence in self._scheduler.cancelled():
                self._end(sequence, "cancelled")
            step = self._scheduler.next_step()
            try:
                self._execute(runner, step)
            except BaseException as error:  # whatever it is, no caller may wait for ever
                for sequence in (step.prefill,) if step.prefill else step.decode:
                    self._scheduler.release(sequence, intact=False)
                    sequence.fail(_explained(error))
        for sequence in self._scheduler.everyone():
            self._end(sequence, "cancelled")

    def _refuse_all(self, error: BaseException) -> None:
        """Loading failed: every request, now and later, gets the reason."""
        while not isinstance(item := self._inbox.get(), _Stop):
            item.fail(error)

    def _take_new(self) -> bool:
        """Move arrivals to the scheduler, waiting for one when there is nothing to do. False: time to stop."""
        while self._scheduler.idle or not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, _Stop):
                return False
            self._scheduler.add(item)
        return True

    def _execute(self, runner: Runner, step: Step) -> None:
        if step.prefill:
            self._prefill(runner, step.prefill)
        elif step.decode:
            self._decode(runner, step.decode)

    def _prefill(self, runner: Runner, sequence: Sequence) -> None:
        """One piece of the prompt; all of it if nobody waits for the next token meanwhile."""
        if sequence.unread is None:
            self._make_room(runner, sequence)
            prepared = sequence.payload
            sequence.unread = runner.merge(prepared.layout.prompt.input_ids, prepared.pictures, sequence.reused_units)
            sequence.payload = None  # pixels are not needed again
            sequence.length = sequence.reused_tokens
            sequence.chooser = runner.chooser(sequence.sampling, sequence.prompt_ids)
        assert sequence.slot is not None
        room = sequence.length + len(sequence.unread) + sequence.max_new_tokens
        piece = sequence.unread[:PIECE_TOKENS] if self._scheduler.running else sequence.unread
        logits = runner.prefill(sequence.slot, piece, room, sequence.length)
        self.memory_bytes = runner.memory_bytes  # a token more takes nothing: its room is reserved
        sequence.length += len(piece)
        sequence.unread = sequence.unread[len(piece) :]
        if not len(sequence.unread):
            sequence.unread = None
            self._scheduler.has_read(sequence)
            self._say(sequence, runner.choose(logits[None], [sequence.chooser])[0])

    def _make_room(self, runner: Runner, sequence: Sequence) -> None:
        """Before anything of the prompt is read: what is only kept gives way when nobody else has a slot."""
        assert sequence.slot is not None
        room = sequence.prompt_tokens + sequence.max_new_tokens
        try:
            runner.reserve(sequence.slot, room)
        except (MemoryError, RuntimeError):  # torch.OutOfMemoryError is a RuntimeError
            if self._scheduler.running:
                raise
            self._scheduler.forget_held(sequence)
            runner.forget()
            runner.reserve(0, room)

    def _decode(self, runner: Runner, sequences: tuple[Sequence, ...]) -> None:
        slots = [s.slot for s in sequences if s.slot is not None]
        tokens = [s.new_ids[-1] for s in sequences]
        chosen = runner.step(tokens, slots, [s.length for s in sequences], [s.chooser for s in sequences])
        for sequence, token in zip(sequences, chosen, strict=True):
            sequence.length += 1
            self._say(sequence, token)

    def _say(self, sequence: Sequence, token: int) -> None:
        """A negative token: this row's numbers are broken, its neighbours' are not."""
        if token < 0:
            self._scheduler.release(sequence, intact=False)
            sequence.fail(ValleyError("the model's numbers overflowed", "try again with --dtype float32"))
        elif reason := sequence.append(token):
            self._end(sequence, reason)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        self._scheduler.release(sequence)
        sequence.finish(reason)


def _explained(error: BaseException) -> BaseException:
    """Out of memory is the user's to mend; anything else is ours and keeps its traceback."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error):
        return RoomError(
            "out of memory while answering", "send fewer or smaller pictures, or lower --max-new-tokens or --max-pixels"
        )
    return error
