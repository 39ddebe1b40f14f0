"""The bytes of a source: from a file, a pipe, memory or the web, never more than the limits allow.

bytes = read_bytes(media, MediaLimits())
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Callable

from valley_cli.engine.base import Media, MediaLimits
from valley_cli.errors import RefusedError, SourceError

Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]

_CHUNK = 1 << 20
_POLL_S = 0.1  # how soon a cancelled wait for a pipe ends


def read_bytes(
    media: Media,
    limits: MediaLimits,
    *,
    on_progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> bytes:
    """Read ``media`` whole, within the byte and time limits of its kind.

    ``on_progress(done, total)`` is called with bytes, ``total`` 0 if unknown, while a URL is read; a retry starts
    again at 0. ``cancelled`` may be called from another thread; once it says True, reading ends soon with a
    ``SourceError``. Raises ``RefusedError`` if a limit or a forbidden address is met, ``SourceError`` otherwise.
    """
    if media.data is not None:
        _check_size(media, limits, len(media.data))
        return media.data
    if media.path is not None:
        return _read_path(media, media.path, limits, cancelled)
    if media.url is None:
        raise ValueError("a Media needs a path, a url or data")
    from valley_cli.media.web import download  # requests costs 0.1 s of CPU

    return download(media, media.url, limits, on_progress, cancelled)


def max_bytes(media: Media, limits: MediaLimits) -> int:
    """The byte limit for this kind of media."""
    return limits.max_video_bytes if media.kind == "video" else limits.max_image_bytes


def timeout_s(media: Media, limits: MediaLimits) -> float:
    """The time limit, in seconds, for this kind of media."""
    return limits.video_timeout_s if media.kind == "video" else limits.image_timeout_s


def _read_path(media: Media, path: str, limits: MediaLimits, cancelled: Cancelled | None) -> bytes:
    try:
        _check_type(media, os.stat(path))  # before open(): opening a device can do things
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)  # non-blocking: a FIFO nobody writes to must not hang
        try:
            status = os.fstat(descriptor)
            _check_type(media, status)
            _check_size(media, limits, status.st_size)
            pipe = stat.S_ISFIFO(status.st_mode)
            return _read_descriptor(media, descriptor, limits, pipe, cancelled)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise SourceError(media.name, "no such file") from None
    except PermissionError:
        raise SourceError(media.name, "permission denied", "make it readable for you: chmod u+r FILE") from None
    except (OSError, ValueError) as error:
        raise SourceError(media.name, _os_reason(error)) from None


def _os_reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or "not a file name"
    return text[:1].lower() + text[1:]


def _check_type(media: Media, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode) or (stat.S_ISFIFO(status.st_mode) and media.typed):
        return
    if stat.S_ISDIR(status.st_mode):
        raise SourceError(media.name, "is a folder", "name the pictures inside, for example 'FOLDER/*.jpg'")
    raise RefusedError(media.name, "is not a regular file", "use - to read a picture from standard input")


def _check_size(media: Media, limits: MediaLimits, size: int) -> None:
    limit = max_bytes(media, limits)
    if size > limit:
        raise too_large(media, limit, size)


def too_large(media: Media, limit: int, size: int | None = None) -> RefusedError:
    """The error for more than ``limit`` bytes; ``size`` if it is known."""
    has = f"has {size / 1e6:,.1f} MB" if size is not None else "goes on"
    what = "clip" if media.kind == "video" else "picture"
    return RefusedError(
        media.name,
        f"{has}, more than the limit of {limit / 1e6:,.6g} MB",
        f"use a smaller {what}, or raise VALLEY_MAX_IMAGE_BYTES",
    )


def _read_descriptor(
    media: Media, descriptor: int, limits: MediaLimits, pipe: bool, cancelled: Cancelled | None
) -> bytes:
    """Read to the end; a pipe (``<(command)``, a FIFO) within the time limit."""
    limit, buffer = max_bytes(media, limits), bytearray()
    end = time.monotonic() + timeout_s(media, limits)
    while True:
        if pipe and not select.select([descriptor], [], [], _POLL_S)[0]:
            if cancelled is not None and cancelled():
                raise SourceError(media.name, "reading was stopped")
            if time.monotonic() > end:
                raise RefusedError(media.name, f"nothing came for {timeout_s(media, limits):g} s")
            continue
        chunk = os.read(descriptor, _CHUNK)
        if not chunk:
            return bytes(buffer)
        buffer += chunk
        if len(buffer) > limit:
            raise too_large(media, limit)
        if pipe and time.monotonic() > end:
            raise RefusedError(media.name, f"took longer than {timeout_s(media, limits):g} s")
