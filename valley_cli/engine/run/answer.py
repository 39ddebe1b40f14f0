"""A request under way in this process: read on a thread of its own, answered by the worker's, cancelled from any.

Reading and worker write into one queue, which the iterator empties. Whoever cancels puts the end into that queue
himself: the caller waits neither for a slow address nor for the step under way, which notice soon after.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from valley_cli.api import Event, FinishReason, Stage
from valley_cli.engine.run.deadline import TimeLimit
from valley_cli.engine.run.failure import without_locals
from valley_cli.media.request import ReadTimings

if TYPE_CHECKING:
    from valley_cli.engine.schedule.sequence import Sequence

log = logging.getLogger(__name__)
_LAST_WAIT_S = 0.5  # for the thread that reads: it ends the process that decodes a clip

Item = Event | FinishReason | BaseException


class LocalAnswer:
    """``read`` makes ready what is asked and puts it in the queue; ``end`` makes the last event.

    ``counts``: False while the time limit stands still, because the model is being loaded.
    """

    def __init__(
        self,
        timeout_s: float | None,
        read: Callable[[LocalAnswer], None],
        end: Callable[[LocalAnswer, FinishReason], Event],
        counts: Callable[[], bool],
    ) -> None:
        self.began = time.perf_counter()
        self.limit = TimeLimit(timeout_s)
        self.read_timings = ReadTimings(self.given_up, self.tell)
        self.events: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.sequence: Sequence | None = None
        self.cancelled = False
        self._read, self._end, self._counts = read, end, counts
        self._reader = threading.Thread(target=self._run, name="valley-reading", daemon=True)

    def begin(self) -> LocalAnswer:
        """Start to read."""
        self._reader.start()
        return self

    def tell(self, stage: Stage) -> None:
        """A stage of what this request waits for."""
        self.events.put(stage)

    def given_up(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.cancelled or self.limit.over()

    def take(self, sequence: Sequence) -> bool:
        """From now on ``sequence`` is what is cancelled. False if that has happened: nothing is to be done."""
        self.sequence = sequence
        if self.cancelled:  # before ``cancel`` could see the sequence
            sequence.cancelled = True
        return not self.cancelled

    def cancel(self) -> None:
        """See ``base.Answer``."""
        self.cancelled = True
        if self.sequence:
            self.sequence.cancelled = True
        self.events.put("cancelled")

    def _run(self) -> None:
        try:
            with self.limit.of_reading():
                self._read(self)
        except BaseException as error:
            log.debug("a request could not be made ready: %s", error)
            self.events.put(without_locals(error))

    def _is_counted(self) -> bool:
        return self.sequence is None or self._counts()

    def __iter__(self) -> Iterator[Event]:
        try:
            while not isinstance(item := self.limit.next_of(self.events, self._is_counted), str):
                if isinstance(item, BaseException):
                    raise item
                yield item
            yield self._end(self, item)  # type: ignore[arg-type]  # every string in the queue is a FinishReason
        finally:
            self.cancel()
            self._reader.join(_LAST_WAIT_S)
