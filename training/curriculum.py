"""Which skills are taught when, and how fast. All progress is 0..1 of the run's time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.data import Mix

WARM_UP_STEPS = 60
DENSE, DENSE_FADES_AT = 0.5, 0.9  # weight of the dense labels beside the answers at first; where it has become 0
LOOK_UPS = ("colour", "shape", "size", "where", "what at", "beside", "count shape", "count colour")
HARD = ("side", "is it beside", "beside", "exists", "absent", "count", "count shape", "count colour", "what at")

SEVERAL = {"several": 0.08, "changed": 0.08, "clips": 0.1}
EVERYTHING = SEVERAL | {"reading": 0.22, "crowded": 0.1, "conversations": 0.12, "talk": 0.01}


@dataclass(frozen=True)
class Stage:
    """A part of the run. ``share``: of its time. ``looks_only``: the tower alone, on dense labels."""

    name: str
    share: float
    mix: Mix
    looks_only: bool = False


STAGES = (
    Stage("see", 0.12, Mix({"crowded": 0.25, "several": 0.08, "clips": 0.03}, text=0.3), looks_only=True),
    Stage("basics", 0.28, Mix(text=0.06, describe=0.8)),
    Stage("look-ups", 0.12, Mix(describe=0.3, focus=1.0, kinds=LOOK_UPS)),
    Stage("everything", 0.48, Mix(EVERYTHING, text=0.2, describe=0.6, focus=0.35, kinds=HARD)),
)


def stage_at(progress: float) -> Stage:
    """The stage at ``progress``."""
    end = 0.0
    for stage in STAGES:
        end += stage.share
        if progress < end:
            return stage
    return STAGES[-1]


def lr_factor(progress: float, steps_in_phase: int) -> float:
    """Share of the full learning rate: falling linearly while only the tower learns, then along a cosine.

    ``steps_in_phase``: since the run or the learning of answers began; both warm up.
    """
    warm = min(1.0, (steps_in_phase + 1) / WARM_UP_STEPS)
    see = STAGES[0].share
    if progress < see:
        return warm * (1 - 0.6 * progress / see)
    rest = min(1.0, (progress - see) / (1 - see))
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * rest)))


def dense_weight(progress: float) -> float:
    """Weight of the dense labels beside the answers."""
    return DENSE * max(0.0, 1 - progress / DENSE_FADES_AT)
