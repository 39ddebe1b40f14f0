"""Which ids were seen and which rows are finished, in a few bytes a row: SQLite, in memory until that grows.

The private database spills to the temporary folder and goes with the process.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from valley_cli.errors import ValleyError

T = TypeVar("T")
_CACHE_KB = 16_000
_SCHEMA = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE ids (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE records (
    key BLOB PRIMARY KEY, at INTEGER, size INTEGER, failed INTEGER, said_index INTEGER, place INTEGER
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Stored:
    """A record in the output file: ``at`` byte, ``size`` bytes. ``place``: its row's index now, None if not seen."""

    at: int
    size: int
    failed: bool
    said_index: int
    place: int | None


class Index:
    """Safe to use from several threads. Raises ValleyError if the temporary folder is full."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.executescript(f"PRAGMA cache_size = -{_CACHE_KB};{_SCHEMA}")

    def is_new_id(self, text: str) -> bool:
        """True the first time."""
        digest = hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).digest()
        return self._do(lambda: self._db.execute("INSERT OR IGNORE INTO ids VALUES (?)", (digest,)).rowcount > 0)

    def put(self, key: str, stored: Stored) -> bool:
        """Note a record; True if it takes the place of an older one."""
        values = (_packed(key), stored.at, stored.size, stored.failed, stored.said_index, stored.place)

        def write() -> bool:
            replaced = self._find(key) is not None
            self._db.execute("REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)", values)
            return replaced

        return self._do(write)

    def find(self, key: str) -> Stored | None:
        """The record of ``key``, if there is one."""
        return self._do(lambda: self._find(key))

    def see(self, key: str, place: int) -> None:
        """The row of this record is now the one with index ``place``."""
        self._do(lambda: self._db.execute("UPDATE records SET place = ? WHERE key = ?", (place, _packed(key))))

    def unseen(self) -> Iterator[int]:
        """The index that every record that no row has asked for says of itself."""
        found = self._do(lambda: self._db.execute("SELECT said_index FROM records WHERE place IS NULL"))
        return (said for (said,) in found)

    def in_order(self, by: str = "place") -> Iterator[Stored]:
        """All records; those not seen stand where they say. ``by``: "place" or "at"."""
        order = "coalesce(place, said_index), at" if by == "place" else "at"
        query = f"SELECT at, size, failed, said_index, place FROM records ORDER BY {order}"
        return (
            Stored(at, size, bool(failed), *rest)
            for at, size, failed, *rest in self._do(lambda: self._db.execute(query))
        )

    def _find(self, key: str) -> Stored | None:
        query = "SELECT at, size, failed, said_index, place FROM records WHERE key = ?"
        found = self._db.execute(query, (_packed(key),)).fetchone()
        return Stored(found[0], found[1], bool(found[2]), *found[3:]) if found else None

    def _do(self, work: Callable[[], T]) -> T:
        try:
            with self._lock:
                return work()
        except sqlite3.OperationalError as error:
            raise ValleyError(f"the list of finished rows: {error}", "free some space, or set TMPDIR") from None


def _packed(key: str) -> bytes:
    """20 bytes of ``SETTINGS-LINE``; anything else hashed."""
    try:
        return bytes.fromhex(key.replace("-", ""))
    except ValueError:
        return hashlib.blake2b(key.encode("utf-8", "backslashreplace"), digest_size=20).digest()
