"""Pictures on a terminal: real graphics where the terminal has them, else two pixels a character.

Which graphics a terminal has is told by its environment variables alone: asking the terminal itself would swallow
keys that were typed ahead. The protocols: kitty's (https://sw.kovidgoyal.net/kitty/graphics-protocol), iTerm2's
(https://iterm2.com/documentation-images.html) and sixel (``preview_sixel``).
"""

from __future__ import annotations

import base64
import io
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, TextIO

from PIL import Image, ImageOps

from valley_cli.api import Media, MediaLimits
from valley_cli.media.fetch.read import read_bytes
from valley_cli.media.picture.image import open_image

Graphics = Literal["kitty", "iterm", "sixel", "truecolor", "256"]

MAX_COLUMNS, MAX_ROWS = 64, 16  # cells of a preview: it is there to recognise a picture, not to look at it
MAX_FRAMES = 16
FRAMES_A_ROW = 4
_GAP = 0.02  # between frames, of their height
_KITTY_CHUNK = 4096


@dataclass(frozen=True)
class Screen:
    """Room for a preview, in cells, and how it can be drawn. ``cell_wh``: pixels of a cell."""

    columns: int
    rows: int
    graphics: Graphics
    cell_wh: tuple[int, int] = (10, 20)


def screen_of(stream: TextIO, environ: Mapping[str, str]) -> Screen | None:
    """The screen behind ``stream``; None where nothing can be drawn: a pipe, a dumb terminal, no colours wanted."""
    graphics = graphics_of(environ)
    coloured = graphics in ("truecolor", "256")
    if not stream.isatty() or environ.get("TERM", "dumb") == "dumb" or (coloured and environ.get("NO_COLOR")):
        return None
    if coloured and not (stream.encoding or "").lower().startswith("utf"):
        return None
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        columns, rows = 80, 24
    room = min(columns or 80, MAX_COLUMNS), max(min((rows or 24) - 4, MAX_ROWS), 2)
    return Screen(*room, graphics, _cell_size(stream) or Screen.cell_wh)


