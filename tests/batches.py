"""Batches for tests: rows to a file, the command in this process, records back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.commands import inside
from tests.conftest import IMAGES

PICTURE, OTHER = str(IMAGES / "m0_64x64.png"), str(IMAGES / "m4_200x60.png")
# what differs between two runs of the same rows
PASSING = ("timings",)


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """A prompts file: objects become lines, texts and bytes are lines already."""
    lines = [row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else _line(row) for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def _line(row: Any) -> bytes:
    return json.dumps(row).encode()


def asking(count: int, **more: Any) -> list[dict[str, Any]]:
    """``count`` different short questions."""
    return [{"id": f"q{n}", "prompt": f"What is {n}?", "max_new_tokens": 4, **more} for n in range(count)]


def read_records(text: str | bytes | Path) -> list[dict[str, Any]]:
    """The records of an output."""
    data = text.read_bytes() if isinstance(text, Path) else text
    lines = data.splitlines() if isinstance(data, bytes) else data.split("\n")
    return [json.loads(line) for line in lines if line]


def lasting(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without what passes."""
    return [{name: value for name, value in record.items() if name not in PASSING} for record in records]


def batch(*args: object) -> int:
    """``valley batch ARGS`` in this process, with the embedded model; the exit code."""
    return inside("batch", *map(str, args), "-m", "valley-mini", "--device", "cpu")
