"""Scenes put together: a background, objects at their places, perhaps a word."""

from __future__ import annotations

import math
from dataclasses import replace

from training import fonts, world
from training.world import DIGITS, LETTERS, SIZES, Dice, Scene, Text, Thing, pick_look, place_of, vary

SMALL_DIAMETER, LARGE_DIAMETER = (0.14, 0.18), (0.25, 0.31)  # fractions of the longer side
RICH_SHARE = 0.25  # of the scenes
BORDER = 0.03  # a centre keeps this share of the side away from a border between two places
COUNTS, COUNT_WEIGHTS = range(world.MAX_OBJECTS + 1), (0.02, 0.25, 0.22, 0.2, 0.17, 0.14)
ASPECTS = ((1.0, 1.0, 0.45), (0.75, 1.0, 0.3), (0.5, 0.75, 0.19), (1 / 3, 0.5, 0.06))  # from, to, share
SIDES = ((112, 380, 0.8), (56, 112, 0.08), (380, 672, 0.12))  # of the longer side: from, to, share
TRIES = 60
STRETCH = 0.08


def pick_range(rng: Dice, ranges: tuple[tuple[float, float, float], ...]) -> float:
    """A number of one of the ranges (from, to, share)."""
    low, high, _ = rng.choices(ranges, [share for *_, share in ranges])[0]
    return rng.uniform(low, high)


def empty_scene(rng: Dice, sides: tuple[int, int] | None = None, narrowest: float = 0.0) -> Scene:
    """A background alone. ``sides``: limits of the longer side; ``narrowest``: of the shorter side over the longer.

    One scene of four is rich: any size and aspect, all shapes and backgrounds, lines, textures, JPEG, objects anywhere.
    """
    rng.rich = rng.random() < RICH_SHARE
    side = rng.randint(*sides) if sides else round(pick_range(rng, SIDES if rng.rich else SIDES[:1]))
    width, height = side, round(side * max(narrowest, pick_range(rng, ASPECTS if rng.rich else ASPECTS[:2])))
    if rng.random() < 0.4:
        width, height = height, width
    name = rng.choice(tuple(world.BACKGROUNDS) if rng.rich else world.PLAIN_BACKGROUNDS)
    style = rng.choices(world.STYLES, (0.3, 0.2, 0.2, 0.3) if rng.rich else (1, 1, 1, 0))[0]
    rgb = world.shade(rng, world.BACKGROUNDS[name], world.BACKGROUND_VARIED)
    quality = rng.randint(40, 92) if rng.rich and rng.random() < 0.4 else 0
    seed = rng.getrandbits(32)
    return Scene(width, height, name, style, rgb, seed, quality=quality, rich=rng.rich)


def make_thing(rng: Dice, scene: Scene, x: float, y: float, radius: float, size: str) -> Thing:
    """An object of random look at a place."""
    shape, colour, rgb = pick_look(rng, scene.rgb)
    turn = {"arrow": math.pi / 2 * rng.randrange(4), "moon": math.pi * rng.randrange(2)}.get(shape, 0.0)
    fill = "filled" if shape == "ring" or not rng.rich else rng.choice(world.FILLS)
    line = (250, 250, 250) if sum(rgb) < 330 else (20, 20, 20)
    cell = place_of(x, y, scene.width, scene.height)
    angle, form = turn + rng.uniform(-0.25, 0.25), rng.uniform(-1, 1) * (1.0 if rng.rich else 0.6)
    stretch = 1.0 + STRETCH * rng.uniform(-1, 1)
    return Thing(shape, colour, size, x, y, radius, angle, rgb, cell, form, fill, line, stretch)


def diameter_for(rng: Dice, scene: Scene, size: str) -> float:
    side = max(scene.width, scene.height)
    wanted = side * rng.uniform(*(SMALL_DIAMETER if size == "small" else LARGE_DIAMETER))
    return min(wanted, 0.94 * min(scene.width, scene.height))


def thing_in_cell(rng: Dice, scene: Scene, cell: int, size: str) -> Thing:
    """An object inside one cell of the 3x3 grid, clear of the cell's border where the cell is large enough."""
    cell_w, cell_h = scene.width / 3, scene.height / 3
    radius = diameter_for(rng, scene, size) / 2
    x, y = world.centre_of(cell, scene.width, scene.height)
    slack_x, slack_y = max(0.0, cell_w / 2 - radius * 1.05), max(0.0, cell_h / 2 - radius * 1.05)
    x += rng.uniform(-1, 1) * min(slack_x, cell_w * 0.33)
    y += rng.uniform(-1, 1) * min(slack_y, cell_h * 0.33)
    return make_thing(rng, scene, x, y, radius, size)


def off_border(value: float, extent: float) -> bool:
    """Whether a centre lies clearly in one third of the side."""
    return min(abs(value / extent - 1 / 3), abs(value / extent - 2 / 3)) >= BORDER


def fits(thing: Thing, scene: Scene, others: list[Thing], overlap: float) -> bool:
    """Whether the object lies in the picture, off the borders, off the text, alone in its place."""
    inside = thing.radius <= thing.x <= scene.width - thing.radius
    inside &= thing.radius <= thing.y <= scene.height - thing.radius
    clear = off_border(thing.x, scene.width) and off_border(thing.y, scene.height)
    if scene.text:
        clear &= abs(thing.y - scene.text.y) > thing.radius + 0.55 * scene.text.height
        clear &= thing.cell // 3 != place_of(scene.text.x, scene.text.y, scene.width, scene.height) // 3
    apart = all(
        math.hypot(thing.x - o.x, thing.y - o.y) >= (thing.radius + o.radius) * (1 - overlap) and thing.cell != o.cell
        for o in others
    )
    return inside and clear and apart


