"""A small visual world made by code: what is in it, and the seeded dice that everything is made with.

Nothing that is shipped comes from outside data. ``VERSION`` is part of every seed: change it when scenes change, so
that scores from different worlds are never compared by accident.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import combinations

from training.shapes import SHAPES

VERSION = 5
SPLITS = ("train", "held-out", "shifted", "example")
RGB = tuple[int, int, int]
Shades = dict[str, tuple[RGB, ...]]

COLOURS: dict[str, tuple[RGB, ...]] = {  # shades to train with; the first is the plain one
    "red": ((215, 35, 35), (255, 0, 0), (180, 20, 25), (230, 60, 50), (200, 15, 60)),
    "orange": ((245, 140, 20), (255, 165, 0), (240, 120, 10), (250, 150, 60)),
    "yellow": ((245, 220, 40), (255, 255, 0), (255, 235, 60), (250, 240, 120)),
    "green": ((40, 160, 60), (0, 128, 0), (0, 215, 30), (90, 190, 80), (20, 100, 40)),
    "blue": ((40, 90, 220), (0, 0, 255), (30, 120, 235), (25, 50, 160), (80, 140, 235)),
    "purple": ((130, 50, 170), (128, 0, 128), (150, 70, 215), (100, 30, 140)),
    "pink": ((250, 130, 190), (255, 180, 200), (255, 105, 180), (240, 150, 170)),
    "brown": ((125, 75, 35), (139, 69, 19), (110, 60, 30), (150, 95, 55)),
    "white": ((246, 246, 246), (255, 255, 255)),
    "black": ((14, 14, 14), (0, 0, 0), (30, 30, 30)),
    "grey": ((128, 128, 128), (150, 150, 150), (105, 105, 105), (165, 165, 165)),
}
SHIFTED_COLOURS: dict[str, tuple[RGB, ...]] = {  # out of reach of the training's shades, however those are varied
    "red": ((160, 8, 10), (235, 30, 75), (225, 75, 70)),
    "orange": ((255, 127, 80), (218, 165, 32)),
    "yellow": ((255, 215, 0), (240, 230, 140)),
    "green": ((46, 139, 87), (60, 179, 113), (75, 215, 90)),
    "blue": ((0, 0, 205), (30, 144, 255), (100, 149, 237), (0, 80, 200)),
    "purple": ((138, 43, 226), (75, 0, 130), (150, 60, 140)),
    "pink": ((219, 112, 147), (255, 150, 220), (255, 200, 220)),
    "brown": ((90, 50, 40), (165, 105, 78)),
    "white": ((255, 255, 226), (226, 240, 255)),
    "black": ((48, 46, 44), (16, 18, 48)),
    "grey": ((85, 86, 88), (119, 136, 154), (186, 185, 184)),
}
BACKGROUNDS: dict[str, tuple[RGB, ...]] = {
    "white": ((244, 244, 244), (255, 255, 255)),
    "black": ((18, 18, 18), (0, 0, 0)),
    "grey": ((128, 128, 128), (145, 145, 145), (110, 110, 110)),
    "beige": ((235, 220, 185), (238, 226, 198)),
    "navy": ((20, 30, 85), (0, 0, 128)),
    "mint": ((190, 235, 205), (152, 245, 190)),
    "light blue": ((150, 200, 240), (173, 216, 230)),
    "yellow": ((250, 225, 60), (255, 240, 110)),
    "pink": ((250, 170, 200), (255, 190, 205)),
    "green": ((50, 140, 60), (90, 170, 80)),
    "brown": ((125, 80, 45), (145, 100, 65)),
    "purple": ((115, 60, 160), (140, 90, 190)),
}
SHIFTED_BACKGROUNDS: dict[str, tuple[RGB, ...]] = {
    "white": ((255, 253, 232), (232, 238, 246)),
    "black": ((34, 32, 30), (6, 8, 28)),
    "grey": ((116, 128, 140), (144, 132, 116)),
    "beige": ((222, 206, 170), (248, 236, 214)),
    "navy": ((34, 46, 100), (0, 34, 118)),
    "mint": ((196, 248, 214), (168, 228, 206)),
    "light blue": ((135, 206, 235), (158, 200, 253)),
    "yellow": ((246, 216, 85), (255, 222, 36)),
    "pink": ((240, 188, 190), (255, 172, 216)),
    "green": ((62, 162, 88), (66, 138, 44)),
    "brown": ((142, 80, 66), (120, 96, 42)),
    "purple": ((128, 62, 146), (118, 84, 192)),
}
HELD_OUT_PAIRS = tuple(  # never drawn in training
    (colour, shape)
    for shape, colours in (("moon", ("red", "blue", "pink", "brown")), ("arrow", ("green", "yellow", "purple", "grey")))
    for colour in colours
)
PLAIN_SHAPES, PLAIN_BACKGROUNDS = SHAPES[:8], tuple(BACKGROUNDS)[:6]  # of scenes that are not rich
STYLES = ("plain", "gradient", "noisy", "textured")
PHOTOGRAPH = "photograph"
FILLS = ("filled", "filled", "filled", "filled", "outlined", "bordered")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
SIZES = ("small", "large")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
CHARACTERS = DIGITS + LETTERS
WORDS = tuple(
    (
        "CAT DOG SUN MOON TREE FISH BIRD STOP EXIT OPEN SALE HOME FIRE ROAD PARK BUS TAXI FOOD CAFE SHOP MILK TEA "
        "RAIN SNOW WIND STAR LOVE GOLD KING ZOO BOX JAZZ QUIZ LAMP DOOR HAND BLUE RED PINK ICE HELP NEW HOT COLD "
        "LEFT UP DOWN TOP GO YES NO HI OK ON OFF IN OUT"
    ).split()
)
VARIED, SHIFTED_VARIED = 14, 2  # how far each channel of an object's shade is varied, at most
BACKGROUND_VARIED = 6
UNNAMED = "unnamed"  # of an object whose colour has none of the names, in training only
LEAST_UNNAMED, LEAST_SHIFTED = 45.0, 30.0  # in RGB between an unnamed shade and the named ones; those held out
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
    shifted: bool = False
    quality: int = 0
    rich: bool = False
    crowd: tuple[Text, ...] = ()


class Dice(random.Random):
    """Random numbers of one item. ``shifted``: draw and ask as training never does. ``rich``: of the present scene.

    ``training``: questions may be disturbed, so that words never seen do not matter much. ``unnamed``: objects get
    shades that have no name, so that a shape is known in any colour.
    """

    shifted = False
    rich = False
    training = False
    unnamed = False


def rng_for(split: str, index: int) -> Dice:
    """The dice of item ``index`` of a split. Splits never share a seed."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}")
    dice = Dice(f"valley world {VERSION} {split} {index}")
    dice.shifted, dice.training = split == "shifted", split == "train"
    return dice


