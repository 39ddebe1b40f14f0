"""``valley describe`` as its users run it."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.answers import Told
from tests.commands import COLD_LIMIT_S, SCRIPT, Terminal, cold, environment, inside
from tests.conftest import IMAGES, VALLEY2, VALLEY25
from tests.servers import Server, send
from valley_cli.api import About, Cost, Event, OnStage, Request, TextDelta, ThinkDelta, unheard
from valley_cli.commands.shared.answering import show_answer
from valley_cli.errors import DeviceError, TimedOutError, ValleyError
from valley_cli.terminal.render import Renderer, Reply, StatusLine

TINY = ("-m", str(VALLEY25), "--max-new-tokens", "8")
PICTURE = str(IMAGES / "m0_64x64.png")
OTHER = str(IMAGES / "m4_200x60.png")


def described(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """The JSON of one answer, asked for in this process."""
    assert inside("describe", *args, *TINY, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_in_a_pipe_stdout_is_the_answer_and_nothing_else() -> None:
    done = cold("describe", PICTURE, *TINY)
    assert done.returncode == 0
    assert done.stdout.endswith(b"\n")
    assert not done.stdout.endswith(b"\n\n")
    assert b"\x1b" not in done.stdout
    assert done.stderr == b""


def test_bytes_on_stdin_give_the_same_answer_as_the_file() -> None:
    done = cold("describe", "-", *TINY, "--json", stdin=Path(PICTURE).read_bytes())
    from_file = cold("describe", PICTURE, *TINY, "--json")
    assert json.loads(done.stdout)["response"] == json.loads(from_file.stdout)["response"]
    assert json.loads(done.stdout)["sources"] == ["-"]


def test_on_a_terminal_stages_are_shown_and_wiped_before_the_answer() -> None:
    terminal = Terminal("describe", PICTURE, *TINY)
    assert terminal.finish() == 0
    assert terminal.screen.startswith(b"starting ...\r")
    assert b"loading weights" in terminal.screen
    answer = terminal.screen.rpartition(b"\r\x1b[2K")[2]
    assert answer.strip()
    assert b"\x1b" not in answer


def test_ctrl_c_keeps_what_was_said_and_ends_the_whole_run(talkative: str) -> None:
    terminal = Terminal("describe", "--each", PICTURE, OTHER, "-m", talkative, "--max-new-tokens", "30000")
    terminal.read_until(b"==> ")
    terminal.read_more(200)
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.finish() == 130
    assert b"Traceback" not in terminal.screen
    assert terminal.screen.count(b"==> ") == 1
    assert terminal.screen.removesuffix(b"\r\x1b[2K").endswith(b"\n")


def test_a_closed_pipe_ends_quietly(talkative: str) -> None:
    answer = f"'{SCRIPT}' describe '{PICTURE}' -m '{talkative}' --max-new-tokens 30000"
    shell = answer + " | head -c 5; echo ${PIPESTATUS[@]} >&2"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, env=environment(), timeout=COLD_LIMIT_S)
    assert len(done.stdout) == 5
    assert done.stderr == b"0 0\n"


def test_several_pictures_are_one_question(capsys: pytest.CaptureFixture[str]) -> None:
    found = described(capsys, PICTURE, OTHER)
    assert found["sources"] == [PICTURE, OTHER]
    assert found["usage"]["image_tokens"] == 4 + 14
    assert found["finish_reason"] in ("stop", "length")
    assert set(found) == {"model", "response", "thinking", "finish_reason", "usage", "timings", "sources"}


def test_the_json_of_a_url_a_data_uri_a_file_uri_and_a_glob_agree(capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(PICTURE).read_bytes()
    expected = described(capsys, PICTURE)["response"]
    with Server({"/m0.png": send(data, content_type="text/plain")}) as server:
        assert described(capsys, server.url("/m0.png"))["response"] == expected
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (uri, Path(PICTURE).as_uri(), str(IMAGES / "m0_*.png")):
        assert described(capsys, source)["response"] == expected


def test_each_gives_every_picture_its_own_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not a picture")
    assert inside("describe", "--each", PICTURE, str(bad), OTHER, *TINY) == 4
    captured = capsys.readouterr()
    assert captured.out.count("==> ") == 2
    assert f"==> {PICTURE} <==\n" in captured.out
    assert "bad.png" in captured.err

    assert inside("describe", "--each", PICTURE, str(bad), OTHER, *TINY, "--json") == 4
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["sources"] for line in lines] == [[PICTURE], [str(bad)], [OTHER]]
    assert lines[1]["error"]["type"] == "SourceError"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("notes.png", b"just some text, long enough to be one\n", "text"),
        ("empty.png", b"", "empty"),
        ("cut.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01", "cut"),
    ],
)
def test_what_is_no_picture_exits_4_and_says_what_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert inside("describe", str(path), *TINY) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert name in captured.err
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_a_bad_path_exits_4_without_importing_torch() -> None:
    code = (
        "import sys\nfrom valley_cli.__main__ import main\n"
        "try:\n    main(['describe', 'gone.png', '-m', sys.argv[1]])\n"
        "except SystemExit as stop:\n    print(stop.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [SCRIPT.with_name("python"), "-c", code, str(VALLEY25)], capture_output=True, env=environment(), text=True
    )
    assert done.stdout == "4 False\n"
    assert done.stderr.startswith("valley: gone.png: no such file")


def test_dry_run_prices_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("describe", PICTURE, OTHER, "-m", str(VALLEY2), "--dry-run", "--json") == 0
    cost = json.loads(capsys.readouterr().out)
    assert [picture["tokens"] for picture in cost["pictures"]] == [196 + 4, 196 + 14]
    assert cost["fits"] is True
    assert inside("describe", PICTURE, "-m", str(VALLEY2), "--dry-run") == 0
    assert "64x64" in capsys.readouterr().out


def test_output_goes_to_a_file_that_is_not_overwritten(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "answer.txt"
    assert inside("describe", PICTURE, *TINY, "-o", str(target)) == 0
    assert capsys.readouterr().out == ""
    first = target.read_text(encoding="utf-8")
    assert first.endswith("\n")
    assert inside("describe", PICTURE, *TINY, "-o", str(target)) == 2
    assert "--force" in capsys.readouterr().err
    assert inside("describe", OTHER, *TINY, "-o", str(target), "--force") == 0
    assert target.read_text(encoding="utf-8") != first


def test_a_command_that_fails_leaves_the_output_file_as_it_was(tmp_path: Path) -> None:
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("yesterday's answer\n")
    for target in (old, new):
        assert inside("describe", PICTURE, "-m", str(IMAGES), "-o", str(target), "--force") == 5
    assert old.read_text() == "yesterday's answer\n"
    assert not new.exists()
    empty = tmp_path / "empty.txt"  # a reserved name: nothing to lose
    empty.touch()
    assert inside("describe", PICTURE, *TINY, "-o", str(empty), "--dry-run") == 0
    assert "64x64" in empty.read_text()


def test_output_never_goes_to_an_input_or_to_what_is_no_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture, question, link, weights = (tmp_path / name for name in ("a.png", "q.txt", "link.txt", "w.safetensors"))
    picture.write_bytes(Path(PICTURE).read_bytes())
    question.write_text("Which colour?")
    link.symlink_to(picture)
    weights.write_bytes(bytes(8) + b"{}")
    for target, word in ((picture, "inputs"), (link, "inputs"), (question, "inputs"), (weights, "not text")):
        before = target.read_bytes()
        args = (str(picture), "-p", f"@{question}", *TINY, "-o", str(target), "--force")
        assert inside("describe", *args) == 2
        assert word in capsys.readouterr().err
        assert target.read_bytes() == before


def test_output_goes_to_devices_and_pipes_without_force(capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("describe", PICTURE, *TINY, "--dry-run", "-o", os.devnull) == 0
    if os.path.exists("/dev/full"):
        assert inside("describe", PICTURE, *TINY, "--dry-run", "-o", "/dev/full") == 1
        assert "/dev/full: no space left on device" in capsys.readouterr().err


class Failing:
    """An engine that breaks down in the middle of an answer."""

    about = About("tiny")

    def __init__(self, error: BaseException, *events: Event) -> None:
        self.error = error
        self.events = events

    def submit(self, request: Request) -> Told:
        return Told(self.told())

    def told(self) -> Iterator[Event]:
        yield from self.events
        raise self.error

    def load(self, on_stage: OnStage = unheard) -> None:
        pass

    def price(self, request: Request) -> Cost:
        raise DeviceError("out of memory while measuring")

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "error",
    [
        DeviceError("out of memory"),
        TimedOutError("took longer"),
        ValleyError("closed"),
        RuntimeError("odd"),
        SystemExit(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ((TextDelta("A red"),), "A red\n"),
        ((TextDelta("A red\n"), TextDelta("\n")), "A red\n"),
        ((ThinkDelta("hm"),), "hm\n"),
        ((ThinkDelta("hm"), TextDelta("A")), "hm\nA\n"),
        ((TextDelta("\n"),), ""),
        ((), ""),
    ],
    ids=["text", "newlines", "thinking", "both", "nothing shown", "nothing"],
)
def test_an_error_in_the_middle_of_an_answer_stands_on_its_own_line(
    error: BaseException, events: tuple[Event, ...], shown: str
) -> None:
    screen = io.StringIO()
    renderer = Renderer(screen, StatusLine(io.StringIO()), err=screen)
    with pytest.raises(type(error)):
        show_answer(Failing(error, *events), Request(()), renderer, ["a.png"])
    assert screen.getvalue() == shown
    renderer.as_json, before = True, screen.getvalue()
    with pytest.raises(type(error)):
        show_answer(Failing(error, *events), Request(()), renderer, ["a.png"])
    assert screen.getvalue() == before


def test_what_broke_an_answer_is_said_even_where_its_line_cannot_be_ended() -> None:
    with open(os.devnull) as nowhere:  # refuses every write
        renderer = Renderer(nowhere, StatusLine(io.StringIO()), err=io.StringIO())
        answer = Reply(in_text=True)
        with pytest.raises(DeviceError, match="out of memory"):
            renderer.show(Failing(DeviceError("out of memory")).told(), answer)


def test_debug_shows_the_traceback_and_keeps_message_and_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALLEY_DEBUG", "1")
    assert inside("describe", "gone.png") == 4
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert "\nvalley: gone.png: no such file\n" in shown


def test_a_working_folder_that_is_gone_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert inside("describe", PICTURE) == 2
    assert "working folder is gone" in capsys.readouterr().err


def test_streams_that_are_closed_or_full(tmp_path: Path) -> None:
    # as one process each, since this is about the process's own streams; nothing here gets as far as the model
    bad = f"'{SCRIPT}' describe gone.png"
    dry = f"'{SCRIPT}' describe '{PICTURE}' -m '{VALLEY25}' --dry-run"
    for shell, code in ((f"{bad} 2>&-", 4), (f"{dry} >&-", 1)):
        done = subprocess.run(["bash", "-c", shell], capture_output=True, env=environment(), timeout=COLD_LIMIT_S)
        assert done.returncode == code
        assert b"Error" not in done.stderr
    assert done.stderr.startswith(b"valley: standard output: bad file descriptor\n")


def test_a_locale_without_the_characters_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "谷.png").write_bytes(Path(PICTURE).read_bytes())
    locale = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = cold("describe", str(tmp_path), "-p", "谷?", "-m", str(VALLEY25), "--dry-run", env=locale)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"64x64" in done.stdout


def test_the_prompt_comes_from_a_file_or_stdin(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    question = "Which colour is it?"
    path = tmp_path / "q.txt"
    path.write_text(question + "\n")
    expected = described(capsys, PICTURE, "-p", question)
    assert described(capsys, PICTURE, "-p", f"@{path}")["response"] == expected["response"]
    assert inside("describe", PICTURE, *TINY, "-p", "@" + str(tmp_path / "gone.txt")) == 4
    assert inside("describe", "-", *TINY, "-p", "-") == 2
    assert inside("describe", PICTURE, *TINY, "-p", "-", "-s", "-") == 2


def test_a_prompt_that_is_no_text_or_nothing_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    for args, code, words in (
        (("-p", "\udcff"), 2, "--prompt: not UTF-8"),
        (("--stop", "\udcff"), 2, "--stop"),
        (("-s", f"@{empty}"), 4, "holds no text"),
        (("-p", f"@{tmp_path}"), 4, "begin it with a space"),
    ):
        assert inside("describe", PICTURE, *TINY, *args) == code
        assert words in capsys.readouterr().err


def test_thinking_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("describe", PICTURE, *TINY, "--think", "--stats") == 0
    assert "tokens/s" in capsys.readouterr().err


def test_exact_changes_what_is_sent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from PIL import Image

    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.open(IMAGES / "m4_200x60.png").convert("RGB").save(turned, "PNG", exif=exif)
    path = tmp_path / "turned.png"
    path.write_bytes(turned.getvalue())
    for extra, size in (((), [60, 200]), (("--exact",), [200, 60])):
        assert inside("describe", str(path), "-m", str(VALLEY25), "--dry-run", "--json", *extra) == 0
        assert json.loads(capsys.readouterr().out)["pictures"][0]["size_wh"] == size


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("describe",), 2, "SOURCE"),
        (("describe", PICTURE, "--top-p", "7", *TINY), 2, "--top-p"),
        (("describe", PICTURE, "--flavour", "vanilla", *TINY), 2, "vanilla"),
        (("describe", PICTURE, "-m", "no-such-model", "--offline"), 5, "no-such-model"),
        (("describe", PICTURE, "-m", str(IMAGES)), 5, "config.json"),
        (("describe", PICTURE, *TINY, "--device", "cuda:7"), 6, "cuda:7"),
        (("describe", PICTURE, *TINY, "--device", "toaster"), 6, "toaster"),
        (("descirbe", PICTURE), 2, "descirbe"),
    ],
)
def test_wrong_usage_ends_with_its_exit_code_and_the_word_at_fault(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int, words: str
) -> None:
    assert inside(*args) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_vv_logs_what_the_engine_does_and_nothing_else_does(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("valley_cli")
    try:
        assert inside("describe", PICTURE, *TINY) == 0
        assert "engine.run.worker" not in capsys.readouterr().err
        assert inside("describe", PICTURE, *TINY, "-vv") == 0
        shown = capsys.readouterr()
        assert re.search(r"^\d\d:\d\d:\d\d\.\d\d\d valley_cli\.engine\.run\.worker: loaded in ", shown.err, re.M)
        assert "valley_cli" not in shown.out
    finally:
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
