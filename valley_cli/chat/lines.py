"""A chat without a terminal: lines in, answers out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from valley_cli.chat.session import Session
from valley_cli.chat.slash import attempt, is_open_block


def read_messages(stream: BinaryIO) -> Iterator[str]:
    """The messages in ``stream``: one a line, or several lines between marks. Bytes that are no UTF-8 are kept as
    Python keeps them in file names; in a question the engine refuses them."""
    block = ""
    for raw in stream:
        block += raw.decode("utf-8", errors="surrogateescape")
        if not is_open_block(block):
            yield block.rstrip("\r\n")
            block = ""
    if block:
        yield block  # the end ends a message too


def converse(session: Session, stream: BinaryIO) -> int:
    """Answer every message; the exit code is that of the worst error. Raises what no
    conversation can go on without, as a model that cannot be loaded."""
    for message in read_messages(stream):
        if not attempt(session, message):
            break
    return session.exit_code
