"""The pictures and clips of one request -> pictures with sizes. No torch."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial

from PIL.Image import Image

from valley_cli.engine.base import Media, MediaLimits, Request, Stage
from valley_cli.engine.preprocess import Picture, PreprocessOptions, picture_key, plan_picture, preprocess
from valley_cli.media.cache import MediaCache, never, source_key
from valley_cli.media.fetch import read_bytes
from valley_cli.media.image import open_image
from valley_cli.media.video import Clip, Frame, chosen_pictures, open_clip_file


@dataclass(frozen=True)
class Source:
    """A picture of the request: its printable name, its size in pixels, and how to get at the RGB picture."""

    name: str
    size_wh: tuple[int, int]
    image: Callable[[], Image]


@dataclass(frozen=True)
class Decoded:
    """A clip's frames, and what a user must know of them."""

    frames: tuple[Frame, ...]
    notes: tuple[str, ...]

    def n_bytes(self) -> int:
        """A frame that stands at several moments counts once."""
        return sum(map(len, {id(frame.data): frame.data for frame in self.frames}.values()))


@dataclass
class Effort:
    """What reading one request's media has taken, in seconds, and when to give it up."""

    give_up: Callable[[], bool] = never
    fetch_s: float = 0.0
    decode_s: float = 0.0


class MediaReader:
    """Holds what requests share; safe to use from several threads."""

    def __init__(self, limits: MediaLimits, on_stage: Callable[[Stage], None] | None, cache: MediaCache) -> None:
        self._limits, self._on_stage, self._cache = limits, on_stage, cache
        self._decoders = threading.Semaphore(os.cpu_count() or 1)

    def tell(self, name: str, done: int, total: int, unit: str) -> None:
        """Show a stage to whoever watches."""
        if self._on_stage:
            self._on_stage(Stage(name, done, total, unit))

    @contextmanager
    def decoding(self, effort: Effort) -> Iterator[None]:
        """A turn at decoding."""
        with self._decoders:
            begun = time.perf_counter()
            try:
                yield
            finally:
                effort.decode_s += time.perf_counter() - begun

    def picture(self, media: Media, exif: bool, effort: Effort) -> Image:
        """RGB. Raises SourceError."""

        def read() -> bytes:
            with _fetching(effort):
                return read_bytes(media, self._limits, cancelled=effort.give_up)

        def decode(data: bytes) -> Image:
            with self.decoding(effort):
                return open_image(data, media.name, self._limits, exif=exif)

        return self._cache.content(source_key(media), ("image", exif), read, decode, _rgb_bytes, effort.give_up)

    def tensors(self, image: Image, n_pictures: int, options: PreprocessOptions, effort: Effort) -> Picture:
        """What the towers see of a picture, one of ``n_pictures``."""
        with self.decoding(effort):
            key = picture_key(image, plan_picture(image.size, n_pictures, options), options)

        def make() -> Picture:
            with self.decoding(effort):
                return preprocess(image, n_pictures, options, key)

        return self._cache.shared(("tensors", key), make, lambda picture: picture.n_bytes, effort.give_up)

    def open_clip(self, media: Media, effort: Effort, clips: ExitStack) -> Clip:
        """A clip that ``clips`` keeps open, its frames chosen. Raises SourceError."""
        with _fetching(effort):
            look = clips.enter_context(open_clip_file(media, self._limits, cancelled=effort.give_up))
        with self.decoding(effort):
            return clips.enter_context(look())

    def frames(self, clip: Clip, effort: Effort) -> tuple[Frame, ...]:
        """The clip's frames. Raises SourceError."""
        with self.decoding(effort):
            return clip.frames(partial(self.tell, "reading frames", unit="frames"))

    def shared_frames(self, media: Media, effort: Effort) -> Decoded | None:
        """The frames of a clip that several requests look at, decoded once; None where nothing is shared."""
        key = source_key(media) if self._cache.max_bytes else None
        if key is None:
            return None

        def make() -> Decoded:
            with ExitStack() as clips:
                clip = self.open_clip(media, effort, clips)
                return Decoded(self.frames(clip, effort), clip.notes)

        return self._cache.shared(("clip", key, media.selection), make, Decoded.n_bytes, effort.give_up)


class Reading:
    """Opens the media of ``request``. ``clips`` keeps clips open; ``decode`` lists what must be called before it ends.

    Raises SourceError for what cannot be read.
    """

    def __init__(self, request: Request, reader: MediaReader, effort: Effort, clips: ExitStack) -> None:
        self._exif, self._reader, self._effort, self._clips = not request.exact, reader, effort, clips
        self._total = len(request.images) + sum(len(message.media) for message in request.messages)
        self._opened = 0
        self._noted: list[tuple[str, Callable[[], tuple[str, ...]]]] = []
        self.decode: list[Callable[[], object]] = []

    def notes(self) -> tuple[str, ...]:
        """What was wrong with media that could be read all the same."""
        return tuple(f"{name}: {note}" for name, notes in self._noted for note in notes())

    def sources(self, media: Sequence[Media], most: int | None = None) -> list[Source]:
        """The pictures of ``media``, clips as their frames; no more than ``most`` are opened."""
        found: list[Source] = []
        for handle in media:
            if most is not None and len(found) >= most:
                break
            self._reader.tell("reading pictures", self._opened, self._total, "pictures")
            self._opened += 1
            found += self._expand(handle)
        return found[:most]

    def _expand(self, media: Media) -> list[Source]:
        if media.frames:
            return [self._picture(media.frames[moment.index]) for moment in chosen_pictures(media)]
        if media.kind == "image":
            return [self._picture(media)]
        if (shared := self._reader.shared_frames(media, self._effort)) is not None:
            self._noted.append((media.name, lambda: shared.notes))
            return [Source(f.name, f.size_wh or f.image.size, partial(_image, f)) for f in shared.frames]
        clip = self._reader.open_clip(media, self._effort, self._clips)
        if self._total > 1:
            clip.rest()
        self._noted.append((media.name, lambda: clip.notes))
        frames = cache(partial(self._reader.frames, clip, self._effort))
        self.decode.append(frames)

        def image(number: int) -> Image:
            return frames()[number].image

        return [Source(name, clip.plan.size_wh, partial(image, number)) for number, name in enumerate(clip.plan.names)]

    def _picture(self, media: Media) -> Source:
        image = partial(self._reader.picture, media, self._exif, self._effort)
        if media.size_wh is not None:
            return Source(media.name, media.size_wh, image)
        opened = image()
        return Source(media.name, opened.size, partial(_itself, opened))


@contextmanager
def _fetching(effort: Effort) -> Iterator[None]:
    begun = time.perf_counter()
    try:
        yield
    finally:
        effort.fetch_s += time.perf_counter() - begun


def _itself(image: Image) -> Image:
    return image


def _image(frame: Frame) -> Image:
    return frame.image


def _rgb_bytes(image: Image) -> int:
    return image.width * image.height * 4  # Pillow keeps a fourth byte
