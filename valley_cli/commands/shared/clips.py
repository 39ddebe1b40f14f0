"""Clips in a request, for the commands that take them: the cost line, what would make a clip fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from valley_cli.api import PIXELS_PER_TOKEN, Cost, Engine, Request
from valley_cli.errors import PromptError

if TYPE_CHECKING:
    from valley_cli.media.clip.clip import Clip, Plan

_MAX_SHOWN_TIMES = 16
_ROOM = 64  # tokens that an answer should have at least


def cost_line(plans: Sequence[Plan], cost: Cost) -> str:
    """Frames, times and tokens, a line for every clip."""
    lines = [f"{len(plans)} clips, looked at one after another"] if len(plans) > 1 else []
    for plan in plans:
        w, h = plan.size_wh
        what = f"{plan.codec} {w}x{h}, {plan.n_frames} frames, {plan.duration_s:.2f} s"
        lines.append(f"{plan.name} ({what}): {len(plan.moments)} at {times_text(plan)} s")
    tokens = f"{cost.image_tokens} tokens for {len(cost.pictures)} frames"
    return "\n".join([*lines, f"{tokens}, {cost.prompt_tokens} in all; the context holds {cost.context_tokens}"])


def times_text(plan: Plan) -> str:
    """``0.00 0.28 0.57``; of many, the first and the last."""
    times = [f"{moment.time_s:.2f}" for moment in plan.moments]
    if len(times) > _MAX_SHOWN_TIMES:
        times = [*times[: _MAX_SHOWN_TIMES // 2], "...", *times[-2:]]
    return " ".join(times)


def clip_record(clip: Clip) -> dict[str, Any]:
    """The clip as ``--json`` prints it."""
    record = asdict(clip.plan)
    del record["names"], record["moments"]
    return record | {"times_s": [round(moment.time_s, 3) for moment in clip.plan.moments], "notes": list(clip.notes)}


def check_fits(engine: Engine, request: Request, cost: Cost) -> None:
    """Raises PromptError, with the options that would make it fit, if the context has no room for an answer.

    Also for frames that the request has no place for: the github flavour takes 8 pictures, a prompt may hold <image>.
    """
    n_frames = sum(len(clip.frames) for clip in request.images)
    if len(cost.pictures) < n_frames:
        raise PromptError(
            f"only {len(cost.pictures)} of the {n_frames} frames have a place in the request",
            f"give --frames {max(len(cost.pictures) // len(request.images), 1)}, and no <image> in the prompt",
        )
    if cost.max_new_tokens > 0:
        return
    hints = [_fewer_frames(request, cost), _fewer_pixels(engine, request, cost)]
    raise PromptError(
        f"{len(cost.pictures)} frames are {cost.image_tokens} tokens, {cost.prompt_tokens} with the question; "
        f"the context holds {cost.context_tokens}",
        "it would fit with " + " or ".join(filter(None, hints)) if any(hints) else "ask a shorter question",
    )


def _fewer_frames(request: Request, cost: Cost) -> str | None:
    per_frame = cost.image_tokens / max(len(cost.pictures), 1)
    room = cost.context_tokens - (cost.prompt_tokens - cost.image_tokens) - _ROOM
    count = math.floor(room / max(per_frame, 1)) // max(len(request.images), 1)
    return f"--frames {count}" if count >= 1 else None


def _fewer_pixels(engine: Engine, request: Request, cost: Cost) -> str | None:
    """The largest of a few pixel counts that fits, found by asking."""
    tokens = max(grid[0] * grid[1] // 4 for grid in (picture.grid_hw for picture in cost.pictures))
    while (tokens := tokens * 3 // 4) >= 4:
        smaller = replace(request, max_pixels=tokens * PIXELS_PER_TOKEN, min_pixels=None)
        found = engine.price(smaller)
        if found and found.max_new_tokens >= _ROOM:
            return f"--max-pixels {tokens * PIXELS_PER_TOKEN}"
    return None
