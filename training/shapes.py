"""Outlines of the world's shapes, and their drawing as soft-edged stencils."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
RING_HOLE = 0.55  # radius of a ring's hole over the ring's own
CROSS_ARM = 0.33  # half the width of a cross's arm over its radius
Point = tuple[float, float]


def _star() -> list[Point]:
    """A five-pointed star, one point up."""
    radii = [1 if i % 2 == 0 else 0.42 for i in range(10)]
    return [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)]


def _heart(points: int = 40) -> list[Point]:
    """The well-known parametric heart, scaled into the unit circle."""
    turns = [2 * math.pi * i / points for i in range(points)]
    depth = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(16 * math.sin(t) ** 3 / 17, -d / 17) for t, d in zip(turns, depth, strict=True)]


def _cross(arm: float = CROSS_ARM) -> list[Point]:
    corner = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    return [(x * c - y * s, x * s + y * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in corner]


OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "diamond": [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)],
    "triangle": [(0, -1), (0.95, 0.8), (-0.95, 0.8)],
    "cross": _cross(),
    "star": _star(),
    "heart": _heart(),
}


def _ellipse(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int) -> None:
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)


def draw_shape(
    shape: str, x: float, y: float, radius: float, angle: float, smooth: int
) -> tuple[Image.Image, tuple[int, int]]:
    """A grey stencil of the shape and the corner to paste it at. ``smooth``: drawn so many times larger first."""
    corner = int(x - radius * 1.3) - 1, int(y - radius * 1.3) - 1
    side = int(radius * 2.6) + 3
    stencil = Image.new("L", (side * smooth, side * smooth), 0)
    draw = ImageDraw.Draw(stencil)
    cx, cy, r = (x - corner[0]) * smooth, (y - corner[1]) * smooth, radius * smooth
    if shape in ("circle", "ring"):
        _ellipse(draw, cx, cy, r, 255)
        if shape == "ring":
            _ellipse(draw, cx, cy, r * RING_HOLE, 0)
    else:
        c, s = math.cos(angle), math.sin(angle)
        draw.polygon([(cx + r * (px * c - py * s), cy + r * (px * s + py * c)) for px, py in OUTLINES[shape]], fill=255)
    return (stencil if smooth == 1 else stencil.resize((side, side), Image.Resampling.BOX)), corner
