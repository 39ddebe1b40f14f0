"""Where ``-o`` sends an answer, and what it must never write over."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from valley_cli.errors import UsageError, ValleyError
from valley_cli.text import SNIFF_BYTES, printable, sniff


class _Patient(io.FileIO):
    """A file that keeps what it holds until the first write."""

    written = False

    def __init__(self, path: str) -> None:
        super().__init__(path, "w", opener=lambda name, flags: os.open(name, flags & ~os.O_TRUNC, 0o666))

    def write(self, data: Any, /) -> int:
        if not self.written and stat.S_ISREG(os.fstat(self.fileno()).st_mode):
            self.truncate(0)
        self.written = True
        return super().write(data)


@contextmanager
def open_output(path: str | None, force: bool, inputs: Iterable[str | int]) -> Iterator[TextIO]:
    """stdout, or the file of ``-o``; if nothing comes to be written, that file stays as it was, or away.

    ``inputs`` are the paths and descriptors that are read. Raises UsageError if the file is one of them, or holds
    something that is no text, or holds something and ``force`` is not given.
    """
    if path is None or path == "-":
        yield sys.stdout
        return
    is_new = not os.path.lexists(path)
    try:
        file = _Patient(path)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a file name").lower()
        raise ValleyError(f"-o {printable(path)}: {reason}", "give -o another name") from None
    stream = io.TextIOWrapper(io.BufferedWriter(file), encoding="utf-8", errors="replace")
    try:
        _check_ours(file, path, force, inputs)
        yield stream
    finally:
        with suppress(OSError):  # every write was flushed: what failed then has been said
            stream.close()
        if is_new and not file.written:
            with suppress(OSError):
                os.unlink(path)


def _check_ours(file: _Patient, path: str, force: bool, inputs: Iterable[str | int]) -> None:
    """Devices and pipes are written to, empty files too; other files only with ``force``, and never an input."""
    state, name = os.fstat(file.fileno()), printable(path)
    if not stat.S_ISREG(state.st_mode):
        return
    for source in inputs:
        with suppress(OSError, ValueError):
            if os.path.samestat(state, os.stat(source)):
                raise UsageError(f"-o {name} is one of the inputs", "give -o another name")
    if not state.st_size:
        return
    if not force:
        raise UsageError(f"{name} exists", "give another name, or add --force to overwrite it")
    with open(path, "rb") as old:
        if sniff(old.read(SNIFF_BYTES)) not in ("text", "html", "svg"):
            raise UsageError(f"{name} is not text, so --force does not overwrite it", "give -o another name")
