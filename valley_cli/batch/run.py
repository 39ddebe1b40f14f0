"""A whole run: rows through the engine to the output, until they end or somebody stops it."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from valley_cli.api import (
    Answer,
    Done,
    Engine,
    OnStage,
    Request,
    Stage,
    TextDelta,
    ThinkDelta,
    answering,
    unheard,
)
from valley_cli.batch.index import Index
from valley_cli.batch.lines import Input
from valley_cli.batch.output import Output
from valley_cli.batch.pipeline import Pipeline
from valley_cli.batch.progress import REDRAW_S, Progress, Tally
from valley_cli.batch.records import Finished, Outcome, finish
from valley_cli.batch.rows import Row, RowReader
from valley_cli.errors import EXIT_FAILED_ROWS, DeviceError, EngineError, ModelError, RoomError, UsageError

WINDOW = 1024  # rows that may be finished while an earlier one is not


@dataclass(frozen=True)
class Plan:
    """Which rows are run, and how. ``shard`` (i, n): every n-th row, beginning with the i-th, from 1."""

    max_inflight: int = 24
    ordered: bool = True
    limit: int | None = None
    shard: tuple[int, int] = (1, 1)
    fail_fast: bool = False
    retry_failed: bool = True
    debug: bool = False

    def covers(self, index: int) -> bool:
        """Whether a row belongs to the shard."""
        return index % self.shard[1] == self.shard[0] - 1

    def count(self, total: int) -> int:
        """How many of ``total`` rows are run."""
        of_shard = len(range(self.shard[0] - 1, total, self.shard[1]))
        return of_shard if self.limit is None else min(self.limit, of_shard)


def parse_shard(text: str) -> tuple[int, int]:
    """``2/8`` -> (2, 8). Raises UsageError."""
    part, _, parts = text.partition("/")
    if not (part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--shard {text!r} is no part of a whole", "write --shard 1/4 to --shard 4/4")
    return int(part), int(parts)


class StoppedError(Exception):
    """The run was stopped while this row was under way."""


class Run:
    """Everything that a run needs is open; ``go`` is the run. ``close`` of output and engine is the caller's."""

    def __init__(
        self,
        plan: Plan,
        source: Input,
        reader: RowReader,
        engine: Engine,
        output: Output,
        index: Index,
        tally: Tally,
    ) -> None:
        self.plan = plan
        self.tally = tally
        self.source = source
        self.reader = reader
        self.engine = engine
        self._output = output
        self._index = index
        self._on_stage: OnStage = unheard
        self._answers: dict[int, Answer] = {}  # under way
        self._read_to: float = 0  # rows with a lower index were looked at
        self._pipeline = Pipeline(
            self.rows(), self.answer, n_threads=plan.max_inflight, window=WINDOW, ordered=plan.ordered
        )

    def rows(self) -> Iterator[Row]:
        """The rows still to be run."""
        n_taken = 0
        for line in self.source.open():
            if n_taken == self.plan.limit:
                return
            row = self.reader.look(line, self._index.is_new_id)
            self._read_to = line.index + 1
            if not self.plan.covers(line.index):
                continue
            n_taken += 1
            failed = self._output.finished(row.key, line.index)
            if failed is None or (failed and self.plan.retry_failed):
                yield row
            else:
                self.tally.before += 1
                self.tally.failed_before += failed
        self._read_to = float("inf")

    def answer(self, row: Row) -> Finished:
        """Run one row, in a thread of its own. Its own faults are its result; those of the run are raised."""
        request: Request | None = None
        try:
            request = self.reader.build(row)
            return finish(self._generate(row, request))
        except (StoppedError, ModelError, EngineError):
            raise
        except Exception as error:
            if isinstance(error, DeviceError) and not isinstance(error, RoomError):
                raise
            if self._pipeline.stopping:
                raise StoppedError from None
            if self.plan.debug:
                traceback.print_exc()
            return finish(Outcome(row, request, error=error))

    def _generate(self, row: Row, request: Request) -> Outcome:
        text: list[str] = []
        thinking: list[str] = []
        done: Done | None = None
        with answering(self.engine, request) as answer, self._listed(answer):
            for event in answer:
                if self._pipeline.stopping:
                    raise StoppedError
                if isinstance(event, Stage):
                    self._on_stage(event)
                elif isinstance(event, TextDelta):
                    text.append(event.text)
                elif isinstance(event, ThinkDelta):
                    thinking.append(event.text)
                else:
                    done = event
        if done is None or done.finish_reason == "cancelled":
            raise StoppedError
        return Outcome(row, request, done, "".join(text), "".join(thinking))

    @contextmanager
    def _listed(self, answer: Answer) -> Iterator[None]:
        """While ``answer`` is under way, ``stop`` cancels it."""
        self._answers[id(answer)] = answer
        try:
            yield
        finally:
            del self._answers[id(answer)]

    def stop(self) -> None:
        """End soon: rows under way are left, also while they are read. May be called from a signal handler."""
        self._pipeline.stop()
        for answer in [*self._answers.values()]:
            answer.cancel()

    def go(self, progress: Progress) -> int:
        """Run all rows; the exit code. Raises what ends the run before its end, with all that was done written."""
        self._on_stage = progress.stage
        self.source.count(lambda total: setattr(progress, "total", self.plan.count(total)))
        with signals(self.stop) as caught:
            for finished in self._pipeline.outcomes(REDRAW_S):
                if finished is None:
                    progress.tick()
                    self._output.sync()
                    continue
                if self._output.on_screen:
                    progress.clear()
                self._output.write(finished.found, finished.failed)
                self.tally.add(finished)
                if finished.complaint:
                    progress.complain(finished.complaint)
                    if self.plan.fail_fast:
                        self.stop()
            progress.clear()
            if caught:
                progress.note("valley: stopped; what was done is written")
                return 128 + caught[0]
            if not (self.plan.fail_fast and self.tally.failed):
                self._finish(progress)
        return EXIT_FAILED_ROWS if self.tally.all_failed else 0

    def _finish(self, progress: Progress) -> None:
        """Leave the output as an uninterrupted run would have."""
        stale = self._output.finish(lambda index: index < self._read_to and self.plan.covers(index))
        if stale:
            progress.note(f"valley: {stale:,} old records were dropped: their lines have changed or are gone")


@contextmanager
def signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM calls ``stop`` and stands in the list; the second ends the process at once."""
    caught: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        stop()

    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]  # nohup stays nohup
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
