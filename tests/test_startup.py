"""Help is cheap: it imports nothing heavy, whichever command it is about."""

from __future__ import annotations

import subprocess
import sys

import pytest

from valley_cli.app import COMMANDS

HEAVY = ("torch", "numpy", "transformers", "rich", "PIL", "requests", "huggingface_hub", "tokenizers", "jinja2")
CODE = """
import sys
from valley_cli.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
print("IMPORTED", *[name for name in %r if name in sys.modules])
"""


@pytest.mark.parametrize("args", [["--help"], ["--version"], *[[name, "--help"] for name in COMMANDS]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", CODE % (HEAVY,), *args], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "IMPORTED"


def test_the_input_line_of_a_chat_needs_nothing_heavy() -> None:
    code = f"import sys, valley_cli.commands.chat, valley_cli.chat.terminal; print(set({HEAVY}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n"
