"""Conversations as JSON: what is read, what is refused, and that what is written is read back the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import IMAGES
from valley_cli.api import FrameSelection, Media, Message
from valley_cli.errors import SourceError, UsageError
from valley_cli.settings import load_settings, override
from valley_cli.sources.expand import expand_sources
from valley_cli.sources.transcript import (
    Kind,
    Transcript,
    read_messages,
    read_transcript,
    up_to_question,
    write_message,
    write_transcript,
)

PICTURE, OTHER = str(IMAGES / "m0_64x64.png"), str(IMAGES / "m4_200x60.png")
A, B = Media(PICTURE, path=PICTURE), Media(OTHER, path=OTHER)


def open_source(source: str, kind: Kind) -> tuple[Media, ...]:
    """What batch and chat do, beside the folder of the pictures."""
    return expand_sources([source], kind=kind, base_dir=str(IMAGES))


def test_what_is_written_is_read_back_the_same() -> None:
    data = Path(PICTURE).read_bytes()
    clip = Media(
        "c.mp4", "video", url="https://example.com/c.mp4", selection=FrameSelection(3, start_s=1.5, at_s=(2.0,))
    )
    written = Transcript(
        messages=(
            Message("system", "Be terse."),
            Message("user", "What differs? 谷", (A, B)),
            Message("assistant", ""),
            Message("user", "And here?", (Media("-", data=data), clip)),
        ),
        model="valley-mini",
        options={"temperature": 0.5, "stop": ["."], "think": False},
    )
    found = read_transcript(json.loads(json.dumps(write_transcript(written))), open_source)
    assert (found.model, found.options) == (written.model, written.options)
    assert [(m.role, m.content) for m in found.messages] == [(m.role, m.content) for m in written.messages]
    assert found.messages[1].media == written.messages[1].media
    piped, fetched = found.messages[3].media
    assert piped.data == data
    assert (fetched.url, fetched.kind, fetched.selection) == (clip.url, "video", clip.selection)


def test_a_clip_given_as_its_frames_is_read_back_as_one_clip() -> None:
    clip = Media("frames", "video", frames=(A, B), selection=FrameSelection())
    (found,) = read_messages([write_message(Message("user", "?", (clip,)))], open_source)[0].media
    assert (found.kind, found.frames, found.selection) == ("video", clip.frames, clip.selection)


def test_paths_are_written_whole_and_read_from_the_given_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(IMAGES)
    name = os.path.basename(PICTURE)
    assert write_message(Message("user", "?", (Media(name, path=name),)))["images"] == [PICTURE]
    (message,) = read_messages([{"role": "user", "content": "?", "image": name}], open_source)
    assert message.media[0].path == PICTURE


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def picture(source: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": source, "detail": "auto"}}


@pytest.mark.parametrize(
    ("parts", "content", "media", "places"),
    [
        ([picture(PICTURE), picture(OTHER), text("What differs?")], "What differs?", (A, B), ()),
        ([text("One."), text("Two.")], "One.\nTwo.", (), ()),
        ([text("1"), picture(PICTURE), text("2"), picture(OTHER)], "1\n<image>\n2\n<image>", (A, B), (2, 12)),
        ([text("<image>"), picture(PICTURE)], "<image>\n<image>", (A,), (8,)),
        ([picture(PICTURE), text("<image>")], "<image>", (A,), ()),
    ],
    ids=["pictures first", "texts only", "pictures in their places", "a word in front", "a word behind"],
)
def test_openai_parts_become_a_text_and_its_media(
    parts: list[dict[str, Any]], content: str, media: tuple[Media, ...], places: tuple[int, ...]
) -> None:
    assert read_messages([{"role": "user", "content": parts, "refusal": None}], open_source) == (
        Message("user", content, media, places),
    )


def test_a_text_of_openais_form_holds_no_places() -> None:
    (ours,) = read_messages([{"role": "user", "content": "<image>?"}], open_source)
    (theirs,) = read_messages([{"role": "user", "content": "<image>?"}], open_source, openai=True)
    assert (ours.places, theirs.places) == (None, ())


def test_an_openai_clip_takes_our_moments() -> None:
    clip = {"type": "video_url", "video_url": {"url": "https://example.com/c.mp4", "fps": 2, "max_frames": 4}}
    (message,) = read_messages([{"role": "user", "content": [text("Look:"), clip]}], open_source)
    assert message.content == "Look:"
    assert message.media[0].selection == FrameSelection(fps=2.0, max_frames=4)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("hello", "a text, not an object"),
        ({"role": "robot", "content": ""}, 'role is "robot"'),
        ({"role": "user"}, "content is missing"),
        ({"role": "user", "content": "?", "imges": []}, 'unknown key "imges"'),
        ({"role": "user", "content": "?", "image": 3}, "an image is a number"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, 'type "input_audio"'),
        ({"role": "user", "content": [{"type": "image_url"}]}, "url of a part of type image_url is missing"),
        ({"role": "user", "content": "?", "video": {"source": "c.mp4", "frames": 0}}, "frames is 0"),
        ({"role": "user", "content": "?", "video": {"source": []}}, "no frames"),
        ({"role": "user", "content": "?", "video": {"source": "c.mp4", "start": float("nan")}}, "start is NaN"),
        ({"role": "user", "content": "?", "video": {"source": "c.mp4", "begin": 1}}, 'unknown key "begin"'),
    ],
)
def test_a_message_that_is_none_is_named(row: Any, words: str) -> None:
    with pytest.raises(UsageError, match=r"^messages\[1\]: ") as error:
        read_messages([{"role": "user", "content": "?"}, row], open_source)
    assert words in error.value.message


def test_what_cannot_be_opened_is_the_sources_error() -> None:
    for source in ("gone.png", "-"):
        with pytest.raises(SourceError):
            read_messages([{"role": "user", "content": "?", "images": [source]}], open_source)


def test_a_conversation_needs_messages_and_one_system_prompt_at_most() -> None:
    with pytest.raises(UsageError, match="list of messages"):
        read_transcript([], open_source)
    row = {"role": "system", "content": "a"}
    with pytest.raises(UsageError, match="two system prompts"):
        read_transcript({"system": "b", "messages": [row]}, open_source)
    assert read_transcript({"messages": [row]}, open_source) == read_transcript(
        {"system": "a", "messages": []}, open_source
    )


def test_a_conversation_is_replayed_up_to_its_last_question() -> None:
    question, answer = Message("user", "?"), Message("assistant", "!")
    assert up_to_question((question, answer)) == up_to_question((question,)) == (question,)
    assert up_to_question(()) == ()


def test_a_conversations_options_are_checked_as_flags_are() -> None:
    settings = load_settings({"top_k": 5}, environ={})
    changed = override(settings, {"temperature": "0.5", "stop": ["."]}, lambda name: f"chat.json: {name}")
    assert (changed.temperature, changed.stop, changed.top_k) == (0.5, (".",), 5)
    assert changed.origins["temperature"] == "chat.json: temperature"
    for values, words in (({"top_p": 7}, "chat.json: top_p: 7"), ({"min_pixels": 9000, "max_pixels": 8000}, "larger")):
        with pytest.raises(UsageError, match=words):
            override(settings, values, lambda name: f"chat.json: {name}")


@pytest.mark.parametrize(
    "message",
    [
        Message("assistant", "Write <image> in the text.", places=()),
        Message("user", "Is <image> a tag?", (Media("a.png", path="/a.png"),), places=()),
        Message("user", "First\n<image>\nnot <image>", (Media("a.png", path="/a.png"),), places=(6,)),
        Message("user", "See\n<image>\nnot <image>", (Media("a", path="/a"), Media("b", path="/b")), places=(4,)),
        Message("user", "A clip and <image>", (Media("a.mp4", "video", path="/a.mp4"),), places=()),
    ],
    ids=["an answer", "a picture in front", "a picture between", "one more picture", "a clip"],
)
def test_what_only_reads_as_a_place_is_still_text_when_it_is_read_back(message: Message) -> None:
    def open_source(source: str, kind: Kind) -> tuple[Media, ...]:
        return (Media(source.strip("/"), kind, path=source),)

    (found,) = read_messages([json.loads(json.dumps(write_message(message)))], open_source)
    assert found == message
