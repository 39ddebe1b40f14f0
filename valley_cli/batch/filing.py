"""The file of ``-o``: records that survive whatever ends a run, and that the same command continues.

the file     one record a line, written whole and at once; a torn last line is what a crash leaves, and is dropped
the lock     on the file itself, so that it goes with its process
finish()     puts a continued file in order in a copy that replaces it: at every moment one of the two is whole
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from valley_cli.batch.disk import check_no_input, lock, sync_folder, write_whole
from valley_cli.batch.index import Index, Stored
from valley_cli.batch.records import read_record, record_line
from valley_cli.errors import UsageError, ValleyError
from valley_cli.text import printable

SYNC_S = 5.0  # at most this much work is lost with the power
_TORN = re.compile(rb'\{"id":("([^"\\]|\\.)*"|[\w.+-]+),"index":[0-9]')
_START = b'{"id":'


class FileOutput:
    """A file of records. ``before``: how many of them were there, by the hash of their settings; ``torn``: and a piece.

    Raises UsageError if ``path`` is one of ``inputs`` or holds anything that is no record, ValleyError if it cannot
    be read and written or another process writes to it.
    """

    on_screen = False

    def __init__(self, path: str, inputs: Iterable[str | int], index: Index) -> None:
        self.name, self._path = printable(path), os.path.realpath(path)
        self._index = index
        self._is_new = not os.path.lexists(path)
        self._superseded = self._dirty = False
        self._synced_at = time.monotonic()
        self.before: Counter[str] = Counter()
        self.torn = False
        self._fd = self._open_locked()
        try:
            check_no_input(self._fd, f"-o {self.name}", inputs)
            self._size = self._scan()
            with suppress(OSError):
                os.unlink(self._copy)  # left by a run that was killed while it put the file in order
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def _copy(self) -> str:
        folder, name = os.path.split(self._path)
        return os.path.join(folder, f".{name}.tidy")

    def _open_locked(self) -> int:
        while True:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            except (OSError, ValueError) as error:
                raise self._failure(error, "give -o another name") from None
            if not lock(fd):
                os.close(fd)
                raise ValleyError(
                    f"{self.name} is being written by another run", "wait for it, or give -o another name"
                )
            with suppress(OSError):
                if os.path.samestat(os.fstat(fd), os.stat(self._path)):
                    return fd
            os.close(fd)  # replaced by another run between opening and locking

    def notices(self, settings_hash: str) -> Iterator[str]:
        if self.torn:
            yield f"{self.name}: a torn last line was dropped; its row is run again"
        if (total := self.before.total()) and not self.before[settings_hash]:
            yield (
                f"{self.name} holds {total:,} records of another model or of other settings; their rows are run anew, "
                "and the old records go when all is done"
            )
        elif total:
            yield f"{self.name} holds {total:,} records; the run goes on from there"

    def _scan(self) -> int:
        """Index the records; the size of what is whole. What a crash left behind that is cut off."""
        size = number = 0
        with open(self._fd, "rb", closefd=False) as file:
            for line in file:
                number += 1
                if not line.endswith(b"\n"):
                    self._drop_torn(line, size)
                    break
                if line.strip():
                    self._take(line, size, number)
                else:
                    self._superseded = True
                size += len(line)
        return size

    def _take(self, line: bytes, at: int, number: int) -> None:
        kept = read_record(line)
        if kept is None:
            raise UsageError(
                f"{self.name} was not written by valley batch (line {number} is no record)",
                "give -o another name, or take that line out",
            )
        self.before[kept.key.partition("-")[0]] += 1
        stored = Stored(at, len(line), kept.failed, kept.index, None)
        self._superseded |= self._index.put(kept.key, stored)

    def _drop_torn(self, line: bytes, size: int) -> None:
        ours = size or _TORN.match(line) or _START.startswith(line)
        if not ours or (not size and read_record(line) is None and _is_json(line)):
            raise UsageError(f"{self.name} was not written by valley batch", "give -o another name")
        self.torn = True
        os.ftruncate(self._fd, size)

    def finished(self, key: str, place: int) -> bool | None:
        stored = self._index.find(key)
        if stored is None:
            return None
        self._index.see(key, place)
        return stored.failed

    def write(self, found: dict[str, Any], failed: bool) -> None:
        line = record_line(found)
        try:
            os.lseek(self._fd, self._size, os.SEEK_SET)
            write_whole(self._fd, line)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
                os.fsync(self._fd)
            hint = "every finished row is in it: make room, and the same command goes on from there"
            raise self._failure(error, hint) from None
        stored = Stored(self._size, len(line), failed, found["index"], found["index"])
        self._superseded |= self._index.put(found["key"], stored)
        self._size += len(line)
        self._dirty = True

    def sync(self) -> None:
        if self._dirty and time.monotonic() - self._synced_at > SYNC_S:
            self._sync()

    def _sync(self) -> None:
        self._dirty, self._synced_at = False, time.monotonic()
        with suppress(OSError):  # not every file system can
            os.fsync(self._fd)

    def finish(self, covers: Callable[[int], bool]) -> int:
        if not self.before:
            return 0
        stale = sum(map(covers, self._index.unseen()))
        if stale or self._superseded or not self._in_order():
            try:
                self._put_in_order(covers)
            except OSError as error:
                with suppress(OSError):
                    os.unlink(self._copy)
                hint = "every row is in it all the same: make room, and the same command puts it in order"
                raise self._failure(error, hint) from None
        return stale

    def _in_order(self) -> bool:
        last = -1
        for stored in self._index.in_order("at"):
            place = stored.said_index if stored.place is None else stored.place
            if place <= last or place != stored.said_index:
                return False
            last = place
        return True

    def _put_in_order(self, covers: Callable[[int], bool]) -> None:
        mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        copy = os.open(self._copy, flags, mode)
        try:
            lock(copy)
            with suppress(OSError):
                os.fchmod(copy, mode)
            with open(copy, "wb", closefd=False) as file:
                for stored in self._index.in_order():
                    if stored.place is not None or not covers(stored.said_index):
                        file.write(self._read(stored))
            os.fsync(copy)
            os.replace(self._copy, self._path)
        except BaseException:
            os.close(copy)
            raise
        os.close(self._fd)
        self._fd = copy
        sync_folder(os.path.dirname(self._path))

    def _read(self, stored: Stored) -> bytes:
        """A record's line, with the place its row has now."""
        os.lseek(self._fd, stored.at, os.SEEK_SET)
        line = b""
        while len(line) < stored.size and (piece := os.read(self._fd, stored.size - len(line))):
            line += piece
        if stored.place in (None, stored.said_index):
            return line
        kept = read_record(line)
        assert kept is not None
        return record_line({**kept.found, "index": stored.place})

    def close(self) -> None:
        if self._dirty:
            self._sync()
        if self._is_new and not self._size:
            with suppress(OSError):
                os.unlink(self._path)
        os.close(self._fd)

    def _failure(self, error: Exception, hint: str) -> ValleyError:
        reason = (getattr(error, "strerror", None) or "not a file name").lower()
        return ValleyError(f"-o {self.name}: {reason}", hint)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
