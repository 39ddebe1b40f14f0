"""What a person attaches: paths and addresses as typed or dropped -> attachments that hold their bytes."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from valley_cli.api import FrameSelection, Media, MediaLimits, Stage
from valley_cli.chat.conversation import Attachment
from valley_cli.errors import SourceError, UsageError
from valley_cli.sources.expand import expand_sources
from valley_cli.sources.transcript import Kind, OpenSource
from valley_cli.text import CLIPS, SNIFF_BYTES, printable, printable_url, sniff

_CLIP_NAMES = re.compile(r"\.(mp4|m4v|mov|mkv|webm|avi)$", re.I)


@dataclass(frozen=True)
class Attacher:
    """Reads what is attached, at once and whole: an unreadable picture is said before anything is asked about it."""

    limits: MediaLimits
    on_stage: Callable[[Stage], None]
    on_note: Callable[[str], None]  # what was wrong with a clip that could be read all the same

    def open(
        self, words: list[str], kind: Kind | None = None, selection: FrameSelection | None = None
    ) -> list[Attachment]:
        """``words`` as sources; ``kind`` None goes by their bytes. Raises SourceError; then nothing is attached."""
        handles = [media for word in words for media in self._expand(word, kind, selection)]
        found = []
        for index, media in enumerate(handles):
            self.on_stage(Stage("reading pictures", index, len(handles), "pictures"))
            found.append(self.hold(media))
        return found

    def _expand(self, word: str, kind: Kind | None, selection: FrameSelection | None) -> tuple[Media, ...]:
        if word == "-":
            raise SourceError("-", "standard input holds the conversation here", "give the picture as a file")
        handles = expand_sources([word], kind=kind or guess_kind(word), limits=self.limits)
        return tuple(replace(media, selection=selection) for media in handles) if selection else handles

    def hold(self, media: Media) -> Attachment:
        """Read ``media`` into memory: a picture's bytes, a clip's chosen frames.

        Raises SourceError for what is no picture or clip, UsageError for moments that a clip does not have.
        """
        held = self._hold_clip(media) if media.kind == "video" else self._hold_picture(media)
        if media.url is not None and printable_url(media.url) != media.url:
            return Attachment(held, held)  # the address holds a secret: what it gave goes into files instead
        return Attachment(media, held)

    def _hold_picture(self, media: Media) -> Media:
        from valley_cli.media.request import MediaReader, ReadTimings

        reader, timings = MediaReader(self.limits), ReadTimings(on_stage=self.on_stage)
        data = reader.read(media, timings)
        held = Media(media.name, data=data)
        reader.picture(held, True, lambda: data, timings)
        return held

    def _hold_clip(self, media: Media) -> Media:
        from valley_cli.media.clip.clip import sampled
        from valley_cli.media.request import MediaReader, ReadTimings

        reader, timings = MediaReader(self.limits), ReadTimings(on_stage=self.on_stage)
        with ExitStack() as clips:
            clip = reader.open_clip(media, timings, clips)
            decoded = reader.frames(None, lambda: clip, timings)
            for note in decoded.notes:
                self.on_note(f"{media.name}: {note}")
            return sampled(media, decoded.frames)

    def hold_if_there(self, media: Media) -> tuple[Attachment, SourceError | None]:
        """As ``hold``; what a saved conversation names but is gone is kept by name, and the model does not see it."""
        try:
            return self.hold(media), None
        except SourceError as error:
            return Attachment(media, None), error


def sources_of_file(path: str, limits: MediaLimits, *, typed: bool) -> OpenSource:
    """How the sources in a saved conversation are opened: relative to its folder; a file that is gone is only named."""
    folder = os.path.dirname(os.path.abspath(path))

    def open_source(source: str, kind: Kind) -> tuple[Media, ...]:
        try:
            return expand_sources([source], typed=typed, base_dir=folder, kind=kind, limits=limits)
        except SourceError:
            if re.match(r"[a-z][a-z0-9+.-]+:", source, re.I):
                raise
            return (Media(printable(source), kind, path=os.path.join(folder, source), typed=typed),)

    return open_source


def guess_kind(word: str) -> Kind:
    """By the first bytes of a file; by the name of what is not here. An animated GIF counts as a picture."""
    if "://" in word and not word.startswith("file:"):
        return "video" if _CLIP_NAMES.search(urlsplit(word).path) else "image"
    if word.startswith("data:"):
        return "video" if word.startswith("data:video/") else "image"
    try:
        with open(local_path(word), "rb") as file:
            return "video" if sniff(file.read(SNIFF_BYTES)) in CLIPS else "image"
    except (OSError, ValueError):
        return "image"  # a folder, a glob, or nothing: ``expand_sources`` says which


def local_path(word: str) -> str:
    """The path that a path or ``file:`` URI names."""
    from urllib.parse import unquote

    return unquote(urlsplit(word).path) if word.lower().startswith("file:") else os.path.expanduser(word)


def split_words(text: str) -> list[str]:
    """Words as a shell would take them; a whole line that names a file as it stands is one word."""
    text = text.strip()
    if os.path.exists(os.path.expanduser(text)):
        return [text]
    try:
        return shlex.split(text)
    except ValueError:
        raise UsageError(
            f"a quotation mark is left open: {text}", "quote names that hold spaces: 'my picture.png'"
        ) from None


def dropped_paths(line: str) -> list[str]:
    """The files that a line consists of, as terminals write what is dropped on them; empty if it is something else.

    Whole paths, ``file:`` URIs and web addresses, escaped or quoted or bare; of other paths only quoted ones.
    """
    line = line.strip()
    if not line or "\n" in line:
        return []
    try:
        words = split_words(line)
    except UsageError:
        return []
    quoted = line[0] in "'\"" and line[-1] == line[0]
    for word in words:
        if re.match(r"https?://\S+$", word):
            continue
        path = local_path(word)
        whole = os.path.isabs(path) or word.startswith(("./", "../"))
        if not (whole or quoted) or not os.path.exists(path):
            return []
    return words
