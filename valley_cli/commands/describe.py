"""``valley describe SOURCE...``: one answer about one or more pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Annotated, TextIO

import typer

from valley_cli.commands import options as opt
from valley_cli.engine import open_engine
from valley_cli.engine.base import Engine, Event, Media, Message, Request
from valley_cli.errors import EXIT_INTERRUPTED, SourceError, UsageError, ValleyError
from valley_cli.inputs import expand_sources
from valley_cli.render import Answer, Renderer, StatusLine, cost_record, cost_table, error_record
from valley_cli.settings import Settings, load_settings
from valley_cli.text import printable

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
    run(settings, **own)


def run(
    settings: Settings,
    sources: list[str],
    prompt: str | None,
    *,
    each: bool,
    dry_run: bool,
    output: str | None,
    force: bool,
) -> None:
    """Open everything, answer, close everything; ends the program when the exit code is not 0."""
    if "-" in sources and prompt == "-":
        raise UsageError("SOURCE - and --prompt - both read standard input", "give one of them as a file")
    status = StatusLine(sys.stderr, quiet=settings.quiet, verbose=settings.verbose)
    status.show("reading pictures ...")
    code = 0
    with ExitStack() as stack:
        stack.callback(status.clear)
        options = settings.engine_options(status.stage)
        media = expand_sources(sources, stdin=sys.stdin.buffer if sys.stdin else None, limits=options.limits)
        question = None if prompt is None else opt.read_text(prompt, "--prompt")
        system = None if settings.system is None else opt.read_text(settings.system, "--system")
        requests = [build_request(settings, group, question, system) for group in groups(media, each)]
        out = stack.enter_context(open_output(output, force))
        engine = stack.enter_context(closing(open_engine(options)))
        if engine.notice and not settings.quiet:
            status.clear()
            sys.stderr.write(f"{engine.notice}\n")
        renderer = Renderer(out, status, settings.json, settings.stats, settings.quiet, settings.no_color)
        for request in requests:
            code = max(code, answer_one(engine, request, renderer, each=each, dry_run=dry_run))
    if code:
        raise typer.Exit(code)


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
            return show_answer(engine, request, renderer, names, each)
    except SourceError as error:
        if not each:
            raise
        report_unreadable(error, renderer, names)
        return error.exit_code
    return 0


def show_answer(engine: Engine, request: Request, renderer: Renderer, names: list[str], each: bool) -> int:
    """Stream one answer. Ctrl-C keeps what was said."""
    answer = Answer()
    with closing(engine.generate(request)) as events:
        try:
            renderer.show(headed(events, names, renderer) if each else events, answer)
        except KeyboardInterrupt:
            renderer.finish(answer, names, "", engine.notice)
            return EXIT_INTERRUPTED
    renderer.finish(answer, names, "", engine.notice)
    return 0


def headed(events: Iterator[Event], names: list[str], renderer: Renderer) -> Iterator[Event]:
    """The same events; the picture's name is printed in front of the first."""
    first = next(events, None)
    if first is None:
        return
    if not renderer.as_json:
        renderer.status.clear()
        renderer.out.write(f"==> {', '.join(names)} <==\n")
    yield first
    yield from events


def show_cost(engine: Engine, request: Request, renderer: Renderer) -> None:
    """What the request would take, as a table or JSON."""
    cost = engine.measure(request)
    renderer.status.clear()
    text = json.dumps(cost_record(cost), ensure_ascii=False) if renderer.as_json else cost_table(cost)
    renderer.out.write(text + "\n")
    renderer.out.flush()


def report_unreadable(error: SourceError, renderer: Renderer, names: list[str]) -> None:
    """One of several pictures could not be read: say so in its place and go on."""
    renderer.status.clear()
    if renderer.as_json:
        renderer.out.write(json.dumps(error_record(error, names), ensure_ascii=False) + "\n")
        renderer.out.flush()
    hint = f" ({error.hint})" if error.hint else ""
    renderer.err.write(f"valley: {error.message}{hint}\n")


@contextmanager
def open_output(path: str | None, force: bool) -> Iterator[TextIO]:
    """stdout, or the file of ``-o``, which is not overwritten without ``--force``."""
    if path is None or path == "-":
        yield sys.stdout
        return
    try:
        stream = open(path, "w" if force else "x", encoding="utf-8")  # noqa: SIM115 - closed below
    except FileExistsError:
        raise UsageError(f"{printable(path)} exists", "give another name, or add --force to overwrite it") from None
    except OSError as error:
        raise ValleyError(f"{printable(path)}: {(error.strerror or 'cannot be written').lower()}") from None
    with stream:
        yield stream
