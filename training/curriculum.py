"""Which skills are taught when, and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.data import Mix

WARM_UP_STEPS = 60
DENSE_FADES_AT = 0.85  # share of the run after which the dense labels no longer count


@dataclass(frozen=True)
class Stage:
    """A part of the run. ``share``: of its time. ``dense_only``: the tower alone, on dense labels."""

    name: str
    share: float
    mix: Mix
    dense_only: bool = False


LOOK_UPS = ("colour", "shape", "size", "where", "what at", "beside", "count shape", "count colour")
BY_SHAPE = ("colour", "where", "size", "count shape", "count colour", "exists")
SLOWEST = ("count shape", "exists", "where", "beside", "count colour")
STAGES = (
    Stage("see", 0.08, Mix(text=0.35, several=0.1, clips=0.03), dense_only=True),
    Stage("basics", 0.32, Mix(text=0.06, describe=0.8)),
    Stage("look-ups", 0.12, Mix(describe=0.3, focus=1.0, kinds=LOOK_UPS)),
    Stage(
        "everything",
        0.24,
        Mix(several=0.08, clips=0.08, talk=0.01, text=0.1, turns=0.1, describe=0.55, focus=0.45, kinds=BY_SHAPE),
    ),
    Stage(
        "slowest",
        0.24,
        Mix(several=0.24, clips=0.16, talk=0.015, text=0.06, turns=0.1, describe=0.5, focus=0.4, kinds=SLOWEST),
    ),
)


def stage_at(progress: float) -> Stage:
    """The stage at ``progress`` 0..1 of the run."""
    end = 0.0
    for stage in STAGES:
        end += stage.share
        if progress < end:
            return stage
    return STAGES[-1]


def lr_factor(progress: float, steps_in_phase: int) -> float:
    """Share of the full learning rate: falling linearly while only the tower learns, then a cosine to nearly zero."""
    warm = min(1.0, (steps_in_phase + 1) / WARM_UP_STEPS)
    first = STAGES[0].share
    if progress < first:
        return warm * (1 - 0.6 * progress / first)
    rest = min(1.0, (progress - first) / (1 - first))
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * rest)))


def dense_weight(progress: float) -> float:
    """Weight of the dense labels beside the answers."""
    return 0.5 * max(0.0, 1 - progress / DENSE_FADES_AT)
