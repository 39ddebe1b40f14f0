"""Rows in flight: threads that each take the next row, work on it and hand over what came of it.

The threads read and decode media side by side while the engine batches what is ready; the one that made the pipeline
gets the outcomes, in order if it wants them so. At most ``window`` rows are between being read and being taken, so
memory does not grow with their number.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class _Finished:
    """A thread has nothing more to do; ``error`` ends the run."""

    error: BaseException | None = None


class Pipeline(Generic[In, Out]):
    """``work`` of every row, ``n_threads`` at a time. What ``work`` or ``rows`` raise ends the run."""

    def __init__(
        self, rows: Iterator[In], work: Callable[[In], Out], *, n_threads: int, window: int, ordered: bool
    ) -> None:
        self._rows = enumerate(rows)
        self._work = work
        self._n_threads = n_threads
        self._ordered = ordered
        self._reading = threading.Lock()
        self._room = threading.Semaphore(max(window, n_threads))
        self._inbox: queue.SimpleQueue[tuple[int, Out] | _Finished | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._ready: dict[int, Out] = {}

    @property
    def stopping(self) -> bool:
        """No new rows are begun; ``work`` may leave its row."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """End ``outcomes`` soon. May be called from a signal handler."""
        self._stopping.set()
        self._inbox.put(None)

    def outcomes(self, tick_s: float) -> Iterator[Out | None]:
        """What came of the rows as it comes, None about every ``tick_s``. Raises what ended the run.

        Stopped or failed, it ends with what was ready but still waited for an earlier row.
        """
        for number in range(self._n_threads):
            threading.Thread(target=self._run, name=f"valley-row-{number}", daemon=True).start()
        n_running, next_number, error = self._n_threads, 0, None
        while n_running and not self.stopping:
            try:
                item = self._inbox.get(timeout=tick_s)
            except queue.Empty:
                item = None
            if isinstance(item, _Finished):
                n_running, error = n_running - 1, error or item.error
                if item.error:
                    self.stop()
            elif item is not None:
                self._ready[item[0]] = item[1]
            while self._ready and (not self._ordered or next_number in self._ready):
                number = next_number if self._ordered else next(iter(self._ready))
                next_number += 1
                yield self._ready.pop(number)
                self._room.release()
            yield None
        yield from self._rest()
        if error:
            raise error

    def _rest(self) -> Iterator[Out]:
        self._stopping.set()
        self._room.release(self._n_threads)  # whoever waits for room sees that it is over
        while not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, tuple):
                self._ready[item[0]] = item[1]
        for number in sorted(self._ready):
            yield self._ready.pop(number)

    def _run(self) -> None:
        try:
            while (taken := self._next_row()) is not None:
                outcome = self._work(taken[1])
                self._inbox.put((taken[0], outcome))
                del taken, outcome
        except BaseException as error:
            self._inbox.put(_Finished(None if self.stopping else error))
        else:
            self._inbox.put(_Finished())

    def _next_row(self) -> tuple[int, In] | None:
        self._room.acquire()
        with self._reading:
            return None if self.stopping else next(self._rows, None)
