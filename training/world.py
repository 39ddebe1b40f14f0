"""A small visual world made by code: seeded scenes of coloured shapes and words, and their drawing.

Nothing here comes from outside data. ``VERSION`` is part of every seed: change it when scenes change, so that
scores from different worlds are never compared by accident.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training import fonts
from training.shapes import SHAPES, draw_shape

VERSION = 2
SPLITS = ("train", "held-out", "example")
RGB = tuple[int, int, int]

COLOURS: dict[str, tuple[RGB, ...]] = {  # several shades each; the first is the plain one
    "red": ((215, 35, 35), (255, 0, 0), (180, 20, 25)),
    "orange": ((245, 140, 20), (255, 165, 0), (240, 120, 10)),
    "yellow": ((245, 220, 40), (255, 255, 0), (255, 235, 60)),
    "green": ((40, 160, 60), (0, 128, 0), (0, 215, 30)),
    "blue": ((40, 90, 220), (0, 0, 255), (30, 120, 235)),
    "purple": ((130, 50, 170), (128, 0, 128), (150, 70, 215)),
    "pink": ((250, 130, 190), (255, 180, 200), (255, 105, 180)),
    "brown": ((125, 75, 35), (139, 69, 19), (110, 60, 30)),
    "white": ((246, 246, 246), (255, 255, 255)),
    "black": ((14, 14, 14), (0, 0, 0)),
    "grey": ((128, 128, 128), (150, 150, 150), (105, 105, 105)),
}
BACKGROUNDS: dict[str, tuple[RGB, ...]] = {
    "white": ((244, 244, 244), (255, 255, 255)),
    "black": ((18, 18, 18), (0, 0, 0)),
    "grey": ((128, 128, 128), (145, 145, 145)),
    "beige": ((235, 220, 185), (238, 226, 198)),
    "navy": ((20, 30, 85), (0, 0, 128)),
    "mint": ((190, 235, 205), (152, 245, 190)),
}
STYLES = ("plain", "gradient", "noisy")
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
GRAINS = 168  # of the noise along the longer side, at least
MIN_CONTRAST = 100.0  # distance in RGB between an object and its background
SMALL_DIAMETER, LARGE_DIAMETER = (0.14, 0.18), (0.25, 0.31)  # fractions of the longer side
MAX_OBJECTS = 4


@dataclass(frozen=True)
class Thing:
    """One drawn object; ``x``, ``y`` and ``radius`` in pixels, ``cell`` an index into PLACES."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    rgb: RGB
    cell: int


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
    """Everything that is in a picture, enough to draw it again exactly."""

    width: int
    height: int
    background: str
    style: str
    rgb: RGB
    seed: int
    things: tuple[Thing, ...] = ()
    text: Text | None = None


@dataclass(frozen=True)
class Drawing:
    """A drawn scene. ``owner_HW`` holds 0 or 1 + the index of the thing that covers a pixel."""

    image: Image.Image
    owner_HW: NDArray[np.uint8]
    characters: tuple[tuple[float, float, str], ...] = field(default=())  # x, y in pixels, character


