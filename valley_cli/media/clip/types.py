"""What the parts of the decoding child hand to each other. Standard library only."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

ANIMATED = ("gif", "webp", "png", "avif")  # read by Pillow
BICUBIC = 3  # Pillow's
_DAMAGE = re.compile(rb"concealing|error while decoding|damaged|invalid as first byte")
DEFAULT_FRAME_S = 0.1  # how long a frame is shown that says nothing of it, as browsers do


class ClipError(Exception):
    """The clip cannot be read: the reason in words that fit behind its name, and a hint."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class Index:
    """Every frame of a clip in the order of the screen, known before one is kept.

    ``times_s``: when each appears, the first at 0. ``size_wh`` is upright. ``notes``: what a user must know.
    """

    codec: str
    size_wh: tuple[int, int]
    times_s: tuple[float, ...]
    duration_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pixels:
    """One RGB picture, row by row without gaps."""

    size_wh: tuple[int, int]
    data: bytes

    def turned(self, degrees: int) -> Pixels:
        """Anticlockwise by a multiple of 90."""
        return self._through(lambda image: image.rotate(degrees, expand=True)) if degrees % 360 else self

    def resized(self, size_wh: tuple[int, int]) -> Pixels:
        """The picture at ``size_wh``."""
        return self if self.size_wh == size_wh else self._through(lambda image: image.resize(size_wh, BICUBIC))

    def as_ppm(self) -> tuple[bytes, bytes]:
        """The picture as a PPM file: head and body."""
        return b"P6\n%d %d\n255\n" % self.size_wh, self.data

    def _through(self, change: Callable[[Any], Any]) -> Pixels:
        from PIL import Image  # few clips need it

        image = change(Image.frombuffer("RGB", self.size_wh, self.data, "raw", "RGB", 0, 1))
        return Pixels(image.size, image.tobytes())


class Complaints:
    """What FFmpeg prints of damage that it patches up without an error; ``descriptor`` is the file it prints to."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._read = 0  # bytes; the file is never cut, as decoding threads may print at any moment

    def heard(self) -> bool:
        """True if there were any since the last time. A line that is still being printed is left for the next."""
        if self._descriptor is None or (size := os.fstat(self._descriptor).st_size) <= self._read:
            return False
        text = os.pread(self._descriptor, size - self._read, self._read)
        lines = text[: text.rfind(b"\n") + 1]
        self._read += len(lines)
        return bool(_DAMAGE.search(lines))


class Decoder(Protocol):
    """Gives frames of one open clip. ``name``: of the library."""

    name: str
    index: Index

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, int, Pixels]]:
        """(wanted index, index of the frame that came in its place, its pixels); ``wanted`` ascends."""
        ...


def library_path(descriptor: int) -> str:
    """A path under which a library opens the file behind ``descriptor`` anew, whatever its name or folder."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    return f"/proc/self/fd/{descriptor}" if os.path.isdir("/proc/self/fd") else f"/dev/fd/{descriptor}"


def send(out: BinaryIO, message: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
    """One line of JSON; ``bytes`` says how many raw bytes follow it."""
    if parts:
        message = message | {"bytes": sum(map(len, parts))}
    out.write(json.dumps(message).encode() + b"\n")
    for part in parts:
        out.write(part)
    out.flush()
