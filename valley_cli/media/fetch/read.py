"""The bytes of a source: from a file, a pipe, memory or the web, never more than the limits allow.

bytes = read_bytes(media, MediaLimits())
with open_file(media, MediaLimits()) as descriptor: ...     # for clips: on disk, not in memory
"""

from __future__ import annotations

import io
import os
import select
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from valley_cli.api import Media, MediaLimits
from valley_cli.descriptors import check_may_name
from valley_cli.errors import RefusedError, SourceError
from valley_cli.text import printable

Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]

STDIN = "/dev/stdin"
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
    from valley_cli.media.fetch.web import download  # requests costs 0.1 s of CPU

    body = io.BytesIO()
    download(media, media.url, limits, body, on_progress, cancelled)
    return body.getvalue()


def can_be_read_again(media: Media) -> bool:
    """Whether a second look costs no more than the first: not addresses, pipes and standard input."""
    in_memory = media.data is not None
    return in_memory or (media.path is not None and media.path != STDIN and os.path.isfile(media.path))


@contextmanager
def open_file(
    media: Media,
    limits: MediaLimits,
    *,
    on_progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Iterator[int]:
    """A descriptor of a regular file that holds ``media``, within the limits of its kind; never all of it in memory.

    What is no file is written to a temporary one that has no name, so that nothing is left behind by whatever end.
    Raises as ``read_bytes`` does.
    """
    with ExitStack() as stack:
        if media.path is not None:
            descriptor, status = _open_path(media, media.path, limits)
            stack.callback(os.close, descriptor)
            if stat.S_ISREG(status.st_mode):
                yield descriptor
                return
        try:
            file = stack.enter_context(tempfile.TemporaryFile(prefix="valley-"))
            if media.path is not None:
                for chunk in _chunks(media, descriptor, limits, True, cancelled):
                    file.write(chunk)
            elif media.data is not None:
                _check_size(media, limits, len(media.data))
                file.write(media.data)
            elif media.url is not None:
                from valley_cli.media.fetch.web import download

                download(media, media.url, limits, file, on_progress, cancelled)
            file.flush()
        except OSError as error:
            raise cannot_keep(media, error) from None
        yield file.fileno()


def cannot_keep(media: Media, error: OSError) -> SourceError:
    """The error for a temporary file that cannot be written."""
    hint = f"free some space in {printable(tempfile.gettempdir())}, or set TMPDIR to another folder"
    return SourceError(media.name, f"cannot be kept in a temporary file: {_os_reason(error)}", hint)


def max_bytes(media: Media, limits: MediaLimits) -> int:
    """The byte limit for this kind of media."""
    return limits.max_video_bytes if media.kind == "video" else limits.max_image_bytes


def timeout_s(media: Media, limits: MediaLimits) -> float:
    """The time limit, in seconds, for this kind of media."""
    return limits.video_timeout_s if media.kind == "video" else limits.image_timeout_s


def _read_path(media: Media, path: str, limits: MediaLimits, cancelled: Cancelled | None) -> bytes:
    descriptor, status = _open_path(media, path, limits)
    try:
        pipe = stat.S_ISFIFO(status.st_mode)
        return b"".join(_chunks(media, descriptor, limits, pipe, cancelled))
    except OSError as error:
        raise SourceError(media.name, _os_reason(error)) from None
    finally:
        os.close(descriptor)


def _open_path(media: Media, path: str, limits: MediaLimits) -> tuple[int, os.stat_result]:
    """An open descriptor of a file or pipe, and what it is."""
    check_may_name(path, media.name, media.typed)
    try:
        if path == STDIN:  # not opened anew: it may be a socket
            descriptor = os.dup(0)
        else:
            _check_type(media, os.stat(path))  # before open(): opening a device can do things
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            descriptor = os.open(path, flags)  # non-blocking: a FIFO nobody writes to must not hang
        try:
            status = os.fstat(descriptor)
            if path != STDIN:
                _check_type(media, status)
            _check_size(media, limits, status.st_size)
            return descriptor, status
        except BaseException:
            os.close(descriptor)
            raise
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
    what, variable = ("clip", "VIDEO") if media.kind == "video" else ("picture", "IMAGE")
    return RefusedError(
        media.name,
        f"{has}, more than the limit of {limit / 1e6:,.6g} MB",
        f"use a smaller {what}, or raise VALLEY_MAX_{variable}_BYTES",
    )


def _chunks(
    media: Media, descriptor: int, limits: MediaLimits, pipe: bool, cancelled: Cancelled | None
) -> Iterator[bytes]:
    """Read to the end; a pipe (``<(command)``, a FIFO) within the time limit."""
    limit, done = max_bytes(media, limits), 0
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
            return
        done += len(chunk)
        if done > limit:
            raise too_large(media, limit)
        yield chunk
        if pipe and time.monotonic() > end:
            raise RefusedError(media.name, f"took longer than {timeout_s(media, limits):g} s")
