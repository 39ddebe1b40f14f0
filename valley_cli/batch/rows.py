"""A line to a request: ours ``{"id"?, "prompt"?, "image"|"images"|"video"|"messages"?, ...}`` or OpenAI's batch line.

Which of the two is decided line by line. All that is wrong with a line becomes its own error record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from valley_cli.api import Media, MediaLimits, Message, Request
from valley_cli.batch.lines import Line
from valley_cli.errors import RowError
from valley_cli.settings import ANSWER_KEYS, HASHED_KEYS, Settings, override
from valley_cli.sources.expand import Kind, expand_sources
from valley_cli.sources.times import read_selection
from valley_cli.sources.transcript import read_media, read_messages, read_transcript, up_to_question
from valley_cli.text import printable

ONE, SEVERAL, CLIP = "Describe the given image.", "Describe the given images.", "Describe the given video."
_OURS = {"id", "prompt", "image", "images", "video", "videos", "messages", "system", "model", *ANSWER_KEYS}
_OPENAI = {"custom_id", "method", "url", "body"}
_CLIP_KEYS = {"frames", "fps", "max_frames", "start", "end", "at"}
_RENAMED = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
# The values of these stand in every hash of settings, in this order, as outputs have it that were begun long ago. Any
# other option is hashed by its name, and only where it is set: an output goes on when there are more options.
_HASHED_BY_PLACE = (
    *("system", "revision", "dtype", "max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed"),
    *("stop", "min_pixels", "max_pixels", "think", "flavour", "exact"),
)
# what would change the answer and is not done here, with the values that ask for nothing
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "echo": (False,),
}


@dataclass(frozen=True)
class Row:
    """A line that was looked at. ``found`` is its JSON object, empty if there is an ``error``.

    ``key``: ``SETTINGS-LINE``, hashes of the settings that shape the answer and of the line, and of its place where
    it has no id of its own.
    """

    line: Line
    key: str
    id: str | int | float | None = None
    openai: bool = False
    found: Mapping[str, Any] = field(default_factory=dict)
    error: RowError | None = None

    @property
    def passed_on(self) -> dict[str, Any]:
        """The keys that are not ours."""
        known = _OPENAI if self.openai else (_OURS | _CLIP_KEYS if "video" in self.found else _OURS)
        return {name: value for name, value in self.found.items() if name not in known}


@dataclass(frozen=True)
class RowReader:
    """What all rows have in common. ``prompt`` and ``settings.system`` stand in where a row has none of its own."""

    settings: Settings
    model: str
    prompt: str | None = None
    base_dir: str = "."
    limits: MediaLimits = field(default_factory=MediaLimits)
    allow_private: bool = False
    timeout_s: float | None = None

    @property
    def settings_hash(self) -> str:
        """8 hex digits that change with whatever shapes an answer beside its line."""
        shaping: list[Any] = [self.model, self.prompt, *(getattr(self.settings, name) for name in _HASHED_BY_PLACE)]
        for name in HASHED_KEYS:
            value = getattr(self.settings, name)
            if name not in _HASHED_BY_PLACE and value != getattr(Settings, name):
                shaping.append([name, value])
        return hashlib.blake2b(json.dumps(shaping).encode(), digest_size=4).hexdigest()

    def look(self, line: Line, is_new_id: Any) -> Row:
        """Parse ``line``, without its media. ``is_new_id(id)`` says whether no earlier line had it."""
        error, found, openai, row_id = None, {}, False, None
        try:
            found = parse(line)
            openai = "custom_id" in found or ("body" in found and "url" in found)
            row_id = checked_id(found.get("custom_id" if openai else "id"))
        except RowError as wrong:
            error = wrong
        if row_id is not None and not is_new_id(json.dumps(row_id)):
            error = RowError(f"an earlier line has the id {printable(str(row_id))} too")
        own_place = b"" if row_id is not None and not error else b"%d" % line.index
        digest = hashlib.blake2b(line.raw + b"\n" + own_place, digest_size=16)
        return Row(line, f"{self.settings_hash}-{digest.hexdigest()}", row_id, openai, found, error)

    def build(self, row: Row) -> Request:
        """The request of a row. Raises RowError and SourceError, and UsageError for options that are none."""
        if row.error:
            raise row.error
        if row.line.media:
            return self._request(self.settings, (Message("user", row.found["prompt"]),), (row.line.media,))
        if row.openai:
            return self._build_openai(row.found)
        return self._build_ours(row.found)

    def open_source(self, source: str, kind: Kind) -> tuple[Media, ...]:
        """Handles for what a row names; nobody typed it, so it may not lead to private addresses."""
        found = expand_sources([source], typed=False, base_dir=self.base_dir, kind=kind, limits=self.limits)
        return tuple(replace(media, typed=self.allow_private and media.url is not None) for media in found)

    def _build_ours(self, found: Mapping[str, Any]) -> Request:
        options = {name: found[name] for name in ANSWER_KEYS if found.get(name) is not None}
        settings = override(self.settings, options)
        media = read_media(found, self.open_source)
        if found.get("messages") is not None:
            if found.get("prompt") is not None:
                raise RowError("a prompt beside messages", "make it the last of the messages")
            messages = up_to_question(read_transcript(found, self.open_source).messages)
            return self._request(settings, messages, media)
        if selection := read_selection(found):
            media = tuple(replace(m, selection=m.selection or selection) if m.kind == "video" else m for m in media)
        prompt, system = found.get("prompt", self.prompt), found.get("system")
        if prompt is None and not media:
            raise RowError("neither a prompt nor a picture nor messages")
        for name, value in (("prompt", prompt), ("system", system)):
            if value is not None and not isinstance(value, str):
                raise RowError(f"{name} is not a text")
        opening = () if system is None else (Message("system", system),)
        return self._request(settings, (*opening, Message("user", prompt or default_prompt(media))), media)

    def _build_openai(self, found: Mapping[str, Any]) -> Request:
        body, url = found.get("body"), found.get("url", "/v1/chat/completions")
        if str(found.get("method", "POST")).upper() != "POST" or not str(url).endswith("/chat/completions"):
            raise RowError(f"only POST /v1/chat/completions is answered, not {printable(str(url))[:60]}")
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            raise RowError("the body has no list of messages")
        for name, neutral in _REFUSED.items():
            if body.get(name) is not None and body[name] not in neutral:
                raise RowError(f"{name} is not supported", f"leave {name} out")
        renamed = {_RENAMED.get(str(name), str(name)): value for name, value in body.items() if value is not None}
        options = {name: renamed[name] for name in ANSWER_KEYS if name in renamed}
        messages = read_messages(body["messages"], self.open_source, openai=True)
        return self._request(override(self.settings, options), messages, ())

    def _request(self, settings: Settings, messages: tuple[Message, ...], media: tuple[Media, ...]) -> Request:
        if settings.system is not None and (not messages or messages[0].role != "system"):
            messages = (Message("system", settings.system), *messages)
        return replace(settings.request(messages, media), timeout_s=self.timeout_s)


def default_prompt(media: tuple[Media, ...]) -> str:
    """What is asked about media that come without a question."""
    if any(handle.kind == "video" for handle in media):
        return CLIP
    return ONE if len(media) == 1 else SEVERAL


def parse(line: Line) -> dict[str, Any]:
    """The line's JSON object. Raises RowError."""
    if not line.whole:
        raise RowError("the line is too long", "name files instead of data: URIs")
    try:
        found = json.loads(line.raw)
    except json.JSONDecodeError as error:
        raise RowError(f"not JSON: {error.msg.lower()} at character {error.pos + 1}") from None
    except (ValueError, RecursionError):
        raise RowError("not JSON in UTF-8") from None
    if not isinstance(found, dict):
        raise RowError("not a JSON object")
    return found


def checked_id(value: Any) -> str | int | float | None:
    """An id as it came. Raises RowError for what cannot be one."""
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    raise RowError("the id is neither a text nor a number")
