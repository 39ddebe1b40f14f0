"""``valley chat``: what is said, what is remembered, and what happens when something goes wrong."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.answers import Told, generate, price
from tests.commands import inside
from tests.servers import Server, send
from tests.talk import MOVING, RING, SHAPES, STAR, Talk, reopen
from valley_cli.api import (
    About,
    Cost,
    Done,
    Engine,
    EngineOptions,
    Event,
    Message,
    OnStage,
    Request,
    TextDelta,
    Timings,
    Usage,
    unheard,
)
from valley_cli.chat.lines import read_messages
from valley_cli.chat.room import check_room
from valley_cli.engine import open_engine
from valley_cli.errors import DeviceError, ModelError
from valley_cli.settings import load_settings


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = open_engine(EngineOptions(model="valley-mini"))
    yield engine
    engine.close()


@pytest.fixture
def talk(engine: Engine, tmp_path: Path) -> Talk:
    return Talk(engine, tmp_path / "chats")


def test_a_question_a_line_an_answer_a_line(talk: Talk) -> None:
    colour, shape = talk.say(f"/image {STAR}", "What colour is the star?", "", "What is it?").splitlines()
    assert "yellow" in colour.lower()
    assert "star" in shape.lower()


def test_a_message_of_several_lines_stands_between_marks(engine: Engine, talk: Talk) -> None:
    talk.say('"""What', "is", 'it?"""', '"""', "And now?", '"""')
    assert talk.questions == ["What\nis\nit?", "And now?"]
    assert list(read_messages(io.BytesIO(b'a\r\n"""b\nc'))) == ["a", '"""b\nc']


def test_bytes_that_are_no_text_are_refused_and_the_conversation_goes_on(talk: Talk) -> None:
    assert "not UTF-8" in talk.told("What \udcff?")
    assert talk.questions == []
    assert talk.say("What is it?")


def test_later_turns_read_only_what_is_new_and_say_what_a_fresh_engine_says(engine: Engine, talk: Talk) -> None:
    talk.say(f"/image {SHAPES}", "What is in the picture?")
    first = talk.session.done
    talk.say("What is at the left?")
    second = talk.session.done
    assert first is not None
    assert second is not None
    assert second.usage.cached_tokens >= first.usage.prompt_tokens
    assert second.usage.image_tokens == first.usage.image_tokens
    fresh = open_engine(EngineOptions(model="valley-mini"))
    request = talk.session.request(talk.session.conversation.answered(None))
    *_, alone = generate(fresh, request)
    fresh.close()
    assert isinstance(alone, Done)
    assert (alone.token_ids, alone.usage.cached_tokens) == (second.token_ids, 0)


def test_what_is_attached_to_the_first_question_is_placed_as_published(engine: Engine, talk: Talk) -> None:
    talk.say(f"/image {STAR} {RING}", "What differs?")
    media = tuple(item.source for item in talk.session.conversation.attachments)
    *_, described = generate(engine, Request((Message("user", "What differs?"),), images=media))
    assert isinstance(described, Done)
    assert talk.session.done is not None
    assert described.token_ids == talk.session.done.token_ids
    assert described.usage.prompt_tokens == talk.session.done.usage.prompt_tokens


def test_a_picture_may_come_at_any_turn(talk: Talk) -> None:
    talk.say("What is it?", f"/image {STAR}", "What colour is the star?")
    first, second = talk.session.conversation.exchanges
    assert first.attachments == ()
    assert [item.name for item in second.attachments] == [STAR]
    assert talk.session.done is not None
    assert talk.session.done.usage.image_tokens > 0


def test_a_clip_is_decoded_once_and_its_moments_can_be_chosen(talk: Talk, tmp_path: Path) -> None:
    path = tmp_path / "moving.mp4"
    shutil.copy(MOVING, path)
    assert "8 frames" in talk.told(str(path))  # dropped, and known by its bytes
    assert "3 frames" in talk.told(f"/video '{path}' --start 0:01 --frames 3")
    path.unlink()
    assert "circle" in talk.say("Describe the given videos.")
    before = talk.session.done
    talk.say("What moves?")
    assert before is not None
    assert talk.session.done is not None
    assert talk.session.done.usage.cached_tokens >= before.usage.prompt_tokens
    assert "behind the clip's end" in talk.told(f"/video {MOVING} --start 99")
    assert "no option --foo" in talk.told(f"/video {MOVING} --foo 3")
    assert talk.session.conversation.pending == ()


@pytest.mark.parametrize("form", ["{}", "'{}'", '"{}"', "file://{}", "escaped"])
def test_a_dropped_file_is_attached(talk: Talk, tmp_path: Path, form: str) -> None:
    path = tmp_path / "a star.png"
    shutil.copy(STAR, path)
    line = str(path).replace(" ", "\\ ") if form == "escaped" else form.format(path)
    if form.startswith("file"):
        line = path.as_uri()
    assert "star.png]" in talk.told(line)
    assert [item.source.path for item in talk.session.conversation.pending] == [str(path)]
    assert talk.questions == []


def test_what_is_no_file_is_a_question_or_said_to_be_missing(talk: Talk) -> None:
    assert talk.say("'tis a star?") != ""
    assert "no such file" in talk.told("/no/such/star.png")
    assert "did you mean /image" in talk.told("/imag x.png")
    talk.say(" /usr/bin or /usr/lib?")
    assert talk.questions == ["'tis a star?", "/usr/bin or /usr/lib?"]


def test_an_unreadable_picture_is_said_at_once_and_the_conversation_goes_on(talk: Talk, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("just some words, long enough to be text\n")
    assert "is text, not a picture" in talk.told(f"/image {text}")
    assert "no such file" in talk.told("/image gone.png")
    assert "left open" in talk.told("/image 'half.png")
    assert talk.session.conversation.pending == ()
    assert "yellow" in talk.say(f"/image {STAR}", "What colour is the star?").lower()
    assert talk.session.exit_code == 4


def test_a_picture_that_is_gone_after_it_was_attached_does_no_harm(talk: Talk, tmp_path: Path) -> None:
    path = tmp_path / "star.png"
    shutil.copy(STAR, path)
    with Server({"/ring.png": send(Path(RING).read_bytes(), content_type="image/png")}) as server:
        talk.say(f"/image {path} {server.url('/ring.png')}", "What is in the pictures?")
    shutil.copy(SHAPES, path)
    before = talk.session.done
    talk.say("What is it?")
    assert before is not None
    assert talk.session.done is not None
    assert talk.session.done.usage.cached_tokens >= before.usage.prompt_tokens  # not read again
    path.unlink()
    assert talk.say("What colour is the star?")
    assert talk.session.exit_code == 0


def test_undo_takes_back_a_question_but_not_its_picture(talk: Talk) -> None:
    talk.say(f"/image {STAR}", "What colour is teh star?", "/undo")
    assert talk.questions == []
    assert "yellow" in talk.say("What colour is the star?").lower()
    assert "nothing to take back" in talk.told("/undo", "/undo")


def test_regen_asks_the_same_again(talk: Talk) -> None:
    whole = talk.say(f"/image {STAR}", "What colour is the star?")
    short = talk.say("/set max_new_tokens 1", "/regen")
    assert whole.startswith(short) is (whole != short) is True
    assert talk.session.conversation.exchanges[0].answer == short
    assert talk.say("/set max_new_tokens default", "/regen") == whole
    assert talk.questions == ["What colour is the star?"]


def test_clear_begins_anew_and_keeps_the_old_one(talk: Talk, tmp_path: Path) -> None:
    talk.say("/system Be terse.", f"/image {STAR}", "What is it?", "/clear", "What is it?")
    assert talk.session.conversation.system == "Be terse."
    assert talk.session.conversation.attachments == ()
    saved = sorted(json.loads(path.read_text())["messages"][0].get("images", []) for path in saved_files(tmp_path))
    assert saved == [[], [STAR]]


def saved_files(folder: Path) -> list[Path]:
    return list((folder / "chats").glob("*"))


def test_the_system_prompt_is_set_shown_and_dropped(talk: Talk) -> None:
    assert "the model's own" in talk.told("/system")
    assert "system prompt: Be terse." in talk.told("/system Be terse.")
    talk.say("What is it?")
    assert [message.role for message in talk.session.conversation.to_send()] == ["system", "user", "assistant"]
    assert "the model's own" in talk.told("/system -")
    assert [message.role for message in talk.session.conversation.to_send()] == ["user", "assistant"]


def test_detach_lets_go_of_what_waits_or_of_what_is_named(talk: Talk) -> None:
    talk.say(f"/image {STAR}", "/detach")
    assert not talk.session.conversation.attachments
    talk.say(f"/image {STAR} {RING}", "What differs?", f"/detach {RING}")
    assert [item.name for item in talk.session.conversation.attachments] == [STAR]
    assert "nothing attached is x.png" in talk.told("/detach x.png")
    talk.say("/detach all")
    assert not talk.session.conversation.attachments


def test_what_does_not_fit_is_said_before_it_is_sent_with_what_would_make_room(talk: Talk) -> None:
    talk.say(f"/image {STAR}", "What is it?", "word " * 300)
    told = talk.told("word " * 4000)
    assert "not sent" in told
    assert "the context holds 4096" in told
    for command in ("/undo", "/clear", "/detach all"):
        assert f"{command} frees " in told
    assert len(talk.questions) == 2
    assert talk.session.draft.startswith("word word")
    assert talk.say("/undo", "What colour is the star?")
    assert len(talk.questions) == 2


def test_little_room_for_the_answer_is_said(engine: Engine, talk: Talk) -> None:
    talk.say("What is it?")
    one, two = (price(engine, Request((Message("user", "red " * n),))).prompt_tokens for n in (100, 200))
    question = "red " * ((4000 - one) * 100 // (two - one))
    _, remark = check_room(engine, talk.session.conversation.asked(question), talk.session.request)
    assert remark is not None
    assert "room for an answer of" in remark
    assert "/undo frees" in remark


def test_settings_are_checked_shown_and_used(talk: Talk) -> None:
    assert "temperature = 0.5" in talk.told("/set temperature 0.5")
    assert "not between" in talk.told("/set top_p 7")
    assert "there is no option colour" in talk.told("/set colour red")
    assert "top_p = 1.0" in talk.told("/set")
    assert talk.session.settings.sampling().temperature == 0.5
    assert "valley-mini does not think" in talk.told("/think on")
    assert talk.session.settings.think is False
    assert "temperature = 0.0" in talk.told("/set temperature default")


def test_another_model_goes_on_with_the_conversation_and_a_wrong_name_changes_nothing(tmp_path: Path) -> None:
    talk = Talk(open_engine(EngineOptions(model="valley-mini")), tmp_path)
    talk.say("What is it?")
    assert "no-such-model" in talk.told("/set offline on", "/model ./no-such-model")
    assert talk.session.engine().about.name == "valley-mini"
    assert "model: valley-mini" in talk.told("/model valley-mini")
    assert talk.say("What is it?")
    assert len(talk.questions) == 2
    talk.session.engine().close()


def test_json_is_an_object_a_line(engine: Engine, tmp_path: Path) -> None:
    talk = Talk(engine, tmp_path, as_json=True)
    talk.say(f"/image {STAR}", "What colour is the star?", "/image gone.png", "/history", "What is it?")
    first, second, third = map(json.loads, talk.out.getvalue().splitlines())
    assert "yellow" in first["response"].lower()
    assert first["sources"] == [STAR]
    assert second["error"]["type"] == "SourceError"
    assert third["usage"]["cached_tokens"] > 0


def test_history_and_stats_go_to_stderr(talk: Talk) -> None:
    assert "nothing was answered yet" in talk.told("/stats")
    answer = talk.say(f"/image {STAR}", "What colour is the star?")
    before = talk.out.getvalue()
    assert talk.told("/history").splitlines() == [f"[picture {STAR}]", "> What colour is the star?", answer]
    assert "tokens/s" in talk.told("/stats")
    assert "/regen" in talk.told("/help")
    assert talk.out.getvalue() == before


class Faulty:
    """Answers with ``events``; an error among them is raised in its place."""

    about = About("faulty")

    def __init__(self, *events: Event | BaseException) -> None:
        self.events = events

    def submit(self, request: Request) -> Told:
        return Told(self._told())

    def _told(self) -> Iterator[Event]:
        for event in self.events:
            if isinstance(event, BaseException):
                raise event
            yield event

    def load(self, on_stage: OnStage = unheard) -> None:
        pass

    def price(self, request: Request) -> Cost:
        return Cost("faulty", (), 10, 0, 100, 4096, 0, 0, 0, 0)

    def close(self) -> None:
        pass


DONE = Done("stop", Usage(), Timings(), "faulty")


@pytest.mark.parametrize("error", [DeviceError("out of memory while answering"), RuntimeError("broken")])
def test_an_error_in_an_answer_does_not_end_the_chat_and_the_question_can_be_asked_again(
    tmp_path: Path, error: Exception
) -> None:
    engine = Faulty(TextDelta("A red"), error)
    talk = Talk(engine, tmp_path)
    talk.say("What is it?")
    assert talk.out.getvalue() == "A red\n"
    assert str(error) in talk.err.getvalue()
    engine.events = (TextDelta("A red star."), DONE)
    assert talk.say("/regen") == "A red star."
    assert [exchange.answer for exchange in talk.session.conversation.exchanges] == ["A red star."]


def test_a_question_without_an_answer_gives_way_to_the_next_one_and_leaves_it_its_picture(tmp_path: Path) -> None:
    engine = Faulty(DeviceError("out of memory while answering"))
    talk = Talk(engine, tmp_path)
    talk.say(f"/image {STAR}", "What is it?")
    assert not talk.session.conversation.is_answered
    engine.events = (TextDelta("Yes."), DONE)
    assert talk.say("Is it red?") == "Yes."
    assert talk.questions == ["Is it red?"]
    assert [item.name for item in talk.session.conversation.exchanges[0].attachments] == [STAR]


def test_an_answer_that_is_stopped_keeps_what_was_said(tmp_path: Path) -> None:
    engine = Faulty(TextDelta("A red"), KeyboardInterrupt())
    talk = Talk(engine, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        talk.say("What is it?")
    assert talk.out.getvalue() == "A red\n"
    assert talk.session.conversation.exchanges[0].answer == "A red"
    engine.events = (KeyboardInterrupt(),)
    with pytest.raises(KeyboardInterrupt):
        talk.say("/regen")
    assert talk.session.conversation.exchanges[0].answer == "A red"  # nothing new was said


def test_nothing_of_a_conversation_reaches_a_screen_with_control_characters(tmp_path: Path) -> None:
    talk = Talk(Faulty(TextDelta("a\x1b]0;x\x07b\u202e"), DONE), tmp_path)
    talk.say("What\x1b[31m is it?", "/system Be\x1b[31m terse.")
    assert not set("\x1b\x07\u202e") & set(talk.told("/history", "/undo", "/system"))


def test_a_model_that_cannot_be_had_ends_the_chat(tmp_path: Path) -> None:
    talk = Talk(Faulty(), tmp_path)
    talk.session.opening = reopen(load_settings({"model": "./no-such-model", "offline": True}, environ={}))
    with pytest.raises(ModelError):
        talk.say("What is it?", "What is it?")
    assert talk.err.getvalue() == ""  # said by the program's end


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("chat", "-"), 2, "standard input"),
        (("chat", "gone.png"), 4, "gone.png: no such file"),
        (("chat", "--continue"), 2, "no conversation to go on with"),
        (("chat", "--top-p", "7"), 2, "--top-p"),
    ],
)
def test_wrong_usage_ends_at_once(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int, words: str
) -> None:
    assert inside(*args) == code
    assert words in capsys.readouterr().err
