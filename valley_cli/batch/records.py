"""What stands in the output: one JSON object a row, ours or in the shape of OpenAI's batch output."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from valley_cli.api import Done, Media, Request
from valley_cli.batch.rows import Row
from valley_cli.errors import UsageError, ValleyError
from valley_cli.settings import as_flags
from valley_cli.text import printable, printable_url

_MEDIA_KEYS = ("image", "images", "video", "videos")
_OWN = {
    *("id", "index", "key", "status", "response", "thinking", "finish_reason", "usage", "timings", "model"),
    *("error", "prompt", "sources", "input", "custom_id", "notes"),
}


@dataclass(frozen=True)
class Outcome:
    """How a row ended: with a ``done`` answer or an ``error``. ``request`` is None if none came of the line."""

    row: Row
    request: Request | None = None
    done: Done | None = None
    text: str = ""
    thinking: str = ""
    error: BaseException | None = None


@dataclass(frozen=True)
class Finished:
    """What is left of an outcome once its record is made: nothing of the media. ``complaint``: for people."""

    found: dict[str, Any]
    done: Done | None
    complaint: str | None = None

    @property
    def failed(self) -> bool:
        return self.done is None


@dataclass(frozen=True)
class Kept:
    """What a record on a line of an output file says of itself."""

    key: str
    index: int
    failed: bool
    found: Mapping[str, Any] = field(default_factory=dict)


def finish(outcome: Outcome) -> Finished:
    """Make the record of ``outcome``."""
    return Finished(record(outcome), outcome.done, complaint(outcome) if outcome.error else None)


def complaint(outcome: Outcome) -> str:
    """Which row failed and why, on one line."""
    assert outcome.error is not None
    row = outcome.row
    name = f"row {row.line.index}" + ("" if row.id is None else f" ({printable(str(row.id))[:80]})")
    return printable(f"{name}: {explained(outcome.error, row)}")


def record(outcome: Outcome) -> dict[str, Any]:
    """The object for ``outcome``. What we do not know is passed on, under ``input`` where we have such a key too."""
    row = outcome.row
    shape = _openai_shape if row.openai else _our_shape
    found = shape(outcome) | _asked(outcome)
    passed = row.passed_on
    taken = {name: value for name, value in passed.items() if name in _OWN}
    found |= {name: value for name, value in passed.items() if name not in _OWN}
    return found | ({"input": taken} if taken else {})


def record_line(found: Mapping[str, Any], *, only_ascii: bool = False) -> bytes:
    """One line in UTF-8; what UTF-8 cannot hold (bytes of odd file names) stays in JSON's own escapes."""
    text = json.dumps(found, ensure_ascii=only_ascii, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_record(line: bytes) -> Kept | None:
    """The record on ``line``, or None if it is none of ours."""
    try:
        found = json.loads(line)
        key, index, status = found["key"], found["index"], found["status"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(key, str) or not isinstance(index, int) or status not in ("ok", "error"):
        return None
    return Kept(key, index, status == "error", found)


def explained(error: BaseException, row: Row) -> str:
    """An error in one sentence, with the hint; faults of the line itself begin with its number."""
    if not isinstance(error, ValleyError):
        return f"unexpected {type(error).__name__}: {error}"
    where = f"line {row.line.number}: " if isinstance(error, UsageError) and row.line.number else ""
    return as_flags(f"{where}{error.message}" + (f" ({error.hint})" if error.hint else ""))


def _our_shape(outcome: Outcome) -> dict[str, Any]:
    row, done = outcome.row, outcome.done
    head = {"id": row.id, "index": row.line.index, "key": row.key, "status": "ok" if done else "error"}
    if done is None:
        return head | {"error": _error(outcome)}
    answer: dict[str, Any] = {"response": outcome.text}
    if outcome.thinking:
        answer["thinking"] = outcome.thinking
    if done.notes:
        answer["notes"] = list(done.notes)
    usage = asdict(done.usage)
    del usage["cached_tokens"]  # what happened to be there, not what the row took
    timings = {name: round(value, 6) for name, value in asdict(done.timings).items()}
    return (
        head | answer | {"finish_reason": done.finish_reason, "usage": usage, "timings": timings, "model": done.model}
    )


def _openai_shape(outcome: Outcome) -> dict[str, Any]:
    row, done, key = outcome.row, outcome.done, outcome.row.key
    head = {"id": f"batch_req_{key}", "index": row.line.index, "key": key, "custom_id": row.id}
    if done is None:
        return head | {"status": "error", "response": None, "error": _error(outcome, openai=True)}
    message = {"role": "assistant", "content": outcome.text}
    if outcome.thinking:
        message["reasoning_content"] = outcome.thinking
    prompt_tokens, new_tokens = done.usage.prompt_tokens, done.usage.completion_tokens
    body = {
        "id": f"chatcmpl-{key}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": done.model,
        "choices": [{"index": 0, "message": message, "finish_reason": done.finish_reason}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": new_tokens,
            "total_tokens": prompt_tokens + new_tokens,
        },
    }
    timings = {name: round(value, 6) for name, value in asdict(done.timings).items()}
    response = {"status_code": 200, "request_id": key, "body": body}
    return head | {"status": "ok", "response": response, "error": None, "timings": timings}


def _error(outcome: Outcome, *, openai: bool = False) -> dict[str, str]:
    error = outcome.error
    assert error is not None
    kind = type(error).__name__
    code = error.code if isinstance(error, ValleyError) else ValleyError.code
    head = {"code": kind} if openai else {"type": kind, "code": code}
    return head | {"message": explained(error, outcome.row)}


def _asked(outcome: Outcome) -> dict[str, Any]:
    """The question and the media, for whoever has only the output; as they were written where no request came of it."""
    request = outcome.request
    if request is None:
        return _written(outcome.row)
    question = next((message.content for message in reversed(request.messages) if message.role == "user"), "")
    handles = [*request.images, *(media for message in request.messages for media in message.media)]
    return {"prompt": question, "sources": [_source(media) for media in handles]}


def _written(row: Row) -> dict[str, Any]:
    """``prompt`` and ``sources`` of a line in which anything may be wrong, as far as they can be told."""
    found: Any = row.found.get("body") if row.openai else row.found
    whole = found if isinstance(found, dict) else {}
    turns = [turn for turn in _listed(whole.get("messages")) if isinstance(turn, dict)]
    parts = [part for turn in turns for part in _listed(turn.get("content")) if isinstance(part, dict)]
    texts = [whole.get("prompt"), *(turn.get("content") for turn in turns), *(part.get("text") for part in parts)]
    names = [name for turn in (whole, *turns) for key in _MEDIA_KEYS for name in _listed(turn.get(key))]
    names += [url.get("url") for part in parts if isinstance(url := part.get("image_url"), dict)]
    prompt = [text for text in texts if isinstance(text, str)][-1:]
    sources = [_shown(name) for name in names if isinstance(name, str)]
    return ({"prompt": prompt[0]} if prompt else {}) | ({"sources": sources} if sources else {})


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _shown(name: str) -> str:
    """A source as it was written, without credentials and without the contents of a data: URI."""
    return printable_url(name if len(name) < 500 else f"{name[:60]}...")


def _source(media: Media) -> str:
    """A path as it can be opened from the working folder; anything else by its printable name."""
    return media.path if media.path is not None else media.name
