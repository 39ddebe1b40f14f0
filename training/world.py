"""A small visual world made by code: what is in it, and the seeded dice that everything is made with.

Nothing that is shipped comes from outside data. ``VERSION`` is part of every seed: change it when scenes change, so
that scores from different worlds are never compared by accident.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import combinations_with_replacement

from training.shapes import SHAPES

VERSION = 4
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
SHIFTED_COLOURS: dict[str, tuple[RGB, ...]] = {  # shades never trained on
    "red": ((220, 20, 60), (178, 34, 34), (240, 45, 25)),
    "orange": ((255, 127, 40), (230, 145, 56)),
    "yellow": ((255, 215, 0), (240, 230, 90)),
    "green": ((34, 139, 34), (60, 179, 113), (50, 205, 50)),
    "blue": ((65, 105, 225), (30, 70, 190), (0, 80, 200)),
    "purple": ((110, 20, 150), (148, 0, 211), (120, 60, 160)),
    "pink": ((255, 160, 180), (245, 120, 160), (255, 140, 210)),
    "brown": ((160, 82, 45), (101, 67, 33)),
    "white": ((250, 248, 240), (240, 246, 250)),
    "black": ((25, 25, 30), (5, 10, 5)),
    "grey": ((119, 136, 140), (140, 135, 130), (112, 112, 118)),
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
    "white": ((250, 250, 245), (238, 240, 242)),
    "black": ((28, 28, 26), (8, 10, 14)),
    "grey": ((120, 124, 128), (135, 132, 128)),
    "beige": ((228, 212, 180), (245, 232, 205)),
    "navy": ((10, 20, 100), (30, 40, 95)),
    "mint": ((175, 240, 200), (185, 228, 200)),
    "light blue": ((135, 206, 235), (160, 205, 250)),
    "yellow": ((245, 232, 85), (255, 222, 70)),
    "pink": ((245, 180, 195), (255, 175, 210)),
    "green": ((60, 150, 75), (70, 155, 60)),
    "brown": ((135, 90, 55), (118, 85, 50)),
    "purple": ((125, 75, 175), (128, 65, 150)),
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
HELD_OUT_DISTANCE = 6.0  # in RGB between a shade to train with, before it is varied, and those held out
VARIED = 14  # how far each channel of an object's shade is varied, at most
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

    ``training``: questions may be disturbed, so that words never seen do not matter much.
    """

    shifted = False
    rich = False
    training = False


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


def vary(rng: Dice, rgb: RGB, amount: int = 14) -> RGB:
    """A colour close to ``rgb``."""
    red, green, blue = (min(255, max(0, value + rng.randint(-amount, amount))) for value in rgb)
    return red, green, blue


def mix_shades(rng: Dice, shades: tuple[RGB, ...], held_out: tuple[RGB, ...]) -> RGB:
    """A shade between two of ``shades``; never one of those held out, or close to one."""
    while True:
        first, second, share = rng.choice(shades), rng.choice(shades), rng.random()
        red, green, blue = (round(a + share * (b - a)) for a, b in zip(first, second, strict=True))
        if all(math.dist((red, green, blue), other) >= HELD_OUT_DISTANCE for other in held_out):
            return red, green, blue


def shade(rng: Dice, name: str, trained: Shades, held_out: Shades, spread: int) -> RGB:
    """A shade of a colour: of those held out where the dice are shifted, else between those of the training."""
    if rng.shifted:
        return vary(rng, rng.choice(held_out[name]), spread // 2)
    return vary(rng, mix_shades(rng, trained[name], held_out[name]), spread)


def in_reach(name: str, rgb: RGB) -> bool:
    """Whether training could draw this very shade of a colour: one between two trained ones, varied."""
    for first, second in combinations_with_replacement(COLOURS[name], 2):
        low, high = 0.0, 1.0  # shares of the second shade at which every channel is within VARIED
        for a, b, value in zip(first, second, rgb, strict=True):
            ends = sorted(((value - VARIED - a) / (b - a), (value + VARIED - a) / (b - a))) if a != b else None
            if ends:
                low, high = max(low, ends[0]), min(high, ends[1])
            elif abs(value - a) > VARIED:
                low, high = 1.0, 0.0
        if low <= high:
            return True
    return False


def pick_colour(rng: Dice, background: RGB, allowed: tuple[str, ...] = ()) -> tuple[str, RGB]:
    """A colour name and a shade of it that stands out from the background."""
    while True:
        name = rng.choice(allowed or tuple(COLOURS))
        rgb = shade(rng, name, COLOURS, SHIFTED_COLOURS, VARIED)
        if math.dist(rgb, background) >= MIN_CONTRAST:
            return name, rgb


def pick_look(rng: Dice, background: RGB) -> tuple[str, str, RGB]:
    """Shape, colour name and shade. Held-out pairs only, and often, where the dice are shifted."""
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
