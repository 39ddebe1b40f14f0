"""A file of records as one page that opens from disk: thumbnails, questions, answers, errors, search and filter.

Everything comes from the records and from the local files they name, as far as those can still be read; nothing is
fetched. The page holds its rows as JSON and makes elements of those that are looked at. Texts reach it by
``textContent`` only, and its policy allows no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, TextIO

import jinja2

from valley_cli.api import FrameSelection, Media, MediaLimits, Stage
from valley_cli.batch.records import read_record
from valley_cli.errors import SourceError, UsageError
from valley_cli.media.picture.image import thumbnail
from valley_cli.terminal.render import StatusLine
from valley_cli.text import CLIPS, PICTURES, SNIFF_BYTES, printable, sniff

MAX_ROWS = 50_000  # more than a browser shows with pleasure
SIDE = 128
_LIMITS = MediaLimits(max_image_bytes=50_000_000)


@dataclass
class Figures:
    """What the page's head says."""

    rows: int = 0
    failed: int = 0
    new_tokens: int = 0
    models: set[str] = field(default_factory=set)


def write_report(output: str, page: TextIO, status: StatusLine) -> None:
    """Write the page about the records in the file ``output``. Raises SourceError, UsageError."""
    figures = Figures()
    for found in read_records(output):
        count(figures, found)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    script, style = (_part(name) for name in ("report.js", "report.css"))
    template = environment.from_string(_part("report.html"))
    thumbnails = Thumbnails(os.path.dirname(output))
    parts = template.generate(
        title=printable(os.path.basename(output)),
        figures=figures,
        shown=min(figures.rows, MAX_ROWS),
        rows=rows_of(output, thumbnails, status, figures.rows),
        script=script,
        style=style,
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
    )
    for part in parts:
        page.write(part)
    page.flush()
    status.clear()


def read_records(output: str) -> Iterator[Mapping[str, Any]]:
    """The records of a file, without a last line that is torn. Raises SourceError, UsageError."""
    name = printable(output)
    try:
        with open(output, "rb") as file:
            for number, line in enumerate(file, 1):
                kept = read_record(line)
                if kept is not None:
                    yield kept.found
                elif line.strip() and line.endswith(b"\n"):
                    raise UsageError(f"{name} was not written by valley batch (line {number} is no record)")
    except OSError as error:
        raise SourceError(name, (error.strerror or "cannot be read").lower()) from None


def count(figures: Figures, found: Mapping[str, Any]) -> None:
    """Add a record to the figures."""
    figures.rows += 1
    figures.failed += found["status"] == "error"
    body = _body(found)
    tokens = _mapping(body.get("usage")).get("completion_tokens")
    figures.new_tokens += tokens if isinstance(tokens, int) else 0
    if isinstance(body.get("model"), str):
        figures.models.add(printable(body["model"]))


def rows_of(output: str, thumbnails: Thumbnails, status: StatusLine, total: int) -> Iterator[dict[str, Any]]:
    """What the page needs of every record; a thumbnail comes with the first row that shows it."""
    for number, found in enumerate(read_records(output)):
        if number == MAX_ROWS:
            return
        status.stage(Stage("writing the report: row", number, total, "rows"))
        yield row_of(found, thumbnails)


def row_of(found: Mapping[str, Any], thumbnails: Thumbnails) -> dict[str, Any]:
    """One record, ours or in OpenAI's shape."""
    body, error = _body(found), _mapping(found.get("error"))
    kind = error.get("type") or error.get("code")  # OpenAI's shape has the kind in "code"
    choices = body.get("choices")
    choice = _mapping(choices[0]) if isinstance(choices, list) and choices else {}
    message = _mapping(choice.get("message"))
    usage = _mapping(body.get("usage"))
    sources = [source for source in found.get("sources") or [] if isinstance(source, str)]
    numbers, pictures = thumbnails.of(sources)
    return {
        "index": found["index"],
        "id": _text(found.get("custom_id", found.get("id"))),
        "failed": found["status"] == "error",
        "prompt": _text(found.get("prompt")),
        "answer": _text(found.get("response") if "usage" in found else message.get("content")),
        "thinking": _text(found.get("thinking", message.get("reasoning_content"))),
        "error": ": ".join(_text(part) for part in (kind, error.get("message")) if part is not None),
        "facts": [
            *(
                _text(value)
                for value in (found.get("finish_reason", choice.get("finish_reason")), body.get("model"))
                if value
            ),
            *(
                f"{usage[name]} {name.replace('_', ' ')}"
                for name in ("prompt_tokens", "completion_tokens")
                if name in usage
            ),
        ],
        "sources": sources,
        "shown": numbers,
        "thumbnails": pictures,
    }


class Thumbnails:
    """Small pictures of sources, numbered; each is handed out once. Paths start here or at the output's folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._numbers: dict[str, int] = {}
        self._contents: dict[bytes, int] = {}

    def of(self, sources: list[str]) -> tuple[list[int], dict[int, str]]:
        """(a number for every source, -1 for those without; the ``data:`` URIs of the new ones)"""
        new: dict[int, str] = {}
        for source in sources:
            if source not in self._numbers:
                self._numbers[source] = self._make(source, new)
        return [self._numbers[source] for source in sources], new

    def _make(self, source: str, new: dict[int, str]) -> int:
        jpeg = self._read(source)
        if jpeg is None:
            return -1
        number = self._contents.setdefault(hashlib.blake2b(jpeg, digest_size=16).digest(), len(self._contents))
        if number == len(self._contents) - 1:
            new[number] = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        return number

    def _read(self, source: str) -> bytes | None:
        if "://" in source or source.startswith(("data:", "-")):
            return None
        for path in dict.fromkeys((source, os.path.join(self._folder, source))):
            with suppress(Exception):  # gone, unreadable, no picture any more: then there is none
                return _jpeg(path)
        return None


def _jpeg(path: str) -> bytes:
    """A small picture of a picture, or of a clip's first frame."""
    with open(path, "rb") as file:
        kind = sniff(file.read(SNIFF_BYTES))
    if kind in PICTURES:
        return thumbnail(Media(path, path=path, typed=False), _LIMITS, SIDE)
    if kind not in CLIPS:
        raise ValueError(kind)
    from valley_cli.media.clip.clip import open_clip  # decoders cost half a second

    clip = Media(path, "video", path=path, typed=False, selection=FrameSelection(frames=1))
    with open_clip(clip, _LIMITS) as opened:
        return thumbnail(opened.frames()[0].image, _LIMITS, SIDE)


def _body(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the answer, model and usage are: in our records the record itself."""
    response = found.get("response")
    return _mapping(response.get("body")) if isinstance(response, dict) else found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _part(name: str) -> str:
    return files("valley_cli").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names an inline part."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
