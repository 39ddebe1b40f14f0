"""``valley chat`` on a terminal, driven by a script that presses keys in tmux."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

from tests.commands import COLD_LIMIT_S, Tmux, cold
from tests.talk import STAR

SIZE = (100, 50)


def state(folder: Path) -> dict[str, str]:
    """A state folder and an editor of the test's own."""
    editor = folder / "editor.sh"
    editor.write_text("#!/bin/sh\nprintf 'Where is the star?' > \"$1\"\n")
    editor.chmod(0o700)
    return {"XDG_STATE_HOME": str(folder / "state"), "EDITOR": str(editor), "VISUAL": ""}


def wait_for_answers(folder: Path, count: int) -> list[str]:
    """The answers of the conversation that saves itself, once it has so many."""
    end = time.monotonic() + COLD_LIMIT_S
    while True:
        saved = [read for path in (folder / "state").rglob("chats/*.json") for read in [json.loads(path.read_text())]]
        answers = [message["content"] for message in saved[0]["messages"][1::2]] if saved else []
        if len(answers) == count:
            return answers
        assert time.monotonic() < end, f"{count} answers never came: {saved}"
        time.sleep(0.05)


def test_a_whole_conversation_by_keys(tmp_path: Path) -> None:
    shutil.copy(STAR, tmp_path / "a star.png")
    (tmp_path / "notes.txt").write_text("not ours")
    with Tmux("chat", "--preview", env=state(tmp_path), cwd=tmp_path, size_wh=SIZE) as screen:
        screen.wait_for("\n>")
        screen.type("/ima", "Tab")
        screen.wait_for("> /image")
        screen.type(" a", "Tab")  # paths are completed too, and escaped
        screen.wait_for("> /image a\\ star.png")
        screen.type("Enter")
        screen.wait_for("▀▀\n[picture a star.png]")
        screen.wait_for("[1 attached] >")
        screen.type("What colour is the star?", "Enter")
        assert "yellow" in wait_for_answers(tmp_path, 1)[0].lower()

        screen.type('"""', "Enter", "What colour", "Enter", "is the star?", "Enter", '"""', "Enter")
        wait_for_answers(tmp_path, 2)
        screen.type("/undo", "Enter")
        screen.wait_for("taken back: What colour\nis the star?")
        wait_for_answers(tmp_path, 1)
        screen.type("/regen", "Enter")
        screen.type("What colour is", "M-Enter", "the star?", "Enter")  # a new line, then the end
        wait_for_answers(tmp_path, 2)

        screen.type("/save notes.txt", "Enter")
        screen.wait_for("Overwrite it? [y/N]")
        screen.type("n", "Enter")
        screen.wait_for("not saved")
        screen.type("/save chat.json", "Enter")
        screen.wait_for("saved chat.json")
        screen.type("/edit", "Enter")
        screen.wait_for("> Where is the star?")
        screen.type("C-r", "colour is the", "Enter")  # the search finds what was typed before
        screen.wait_for("> What colour is the star?", 2)
        screen.type("C-c")  # only empties the line
        screen.type("/stats", "Enter")
        assert "cached)" in screen.wait_for("tokens/s")
        screen.type("C-c")
        assert screen.finish() == 0
        assert "Traceback" not in screen.screen()
    assert (tmp_path / "notes.txt").read_text() == "not ours"
    saved = json.loads((tmp_path / "chat.json").read_text())
    assert [message["content"] for message in saved["messages"][::2]] == [
        "What colour is the star?",
        "What colour is\nthe star?",
    ]
    assert saved["messages"][0]["images"] == [str(tmp_path / "a star.png")]


def test_ctrl_c_stops_an_answer_and_kill_9_loses_nothing_that_was_said(tmp_path: Path, talkative: str) -> None:
    env = state(tmp_path)
    args = ("chat", STAR, "-m", talkative, "--max-new-tokens", "30000")
    with Tmux(*args, env=env, cwd=tmp_path, size_wh=SIZE) as screen:
        screen.type("What is it?", "Enter")  # while the model loads
        first = screen.wait_for("> What is it?")
        while len(screen.screen()) < len(first) + 300:  # the answer grows
            time.sleep(0.05)
        screen.type("C-c")
        screen.wait_for("(stopped)")
        screen.type("And now?", "Enter")
        screen.wait_for("> And now?")
        (saved,) = (tmp_path / "state" / "valley" / "chats").glob("*.json")
        while len(json.loads(saved.read_text())["messages"]) < 3:
            time.sleep(0.05)
        os.kill(screen.pid, signal.SIGKILL)
        assert screen.finish() == 128 + signal.SIGKILL
    question, answer, unanswered = json.loads(saved.read_text())["messages"]
    assert len(answer["content"]) > 100
    assert (question["content"], unanswered["content"]) == ("What is it?", "And now?")
    assert saved.stat().st_mode & 0o077 == 0

    done = cold("chat", "--continue", "--json", "--max-new-tokens", "4", stdin=b"/regen\n", env=env)
    (found,) = map(json.loads, done.stdout.splitlines())
    assert (found["model"], found["sources"]) == (talkative, [STAR])
    assert [message["role"] for message in json.loads(saved.read_text())["messages"]] == ["user", "assistant"] * 2
    assert list(saved.parent.glob("*.json")) == [saved]


def test_a_piped_chat_answers_on_stdout_and_says_nothing_else_there(tmp_path: Path) -> None:
    lines = b"What colour is the star?\n/stats\nWhat shape is it?\n"
    done = cold("chat", STAR, "-q", stdin=lines, env=state(tmp_path))
    assert (done.returncode, done.stderr.count(b"\n")) == (0, 1)
    colour, shape = done.stdout.decode().splitlines()
    assert "yellow" in colour.lower()
    assert "star" in shape.lower()
    assert b"\x1b" not in done.stdout + done.stderr