def free_things(rng: Dice, scene: Scene, sizes: list[str]) -> tuple[Thing, ...] | None:
    """Objects anywhere, no two in one place; overlapping a little now and then. None if they find no room."""
    overlap = 0.2 if rng.random() < 0.4 else -0.05
    found: list[Thing] = []
    for size in sizes:
        radius = diameter_for(rng, scene, size) / 2
        for _ in range(TRIES):
            x, y = rng.uniform(0, scene.width), rng.uniform(0, scene.height)
            thing = make_thing(rng, scene, x, y, radius, size)
            if fits(thing, scene, found, overlap):
                found.append(thing)
                break
        else:
            return None
    return tuple(sorted(found, key=lambda thing: thing.cell))


def lone_thing(rng: Dice, scene: Scene) -> Thing:
    """One large object anywhere, up to nearly the whole picture; never on the border between two places."""
    width, height = scene.width, scene.height
    most = 0.9 * min(width, height)
    radius = rng.uniform(min(0.27 * max(width, height), most), most) / 2
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    if not (off_border(x, width) and off_border(y, height)):
        x, y = width / 2, height / 2
    return make_thing(rng, scene, x, y, radius, "large")


def text_colour(rng: Dice, scene: Scene) -> world.RGB:
    """Mostly nearly black or white, whichever is seen on the background."""
    dark = sum(scene.rgb) < 380
    rgb = vary(rng, (240, 240, 240) if dark else (15, 15, 15))
    if rng.random() < 0.3:
        rgb = world.pick_colour(rng, scene.rgb, ("yellow", "white") if dark else ("red", "blue", "purple", "black"))[1]
    return rgb


def add_text(rng: Dice, scene: Scene, row: int) -> Scene:
    """The scene with a word, a number or random letters in a row of the 3x3 grid."""
    kind = rng.random()
    alphabet = LETTERS if kind < 0.7 else DIGITS
    content = rng.choice(world.WORDS) if kind < 0.3 else "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 4)))
    font = rng.choice(fonts.NAMES)
    height = int(min(max(scene.width, scene.height) * rng.uniform(0.18, 0.3), 0.4 * scene.height))
    while fonts.load(font, height).getlength(content) > scene.width * 0.86:
        height -= 1
    half = fonts.load(font, height).getlength(content) / 2 + 3
    rgb = text_colour(rng, scene)
    y = (row + 0.5 + rng.uniform(-0.1, 0.1)) * scene.height / 3
    y = min(max(y, 0.62 * height), scene.height - 0.62 * height)
    return replace(scene, text=Text(content, font, height, rng.uniform(half, scene.width - half), y, rgb))


def make_scene(
    rng: Dice,
    count: int | None = None,
    with_text: float = 0.0,
    sizes: tuple[str, ...] = SIZES,
    sides: tuple[int, int] | None = None,
    narrowest: float = 0.0,
) -> Scene:
    """A scene; ``with_text`` is the chance of a word in it, ``count`` the number of objects (None: any)."""
    if rng.random() < with_text:
        row = rng.randrange(3)
        scene = add_text(rng, empty_scene(rng, sides or (112, 480), 0.5), row)
        cells = [cell for cell in range(9) if cell // 3 != row]
        count = rng.choice((0, 0, 1, 1, 2)) if count is None else count
    else:
        scene, cells = empty_scene(rng, sides, narrowest), list(range(9))
        count = rng.choices(COUNTS, COUNT_WEIGHTS)[0] if count is None else count
    if count == 1 and scene.text is None and rng.random() < 0.35:
        return replace(scene, things=(lone_thing(rng, scene),))
    wanted = [rng.choice(sizes) for _ in range(count)]
    narrow = min(scene.width, scene.height) < 0.74 * max(scene.width, scene.height)
    if narrow or (rng.rich and (scene.text or rng.random() < 0.6)):
        for _ in range(12):
            things = free_things(rng, scene, wanted)
            if things is not None:
                return replace(scene, things=things)
        wanted = wanted[: len(wanted) // 2]
        return replace(scene, things=free_things(rng, scene, wanted) or ())
    chosen = sorted(rng.sample(cells, count))
    return replace(scene, things=tuple(thing_in_cell(rng, scene, c, s) for c, s in zip(chosen, wanted, strict=True)))


def crowded_scene(rng: Dice) -> Scene:
    """Rows of characters, each in a font, size and colour of its own. Nothing is asked of them.

    Their dense labels teach the tower to read: one shows it ten times as many characters as another scene.
    """
    scene = empty_scene(rng, None, 0.34)
    longest, rows = max(scene.width, scene.height), []
    y = scene.height * rng.uniform(0.02, 0.15)
    while True:
        height = max(8, int(longest * rng.uniform(0.14, 0.3)))
        if y + 1.15 * height > scene.height:
            break
        name = rng.choice(fonts.NAMES)
        font, alphabet = fonts.load(name, height), rng.choice((LETTERS, LETTERS, DIGITS, world.CHARACTERS))
        content, room = "", scene.width * rng.uniform(0.5, 0.97)
        while font.getlength(content) < room:
            content += rng.choice(alphabet)
        content = content[:-1]
        half = font.getlength(content) / 2
        x = rng.uniform(half, scene.width - half) if 2 * half < scene.width else scene.width / 2
        if content:
            rows.append(Text(content, name, height, x, y + 0.57 * height, text_colour(rng, scene)))
        y += height * rng.uniform(1.05, 1.5)
    return replace(scene, crowd=tuple(rows))
