"""Sizes and token counts of pictures: integers in, integers out (spec valley2, sections 3 and 7).

Standard library only; every rounding below is the published code's, down to ``int()`` and banker's ``round``.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass

from valley_cli.errors import PromptError, option

PATCH = 14
MERGE = 2
FACTOR = PATCH * MERGE  # 28: the side of one merged Qwen2-VL token in pixels
FETCH_MIN_PIXELS = 4 * FACTOR * FACTOR
FETCH_MAX_PIXELS = 16384 * FACTOR * FACTOR
MAX_ASPECT_RATIO = 200
SIGLIP_PATCHES = 27  # per side of a 384-pixel tile: 384 // 14, the last 6 pixels are not seen
MAP_SIDE = 14  # per side after the projector's stride-2 convolution


@dataclass(frozen=True)
class TileLayout:
    """How a picture is fitted on a canvas of ``grid_wh`` square tiles (spec 3.1, steps 2 and 3)."""

    grid_wh: tuple[int, int]
    canvas_wh: tuple[int, int]
    resized_wh: tuple[int, int]
    paste_xy: tuple[int, int]


def tile_candidates(pinpoints: str, side: int) -> list[tuple[int, int]]:
    """Canvas sizes (width, height) in pixels spanned by the first and last ``(AxB)`` of ``pinpoints``."""
    if "x" not in pinpoints:  # the canvases themselves: "[(384, 768), ...]"
        return [(int(w), int(h)) for w, h in ast.literal_eval(pinpoints)]
    pairs = re.findall(r"\((\d+)x(\d+)\)", pinpoints)
    first, last = pairs[0], pairs[-1]
    widths = range(int(first[0]), int(last[0]) + 1)
    heights = range(int(first[1]), int(last[1]) + 1)
    return [(i * side, j * side) for i in widths for j in heights]


def best_canvas(size_wh: tuple[int, int], candidates: list[tuple[int, int]]) -> tuple[int, int]:
    """The canvas that keeps most of the picture's pixels; on a tie the one that wastes least (spec 3.1, step 2)."""
    w, h = size_wh
    best, best_kept, least_waste = candidates[0], 0, math.inf
    for canvas_w, canvas_h in candidates:
        scale = min(canvas_w / w, canvas_h / h)
        kept = min(int(w * scale) * int(h * scale), w * h)
        waste = canvas_w * canvas_h - kept
        if kept > best_kept or (kept == best_kept and waste < least_waste):
            best, best_kept, least_waste = (canvas_w, canvas_h), kept, waste
    return best


def tile_layout(size_wh: tuple[int, int], pinpoints: str, side: int) -> TileLayout:
    """Grid, canvas, resized size and paste offset of a picture of ``size_wh`` pixels."""
    w, h = size_wh
    canvas_w, canvas_h = best_canvas(size_wh, tile_candidates(pinpoints, side))
    scale_w, scale_h = canvas_w / w, canvas_h / h
    if scale_w < scale_h:
        resized = (canvas_w, min(math.ceil(h * scale_w), canvas_h))
    else:
        resized = (min(math.ceil(w * scale_h), canvas_w), canvas_h)
    paste = ((canvas_w - resized[0]) // 2, (canvas_h - resized[1]) // 2)
    return TileLayout((canvas_w // side, canvas_h // side), (canvas_w, canvas_h), resized, paste)


def unpad_window(map_hw: tuple[int, int], size_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the part of the tile map that shows the picture (spec 7).

    The cut is symmetrical, ``p : H - p``, so it may keep one row more than was pasted, or nothing at all.
    """
    map_h, map_w = map_hw
    w, h = size_wh
    if w / h > map_w / map_h:
        cut = (map_h - int(h * (map_w / w))) // 2
        return cut, map_h - cut, 0, map_w
    cut = (map_w - int(w * (map_h / h))) // 2
    return 0, map_h, cut, map_w - cut


def pooled_hw(rows: int, cols: int, limit: int) -> tuple[int, int]:
    """Size the tile map is pooled to when it holds more than ``limit`` tokens (spec 7)."""
    if rows * cols <= limit:
        return rows, cols
    ratio = rows / cols
    root = math.sqrt(limit / ratio)
    return int(root * ratio), int(root)


def tile_map_hw(
    size_wh: tuple[int, int], grid_wh: tuple[int, int], max_vision_token: int, side: int = MAP_SIDE
) -> tuple[int, int]:
    """Rows and columns that a tiled picture adds after its base tile."""
    map_hw = (grid_wh[1] * side, grid_wh[0] * side)
    top, bottom, left, right = unpad_window(map_hw, size_wh)
    rows, cols = max(bottom - top, 0), max(right - left, 0)
    return pooled_hw(rows, cols, max_vision_token - side * side)


def smart_resize(h: int, w: int, min_pixels: int, max_pixels: int, *, floor: bool) -> tuple[int, int]:
    """(height, width) rounded to multiples of 28 within the pixel limits (qwen_vl_utils, Qwen2VLImageProcessor).

    ``floor``: sides are at least 28 before the limits are looked at (only the first of the two resizes does so).
    Raises PromptError for pictures more than 200 times as long as wide.
    """
    if max(h, w) / min(h, w) > MAX_ASPECT_RATIO:
        raise PromptError(
            f"a picture of {w}x{h} pixels is more than {MAX_ASPECT_RATIO} times as long as it is wide",
            "crop it, or put it on a wider canvas",
        )
    h_bar, w_bar = round(h / FACTOR) * FACTOR, round(w / FACTOR) * FACTOR
    if floor:
        h_bar, w_bar = max(FACTOR, h_bar), max(FACTOR, w_bar)
    if h_bar * w_bar > max_pixels:
        beta = math.sqrt(h * w / max_pixels)
        h_bar, w_bar = math.floor(h / beta / FACTOR) * FACTOR, math.floor(w / beta / FACTOR) * FACTOR
        if floor:
            h_bar, w_bar = max(FACTOR, h_bar), max(FACTOR, w_bar)
    elif h_bar * w_bar < min_pixels:
        beta = math.sqrt(min_pixels / (h * w))
        h_bar, w_bar = math.ceil(h * beta / FACTOR) * FACTOR, math.ceil(w * beta / FACTOR) * FACTOR
    return h_bar, w_bar


def fetch_size(size_wh: tuple[int, int]) -> tuple[int, int]:
    """(width, height) after the first of the two Qwen2-VL resizes (spec 3.2, step 1)."""
    h, w = smart_resize(size_wh[1], size_wh[0], FETCH_MIN_PIXELS, FETCH_MAX_PIXELS, floor=True)
    return w, h


def patch_size(fetched_wh: tuple[int, int], min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
    """(width, height) after the second resize (spec 3.2, step 2); None means the published default."""
    low = FETCH_MIN_PIXELS if min_pixels is None else min_pixels
    high = FETCH_MAX_PIXELS if max_pixels is None else max_pixels
    h, w = smart_resize(fetched_wh[1], fetched_wh[0], low, high, floor=False)
    if h < FACTOR or w < FACTOR:
        raise PromptError(
            f"a picture of {fetched_wh[0]}x{fetched_wh[1]} pixels vanishes under max_pixels {high}",
            f"raise {option('max_pixels')}",
        )
    return w, h
