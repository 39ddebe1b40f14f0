"""The engine, opened and loaded in the background while the first question is typed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from valley_cli.api import Engine


class Opening:
    """An engine that is on its way once ``start`` was called, on a thread that nothing waits for at the program's end.

    ``on_end`` is called, on that thread, when the engine is here or has failed.
    """

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        self.on_end: Callable[[], None] = lambda: None
        self._open = open_engine
        self._found: Future[Engine] = Future()
        self._thread = threading.Thread(target=self._run, name="valley-opening", daemon=True)
        self._begun = False

    def start(self) -> None:
        """Begin, if that has not been done. From one thread only."""
        if not self._begun:
            self._begun = True
            self._thread.start()

    def _run(self) -> None:
        try:
            self._found.set_result(self._open())
        except BaseException as error:
            self._found.set_exception(error)
        self.on_end()

    @property
    def error(self) -> BaseException | None:
        """Why there is no engine; None while that is not known."""
        return self._found.exception() if self._found.done() else None

    @property
    def engine(self) -> Engine | None:
        """The engine, if it is here."""
        return None if not self._found.done() or self.error else self._found.result()

    def result(self) -> Engine:
        """Wait for the engine; Ctrl-C ends the wait. Raises what opening it raised."""
        self.start()
        return self._found.result()
