"""/image, /video, /detach and dropped files."""

from __future__ import annotations

import os
from collections.abc import Sequence

from valley_cli.api import FrameSelection
from valley_cli.chat.attach import split_words
from valley_cli.chat.conversation import Attachment
from valley_cli.chat.session import Session
from valley_cli.errors import UsageError
from valley_cli.sources.times import split_options
from valley_cli.sources.transcript import Kind
from valley_cli.terminal.render import is_terminal, say


def attach(
    session: Session, words: list[str], kind: Kind | None = None, selection: FrameSelection | None = None
) -> None:
    """Attach what ``words`` name to the next question. Raises SourceError; then nothing is attached."""
    found = session.attacher.open(words, kind, selection)
    session.conversation = session.conversation.attached(found)
    show(session, found)


def show(session: Session, items: Sequence[Attachment]) -> None:
    """What was attached: its names, and a preview where that is wanted and can be seen."""
    renderer = session.renderer
    if renderer.quiet or not items:
        return
    if session.settings.preview and is_terminal(renderer.err):
        from valley_cli.terminal.preview import draw, pictures_of, screen_of

        screen = screen_of(renderer.err, os.environ)
        images = [pictures_of(item.held, session.attacher.limits)[1] for item in items if item.held]
        if screen and images:
            say(renderer.err, draw([image for group in images for image in group], screen))
    session.tell("\n".join(map(label, items)))


def label(item: Attachment) -> str:
    """An attachment on a line."""
    if not item.held:
        return f"[{item.name}] (gone: the model does not see it)"
    n_frames = len(item.held.frames)
    return f"[clip {item.name}, {n_frames} frames]" if n_frames else f"[picture {item.name}]"


def image(session: Session, rest: str) -> None:
    """/image SRC..."""
    if not rest:
        raise UsageError("/image needs a picture", "/image photo.jpg")
    attach(session, split_words(rest), "image")


def video(session: Session, rest: str) -> None:
    """/video SRC... [--frames N] [--fps F] [--start T] ..."""
    sources, wanted = split_options(split_words(rest))
    if not sources:
        raise UsageError("/video needs a clip", "/video clip.mp4 --start 0:10 --end 0:20")
    attach(session, sources, "video", wanted)


def detach(session: Session, rest: str) -> None:
    """/detach: what waits for the next question; with names, those, wherever they are; ``all``: everything."""
    conversation = session.conversation
    names = split_words(rest) if rest else []
    if not rest:
        gone = conversation.pending
    elif names == ["all"]:
        gone = conversation.attachments
    else:
        gone = tuple(item for item in conversation.attachments if item.name in names)
    if not gone:
        attached = ", ".join(item.name for item in conversation.attachments)
        hint = f"attached to earlier questions: {attached}" if attached else None
        raise UsageError("nothing waits for the next question" if not rest else f"nothing attached is {rest}", hint)
    session.conversation = conversation.without(gone)
    session.save()
    session.tell(f"let go: {', '.join(item.name for item in gone)}")
