"""What Tab offers in a chat."""

from __future__ import annotations

from pathlib import Path

import pytest

from valley_cli.chat.attach import dropped_paths, split_words
from valley_cli.chat.complete import complete, last_word
from valley_cli.chat.slash import COMMANDS, is_open_block, unquoted
from valley_cli.errors import UsageError

NAMES = ("a star.png", "it's (1).png", "b$x.png", ".hidden", "ä谷.png")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.png").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(line: str) -> list[str]:
    """The lines that Tab can make of ``line``."""
    return [line[: len(line) - n] + text for text, n in complete(line, ["a.png"])]


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("/im", ["/image"]),
        ("/s", ["/system", "/set", "/stats", "/save"]),
        ("/image a", ["/image a\\ star.png"]),
        ("/image a\\ s", ["/image a\\ star.png"]),
        ("/image 'a s", ["/image 'a star.png'"]),
        ("/image 's", ["/image 'sub/"]),
        ("/image b", ["/image b\\$x.png"]),
        ("/image x.png s", ["/image x.png sub/"]),
        ("/video sub/", ["/video sub/c.png"]),
        ("/load .h", ["/load .hidden"]),
        ("/save no/such/", []),
        ("./sub/", ["./sub/c.png"]),
        ("/think o", ["/think on", "/think off"]),
        ("/set top", ["/set top_p", "/set top_k"]),
        ("/model valley-m", ["/model valley-mini"]),
        ("/detach a", ["/detach all", "/detach a.png"]),
        ("what is a", []),
    ],
)
def test_tab_completes_commands_words_and_paths(folder: Path, line: str, lines: list[str]) -> None:
    assert completed(line) == lines


@pytest.mark.parametrize("name", NAMES)
def test_a_completed_path_is_read_as_the_file_it_stands_for(folder: Path, name: str) -> None:
    for start in ("", f"{folder}/", "'", '"', f"'{folder}/"):
        (line,) = completed(f"/image {start}{name[0]}")
        (word,) = split_words(line.removeprefix("/image "))
        assert Path(word).resolve() == folder / name


def test_the_home_folder_stays_a_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert completed("/image ~/a") == ["/image ~/a\\ star.png"]


def test_words_are_split_as_a_shell_does() -> None:
    assert [last_word(text) for text in ("a b", "a\\ b", "'a b", '"a" b', "a ", "")] == [
        "b",
        "a\\ b",
        "'a b",
        "b",
        "",
        "",
    ]
    assert split_words("a 'b c' d\\ e") == ["a", "b c", "d e"]
    with pytest.raises(UsageError, match="left open"):
        split_words("'a")


def test_only_lines_that_are_files_are_dropped_files(folder: Path) -> None:
    whole = str(folder / "a star.png")
    for line in (whole, f"'{whole}'", f'"{whole}" ', whole.replace(" ", "\\ "), Path(whole).as_uri()):
        assert [word.replace("%20", " ").removeprefix("file://") for word in dropped_paths(line)] == [whole]
    assert dropped_paths(f"'{whole}' '{folder}/b$x.png'") == [whole, f"{folder}/b$x.png"]
    assert dropped_paths("'a star.png'") == ["a star.png"]
    assert dropped_paths("https://example.com/a.png") == ["https://example.com/a.png"]
    for line in ("sub", "a star.png", "/no/such", f"what is {whole}?", "", "'", f"{whole}\nx"):
        assert dropped_paths(line) == []


def test_marks_begin_and_end_a_message() -> None:
    assert [is_open_block(text) for text in ('"""', '"""a', '"""a"""', '"""\n"""', "a", '""')] == [
        *(True, True, False, False),
        *(False, False),
    ]
    assert unquoted('"""\n a\nb \n"""') == "a\nb"


def test_every_command_has_a_name_and_a_summary() -> None:
    assert all(name.startswith("/") and command.summary for name, command in COMMANDS.items())
