"""What several requests make of the same media: made once, kept while there is room. No decoding here.

cache.content(source, read, decode)   by what a source is, then by what it holds (two addresses of one picture)
cache.shared(key, make, n_bytes)      anything else that a key names wholly
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from valley_cli.api import Media

T = TypeVar("T")
_POLL_S = 0.05  # how soon a request whose time is up stops waiting for another's work
_MAX_SOURCES = 50_000  # of which the content's hash is remembered


def never() -> bool:
    """For whoever does not give up."""
    return False


def source_key(media: Media) -> Hashable | None:
    """Equal keys, equal bytes: a file by its identity and times, an address by itself. None: read it every time.

    An address that was typed may lead further than one that was not, so it is another one.
    """
    if media.data is not None:
        return hashlib.blake2b(media.data, digest_size=16).digest()
    if media.url is not None:
        return media.url, media.kind, media.typed
    try:
        found = os.stat(media.path or "")
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):  # a pipe holds something else every time
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, media.kind


@dataclass
class _Flight:
    """Work under way, which others wait for."""

    landed: threading.Event = field(default_factory=threading.Event)
    value: Any = None
    error: BaseException | None = None
    again: bool = False  # whoever did it gave up: that says nothing about the others


class MediaCache:
    """Safe to use from several threads; ``max_bytes`` 0 keeps nothing and shares nothing."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()  # the longest unused first
        self._kept_bytes = 0
        self._contents: OrderedDict[Hashable, bytes] = OrderedDict()
        self._flights: dict[Hashable, _Flight] = {}
        self._lock = threading.Lock()

    def content(
        self,
        source: Hashable | None,
        variant: Hashable,
        read: Callable[[], bytes],
        decode: Callable[[bytes], T],
        n_bytes: Callable[[T], int],
        give_up: Callable[[], bool] = never,
    ) -> T:
        """``decode(read())``, or what came of it before. ``variant``: all that decides what is made of the bytes."""
        if not self.max_bytes or source is None:
            return decode(read())

        def make() -> T:
            data = read()
            digest = hashlib.blake2b(data, digest_size=16).digest()
            with self._lock:
                self._contents[source] = digest
                if len(self._contents) > _MAX_SOURCES:
                    self._contents.popitem(last=False)
            return self.shared((digest, variant), lambda: decode(data), n_bytes, give_up)

        return self._fly(("source", source, variant), lambda: (self._contents.get(source), variant), make, give_up)

    def shared(
        self, key: Hashable, make: Callable[[], T], n_bytes: Callable[[T], int], give_up: Callable[[], bool] = never
    ) -> T:
        """``make()``, or what it gave before for this ``key``. Raises what ``make`` raises."""
        if not self.max_bytes:
            return make()

        def make_and_keep() -> T:
            value = make()
            self._keep(key, value, n_bytes(value))
            return value

        return self._fly(key, lambda: key, make_and_keep, give_up)

    def drop(self, key: Hashable) -> None:
        """Forget what is kept for ``key``, if anything is."""
        with self._lock:
            _, freed = self._kept.pop(key, (None, 0))
            self._kept_bytes -= freed

    def _keep(self, key: Hashable, value: Any, n_bytes: int) -> None:
        with self._lock:
            _, replaced = self._kept.pop(key, (None, 0))  # by one that gave up waiting and made its own
            self._kept[key] = (value, n_bytes)
            self._kept_bytes += n_bytes - replaced
            while self._kept_bytes > self.max_bytes:
                _, (_, freed) = self._kept.popitem(last=False)
                self._kept_bytes -= freed

    def _fly(
        self, key: Hashable, kept_as: Callable[[], Hashable], make: Callable[[], T], give_up: Callable[[], bool]
    ) -> T:
        """What is kept, or ``make()`` once for all who want it at the same time; they share its error too."""
        while True:
            with self._lock:
                if (kept := kept_as()) in self._kept:
                    self._kept.move_to_end(kept)
                    return self._kept[kept][0]
                flight = self._flights.get(key)
                if flight is None:
                    mine = self._flights[key] = _Flight()
                    break
            while not flight.landed.wait(_POLL_S):
                if give_up():
                    return make()  # which will say so in its own words
            if flight.error is None:
                return flight.value
            if not flight.again:
                raise flight.error.with_traceback(None)
        try:
            mine.value = make()
            return mine.value
        except BaseException as error:
            mine.error, mine.again = error, give_up()
            raise
        finally:
            with self._lock:
                del self._flights[key]
            mine.landed.set()
