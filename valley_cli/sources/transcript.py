"""Conversations as JSON: rows of ``batch``, files that ``chat`` saves and loads, OpenAI's content parts.

One conversation is one object. On one line it is a row of ``batch``; ``chat`` writes it over several lines, for people,
and a file that holds one object over several lines is one row of ``batch`` too::

    {
      "model": "valley2-dpo",                        optional, as are the next two
      "system": "You are terse.",
      "temperature": 0.7,                            any of ``settings.ANSWER_KEYS``
      "messages": [
        {"role": "user", "content": "What differs?", "images": ["holiday/a.png", "https://example.com/b.jpg"]},
        {"role": "assistant", "content": "The colour."},
        {"role": "user", "content": "And here?",
         "videos": ["clip.mp4", {"source": "long.mp4", "frames": 16, "start": 2.5, "end": 9}]}
      ]
    }

A source is a path, an address or a ``data:`` URI. ``image`` and ``video`` stand for lists of one. A clip's object may
hold ``frames``, ``fps``, ``max_frames``, ``start``, ``end``, ``at`` and ``frame_rate`` (``times``; seconds, or
times as typed); its ``source`` may be a list of pictures, its frames in order. ``content`` may also be OpenAI's list
of parts: ``text``, ``image_url`` and ``video_url`` (whose object may hold the same options). ``<image>`` in a text of
ours is a picture's place; OpenAI's form has parts for that, so it is text there. To replay a conversation that ends in
an answer, that answer is left out (``up_to_question``) and given anew. Keys of the object that are not named here are
not ours.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal

from valley_cli.api import Media, Message
from valley_cli.errors import UsageError
from valley_cli.settings import ANSWER_KEYS
from valley_cli.sources import times
from valley_cli.text import PICTURES, SNIFF_BYTES, printable, sniff

Kind = Literal["image", "video"]
OpenSource = Callable[[str, Kind], tuple[Media, ...]]  # how a source becomes handles: ``expand_sources`` and its guards
Json = Mapping[str, Any]

PLACEHOLDER = "<image>"
_ROLES = ("system", "user", "assistant")
_MESSAGE_KEYS = {"role", "content", "image", "images", "video", "videos", "name"}
_MIME = {"jpeg": "image/jpeg", "mov": "video/quicktime", "mkv": "video/x-matroska"}


@dataclass(frozen=True)
class Transcript:
    """One conversation: its messages (the system prompt first, if it has one), and how its answers are to be made."""

    messages: tuple[Message, ...]
    model: str | None = None
    options: Json = field(default_factory=dict)  # ``ANSWER_KEYS`` only, values as they came


def read_transcript(found: Any, open_source: OpenSource) -> Transcript:
    """The conversation in a parsed JSON object. Raises UsageError, and what ``open_source`` raises."""
    if not isinstance(found, dict) or not isinstance(found.get("messages"), list):
        raise UsageError("no conversation: an object with a list of messages is needed")
    messages = read_messages(found["messages"], open_source)
    system, model = found.get("system"), found.get("model")
    for name, value in (("system", system), ("model", model)):
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{name} is {_kind(value)}, not a text")
    if system is not None:
        if messages and messages[0].role == "system":
            raise UsageError("two system prompts: one as system, one as the first of the messages", "leave one out")
        messages = (Message("system", system), *messages)
    options = {name: found[name] for name in ANSWER_KEYS if found.get(name) is not None}
    return Transcript(messages, model, options)


def write_transcript(transcript: Transcript) -> dict[str, Any]:
    """The object that ``read_transcript`` reads back."""
    head, *rest = transcript.messages or (None,)
    found: dict[str, Any] = {} if transcript.model is None else {"model": transcript.model}
    if head and head.role == "system" and not head.media:
        found["system"] = head.content
        head = None
    messages = [write_message(message) for message in ([head] if head else []) + rest if message]
    return found | dict(transcript.options) | {"messages": messages}


def up_to_question(messages: Sequence[Message]) -> tuple[Message, ...]:
    """``messages`` without the answer they end in: what is to be asked when a conversation is replayed."""
    return tuple(messages[:-1] if messages and messages[-1].role == "assistant" else messages)


def read_messages(rows: Sequence[Any], open_source: OpenSource, *, openai: bool = False) -> tuple[Message, ...]:
    """One message for each row, in our form or OpenAI's; ``openai``: all are OpenAI's, those without parts too.

    Raises UsageError that says which message is at fault.
    """
    messages = []
    for index, row in enumerate(rows):
        try:
            messages.append(_read_message(row, open_source, openai))
        except UsageError as error:
            raise error.placed(f"messages[{index}]") from None
    return tuple(messages)


def _read_message(row: Any, open_source: OpenSource, openai: bool) -> Message:
    if not isinstance(row, dict):
        raise UsageError(f"{_kind(row)}, not an object with role and content")
    if row.get("role") not in _ROLES:
        raise UsageError(f"role is {_shown(row.get('role'))}, not one of {', '.join(_ROLES)}")
    if unknown := sorted(key for key in set(row) - _MESSAGE_KEYS if row[key] is not None):
        raise UsageError(f"unknown key {_shown(unknown[0])}", f"the keys are: {', '.join(sorted(_MESSAGE_KEYS))}")
    content = row.get("content")
    if isinstance(content, list):
        text, media, places = _read_parts(content, open_source)
        return Message(row["role"], text, (*media, *read_media(row, open_source)), places)
    if not isinstance(content, str):
        raise UsageError(f"content is {_kind(content)}, not a text or a list of parts")
    return Message(row["role"], content, read_media(row, open_source), () if openai else None)


def read_media(row: Json, open_source: OpenSource) -> tuple[Media, ...]:
    """What ``image``, ``images``, ``video`` and ``videos`` of an object name, in this order."""
    handles: list[Media] = []
    for source in (*_listed(row, "image"), *_listed(row, "images")):
        handles += open_source(_text(source, "an image"), "image")
    for source in (*_listed(row, "video"), *_listed(row, "videos")):
        handles += _read_video(source, open_source)
    return tuple(handles)


def _listed(row: Json, key: str) -> list[Any]:
    value = row.get(key)
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _read_video(found: Any, open_source: OpenSource) -> tuple[Media, ...]:
    if isinstance(found, str):
        return open_source(found, "video")
    if not isinstance(found, dict):
        raise UsageError(f"a video is {_kind(found)}, not a source or an object with one")
    if unknown := sorted(set(found) - {*times.KEYS} - {"source"}):
        raise UsageError(f"a video has the unknown key {_shown(unknown[0])}")
    wanted, source = times.read_selection(found), found.get("source")
    if isinstance(source, list):
        frames = [frame for name in source for frame in open_source(_text(name, "a frame"), "image")]
        if not frames:
            raise UsageError("a video has no frames")
        return (Media(f"{frames[0].name} ...", "video", frames=tuple(frames), selection=wanted),)
    handles = open_source(_text(source, "a video's source"), "video")
    return tuple(replace(media, selection=wanted) if wanted else media for media in handles)


def _read_parts(parts: Sequence[Any], open_source: OpenSource) -> tuple[str, tuple[Media, ...], tuple[int, ...]]:
    """(text, media, places of the media in the text) of OpenAI's content parts.

    Media go in front of the text, as published; pictures that stand behind some of it keep their places, by
    placeholders. (A clip's frames are not counted yet, so a message with a clip has them in front in any case.)
    """
    pieces: list[str | None] = []  # None: a picture or clip
    handles: list[Media] = []
    for part in parts:
        if not isinstance(part, dict):
            raise UsageError(f"a part is {_kind(part)}, not an object with a type")
        kind = part.get("type")
        if kind == "text":
            pieces.append(_text(part.get("text"), "a part's text"))
        elif kind in ("image_url", "video_url"):
            found = _read_part(part, kind, open_source)
            handles += found
            pieces += [None] * len(found)
        else:
            raise UsageError(f"a part has the type {_shown(kind)}", "the types are: text, image_url, video_url")
    texts = [piece for piece in pieces if piece is not None]
    in_front = pieces == [None] * len(handles) + texts
    if in_front or any(media.kind == "video" for media in handles):
        return "\n".join(texts), tuple(handles), ()
    lines = [PLACEHOLDER if piece is None else piece for piece in pieces]
    starts = accumulate((len(line) + 1 for line in lines), initial=0)
    places = [start for start, piece in zip(starts, pieces, strict=False) if piece is None]
    return "\n".join(lines), tuple(handles), tuple(places)


def _read_part(part: Json, kind: str, open_source: OpenSource) -> tuple[Media, ...]:
    value = part.get(kind)
    address = value.get("url") if isinstance(value, dict) else value
    source = _text(address, f"the url of a part of type {kind}")
    if kind == "image_url":
        return open_source(source, "image")
    options = {key: value[key] for key in times.KEYS if key in value} if isinstance(value, dict) else {}
    return _read_video({"source": source} | options, open_source)


def write_message(message: Message) -> dict[str, Any]:
    """Our form of ``message``: paths whole, addresses as they are, what has no other source as a ``data:`` URI.

    Text in which ``<image>`` is not a place becomes OpenAI's parts.
    """
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    places = message.places or ()
    if message.places is not None and PLACEHOLDER in message.content:  # OpenAI's form says which are places
        found["content"] = _write_parts(message, places)
    for key, kind in (("images", "image"), ("videos", "video")):
        if sources := [write_source(media) for media in message.media[len(places) :] if media.kind == kind]:
            found[key] = sources
    return found


def _write_parts(message: Message, places: Sequence[int]) -> list[dict[str, Any]]:
    """OpenAI's parts of a message with its first pictures in these places: what ``_read_parts`` reads back."""
    parts: list[dict[str, Any]] = []
    begin = 0
    for place, picture in zip(places, message.media, strict=False):
        if text := message.content[begin:place].removesuffix("\n"):
            parts.append({"type": "text", "text": text})
        parts.append({"type": "image_url", "image_url": {"url": write_source(picture)}})
        begin = place + len(PLACEHOLDER) + 1
    if text := message.content[begin:]:
        parts.append({"type": "text", "text": text})
    return parts


def write_source(media: Media) -> Any:
    """The path, address or ``data:`` URI of ``media``; an object for a clip that is more than that."""
    if media.kind == "image":
        return _address(media)
    source = [_address(frame) for frame in media.frames] if media.frames else _address(media)
    options = times.write_selection(media.selection) if media.selection else {}
    return {"source": source} | options if options or media.frames else source


def _address(media: Media) -> str:
    if media.path is not None:
        return os.path.abspath(media.path)
    if media.url is not None:
        return media.url
    assert media.data is not None
    kind = sniff(media.data[:SNIFF_BYTES])
    mime = _MIME.get(kind, f"{'image' if kind in PICTURES else 'video'}/{kind}")
    return f"data:{mime};base64,{base64.b64encode(media.data).decode()}"


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{what} is {_kind(value)}, not a text")
    return value


def _kind(value: Any) -> str:
    """What JSON calls a value, for errors."""
    if value is None or value == "":
        return "missing"
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "something else")


def _shown(value: Any) -> str:
    """A value from a file, short and safe to print."""
    text = printable(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 60 else f"{text[:57]}..."