def rng_for(split: str, index: int) -> random.Random:
    """The generator of item ``index`` of a split. Splits never share a seed."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}")
    return random.Random(f"valley world {VERSION} {split} {index}")


def place_of(x: float, y: float, width: float, height: float) -> int:
    """The cell of a 3x3 grid that holds a point, as an index into PLACES."""
    return min(2, int(3 * y / height)) * 3 + min(2, int(3 * x / width))


def vary(rng: random.Random, rgb: RGB, amount: int = 14) -> RGB:
    """A colour close to ``rgb``."""
    red, green, blue = (min(255, max(0, value + rng.randint(-amount, amount))) for value in rgb)
    return red, green, blue


def pick_colour(rng: random.Random, background: RGB, allowed: tuple[str, ...] = ()) -> tuple[str, RGB]:
    """A colour name and a shade of it that stands out from the background."""
    while True:
        name = rng.choice(allowed or tuple(COLOURS))
        rgb = vary(rng, rng.choice(COLOURS[name]))
        if math.dist(rgb, background) >= MIN_CONTRAST:
            return name, rgb


def empty_scene(rng: random.Random, sides: tuple[int, int] = (120, 380), square: float = 0.6) -> Scene:
    """A background alone. ``square``: the share of square pictures; the rest is at most 4:3 either way."""
    side = rng.randint(*sides)
    aspect = 1.0 if rng.random() < square else rng.uniform(0.75, 1.0)
    width, height = side, round(side * aspect)
    if rng.random() < 0.5:
        width, height = height, width
    name = rng.choice(tuple(BACKGROUNDS))
    rgb = vary(rng, rng.choice(BACKGROUNDS[name]), 6)
    return Scene(width, height, name, rng.choice(STYLES), rgb, rng.getrandbits(32))


def add_text(rng: random.Random, scene: Scene, row: int) -> Scene:
    """The scene with a word, a number or random letters in a row of the 3x3 grid."""
    kind = rng.random()
    alphabet = LETTERS if kind < 0.7 else DIGITS
    content = rng.choice(WORDS) if kind < 0.4 else "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 4)))
    font = rng.choice(fonts.names())
    height = int(min(scene.width, scene.height) * rng.uniform(0.2, 0.3))
    while fonts.load(font, height).getlength(content) > scene.width * 0.86:
        height -= 1
    half = fonts.load(font, height).getlength(content) / 2 + 3
    dark = sum(scene.rgb) < 330
    rgb = vary(rng, (240, 240, 240) if dark else (15, 15, 15))
    if rng.random() < 0.3:
        rgb = pick_colour(rng, scene.rgb, ("yellow", "pink", "orange") if dark else ("red", "blue", "purple"))[1]
    y = (row + 0.5 + rng.uniform(-0.1, 0.1)) * scene.height / 3
    return replace(scene, text=Text(content, font, height, rng.uniform(half, scene.width - half), y, rgb))


def thing_in_cell(rng: random.Random, scene: Scene, cell: int, size: str) -> Thing:
    """An object inside one cell of the 3x3 grid, clear of the cell's border."""
    side, cell_w, cell_h = max(scene.width, scene.height), scene.width / 3, scene.height / 3
    diameter = side * rng.uniform(*(SMALL_DIAMETER if size == "small" else LARGE_DIAMETER))
    radius = min(diameter, 0.97 * min(cell_w, cell_h)) / 2
    slack_x, slack_y = max(0.0, cell_w / 2 - radius * 1.05), max(0.0, cell_h / 2 - radius * 1.05)
    x = (cell % 3 + 0.5) * cell_w + rng.uniform(-1, 1) * min(slack_x, cell_w * 0.33)
    y = (cell // 3 + 0.5) * cell_h + rng.uniform(-1, 1) * min(slack_y, cell_h * 0.33)
    colour, rgb = pick_colour(rng, scene.rgb)
    return Thing(rng.choice(SHAPES), colour, size, x, y, radius, rng.uniform(-0.2, 0.2), rgb, cell)


def lone_thing(rng: random.Random, scene: Scene) -> Thing:
    """One large object anywhere, up to nearly the whole picture; never on the border between two places."""
    width, height = scene.width, scene.height
    radius = rng.uniform(0.27 * max(width, height), 0.9 * min(width, height)) / 2
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    for value, extent in ((x, width), (y, height)):
        if min(abs(value / extent - 1 / 3), abs(value / extent - 2 / 3)) < 0.03:
            x, y = width / 2, height / 2
            break
    colour, rgb = pick_colour(rng, scene.rgb)
    angle = rng.uniform(-0.2, 0.2)
    return Thing(rng.choice(SHAPES), colour, "large", x, y, radius, angle, rgb, place_of(x, y, width, height))


def make_scene(
    rng: random.Random,
    count: int | None = None,
    with_text: float = 0.0,
    sizes: tuple[str, ...] = SIZES,
    sides: tuple[int, int] = (120, 380),
) -> Scene:
    """A scene; ``with_text`` is the chance of a word in it, ``count`` the number of objects (None: any)."""
    scene = empty_scene(rng, sides)
    cells = list(range(9))
    if rng.random() < with_text:
        row = rng.randrange(3)
        scene = add_text(rng, scene, row)
        cells = [cell for cell in cells if cell // 3 != row]
        count = rng.choice((0, 1, 1, 2)) if count is None else count
    elif count is None:
        count = rng.choices(range(MAX_OBJECTS + 1), (0.02, 0.32, 0.27, 0.23, 0.16))[0]
    if count == 1 and scene.text is None and rng.random() < 0.4:
        return replace(scene, things=(lone_thing(rng, scene),))
    chosen = sorted(rng.sample(cells, count))
    return replace(scene, things=tuple(thing_in_cell(rng, scene, cell, rng.choice(sizes)) for cell in chosen))


def with_a_pair(rng: random.Random, scene: Scene) -> Scene:
    """The scene with one object's shape given to another one too."""
    first, second = rng.sample(range(len(scene.things)), 2)
    things = list(scene.things)
    things[second] = replace(things[second], shape=things[first].shape)
    return replace(scene, things=tuple(things))


def draw_background(scene: Scene) -> Image.Image:
    """The scene's background: one colour, a gradient across or down, or grey noise over one colour.

    The noise has grains that grow with the picture, as the program looks at all pictures in one size.
    """
    noise = np.random.default_rng(scene.seed)
    shape = (scene.height, scene.width, 3)
    if scene.style == "plain":
        return Image.new("RGB", (scene.width, scene.height), scene.rgb)
    pixels = np.broadcast_to(np.array(scene.rgb, np.float32), shape).copy()
    if scene.style == "gradient":
        axis, slope = noise.integers(2), noise.choice((-1, 1)) * noise.uniform(28, 45)
        ramp = np.linspace(-slope, slope, shape[axis], dtype=np.float32)
        pixels += ramp[:, None, None] if axis == 0 else ramp[None, :, None]
    else:
        grain = max(1, round(max(shape) / GRAINS))
        rows, columns = -(-scene.height // grain), -(-scene.width // grain)
        grains = noise.uniform(18, 28) * noise.standard_normal((rows, columns, 1), dtype=np.float32)
        pixels += grains.repeat(grain, 0).repeat(grain, 1)[: scene.height, : scene.width]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_text(image: Image.Image, text: Text) -> tuple[tuple[float, float, str], ...]:
    """Draw a word; returns the centre of each character."""
    font = fonts.load(text.font, text.height)
    left = text.x - font.getlength(text.content) / 2
    ImageDraw.Draw(image).text((left, text.y), text.content, font=font, fill=text.rgb, anchor="lm")
    ends = [font.getlength(text.content[:i]) for i in range(len(text.content) + 1)]
    return tuple((left + (a + b) / 2, text.y, c) for a, b, c in zip(ends, ends[1:], text.content, strict=False))


def draw(scene: Scene) -> Drawing:
    """The picture of a scene; the same scene always gives the same pixels."""
    image = draw_background(scene)
    owner = Image.new("L", image.size, 0)
    smooth = 1 + scene.seed % 3  # 1: hard edges, as naive drawings have
    for number, thing in enumerate(scene.things, 1):
        stencil, corner = draw_shape(thing.shape, thing.x, thing.y, thing.radius, thing.angle, smooth)
        image.paste(thing.rgb, corner, stencil)
        owner.paste(number, corner, stencil.point(lambda value: 255 * (value > 100)))
    characters = draw_text(image, scene.text) if scene.text else ()
    return Drawing(image, np.asarray(owner), characters)
