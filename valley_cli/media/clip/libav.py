"""Frames of a clip with PyAV: the times of all frames from the packets alone, then the wanted ones by seeking.

Runs in the decoding child only. FFmpeg may use its ``file`` protocol and the one demuxer that the bytes ask for:
no playlists, no concatenation, no network.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import av
import av.logging

from valley_cli.media.clip.types import ClipError, Complaints, Index, Pixels

DEMUXERS = {"mkv": "matroska", "webm": "matroska", "mp4": "mov", "ts": "mpegts"}  # others by their own name
CONVERT = "convert it where it plays: ffmpeg -i CLIP new.mp4"
DEFAULT_RATE = 25.0  # frames a second of a clip that names no times and no rate
MAX_THREADS = 4  # each holds frames of its own
END = object()  # of the packets: what the decoder still holds comes then
MAX_ERRORS = 1000  # broken packets before a file is given up
# PyAV 18 refuses clips whose tags are not UTF-8 unless told otherwise; later ones escape what is not, and take no word.
_ANY_TAGS = {"metadata_errors": "replace"} if av.__version__.startswith("18.") else {}


@dataclass(frozen=True)
class Packets:
    """The times of a stream's frames in the order of the screen, in units of ``time_base_s``.

    ``keys``: the pts of keyframes, ascending. ``counted``: the container has no usable times; frames are counted off.
    """

    pts: list[int]
    keys: list[int]
    end: int
    counted: bool
    discards: bool  # an edit list hides frames
    leading: bool  # keyframes are followed by frames shown before them, which need the pictures before (open GOP)
    broken: int


@dataclass
class AvDecoder:
    """PyAV on one open clip."""

    container: Any
    stream: Any
    kind: str
    packets: Packets
    index: Index
    rotation: int
    reopen: Callable[[], tuple[Any, Any]]
    complaints: Complaints
    name: str = "PyAV"
    lenient: bool = False  # show frames that are damaged
    _frames: Iterator[Any] = field(default_factory=lambda: iter(()))
    _target: int | None = None  # pts; of frames before it only those are decoded that others lean on

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, int, Pixels]]:
        """See ``Decoder.frames``. A frame that cannot be decoded is replaced by the next one that can, or the last."""
        chosen = self._counted(wanted) if self.packets.counted else self._by_time(wanted)
        last: tuple[int, Any] | None = None
        for index, (came, frame) in zip(wanted, chosen, strict=True):
            if frame is not None:
                last = came, frame
            if last is None:
                raise ClipError("none of its frames can be decoded")
            yield index, last[0], self.pixels(last[1])

    def first(self) -> Any:
        """The first frame that can be decoded; if none is whole, damaged ones do from now on. Raises ClipError."""
        for self.lenient in (False, True):
            self._seek(None)
            if (frame := next(self._frames, None)) is not None:
                return frame
        name = self.stream.codec_context.name
        raise ClipError(f"none of its frames can be decoded ({name})", "copy or download it again")

    def pixels(self, frame: Any) -> Pixels:
        """Upright, of the clip's size."""
        w, h = self.index.size_wh
        if self.rotation % 180:
            w, h = h, w
        plane = frame.reformat(width=w, height=h, format="rgb24").planes[0]
        data = bytes(plane)
        if plane.line_size != 3 * w:
            data = b"".join(data[row : row + 3 * w] for row in range(0, h * plane.line_size, plane.line_size))
        return Pixels((w, h), data).turned(self.rotation)

    def _counted(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        self._target = None
        self._seek(None)
        number, frame = -1, None
        for index in wanted:
            while number < index and (following := next(self._frames, None)) is not None:
                number, frame = number + 1, following
            yield number, frame

    def _by_time(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """The first frame not before each wanted time; decoding goes on from the last one, or from a keyframe."""
        pts, keys = self.packets.pts, self.packets.keys
        position, frame = None, None
        for index in wanted:
            key = bisect_right(keys, pts[index]) - 1
            if frame is not None and frame.pts >= pts[index]:
                pass  # what came in the place of the last one lies behind this one too
            elif position is not None and (key < 0 or keys[key] <= position):
                frame = self._forward(pts[index])
            else:
                frame = self._from_key(pts[index], key)
            if frame is None:
                yield index, None
                position = None
                continue
            position = frame.pts
            yield min(bisect_left(pts, frame.pts), len(pts) - 1), frame

    def _from_key(self, target: int, key: int) -> Any:
        """Seek and decode. Some containers land behind the keyframe asked for: then once more from the one before."""
        found = None
        for candidate in (key, key - 1, key - 2):
            self._seek(self.packets.keys[candidate] if candidate >= 0 else None)
            frame = self._forward(target)
            if frame is not None and (found is None or frame.pts < found.pts):
                found = frame
            if (found is not None and found.pts == target) or candidate < 0:
                break
        return found

    def _seek(self, pts: int | None) -> None:
        first = self.packets.pts[0] if self.packets.pts else 0
        back = 0 if pts is not None else round(10 / float(self.stream.time_base))
        try:
            self.container.seek((first if pts is None else pts) - back, stream=self.stream, backward=True)
        except av.FFmpegError:  # some damaged files can only be read from the start
            self._frames = iter(())
            self.container, self.stream = self.reopen()
        self._frames = self._decoded()

    def _forward(self, target: int) -> Any:
        self._target = target
        return next((frame for frame in self._frames if frame.pts is not None and frame.pts >= target), None)

    def _decoded(self) -> Iterator[Any]:
        """Frames from here on. What is damaged is skipped, with the frames that lean on it: up to the next keyframe."""
        clean, damaged_from, damaged_to, last_pts = True, None, None, 0
        for packet in chain(_packets(self.container, self.stream), [END]):
            frames: list[Any] = []
            try:
                if packet is END:
                    frames = self.stream.codec_context.decode(None)
                elif packet is None or packet.is_corrupt:  # frames from before it are still to come
                    damaged_from = last_pts if packet is None or packet.pts is None else packet.pts
                else:
                    last_pts = packet.pts or last_pts
                    frames = self._decode(packet)
            except av.FFmpegError:  # comes in the place of the frame
                clean = False
            if self.complaints.heard():  # about a packet that was sent, perhaps not the last
                clean, damaged_to = False, last_pts
            for frame in frames:
                beyond = damaged_from is not None and (frame.pts is None or frame.pts >= damaged_from)
                if frame.key_frame and (damaged_to is None or (frame.pts or 0) > damaged_to):
                    clean, damaged_from = True, None if beyond else damaged_from
                elif beyond:
                    clean = False
                if clean or self.lenient:
                    yield frame

    def _decode(self, packet: Any) -> list[Any]:
        early = self._target is not None and packet.pts is not None and packet.pts < self._target
        self.stream.codec_context.skip_frame = "NONREF" if early else "DEFAULT"
        return packet.decode()


def open_av(path: str, kind: str, max_pixels: int, complaints: Complaints) -> AvDecoder:
    """Raises ClipError for what is no clip, holds no pictures, or has frames of more than ``max_pixels``."""
    av.logging.restore_default_callback()  # to stderr, which ``complaints`` reads
    av.logging.set_libav_level(av.logging.INFO)
    reopen = partial(open_stream, path, kind)
    container, stream = reopen()
    check_pixels(stream.codec_context.width, stream.codec_context.height, max_pixels)
    packets = read_packets(container, stream)
    if complaints.heard():
        packets = replace(packets, broken=packets.broken + 1)
    if not packets.pts:
        raise ClipError("holds no frames", "it is cut off or empty; copy or download it again")
    decoder = AvDecoder(container, stream, kind, packets, Index("", (0, 0), (), 0.0), 0, reopen, complaints)
    first = decoder.first()
    check_pixels(first.width, first.height, max_pixels)
    decoder.rotation = round(first.rotation / 90) % 4 * 90
    decoder.index = _index(container, stream, packets, (first.width, first.height), decoder.rotation)
    if decoder.lenient:
        notes = (*decoder.index.notes, "damaged from the start: its frames may show nonsense")
        decoder.index = replace(decoder.index, notes=notes)
    return decoder


def open_stream(path: str, kind: str) -> tuple[Any, Any]:
    """The container and its video stream, ready to decode. Raises ClipError for what is no clip or has no pictures."""
    try:
        container = av.open(
            "file:" + path,
            format=DEMUXERS.get(kind, kind),
            options={"protocol_whitelist": "file"},
            **_ANY_TAGS,
        )
    except (ImportError, AttributeError, TypeError):  # of a PyAV that does not fit: no word about the clip
        raise
    except Exception as error:  # PyAV raises a class for each of FFmpeg's codes
        raise ClipError(*_no_clip(kind, error)) from None
    stream = container.streams.best("video")
    if stream is None or "attached_pic" in str(stream.disposition).lower():
        sound = bool(container.streams.audio)
        raise ClipError("holds sound but no moving pictures" if sound else "holds no moving pictures")
    if stream.codec_context is None:
        raise ClipError("its pictures are coded in a way that FFmpeg does not know", CONVERT)
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = MAX_THREADS
    return container, stream


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises ClipError above the limit."""
    if width * height > max_pixels:
        raise ClipError(
            f"has frames of {width * height / 1e6:,.1f} M pixels, more than the limit of {max_pixels / 1e6:,.6g} M",
            "make it smaller, or raise VALLEY_MAX_IMAGE_PIXELS",
        )


def _no_clip(kind: str, error: Exception) -> tuple[str, str]:
    if isinstance(error, av.InvalidDataError | av.EOFError | av.OSError):
        return f"is a damaged or cut off {kind.upper()} clip", "copy or download it again"
    return f"cannot be opened as {kind.upper()} ({getattr(error, 'strerror', error)})", "copy or download it again"


def read_packets(container: Any, stream: Any) -> Packets:
    """One pass over the file without decoding."""
    shown, discards, broken, untimed = [], False, 0, False
    for packet in _packets(container, stream):
        if packet is None or packet.is_corrupt:
            broken += 1
        elif packet.is_discard:
            discards = True
        else:
            untimed |= packet.pts is None
            shown.append((packet.pts, packet.dts, packet.is_keyframe, packet.duration or 0))
    leading = any(
        frame[0] is not None and key is not None and frame[0] < key
        for key, frame in zip(_last_keys(shown), shown, strict=True)
    )
    reordered = stream.codec_context.has_b_frames
    dts = [entry[1] for entry in shown]
    if untimed and (reordered or None in dts or dts != sorted(set(dts))):
        return Packets(list(range(len(shown))), [], len(shown), True, discards, leading, broken)
    entries = [(p if p is not None else d, key, length) for p, d, key, length in shown]
    pts = sorted({entry[0] for entry in entries})
    keys = sorted({entry[0] for entry in entries if entry[1]})
    length = max((entry[2] for entry in entries if entry[0] == pts[-1]), default=0) if pts else 0
    return Packets(pts, keys, (pts[-1] + length) if pts else 0, False, discards, leading, broken)


def _last_keys(shown: list[tuple[Any, ...]]) -> Iterator[int | None]:
    """The pts of the keyframe that each packet follows in the file."""
    key = None
    for pts, _, is_key, _ in shown:
        if is_key:
            key = pts
        yield key


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """All packets that hold something; None for a place that cannot be read."""
    errors = 0
    while errors < MAX_ERRORS:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    yield packet
            return
        except av.EOFError:
            return
        except av.FFmpegError:
            errors += 1
            yield None


def _index(container: Any, stream: Any, packets: Packets, size_wh: tuple[int, int], rotation: int) -> Index:
    unit_s = float(stream.time_base or 0)
    rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_RATE)
    if packets.counted:
        times = tuple(number / rate for number in packets.pts)
        duration = len(times) / rate
    else:
        times = tuple((pts - packets.pts[0]) * unit_s for pts in packets.pts)
        duration = (packets.end - packets.pts[0]) * unit_s
    if duration <= times[-1]:
        step = times[-1] / (len(times) - 1) if len(times) > 1 and times[-1] else 1 / rate
        duration = times[-1] + step
    if rotation % 180:
        size_wh = size_wh[::-1]
    end_s = max(duration, packets.end * unit_s)  # some containers count from 0, others from the first frame
    notes = _notes(stream, container, end_s, packets.broken)
    return Index(stream.codec_context.name, size_wh, times, duration, notes)


def _notes(stream: Any, container: Any, end_s: float, broken: int) -> tuple[str, ...]:
    """What is missing, where the container knows how long it should be; ``end_s`` counts from wherever it does."""
    declared = (
        float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / av.time_base
    )
    notes = []
    if declared - end_s > max(0.3, 0.1 * declared):
        notes.append(f"its pictures end at {end_s:.2f} s of {declared:.2f} s: the file is cut off or damaged")
    if broken:
        notes.append(f"{broken} damaged packet{'s' if broken > 1 else ''} skipped")
    return tuple(notes)
