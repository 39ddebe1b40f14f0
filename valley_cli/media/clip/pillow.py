"""Frames of animated pictures (GIF, WebP, PNG, AVIF) with Pillow. Runs in the decoding child only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from valley_cli.media.clip.types import DEFAULT_FRAME_S, ClipError, Index, Pixels


@dataclass
class PillowDecoder:
    """Pillow on one open picture of several frames."""

    image: Any
    index: Index
    name: str = "Pillow"

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, int, Pixels]]:
        """See ``Decoder.frames``."""
        for index in wanted:
            self.image.seek(index)
            yield index, index, Pixels(self.image.size, self.image.convert("RGB").tobytes())


def open_pillow(path: str, kind: str, max_pixels: int) -> PillowDecoder:
    """Raises ClipError for a picture that stands still, is damaged, or has more than ``max_pixels``."""
    Image.MAX_IMAGE_PIXELS = None
    try:
        image: Any = Image.open(path, formats=[kind.upper()])
    except Exception:  # Pillow's decoders raise nearly everything
        raise ClipError(f"is a damaged {kind.upper()} picture", "copy or download it again") from None
    if image.width * image.height > max_pixels:
        raise ClipError(f"has frames of {image.width * image.height / 1e6:,.1f} M pixels, more than the limit")
    if kind != "gif" and getattr(image, "n_frames", 1) == 1:
        raise ClipError("is a picture, not a clip", "for pictures: valley describe")
    durations_s, notes = _durations(image)
    if not durations_s:
        raise ClipError(f"is a damaged {kind.upper()} picture", "copy or download it again")
    times = [0.0]
    for duration in durations_s:
        times.append(times[-1] + duration)
    return PillowDecoder(image, Index(kind, image.size, tuple(times[:-1]), times[-1], notes))


def _durations(image: Any) -> tuple[list[float], tuple[str, ...]]:
    """How long each frame is shown, in seconds; what is damaged ends the list."""
    found: list[float] = []
    try:
        while True:
            image.seek(len(found))
            image.load()
            found.append(image.info.get("duration", 0) / 1000 or DEFAULT_FRAME_S)
    except EOFError:
        return found, ()
    except Exception:
        return found, (f"cut off or damaged after {len(found)} frames",)
