"""The shifted world's own drawing: shapes from formulas on a pixel grid, and backgrounds, never trained on."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.world import Thing

Floats = NDArray[np.float64]
SAMPLES = 3  # points along each side of a pixel


def _polygon(x: Floats, y: Floats, corners: list[tuple[float, float]]) -> NDArray[np.bool_]:
    """Whether points lie in a polygon (even-odd rule)."""
    inside = np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return inside


def _star(x: Floats, y: Floats) -> NDArray[np.bool_]:
    corners = [(1.02 if i % 2 == 0 else 0.4, i * math.pi / 5) for i in range(10)]
    return _polygon(x, y, [(r * math.sin(t), -r * math.cos(t)) for r, t in corners])


def _heart(x: Floats, y: Floats) -> NDArray[np.bool_]:
    """The sextic heart curve."""
    u, v = x * 1.22, 0.12 - y * 1.2
    return (u * u + v * v - 1) ** 3 - u * u * v**3 < 0


def _moon(x: Floats, y: Floats) -> NDArray[np.bool_]:
    """A disc without another disc."""
    return ((x - 0.25) ** 2 + y * y < 1) & ((x - 0.72) ** 2 + y * y > 0.72)


def _arrow(x: Floats, y: Floats) -> NDArray[np.bool_]:
    return ((x > -0.95) & (x <= 0.1) & (abs(y) < 0.3)) | ((x > 0.1) & (x < 1) & (abs(y) < 0.78 * (1 - x) / 0.9))


def inside(shape: str, x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Whether points, in units of the radius, belong to the shape."""
    square = np.maximum(abs(x), abs(y))
    formulas = {
        "circle": lambda: x * x + y * y < 1,
        "ring": lambda: (x * x + y * y < 1) & (x * x + y * y > 0.58**2),
        "square": lambda: square < 0.82,
        "diamond": lambda: abs(x) / 0.7 + abs(y) < 1,
        "triangle": lambda: _polygon(x, y, [(0, -0.95), (0.9, 0.72), (-0.9, 0.72)]),
        "cross": lambda: (square < 0.98) & (np.minimum(abs(x), abs(y)) < 0.31),
        "star": lambda: _star(x, y),
        "heart": lambda: _heart(x, y),
        "moon": lambda: _moon(x, y),
        "arrow": lambda: _arrow(x, y),
    }
    return formulas[shape]()


def coverage(thing: Thing, corner: tuple[int, int], side: int, scale: float) -> Floats:
    """[side, side]: the share of each pixel that the shape, shrunk by ``scale``, covers."""
    points = (np.arange(side * SAMPLES) + 0.5) / SAMPLES
    dx, dy = (points + corner[0] - thing.x)[None], (points + corner[1] - thing.y)[:, None]
    c, s = math.cos(thing.angle), math.sin(thing.angle)
    radius = thing.radius * scale
    found = inside(thing.shape, (c * dx + s * dy) / radius, (c * dy - s * dx) / radius)
    return found.reshape(side, SAMPLES, side, SAMPLES).mean((1, 3))


def draw_thing(image: Image.Image, thing: Thing, number: int, owner: Image.Image) -> None:
    """Draw one object: filled, shaded from top to bottom, or bordered by a smaller copy of itself."""
    corner = int(thing.x - thing.radius * 1.4) - 1, int(thing.y - thing.radius * 1.4) - 1
    side = int(thing.radius * 2.8) + 3
    whole = coverage(thing, corner, side, 1.0)
    stencil = Image.fromarray((255 * whole).astype(np.uint8))
    if thing.fill == "bordered":
        image.paste(tuple(int(0.55 * value) for value in thing.rgb), corner, stencil)
        core = coverage(thing, corner, side, 0.86)
        image.paste(thing.rgb, corner, Image.fromarray((255 * core).astype(np.uint8)))
    else:
        shade = np.linspace(10, -10, side)[:, None, None] * (thing.fill == "outlined")
        pixels = np.broadcast_to(np.array(thing.rgb) + shade, (side, side, 3)).clip(0, 255)
        image.paste(Image.fromarray(pixels.astype(np.uint8)), corner, stencil)
    owner.paste(number, corner, stencil.point(lambda value: 255 * (value > 100)))


def background(dice: np.random.Generator, style: str, height: int, width: int) -> NDArray[np.float32]:
    """[height, width, 1] to add to a colour: a gradient out from the middle, or salt and pepper."""
    if style == "gradient":
        y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
        far = np.hypot(x, y)
        return (dice.choice((-1, 1)) * 38 * (far - far.mean()) / far.max()).astype(np.float32)[..., None]
    grain = max(1, round(max(height, width) / 140))
    cells = dice.random((-(-height // grain), -(-width // grain), 1))
    specks = 55.0 * ((cells > 0.85).astype(np.float32) - (cells < 0.15))
    return specks.repeat(grain, 0).repeat(grain, 1)[:height, :width].astype(np.float32)
