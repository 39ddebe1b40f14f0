"""``valley describe SOURCE...``: one answer about one or more pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Annotated

import typer

from valley_cli.api import Engine, Event, Media, Request, Stage
from valley_cli.commands.shared import options as opt
from valley_cli.commands.shared.answering import (
    build_request,
    check_stdin_once,
    inputs_of,
    running_engine,
    show_answer,
    show_cost,
    with_preview,
)
from valley_cli.commands.shared.output import open_output
from valley_cli.errors import SourceError
from valley_cli.settings import Settings, as_flags
from valley_cli.sources.expand import expand_sources
from valley_cli.terminal.render import Renderer, StatusLine, error_record, say

app = typer.Typer(rich_markup_mode=None, add_completion=False)
ONE, SEVERAL = "Describe the given image.", "Describe the given images."

Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE", help="Paths, URLs, globs, folders, data: or file: URIs, - for stdin.")
]
Each = Annotated[bool, typer.Option("--each", help="One answer for every picture, headed by its name.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Sizes, tokens and memory; the model is not run.")]


@app.command()
@opt.with_settings(opt.ANSWER | opt.SCREEN)
def describe(
    settings: Settings,
    sources: Sources,
    prompt: opt.Prompt = None,
    each: Each = False,
    dry_run: DryRun = False,
    output: opt.Output = None,
    force: opt.Force = False,
) -> int:
    """Say what is in one or more pictures, or answer a question about them together."""
    return run(settings, sources, prompt, each=each, dry_run=dry_run, output=output, force=force)


def run(
    settings: Settings,
    sources: list[str],
    prompt: str | None,
    *,
    each: bool,
    dry_run: bool,
    output: str | None,
    force: bool,
) -> int:
    """Open everything, answer, close everything; the exit code."""
    check_stdin_once(sources, prompt, settings.system)
    status = StatusLine(sys.stderr, quiet=settings.quiet, verbose=settings.verbose)
    status.stage(Stage("reading pictures"))
    with ExitStack() as stack:
        stack.callback(status.close)
        options = settings.engine_options()
        media = expand_sources(sources, stdin=sys.stdin.buffer if sys.stdin else None, limits=options.limits)
        question = None if prompt is None else opt.read_text(prompt, "--prompt")
        system = None if settings.system is None else opt.read_text(settings.system, "--system")
        requests = [
            build_request(settings, group, default_question(group) if question is None else question, system)
            for group in groups(media, each)
        ]
        out = stack.enter_context(open_output(output, force, inputs_of(media, prompt, settings.system)))
        engine = stack.enter_context(running_engine(options, status, settings.quiet))
        renderer = Renderer(out, status, settings.json, settings.stats, settings.quiet, settings.no_color)
        shown = partial(with_preview, renderer=renderer, limits=options.limits) if settings.preview else None
        codes = [answer_one(engine, request, renderer, each=each, dry_run=dry_run, shown=shown) for request in requests]
    return max(codes)


def groups(media: tuple[Media, ...], each: bool) -> list[tuple[Media, ...]]:
    """The pictures of each answer."""
    return [(handle,) for handle in media] if each else [media]


def default_question(media: tuple[Media, ...]) -> str:
    """What is asked where no -p is given."""
    return ONE if len(media) == 1 else SEVERAL


def answer_one(
    engine: Engine,
    request: Request,
    renderer: Renderer,
    *,
    each: bool,
    dry_run: bool,
    shown: Callable[[Request], Request] | None,
) -> int:
    """Answer or price one request, after its preview; the exit code.

    With ``each``, an unreadable picture does not end the run.
    """
    names = [media.name for media in request.images]
    try:
        request = shown(request) if shown else request
        if dry_run:
            show_cost(engine, request, renderer)
        else:
            show_answer(engine, request, renderer, names, partial(headed, names, renderer) if each else None)
    except SourceError as error:
        if not each:
            raise
        report_unreadable(error, renderer, names)
        return error.exit_code
    return 0


def headed(names: list[str], renderer: Renderer, events: Iterator[Event]) -> Iterator[Event]:
    """The same events; the picture's name is printed in front of the answer."""
    for event in events:
        if not isinstance(event, Stage):
            if not renderer.as_json:
                renderer.status.clear()
                renderer.write(f"==> {', '.join(names)} <==\n")
            yield event
            break
        yield event
    yield from events


def report_unreadable(error: SourceError, renderer: Renderer, names: list[str]) -> None:
    """One of several pictures could not be read: say so in its place and go on."""
    renderer.status.clear()
    if renderer.as_json:
        renderer.write_json(error_record(error, names))
    hint = f" ({error.hint})" if error.hint else ""
    say(renderer.err, as_flags(f"valley: {error.message}{hint}\n"))
