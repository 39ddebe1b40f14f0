"""Errors: what they are called for programs, and options that each speaker names in his own words."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import re
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from valley_cli import errors
from valley_cli.engine.hub.errors import NotFoundError, UnreachableError
from valley_cli.engine.run.failure import again
from valley_cli.engine.run.worker import broken
from valley_cli.errors import PromptError, RefusedError, SourceError, ValleyError, option, worded
from valley_cli.media.request import GivenUpError
from valley_cli.settings import TYPES, as_flags
from valley_cli.sources.transcript import read_messages
from valley_cli.terminal.render import error_record

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ValleyError)]
# Kinds that only their module needs to tell apart.
OF_MODULES: list[type[ValleyError]] = [NotFoundError, UnreachableError, GivenUpError]


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


def made(kind: type[ValleyError]) -> ValleyError:
    """An error of ``kind``, with an option in its hint."""
    if kind is GivenUpError:
        return GivenUpError()
    hint = f"leave {option('exact')} out"
    return kind("a.png", "is gone", hint) if issubclass(kind, SourceError) else kind("is gone", hint)


def test_the_tree_shows_every_kind_with_its_exit_code_and_code() -> None:
    shown = re.findall(r"^[ │├└─]*(\w+Error) +(\d) +([a-z_]+) ", errors.__doc__ or "", re.MULTILINE)
    assert shown == [(kind.__name__, str(kind.exit_code), kind.code) for kind in KINDS]


def test_kinds_that_modules_have_for_themselves_have_the_code_of_the_class_above() -> None:
    found = set()
    for path in sorted((ROOT / "valley_cli").rglob("*.py")):
        bases = "|".join(kind.__name__ for kind in KINDS)
        found |= set(re.findall(rf"^class (\w+)\((?:{bases})\)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert found - {kind.__name__ for kind in KINDS} == {kind.__name__ for kind in OF_MODULES}
    assert [kind.code for kind in OF_MODULES] == ["model", "model", "source"]


@pytest.mark.parametrize("kind", [*KINDS, *OF_MODULES], ids=lambda kind: kind.__name__)
def test_errors_travel_and_can_be_told_again(kind: type[ValleyError]) -> None:
    error = made(kind)
    error.__cause__ = ValueError("why")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), again(error)):
        assert isinstance(twin, ValleyError)
        assert twin is not error
        assert (type(twin), str(twin), twin.args, vars(twin)) == (type(error), str(error), error.args, vars(error))
        assert (twin.code, twin.exit_code) == (kind.code, kind.exit_code)


def test_an_error_that_is_placed_keeps_its_kind_and_hint() -> None:
    error = RefusedError("a.png", f"needs {option('frames')}", f"raise {option('max_pixels')}")
    placed = error.placed("messages[2]")
    assert (type(placed), placed.code, placed.hint) == (RefusedError, "refused", error.hint)
    assert as_flags(placed.message) == "messages[2]: a.png: needs --frames"
    assert str(placed) == "messages[2]: a.png: needs frames"
    assert str(pickle.loads(pickle.dumps(placed))) == str(placed)
    assert str(error) == "a.png: needs frames"


def test_a_message_at_fault_is_named_and_its_error_stays_of_its_kind() -> None:
    def refuse(source: str, kind: object) -> tuple[()]:
        raise PromptError(f"no room for {source}", "a hint")

    with pytest.raises(PromptError, match=r"^messages\[0\]: no room for a\.png$") as caught:
        read_messages([{"role": "user", "content": "?", "images": ["a.png"]}], refuse)
    assert (caught.value.code, caught.value.hint) == ("prompt", "a hint")


def test_a_record_of_an_error_has_its_code() -> None:
    found = error_record(made(RefusedError), ["a.png"])
    assert found == {
        "sources": ["a.png"],
        "error": {"type": "RefusedError", "code": "refused", "message": "a.png: is gone"},
    }
    assert json.loads(json.dumps(found)) == found


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
