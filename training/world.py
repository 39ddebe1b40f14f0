"""A small visual world made by code: what is in it, and the seeded dice that everything is made with.

Nothing that is shipped comes from outside data. ``VERSION`` is part of every seed: change it when scenes change, so
that scores from different worlds are never compared by accident.
"""

from __future__ import annotations

import math
import random
import tomllib
from dataclasses import dataclass
from pathlib import Path

from training.shapes import SHAPES

VERSION = 5
RGB = tuple[int, int, int]
Shades = dict[str, tuple[RGB, ...]]

_DATA = tomllib.loads(Path(__file__).with_name("world.toml").read_text())


def _shades(table: str) -> Shades:
    return {name: tuple((r, g, b) for r, g, b in shades) for name, shades in _DATA[table].items()}


COLOURS, BACKGROUNDS = _shades("colours"), _shades("backgrounds")
HELD_OUT_PAIRS = tuple(  # never drawn in training
    (colour, shape)
    for shape, colours in (("moon", ("red", "blue", "pink", "brown")), ("arrow", ("green", "yellow", "purple", "grey")))
    for colour in colours
)
PLAIN_SHAPES, PLAIN_BACKGROUNDS = SHAPES[:8], tuple(BACKGROUNDS)[:6]  # of scenes that are not rich
STYLES = ("plain", "gradient", "noisy", "textured")
FILLS = ("filled", "filled", "filled", "filled", "outlined", "bordered")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
SIZES = ("small", "large")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
CHARACTERS = DIGITS + LETTERS
WORDS: tuple[str, ...] = tuple(_DATA["words"].split())
VARIED = 14  # how far each channel of an object's shade is varied, at most
BACKGROUND_VARIED = 6
MIN_CONTRAST = 100.0  # distance in RGB between an object and its background
MAX_OBJECTS = 5


@dataclass(frozen=True)
class Thing:
    """One drawn object; ``x``, ``y`` and ``radius`` in pixels, ``cell`` an index into PLACES.

    ``form`` from -1 to 1 varies the shape's proportions, ``stretch`` its width over its height; ``line`` is the
    outline's colour of a bordered one.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    rgb: RGB
    cell: int
    form: float = 0.0
    fill: str = "filled"
    line: RGB = (0, 0, 0)
    stretch: float = 1.0


@dataclass(frozen=True)
class Text:
    """A word drawn in the scene; ``x``, ``y`` is its centre in pixels."""

    content: str
    font: str
    height: int
    x: float
    y: float
    rgb: RGB


@dataclass(frozen=True)
class Scene:
    """Everything that is in a picture, enough to draw it again exactly.

    ``quality``: of its JPEG copy, 0 for none. ``crowd``: rows of characters that nothing is asked about.
    """

    width: int
    height: int
    background: str
    style: str
    rgb: RGB
    seed: int
    things: tuple[Thing, ...] = ()
    text: Text | None = None
    quality: int = 0
    rich: bool = False
    crowd: tuple[Text, ...] = ()


class Dice(random.Random):
    """Random numbers of one sample. ``rich``: of the present scene."""

    rich = False


def dice_for(index: int) -> Dice:
    """The dice of sample ``index``; the frozen exam was made with others."""
    return Dice(f"valley world {VERSION} train {index}")


def place_of(x: float, y: float, width: float, height: float) -> int:
    """The cell of a 3x3 grid that holds a point, as an index into PLACES."""
    return min(2, int(3 * y / height)) * 3 + min(2, int(3 * x / width))


def centre_of(cell: int, width: int, height: int) -> tuple[float, float]:
    """The middle of a cell."""
    return (cell % 3 + 0.5) * width / 3, (cell // 3 + 0.5) * height / 3


def vary(rng: Dice, rgb: RGB, amount: int = VARIED) -> RGB:
    """A colour close to ``rgb``."""
    red, green, blue = (min(255, max(0, value + rng.randint(-amount, amount))) for value in rgb)
    return red, green, blue


def mix_shades(rng: Dice, shades: tuple[RGB, ...]) -> RGB:
    """A shade between two of ``shades``."""
    first, second, share = rng.choice(shades), rng.choice(shades), rng.random()
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(rng: Dice, shades: tuple[RGB, ...], spread: int) -> RGB:
    """A colour on or near a line between two of ``shades``."""
    return vary(rng, mix_shades(rng, shades), spread)


def pick_colour(rng: Dice, background: RGB, allowed: tuple[str, ...] = ()) -> tuple[str, RGB]:
    """A colour name and a shade of it that stands out from the background."""
    while True:
        name = rng.choice(allowed or tuple(COLOURS))
        rgb = shade(rng, COLOURS[name], VARIED)
        if math.dist(rgb, background) >= MIN_CONTRAST:
            return name, rgb


def pick_look(rng: Dice, background: RGB) -> tuple[str, str, RGB]:
    """Shape, colour name and shade; never a pair that is held out."""
    colour, rgb = pick_colour(rng, background)
    shapes = SHAPES if rng.rich else PLAIN_SHAPES
    shape = rng.choice(shapes)
    while (colour, shape) in HELD_OUT_PAIRS:
        shape = rng.choice(shapes)
    return shape, colour, rgb
