"""The fonts that are there: Pillow's own, DejaVu where it is installed, and those that ``training/fetch.sh`` fetched.

``HELD_OUT`` families are never trained on.
"""

from __future__ import annotations

import re
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
FETCHED = Path(__file__).parent.parent / "runs" / "resources" / "fonts"
HELD_OUT = ("OpenSans", "Carlito", "LiberationSerif", "Hack", "ComicNeue", "Roboto")
UNUSUAL = re.compile("Italic|Oblique|Thin|Hairline|Light|Script|Style|Cardoi|Cond", re.IGNORECASE)
AnyFont = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def names() -> tuple[str, ...]:
    """Fonts to train with: "bundled" and paths. Slanted and hair-thin ones are left out."""
    fetched = [path for path in sorted(FETCHED.glob("*.[ot]tf")) if not UNUSUAL.search(path.stem)]
    dejavu = [str(folder / name) for folder in DEJAVU_FOLDERS for name in DEJAVU_FILES if (folder / name).is_file()]
    return (BUNDLED, *dejavu, *(str(path) for path in fetched if not path.stem.startswith(HELD_OUT)))


USUAL = names()[: 1 + sum((folder / name).is_file() for folder in DEJAVU_FOLDERS for name in DEJAVU_FILES)]


@cache
def load(name: str, height: int) -> AnyFont:
    """A font by its name in ``names()`` and its height in pixels."""
    if name == BUNDLED:
        return ImageFont.load_default(height)
    return ImageFont.truetype(name, height)
