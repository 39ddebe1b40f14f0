"""Outlines of the world's shapes, and their drawing as soft-edged stencils."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from training.world import Thing

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring", "moon", "arrow")
Point = tuple[float, float]


def _star(inner: float) -> list[Point]:
    """A five-pointed star, one point up."""
    radii = [1 if i % 2 == 0 else inner for i in range(10)]
    return [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)]


def _heart(depth: float, points: int = 40) -> list[Point]:
    """The well-known parametric heart, scaled into the unit circle; ``depth`` stretches it downwards."""
    turns = [2 * math.pi * i / points for i in range(points)]
    heights = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(16 * math.sin(t) ** 3 / 17, -depth * d / 17) for t, d in zip(turns, heights, strict=True)]


def _cross(arm: float) -> list[Point]:
    corner = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    return [(x * c - y * s, x * s + y * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in corner]


def _moon(bite: float, points: int = 24) -> list[Point]:
    """A crescent: the outer arc of the unit circle, then back along a circle through the same two tips."""
    tip = 0.95  # height of the tips
    outer = math.asin(tip)
    out = [outer + (2 * math.pi - 2 * outer) * i / points for i in range(points + 1)]
    edge = math.cos(outer)
    centre = (edge * edge + tip * tip - bite * bite) / (2 * (edge - bite))  # through the tips and (bite, 0)
    radius = math.hypot(edge - centre, tip)
    inner = math.asin(tip / radius)
    back = [math.pi + inner - 2 * inner * i / points for i in range(1, points)]
    shape = [(math.cos(t), math.sin(t)) for t in out]
    return [(x + 0.3, y) for x, y in shape + [(centre + radius * math.cos(t), radius * math.sin(t)) for t in back]]


def _arrow(shaft: float) -> list[Point]:
    """An arrow that points to the right."""
    head = 0.05
    return [(-1, -shaft), (head, -shaft), (head, -0.72), (1, 0), (head, 0.72), (head, shaft), (-1, shaft)]


def outline(shape: str, form: float) -> list[Point]:
    """Corners of a shape within the unit circle; ``form`` from -1 to 1 varies its proportions."""
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "diamond":
        half = 0.72 + 0.08 * form
        return [(0, -1), (half, 0), (0, 1), (-half, 0)]
    if shape == "triangle":
        half = 0.95 - 0.08 * (1 + form)
        return [(0, -1), (half, 0.8), (-half, 0.8)]
    if shape == "moon":
        return _moon(-0.42 + 0.12 * form)
    if shape == "arrow":
        return _arrow(0.28 + 0.06 * form)
    if shape == "star":
        return _star(0.42 + 0.07 * form)
    if shape == "heart":
        return _heart(1.0 + 0.1 * form)
    return _cross(0.33 + 0.06 * form)


def ring_hole(form: float) -> float:
    """Radius of a ring's hole over the ring's own."""
    return 0.55 + 0.06 * form


def square_of(thing: Thing) -> tuple[tuple[int, int], int]:
    """The corner and the side, in pixels, of the square that a shape's stencils cover."""
    return (int(thing.x - thing.radius * 1.3) - 1, int(thing.y - thing.radius * 1.3) - 1), int(thing.radius * 2.6) + 3


def stencil(thing: Thing, smooth: int, line: float = 0.0) -> Image.Image:
    """The shape in white on black, or its outline of width ``line`` over the radius.

    ``smooth``: drawn so many times larger first.
    """
    corner, side = square_of(thing)
    cx, cy, r = (thing.x - corner[0]) * smooth, (thing.y - corner[1]) * smooth, thing.radius * smooth
    wide, high = r * thing.stretch**0.5, r / thing.stretch**0.5
    width = max(round(line * r), smooth)
    image = Image.new("L", (side * smooth, side * smooth), 0)
    draw = ImageDraw.Draw(image)
    if thing.shape in ("circle", "ring"):
        box = [cx - wide, cy - high, cx + wide, cy + high]
        draw.ellipse(box, fill=0 if line else 255, outline=255, width=width)
        if thing.shape == "ring" and not line:
            across, down = wide * ring_hole(thing.form), high * ring_hole(thing.form)
            draw.ellipse([cx - across, cy - down, cx + across, cy + down], fill=0)
    else:
        c, s = math.cos(thing.angle), math.sin(thing.angle)
        points = [(wide * px, high * py) for px, py in outline(thing.shape, thing.form)]
        corners = [(cx + px * c - py * s, cy + px * s + py * c) for px, py in points]
        if line:
            draw.line([*corners, *corners[:2]], fill=255, width=width, joint="curve")
        else:
            draw.polygon(corners, fill=255)
    return image if smooth == 1 else image.resize((side, side), Image.Resampling.BOX)
