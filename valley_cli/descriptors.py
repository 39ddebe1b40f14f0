"""Paths that lead to what this process, or another one, has open: its standard input, its pipes.

Opening one may take from a stream that somebody else reads, or wait for it, so only a person may name them.
"""

from __future__ import annotations

import os
import re

from valley_cli.errors import RefusedError

_DESCRIPTORS = re.compile(r"/dev/(stdin|stdout|stderr|fd(/.*)?)|/proc/.*")
_MAX_LINKS = 40  # as the kernel follows


def check_may_name(path: str, name: str, typed: bool) -> None:
    """Raises RefusedError, which calls ``path`` by its printable ``name``, for one that must be typed and was not."""
    if not typed and names_descriptor(path):
        raise RefusedError(name, "is an open stream, not a file", "name a file or an address")


def names_descriptor(path: str) -> bool:
    """True if ``path``, or a link on the way to what it names, stands for a descriptor, like ``/dev/stdin``.

    All of ``/proc`` counts: nothing there is a picture or a clip. Opens nothing.
    """
    try:
        for _ in range(_MAX_LINKS):
            folder, name = os.path.split(path)
            path = os.path.join(os.path.realpath(folder), name)
            if _DESCRIPTORS.fullmatch(path):
                return True
            if not os.path.islink(path):
                return False
            path = os.path.join(os.path.dirname(path), os.readlink(path))
    except (OSError, ValueError):  # no path at all, as opening it will say
        return False
    return False  # links that lead in a circle, or too far: opening says so
