"""Frames side by side on one picture, each with its time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from valley_cli.media.clip.clip import Frame

CELL_SIDE = 320  # of the longer side of a frame, in pixels
LABEL_SIZE, GAP = 16, 8
BACKGROUND, INK = (24, 24, 24), (240, 240, 240)


def contact_sheet(frames: Sequence[Frame]) -> Image.Image:
    """RGB; about as wide as high, rows from left to right. ``frames`` holds at least one."""
    w, h = _cell_size([frame.image.size for frame in frames])
    columns = math.ceil(math.sqrt(len(frames) * (h + LABEL_SIZE) / w))
    rows = math.ceil(len(frames) / columns)
    step_x, step_y = w + GAP, h + LABEL_SIZE + 2 * GAP
    sheet = Image.new("RGB", (GAP + columns * step_x, GAP + rows * step_y), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LABEL_SIZE)
    for number, frame in enumerate(frames):
        x, y = GAP + number % columns * step_x, GAP + number // columns * step_y
        small = frame.image.copy()
        small.thumbnail((w, h), Image.Resampling.LANCZOS)
        sheet.paste(small, (x + (w - small.width) // 2, y + (h - small.height) // 2))
        draw.text((x, y + h + GAP // 2), f"{frame.time_s:.2f} s", INK, font)
    return sheet


def _cell_size(sizes_wh: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Room for every frame, no more than ``CELL_SIDE`` on its longer side and wide enough for its label."""
    scales = [min(CELL_SIDE / max(size), 1.0) for size in sizes_wh]
    w = max(round(size[0] * scale) for size, scale in zip(sizes_wh, scales, strict=True))
    h = max(round(size[1] * scale) for size, scale in zip(sizes_wh, scales, strict=True))
    return max(w, 5 * LABEL_SIZE), max(h, 1)
