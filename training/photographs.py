"""What can honestly be said of a photograph: its main colours, how light it is, where it is lighter."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image

from training import textures
from training.draw import draw
from training.phrases import ask
from training.questions import Question, join, sentence
from training.world import COLOURS, PHOTOGRAPH, Dice, Scene

ONLY_DRAWINGS = "I only know simple drawings."
GRID = 12  # a photograph is judged as GRID x GRID even spots


def photograph(rng: Dice) -> tuple[list[Scene], list[Question]]:
    """A part of a photograph (none were fetched: a fractal texture) and what to say of it."""
    width, height = rng.randint(120, 480), rng.randint(120, 480)
    quality = rng.randint(40, 92) if rng.random() < 0.5 else 0
    style = PHOTOGRAPH if textures.photographs() else "textured"
    scene = Scene(width, height, "", style, (128, 128, 128), rng.getrandbits(32), quality=quality)
    return [scene], questions_about(rng, draw(scene).image)


def colour_name(rgb: tuple[float, float, float]) -> str:
    """The nearest plain colour name, by hue where there is one."""
    hue, light, _ = colorsys.rgb_to_hls(*(value / 255 for value in rgb))
    chroma = (max(rgb) - min(rgb)) / 255
    if chroma < 0.12:
        return "black" if light < 0.2 else "white" if light > 0.82 else "grey"
    degrees = hue * 360
    if light < 0.12:
        return "black"
    for limit, name in ((15, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (255, "blue"), (300, "purple")):
        if degrees < limit:
            return "brown" if name in ("orange", "red") and light < 0.42 and chroma < 0.6 else name
    return "pink" if degrees < 345 or light > 0.6 else "red"


def judged(image: Image.Image) -> tuple[list[str], str, str]:
    """(main colours, "light" or "dark" or "neither light nor dark", where it is lighter or "")."""
    spots = np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX), np.float64)
    names = [colour_name(tuple(rgb)) for row in spots for rgb in row]
    shares = sorted(((names.count(name) / len(names), name) for name in COLOURS), reverse=True)
    main = [name for share, name in shares[:2] if share >= 0.25] or [shares[0][1]]
    bright = spots.mean(2)
    level = "light" if bright.mean() > 150 else "dark" if bright.mean() < 90 else "neither light nor dark"
    half = GRID // 2
    parts = {
        "top": bright[:half].mean(),
        "bottom": bright[half:].mean(),
        "left": bright[:, :half].mean(),
        "right": bright[:, half:].mean(),
    }
    across, down = parts["right"] - parts["left"], parts["bottom"] - parts["top"]
    where = ""
    if max(abs(across), abs(down)) > 22:
        where = ("right" if across > 0 else "left") if abs(across) > abs(down) else "bottom" if down > 0 else "top"
    return main, level, where


def questions_about(rng: Dice, image: Image.Image) -> list[Question]:
    """Questions whose answers follow from the pixels."""
    main, level, where = judged(image)
    told = f"a photograph, {level}, mostly {join(main)}{f', lighter at the {where}' if where else ''}"
    found = [Question("describe photograph", ask(rng, "describe"), f"{sentence(told)} {ONLY_DRAWINGS}")]
    found.append(Question("light", ask(rng, "light"), sentence(level)))
    found.append(Question("main colours", ask(rng, "main_colours"), sentence(join(main))))
    others: tuple[str, ...] = ("count", "shape_only", "shapes")
    found.append(Question("photograph", ask(rng, rng.choice(others)), f"This is a photograph. {ONLY_DRAWINGS}"))
    return found
