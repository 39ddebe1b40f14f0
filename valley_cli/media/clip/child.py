"""The parent's side of the decoding child: start it, hear it out within the time, end it. Standard library only."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from valley_cli.media.fetch.read import Cancelled

_PACKAGE_ROOT = str(Path(__file__).parents[3])
_WORKER = "valley_cli.media.clip.worker"
_POLL_S = 0.1  # how soon a cancelled wait ends
_CHUNK = 1 << 20


class ChildLostError(Exception):
    """The child ended without a last word: killed, crashed, or out of memory."""


class ChildLateError(Exception):
    """Its time is over."""


class StoppedError(Exception):
    """The caller does not want it any more."""


class Budget:
    """Seconds that may be spent waiting; time spent elsewhere does not count. A share takes from the whole as well."""

    def __init__(self, total_s: float, cancelled: Cancelled | None = None, whole: Budget | None = None) -> None:
        self.left_s = total_s
        self._cancelled, self._whole = cancelled, whole

    def share(self, seconds: float) -> Budget:
        """At most ``seconds`` of what is left."""
        return Budget(min(seconds, self.left_s), self._cancelled, self)

    def _spend(self, seconds: float) -> None:
        self.left_s -= seconds
        if self._whole is not None:
            self._whole._spend(seconds)

    def wait(self, ready: Callable[[float], bool]) -> None:
        """Wait until ``ready(seconds)``. Raises ChildLateError, StoppedError."""
        while True:
            begun = time.monotonic()
            done = ready(max(min(_POLL_S, self.left_s), 0.0))
            self._spend(time.monotonic() - begun)
            if done:
                return
            if self.left_s <= 0:
                raise ChildLateError
            if self._cancelled is not None and self._cancelled():
                raise StoppedError


class Child:
    """One decoding process, waited for within ``budget``."""

    def __init__(self, job: dict[str, Any], descriptor: int, budget: Budget) -> None:
        self.budget = budget
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(descriptor,),
            env=os.environ | {"PYTHONPATH": _python_path()},
            start_new_session=True,  # Ctrl-C is the parent's business
        )
        assert self._process.stdin
        assert self._process.stdout
        self.pid = self._process.pid
        self._in, self._out = self._process.stdin, self._process.stdout.fileno()
        self._held = bytearray()
        try:
            self._tell(json.dumps(job | {"fd": descriptor}))
        except ChildLostError:
            self.close()
            raise

    def close(self) -> None:
        """The process is gone when this returns."""
        self._process.kill()
        with suppress(OSError):  # what it was not told any more
            self._in.close()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def go(self) -> None:
        """Ask for the frames."""
        self._tell("go")

    def receive(self) -> tuple[dict[str, Any], bytes | None]:
        """What it says next, and the bytes that follow. Raises ChildLostError, ChildLateError, StoppedError."""
        message = json.loads(self._line())
        return message, self._bytes(message["bytes"]) if "bytes" in message else None

    def _tell(self, line: str) -> None:
        try:
            self._in.write(line.encode() + b"\n")
            self._in.flush()
        except OSError:
            raise ChildLostError from None

    def _line(self) -> bytes:
        while (end := self._held.find(b"\n")) < 0:
            self._held += self._read(_CHUNK)
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line

    def _bytes(self, count: int) -> bytes:
        pieces = [bytes(self._held[:count])]
        del self._held[:count]
        missing = count - len(pieces[0])
        while missing:
            pieces.append(self._read(min(_CHUNK, missing)))
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def _read(self, count: int) -> bytes:
        self.budget.wait(lambda seconds: bool(select.select([self._out], [], [], seconds)[0]))
        piece = os.read(self._out, count)
        if not piece:
            raise ChildLostError
        return piece


def _python_path() -> str:
    """This package's own place first: the child must run the same code, wherever it was imported from."""
    return os.pathsep.join(filter(None, (_PACKAGE_ROOT, os.environ.get("PYTHONPATH"))))
