"""Options: flag > variable > file > default, each error named by where the value came from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from tests.conftest import ROOT
from valley_cli.api import EngineOptions, Request, Sampling
from valley_cli.batch.rows import RowReader
from valley_cli.errors import UsageError
from valley_cli.settings import ANSWER_KEYS, TYPES, Settings, config_path, load_settings


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "valley").mkdir()
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def write(home: dict[str, str], text: str) -> None:
    (Path(home["XDG_CONFIG_HOME"]) / "valley" / "config.toml").write_text(text)


def test_flag_beats_variable_beats_file_beats_default(home: dict[str, str]) -> None:
    assert load_settings({}, home).top_k == Settings.top_k
    write(home, "top_k = 3\nmodel = 'a'\nstop = ['x', 'y']\n")
    assert load_settings({}, home).top_k == 3
    assert load_settings({}, home).stop == ("x", "y")
    environment = home | {"VALLEY_TOP_K": "4"}
    assert load_settings({}, environment).top_k == 4
    found = load_settings({"top_k": 5, "seed": None}, environment)
    assert found.top_k == 5
    assert found.origins["top_k"] == "--top-k"
    assert found.origins["model"].endswith("config.toml: model")


def test_every_option_has_a_variable(home: dict[str, str]) -> None:
    samples = {"bool": "yes", "int": "1000", "float": "0.5", "str": "x", "tuple[str, ...]": "x"}
    for name, kind in TYPES.items():
        kind = kind.removesuffix(" | None")
        special = {"dtype": "float32", "editing_mode": "vi", "flavour": "github", "retries": "7", "max_redirects": "7"}
        value = special.get(name) or samples[kind]
        found = load_settings({}, home | {f"VALLEY_{name.upper()}": value})
        assert getattr(found, name) != getattr(Settings(), name), name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("top_p = 2.0", "config.toml: top_p: 2.0 is not between"),
        ("temprature = 1", "did you mean temperature"),
        ("offline = 'perhaps'", "not true or false"),
        ("max_new_tokens = 1.5", "not a whole number"),
        ("model = 3", "not a text"),
        ("stop = ''", "none empty"),
        ("stop = [1, 2]", "none empty"),
        ("max_new_tokens = 0", "not between 1 and 1000000"),
        ("[describe]", "the keys are: model"),
        ("= nonsense", "config.toml"),
    ],
)
def test_a_bad_file_is_named_with_the_key(home: dict[str, str], text: str, words: str) -> None:
    write(home, text)
    with pytest.raises(UsageError) as caught:
        load_settings({}, home)
    assert words in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("value", ["nan", "-1", "warm"])
def test_a_bad_variable_is_named(home: dict[str, str], value: str) -> None:
    with pytest.raises(UsageError, match="VALLEY_TEMPERATURE"):
        load_settings({}, home | {"VALLEY_TEMPERATURE": value})


def test_an_empty_variable_is_not_set(home: dict[str, str]) -> None:
    names = {f"VALLEY_{name.upper()}": "" for name in TYPES}
    assert load_settings({}, home | names) == load_settings({}, home)


def test_a_place_without_a_file_is_no_error(tmp_path: Path) -> None:
    (tmp_path / ".config").write_text("a file where the folder would be")
    for environ in ({"HOME": str(tmp_path)}, {"HOME": ""}, {}, {"HOME": "/nonexistent"}):
        assert load_settings({}, environ) == Settings()
    relative = config_path({"HOME": "/home/me", "XDG_CONFIG_HOME": "here"})
    assert relative == Path("/home/me/.config/valley/config.toml")


def test_a_file_that_cannot_be_read_is_named_with_the_reason(home: dict[str, str]) -> None:
    (Path(home["XDG_CONFIG_HOME"]) / "valley" / "config.toml").mkdir()
    with pytest.raises(UsageError, match=r"config\.toml: is a directory"):
        load_settings({}, home)


def test_limits_that_contradict_each_other_are_refused(home: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="larger than max_pixels"):
        load_settings({"min_pixels": 5000, "max_pixels": 4000}, home)


def test_nothing_set_asks_the_engine_for_its_own_defaults() -> None:
    settings = Settings()
    assert settings.sampling() == Sampling()
    assert settings.request(()) == Request(())
    assert settings.engine_options() == EngineOptions()


def test_whatever_a_row_may_set_reaches_the_engine() -> None:
    assert set(ANSWER_KEYS) <= {entry.name for kind in (Sampling, Request) for entry in fields(kind)}


DECLARED = '    dimness: int | None = option(None, "Darken the pictures.", group="answer", range=(1, 9), row=True)\n'
USED = "    dimness: int | None = None\n"
ROW = """
from valley_cli.batch.lines import Line
from valley_cli.batch.rows import RowReader
from valley_cli.chat.complete import complete
from valley_cli.errors import UsageError
from valley_cli.settings import Settings, load_settings

