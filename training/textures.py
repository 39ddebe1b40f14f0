"""Photographic and fractal textures, and photographs.

Photographs lie in ``runs/resources/photographs`` (``training/fetch.sh``); without them textures are fractal noise.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(__file__).parent.parent / "runs" / "resources" / "photographs"
HELD_OUT = ("astronaut", "china", "coins", "flower", "moon")
FINEST = 24  # cells of the finest octave of fractal noise along a side
Floats = NDArray[np.float32]


@cache
def photographs() -> tuple[Image.Image, ...]:
    """The photographs to train with; none where nothing was fetched."""
    found = [path for path in sorted(FOLDER.glob("*.*")) if path.stem not in HELD_OUT]
    return tuple(Image.open(path).convert("RGB") for path in found)


def crop(dice: np.random.Generator, size_wh: tuple[int, int], smallest: float) -> Image.Image:
    """A part of a photograph, at least ``smallest`` of what fits, perhaps mirrored, scaled to ``size_wh``."""
    pictures = photographs()
    picture = pictures[dice.integers(len(pictures))]
    fit = min(picture.width / size_wh[0], picture.height / size_wh[1]) * dice.uniform(smallest, 1.0)
    width, height = max(2.0, size_wh[0] * fit), max(2.0, size_wh[1] * fit)
    left, top = dice.uniform(0, picture.width - width), dice.uniform(0, picture.height - height)
    part = picture.resize(size_wh, Image.Resampling.BILINEAR, (left, top, left + width, top + height), reducing_gap=1.5)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if dice.random() < 0.5 else part


def fractal(dice: np.random.Generator, size_wh: tuple[int, int]) -> Floats:
    """[height, width, 3] of noise in which every octave is about half as strong as the one twice as coarse."""
    total = np.zeros((FINEST, FINEST, 3), np.float32)
    for cells in (3, 6, 12, FINEST):
        coarse = dice.standard_normal((cells, cells, 3), dtype=np.float32) * (3.0 / cells) ** 0.8
        colours = Image.fromarray((127 + 30 * coarse).clip(0, 255).astype(np.uint8))
        total += np.asarray(colours.resize((FINEST, FINEST), Image.Resampling.BICUBIC), np.float32)
    total -= total.mean((0, 1))
    shared = total.mean(2, keepdims=True)
    mixed = Image.fromarray((127 + 1.2 * (shared + 0.4 * (total - shared))).clip(0, 255).astype(np.uint8))
    return np.asarray(mixed.resize(size_wh, Image.Resampling.BICUBIC), np.float32)


def texture(seed: int, size_wh: tuple[int, int]) -> Floats:
    """[height, width, 3] of mean 0, to be added to a background's colour."""
    dice = np.random.default_rng(seed)
    if photographs() and dice.random() < 0.65:
        found = np.asarray(crop(dice, size_wh, 0.25), np.float32)
    else:
        found = fractal(dice, size_wh)
    found = found - found.mean((0, 1))
    spread = dice.uniform(20, 34)
    return (found * (spread / max(1.0, float(found.std())))).clip(-2.2 * spread, 2.2 * spread)