def place_of(x: float, y: float, width: float, height: float) -> int:
    """The cell of a 3x3 grid that holds a point, as an index into PLACES."""
    return min(2, int(3 * y / height)) * 3 + min(2, int(3 * x / width))


def vary(rng: Dice, rgb: RGB, amount: int = VARIED) -> RGB:
    """A colour close to ``rgb``."""
    red, green, blue = (min(255, max(0, value + rng.randint(-amount, amount))) for value in rgb)
    return red, green, blue


def mix_shades(rng: Dice, shades: tuple[RGB, ...]) -> RGB:
    """A shade between two of ``shades``."""
    first, second, share = rng.choice(shades), rng.choice(shades), rng.random()
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(rng: Dice, name: str, trained: Shades, held_out: Shades, spread: int) -> RGB:
    """A shade of a colour: of those held out where the dice are shifted, else between those of the training."""
    if rng.shifted:
        return vary(rng, rng.choice(held_out[name]), SHIFTED_VARIED)
    return vary(rng, mix_shades(rng, trained[name]), spread)


def named_distance(rgb: RGB) -> tuple[float, str]:
    """The nearest named colour: its distance in RGB from the lines between its shades, and its name."""
    found = []
    for name, shades in COLOURS.items():
        for first, second in combinations(shades, 2):
            along = [b - a for a, b in zip(first, second, strict=True)]
            to_here = [value - a for a, value in zip(first, rgb, strict=True)]
            share = sum(a * b for a, b in zip(along, to_here, strict=True)) / sum(a * a for a in along)
            share = min(1.0, max(0.0, share))
            found.append((math.dist(to_here, [share * a for a in along]), name))
    return min(found)


def unnamed_shade(rng: Dice, background: RGB, shape: str) -> RGB:
    """A shade without a name that stands out; far from those held out, and from the colours held out for the shape."""
    while True:
        rgb = rng.randrange(256), rng.randrange(256), rng.randrange(256)
        if math.dist(rgb, background) < MIN_CONTRAST:
            continue
        if any(math.dist(rgb, other) < LEAST_SHIFTED for shades in SHIFTED_COLOURS.values() for other in shades):
            continue
        distance, name = named_distance(rgb)
        if distance >= LEAST_UNNAMED and (name, shape) not in HELD_OUT_PAIRS:
            return rgb


def pick_colour(rng: Dice, background: RGB, allowed: tuple[str, ...] = ()) -> tuple[str, RGB]:
    """A colour name and a shade of it that stands out from the background."""
    while True:
        name = rng.choice(allowed or tuple(COLOURS))
        rgb = shade(rng, name, COLOURS, SHIFTED_COLOURS, VARIED)
        if math.dist(rgb, background) >= MIN_CONTRAST:
            return name, rgb


def pick_look(rng: Dice, background: RGB) -> tuple[str, str, RGB]:
    """Shape, colour name and shade. Held-out pairs only, and often, where the dice are shifted."""
    if rng.unnamed:
        shape = rng.choice(SHAPES)
        return shape, UNNAMED, unnamed_shade(rng, background, shape)
    if rng.shifted and rng.random() < 0.1:
        colour, shape = rng.choice(HELD_OUT_PAIRS)
        shades = [rgb for rgb in SHIFTED_COLOURS[colour] if math.dist(rgb, background) >= MIN_CONTRAST]
        if shades:
            return shape, colour, rng.choice(shades)
    colour, rgb = pick_colour(rng, background)
    shapes = SHAPES if rng.rich else PLAIN_SHAPES
    shape = rng.choice(shapes)
    while (colour, shape) in HELD_OUT_PAIRS:
        shape = rng.choice(shapes)
    return shape, colour, rgb
