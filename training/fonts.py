"""The fonts that are there: Pillow's own, and DejaVu where it is installed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import ImageFont

BUNDLED = "bundled"
FOLDERS = (Path("/usr/share/fonts/truetype/dejavu"), Path("/usr/share/fonts/dejavu-sans-fonts"))
FACES = ("Sans", "Sans-Bold", "SansMono-Bold", "SansCondensed-Bold", "Serif-Bold")
FILES = [folder / f"DejaVu{face}.ttf" for folder in FOLDERS for face in FACES]
NAMES = (BUNDLED, *(str(path) for path in FILES if path.is_file()))


@cache
def load(name: str, height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font by its name and its height in pixels."""
    return ImageFont.load_default(height) if name == BUNDLED else ImageFont.truetype(name, height)
