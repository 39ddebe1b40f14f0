"""Errors: what they are called for programs, and options that each speaker names in his own words."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from valley_cli import errors
from valley_cli.engine.run.failure import again
from valley_cli.engine.run.worker import broken
from valley_cli.errors import PromptError, SourceError, UsageError, ValleyError, option, worded
from valley_cli.settings import TYPES, as_flags

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ValleyError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_has_a_name_for_programs(kind: type[ValleyError]) -> None:
    assert re.fullmatch("[a-z_]+", kind.code)
    assert [other for other in KINDS if other.code == kind.code] == [kind]


def test_each_says_options_in_his_own_words() -> None:
    error = PromptError(f"{option('frames')} is 0", f"raise {option('max_pixels')}")
    assert str(error) == "frames is 0"
    assert as_flags(f"{error.message}, {error.hint}") == "--frames is 0, raise --max-pixels"
    assert worded(str(error.hint), lambda name: f"<{name}>") == "raise <max_pixels>"
    assert as_flags("a file named {max_pixels} or --max_pixels") == "a file named {max_pixels} or --max_pixels"


@pytest.mark.parametrize("error", [UsageError("a", "b"), ValleyError(f"leave {option('exact')} out")])
def test_errors_travel_and_can_be_told_again(error: ValleyError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), again(error)):
        assert isinstance(twin, ValleyError)
        assert (type(twin), str(twin), twin.hint) == (type(error), str(error), error.hint)
    assert str(again(SourceError("a.png", "is gone"))) == "a.png: is gone"


class WordlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_engine_that_broke_says_so_even_where_the_reason_has_no_words() -> None:
    assert "WordlessError" in str(broken(WordlessError()))


def texts(folder: str) -> Iterator[tuple[str, str]]:
    """(place, text) of every string literal but docstrings."""
    for path in sorted((ROOT / "valley_cli" / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                yield f"{path.name}:{node.lineno}", node.value


@pytest.mark.parametrize("folder", ["engine", "media"])
def test_the_words_of_flags_stand_in_commands(folder: str) -> None:
    assert [place for place, text in texts(folder) if re.search(r"--[a-z]", text)] == []


def test_every_option_that_an_error_names_is_one() -> None:
    own = {"engine", "frames", "fps", "max_frames", "at", "start", "end"}  # of single commands
    for folder in ("engine", "media"):
        for path in sorted((ROOT / "valley_cli" / folder).rglob("*.py")):
            named = re.findall(r"""(?<!def )\boption\(['"](\w+)['"]\)""", path.read_text(encoding="utf-8"))
            assert set(named) <= own | set(TYPES), path.name
