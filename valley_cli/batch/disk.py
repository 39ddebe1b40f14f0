"""What the system does for files: locks, whole writes, lasting renames. Nothing here knows about records."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from valley_cli.errors import UsageError


def check_no_input(fd: int, name: str, inputs: Iterable[str | int]) -> None:
    """Raises UsageError if ``fd`` is a file that is read, too."""
    for source in inputs:
        with suppress(OSError, ValueError):
            state = os.fstat(fd)
            if stat.S_ISREG(state.st_mode) and os.path.samestat(state, os.stat(source)):
                raise UsageError(f"{name} is one of the inputs", "give -o another name")


def lock(fd: int) -> bool:
    """False if another process holds it. Where there are no such locks, nobody is kept out."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def write_whole(fd: int, data: bytes) -> None:
    """``os.write`` until all is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(path: str) -> None:
    """Make a rename last."""
    with suppress(OSError):
        fd = os.open(path or ".", os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
