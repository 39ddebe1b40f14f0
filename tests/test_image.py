"""Pictures decode to the very pixels that Pillow's ``convert("RGB")`` gives, and everything else is one clear error."""

from __future__ import annotations

import contextlib
import io
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from valley_cli.api import MediaLimits
from valley_cli.errors import RefusedError, SourceError
from valley_cli.media.picture.image import image_size, open_image

LIMITS = MediaLimits()
NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::RuntimeWarning")]


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(NOISE, "RGBA").convert(mode)


def error(data: bytes, limits: MediaLimits = LIMITS) -> SourceError:
    with pytest.raises(SourceError) as caught:
        open_image(data, "a.png", limits)
    return caught.value


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("mode", "format"),
    [(mode, "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")]
    + [(mode, "JPEG") for mode in ("RGB", "L", "CMYK")]
    + [(mode, "TIFF") for mode in ("RGB", "CMYK", "L", "LAB", "YCbCr", "I", "F")]
    + [("RGB", "WEBP"), ("RGBA", "WEBP"), ("P", "GIF"), ("RGB", "BMP"), ("1", "BMP")],
)
def test_pixels_equal_those_of_pillow(mode: str, format: str) -> None:
    image = noise("RGB").convert(mode) if mode != "LAB" else Image.fromarray(NOISE[..., :3].copy(), "RGB").convert("L")
    data = encoded(image, format)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    for exif in (True, False):
        found = open_image(data, "a", LIMITS, exif=exif)
        assert found.mode == "RGB"
        assert np.array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_where_pillow_has_it() -> None:
    assert open_image(encoded(noise(), "AVIF"), "a", LIMITS).size == (40, 24)


def test_sixteen_bit_grey_is_clipped_as_in_the_published_code() -> None:
    grey = Image.fromarray(np.array([[0, 200, 256, 65535]], dtype=np.uint16))
    assert grey.mode == "I;16"
    assert np.asarray(open_image(encoded(grey, "PNG"), "a", LIMITS))[0, :, 0].tolist() == [0, 200, 255, 255]


def test_transparency_is_dropped_not_composited() -> None:
    clear = Image.new("RGBA", (2, 2), (9, 8, 7, 0))
    assert open_image(encoded(clear, "PNG"), "a", LIMITS).getpixel((0, 0)) == (9, 8, 7)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_unless_told_not_to(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(), "JPEG", exif=exif)
    upright, raw = open_image(data, "a", LIMITS), open_image(data, "a", LIMITS, exif=False)
    assert upright.size == ((24, 40) if orientation >= 5 else (40, 24))
    assert np.array_equal(np.asarray(upright), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))
    assert np.array_equal(np.asarray(raw), np.asarray(Image.open(io.BytesIO(data))))


def test_broken_exif_does_not_matter() -> None:
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02"):
        assert open_image(encoded(noise(), "JPEG", exif=exif), "a", LIMITS).size == (40, 24)


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_first_frame_of_an_animation_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    assert open_image(data, "a", LIMITS).getpixel((3, 3)) == (255, 0, 0)


def test_phone_pictures_with_a_second_one_inside_give_the_first() -> None:
    data = encoded(noise(), "MPO", save_all=True, append_images=[noise().rotate(90)])
    assert np.array_equal(np.asarray(open_image(data, "a", LIMITS)), np.asarray(Image.open(io.BytesIO(data))))


def test_tiff_of_several_pages_is_refused() -> None:
    assert "several pages" in error(encoded(noise(), "TIFF", save_all=True, append_images=[noise()])).message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello", "is text"),
        (b"<html><body>", "is a web page"),
        (b"%PDF-1.4\n", "is a PDF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "is a clip, not a picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"8BPS\0\x01", "PSD"),
        (bytes(range(256)), "no known kind"),
        (b"\xff\xd8\xff\xe0 and then nothing", "cut off"),
        (b"\x89PNG\r\n\x1a\n", "cut off"),
        (png_header(100, 100), "cut off"),
        (b"GIF89a" + bytes(20) + b"\x3b", "damaged GIF"),
    ],
)
def test_what_is_no_picture_says_what_it_is(data: bytes, says: str) -> None:
    assert says in error(data).message


