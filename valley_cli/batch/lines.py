"""The lines of a prompts file, of standard input, or of ``--images``, read lazily."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from valley_cli.api import Media
from valley_cli.descriptors import names_descriptor
from valley_cli.errors import SourceError, UsageError
from valley_cli.text import printable

MAX_LINE_BYTES = 256_000_000  # a line of several pictures as data: URIs
MAX_OBJECT_BYTES = 64_000_000  # a file that is one object over several lines
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Line:
    """``index`` counts lines that are not blank from 0, ``number`` all lines from 1 (0: of no file)."""

    index: int
    number: int
    raw: bytes
    whole: bool = True  # False: longer than MAX_LINE_BYTES, and cut there
    media: Media | None = None  # of ``--images``


@dataclass(frozen=True)
class Input:
    """Where rows come from. ``base_dir`` is where their relative paths start, ``total`` None if nobody knows it."""

    name: str
    base_dir: str
    open: Callable[[], Iterator[Line]]
    stream: BinaryIO | None = None
    total: int | None = None

    def count(self, found: Callable[[int], None]) -> None:
        """Tell ``found`` how many lines there are, from another thread, if it can be known."""
        if self.total is not None:
            found(self.total)
        elif self.stream is not None and os.path.isfile(self.name):
            threading.Thread(target=lambda: found(_count(self.name)), name="valley-count", daemon=True).start()


def open_input(path: str) -> Input:
    """The prompts file ``path``, or standard input for ``-``. Raises SourceError, UsageError."""
    if path == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(
                "- reads standard input, which is a keyboard here", "pipe the rows in: valley batch - < FILE"
            )
        stream: BinaryIO = sys.stdin.buffer
        with suppress(OSError):  # a reader of our own: Python cannot end while a thread waits in the one of sys.stdin
            stream = open(os.dup(sys.stdin.fileno()), "rb")  # noqa: SIM115
        return Input("-", ".", lambda: read_lines(stream, "-"), stream)
    if "://" in path:
        raise UsageError(f"{printable(path)}: rows are read from files only", "download it first")
    name = printable(path)
    try:
        stream = open(path, "rb")  # noqa: SIM115 - open as long as the run
        stream.peek(1)  # a folder fails here
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise SourceError(name, reason.lower(), "give a file of JSON lines, or - for standard input") from None
    folder = "" if names_descriptor(path) else os.path.dirname(path)  # rows through a pipe: as those of ``-``
    return Input(path, folder or ".", lambda: read_lines(stream, name), stream)


def input_of_images(media: tuple[Media, ...], prompt: str) -> Input:
    """A row for every picture: its name is the id, so that resuming survives pictures that come and go."""
    media = tuple(dict.fromkeys(media))  # two patterns may find the same one

    def lines() -> Iterator[Line]:
        for index, handle in enumerate(media):
            row = {"id": handle.name, "image": handle.name, "prompt": prompt}
            yield Line(index, 0, json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace"), media=handle)

    return Input("--images", ".", lines, total=len(media))


def read_lines(stream: BinaryIO, name: str, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Every line that is not blank. An object over several lines is one. Raises SourceError if reading breaks."""
    index = number = 0
    try:
        for raw, whole in _raw_lines(stream, name, max_bytes):
            number += 1
            if raw := raw.strip():
                yield Line(index, number, raw, whole)
                index += 1
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "cannot be read").lower()
        raise SourceError(printable(name), f"{reason} after line {number}") from None


def _raw_lines(stream: BinaryIO, name: str, max_bytes: int) -> Iterator[tuple[bytes, bool]]:
    first, whole = _next_line(stream, max_bytes)
    first = first.removeprefix(b"\xef\xbb\xbf")
    if first.strip() in (b"{", b"["):
        yield from _object_or_lines(first, stream, name, max_bytes)
        return
    while first:
        yield first, whole
        first, whole = _next_line(stream, max_bytes)


def _next_line(stream: BinaryIO, max_bytes: int) -> tuple[bytes, bool]:
    """(line, True), or its beginning and False if it is endless."""
    line = stream.readline(max_bytes)
    if len(line) < max_bytes or line.endswith(b"\n"):
        return line, True
    while (rest := stream.readline(_CHUNK)) and not rest.endswith(b"\n"):
        pass
    return line[:1000], False


def _object_or_lines(first: bytes, stream: BinaryIO, name: str, max_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """A file that begins with a bracket alone on its line: one JSON object, or lines of which the first is broken."""
    rest = stream.read(MAX_OBJECT_BYTES)
    found = None
    with suppress(ValueError, RecursionError):
        found = json.loads(first + rest)
    if isinstance(found, dict):
        yield first + rest, True
        return
    if isinstance(found, list):
        raise UsageError(
            f"{printable(name)} is one JSON list, not JSON lines", f"make lines of it: jq -c '.[]' {printable(name)}"
        )
    *lines, last = (first + rest).split(b"\n")
    yield from ((line, True) for line in lines)
    last_rest, whole = _next_line(stream, max_bytes)
    while last or last_rest:
        yield last + last_rest, whole
        last = b""
        last_rest, whole = _next_line(stream, max_bytes)


def _count(path: str) -> int:
    """Lines that are not blank; 0 if the file has gone."""
    with suppress(OSError), Path(path).open("rb") as file:
        return sum(1 for line in file if line.strip())
    return 0