reader = RowReader(Settings(), "tiny")
row = reader.look(Line(0, 1, b'{"prompt": "?", "dimness": 3, "more": 1}'), lambda found: True)
print("row:", reader.build(row).dimness, row.passed_on)
try:
    reader.build(reader.look(Line(0, 1, b'{"prompt": "?", "dimness": 10}'), lambda found: True))
except UsageError as error:
    print("row's error:", error.message)
print("file:", load_settings({}).request(()).dimness)
print("variable:", load_settings({}, {"VALLEY_DIMNESS": "5"}).request(()).dimness)
print("flag:", load_settings({"dimness": 6}, {}).request(()).dimness)
print("hashes:", reader.settings_hash, RowReader(Settings(dimness=3), "tiny").settings_hash != reader.settings_hash)
print("/set:", *(found for found, _ in complete("/set dim")))
"""


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the program in which one option more is declared, and used by the engine: a line each."""
    copied = tmp_path / "program"
    shutil.copytree(ROOT / "valley_cli", copied / "valley_cli", ignore=shutil.ignore_patterns("*.safetensors"))
    insert(copied / "valley_cli" / "settings.py", DECLARED, before="    origins: Mapping")
    insert(copied / "valley_cli" / "api.py", USED, before="    timeout_s: ")
    return copied


def insert(path: Path, line: str, before: str) -> None:
    """Write ``line`` in front of the only place that reads ``before``."""
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, line + before))


def run(program: Path, home: dict[str, str], *args: str) -> str:
    """What a Python that finds that program prints, on stdout or stderr."""
    environment = {**os.environ, **home, "PYTHONPATH": str(program), "COLUMNS": "100"}
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, env=environment, cwd=program)
    return done.stdout + done.stderr


def test_an_option_is_declared_in_one_line(changed: Path, home: dict[str, str]) -> None:
    for command in ("describe", "chat", "video", "batch"):
        shown = run(changed, home, "-m", "valley_cli", command, "--help")
        (line,) = [line for line in shown.splitlines() if "--dimness" in line]
        assert line.endswith("Darken the pictures.")
    describe = ("-m", "valley_cli", "describe", "a.png")
    assert "--dimness: 10 is not between 1 and 9" in run(changed, home, *describe, "--dimness", "10")
    variable = run(changed, home | {"VALLEY_DIMNESS": "x"}, *describe)
    assert "VALLEY_DIMNESS: 'x' is not a whole number" in variable
    write(home, "dimness = 0\n")
    assert "config.toml: dimness: 0 is not between 1 and 9" in run(changed, home, *describe)
    write(home, "dimness = 4\n")
    assert run(changed, home, "-c", ROW).splitlines() == [
        "row: 3 {'more': 1}",
        "row's error: dimness: 10 is not between 1 and 9",
        "file: 4",
        "variable: 5",
        "flag: 6",
        f"hashes: {RowReader(Settings(), 'tiny').settings_hash} True",
        "/set: dimness",
    ]
