"""The command in processes of its own that start in milliseconds: children of one that has imported everything.

    with Forkserver() as warm:
        child = warm.start("batch", "in.jsonl", stdout=path, stderr=path)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()     # the exit code, minus the signal's number for a child that was killed

A child is a process like any other, but for its start: it can be killed, stopped, and given limits.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.commands import environment
from valley_cli.__main__ import main

_MODULES = (
    "torch",
    "PIL.Image",
    "requests",
    "valley_cli.commands.batch",
    "valley_cli.engine.local",
    "valley_cli.engine.run.runner",
)


@dataclass
class Child:
    """A command under way."""

    pid: int
    server: Forkserver

    def wait(self) -> int:
        """The exit code, once it has ended."""
        return int(self.server.ask({"wait": self.pid})["code"])


class Forkserver:
    """Starts commands for the length of a ``with`` block."""

    def __enter__(self) -> Forkserver:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment({"HOME": os.devnull}),  # nobody's settings
            cwd=Path(__file__).parent.parent,
        )
        self.ask({})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(timeout=60)

    def ask(self, what: dict[str, Any]) -> dict[str, Any]:
        """One request, one answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self,
        *args: object,
        stdin: Path | str = os.devnull,
        stdout: Path | str = os.devnull,
        stderr: Path | str = os.devnull,
        cwd: Path | str = ".",
        max_file_bytes: int | None = None,
        user: int | None = None,
    ) -> Child:
        """``valley ARGS`` with its streams in these files (FIFOs too)."""
        streams = [str(stdin), str(stdout), str(stderr)]
        what = {"args": [str(arg) for arg in args], "streams": streams, "cwd": str(cwd)}
        return Child(self.ask(what | {"max_file_bytes": max_file_bytes, "user": user})["pid"], self)

    def run(self, *args: object, **streams: Any) -> int:
        """The same to its end; the exit code."""
        return self.start(*args, **streams).wait()


def _serve() -> None:
    for name in _MODULES:
        __import__(name)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(["batch", "--help"])  # imports what is left
    for line in sys.stdin:
        what = json.loads(line)
        answer: dict[str, Any] = {}
        if "wait" in what:
            answer["code"] = os.waitstatus_to_exitcode(os.waitpid(what["wait"], 0)[1])
        elif "args" in what:
            answer["pid"] = os.fork()
            if not answer["pid"]:
                _be_the_command(what)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _be_the_command(what: dict[str, Any]) -> None:
    """Never returns."""
    code: Any = 70
    try:
        os.setsid()
        os.chdir(what["cwd"])
        for number, name in enumerate(what["streams"]):
            fd = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - what was read ahead is not this one's
        if what["max_file_bytes"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (what["max_file_bytes"],) * 2)
        if what["user"] is not None:
            os.setuid(what["user"])
        main(what["args"])
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
