"""Frames as files: one labelled sheet, or a picture each. Nothing is overwritten unasked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from valley_cli.errors import UsageError, ValleyError
from valley_cli.text import SNIFF_BYTES, printable, sniff

if TYPE_CHECKING:
    from valley_cli.media.clip.clip import Frame


def check_pictures_out(sheet: str | None, folder: str | None, force: bool, inputs: Iterable[str | int]) -> None:
    """Raises UsageError, before anything is decoded, for files that would be overwritten and folders that are none."""
    if sheet is not None and not sheet.lower().endswith(".png"):
        raise UsageError(f"--contact-sheet {printable(sheet)}: it is a PNG file", "give it a name that ends in .png")
    if sheet is not None and os.path.lexists(sheet):
        name = printable(sheet)
        if any(_same(sheet, source) for source in inputs):
            raise UsageError(f"--contact-sheet {name} is one of the inputs", "give it another name")
        if not force:
            raise UsageError(f"{name} exists", "give another name, or add --force to overwrite it")
        if not os.path.isfile(sheet) or _kind(sheet) not in ("png", "empty"):
            raise UsageError(f"{name} is no PNG file, so --force does not overwrite it", "give another name")
    if folder is not None and os.path.lexists(folder):
        if not os.path.isdir(folder):
            raise UsageError(f"--save-frames {printable(folder)}: is not a folder", "give the name of a folder")
        if os.listdir(folder) and not force:
            raise UsageError(
                f"{printable(folder)} is not empty", "give another folder, or add --force to write into it"
            )


def save_pictures(frames: Sequence[Frame], sheet: str | None, folder: str | None) -> None:
    """Write what was asked for. Raises ValleyError with the name of the file."""
    if sheet is not None:
        from valley_cli.media.clip.sheet import contact_sheet

        _save(contact_sheet(frames), sheet)
    if folder is not None:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise ValleyError(f"--save-frames {printable(folder)}: {error.strerror}".lower()) from None
        for number, frame in enumerate(frames):
            _save(frame.image, os.path.join(folder, f"{number:04d}_{frame.time_s:.3f}s.png"))


def _save(image: object, path: str) -> None:
    """Into a new file that takes the name only when it is whole."""
    part = f"{path}.{os.getpid()}.part"
    try:
        image.save(part, "PNG")  # type: ignore[attr-defined]
        os.replace(part, path)
    except (OSError, ValueError) as error:
        with suppress(OSError):
            os.unlink(part)
        reason = (getattr(error, "strerror", None) or "not a file name").lower()
        raise ValleyError(f"{printable(path)}: {reason}", "give another name") from None


def _same(path: str, source: str | int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.stat(source))
    except (OSError, ValueError):
        return False


def _kind(path: str) -> str:
    with open(path, "rb") as file:
        return sniff(file.read(SNIFF_BYTES))
