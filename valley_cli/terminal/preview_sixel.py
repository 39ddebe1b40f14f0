"""A picture as sixels: bands of six rows, each drawn once for every colour in it (vt100.net, VT330/340, chapter 14)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

COLOURS = 64
BAND = 6  # rows


def sixels(image: Image.Image) -> str:
    """The escape sequence that draws ``image``, pixel for pixel, in at most ``COLOURS`` colours."""
    indexed = image.convert("RGB").quantize(COLOURS)
    width, height = indexed.size
    palette = indexed.getpalette() or []
    pixels_HW = np.asarray(indexed)
    registers = "".join(f"#{colour};2;{_percent(palette, colour)}" for colour in np.unique(pixels_HW))
    bands = ("$".join(_lines(pixels_HW[top : top + BAND])) for top in range(0, height, BAND))
    return f'\x1bPq"1;1;{width};{height}{registers}{"-".join(bands)}\x1b\\'


def _percent(palette: list[int], colour: int) -> str:
    return ";".join(str(round(value * 100 / 255)) for value in palette[3 * colour : 3 * colour + 3])


def _lines(band_HW: np.ndarray) -> Iterator[str]:
    """For each colour in the band a line of characters, whose bits are the rows that have it."""
    weights_H1 = 1 << np.arange(len(band_HW))[:, None]
    for colour in np.unique(band_HW):
        bits_W = ((band_HW == colour) * weights_H1).sum(axis=0)
        starts = np.flatnonzero(np.diff(bits_W, prepend=-1))
        lengths = np.diff(starts, append=len(bits_W))
        runs = zip(bits_W[starts].tolist(), lengths.tolist(), strict=True)
        yield f"#{colour}" + "".join(_run(value, length) for value, length in runs)


def _run(value: int, length: int) -> str:
    character = chr(63 + value)
    return f"!{length}{character}" if length > 3 else character * length
