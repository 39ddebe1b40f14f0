"""How soon ``valley chat`` shows its input line: seconds from the start of the process to the line on the terminal.

    python -m benchmarks.chat [--quick]

The command runs on a pseudo-terminal that answers as terminals do; the model begins to load once the line is shown, so
none of that is in the figures. The bar is 300 ms of wall time, with a picture named on the command line and without.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from benchmarks.report import ROOT, finish

VALLEY = Path(sys.executable).with_name("valley")
BAR_S = 0.300
ASKS_WHERE = b"\x1b[6n"  # the cursor's position, before the line is drawn
LINE = re.compile(b">[\b\x1b]")  # the prompt, then a cursor move
TIME_LIMIT_S = 60.0


def main() -> None:
    repeats = 3 if "--quick" in sys.argv else 15
    picture = str(ROOT / "examples" / "star.png")
    figures: dict[str, object] = {}
    medians = []
    for name, args in (("bare", []), ("with_picture", [picture])):
        wall_s, cpu_s = zip(*[seconds_to_line(args) for _ in range(repeats)], strict=True)
        medians.append(statistics.median(wall_s))
        figures[f"{name}_s"] = round(medians[-1], 3)
        figures[f"{name}_cpu_s"] = round(statistics.median(cpu_s), 3)
        print(f"{name:<14}{medians[-1]:6.3f} s to the input line, {statistics.median(cpu_s):.3f} s of CPU")
    finish("chat", figures, {"bare_s": f"< {BAR_S}", "with_picture_s": f"< {BAR_S}"}, max(medians) < BAR_S)


def seconds_to_line(args: list[str]) -> tuple[float, float]:
    """(wall, CPU) seconds until the prompt is on the screen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
    with tempfile.TemporaryDirectory() as state:
        env = {**os.environ, "TERM": "xterm-256color", "XDG_STATE_HOME": state}
        begun = time.perf_counter()
        process = subprocess.Popen([VALLEY, "chat", *args], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        try:
            read_until_line(ours)
            return time.perf_counter() - begun, cpu_seconds(process.pid)
        finally:
            process.kill()
            process.wait()
            os.close(ours)


def read_until_line(terminal: int) -> None:
    screen = b""
    while not LINE.search(screen):
        ready, _, _ = select.select([terminal], [], [], TIME_LIMIT_S)
        assert ready, f"no input line: {screen!r}"
        screen += os.read(terminal, 65536)
        if ASKS_WHERE in screen:
            os.write(terminal, b"\x1b[3;1R")
            screen = screen.replace(ASKS_WHERE, b"")


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a running process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
