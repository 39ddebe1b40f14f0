"""Every kind of clip gives the frames that were asked for, whichever library decodes it, or a clear error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.clips import (
    HAS_DECORD,
    OneWay,
    cut_start,
    decode,
    read_number,
    scrambled,
    write_audio,
    write_clip,
    write_pictures,
)
from valley_cli.media.clip.select import uniform
from valley_cli.media.clip.types import ClipError, Complaints
from valley_cli.media.clip.worker import open_decoder

Make = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """A file, who decodes it, and the numbers in all its frames. ``turn``: how its frames were turned when made."""

    name: str
    make: Make
    by: str = "decord"
    numbers: range = range(30)
    turn: int = 0
    notes: tuple[str, ...] = ()
    apart: int = 0  # how far the libraries' pixels may differ, of 255


def clip(**options: object) -> Make:
    return lambda path: write_clip(path, **options)  # type: ignore[arg-type]


def live(path: Path) -> None:
    with OneWay(path) as file:
        write_clip(path, file=file, format="matroska", container={"live": "1"})


def fragmented(path: Path) -> None:
    with OneWay(path) as file:
        write_clip(path, file=file, format="mp4", container={"movflags": "frag_keyframe+empty_moov"})


def edited(path: Path) -> None:
    whole = write_clip(path.with_suffix(".whole.mp4"), options={"g": "15", "bf": "2", "preset": "medium"})
    cut_start(whole, path, 0.5)


def no_rate(path: Path) -> None:
    """An AVI whose header tells no frames a second."""
    data = bytearray(write_clip(path, codec="mpeg4").read_bytes())
    main, stream = data.index(b"avih"), data.index(b"strh")
    data[main + 8 : main + 12] = bytes(4)
    data[stream + 28 : stream + 36] = bytes(8)
    path.write_bytes(data)


def foreign_tags(path: Path) -> Path:
    """A clip whose tags are not UTF-8."""
    data = write_clip(path).read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"L\xe4vf"))
    return path


def truncated(path: Path, share: float = 0.6, **options: object) -> None:
    data = write_clip(path, numbers=range(60), **options).read_bytes()  # type: ignore[arg-type]
    path.write_bytes(data[: int(len(data) * share)])


def truncated_gif(path: Path) -> None:
    data = write_pictures(path, range(30)).read_bytes()
    path.write_bytes(data[: len(data) // 2])


FAST_START = {"movflags": "+faststart"}
HEVC_OPEN_GOP = {"preset": "medium", "x265-params": "keyint=12:open-gop=1:bframes=3:log-level=none"}
OPEN_GOP = {"preset": "medium", "x264-params": "open-gop=1:keyint=12:bframes=3"}
HIDDEN = {"g": "20", "lag-in-frames": "16", "auto-alt-ref": "1", "deadline": "good", "cpu-used": "5"}
IRREGULAR = [*range(10), *range(20, 100, 10), 91, 92]
KINDS = (
    Kind("h264.mp4", clip()),
    Kind("reordered.mp4", clip(options={"bf": "3", "preset": "medium"})),
    Kind("one-keyframe.mp4", clip(numbers=range(120), options={"g": "500"}), numbers=range(120)),
    Kind("open-gop.mp4", clip(numbers=range(60), options=OPEN_GOP), "PyAV", range(60)),  # decord: wrong frames
    Kind("hevc.mkv", clip(codec="libx265")),
    Kind("hevc-open-gop.mp4", clip(numbers=range(60), codec="libx265", options=HEVC_OPEN_GOP), "PyAV", range(60)),
    Kind("hevc-10-bit.mp4", clip(codec="libx265", pix_fmt="yuv420p10le")),
    Kind("h264-10-bit.mov", clip(pix_fmt="yuv420p10le")),
    Kind("h264-444.mp4", clip(pix_fmt="yuv444p")),
    Kind("grey.mp4", clip(pix_fmt="gray")),
    Kind("vp8.webm", clip(codec="libvpx")),
    Kind("vp9.webm", clip(codec="libvpx-vp9")),
    Kind("vp9-alpha.webm", clip(codec="libvpx-vp9", pix_fmt="yuva420p")),
    Kind("vp9-hidden-frames.webm", clip(numbers=range(60), codec="libvpx-vp9", options=HIDDEN), numbers=range(60)),
    Kind("vp8.ogv", clip(codec="libvpx", format="ogg"), "PyAV"),
    Kind("av1.mp4", clip(codec="libsvtav1"), "PyAV"),
    Kind("av1.mkv", clip(codec="libsvtav1"), "PyAV"),
    Kind("mpeg4.avi", clip(codec="mpeg4"), "PyAV"),
    Kind("mpeg4-reordered.avi", clip(codec="mpeg4", options={"bf": "2"}), "PyAV"),
    Kind("mjpeg.avi", clip(codec="mjpeg", pix_fmt="yuvj420p"), "PyAV"),
    Kind("raw.avi", clip(codec="rawvideo", pix_fmt="bgr24"), "PyAV"),
    Kind("mpeg2.mpg", clip(codec="mpeg2video", format="mpeg"), "PyAV"),
    Kind("h264.ts", clip(), "PyAV"),  # decord hangs
    Kind("mpeg2.ts", clip(codec="mpeg2video"), "PyAV"),
    Kind("camcorder.m2ts", clip(format="mpegts", container={"mpegts_m2ts_mode": "1"}), "PyAV"),
    Kind("stream.m2v", clip(codec="mpeg2video", format="mpeg2video", options={"bf": "2"}), "PyAV"),  # no times
    Kind("no-rate.avi", no_rate, "PyAV"),
    Kind("sorenson.flv", clip(codec="flv")),
    Kind("wmv.asf", clip(codec="wmv2", format="asf"), "PyAV"),
    Kind("prores.mov", clip(codec="prores_ks", pix_fmt="yuv422p10le")),
    Kind("ffv1.mkv", clip(codec="ffv1")),
    Kind("alpha.mov", clip(codec="qtrle", pix_fmt="argb")),
    Kind("odd-sizes.mp4", clip(pix_fmt="yuv444p", size_wh=(97, 65))),
    Kind("odd-sizes.webm", clip(codec="libvpx-vp9", size_wh=(97, 65)), apart=1),  # FFmpeg's VP9 decoders of two ages
    Kind("tiny.mp4", clip(size_wh=(16, 16)), "PyAV"),  # decord's rows overlap
    Kind("large.mp4", clip(numbers=range(3), size_wh=(4096, 2160)), numbers=range(3)),
    Kind("long.mp4", clip(numbers=range(250), size_wh=(768, 576)), "PyAV", range(250)),  # decord: all of it in memory
    Kind("one-frame.mp4", clip(numbers=[77]), numbers=range(77, 78)),
    Kind("varying-rate.mp4", clip(numbers=range(20), times=IRREGULAR), numbers=range(20)),
    Kind("starts-late.mp4", clip(times=range(50, 80))),
    Kind("starts-late.mkv", clip(times=range(50, 80))),
    Kind("edit-list.mp4", edited, "PyAV", range(5, 30)),  # decord: wrong frames
    Kind("rotated-90.mp4", clip(rotation=90), turn=90),
    Kind("rotated-180.mp4", clip(rotation=180), turn=180),
    Kind("rotated-270.mp4", clip(rotation=270), turn=270),
    Kind("interlaced.mp4", clip(options={"x264-params": "interlaced=1"})),
    Kind("two-streams.mkv", clip(streams=2)),
    Kind("with-sound.mp4", clip(sound=True)),
    Kind("live.mkv", live, "PyAV"),  # no duration, no index
    Kind("fragments.mp4", fragmented),
    Kind("animated.gif", write_pictures, "Pillow", range(12)),
    Kind("animated.webp", partial(write_pictures, lossless=True), "Pillow", range(12)),
    Kind("animated.png", write_pictures, "Pillow", range(12)),
    Kind("tags-in-latin-1.mkv", foreign_tags),
    Kind("cut-off.mp4", partial(truncated, container=FAST_START), "PyAV", range(22), notes=("cut off",)),
    Kind("cut-off.mkv", partial(truncated, share=0.5), "PyAV", range(18), notes=("cut off",)),
    Kind("cut-off.ts", partial(truncated, share=0.5), "PyAV", range(29)),
    Kind("cut-off.gif", truncated_gif, "Pillow", range(14), notes=("cut off",)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


def numbers_in(frames: dict[int, Image.Image], turn: int) -> list[int]:
    return [read_number(image.rotate(-turn, expand=True)) for image in frames.values()]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_published_frames_come_and_both_libraries_agree(kind: Kind, folder: Path) -> None:
    path = folder / kind.name
    kind.make(path)
    plan, frames = decode(path)
    wanted = sorted(set(uniform(len(kind.numbers), 8)))
    assert [index for index, _ in plan["moments"]] == uniform(len(kind.numbers), 8)
    assert numbers_in(frames, kind.turn) == [kind.numbers[index] for index in wanted]
    assert plan["decoded_by"] == (kind.by if HAS_DECORD or kind.by != "decord" else "PyAV")
    assert all(any(words in note for note in plan["notes"]) for words in kind.notes)
    assert len(plan["notes"]) >= len(kind.notes)
    if plan["decoded_by"] == "decord":
        _, by_av = decode(path, "av")
        differences = [ImageChops.difference(by_av[index], frames[index]) for index in wanted]
        assert max(max(difference.tobytes()) for difference in differences) <= kind.apart


BROKEN: tuple[tuple[str, Make, str], ...] = (
    ("sound-alone.mp4", write_audio, "sound but no moving pictures"),
    ("moov-lost.mp4", partial(truncated, share=0.7), "damaged or cut off MP4"),
    ("noise.mp4", lambda path: path.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 99), "damaged or cut off"),
    ("noise.mkv", lambda path: path.write_bytes(b"\x1aE\xdf\xa3" + bytes(range(256)) * 99), "damaged or cut off"),
    ("noise.gif", lambda path: path.write_bytes(b"GIF89a" + bytes(range(256))), "damaged GIF"),
)


@pytest.mark.parametrize(("name", "make", "words"), BROKEN, ids=[name for name, *_ in BROKEN])
def test_what_is_no_clip_says_so(name: str, make: Make, words: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(ClipError) as caught:
        decode(tmp_path / name)
    assert words in caught.value.reason


@pytest.mark.parametrize("name", ["varying-rate.mp4", "open-gop.mp4", "h264.ts", "starts-late.mkv", "animated.gif"])
def test_moments_are_the_frames_on_the_screen_then(name: str, tmp_path: Path) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    kind.make(tmp_path / name)
    shown = IRREGULAR if name.startswith("varying") else range(len(kind.numbers))
    at_s = (0.0, 0.95, 0.31, 0.3, 0.2996, 1.1)
    plan, frames = decode(tmp_path / name, at_s=at_s)
    expected = [max(i for i, tenth in enumerate(shown) if tenth / 10 <= at + 0.0005) for at in at_s]
    assert [index for index, _ in plan["moments"]] == expected
    assert numbers_in(frames, 0) == sorted(set(expected))


def test_huge_frames_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "wide.mp4", range(2), size_wh=(4096, 2304))
    with path.open("rb") as file:
        job = {"fd": file.fileno(), "kind": "mp4", "decoder": "auto", "max_pixels": 9_000_000}
        with pytest.raises(ClipError, match=r"9\.4 M pixels"):
            open_decoder(job, Complaints())


@pytest.mark.parametrize("name", ["corrupt.mp4", "corrupt.ts"])
def test_damaged_frames_are_never_shown_and_their_neighbours_are_said_to_be(name: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / name, range(60), options={"g": "10"}, container=FAST_START)
    path.write_bytes(scrambled(path.read_bytes(), 0.5, 1500))
    plan, frames = decode(path)
    came = numbers_in(frames, 0)  # every one can be read
    assert came == sorted(came)
    assert (came[0], came[-1]) == (0, 59)
    assert len(set(came)) > 3
    assert "could not be decoded" in plan["notes"][-1]
