"""Which moments of a clip are meant, as people type it and as JSON holds it -> ``FrameSelection``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from valley_cli.api import FrameSelection
from valley_cli.errors import UsageError
from valley_cli.text import printable

KEYS = ("frames", "fps", "max_frames", "start", "end", "at", "frame_rate")

_FIELDS = {"start": "start_s", "end": "end_s", "at": "at_s"}
_COUNTS = ("frames", "max_frames")
_TIME = re.compile(r"(?:(?:(\d+):)?([0-5]?\d):)?(\d+(?:\.\d*)?|\.\d+)")


def read_time(text: str, option: str) -> float:
    """Seconds, mm:ss or hh:mm:ss, with decimals -> seconds. Raises UsageError."""
    found = _TIME.fullmatch(text.strip())
    if not found or (found[2] is not None and float(found[3]) >= 60):
        hint = "write seconds, mm:ss or hh:mm:ss, for example 75, 1:15 or 0:01:15.5"
        raise UsageError(f"{option} {printable(text)!r} is no time", hint)
    return int(found[1] or 0) * 3600 + int(found[2] or 0) * 60 + float(found[3])


def read_selection(found: Mapping[str, Any]) -> FrameSelection | None:
    """The moments that an object with ``KEYS`` names: numbers, or times as typed. None if it has none of them.

    Raises UsageError.
    """
    given = {key: found[key] for key in KEYS if found.get(key) is not None}
    if not given:
        return None
    at = given.pop("at", [])
    values: dict[str, Any] = {
        _FIELDS.get(key, key): _count(value, key) if key in _COUNTS else _seconds(value, key)
        for key, value in given.items()
    }
    for key in ("fps", "frame_rate"):
        if values.get(key) == 0:
            raise UsageError(f"{key} is 0")
    return FrameSelection(
        **values, at_s=tuple(_seconds(value, "at") for value in (at if isinstance(at, list) else [at]))
    )


def write_selection(selection: FrameSelection) -> dict[str, Any]:
    """The keys that ``read_selection`` reads, without those that are as published."""
    names = {field: key for key, field in _FIELDS.items()}
    plain = FrameSelection()
    found = {
        names.get(entry.name, entry.name): getattr(selection, entry.name)
        for entry in fields(selection)
        if getattr(selection, entry.name) != getattr(plain, entry.name)
    }
    return found | ({"at": list(selection.at_s)} if selection.at_s else {}) or {"frames": plain.frames}


def split_options(words: list[str]) -> tuple[list[str], FrameSelection | None]:
    """Words typed behind a command -> (its sources, the moments its ``--options`` name). Raises UsageError."""
    sources: list[str] = []
    found: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            sources.append(word)
            continue
        option, equals, value = word.partition("=")
        key = option[2:].replace("-", "_")
        if key not in KEYS:
            raise UsageError(
                f"there is no option {printable(option)}", f"the options are: {', '.join(map(_flag, KEYS))}"
            )
        text = value if equals else next(rest, None)
        if text is None:
            raise UsageError(f"{option} needs a value")
        if key == "at":
            found["at"] = [*found.get("at", []), *text.split(",")]
        else:
            found[key] = int(text) if key in _COUNTS and text.isdecimal() else text
    return sources, read_selection(found)


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _count(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{key} is {_shown(value)}, not a whole number of at least 1")
    return value


def _seconds(value: Any, key: str) -> float:
    if isinstance(value, str):
        return read_time(value, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UsageError(f"{key} is {_shown(value)}, not a number of at least 0")
    return float(value)


def _shown(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False, default=str))[:60]