def graphics_of(environ: Mapping[str, str]) -> Graphics:
    """The best that the terminal has, by the variables that terminals set; inside tmux or screen never graphics."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if not (environ.get("TMUX") or environ.get("STY") or term.startswith(("tmux", "screen"))):
        if environ.get("KITTY_WINDOW_ID") or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
            return "kitty"
        if program in ("iTerm.app", "WezTerm", "mintty") or environ.get("LC_TERMINAL") == "iTerm2":
            return "iterm"
        if term.startswith(("foot", "mlterm")) or "sixel" in term or environ.get("WT_SESSION"):
            return "sixel"
    return "truecolor" if environ.get("COLORTERM") in ("truecolor", "24bit") else "256"


def _cell_size(stream: TextIO) -> tuple[int, int] | None:
    """Pixels (w, h) of a cell, where the terminal tells."""
    with suppress(ImportError, OSError, ValueError):
        import fcntl
        import termios

        answer = fcntl.ioctl(stream.fileno(), termios.TIOCGWINSZ, bytes(8))
        rows, columns, width, height = struct.unpack("4H", answer)
        if rows and columns and width and height:
            return width // columns, height // rows
    return None


def pictures_of(media: Media, limits: MediaLimits) -> tuple[Media, list[Image.Image]]:
    """(the same in memory, so that nothing is fetched twice; the picture, or the frames of a clip that is its frames).

    Raises SourceError.
    """
    if media.frames:
        return media, [image for frame in media.frames for image in pictures_of(frame, limits)[1]]
    data = read_bytes(media, limits)
    held = replace(media, path=None, url=None, data=data)
    return held, [open_image(data, media.name, limits)]


def draw(images: Sequence[Image.Image], screen: Screen) -> str:
    """What shows ``images``, several as one sheet, and leaves the cursor at the beginning of a line."""
    image = images[0] if len(images) == 1 else sheet(images)
    columns, rows = fit(image.size, screen)
    width, height = columns * screen.cell_wh[0], rows * screen.cell_wh[1]
    if screen.graphics == "kitty":
        return _kitty(image.resize((width, height)), columns, rows)
    if screen.graphics == "iterm":
        data = _png(image.resize((width, height)))
        return f"\x1b]1337;File=inline=1;size={len(data)};width={columns};height={rows}:{_base64(data)}\x07\n"
    if screen.graphics == "sixel":
        from valley_cli.terminal.preview_sixel import sixels  # numpy

        return sixels(image.resize((width, height))) + "\n"
    return half_blocks(image.resize((columns, 2 * rows)), true_colour=screen.graphics == "truecolor")


def fit(size_wh: tuple[int, int], screen: Screen) -> tuple[int, int]:
    """Cells (columns, rows) that a picture takes; a cell is twice as high as it is wide, more or less."""
    w, h = size_wh
    scale = min(screen.columns / w, 2 * screen.rows / h)
    return max(round(w * scale), 1), max(round(h * scale / 2), 1)


def sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures in rows, each within the size of the first; of many, some spread evenly."""
    step = max(len(images) / MAX_FRAMES, 1)
    shown = [images[int(index * step)] for index in range(min(len(images), MAX_FRAMES))]
    w, h = shown[0].size
    gap = max(round(h * _GAP), 1)
    n_columns = min(len(shown), FRAMES_A_ROW)
    n_rows = -(-len(shown) // n_columns)
    whole = Image.new("RGB", (n_columns * (w + gap) - gap, n_rows * (h + gap) - gap))
    for index, image in enumerate(shown):
        row, column = divmod(index, n_columns)
        whole.paste(ImageOps.pad(image, (w, h)), (column * (w + gap), row * (h + gap)))
    return whole


def half_blocks(image: Image.Image, *, true_colour: bool) -> str:
    """A character for every two pixels, one above the other; the height is even."""
    width, height = image.size
    pixels = image.convert("RGB").load()
    assert pixels is not None
    colour = _true_colour if true_colour else _of_256
    lines = []
    for y in range(0, height, 2):
        line, before = "", ("", "")
        for x in range(width):
            upper, lower = colour(pixels[x, y]), colour(pixels[x, y + 1])  # type: ignore[arg-type]
            if (upper, lower) != before:
                line += f"\x1b[38;{upper};48;{lower}m"
                before = upper, lower
            line += "▀"
        lines.append(line + "\x1b[0m\n")
    return "".join(lines)


def _true_colour(rgb: tuple[int, int, int]) -> str:
    return "2;{};{};{}".format(*rgb)


def _of_256(rgb: tuple[int, int, int]) -> str:
    """The nearest of the 6x6x6 cube and the 24 greys."""
    cube = [min(range(6), key=lambda level: abs(_LEVELS[level] - value)) for value in rgb]
    grey = min(max(round((sum(rgb) / 3 - 8) / 10), 0), 23)
    cube_distance = sum((_LEVELS[level] - value) ** 2 for level, value in zip(cube, rgb, strict=True))
    grey_distance = sum((8 + 10 * grey - value) ** 2 for value in rgb)
    return f"5;{232 + grey}" if grey_distance < cube_distance else f"5;{16 + 36 * cube[0] + 6 * cube[1] + cube[2]}"


_LEVELS = (0, 95, 135, 175, 215, 255)


def _kitty(image: Image.Image, columns: int, rows: int) -> str:
    return "".join(_kitty_chunks(_base64(_png(image)), f"a=T,f=100,q=2,c={columns},r={rows},")) + "\n"


def _kitty_chunks(data: str, keys: str) -> Iterator[str]:
    for start in range(0, len(data), _KITTY_CHUNK):
        more = int(start + _KITTY_CHUNK < len(data))
        yield f"\x1b_G{keys if start == 0 else ''}m={more};{data[start : start + _KITTY_CHUNK]}\x1b\\"


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
