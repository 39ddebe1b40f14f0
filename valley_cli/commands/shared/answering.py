"""What the commands that ask a model share: the engine at work, requests from settings, one answer or price shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from valley_cli.api import Engine, EngineOptions, Event, Media, MediaLimits, Message, Request, answering
from valley_cli.commands.shared import options as opt
from valley_cli.engine import open_engine
from valley_cli.errors import UsageError
from valley_cli.settings import Settings
from valley_cli.terminal.render import Renderer, Reply, StatusLine, cost_record, cost_table, is_terminal, say

if TYPE_CHECKING:
    from PIL.Image import Image

Around = Callable[[Iterator[Event]], Iterable[Event]]


@contextmanager
def running_engine(options: EngineOptions, status: StatusLine, quiet: bool) -> Iterator[Engine]:
    """The engine, its notice said; closed at the end, but not on Ctrl-C."""
    engine = open_engine(options, status.stage)
    with ExitStack() as stack:
        # not on Ctrl-C: closing waits for the step under way, and the process ends at once
        stack.push(lambda kind, *_: None if kind is KeyboardInterrupt else engine.close())
        if (notice := engine.about.notice) and not quiet:
            status.clear()
            say(sys.stderr, f"{notice}\n")
        yield engine


def check_stdin_once(sources: list[str], *texts: str | None) -> None:
    """Raises UsageError where standard input is asked for twice."""
    if [*sources, *texts].count("-") > 1:
        raise UsageError("- (standard input) can be read only once", "give the others as files")


def inputs_of(media: Iterable[Media], *texts: str | None) -> list[str | int]:
    """The files that are read: pictures, clips, @FILEs, and standard input (never written to in any case)."""
    handles = [part for handle in media for part in (handle, *handle.frames)]
    return [0, *filter(None, (handle.path for handle in handles)), *filter(None, map(opt.prompt_file, texts))]


def build_request(settings: Settings, media: tuple[Media, ...], question: str, system: str | None) -> Request:
    """One question about ``media``."""
    opening = () if system is None else (Message("system", system),)
    return settings.request((*opening, Message("user", question)), media)


def show_pictures(images: Sequence[Image], renderer: Renderer) -> None:
    """Show pictures on stderr, where that is a terminal."""
    from valley_cli.terminal.preview import draw, screen_of

    screen = None if renderer.quiet else screen_of(renderer.err, os.environ)
    if screen and images:
        renderer.status.clear()
        say(renderer.err, draw(images, screen))


def with_preview(request: Request, renderer: Renderer, limits: MediaLimits) -> Request:
    """Show the pictures of ``request``; they are in memory then, so that nothing is fetched twice."""
    from valley_cli.terminal.preview import pictures_of

    if renderer.quiet or not is_terminal(renderer.err):
        return request
    found = [pictures_of(media, limits) for media in request.images]
    show_pictures([image for _, images in found for image in images], renderer)
    return replace(request, images=tuple(media for media, _ in found))


def show_answer(
    engine: Engine, request: Request, renderer: Renderer, names: list[str], around: Around | None = None
) -> Reply:
    """Stream one answer, passed through ``around``. Ctrl-C keeps what was said."""
    reply = Reply()
    with answering(engine, request) as events:
        try:
            renderer.show(around(iter(events)) if around else events, reply)
        except KeyboardInterrupt:
            renderer.finish(reply, names, engine)
            raise
    renderer.finish(reply, names, engine)
    return reply


def show_cost(engine: Engine, request: Request, renderer: Renderer) -> None:
    """What the request would take, as a table or JSON."""
    cost = engine.price(request)
    if cost is None:
        raise UsageError(f"{engine.about.name} cannot tell what a request takes", "leave --dry-run out")
    renderer.status.clear()
    if renderer.as_json:
        renderer.write_json(cost_record(cost))
    else:
        renderer.write(cost_table(cost) + "\n")
