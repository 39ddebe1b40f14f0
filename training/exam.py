"""The frozen exam: questions with one right answer each, and the pictures as the model sees them.

It lies in ``tests/data/exam``: items as JSON, pictures as tiles of a sheet. "held-out" items are of the world of
the training; "shifted" ones have shades, fonts, drawing code, phrasings and pairs of colour and shape never trained on.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from PIL import Image

from training.data import SIDE, SIDE_SEVERAL
from valley_cli.api import Engine, EngineOptions, Media, Message, Request, Sampling, TextDelta
from valley_cli.engine import open_engine

EXAM = Path(__file__).parent.parent / "tests" / "data" / "exam"
SPLITS = ("held-out", "shifted")
ACROSS = 16  # tiles in a row of a sheet
MAX_NEW_TOKENS = 160
AT_ONCE = 16  # requests that the engine works on together


@dataclass(frozen=True)
class Turn:
    """A question, how many pictures come with it, and its right answer."""

    text: str
    pictures: int
    answer: str


@dataclass(frozen=True)
class Item:
    """A conversation whose last turn is the question; those before are given. ``first``: number of its first tile."""

    split: str
    kind: str
    turns: tuple[Turn, ...]
    first: int
    system: str | None = None

    @property
    def pictures(self) -> int:
        return sum(turn.pictures for turn in self.turns)

    def images(self) -> list[Image.Image]:
        """Its pictures, padded and scaled as the program would."""
        side = SIDE if self.pictures == 1 else SIDE_SEVERAL
        numbers = range(self.first, self.first + self.pictures)
        corners = [(number % ACROSS * side, number // ACROSS * side) for number in numbers]
        return [_sheet(self.split, side).crop((x, y, x + side, y + side)) for x, y in corners]


@cache
def _sheet(split: str, side: int) -> Image.Image:
    return Image.open(EXAM / f"{split}-{side}.jpg").convert("RGB")


def exam_items(split: str, per_kind: int = 10) -> list[Item]:
    """The items of a split; ``per_kind``: the first ones of each kind."""
    found: dict[str, list[Item]] = {}
    for told in json.loads((EXAM / f"{split}.json").read_text()):
        turns = tuple(Turn(*turn) for turn in told["turns"])
        item = Item(split, told["kind"], turns, told["first"], told.get("system"))
        found.setdefault(item.kind, []).append(item)
    return [item for items in found.values() for item in items[:per_kind]]


def shuffled(items: Sequence[Item]) -> list[Item]:
    """Every item that has pictures, with those of the next one that has as many; those that find none are left out."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.pictures, []).append(item)
    pairs = [
        pair for number, group in groups.items() if number for pair in zip(group, group[1:] + group[:1], strict=True)
    ]
    return [replace(here, first=there.first) for here, there in pairs if here is not there]


def as_png(image: Image.Image, name: str) -> Media:
    """A picture as the bytes of a PNG file (lossless)."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return Media(name, data=buffer.getvalue())


def messages(item: Item) -> tuple[Message, ...]:
    """The item's turns, each with its pictures, as the program takes them."""
    media = [as_png(image, f"picture {number}") for number, image in enumerate(item.images(), 1)]
    said = [Message("system", item.system)] if item.system else []
    for turn in item.turns:
        said.append(Message("user", turn.text, tuple(media[: turn.pictures])))
        said.append(Message("assistant", turn.answer))
        del media[: turn.pictures]
    return tuple(said[:-1])


def ask_engine(engine: Engine, item: Item) -> str:
    """The greedy answer to an item's last question."""
    request = Request(messages(item), sampling=Sampling(max_new_tokens=MAX_NEW_TOKENS))
    return "".join(event.text for event in engine.submit(request) if isinstance(event, TextDelta))


def results(folder: Path, items: Sequence[Item]) -> list[bool]:
    """Whether the program's engine with this model answers each item exactly; requests run beside each other."""
    engine = open_engine(EngineOptions(model=str(folder), device="cpu"))
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            said = list(pool.map(lambda item: ask_engine(engine, item), items))
    finally:
        engine.close()
    return [answer == item.turns[-1].answer for answer, item in zip(said, items, strict=True)]
