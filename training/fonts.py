"""The fonts that are there: Pillow's own, and DejaVu where it is installed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import ImageFont

BUNDLED = "bundled"
DEJAVU_FOLDERS = (Path("/usr/share/fonts/truetype/dejavu"), Path("/usr/share/fonts/dejavu-sans-fonts"))
DEJAVU_FILES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSansCondensed-Bold.ttf",
    "DejaVuSerif-Bold.ttf",
)
AnyFont = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def names() -> tuple[str, ...]:
    """Every usable font: "bundled" and the paths of the DejaVu files found."""
    found = [str(folder / name) for folder in DEJAVU_FOLDERS for name in DEJAVU_FILES if (folder / name).is_file()]
    return (BUNDLED, *found)


@cache
def load(name: str, height: int) -> AnyFont:
    """A font by its name in ``names()`` and its height in pixels."""
    if name == BUNDLED:
        return ImageFont.load_default(height)
    return ImageFont.truetype(name, height)
