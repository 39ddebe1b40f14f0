"""``valley describe SOURCE...``: one answer about one or more pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Annotated

import typer

from valley_cli.commands import options as opt
from valley_cli.commands.output import open_output
from valley_cli.engine import open_engine
from valley_cli.engine.base import Engine, Event, Media, Message, Request, Stage
from valley_cli.errors import DeviceError, SourceError, UsageError
from valley_cli.inputs import expand_sources
from valley_cli.render import Answer, Renderer, StatusLine, cost_record, cost_table, error_record, say
from valley_cli.settings import Settings, load_settings

app = typer.Typer(rich_markup_mode=None, add_completion=False)
ONE, SEVERAL = "Describe the given image.", "Describe the given images."

Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE", help="Paths, URLs, globs, folders, data: or file: URIs, - for stdin.")
]
Each = Annotated[bool, typer.Option("--each", help="One answer for every picture, headed by its name.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Sizes, tokens and memory; the model is not run.")]


@app.command()
def describe(
    sources: Sources,
    prompt: opt.Prompt = None,
    each: Each = False,
    dry_run: DryRun = False,
    output: opt.Output = None,
    force: opt.Force = False,
    model: opt.Model = None,
    system: opt.System = None,
    max_new_tokens: opt.MaxNewTokens = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    top_k: opt.TopK = None,
    repetition_penalty: opt.RepetitionPenalty = None,
    seed: opt.Seed = None,
    stop: opt.Stop = None,
    min_pixels: opt.MinPixels = None,
    max_pixels: opt.MaxPixels = None,
    think: opt.Think = None,
    flavour: opt.Flavour = None,
    exact: opt.Exact = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    revision: opt.Revision = None,
    offline: opt.Offline = None,
    as_json: opt.Json = None,
    stats: opt.Stats = None,
    quiet: opt.Quiet = None,
    verbose: opt.Verbose = None,
    no_color: opt.NoColor = None,
    debug: opt.Debug = None,
) -> None:
    """Say what is in one or more pictures, or answer a question about them together."""
    flags = dict(locals())
    own = {name: flags.pop(name) for name in ("sources", "prompt", "each", "dry_run", "output", "force")}
    settings = load_settings({"json": flags.pop("as_json")} | flags)
    with opt.early_ends(settings.debug):
        code = run(settings, **own)
    if code:
        raise typer.Exit(code)


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
    if [*sources, prompt, settings.system].count("-") > 1:
        raise UsageError("- (standard input) can be read only once", "give the others as files")
    status = StatusLine(sys.stderr, quiet=settings.quiet, verbose=settings.verbose)
    status.stage(Stage("reading pictures"))
    with ExitStack() as stack:
        stack.callback(status.close)
        options = settings.engine_options(status.stage)
        media = expand_sources(sources, stdin=sys.stdin.buffer if sys.stdin else None, limits=options.limits)
        question = None if prompt is None else opt.read_text(prompt, "--prompt")
        system = None if settings.system is None else opt.read_text(settings.system, "--system")
        requests = [build_request(settings, group, question, system) for group in groups(media, each)]
        out = stack.enter_context(open_output(output, force, inputs_of(media, prompt, settings.system)))
        engine = open_engine(options)
        # not on Ctrl-C: closing waits for the step under way, and the process ends at once
        stack.push(lambda kind, *_: None if kind is KeyboardInterrupt else engine.close())
        if engine.notice and not settings.quiet:
            status.clear()
            say(sys.stderr, f"{engine.notice}\n")
        renderer = Renderer(out, status, settings.json, settings.stats, settings.quiet, settings.no_color)
        codes = [answer_one(engine, request, renderer, each=each, dry_run=dry_run) for request in requests]
    return max(codes)


def inputs_of(media: tuple[Media, ...], *texts: str | None) -> list[str | int]:
    """The files that are read: pictures, @FILEs, and what is on standard input (never written to in any case)."""
    return [0, *filter(None, (handle.path for handle in media)), *filter(None, map(opt.prompt_file, texts))]


def groups(media: tuple[Media, ...], each: bool) -> list[tuple[Media, ...]]:
    """The pictures of each answer."""
    return [(handle,) for handle in media] if each else [media]


def build_request(settings: Settings, media: tuple[Media, ...], question: str | None, system: str | None) -> Request:
    """One question about ``media``."""
    text = question if question is not None else (ONE if len(media) == 1 else SEVERAL)
    opening = () if system is None else (Message("system", system),)
    return Request(
        messages=(*opening, Message("user", text)),
        images=media,
        sampling=settings.sampling(),
        think=settings.think,
        flavour=settings.flavour,
        exact=settings.exact,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
    )


def answer_one(engine: Engine, request: Request, renderer: Renderer, *, each: bool, dry_run: bool) -> int:
    """Answer or price one request; the exit code. With ``each``, an unreadable picture does not end the run."""
    names = [media.name for media in request.images]
    try:
        if dry_run:
            show_cost(engine, request, renderer)
        else:
            show_answer(engine, request, renderer, names, each)
    except SourceError as error:
        if not each:
            raise
        report_unreadable(error, renderer, names)
        return error.exit_code
    return 0


def show_answer(engine: Engine, request: Request, renderer: Renderer, names: list[str], each: bool) -> None:
    """Stream one answer. Ctrl-C keeps what was said; an error stands on a line of its own."""
    answer = Answer()
    with closing(engine.generate(request)) as events:
        try:
            renderer.show(headed(events, names, renderer) if each else events, answer)
        except KeyboardInterrupt:
            renderer.finish(answer, names, engine)
            raise
        except DeviceError:
            renderer.end_line(answer)
            raise
    renderer.finish(answer, names, engine)


def headed(events: Iterator[Event], names: list[str], renderer: Renderer) -> Iterator[Event]:
    """The same events; the picture's name is printed in front of the first."""
    first = next(events, None)
    if first is None:
        return
    if not renderer.as_json:
        renderer.status.clear()
        renderer.write(f"==> {', '.join(names)} <==\n")
    yield first
    yield from events


def show_cost(engine: Engine, request: Request, renderer: Renderer) -> None:
    """What the request would take, as a table or JSON."""
    cost = engine.measure(request)
    renderer.status.clear()
    if renderer.as_json:
        renderer.write_json(cost_record(cost))
    else:
        renderer.write(cost_table(cost) + "\n")


def report_unreadable(error: SourceError, renderer: Renderer, names: list[str]) -> None:
    """One of several pictures could not be read: say so in its place and go on."""
    renderer.status.clear()
    if renderer.as_json:
        renderer.write_json(error_record(error, names))
    hint = f" ({error.hint})" if error.hint else ""
    say(renderer.err, f"valley: {error.message}{hint}\n")
