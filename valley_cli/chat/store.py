"""Conversations on disk: each is saved by itself after every turn, in a way that no crash can tear."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from valley_cli.errors import SourceError, UsageError, ValleyError
from valley_cli.text import printable

MAX_FILE_BYTES = 500_000_000  # pictures without another source are in the file

NO_JSON = "is not a conversation in JSON"


def state_folder(environ: Mapping[str, str]) -> Path:
    """``$XDG_STATE_HOME/valley``; a relative $XDG_STATE_HOME does not count, as its standard says."""
    base = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local", "state")
    return Path(base, "valley")


def make_private(folder: Path) -> None:
    """``folder``, for this user only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def last_saved(folder: Path) -> Path | None:
    """The conversation that was saved last."""
    with suppress(OSError):
        return max(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, default=None)
    return None


def read_json(path: str) -> Any:
    """What a file holds. Raises SourceError for what cannot be read or is no JSON."""
    name = printable(path)
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SourceError(name, "is not a regular file")
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise SourceError(name, f"is larger than {MAX_FILE_BYTES / 1e6:.0f} MB")
        return json.loads(data)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None)
        raise SourceError(name, reason.lower() if reason else NO_JSON, "give a file that /save wrote") from None
    except RecursionError:
        raise SourceError(name, NO_JSON, "give a file that /save wrote") from None


def write_json(path: str, found: Mapping[str, Any], *, private: bool = False) -> None:
    """Whole or not at all: a file beside ``path`` takes its place once it is on the disk. Raises OSError.

    Devices and pipes are written to; a link stays, and the file it names is replaced. ``private``: for this user only.
    """
    data = (json.dumps(found, ensure_ascii=False, indent=2) + "\n").encode(errors="replace")
    path = os.path.realpath(path)
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        with open(path, "wb") as device:
            device.write(data)
        return
    beside = os.path.join(os.path.dirname(path), f".valley-{os.getpid()}-{time.monotonic_ns()}.part")
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, 0o600 if private else 0o666)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(beside, stat.S_IMODE(mode))
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except OSError:  # not there, or not to be looked at: then writing says why
        return None


class Autosave:
    """The file of the conversation that is going on. Two conversations never share one: whoever finds that its file
    was written by somebody else goes on in a new one."""

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self._folder = folder
        self.path = path
        self._written = self._state()

    def another(self) -> Autosave:
        """The place for another conversation."""
        return Autosave(self._folder)

    def save(self, found: Mapping[str, Any]) -> None:
        """Raises ValleyError that says why it could not be saved."""
        try:
            make_private(self._folder.parent)
            make_private(self._folder)
            if self.path is None or self._state() != self._written:
                self.path = self._new_path()
            write_json(str(self.path), found, private=True)
            self._written = self._state()
        except OSError as error:
            reason = (error.strerror or "cannot be written").lower()
            raise ValleyError(f"the conversation is not saved: {printable(str(self._folder))}: {reason}") from None

    def _new_path(self) -> Path:
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        names = (self._folder / f"{stem}{end}.json" for end in ("", *(f"-{n}" for n in range(2, 1000))))
        return next(path for path in names if not path.exists())

    def _state(self) -> tuple[int, int] | None:
        if self.path is None:
            return None
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


def save_as(path: str, found: Mapping[str, Any], *, may_replace: bool) -> None:
    """``/save``. Raises UsageError for a file that is there already and may not be replaced, ValleyError else."""
    path = os.path.expanduser(path)
    mode = _mode(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise UsageError(f"{printable(path)} is a folder", "give the name of a file in it")
    if mode is not None and stat.S_ISREG(mode) and not may_replace:
        raise UsageError(f"{printable(path)} exists", "give another name, or /save --force FILE to overwrite it")
    try:
        write_json(path, found)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a file name").lower()
        raise ValleyError(f"{printable(path)}: {reason}", "give /save another name") from None
