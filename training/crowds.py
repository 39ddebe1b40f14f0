"""Scenes full of characters. Nothing is asked of them; their dense labels teach the tower to read.

One such picture shows the tower up to ten times as many characters as another scene with a word does.
"""

from __future__ import annotations

from dataclasses import replace

from training import fonts
from training.scenes import empty_scene, pick_font, text_colour
from training.world import CHARACTERS, DIGITS, LETTERS, Dice, Scene, Text


def crowded_scene(rng: Dice) -> Scene:
    """Rows of random characters from top to bottom, each row in a font, size and colour of its own."""
    scene = empty_scene(rng, None, 0.34)
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
