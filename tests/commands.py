"""The command as its users run it: installed, in a process of its own, in a pipe or on a terminal."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from valley_cli.__main__ import main

SCRIPT = Path(sys.executable).with_name("valley")
ENDED = "=== ended with "
KEYS = frozenset({"Enter", "Tab", "Up", "M-Enter", "C-c", "C-d", "C-r"})
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


def need(program: str) -> None:
    """Skip the test where ``program`` is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


class Tmux:
    """The installed command in a terminal that a script types into: a pane of a tmux server of its own."""

    def __init__(self, *args: str, env: Mapping[str, str] | None = None, cwd: Path, size_wh: tuple[int, int]) -> None:
        need("tmux")
        self._server = f"valley-test-{os.getpid()}-{id(self)}"
        whole = {name: value for name, value in environment(env).items() if name != "TMUX"}
        width, height = size_wh
        geometry = ("-x", str(width), "-y", str(height))
        # the shell tells the exit code on the screen: tmux itself does not always learn of it
        command = f"trap : INT; {shlex.join([str(SCRIPT), *args])}; echo '{ENDED}'$?; sleep 600"
        start = ("new-session", "-d", *geometry, "-c", str(cwd), "sh", "-c", command)
        self._tmux("-f", "/dev/null", *start, env=whole)

    def _tmux(self, *args: str, env: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-L", self._server, *args], capture_output=True, text=True, env=env, timeout=COLD_LIMIT_S
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def pid(self) -> int:
        """The command's process."""
        need("ps")
        shell = self._tmux("display-message", "-p", "#{pane_pid}").strip()
        lines = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        (found,) = [pid for pid, parent in map(str.split, lines.splitlines()) if parent == shell]
        return int(found)

    def type(self, *keys: str) -> None:
        """Press keys by their tmux names (``Enter``, ``C-c``); anything else is typed as it stands."""
        for key in keys:
            self._tmux("send-keys", *(() if key in KEYS else ("-l",)), key)

    def screen(self) -> str:
        """What is and was on the screen, long lines joined."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-").rstrip()

    def wait_for(self, text: str, count: int = 1) -> str:
        """Wait until ``text`` is on the screen ``count`` times; the screen."""
        end = time.monotonic() + COLD_LIMIT_S
        while (screen := self.screen()).count(text) < count:
            assert time.monotonic() < end, f"{text!r} never appeared:\n{screen}"
            time.sleep(0.05)
        return screen

    def finish(self) -> int:
        """Wait for the command's end; its exit code as shells tell it: 137 after kill -9."""
        return int(self.wait_for(ENDED).rpartition(ENDED)[2].split()[0])

    def close(self) -> None:
        """End the server and what runs in it."""
        subprocess.run(["tmux", "-L", self._server, "kill-server"], capture_output=True, timeout=COLD_LIMIT_S)

    def __enter__(self) -> Tmux:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
