"""A clip file and the child that decodes it; a child that is lost or late is replaced once, by one without decord."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from valley_cli.api import FrameSelection, Media, MediaLimits
from valley_cli.errors import LibraryError, RefusedError, SourceError, UsageError, option
from valley_cli.media.clip.child import Budget, Child, ChildLateError, ChildLostError, StoppedError
from valley_cli.media.fetch.read import Cancelled
from valley_cli.media.picture.image import not_media
from valley_cli.text import CLIPS, PICTURES, SNIFF_BYTES, moves, sniff

FIRST_SHARE_S = 60.0  # of the time, for the attempt with decord; the second has the rest
HURRY = f"choose fewer {option('frames')} or a shorter part, or raise VALLEY_CLIP_TIMEOUT"

T = TypeVar("T")
Message = tuple[dict[str, Any], bytes | None]


@dataclass(frozen=True)
class Picked:
    """A frame as it came: its time in seconds from the clip's start, and a picture file (PPM)."""

    time_s: float
    data: bytes


class Reader:
    """Reads the clip behind ``descriptor``. ``notes``: what a user must know about what was read."""

    def __init__(self, media: Media, descriptor: int, limits: MediaLimits, cancelled: Cancelled | None) -> None:
        self.notes: list[str] = []
        self._media, self._descriptor, self._limits = media, descriptor, limits
        self._kind = check_kind(media, os.pread(descriptor, SNIFF_BYTES, 0))
        self._budget = Budget(limits.clip_timeout_s, cancelled)
        self._child: Child | None = None
        self._retried = False

    def plan(self) -> dict[str, Any]:
        """The clip's codec, size, length and chosen moments (see ``video_worker.serve``)."""
        plan, _ = self._with_retry(self._start)
        self.notes += plan["notes"]
        return plan

    def frames(self, count: int, on_frame: Callable[[int, int], None] | None) -> dict[int, Picked]:
        """The chosen frames by their number in the clip; ``count`` of them. Raises SourceError, UsageError."""
        return self._with_retry(lambda: self._read_frames(count, on_frame))

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
        self._child = None

    def _with_retry(self, read: Callable[[], T]) -> T:
        try:
            try:
                return read()
            except (ChildLostError, ChildLateError):
                if self._retried:
                    raise
                self.close()
                self._retried = True
                return read()
        except ChildLateError:
            limit = self._limits.clip_timeout_s
            raise RefusedError(self._media.name, f"could not be decoded within {limit:g} s", HURRY) from None
        except ChildLostError:
            hint = f"if memory is short take fewer {option('frames')}, else convert it: ffmpeg -i CLIP new.mp4"
            raise SourceError(self._media.name, "the decoder was killed or crashed, twice", hint) from None
        except StoppedError:
            raise SourceError(self._media.name, "reading was stopped") from None

    def _start(self) -> tuple[dict[str, Any], Child]:
        """A child that has chosen the frames and waits, and what it chose."""
        job = {
            "kind": self._kind,
            "decoder": "av" if self._retried else "auto",
            "selection": asdict(self._media.selection or FrameSelection()),
            "max_pixels": self._limits.max_image_pixels,
            "keep_pixels": self._limits.max_clip_pixels,
        }
        share_s = self._budget.left_s if self._retried else min(FIRST_SHARE_S, self._limits.clip_timeout_s / 2)
        self._child = Child(job, self._descriptor, self._budget.share(share_s))
        plan = self._checked(self._child)[0]["plan"]
        if plan["decoder"] != "decord":  # a second attempt would do the same
            self._child.budget = self._budget
        return plan, self._child

    def _read_frames(self, count: int, on_frame: Callable[[int, int], None] | None) -> dict[int, Picked]:
        child = self._child or self._start()[1]
        child.go()
        found: dict[int, Picked] = {}
        while True:
            if on_frame is not None and len(found) < count:
                on_frame(len(found), count)
            message, data = self._checked(child)
            if data is None:
                self.notes += message["notes"]
                self.close()
                return found
            found[message["frame"]] = Picked(message["time_s"], data)

    def _checked(self, child: Child) -> Message:
        message, data = child.receive()
        if "error" in message:
            if message.get("library"):
                raise LibraryError(message["error"], message["hint"])
            if message.get("usage"):
                raise UsageError(f"{self._media.name}: {message['error']}", message["hint"])
            raise SourceError(self._media.name, message["error"], message["hint"])
        return message, data


def check_kind(media: Media, head: bytes) -> str:
    """The kind of clip its first bytes say. Raises SourceError for what is none."""
    kind = sniff(head)
    if kind in CLIPS or moves(head):
        return kind
    if kind in PICTURES:
        hint = f"for pictures: valley describe {media.name}; for a clip of pictures name several, or their folder"
        raise SourceError(media.name, "is a picture, not a clip", hint)
    raise not_media(media.name, kind, "clip")
