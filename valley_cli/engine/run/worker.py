"""The one thread that owns the model: takes sequences from any thread, runs the scheduler's steps, sends tokens."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from valley_cli.api import FinishReason, OnStage, Stage
from valley_cli.engine.run.budget import LESS, Budget, ran_out_of_memory
from valley_cli.engine.run.failure import again, without_locals
from valley_cli.engine.run.unread import Piece, Unread
from valley_cli.engine.schedule.scheduler import Scheduler, Step
from valley_cli.engine.schedule.sequence import Sequence
from valley_cli.engine.schedule.slots import SlotAllocator
from valley_cli.errors import EngineError, RoomError, ValleyError, option
from valley_cli.text import printable

if TYPE_CHECKING:
    from valley_cli.engine.run.runner import Runner
    from valley_cli.engine.run.sampler import SamplerState

log = logging.getLogger(__name__)
MAX_RUNNING = 64
# Of a prompt, read at once, so that others, and whoever cancels, wait for no more than that. It bounds activations too
# (benchmarks/prefill_memory.py says by how much): 0.7 GB for 32,768 tokens of Valley2 on CUDA; at once, 7 GB.
PIECE_TOKENS = {"cpu": 512, "cuda": 2048}


@dataclass
class _Stop:
    """Put into the inbox to end the thread."""


class Worker:
    """Starts loading at once, so that the caller can read pictures meanwhile."""

    def __init__(self, load: Callable[[OnStage], Runner]) -> None:
        self.load_s = 0.0
        self.memory_bytes = 0
        self._load = load
        self._loaded_at = 0.0
        self._inbox: queue.SimpleQueue[Sequence | _Stop] = queue.SimpleQueue()
        self._scheduler = Scheduler(SlotAllocator(0), MAX_RUNNING)
        self._closed = False
        self._failure: BaseException | None = None  # what ended the thread
        self._unanswered: set[Sequence] = set()
        self._listeners: list[OnStage] = []
        self._loading: Stage | None = Stage("loading the model")  # None: it is loaded
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="valley-engine", daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; its events say the rest: at once, where the thread has failed. Raises ValleyError after
        ``close``."""
        with self._lock:
            if self._closed:
                raise ValleyError("the engine was closed")
            sequence.arrived_at = time.perf_counter()
            if self._failure:
                sequence.fail(again(self._failure))
                return
            self._unanswered.add(sequence)
            if self._loading:
                sequence.events.put(self._loading)
            self._inbox.put(sequence)

    def listen(self, on_stage: OnStage) -> None:
        """``on_stage`` hears of the stages of loading, on the worker's thread."""
        with self._lock:
            self._listeners.append(on_stage)

    def _tell(self, stage: Stage) -> None:
        """A stage of loading, which everybody waits for."""
        with self._lock:
            self._loading, listeners = stage, [*self._listeners]
            for sequence in self._unanswered:
                sequence.events.put(stage)
        for listener in listeners:
            listener(stage)

    def close(self) -> None:
        """End the thread; sequences still there finish as ``cancelled``."""
        with self._lock:
            self._closed = True
            self._inbox.put(_Stop())
        self._thread.join()

    def _run(self) -> None:
        """Whatever goes wrong, and wherever: no caller may wait for ever."""
        try:
            self._serve()
        except BaseException as error:
            self._give_up(without_locals(error))

    def _serve(self) -> None:
        start = time.perf_counter()
        budget = Budget(self._load(self._tell), self._scheduler)
        with self._lock:
            self._loading, self._listeners = None, []
        self._scheduler.piece_tokens = PIECE_TOKENS[budget.runner.device.type]
        self._loaded_at = time.perf_counter()
        self.load_s = self._loaded_at - start
        log.info("loaded in %.2f s; the cache may hold %d tokens", self.load_s, budget.most_tokens)
        while self._take_new(budget):
            for sequence in self._scheduler.cancelled():
                self._end(sequence, "cancelled")
            self._step(budget, self._scheduler.next_step())
        for sequence in self._scheduler.everyone():
            self._end(sequence, "cancelled")

    def _give_up(self, error: BaseException) -> None:
        """The thread ends: every request, now and later, gets the reason."""
        failure = error if isinstance(error, ValleyError) else broken(error)
        log.info("the engine ends: %s", failure, exc_info=error)
        with self._lock:
            self._failure = failure
            for sequence in self._unanswered:
                sequence.fail(again(failure))
            self._unanswered.clear()

    def _step(self, budget: Budget, step: Step) -> None:
        """Take ``step``; what goes wrong in it fails those who took it and nobody else."""
        first = next(iter(self._scheduler.waiting), None)
        try:
            if step.prefill:
                self._prefill(budget.runner, step.prefill)
            elif step.decode:
                self._decode(budget.runner, step.decode)
                budget.on_good_step()
            elif first and (refusal := budget.grow_for(first)):
                self._fail(first, refusal)
            return
        except (Exception, KeyboardInterrupt) as error:  # Python's own Ctrl-C never comes to this thread
            failure: BaseException = without_locals(error)
            log.info(
                "a step of %d prompts and %d answers failed", len(step.prefill), len(step.decode), exc_info=failure
            )
        if ran_out_of_memory(failure) and budget.on_out_of_memory():
            for sequence in self._scheduler.everyone():
                sequence.sampler = None  # nobody knows what it drew in the step that failed
            for sequence in reversed(step.prefill):  # the first to come is the first again
                if sequence.slot and sequence.unread is None:  # where it continues from may be gone
                    self._scheduler.preempt(sequence)
        elif len(step.prefill) > 1:  # one of them is at fault: each is tried alone
            for sequence in reversed(step.prefill):
                if sequence.slot:  # else it has ended
                    sequence.reads_alone, sequence.sampler = True, None
                    self._scheduler.preempt(sequence)
        else:
            for sequence in step.prefill or step.decode or ((first,) if first else ()):
                self._fail(sequence, failure)

    def _fail(self, sequence: Sequence, error: BaseException) -> None:
        self._scheduler.release(sequence, intact=False)
        sequence.fail(again(_explained(error)))
        self._unanswered.discard(sequence)

    def _take_new(self, budget: Budget) -> bool:
        """Move arrivals to the scheduler, waiting for one when there is nothing to do. False: time to stop."""
        while self._scheduler.idle or not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, _Stop):
                return False
            if self._scheduler.waiting or self._scheduler.active:
                item.events.put(Stage("waiting"))
            self._scheduler.add(item)
            if refusal := budget.refusal(item):
                self._fail(item, refusal)
        return True

    def _prefill(self, runner: Runner, sequences: tuple[Sequence, ...]) -> None:
        """Of each prompt what is left, of the first no more than a piece."""
        self._begin(runner, [sequence for sequence in sequences if sequence.unread is None])
        most = self._scheduler.piece_tokens
        split = [(s, s.unread[:most], s.unread[most:]) for s in sequences if s.unread is not None]
        logits = runner.prefill_pieces([Piece(s.slot, piece, s.length) for s, piece, _ in split if s.slot])
        self.memory_bytes = runner.memory_bytes
        whole = [number for number, (_, _, rest) in enumerate(split) if not len(rest)]
        samplers = [self._sampler(runner, split[number][0]) for number in whole]
        tokens = runner.sample(logits[whole], samplers) if whole else []
        for sequence, piece, rest in split:  # only now: memory may have run out, and then the piece is read again
            sequence.length += len(piece)
            sequence.unread = rest if len(rest) else None
        for number, token in zip(whole, tokens, strict=True):
            self._scheduler.start_decoding(split[number][0])
            self._emit(split[number][0], token)

    def _begin(self, runner: Runner, sequences: list[Sequence]) -> None:
        """Find what of the prompts is known and encode the rest; their ``payload`` stays, in case it must be read
        again."""
        if not sequences:
            return
        begun, prompts = time.perf_counter(), []
        for sequence in sequences:
            assert sequence.payload is not None
            assert sequence.slot is not None
            sequence.wait_s = sequence.wait_s or begun - max(sequence.arrived_at, self._loaded_at)
            sequence.events.put(Stage("reading the prompt"))
            log.debug(
                "request %d: %d tokens, %d of them known", sequence.number, sequence.prompt_tokens, sequence.length
            )
            runner.attach_slot(sequence.slot, sequence.reused_tokens, sequence.source)
            sequence.source, prepared = None, sequence.payload
            units, items = prepared.units, prepared.items
            prompts.append(Unread(units, items, sequence.reused_units, sequence.new_ids, prepared.prompt_tokens))

        def tell(stage: Stage) -> None:
            for sequence in sequences:
                sequence.events.put(stage)

        start = time.perf_counter()
        for sequence, unread in zip(sequences, runner.embed_prompts(prompts, tell), strict=True):
            sequence.unread = unread
        for sequence in sequences:
            sequence.encode_s += (time.perf_counter() - start) / len(sequences)

    def _decode(self, runner: Runner, sequences: tuple[Sequence, ...]) -> None:
        slots = [s.slot for s in sequences if s.slot]
        tokens, lengths = [s.new_ids[-1] for s in sequences], [s.length for s in sequences]
        chosen = runner.step(tokens, slots, lengths, [self._sampler(runner, s) for s in sequences])
        for sequence, token in zip(sequences, chosen, strict=True):
            sequence.length += 1
            self._emit(sequence, token)

    def _sampler(self, runner: Runner, sequence: Sequence) -> SamplerState:
        """The sequence's own, made anew where memory ran out while it chose: it goes on where it was."""
        if sequence.sampler is None:
            if sequence.sampling.seed is None:
                sequence.sampling = replace(sequence.sampling, seed=random.getrandbits(63))
            said = sequence.new_ids
            sequence.sampler = runner.sampler(sequence.sampling, (*sequence.prompt_ids, *said), len(said))
        return sequence.sampler

    def _emit(self, sequence: Sequence, token: int) -> None:
        """A negative token: this row's numbers are broken, its neighbours' are not."""
        if token < 0:
            self._fail(
                sequence, ValleyError("the model's numbers overflowed", f"try again with {option('dtype')} float32")
            )
        elif reason := sequence.append(token):
            self._end(sequence, reason)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        self._scheduler.release(sequence)
        log.debug("request %d: %s after %d tokens", sequence.number, reason, len(sequence.new_ids))
        sequence.finish(reason)
        self._unanswered.discard(sequence)


def broken(error: BaseException) -> EngineError:
    """What callers are told of an ``error`` that nobody foresaw."""
    try:
        said = printable(str(error))
    except Exception:  # its own words broke as well
        said = "no words of its own"
    found = EngineError(f"the engine broke: {type(error).__name__}: {said}", "run the command again")
    found.__cause__ = error
    return found


def _explained(error: BaseException) -> BaseException:
    """Out of memory is the user's to mend; anything else is ours and keeps its traceback."""
    return RoomError("out of memory while answering", LESS) if ran_out_of_memory(error) else error
