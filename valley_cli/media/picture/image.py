"""Bytes to one RGB picture, with Pillow, exactly as ``PIL.Image.open(...).convert("RGB")`` gives it.

The published code converts the same way, so its oddities are kept: transparency is dropped, not composited; a
16-bit grey picture (mode I;16) is clipped at 255 and so comes out nearly white; a TIFF is always turned upright.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image, features

from valley_cli.api import Media, MediaLimits
from valley_cli.errors import RefusedError, SourceError
from valley_cli.libraries import misfit
from valley_cli.media.fetch.read import read_bytes
from valley_cli.text import CLIPS, PICTURES, printable, sniff

# Pillow warns about odd palettes, EXIF and sizes; the size has a guard of its own below. Set once and for the whole
# process: warnings.catch_warnings is not safe with threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # ``MediaLimits.max_image_pixels`` decides, also above Pillow's own 179 M

_PILLOW_FORMATS = {kind: kind.upper() for kind in PICTURES} | {"heic": "HEIF"}
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)  # width and height change places; a TIFF's have done so when it is opened
_NOT_PICTURES = {
    "empty": ("is empty", None),
    "pdf": ("is a PDF, not a picture", "make a picture of a page: pdftoppm -png -r 150 FILE.pdf page"),
    "html": ("is a web page, not a picture", "open the page and save the picture itself"),
    "svg": ("is an SVG drawing, not a picture of pixels", "export it as PNG"),
    "text": ("is text, not a picture", None),
    "zip": ("is an archive, not a picture", "unpack it first"),
    "gzip": ("is an archive, not a picture", "unpack it first"),
}
_CONVERT_HINT = "convert it to PNG or JPEG first"


def open_image(data: bytes, name: str, limits: MediaLimits, *, exif: bool = True) -> Image.Image:
    """Decode the first (or only) frame of ``data`` to mode RGB; ``name`` is what errors call it.

    ``exif`` turns the picture as its EXIF orientation says. Raises ``RefusedError`` for more than
    ``limits.max_image_pixels`` pixels, found in the header before anything is decoded, and ``SourceError`` for
    everything that is not one whole picture. No other error leaves this function.
    """
    with _opened(data, printable(name), limits) as image:
        image.load()
        return _upright(image).convert("RGB") if exif else image.convert("RGB")


def image_size(data: bytes, name: str, limits: MediaLimits, *, exif: bool = True) -> tuple[int, int]:
    """(width, height) that ``open_image`` gives, from the head of ``data``: no pixel is decoded.

    What has no end of its own kind, or tells more behind its pixels, is decoded all the same. Raises as ``open_image``
    does, but damage inside of the picture is not seen.
    """
    name, kind = printable(name), sniff(data)
    with _opened(data, name, limits) as image:
        size_wh = image.size
        # of PNG not its own ``getexif``, which decodes the picture to read what may stand behind it
        turned = exif and kind != "tiff" and _orientation(image, Image.Image.getexif) in _ON_ITS_SIDE
    if _has_no_end(kind, data) or (kind == "png" and exif and _has_more_behind(data)):
        return open_image(data, name, limits, exif=exif).size
    return (size_wh[1], size_wh[0]) if turned else size_wh


@contextmanager
def _opened(data: bytes, name: str, limits: MediaLimits) -> Iterator[Image.Image]:
    """The picture before its pixels are decoded. Whatever is raised about it leaves as SourceError."""
    kind = sniff(data)
    if kind not in PICTURES:
        raise _not_a_picture(name, kind)
    try:
        with Image.open(BytesIO(data), formats=[_pillow_format(name, kind)]) as image:
            _check_header(image, name, kind, limits)
            yield image
    except SourceError:
        raise
    except MemoryError:
        raise RefusedError(name, "there is not enough memory to decode it", "make it smaller") from None
    except Exception as error:  # Pillow's decoders raise nearly everything
        if found := misfit(error, "PIL"):
            raise found from None
        raise _undecodable(name, kind, data, error) from None


def thumbnail(source: Media | Image.Image, limits: MediaLimits, side: int) -> bytes:
    """A JPEG of at most ``side`` x ``side`` pixels. Raises SourceError for what is not one whole picture."""
    image = source if isinstance(source, Image.Image) else open_image(read_bytes(source, limits), source.name, limits)
    image = image.copy()
    image.thumbnail((side, side))
    out = BytesIO()
    image.save(out, "JPEG", quality=70)
    return out.getvalue()


def _pillow_format(name: str, kind: str) -> str:
    """The one decoder to try. HEIC and AVIF depend on how Pillow was built and what is installed beside it."""
    if kind == "heic":
        Image.init()
        if "HEIF" not in Image.OPEN:
            raise SourceError(name, "is HEIC, which this Pillow cannot read", _CONVERT_HINT)
    if kind in ("avif", "webp") and not features.check(kind):
        raise SourceError(name, f"is {kind.upper()}, which this Pillow cannot read", _CONVERT_HINT)
    return _PILLOW_FORMATS[kind]


def _check_header(image: Image.Image, name: str, kind: str, limits: MediaLimits) -> None:
    width, height = image.size
    if width * height > limits.max_image_pixels:
        raise RefusedError(
            name,
            f"has {width * height / 1e6:,.1f} M pixels, more than the limit of {limits.max_image_pixels / 1e6:,.6g} M",
            "make it smaller, or raise VALLEY_MAX_IMAGE_PIXELS",
        )
    if kind == "tiff" and getattr(image, "is_animated", False):
        raise SourceError(name, "is a TIFF of several pages", "save the page you mean as a file of its own")


def _upright(image: Image.Image) -> Image.Image:
    """What ``ImageOps.exif_transpose`` does, without copying upright pictures or failing on broken EXIF."""
    method = _UPRIGHT.get(_orientation(image, type(image).getexif))
    return image if method is None else image.transpose(method)


def _orientation(image: Image.Image, exif_of: Callable[[Image.Image], Image.Exif]) -> int:
    """What EXIF says of it; 1, upright, where it says nothing."""
    try:
        orientation = exif_of(image).get(_ORIENTATION)
    except Exception:  # broken EXIF is no reason to refuse the picture
        return 1
    return orientation if isinstance(orientation, int) else 1


def _has_more_behind(data: bytes) -> bool:
    """Whether a PNG has chunks between its pixels and its end, EXIF perhaps."""
    place, behind = 8, False
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if behind and kind not in (b"IDAT", b"IEND"):
            return True
        behind = behind or kind == b"IDAT"
        place += 12 + length
    return False


def _not_a_picture(name: str, kind: str) -> SourceError:
    if kind in CLIPS:
        return SourceError(name, "is a clip, not a picture", f"for clips: valley video {name}")
    return not_media(name, kind, "picture")


def not_media(name: str, kind: str, wanted: str) -> SourceError:
    """The error for bytes of ``kind`` (see ``sniff``) where a picture or clip was ``wanted``."""
    if kind in _NOT_PICTURES:
        reason, hint = _NOT_PICTURES[kind]
        return SourceError(name, reason.replace("picture", wanted), hint if wanted == "picture" else None)
    what = f"is no known kind of {wanted}" if kind == "unknown" else f"is {kind.upper()}, which is not read"
    return SourceError(name, what, _CONVERT_HINT if wanted == "picture" else "convert it: ffmpeg -i FILE new.mp4")


def _undecodable(name: str, kind: str, data: bytes, error: Exception) -> SourceError:
    if "truncated" in str(error).lower() or _has_no_end(kind, data):
        return SourceError(name, f"is cut off ({kind.upper()}, {len(data):,} bytes)", "copy or download it again")
    return SourceError(name, f"is a damaged {kind.upper()} picture", "copy or download it again")


def _has_no_end(kind: str, data: bytes) -> bool:
    """True if the format's own end mark is missing."""
    if kind == "webp":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if kind == "bmp":
        return int.from_bytes(data[2:6], "little") > len(data)
    if kind == "gif":
        return not data.rstrip(b"\0").endswith(b";")
    marks = {"jpeg": b"\xff\xd9", "png": b"IEND"}
    return kind in marks and marks[kind] not in data[-64:]
