"""The command as its users run it: installed, in a process of its own, in a pipe or on a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from valley_cli.__main__ import main

SCRIPT = Path(sys.executable).with_name("valley")
COLD_LIMIT_S = 120  # for slow, busy machines; a cold start costs about 5 CPU seconds


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The test's own environment, with ``extra``."""
    return {**os.environ, **(extra or {})}


def cold(
    *args: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the installed command in pipes, to its end."""
    return subprocess.run(
        [SCRIPT, *args], input=stdin, capture_output=True, env=environment(env), cwd=cwd, timeout=COLD_LIMIT_S
    )


class Terminal:
    """The installed command on a pseudo-terminal, stdout and stderr both on the screen."""

    def __init__(self, *args: str, env: Mapping[str, str] | None = None) -> None:
        ours, theirs = pty.openpty()
        self.screen = b""
        self._fd = ours
        self.process = subprocess.Popen(
            [SCRIPT, *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment({"TERM": "xterm-256color"} | dict(env or {})),
            start_new_session=True,
        )
        os.close(theirs)

    def read_until(self, marker: bytes) -> None:
        """Read until ``marker`` has appeared on the screen."""
        while marker not in self.screen:
            assert self._read(), f"{marker!r} never appeared: {self.screen!r}"

    def read_more(self, count: int) -> None:
        """Read at least ``count`` bytes more."""
        wanted = len(self.screen) + count
        while len(self.screen) < wanted:
            assert self._read(), f"it ended: {self.screen!r}"

    def _read(self) -> bool:
        """Add what appears next; False at the program's end."""
        ready, _, _ = select.select([self._fd], [], [], COLD_LIMIT_S)
        assert ready, f"nothing more appeared: {self.screen!r}"
        try:
            piece = os.read(self._fd, 65536)
        except OSError:  # Linux: the other side is gone
            return False
        self.screen += piece
        return bool(piece)

    def finish(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        code = self.process.wait(timeout=COLD_LIMIT_S)
        os.close(self._fd)
        return code


def inside(*args: str) -> int:
    """Run the command in this process; the exit code. stdout and stderr are whatever pytest captures."""
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    return int(stopped.value.code or 0)
