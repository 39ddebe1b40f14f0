"""The one road from media to pictures: fetched, decoded in turn, cached, given up when nobody waits. No torch.

The engine's requests take it, and so do the commands that look at pictures and clips themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

from PIL.Image import Image

from valley_cli.api import Media, MediaLimits, OnStage, Request, Stage, unheard
from valley_cli.errors import SourceError
from valley_cli.media.cache import MediaCache, never, source_key
from valley_cli.media.clip.clip import Clip, Frame, Plan, chosen_pictures, open_clip_file
from valley_cli.media.fetch.read import can_be_read_again, read_bytes
from valley_cli.media.picture.image import image_size, open_image

T = TypeVar("T")
_POLL_S = 0.05  # how soon a request that is given up stops waiting for its turn


class GivenUpError(SourceError):
    """Nobody wants the media any more: the request was cancelled, or its time is over."""

    def __init__(self) -> None:
        super().__init__("the request's media", "were not wanted any more")


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
class ReadTimings:
    """What reading one request's media has taken, in seconds; when to give it up, and who hears of it."""

    give_up: Callable[[], bool] = never
    on_stage: OnStage = unheard
    fetch_s: float = 0.0
    decode_s: float = 0.0

    def tell(self, name: str, done: int, total: int, unit: str) -> None:
        """Show a stage to whoever watches."""
        self.on_stage(Stage(name, done, total, unit))

    def check(self) -> None:
        """Raises GivenUpError once it is to be given up."""
        if self.give_up():
            raise GivenUpError


class MediaReader:
    """Holds what requests share; safe to use from several threads."""

    def __init__(self, limits: MediaLimits, cache_bytes: int = 0, n_decoders: int = 1) -> None:
        """``n_decoders``: how many pictures and clips are decoded at once; the others wait."""
        self._limits, self._cache = limits, MediaCache(cache_bytes)
        self._decoders = threading.Semaphore(n_decoders)

    @contextmanager
    def decoding(self, timings: ReadTimings) -> Iterator[None]:
        """A turn at decoding. Raises GivenUpError where nobody wants it any more."""
        while not self._decoders.acquire(timeout=_POLL_S):
            timings.check()
        begun = time.perf_counter()
        try:
            timings.check()
            yield
        finally:
            self._decoders.release()
            timings.decode_s += time.perf_counter() - begun

    def read(self, media: Media, timings: ReadTimings) -> bytes:
        """The bytes of a source. Raises SourceError."""
        with _fetching(timings):
            return read_bytes(media, self._limits, cancelled=timings.give_up)

    def read_once(self, media: Media, timings: ReadTimings) -> bytes:
        """The same of what should not be read twice: whoever of several requests comes first, all have its bytes."""
        source, read = source_key(media), partial(self.read, media, timings)
        return read() if source is None else self._cache.shared(("bytes", source), read, len, timings.give_up)

    def size(self, media: Media, exif: bool, read: Callable[[], bytes], timings: ReadTimings) -> tuple[int, int]:
        """Width and height of the picture that ``read`` gives the bytes of, from their head. Raises SourceError."""

        def look(data: bytes) -> tuple[int, int]:
            with self.decoding(timings):
                return image_size(data, media.name, self._limits, exif=exif)

        return self._cache.content(source_key(media), ("size", exif), read, look, _few_bytes, timings.give_up)

    def picture(self, media: Media, exif: bool, read: Callable[[], bytes], timings: ReadTimings) -> Image:
        """The same picture, RGB. Raises SourceError."""

        def decode(data: bytes) -> Image:
            with self.decoding(timings):
                return open_image(data, media.name, self._limits, exif=exif)

        return self._cache.content(source_key(media), ("image", exif), read, decode, _rgb_bytes, timings.give_up)

    def made(self, key: Hashable, make: Callable[[], T], n_bytes: Callable[[T], int], timings: ReadTimings) -> T:
        """What a family makes of a picture, wholly named by ``key``; kept like what it is made of."""

        def turn() -> T:
            with self.decoding(timings):
                return make()

        return self._cache.shared(key, turn, n_bytes, timings.give_up)

    def open_clip(self, media: Media, timings: ReadTimings, clips: ExitStack) -> Clip:
        """A clip that ``clips`` keeps open, its frames chosen. Raises SourceError."""
        with _fetching(timings):
            fetched = partial(timings.tell, "fetching", unit="bytes")
            found = open_clip_file(media, self._limits, cancelled=timings.give_up, on_progress=fetched)
            look = clips.enter_context(found)
        with self.decoding(timings):
            return clips.enter_context(look())

    def plan(self, key: Hashable | None, opened: Callable[[], Clip], timings: ReadTimings) -> Plan:
        """Which frames of a clip are looked at, and their size; several requests share it by its ``key``, which was
        made before the clip was opened. Raises SourceError."""
        return self._of_clip("plan", key, lambda: opened().plan, _few_bytes, timings)

    def frames(self, key: Hashable | None, opened: Callable[[], Clip], timings: ReadTimings) -> Decoded:
        """The frames of a clip, decoded once for all requests that look at them. Raises SourceError."""

        def decode() -> Decoded:
            clip = opened()
            with self.decoding(timings):
                return Decoded(clip.frames(partial(timings.tell, "reading frames", unit="frames")), clip.notes)

        return self._of_clip("frames", key, decode, Decoded.n_bytes, timings)

    def forget_clip(self, key: Hashable | None) -> None:
        """Look at it anew the next time."""
        for what in ("plan", "frames"):
            self._cache.drop((what, key))

    def _of_clip(
        self, what: str, key: Hashable | None, make: Callable[[], T], n_bytes: Callable[[T], int], timings: ReadTimings
    ) -> T:
        return make() if key is None else self._cache.shared((what, key), make, n_bytes, timings.give_up)


