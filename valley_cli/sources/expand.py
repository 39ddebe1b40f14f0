"""What a person names on the command line (or in a row of a file) -> ``Media`` handles. Decodes nothing.

path  folder  'glob*'  ~/path  file:///path  https://host/path  data:image/png;base64,...  -
"""

from __future__ import annotations

import base64
import binascii
import difflib
import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, Literal
from urllib.parse import unquote_to_bytes, urlsplit

from valley_cli.api import Media, MediaLimits
from valley_cli.descriptors import check_may_name
from valley_cli.errors import RefusedError, SourceError, UsageError
from valley_cli.sources.frames import gather_clips
from valley_cli.text import CLIPS, PICTURES, SNIFF_BYTES, printable, printable_source, sniff

Kind = Literal["image", "video"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters or more: C:\ is a drive
_GLOB = re.compile(r"[*?\[]")
_MAX_LISTED = 5000  # names looked at for "did you mean"


def expand_sources(
    args: Sequence[str],
    *,
    stdin: BinaryIO | None = None,
    typed: bool = True,
    base_dir: str = ".",
    kind: Kind = "image",
    limits: MediaLimits = MediaLimits(),  # noqa: B008 - frozen
) -> tuple[Media, ...]:
    """One handle per picture or clip, in the order of ``args``; folders and globs become many, in natural order.

    ``kind`` "video": pictures that stand still are the frames of a clip; those of one folder or glob, or named one
    after the other, are one clip. Relative paths start at ``base_dir``. ``stdin`` is what ``-`` reads, once and at
    once (a clip: when it is opened). ``typed`` is passed on to the handles. Files and URLs are not opened, but for the
    first bytes of files in a folder and of frames. Raises ``SourceError`` for what is not there, ``RefusedError``
    above the byte limit and for open streams that nobody typed, ``UsageError`` for a second ``-``.
    """
    if list(args).count("-") > 1:
        raise UsageError("standard input (-) can be read only once")
    limit = limits.max_video_bytes if kind == "video" else limits.max_image_bytes
    sources = _Sources(stdin, typed, base_dir, kind, limit)
    if kind == "image":
        return tuple(media for arg in args for media in sources.expand(arg))
    return gather_clips([(arg, tuple(sources.expand(arg))) for arg in args])


@dataclass(frozen=True)
class _Sources:
    stdin: BinaryIO | None
    typed: bool
    base_dir: str
    kind: Kind
    limit: int

    def expand(self, arg: str) -> Iterator[Media]:
        """The handles one argument stands for."""
        match = _SCHEME.match(arg)
        scheme = match[1].lower() if match else ""
        if not arg.strip():
            raise SourceError("''", "an empty name", "give a picture's path or address")
        if arg == "-":
            yield self._standard_input()
        elif scheme == "data":
            yield self._data(arg)
        elif scheme == "file":
            yield from self._path(_file_uri_path(arg), arg)
        elif scheme in ("http", "https") and (arg[len(scheme) + 1 :].startswith("/") or not self._exists(arg)):
            yield self._url(arg.strip())
        elif scheme and arg[len(scheme) :].startswith("://"):
            hint = "download it first, or use an http:// or https:// address"
            raise SourceError(printable_source(arg), f"{scheme}:// addresses are not read", hint)
        else:
            yield from self._path_or_glob(os.path.expanduser(arg))

    def _standard_input(self) -> Media:
        if self.stdin is None:
            raise SourceError("-", "standard input cannot be read here", "give a path or an address")
        if self.stdin.isatty():
            raise SourceError(
                "-", "standard input is a keyboard, not a picture", "pipe a picture in: valley ... - < FILE"
            )
        if self.kind == "video" and self.stdin is getattr(sys.stdin, "buffer", None):
            return self._media("-", path="/dev/stdin")  # gigabytes: read when it is opened, into a file
        try:
            data = self.stdin.read(self.limit + 1)
        except (OSError, ValueError):
            raise SourceError("-", "standard input is closed or broken") from None
        if not data:
            raise SourceError("-", "nothing came in on standard input", "pipe a picture in: valley ... - < FILE")
        if len(data) > self.limit:
            raise self._too_large("-")
        return self._media("-", data=data)

    def _data(self, uri: str) -> Media:
        head, comma, body = uri.partition(",")
        name = printable(head[:60]) + ",..."
        if not comma:
            raise SourceError(name, "a data: address without a comma", "write data:image/png;base64,...")
        in_base64 = head.lower().replace(" ", "").endswith(";base64")
        if len(body) > (4 * self.limit if in_base64 else 3 * self.limit) + 1000:  # every character may be %XX
            raise self._too_large(name)
        data = unquote_to_bytes(body)
        if in_base64:
            data = _from_base64(data, name)
        if not data:
            raise SourceError(name, "holds nothing")
        if len(data) > self.limit:
            raise self._too_large(name)
        return self._media(f"{printable(head[:60])} ({len(data):,} bytes)", data=data)

    def _url(self, url: str) -> Media:
        name = printable_source(url)
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or re.search(r"[\x00-\x1f\x7f]", url):
            raise SourceError(name, "not a whole address", "write it as https://host/path")
        return self._media(name, url=url)

    def _path_or_glob(self, path: str) -> Iterator[Media]:
        if self._exists(path) or not _GLOB.search(path):
            yield from self._path(path, path)
            return
        found = self._glob(path)
        if not found:
            raise SourceError(
                printable_source(path), "nothing matches", "check the pattern; ** also looks into subfolders"
            )
        for match in found:
            check_may_name(self._at(match), printable_source(match), self.typed)
            yield self._media(match, path=self._at(match))

    def _glob(self, pattern: str) -> list[str]:
        """Files that match, relative as written, in natural order; a file reached through two folders once."""
        root = None if self.base_dir in ("", ".") else self.base_dir
        unique: dict[tuple[str, str], str] = {}
        for match in sorted(set(glob.iglob(pattern, root_dir=root, recursive=True)), key=_natural):
            if not os.path.isdir(self._at(match)):
                folder, name = os.path.split(self._at(match))
                unique.setdefault((os.path.realpath(folder), name), match)
        return list(unique.values())

    def _path(self, path: str, shown: str) -> Iterator[Media]:
        full = self._at(path)
        check_may_name(full, printable_source(shown), self.typed)
        try:
            is_folder = os.path.isdir(full)
            if not is_folder:
                os.stat(full)
        except (FileNotFoundError, NotADirectoryError):
            raise _missing(full, shown) from None
        except PermissionError:
            raise SourceError(printable_source(shown), "permission denied") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a file name"
            raise SourceError(printable_source(shown), reason[:1].lower() + reason[1:]) from None
        if is_folder:
            yield from self._folder(full, path, shown)
        else:
            yield self._media(shown, path=full)

    def _folder(self, full: str, path: str, shown: str) -> Iterator[Media]:
        """Pictures (or clips too) directly inside, by a look at their first bytes; hidden files are skipped."""
        wanted = CLIPS | PICTURES if self.kind == "video" else PICTURES
        try:
            with os.scandir(full) as entries:
                names = [entry.name for entry in entries if entry.name[:1] != "." and _is_wanted(entry, wanted)]
        except OSError as error:
            raise SourceError(printable_source(shown), (error.strerror or "cannot be listed").lower()) from None
        if not names:
            what = "clips or pictures" if self.kind == "video" else "pictures"
            hint = f"subfolders are not searched; try '{printable_source(os.path.join(path, '**', '*.jpg'))}'"
            raise SourceError(printable_source(shown), f"no {what} in this folder", hint)
        for name in sorted(names, key=_natural):
            yield self._media(os.path.join(path, name), path=os.path.join(full, name))

    def _at(self, path: str) -> str:
        return path if self.base_dir in ("", ".") else os.path.join(self.base_dir, path)

    def _exists(self, path: str) -> bool:
        return os.path.lexists(self._at(path))

    def _media(self, name: str, path: str | None = None, url: str | None = None, data: bytes | None = None) -> Media:
        return Media(printable_source(name), self.kind, path, url, data, self.typed)

    def _too_large(self, name: str) -> RefusedError:
        return RefusedError(
            name,
            f"holds more than the limit of {self.limit / 1e6:,.6g} MB",
            f"use a smaller one, or raise VALLEY_MAX_{self.kind.upper()}_BYTES",
        )


def _from_base64(data: bytes, name: str) -> bytes:
    """Standard or URL-safe alphabet, line breaks and missing padding allowed."""
    compact = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except binascii.Error:
        raise SourceError(name, "is not valid base64") from None


def _file_uri_path(uri: str) -> str:
    """The local path of a ``file:`` URI."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise SourceError(printable_source(uri), "not a whole address", "write it as file:///path") from None
    if parts.netloc.lower() not in ("", "localhost") or not parts.path:
        raise SourceError(printable_source(uri), "names another machine or no path", "write it as file:///path")
    path = os.fsdecode(unquote_to_bytes(parts.path))
    return path[1:] if os.name == "nt" and re.match(r"/[A-Za-z]:", path) else path


def _is_wanted(entry: os.DirEntry[str], wanted: frozenset[str]) -> bool:
    try:
        if not entry.is_file():
            return False
        with open(entry.path, "rb") as file:
            return sniff(file.read(SNIFF_BYTES)) in wanted
    except OSError:
        return entry.is_symlink() is False  # a file we may not read: kept, so that opening it says why


def _natural(path: str) -> tuple[list[list[int | str]], str]:
    """Sorts ``a2`` before ``a10``, folder by folder, without regard to case."""
    parts = [re.split(r"([0-9]+)", part) for part in path.split(os.sep)]
    return [[int(t) if i % 2 else t.casefold() for i, t in enumerate(part)] for part in parts], path


def _missing(full: str, shown: str) -> SourceError:
    """The error for a path that is not there, with the nearest name that is."""
    folder, name = os.path.split(full.rstrip(os.sep))
    if os.path.islink(full):
        return SourceError(printable_source(shown), "a link to a file that is gone")
    if folder and not os.path.isdir(folder):
        return SourceError(printable_source(shown), f"no such file: there is no folder {printable_source(folder)}")
    if re.match(r"www\.", shown, re.I):
        return SourceError(
            printable_source(shown), "no such file", f"for a web address write https://{printable_source(shown)}"
        )
    try:
        with os.scandir(folder or ".") as entries:
            names = {entry.name.casefold(): entry.name for entry in islice(entries, _MAX_LISTED)}
    except OSError:
        names = {}
    near = difflib.get_close_matches(name.casefold(), names, n=1)
    hint = f"did you mean {printable_source(os.path.join(os.path.dirname(shown), names[near[0]]))}?" if near else None
    return SourceError(printable_source(shown), "no such file", hint or "check the path; quote names that hold spaces")
