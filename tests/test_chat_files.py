"""What a chat writes and reads: /save and /load, the conversation that saves itself, history, clipboard."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import inside
from tests.servers import Server, send
from tests.talk import MOVING, RING, STAR, Talk
from valley_cli.api import Engine, EngineOptions
from valley_cli.chat.editor import open_history
from valley_cli.chat.slash_files import clipboard_tool
from valley_cli.chat.store import Autosave, last_saved, state_folder, write_json
from valley_cli.engine import open_engine
from valley_cli.errors import ValleyError
from valley_cli.sources.transcript import write_transcript


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = open_engine(EngineOptions(model="valley-mini"))
    yield engine
    engine.close()


@pytest.fixture
def talk(engine: Engine, tmp_path: Path) -> Talk:
    return Talk(engine, tmp_path / "chats")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_saved_conversation_goes_on_where_it_was(engine: Engine, talk: Talk, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    talk.say("/system Be terse. 谷", "/set temperature 0", f"/image {STAR}", "What colour is the star?")
    talk.say(f"/video {MOVING} --frames 3 --start 0:01", "What moves?", f"/save {path}")
    other = Talk(engine, tmp_path / "others")
    assert "after 2 questions" in other.told(f"/load {path}")
    assert other.session.settings.temperature == 0.0
    assert other.say("What is it?") == talk.say("What is it?")
    assert write_transcript(other.session.transcript()) == write_transcript(talk.session.transcript())
    assert other.session.done is not None
    assert talk.session.done is not None
    assert other.session.done.token_ids == talk.session.done.token_ids


def test_a_saved_conversation_is_readable_and_a_row_of_batch(
    talk: Talk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chat.json"
    answer = talk.say(f"/image {STAR}", "What colour is the star?", f"/save {path}")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert '      "content": "What colour is the star?",' in lines
    assert inside("batch", str(path)) == 0
    assert json.loads(capsys.readouterr().out)["response"] == answer


def test_save_overwrites_only_its_own_files_unless_told(talk: Talk, tmp_path: Path) -> None:
    foreign, own, link = (tmp_path / name for name in ("notes.txt", "my chat.json", "link.json"))
    foreign.write_text("not ours")
    link.symlink_to(own)
    talk.say("What is it?")
    assert "/save --force" in talk.told(f"/save {foreign}")
    assert "saved" in talk.told(f"/save '{own}'", f"/save {link}", f"/save '{own}'")
    assert (foreign.read_text(), link.is_symlink()) == ("not ours", True)
    assert own.stat().st_mode == foreign.stat().st_mode
    assert "saved" in talk.told(f"/save --force {foreign}")
    assert read(foreign) == read(own)
    assert "is a folder" in talk.told(f"/save {tmp_path}")
    assert "no such file" in talk.told(f"/save {tmp_path}/no/such/chat.json")
    assert "needs the name of one file" in talk.told("/save", "/save a b")
    assert "saved" in talk.told("/save /dev/null")
    assert Path("/dev/null").is_char_device()
    if os.path.exists("/dev/full"):
        assert "no space left" in talk.told("/save /dev/full")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_asking_before_overwriting_is_asked_only_where_somebody_can_answer(talk: Talk, tmp_path: Path) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_text("not ours")
    talk.say("What is it?")
    for answer, text in ((False, "not saved"), (True, "saved")):
        talk.session.confirm = lambda question, answer=answer: answer  # type: ignore[misc]
        assert text in talk.told(f"/save {foreign}")
        assert (foreign.read_text() == "not ours") is not answer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "is not a conversation in JSON"),
        ("[]", "a list of messages is needed"),
        ('{"messages": [{"role": "assistant", "content": "Yes."}]}', "messages[0] is the assistant's, out of turn"),
        ('{"messages": [{"role": "user", "content": "?", "imge": "x"}]}', 'unknown key "imge"'),
        ('{"messages": [], "top_p": 7}', "top_p: 7 is not between"),
        ("[" * 100_000, "is not a conversation in JSON"),
    ],
)
def test_what_is_no_conversation_changes_nothing(talk: Talk, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    talk.say("What is it?")
    assert words in talk.told(f"/load {path}", "/load gone.json")
    assert talk.questions == ["What is it?"]
    assert talk.session.settings.top_p == 1.0


def test_a_picture_that_is_gone_is_named_and_stays_in_the_file(engine: Engine, talk: Talk, tmp_path: Path) -> None:
    picture, path = tmp_path / "star.png", tmp_path / "chat.json"
    shutil.copy(STAR, picture)
    talk.say(f"/image {picture} {RING}", "What differs?", f"/save {path}")
    picture.unlink()
    other = Talk(engine, tmp_path / "others")
    assert "star.png: no such file; the model does not see it" in other.told(f"/load {path}")
    assert "(gone: the model does not see it)" in other.told("/history")
    assert other.say("What is it?")
    other.say(f"/save {tmp_path / 'again.json'}")
    assert read(tmp_path / "again.json")["messages"][0]["images"] == [str(picture), RING]


def test_sources_in_a_file_start_at_its_folder_and_do_not_reach_private_addresses(talk: Talk, tmp_path: Path) -> None:
    shutil.copy(STAR, tmp_path / "star.png")
    with Server({"/ring.png": send(Path(RING).read_bytes(), content_type="image/png")}) as server:
        sources = ["star.png", server.url("/ring.png")]
        row = {"messages": [{"role": "user", "content": "What is it?", "images": sources}]}
        (tmp_path / "chat.json").write_text(json.dumps(row))
        told = talk.told(f"/load {tmp_path / 'chat.json'}")
    assert "private" in told or "loopback" in told
    assert [item.held is not None for item in talk.session.conversation.attachments] == [True, False]


def test_secrets_in_addresses_are_not_written(talk: Talk, tmp_path: Path) -> None:
    data = Path(RING).read_bytes()
    with Server({"/ring.png": send(data, content_type="image/png")}) as server:
        plain = server.url("/ring.png")
        talk.say(f"/image {plain} {plain}?token=hunter2", "What is it?", f"/save {tmp_path / 'chat.json'}")
    first, second = read(tmp_path / "chat.json")["messages"][0]["images"]
    assert first == plain
    assert second == "data:image/png;base64," + base64.b64encode(data).decode()
    assert all("hunter2" not in path.read_text() for path in tmp_path.rglob("*.json"))


def test_every_turn_is_saved_privately_and_a_new_conversation_elsewhere(talk: Talk, tmp_path: Path) -> None:
    folder = tmp_path / "chats"
    talk.say(f"/image {STAR}")
    assert not folder.exists()  # nothing was asked yet
    talk.say("What is it?")
    (path,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    talk.say("What colour is the star?")
    assert [message["role"] for message in read(path)["messages"]] == ["user", "assistant"] * 2
    talk.say("/clear", "What is it?")
    assert len(list(folder.iterdir())) == 2
    assert len(read(path)["messages"]) == 4


def test_two_chats_never_write_over_each_other(engine: Engine, talk: Talk, tmp_path: Path) -> None:
    talk.say("What is it?")
    path = last_saved(tmp_path / "chats")
    assert path is not None
    other = Talk(engine, tmp_path / "chats")
    other.session.autosave = Autosave(tmp_path / "chats", path)
    other.say("Is it red?")
    talk.say("Is it blue?")
    found = sorted([message["content"] for message in read(path)["messages"][::2]] for path in path.parent.iterdir())
    assert found == [["Is it red?"], ["What is it?", "Is it blue?"]]


def test_a_conversation_that_cannot_be_saved_goes_on_and_says_so_once(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    talk = Talk(engine, tmp_path / "file" / "chats")
    told = talk.told("What is it?", "Is it red?")
    assert told.count("not saved") == 1
    assert len(talk.questions) == 2


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    write_json(str(path), {"old": 1})
    with pytest.raises(TypeError):
        write_json(str(path), {"new": {1, 2}})
    assert read(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_last_conversation_is_the_one_saved_last(tmp_path: Path) -> None:
    assert last_saved(tmp_path / "none") is None
    for number, name in enumerate(("b.json", "a.json")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(number, number))
    assert last_saved(tmp_path) == tmp_path / "a.json"


def test_state_lives_where_the_standard_says(tmp_path: Path) -> None:
    assert state_folder({"XDG_STATE_HOME": "/x", "HOME": "/h"}) == Path("/x/valley")
    assert state_folder({"XDG_STATE_HOME": "x", "HOME": "/h"}) == Path("/h/.local/state/valley")


def test_history_is_private_and_may_be_lost_without_harm(tmp_path: Path) -> None:
    path = tmp_path / "valley" / "history"
    open_history(path).append_string("What is it?\nIs it red?")
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(open_history(path).load_history_strings()) == ["What is it?\nIs it red?"]
    (tmp_path / "file").touch()
    open_history(tmp_path / "file" / "history").append_string("kept in memory")


def test_copy_takes_the_clipboards_own_tool_or_says_that_there_is_none(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WAYLAND_DISPLAY", "DISPLAY", "TMUX", "WSL_DISTRO_NAME"):
        monkeypatch.delenv(name, raising=False)
    answer = talk.say(f"/image {STAR}", "What colour is the star?")
    assert "no clipboard" in talk.told("/copy")
    tool = tmp_path / "wl-copy"
    tool.write_text(f"#!/bin/sh\ncat > '{tmp_path}/clipboard'\n")
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert clipboard_tool() == ["wl-copy"]
    assert "copied" in talk.told("/copy")
    assert (tmp_path / "clipboard").read_text() == answer


def test_what_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValleyError, match="is not saved"):
        Autosave(tmp_path / "file" / "chats").save({})
