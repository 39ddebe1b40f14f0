"""Crowded scenes: rows of characters, or many objects. Nothing is asked of them; their dense labels teach the tower.

One such picture shows the tower up to ten times as many characters and objects as a scene of the exam does.
"""

from __future__ import annotations

import math
from dataclasses import replace

from training import fonts
from training.scenes import diameter_for, empty_scene, make_thing, pick_font, text_colour
from training.world import CHARACTERS, DIGITS, LETTERS, SIZES, Dice, Scene, Text, Thing

TEXT_SHARE = 0.75  # of the crowded scenes: rows of characters; the others are of objects
UNNAMED_SHARE = 0.5  # of the scenes of objects: in colours without a name
MOST_THINGS, TRIES = 12, 30
NEAREST = 0.8  # two centres are at least so many times the sum of their radii apart


def crowded_scene(rng: Dice) -> Scene:
    """A picture full of characters or of objects."""
    scene = empty_scene(rng, None, 0.34)
    return rows_of_text(rng, scene) if rng.random() < TEXT_SHARE else many_things(rng, scene)


def rows_of_text(rng: Dice, scene: Scene) -> Scene:
    """Rows of random characters from top to bottom, each row in a font, size and colour of its own."""
    longest, rows = max(scene.width, scene.height), []
    y = scene.height * rng.uniform(0.02, 0.15)
    while True:
        height = max(8, int(longest * rng.uniform(0.14, 0.3)))
        if y + 1.15 * height > scene.height:
            break
        name = pick_font(rng)
        font, alphabet = fonts.load(name, height), rng.choice((LETTERS, LETTERS, DIGITS, CHARACTERS))
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


def many_things(rng: Dice, scene: Scene) -> Scene:
    """Up to twelve objects anywhere, overlapping a little."""
    found: list[Thing] = []
    rng.unnamed = rng.random() < UNNAMED_SHARE
    for _ in range(rng.randint(4, MOST_THINGS)):
        size = rng.choice(SIZES)
        radius = diameter_for(rng, scene, size) / 2
        for _ in range(TRIES):
            x, y = rng.uniform(radius, scene.width - radius), rng.uniform(radius, scene.height - radius)
            if all(math.hypot(x - o.x, y - o.y) >= NEAREST * (radius + o.radius) for o in found):
                found.append(make_thing(rng, scene, x, y, radius, size))
                break
    rng.unnamed = False
    return replace(scene, things=tuple(found))