def test_unknown_orientation_values_are_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert open_image(encoded(noise(), "JPEG", exif=exif), "a", LIMITS).size == (40, 24)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_cut_off_or_damaged_at_every_length(format: str) -> None:
    data = encoded(noise(), format)
    for length in range(1, len(data) - 200, 97):
        reason = error(data[:length]).message
        assert "cut off" in reason or length < 40 or format == "TIFF", reason


def test_pixel_limit_is_checked_before_decoding() -> None:
    assert open_image(encoded(noise(), "PNG"), "a", MediaLimits(max_image_pixels=40 * 24)).size == (40, 24)
    refused = error(encoded(noise(), "PNG"), MediaLimits(max_image_pixels=40 * 24 - 1))
    assert isinstance(refused, RefusedError)


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_001, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_quickly_and_with_little_memory(size: tuple[int, int]) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert isinstance(error(png_header(*size)), RefusedError)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux, bytes on macOS
    assert time.monotonic() - start < 1
    assert grown < (50 << 10 if sys.platform == "linux" else 50 << 20)


def test_a_higher_limit_holds_above_pillows_own_too() -> None:
    message = error(png_header(20_000, 20_000), MediaLimits(max_image_pixels=10**12)).message
    assert "is cut off" in message  # 400 M pixels: decoding was tried


def test_pillow_prints_no_warnings_on_stderr() -> None:
    code = """
import io, sys
from valley_cli.media.picture.image import open_image
from valley_cli.api import MediaLimits
try:
    open_image(sys.stdin.buffer.read(), "a", MediaLimits())
except Exception as error:
    print(type(error).__name__)
"""
    data = png_header(9_800, 9_800)  # between Pillow's warning and our limit
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (b"SourceError", b"")


def test_control_characters_in_the_name_never_show() -> None:
    with pytest.raises(SourceError) as caught:
        open_image(b"", "a\x1b[2J\n\u202eb", LIMITS)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damaged_bytes_raise_source_errors_only(format: str) -> None:
    rng, data = random.Random(0), encoded(noise(), format)
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            broken[rng.randrange(len(broken)) if rng.random() < 0.5 else rng.randrange(60)] = rng.randrange(256)
        with contextlib.suppress(SourceError):
            limits = MediaLimits(max_image_pixels=10**6)
            size_wh = image_size(bytes(broken), "a", limits)
            assert open_image(bytes(broken), "a", limits).size == size_wh


@pytest.mark.parametrize("exif", [True, False], ids=["upright", "as stored"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP"])
def test_a_picture_s_size_is_known_from_its_head(format: str, exif: bool) -> None:
    for orientation in range(10):
        tags = Image.Exif()
        tags[0x0112] = orientation
        data = encoded(noise(), format, **({} if format in ("GIF", "BMP") else {"exif": tags}))
        for found in (data, data + bytes(1000)):  # phones put clips behind their pictures
            assert image_size(found, "a", LIMITS, exif=exif) == open_image(found, "a", LIMITS, exif=exif).size


def test_what_a_png_tells_behind_its_pixels_turns_it_too() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    data = encoded(noise(), "PNG", exif=tags)
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert moved != data
    assert image_size(moved, "a", LIMITS) == open_image(moved, "a", LIMITS).size == (24, 40)


def test_for_a_picture_s_size_its_pixels_are_not_decoded() -> None:
    data = bytearray(encoded(Image.new("RGB", (6000, 4000)), "JPEG"))
    data[len(data) // 2 : -2] = bytes(len(data) - 2 - len(data) // 2)
    begun = time.process_time()
    for _ in range(20):
        assert image_size(bytes(data), "a", LIMITS) == (6000, 4000)
    twenty_looks_s, begun = time.process_time() - begun, time.process_time()
    with contextlib.suppress(SourceError):
        open_image(bytes(data), "a", LIMITS)
    assert twenty_looks_s < time.process_time() - begun


@pytest.mark.parametrize("cut", [0.3, 0.9])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_cut_off_picture_is_known_from_its_end(format: str, cut: float) -> None:
    data = encoded(noise(), format)
    with pytest.raises(SourceError, match="cut off"):
        image_size(data[: int(len(data) * cut)], "a", LIMITS)
