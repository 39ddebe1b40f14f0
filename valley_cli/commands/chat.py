"""``valley chat [SOURCE...]``: a conversation about pictures and clips."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Annotated

import typer

from valley_cli.api import Engine, EngineOptions
from valley_cli.chat import lines
from valley_cli.chat.attach import Attacher, sources_of_file
from valley_cli.chat.opening import Opening
from valley_cli.chat.session import Session
from valley_cli.chat.stages import Stages
from valley_cli.chat.store import Autosave, last_saved, read_json, state_folder
from valley_cli.commands.shared import options as opt
from valley_cli.engine import open_engine
from valley_cli.errors import UsageError
from valley_cli.settings import Settings, override
from valley_cli.terminal.render import Renderer, StatusLine

app = typer.Typer(rich_markup_mode=None, add_completion=False)
CACHE_BYTES = 512_000_000  # of decoded pictures: each turn measures and sends all of them

Sources = Annotated[
    list[str] | None,
    typer.Argument(metavar="SOURCE", help="Pictures and clips for the first question.", show_default=False),
]
Continue = Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")]


@app.command()
@opt.with_settings(opt.ANSWER | opt.SCREEN)
def chat(
    settings: Settings,
    sources: Sources = None,
    resume: Continue = False,
) -> int:
    """Talk with the model about pictures and clips; /help lists the commands.

    Without a terminal: a question a line on stdin, the answers on stdout.
    """
    return run(settings, sources, resume=resume)


def run(settings: Settings, sources: list[str] | None, *, resume: bool) -> int:
    """Attach, take up, converse; the exit code."""
    if sys.stdin is None:
        raise UsageError("chat reads its questions from standard input, which is closed", "pipe them in")
    if "-" in (*(sources or ()), settings.system):
        raise UsageError("chat reads its questions from standard input, so - cannot be read", "give a file")
    status = StatusLine(sys.stderr, quiet=settings.quiet, verbose=settings.verbose)
    stages = Stages(status)
    try:
        session = open_session(settings, stages, resume=resume)
        session.conversation = session.conversation.attached(session.attacher.open(sources or []))
        status.clear()
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return over_lines(session)
        from valley_cli.chat import terminal  # the line editor costs 0.1 s

        return terminal.converse(session, stages, state_folder(os.environ) / "history")
    finally:
        status.close()


def over_lines(session: Session) -> int:
    """Lines in, answers out; the exit code."""
    session.opening.start()
    code = lines.converse(session, sys.stdin.buffer)
    if engine := session.opening.engine:
        engine.close()
    return code


def open_session(settings: Settings, stages: Stages, *, resume: bool) -> Session:
    """A new conversation, or the one that was saved last; its engine is opened when that is asked for."""
    folder = state_folder(os.environ) / "chats"
    path = last_saved(folder) if resume else None
    if resume and path is None:
        raise UsageError("there is no conversation to go on with", "valley chat begins one")

    def options(settings: Settings) -> EngineOptions:
        return replace(settings.engine_options(), media_cache_bytes=CACHE_BYTES)

    def opened(settings: Settings) -> Engine:
        return open_engine(options(settings), stages)

    def loading() -> Engine:
        engine = opened(session.settings)
        engine.load(stages)
        return engine

    limits = options(settings).limits
    session = Session(
        settings=settings,
        opening=Opening(loading),
        renderer=Renderer(sys.stdout, stages.status, settings.json, settings.stats, settings.quiet, settings.no_color),
        attacher=Attacher(limits, stages, on_note=lambda note: session.tell(note)),
        autosave=Autosave(folder, path),
        reopen=lambda settings: Opening(lambda: opened(settings)),
    )
    if path is not None:
        take_up(session, str(path))
    if settings.system is not None:
        system = opt.read_text(settings.system, "--system")
        session.conversation = replace(session.conversation, system=system)
    return session


def take_up(session: Session, path: str) -> None:
    """Go on with a saved conversation, with its model unless another was asked for."""
    transcript = session.take_up(read_json(path), path, sources_of_file(path, session.attacher.limits, typed=True))
    if transcript.model and not session.settings.origins.get("model", "").startswith("--"):
        session.settings = override(session.settings, {"model": transcript.model}, lambda name: f"{path}: {name}")
