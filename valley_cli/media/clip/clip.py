"""A clip's frames: chosen by their times, decoded in a child process, each one RGB picture with a name.

with open_clip(media, limits) as clip:      # the file is opened and its frames are chosen; none is kept yet
    clip.plan                               # size, moments, notes
    clip.frames()                           # (Frame(name, time_s, image), ...)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol

from PIL import Image

from valley_cli.api import FrameSelection, Media, MediaLimits
from valley_cli.media.clip.reader import Picked, Reader
from valley_cli.media.clip.select import check_selection, select
from valley_cli.media.fetch.read import Cancelled, Progress, open_file, read_bytes
from valley_cli.media.picture.image import image_size, open_image

WITHOUT_LIMIT = MediaLimits(max_image_pixels=sys.maxsize)  # it was kept when the clip was opened
OnFrame = Callable[[int, int], None]  # frames done, frames in all


@dataclass(frozen=True)
class Moment:
    """A chosen frame: its number in the clip, and its time in seconds from the clip's start."""

    index: int
    time_s: float


@dataclass(frozen=True)
class Plan:
    """What will be decoded. ``size_wh``: of the frames as they are kept; ``notes``: what a user must know."""

    name: str
    codec: str
    size_wh: tuple[int, int]
    n_frames: int
    duration_s: float
    moments: tuple[Moment, ...]
    names: tuple[str, ...]  # of the frames, one for every moment
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """A picture of a clip, as a picture file in memory (of decoded frames: PPM, no more than their pixels).

    ``time_s`` is that of the picture which came, also where another one was wanted. ``size_wh`` is None for a file that
    was given: how it is turned depends on who asks.
    """

    name: str
    time_s: float
    size_wh: tuple[int, int] | None
    data: bytes = field(repr=False)

    @property
    def image(self) -> Image.Image:
        """RGB, made anew each time."""
        return open_image(self.data, self.name, WITHOUT_LIMIT)


class Clip(Protocol):
    """A clip whose frames are chosen."""

    plan: Plan

    def frames(self, on_frame: OnFrame | None = None) -> tuple[Frame, ...]:
        """One for every moment, in their order. Raises SourceError."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user must know; grows with what decoding brings to light."""
        ...

    def rest(self) -> None:
        """Let go of what costs memory until the frames are wanted: where several clips are open."""
        ...


@contextmanager
def open_clip(
    media: Media, limits: MediaLimits, *, cancelled: Cancelled | None = None, on_progress: Progress | None = None
) -> Iterator[Clip]:
    """Look at ``media`` and choose its frames.

    Raises SourceError for what cannot be read as a clip, RefusedError where a limit is met, UsageError for a
    selection that the clip cannot satisfy.
    """
    with open_clip_file(media, limits, cancelled=cancelled, on_progress=on_progress) as look, look() as clip:
        yield clip


@contextmanager
def open_clip_file(
    media: Media, limits: MediaLimits, *, cancelled: Cancelled | None = None, on_progress: Progress | None = None
) -> Iterator[Callable[[], AbstractContextManager[Clip]]]:
    """The first half of ``open_clip``, which may take long but no processor: the bytes are here, none is decoded."""
    check_selection(media.selection or FrameSelection())
    if media.frames:
        yield lambda: nullcontext(PicturesClip(media, limits))
        return
    with open_file(media, limits, cancelled=cancelled, on_progress=on_progress) as descriptor:
        yield lambda: closing(FileClip(media.name, Reader(media, descriptor, limits, cancelled)))


class FileClip:
    """A clip in a file, read by a child process."""

    def __init__(self, name: str, reader: Reader) -> None:
        self._name, self._reader = name, reader
        try:
            found = reader.plan()
        except BaseException:
            reader.close()
            raise
        moments = tuple(Moment(index, time_s) for index, time_s in found["moments"])
        self.plan = Plan(
            name=name,
            codec=found["codec"],
            size_wh=(found["size_wh"][0], found["size_wh"][1]),
            n_frames=found["n_frames"],
            duration_s=found["duration_s"],
            moments=moments,
            names=tuple(frame_name(name, moment.time_s) for moment in moments),
            notes=tuple(found["notes"]),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._reader.notes)

    def frames(self, on_frame: OnFrame | None = None) -> tuple[Frame, ...]:
        """See ``Clip.frames``."""
        moments = self.plan.moments
        picked = self._reader.frames(len({moment.index for moment in moments}), on_frame)
        return tuple(self._frame(picked[moment.index]) for moment in moments)

    def rest(self) -> None:
        """See ``Clip.rest``. The child ends; another one will look at the clip again."""
        self._reader.close()

    close = rest

    def _frame(self, picked: Picked) -> Frame:
        return Frame(frame_name(self._name, picked.time_s), picked.time_s, self.plan.size_wh, picked.data)


class PicturesClip:
    """A clip that is given as its pictures: files, which are read at once and kept as they are."""

    def __init__(self, media: Media, limits: MediaLimits) -> None:
        wanted = media.selection or FrameSelection()
        moments = chosen_pictures(media)
        files = {index: self._read(media.frames[index], limits) for index in sorted({at.index for at in moments})}
        self._frames = tuple(Frame(media.frames[at.index].name, at.time_s, None, files[at.index][0]) for at in moments)
        n_frames, size_wh = len(media.frames), files[moments[0].index][1]
        names = tuple(frame.name for frame in self._frames)
        self.plan = Plan(media.name, "pictures", size_wh, n_frames, n_frames / wanted.frame_rate, moments, names)
        self.notes: tuple[str, ...] = ()

    @staticmethod
    def _read(picture: Media, limits: MediaLimits) -> tuple[bytes, tuple[int, int]]:
        data = read_bytes(picture, limits)
        return data, image_size(data, picture.name, limits)

    def frames(self, on_frame: OnFrame | None = None) -> tuple[Frame, ...]:
        """See ``Clip.frames``."""
        return self._frames

    def rest(self) -> None:
        """See ``Clip.rest``: there is no child."""


def chosen_pictures(media: Media) -> tuple[Moment, ...]:
    """The moments of a clip that is given as its pictures."""
    wanted = media.selection or FrameSelection()
    times_s = [index / wanted.frame_rate for index in range(len(media.frames))]
    picked = select(times_s, len(times_s) / wanted.frame_rate, wanted)
    return tuple(Moment(index, times_s[index]) for index in picked)


def frame_name(name: str, time_s: float) -> str:
    """``clip.mp4 @ 1.20 s``"""
    return f"{name} @ {time_s:.2f} s"


def planned(media: Media, clip: Clip) -> Media:
    """The clip as its chosen frames, those that are not decoded yet without pixels: enough for ``Engine.measure``."""
    if isinstance(clip, PicturesClip):
        return sampled(media, clip.frames())
    return _given_by(media, tuple(Media(name, data=b"", size_wh=clip.plan.size_wh) for name in clip.plan.names))


def sampled(media: Media, frames: tuple[Frame, ...]) -> Media:
    """The clip as its decoded frames, in memory: nothing is decoded a second time."""
    pictures = tuple(Media(frame.name, data=frame.data, size_wh=frame.size_wh) for frame in frames)
    return _given_by(media, pictures)


def _given_by(media: Media, frames: tuple[Media, ...]) -> Media:
    everything = FrameSelection(frames=len(frames))
    return replace(media, path=None, url=None, data=None, frames=frames, selection=everything)
