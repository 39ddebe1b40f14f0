"""README.md says what is true: its commands are CI's, its blocks are what the program prints."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.readme import BLOCK, README, output
from valley_cli.app import COMMANDS

TEXT = README.read_text(encoding="utf-8")
BLOCKS = [(found["args"], found["stdin"] or "", found["text"]) for found in BLOCK.finditer(TEXT)]


@pytest.mark.parametrize(("args", "stdin", "shown"), BLOCKS, ids=[args for args, _, _ in BLOCKS])
def test_the_blocks_are_what_the_program_prints(args: str, stdin: str, shown: str) -> None:
    assert output(args, stdin) == shown, "run `python -m tests.readme` to write the blocks anew"


def test_every_command_has_its_help_in_the_readme() -> None:
    assert {f"{name} --help" for name in COMMANDS} <= {args for args, _, _ in BLOCKS}


def test_ci_runs_the_readmes_own_test_command() -> None:
    command = next(line for line in TEXT.splitlines() if line.endswith("-m pytest"))
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()
