"""What may be printed, and what bytes look like. Standard library only, no decoding.

``printable`` and ``printable_url`` make names safe for a terminal, a log or an error; ``sniff`` names the kind
of a file by its first bytes. Both are needed where sources are named and where they are opened.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

_ESCAPES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x90-\x9f]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS and other strings
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor moves
    r"|\x1b[ -/]*[0-~]"  # two-character escapes
)
_BREAKS = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
_CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f"
    r"\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\U000e0000-\U000e007f]"  # bidi, invisible, tags
)
_SURROGATES = re.compile(r"[\ud800-\udfff]")

_USERINFO = re.compile(r"^([a-z][a-z0-9+.-]*:)?[/\\]{2}[^/?#]*@", re.I)
_USERINFO_WITH_SLASH = re.compile(r"^([a-z][a-z0-9+.-]*:)?//[^/?#@\[:]*:(?![0-9]*(?:[/?#]|$)).*@", re.I)
_MAX_SHOWN = 1000  # characters of a name
_SECRET = re.compile(r"token|key|sig|secret|pass|pwd|auth|credential|session|jwt|otp|code", re.I)


def printable(text: str) -> str:
    """``text`` on one line, without control characters, terminal escapes, bidi overrides or broken characters."""
    text = _ESCAPES.sub("", text)
    text = _CONTROLS.sub("", _BREAKS.sub(" ", text))
    return _SURROGATES.sub("\ufffd", text)


def printable_url(url: str) -> str:
    """``url`` for people: no user or password, secret-looking query values as ``***``, no fragment.

    Works on text that is no valid URL too, since such text ends up in errors.
    """
    url = printable(url)
    url = _USERINFO_WITH_SLASH.sub(r"\1//", url)
    url = _USERINFO.sub(r"\1//", url)
    address, mark, query = url.partition("#")[0].partition("?")
    return address + mark + "".join(_masked(part) for part in re.split(r"([&;])", query))


def printable_source(name: str) -> str:
    """``name`` for people: anything that looks like an address loses its credentials, what is endless its middle."""
    text = printable_url(name) if "://" in name else printable(name)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN // 2]}...{text[-100:]}"


def _masked(pair: str) -> str:
    name, equals, value = pair.partition("=")
    return f"{name}=***" if equals and value and _SECRET.search(unquote_plus(name)) else pair


PICTURES = frozenset({"jpeg", "png", "webp", "gif", "bmp", "ppm", "tiff", "heic", "avif"})
CLIPS = frozenset({"mp4", "mov", "mkv", "webm", "avi", "ts", "mpeg", "mpegvideo", "flv", "asf", "ogg"})
SNIFF_BYTES = 1024  # this many first bytes decide

_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"%PDF-", "pdf"),
    (b"FLV\x01", "flv"),
    (b"\0\0\x01\xba", "mpeg"),
    (b"\0\0\x01\xb3", "mpegvideo"),
    (b"OggS\0", "ogg"),
    (b"0&\xb2u\x8ef\xcf\x11", "asf"),
    (b"\0\0\0\x0cjP  ", "jpeg2000"),
    (b"\0\0\0\x0cJXL ", "jxl"),
    (b"\xff\x0a", "jxl"),
    (b"8BPS", "psd"),
    (b"\0\0\x01\0", "ico"),
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b", "gzip"),
)
_RIFF = {b"WEBP": "webp", b"AVI ": "avi"}
_BMP_HEADER_SIZES = {12, 16, 40, 52, 56, 64, 108, 124}
_MARKUP = re.compile(rb"\s*(?>(?:<!--.*?-->|<\?xml.*?\?>|<!doctype svg.*?>)\s*)*+<(!doctype html|[a-z]+)", re.I | re.S)
_HTML_TAGS = {b"!doctype html", b"html", b"head", b"body", b"title", b"script", b"meta", b"div", b"p", b"center"}


def sniff(data: bytes) -> str:
    """The kind of ``data`` by its first bytes: one of ``PICTURES``, ``CLIPS``, or pdf, psd, svg, html, text, empty...

    ``unknown`` if nothing fits. Only the first ``SNIFF_BYTES`` are looked at, never the name.
    """
    head = bytes(data[:SNIFF_BYTES])
    if not head:
        return "empty"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], "unknown")
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    if re.match(rb"P6\s+\d", head):
        return "ppm"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "webm" if b"webm" in head[:64] else "mkv"
    if head[:1] == head[188:189] == b"G" or head[4:5] == head[196:197] == head[388:389] == b"G":
        return "ts"  # the second: as camcorders write it
    return _sniff_boxes(head) or _sniff_text(head)


def moves(data: bytes) -> bool:
    """True if the first bytes are those of a clip: also an animated picture (every GIF counts as one)."""
    head, kind = bytes(data[:SNIFF_BYTES]), sniff(data)
    if kind == "webp":
        return head[12:16] == b"VP8X" and bool(head[20:21] and head[20] & 2)
    return kind in CLIPS or kind == "gif" or (kind == "png" and b"acTL" in head) or head[4:12] == b"ftypavis"


def _sniff_boxes(head: bytes) -> str | None:
    """ISO base media files: the first box names the brand."""
    box = head[4:8]
    if box in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return "mov"
    if box != b"ftyp":
        return None
    size = min(max(int.from_bytes(head[:4], "big"), 16), 256)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
    if brands & {b"avif", b"avis"}:
        return "avif"
    if head[8:12] in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"):
        return "heic"
    return "mov" if head[8:12] == b"qt  " else "mp4"


def _sniff_text(head: bytes) -> str:
    if match := _MARKUP.match(head.removeprefix(b"\xef\xbb\xbf")):
        tag = match[1].lower()
        if tag in _HTML_TAGS or tag == b"svg":
            return "svg" if tag == b"svg" else "html"
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) < SNIFF_BYTES or error.start < len(head) - 3:  # not merely a character cut in two
            return "unknown"
        text = head[: error.start].decode()
    return "unknown" if re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text) else "text"