class Reading:
    """Opens the media of ``request``. ``clips`` keeps clips open; ``decode`` lists what must be called before it ends.

    Raises SourceError for what cannot be read.
    """

    def __init__(self, request: Request, reader: MediaReader, timings: ReadTimings, clips: ExitStack) -> None:
        self._exif, self._reader, self._timings, self._clips = not request.exact, reader, timings, clips
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
            self._timings.tell("reading pictures", self._opened, self._total, "pictures")
            self._opened += 1
            found += self._expand(handle)
        return found[:most]

    def _expand(self, media: Media) -> list[Source]:
        if media.frames:
            return [self._picture(media.frames[moment.index]) for moment in chosen_pictures(media)]
        if media.kind == "image":
            return [self._picture(media)]
        return self._clip(media)

    def _clip(self, media: Media) -> list[Source]:
        """A clip's chosen frames, decoded when all is known to fit."""
        source = source_key(media)  # once: the file's name may lead to another one by the time it is decoded
        key = None if source is None else (source, media.selection)
        opened = cache(partial(self._reader.open_clip, media, self._timings, self._clips))
        plan = self._reader.plan(key, opened, self._timings)
        if self._total > 1 and opened.cache_info().currsize:
            opened().rest()
        frames = cache(partial(self._reader.frames, key, opened, self._timings))
        self.decode.append(frames)
        self._noted.append((media.name, lambda: frames().notes if frames.cache_info().currsize else plan.notes))

        def image(number: int) -> Image:
            found = frames().frames
            if len(found) != len(plan.names) or found[number].size_wh != plan.size_wh:
                self._reader.forget_clip(key)  # or an address that shows another clip now would fail for ever
                raise _changed(media)
            return found[number].image

        return [Source(name, plan.size_wh, partial(image, number)) for number, name in enumerate(plan.names)]

    def _picture(self, media: Media) -> Source:
        """A picture of which only the head was looked at. A file is read again when its pixels are wanted, as many of
        them may come together; what can be read only once is kept."""
        read: Callable[[], bytes] = partial(self._reader.read, media, self._timings)
        if not can_be_read_again(media):
            read = cache(partial(self._reader.read_once, media, self._timings))
        size_wh = media.size_wh or self._reader.size(media, self._exif, read, self._timings)

        def image() -> Image:
            found = self._reader.picture(media, self._exif, read, self._timings)
            if found.size != size_wh:
                raise _changed(media)
            return found

        return Source(media.name, size_wh, image)


def _changed(media: Media) -> SourceError:
    return SourceError(media.name, "was changed while it was looked at", "run the command again")


@contextmanager
def _fetching(timings: ReadTimings) -> Iterator[None]:
    begun = time.perf_counter()
    try:
        yield
    finally:
        timings.fetch_s += time.perf_counter() - begun


def _few_bytes(value: object) -> int:
    """What a size or a plan takes in the cache, about."""
    return 1000


def _rgb_bytes(image: Image) -> int:
    return image.width * image.height * 4  # Pillow keeps a fourth byte
