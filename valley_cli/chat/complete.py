"""What Tab offers: commands, the words a command takes, and paths, escaped as the line needs them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from valley_cli.chat.slash import COMMANDS
from valley_cli.engine.hub.registry import MODELS
from valley_cli.settings import CHAT_KEYS

TAKE_PATHS = ("/image", "/video", "/load", "/save")
WORDS: dict[str, Sequence[str]] = {
    "/set": CHAT_KEYS,
    "/think": ("on", "off"),
    "/model": [name for info in MODELS for name in (info.name, *info.aliases)],
}
MAX_OFFERED = 1000
_SPECIAL = re.compile(r"([\s'\"\\$`!&*?()\[\]{};<>|#~])")


def complete(line: str, attached: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    """(replacement, how many characters before the cursor it replaces) for the text before the cursor.

    ``attached`` are names that /detach takes.
    """
    command, space, rest = line.partition(" ")
    if not space:
        if command.startswith("/"):
            yield from ((name, len(command)) for name in COMMANDS if name.startswith(command))
        if command.count("/") > 1 or command.startswith(("./", "../", "~/")):
            yield from _paths(command)
    elif command in TAKE_PATHS:
        yield from _paths(last_word(rest))
    else:
        names = ("all", *attached) if command == "/detach" else WORDS.get(command, ())
        yield from ((name, len(rest)) for name in names if name.startswith(rest))


def last_word(text: str) -> str:
    """The word the cursor stands in, as it is typed: behind the last space that is neither escaped nor quoted."""
    start, quote, escaped = 0, "", False
    for index, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character.isspace():
            start = index + 1
    return text[start:]


def _paths(word: str) -> Iterator[tuple[str, int]]:
    """Files and folders that ``word`` begins; folders end in a slash. Hidden ones only if a dot was typed."""
    quote = word[:1] if word[:1] in ("'", '"') else ""
    typed = word[1:] if quote else re.sub(r"\\(.)", r"\1", word)
    head, name = os.path.split(typed)
    found: list[str] = []
    with suppress(OSError, ValueError), os.scandir(os.path.expanduser(head) or ".") as entries:
        for entry in islice(entries, MAX_OFFERED):
            if entry.name.startswith(name) and (name.startswith(".") or not entry.name.startswith(".")):
                found.append(entry.name + ("/" if entry.is_dir() else ""))
    for entry_name in sorted(found):
        path = os.path.join(head, entry_name)
        if quote and quote not in path:
            yield quote + path + ("" if path.endswith("/") else quote), len(word)
        else:
            yield _escaped(path), len(word)


def _escaped(path: str) -> str:
    home = "~/" if path.startswith("~/") else ""
    return home + _SPECIAL.sub(r"\\\1", path.removeprefix(home))
