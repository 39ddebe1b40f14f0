"""Clips of every kind, made by code: each frame carries its number in its pixels.

write_clip(path, numbers=range(30), codec="libx264")     read_number(image) -> 0..255
"""

from __future__ import annotations

import io
import json
import queue
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from valley_cli.api import FrameSelection
from valley_cli.media.clip.types import Complaints
from valley_cli.media.clip.worker import serve
from valley_cli.text import SNIFF_BYTES, sniff

HAS_DECORD = find_spec("decord") is not None  # no wheel for Linux on aarch64, nor for macOS: PyAV does it all there
SIZE_WH = (128, 96)
RATE = 10
BITS = 8


def numbered(number: int, size_wh: tuple[int, int] = SIZE_WH) -> Image.Image:
    """``number`` as eight black or white columns, its complement below them, so that a picture upside down differs."""
    bits = np.array([(number >> bit) & 1 for bit in reversed(range(BITS))], np.uint8) * 255
    cells = np.stack([bits, 255 - bits])
    return Image.fromarray(cells).resize(size_wh, Image.Resampling.NEAREST).convert("RGB")


def read_number(image: Image.Image) -> int:
    """The number in a frame. Raises ValueError where there is none."""
    cells = np.asarray(image.convert("L").resize((BITS * 3, 2 * 3), Image.Resampling.BOX))[1::3, 1::3]
    upper, lower = cells[0] > 127, cells[1] > 127
    if (upper == lower).any():
        raise ValueError(f"no number in this picture: {cells.tolist()}")
    return int("".join(str(int(bit)) for bit in upper), 2)


def moving_circle(n_frames: int = 24) -> list[Image.Image]:
    """A large red circle that goes from left to right on white."""
    width, height, radius, finer = 224, 168, 24, 4
    images = []
    for number in range(n_frames):
        x, y = radius + (0.06 + 0.88 * number / (n_frames - 1)) * (width - 2 * radius), height / 2
        image = Image.new("RGB", (width * finer, height * finer), (244, 244, 244))
        box = [finer * (x - radius), finer * (y - radius), finer * (x + radius), finer * (y + radius)]
        ImageDraw.Draw(image).ellipse(box, fill=(215, 35, 35))
        images.append(image.resize((width, height), Image.Resampling.BOX))
    return images


def write_images(images: Sequence[Image.Image], path: Path, rate: int) -> None:
    """Pictures as H.264 in MP4, ``rate`` frames a second."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = *images[0].size, "yuv420p"
        for image in images:
            out.mux(stream.encode(av.VideoFrame.from_image(image)))
        out.mux(stream.encode(None))


def write_clip(
    path: Path,
    numbers: Iterable[int] = range(30),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size_wh: tuple[int, int] = SIZE_WH,
    *,
    times: Sequence[int] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    format: str | None = None,
    streams: int = 1,
    sound: bool = False,
    file: Any = None,
) -> Path:
    """A clip of ``numbers``, at ``times`` (in tenths of a second; default: one after the other)."""
    with av.open(file or str(path), "w", format=format, options=container or {}) as out:
        audio = out.add_stream("aac", rate=8000) if sound else None
        made = [_add_stream(out, codec, pix_fmt, size_wh, rotation, options or {}) for _ in range(streams)]
        for index, number in enumerate(numbers):
            for which, stream in enumerate(made):
                frame = av.VideoFrame.from_image(numbered(number + 100 * which, size_wh))
                frame.pts, frame.time_base = times[index] if times else index, Fraction(1, RATE)
                out.mux(stream.encode(frame))
        for stream in made:
            out.mux(stream.encode(None))
        if audio is not None:
            silence(out, audio, 3.0)
    return path


def _add_stream(
    out: Any, codec: str, pix_fmt: str, size_wh: tuple[int, int], rotation: int, options: dict[str, str]
) -> Any:
    stream = out.add_stream(codec, rate=RATE, options=_QUALITY.get(codec, {}) | options)
    stream.width, stream.height = size_wh
    stream.pix_fmt = pix_fmt
    stream.codec_context.time_base = Fraction(1, RATE)
    if codec in ("mpeg4", "mpeg2video", "mjpeg", "wmv2", "flv"):
        stream.codec_context.bit_rate = 4_000_000
    if "bf" in options:
        stream.codec_context.max_b_frames = int(options["bf"])
    if rotation:
        stream.set_display_rotation(rotation)
    return stream


_QUALITY = {
    "libx264": {"crf": "20", "preset": "ultrafast"},
    "libx265": {"x265-params": "log-level=none:crf=20", "preset": "ultrafast"},
    "libsvtav1": {"preset": "12", "crf": "20"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "b": "2M"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "2M"},
}


def silence(out: Any, stream: Any, seconds: float) -> None:
    """Sound that says nothing."""
    frame = av.AudioFrame.from_ndarray(np.zeros((1, round(8000 * seconds)), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts = 8000, 0
    for part in (frame, None):
        out.mux(stream.encode(part))


def write_pictures(path: Path, numbers: Iterable[int] = range(12), **options: Any) -> Path:
    """An animated GIF, WebP or PNG: 100 ms a frame."""
    first, *rest = [numbered(number) for number in numbers]
    first.save(path, save_all=True, append_images=rest, **{"duration": 100, "loop": 0} | options)
    return path


def write_audio(path: Path) -> Path:
    """An MP4 that holds sound alone."""
    with av.open(str(path), "w", format="mp4") as out:
        silence(out, out.add_stream("aac", rate=8000), 1.0)
    return path


class OneWay(io.RawIOBase):
    """A file that can only be written on, as a pipe: whoever writes a container into it cannot mend its head."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def cut_start(source: Path, path: Path, seconds: float) -> Path:
    """``source`` from ``seconds`` on, encoded as it was: an edit list hides what comes before (ffmpeg -c copy)."""
    with av.open(str(source)) as whole, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as out:
        stream = out.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                packet.pts -= round(seconds / packet.time_base)
                packet.dts -= round(seconds / packet.time_base)
                packet.stream = stream
                out.mux(packet)
    return path


def scrambled(data: bytes, start: float, length: int) -> bytes:
    """``data`` with ``length`` bytes made nonsense at ``start`` (a share of the whole)."""
    at = int(len(data) * start)
    return data[:at] + bytes((byte * 7 + 13) & 255 for byte in data[at : at + length]) + data[at + length :]


def decode(path: Path, decoder: str = "auto", **selection: Any) -> tuple[dict[str, Any], dict[int, Image.Image]]:
    """What the decoding child makes of a file, in this process: its plan (with "decoded_by") and frames by index."""
    with path.open("rb") as file:
        job = {"fd": file.fileno(), "kind": sniff(file.read(SNIFF_BYTES)), "decoder": decoder}
        job |= {"selection": asdict(FrameSelection(**selection)), "max_pixels": 10**8, "keep_pixels": 10**9}
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        lines.put("go\n")
        out = io.BytesIO()
        serve(job, lines, out, Complaints())
    out.seek(0)
    plan = json.loads(out.readline())["plan"]
    frames: dict[int, Image.Image] = {}
    while "done" not in (message := json.loads(out.readline())):
        frames[message["frame"]] = Image.open(io.BytesIO(out.read(message["bytes"])))
    return plan | {"decoded_by": message["decoder"], "notes": plan["notes"] + message["notes"]}, frames
