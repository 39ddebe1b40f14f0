"""Where records go: nowhere, a stream, or a file (``filing``) that a later run of the same command continues."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from valley_cli.batch.disk import check_no_input
from valley_cli.batch.filing import FileOutput
from valley_cli.batch.index import Index
from valley_cli.batch.records import record_line
from valley_cli.errors import ValleyError
from valley_cli.terminal.render import Renderer, StatusLine
from valley_cli.text import printable


class Output(Protocol):
    """What the run writes to. ``on_screen``: somebody watches the records come."""

    on_screen: bool

    def finished(self, key: str, place: int) -> bool | None:
        """Of a row now at ``place``: None if it has no record, else whether that is an error."""
        ...

    def write(self, found: dict[str, Any], failed: bool) -> None:
        """Append a record. Raises ValleyError if it cannot be written, BrokenPipeError if nobody reads."""
        ...

    def notices(self, settings_hash: str) -> Iterator[str]:
        """What was found there and is worth knowing before the run."""
        ...

    def sync(self) -> None:
        """Called often; brings what is written to the disk from time to time."""
        ...

    def finish(self, covers: Callable[[int], bool]) -> int:
        """All rows are there. ``covers(i)``: row i was part of this run. -> records that no row asked for, dropped."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class NoOutput:
    """For runs that write nothing."""

    on_screen = False

    def finished(self, key: str, place: int) -> bool | None:
        return None

    def write(self, found: dict[str, Any], failed: bool) -> None:
        pass

    def notices(self, settings_hash: str) -> Iterator[str]:
        return iter(())

    def sync(self) -> None:
        pass

    def finish(self, covers: Callable[[int], bool]) -> int:
        return 0

    def close(self) -> None:
        pass


class StreamOutput(NoOutput):
    """Standard output, a pipe or a device: written once, never read back."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self.on_screen = renderer.out.isatty()
        self._only_ascii = not (renderer.out.encoding or "utf-8").lower().startswith("utf")

    def write(self, found: dict[str, Any], failed: bool) -> None:
        self._renderer.write(record_line(found, only_ascii=self._only_ascii).decode())


def open_out(path: str | None, inputs: Iterable[str | int], index: Index, status: StatusLine) -> Output:
    """The file of ``-o``, or standard output, a pipe or a device. Raises as ``FileOutput`` does."""
    if path is None or path == "-":
        check_no_input(1, "standard output", inputs)
        return StreamOutput(Renderer(sys.stdout, status))
    if os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path):
        return FileOutput(path, inputs, index)
    try:
        return StreamOutput(Renderer(open(path, "w", encoding="utf-8"), status))
    except OSError as error:
        raise ValleyError(f"-o {printable(path)}: {(error.strerror or 'cannot be written').lower()}") from None
