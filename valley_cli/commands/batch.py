"""``valley batch FILE``: many requests, JSON lines in and out."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Annotated, TextIO

import typer

from valley_cli.api import MediaLimits
from valley_cli.batch.dryrun import dry_run
from valley_cli.batch.index import Index
from valley_cli.batch.lines import Input, input_of_images, open_input
from valley_cli.batch.output import NoOutput, open_out
from valley_cli.batch.progress import Progress, Tally
from valley_cli.batch.rows import ONE, RowReader
from valley_cli.batch.run import Plan, Run, parse_shard
from valley_cli.commands.shared import options as opt
from valley_cli.commands.shared.output import open_output
from valley_cli.engine import open_engine
from valley_cli.errors import EXIT_INTERRUPTED, UsageError
from valley_cli.settings import Settings
from valley_cli.sources.expand import expand_sources
from valley_cli.terminal.render import Renderer
from valley_cli.text import printable

app = typer.Typer(rich_markup_mode=None, add_completion=False)
MEDIA_CACHE_BYTES = 128_000_000  # of decoded media and their tensors
INFLIGHT_CUDA = 80

File = Annotated[str | None, typer.Argument(metavar="FILE", help="JSON lines, one request each; - for stdin.")]
Images = Annotated[
    list[str] | None,
    typer.Option("--images", help="A row for each of these pictures instead: a quoted glob; repeatable."),
]
Out = Annotated[str | None, typer.Option("--output", "-o", help="Write records here; a file of records is continued.")]
Unordered = Annotated[bool, typer.Option("--unordered", help="Records as they finish, not in input order.")]
MaxInflight = Annotated[
    int | None,
    typer.Option("--max-inflight", min=1, max=1000, help="Rows under way at once.", show_default="80; 24 on a CPU"),
]
RowTimeout = Annotated[
    float | None, typer.Option("--row-timeout", min=0.001, help="Seconds after which a row is given up.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=0, help="Only the first so many rows.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="End at the first row that fails.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed/--no-retry-failed", help="Try failed rows again when continuing.")
]
Shard = Annotated[str, typer.Option("--shard", metavar="I/N", help="Of every N rows the I-th only, from 1.")]
AllowPrivate = Annotated[bool, typer.Option("--allow-private", help="Let rows name addresses in private networks.")]


DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and price every row; the model is not run.")]
Report = Annotated[
    str | None, typer.Option("--report", metavar="PAGE", help="Afterwards, one HTML page about the file of -o.")
]
ReportOnly = Annotated[
    str | None, typer.Option("--report-only", metavar="OUT", help="Just the page, about an earlier run's file OUT.")
]


@dataclass(frozen=True)
class Asked:
    """The options that only this command has, as they were typed."""

    file: str | None
    images: list[str] | None
    prompt: str | None
    output: str | None
    unordered: bool
    max_inflight: int | None
    row_timeout: float | None
    limit: int | None
    fail_fast: bool
    retry_failed: bool
    shard: str
    allow_private: bool
    dry_run: bool
    report: str | None
    report_only: str | None
    force: bool


@app.command()
@opt.with_settings(opt.pick(*opt.ANSWER, "json", "quiet", "log", "debug"))
def batch(
    settings: Settings,
    file: File = None,
    images: Images = None,
    prompt: opt.Prompt = None,
    output: Out = None,
    unordered: Unordered = False,
    max_inflight: MaxInflight = None,
    row_timeout: RowTimeout = None,
    limit: Limit = None,
    fail_fast: FailFast = False,
    retry_failed: RetryFailed = True,
    shard: Shard = "1/1",
    allow_private: AllowPrivate = False,
    dry_run: DryRun = False,
    report: Report = None,
    report_only: ReportOnly = None,
    force: opt.Force = False,
) -> int:
    """Answer every row of a file, for hours if need be; the same command continues what was interrupted."""
    values = locals()
    asked = Asked(**{entry.name: values[entry.name] for entry in fields(Asked)})
    return report_alone(settings, asked) if asked.report_only else run(settings, asked)


def run(settings: Settings, asked: Asked) -> int:
    """Open everything, run the rows, close everything; the exit code."""
    plan, prompt = plan_of(settings, asked), read_prompt(asked)
    if settings.system is not None:
        settings = replace(settings, system=opt.read_text(settings.system, "--system"))
    tally, index = Tally(), Index()
    progress = Progress(sys.stderr, tally, quiet=bool(settings.quiet))
    options = replace(settings.engine_options(), media_cache_bytes=MEDIA_CACHE_BYTES)
    source = open_source(asked, prompt, options.limits)
    with ExitStack() as stack:
        page = open_page(asked, stack)
        output = NoOutput() if asked.dry_run else open_out(asked.output, inputs_of(asked), index, progress.status)
        stack.callback(output.close)
        engine = open_engine(options, progress.stage)
        reader = RowReader(
            settings, engine.about.name, prompt, source.base_dir, options.limits, asked.allow_private, asked.row_timeout
        )
        for notice in (engine.about.notice, *output.notices(reader.settings_hash)):
            progress.note(notice or "")
        rows = Run(plan, source, reader, engine, output, index, tally)
        if asked.dry_run:
            return show_cost(rows, progress, settings)
        code = answer_all(rows, progress)
        if page and asked.output and code < EXIT_INTERRUPTED:
            from valley_cli.batch.report import write_report  # Jinja and Pillow, not for --help

            write_report(asked.output, page, progress.status)
    return code


def answer_all(rows: Run, progress: Progress) -> int:
    """Run the rows and sum them up; the exit code."""
    try:
        code = rows.go(progress)
    except BaseException:
        rows.engine.close()
        raise
    progress.note(rows.tally.summary())
    if code < EXIT_INTERRUPTED:  # else the process ends at once: closing would wait for the step under way
        rows.engine.close()
    return code


def plan_of(settings: Settings, asked: Asked) -> Plan:
    """Raises UsageError for a shard that is none."""
    return Plan(
        max_inflight=asked.max_inflight or default_inflight(settings.device),
        ordered=not asked.unordered,
        limit=asked.limit,
        shard=parse_shard(asked.shard),
        fail_fast=asked.fail_fast,
        retry_failed=asked.retry_failed,
        debug=settings.debug,
    )


def default_inflight(device: str) -> int:
    """A card answers 64 rows at once and wants the next ones ready; a CPU gains nothing beyond a dozen or two."""
    from valley_cli.engine.device.probe import may_have_cuda

    return INFLIGHT_CUDA if device != "cpu" and may_have_cuda() else Plan.max_inflight


def read_prompt(asked: Asked) -> str | None:
    """The text of ``-p``."""
    if [asked.file, asked.prompt].count("-") > 1:
        raise UsageError("- (standard input) can be read only once", "give the rows or the prompt as a file")
    return None if asked.prompt is None else opt.read_text(asked.prompt, "--prompt")


def open_source(asked: Asked, prompt: str | None, limits: MediaLimits) -> Input:
    """Where the rows come from. Raises UsageError unless it is exactly one place."""
    if (asked.file is None) == (not asked.images):
        raise UsageError("give either a file of rows or --images", "valley batch prompts.jsonl -o answers.jsonl")
    if asked.file is not None:
        return open_input(asked.file)
    return input_of_images(expand_sources(asked.images or [], limits=limits), prompt or ONE)


def inputs_of(asked: Asked) -> list[str | int]:
    """The files that are read, which nothing is written to."""
    return [0, *(name for name in (asked.file, opt.prompt_file(asked.prompt)) if name)]


def open_page(asked: Asked, stack: ExitStack) -> TextIO | None:
    """The file of ``--report``, before hours go by: it stays as it is until the page is written."""
    if asked.report is None:
        return None
    if asked.output is None or asked.dry_run:
        raise UsageError("--report is about a file of records", "add -o answers.jsonl")
    return stack.enter_context(open_output(asked.report, asked.force, [*inputs_of(asked), asked.output]))


def report_alone(settings: Settings, asked: Asked) -> int:
    """The page about records that are there already."""
    if asked.file is not None or asked.images or asked.output is not None:
        raise UsageError("--report-only runs no rows", "valley batch --report-only answers.jsonl")
    from valley_cli.batch.report import write_report

    records = str(asked.report_only)
    progress = Progress(sys.stderr, Tally(), quiet=bool(settings.quiet))
    path = asked.report or f"{os.path.splitext(records)[0]}.html"
    with open_output(path, asked.force, [records]) as page:
        write_report(records, page, progress.status)
    progress.note(f"valley: {printable(path)} is written")
    return 0


def show_cost(rows: Run, progress: Progress, settings: Settings) -> int:
    """What all rows would take, on standard output."""
    totals, code = dry_run(rows, progress)
    renderer = Renderer(sys.stdout, progress.status)
    if settings.json:
        renderer.write_json(totals.record())
    else:
        renderer.write(totals.table() + "\n")
    return code
