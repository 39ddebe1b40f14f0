"""How long a request may take. Standard library only."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from valley_cli.errors import SourceError, TimedOutError

_POLL_S = 0.05


class TimeLimit:
    """``seconds`` from now, None for ever."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def over(self) -> bool:
        """True once the time is up."""
        return self._end is not None and time.monotonic() > self._end

    def check(self) -> None:
        """Raises TimedOutError once the time is up."""
        if self.over():
            raise TimedOutError(f"took longer than {self.seconds:g} s")

    @contextmanager
    def of_reading(self) -> Iterator[None]:
        """A source that was given up because ``over`` said so is no fault of the source's. Raises TimedOutError."""
        try:
            yield
        except SourceError:
            self.check()
            raise

    def next_of(self, items: queue.SimpleQueue[Any], counts: Callable[[], bool]) -> Any:
        """``items.get()`` within the limit; time does not count while ``counts()`` is False. Raises TimedOutError."""
        if self._end is None:
            return items.get()
        while True:
            self.check()
            begun = time.monotonic()
            try:
                return items.get(timeout=_POLL_S)
            except queue.Empty:
                if not counts():
                    self._end += time.monotonic() - begun
