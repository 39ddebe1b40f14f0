"""Pictures that were named together, or lie in one folder, as the frames of a clip. Decodes nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from valley_cli.api import Media
from valley_cli.errors import SourceError
from valley_cli.text import PICTURES, SNIFF_BYTES, moves, printable_source, sniff


def gather_clips(expanded: Sequence[tuple[str, tuple[Media, ...]]]) -> tuple[Media, ...]:
    """(argument, its files) -> clips; the pictures of an argument, and arguments that are pictures, become one.

    Raises SourceError for clips and pictures in one folder or glob.
    """
    clips: list[Media] = []
    loose: list[Media] = []  # pictures named one by one
    for arg, files in expanded:
        still = [media for media in files if _stands_still(media)]
        if len(files) == 1 and still:
            loose += still
            continue
        clips += _frames_as_clip(loose)
        loose = []
        if still and len(still) < len(files):
            hint = "name the ones you mean with a quoted pattern, such as 'FOLDER/*.png'"
            raise SourceError(printable_source(arg), "holds both clips and pictures", hint)
        clips += (
            [Media(printable_source(arg), "video", typed=files[0].typed, frames=_as_pictures(still))]
            if still
            else files
        )
    return tuple(clips + _frames_as_clip(loose))


def _frames_as_clip(pictures: list[Media]) -> list[Media]:
    if len(pictures) < 2:
        return list(pictures)  # opening it will say that it is no clip
    name = f"{pictures[0].name} ... {pictures[-1].name}"
    return [Media(name, "video", typed=pictures[0].typed, frames=_as_pictures(pictures))]


def _as_pictures(media: list[Media]) -> tuple[Media, ...]:
    return tuple(replace(picture, kind="image") for picture in media)


def _stands_still(media: Media) -> bool:
    """True for a file or data that begins as a picture of one frame does; what cannot be read now is no picture."""
    head = media.data
    if media.path is not None and os.path.isfile(media.path):
        try:
            with open(media.path, "rb") as file:
                head = file.read(SNIFF_BYTES)
        except OSError:
            head = None
    return head is not None and sniff(head) in PICTURES and not moves(head)
