"""The generated blocks of README.md: ``python -m tests.readme`` writes them, a test compares them.

A block is introduced by a comment, ``<!-- run: valley describe examples/star.png -->`` or
``<!-- run: printf 'What is it?\\n' | valley chat examples/star.png -->``, and is what the command prints on stdout, run
from the repository's root.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys

from tests.conftest import ROOT
from valley_cli.__main__ import main

README = ROOT / "README.md"
BLOCK = re.compile(
    r"(?P<mark><!-- run: (?:printf '(?P<stdin>[^'\n]*)' \| )?valley (?P<args>[^\n]*) -->\n```text\n)"
    r"(?P<text>.*?)(?P<end>```)",
    re.S,
)


def output(args: str, stdin: str = "") -> str:
    """What ``printf STDIN | valley ARGS`` prints on stdout, 80 columns wide."""
    out = io.StringIO()
    os.environ["COLUMNS"] = "80"
    here, keyboard = os.getcwd(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.replace("\\n", "\n").encode()))
    os.chdir(ROOT)
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main(shlex.split(args))
    finally:
        sys.stdin = keyboard
        os.chdir(here)
        del os.environ["COLUMNS"]
    return out.getvalue()


def generated(text: str) -> str:
    """``text`` with every block as the program prints it now."""
    return BLOCK.sub(lambda found: found["mark"] + output(found["args"], found["stdin"] or "") + found["end"], text)


if __name__ == "__main__":
    README.write_text(generated(README.read_text(encoding="utf-8")), encoding="utf-8")
