"""``valley video SOURCE...``: one answer about a clip."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from valley_cli.api import Engine, FrameSelection, Media, MediaLimits, Request, Stage
from valley_cli.commands.shared import options as opt
from valley_cli.commands.shared.answering import (
    build_request,
    check_stdin_once,
    inputs_of,
    running_engine,
    show_answer,
    show_pictures,
)
from valley_cli.commands.shared.clips import check_fits, clip_record, cost_line
from valley_cli.commands.shared.output import open_output
from valley_cli.commands.shared.pictures_out import check_pictures_out, save_pictures
from valley_cli.errors import UsageError
from valley_cli.settings import Settings
from valley_cli.sources.expand import expand_sources
from valley_cli.sources.times import read_time
from valley_cli.terminal.render import Renderer, StatusLine, cost_record, cost_table, say

if TYPE_CHECKING:
    from valley_cli.media.clip.clip import Clip, Frame

    Asked = Callable[[tuple[Media, ...]], Request]

app = typer.Typer(rich_markup_mode=None, add_completion=False)
ONE, SEVERAL = "Describe the given video.", "Describe the given videos."

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Clips, or pictures that are the frames of one: paths, URLs, globs, folders, - for stdin.",
    ),
]
Frames = Annotated[int, typer.Option("--frames", help="How many frames, spread evenly.")]
Fps = Annotated[float | None, typer.Option("--fps", help="So many frames a second instead.")]
MaxFrames = Annotated[int | None, typer.Option("--max-frames", help="At most so many of --fps.")]
Start = Annotated[str | None, typer.Option("--start", help="Begin here: seconds, mm:ss or hh:mm:ss.")]
End = Annotated[str | None, typer.Option("--end", help="End here.")]
At = Annotated[list[str] | None, typer.Option("--at", help="The frame at this time; repeatable, or 1,2.5,1:10.")]
FrameRate = Annotated[float, typer.Option("--frame-rate", help="Frames a second of a clip given as pictures.")]
Sheet = Annotated[str | None, typer.Option("--contact-sheet", help="Save the frames as one labelled PNG.")]
SaveFrames = Annotated[str | None, typer.Option("--save-frames", help="Save each frame as PNG in this folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Frames, times and tokens; the model is not run.")]


@dataclass(frozen=True)
class Outputs:
    """What is written beside the answer."""

    output: str | None
    contact_sheet: str | None
    save_frames: str | None
    force: bool
    dry_run: bool


@app.command()
@opt.with_settings(opt.ANSWER | opt.SCREEN)
def video(
    settings: Settings,
    sources: Sources,
    prompt: opt.Prompt = None,
    frames: Frames = 8,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    start: Start = None,
    end: End = None,
    at: At = None,
    frame_rate: FrameRate = 1.0,
    contact_sheet: Sheet = None,
    save_frames: SaveFrames = None,
    dry_run: DryRun = False,
    output: opt.Output = None,
    force: opt.Force = False,
) -> None:
    """Say what happens in a clip, or answer a question about it. Its frames are looked at; sound is not heard.

    MP4, MOV, MKV, WebM, AVI, MPEG, animated GIF, WebP or PNG, or a folder of pictures. Several clips are looked at one
    after another. Without other wishes 8 frames are taken, from the first to the last, as the published models do.
    """
    wanted = selection(frames, fps, max_frames, start, end, at, frame_rate)
    run(settings, wanted, Outputs(output, contact_sheet, save_frames, force, dry_run), sources, prompt)


def selection(
    frames: int,
    fps: float | None,
    max_frames: int | None,
    start: str | None,
    end: str | None,
    at: list[str] | None,
    frame_rate: float,
) -> FrameSelection:
    """The options as one value. Raises UsageError for what is no time."""
    moments = tuple(read_time(part, "--at") for text in at or () for part in text.split(","))
    start_s = None if start is None else read_time(start, "--start")
    end_s = None if end is None else read_time(end, "--end")
    return FrameSelection(frames, fps, max_frames, start_s, end_s, moments, frame_rate)


def run(settings: Settings, wanted: FrameSelection, outputs: Outputs, sources: list[str], prompt: str | None) -> None:
    """Open everything, answer, close everything."""
    check_stdin_once(sources, prompt, settings.system)
    status = StatusLine(sys.stderr, quiet=settings.quiet, verbose=settings.verbose)
    status.stage(Stage("reading clips"))
    with ExitStack() as stack:
        stack.callback(status.close)
        options = settings.engine_options()
        stdin = sys.stdin.buffer if sys.stdin else None
        media = expand_sources(sources, stdin=stdin, kind="video", limits=options.limits)
        question = (ONE if len(media) == 1 else SEVERAL) if prompt is None else opt.read_text(prompt, "--prompt")
        system = None if settings.system is None else opt.read_text(settings.system, "--system")
        inputs = inputs_of(media, prompt, settings.system)
        check_pictures_out(outputs.contact_sheet, outputs.save_frames, outputs.force, inputs)
        out = stack.enter_context(open_output(outputs.output, outputs.force, inputs))
        renderer = Renderer(out, status, settings.json, settings.stats, settings.quiet, settings.no_color)
        clips = open_clips(media, wanted, options.limits, status, stack)
        engine = stack.enter_context(running_engine(options, status, settings.quiet))
        asked = partial(build_request, settings, question=question, system=system)
        answer(engine, asked, clips, renderer, outputs, preview=settings.preview)


def open_clips(
    media: tuple[Media, ...], wanted: FrameSelection, limits: MediaLimits, status: StatusLine, stack: ExitStack
) -> list[tuple[Media, Clip]]:
    """The clips, their frames chosen; ``stack`` keeps them open. Raises SourceError, UsageError."""
    from valley_cli.media.request import MediaReader, ReadTimings  # Pillow

    reader, timings, clips = MediaReader(limits), ReadTimings(on_stage=status.stage), []
    for handle in media:
        clip = reader.open_clip(replace(handle, selection=wanted), timings, stack)
        if len(media) > 1:
            clip.rest()
        clips.append((handle, clip))
    return clips


def answer(
    engine: Engine,
    asked: Asked,
    opened: list[tuple[Media, Clip]],
    renderer: Renderer,
    outputs: Outputs,
    *,
    preview: bool,
) -> None:
    """Say what the clips cost; decode them; show and write what was asked for; run the model."""
    from valley_cli.media.clip.clip import planned, sampled

    media, clips = zip(*opened, strict=True)
    price(engine, asked(tuple(map(planned, media, clips))), clips, renderer, outputs.dry_run)
    wanted = not outputs.dry_run or outputs.contact_sheet or outputs.save_frames
    frames = [decode(clip, renderer.status) if wanted else () for clip in clips]
    tell_notes(clips, renderer)
    if preview:
        show_pictures([frame.image for group in frames for frame in group], renderer)
    save_pictures([frame for group in frames for frame in group], outputs.contact_sheet, outputs.save_frames)
    if not outputs.dry_run:
        renderer.extra = {"clips": [clip_record(clip) for clip in clips]}
        request = asked(tuple(map(sampled, media, frames)))
        show_answer(engine, request, renderer, [handle.name for handle in media])


def price(engine: Engine, request: Request, clips: Sequence[Clip], renderer: Renderer, dry_run: bool) -> None:
    """Say what the request costs before it is run. Raises PromptError if the context does not hold it."""
    cost = engine.price(request)
    renderer.status.clear()
    if cost is None:
        if dry_run:
            raise UsageError(f"{engine.about.name} cannot tell what a request takes", "leave --dry-run out")
    elif not dry_run:
        if not renderer.quiet:
            say(renderer.err, cost_line([clip.plan for clip in clips], cost) + "\n")
        check_fits(engine, request, cost)
    elif renderer.as_json:
        renderer.write_json(cost_record(cost) | {"clips": [clip_record(clip) for clip in clips]})
    else:
        renderer.write(cost_table(cost) + "\n")


def decode(clip: Clip, status: StatusLine) -> tuple[Frame, ...]:
    """The clip's frames; the status line counts them."""
    return clip.frames(lambda done, total: status.stage(Stage("reading frames", done, total, "frames")))


def tell_notes(clips: Sequence[Clip], renderer: Renderer) -> None:
    """What was wrong with a clip that could be read all the same."""
    renderer.status.clear()
    for clip in clips:
        for note in clip.notes:
            if not renderer.quiet:
                say(renderer.err, f"{clip.plan.name}: {note}\n")
