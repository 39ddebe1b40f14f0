"""Which skills are taught when, and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from training.data import Mix

WARM_UP_STEPS = 60


@dataclass(frozen=True)
class Stage:
    """A part of the run. ``share``: of its time. ``dense_only``: the tower alone, on dense labels."""

    name: str
    share: float
    mix: Mix
    dense_only: bool = False


@dataclass(frozen=True)
class Curriculum:
    """The stages of a run and what changes along them; all progress is 0..1 of the run.

    ``peak``: of the full learning rate; ``dense_peak``: while only the tower learns. ``falls_from``: where the cosine
    to nearly zero starts. ``dense``: weight of the dense labels beside the answers at the start; they no longer count
    from ``dense_fades_at``. ``no_character``: weight of the patches that show no character.
    """

    stages: tuple[Stage, ...]
    peak: float = 1.0
    dense_peak: float = 1.0
    falls_from: float = 0.0
    dense: float = 0.5
    dense_fades_at: float = 0.85
    no_character: float = 0.3

    def stage_at(self, progress: float) -> Stage:
        """The stage at ``progress``."""
        end = 0.0
        for stage in self.stages:
            end += stage.share
            if progress < end:
                return stage
        return self.stages[-1]

    def lr_factor(self, progress: float, steps_in_phase: int) -> float:
        """Share of the full learning rate: falling linearly while only the tower learns, level, then a cosine."""
        warm_up = min(1.0, (steps_in_phase + 1) / WARM_UP_STEPS)
        if self.stage_at(progress).dense_only:
            return warm_up * self.dense_peak * (1 - 0.6 * progress / self.stages[0].share)
        warm = self.peak * warm_up
        rest = min(1.0, max(0.0, progress - self.falls_from) / (1 - self.falls_from))
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * rest)))

    def dense_weight(self, progress: float) -> float:
        """Weight of the dense labels beside the answers."""
        return self.dense * max(0.0, 1 - progress / self.dense_fades_at)


LOOK_UPS = ("colour", "shape", "size", "where", "what at", "beside", "count shape", "count colour")
BY_SHAPE = ("colour", "where", "size", "count shape", "count colour", "exists")
SLOWEST = ("count shape", "exists", "where", "beside", "count colour")
FIRST = Curriculum(
    (
        Stage("see", 0.08, Mix(text=0.35, several=0.1, clips=0.03), dense_only=True),
        Stage("basics", 0.32, Mix(text=0.06, describe=0.8)),
        Stage("look-ups", 0.12, Mix(describe=0.3, focus=1.0, kinds=LOOK_UPS)),
        Stage(
            "everything",
            0.24,
            Mix(
                several=0.08,
                clips=0.08,
                talk=0.01,
                text=0.1,
                conversations=0.1,
                describe=0.55,
                focus=0.45,
                kinds=BY_SHAPE,
            ),
        ),
        Stage(
            "slowest",
            0.24,
            Mix(
                several=0.24,
                clips=0.16,
                talk=0.015,
                text=0.06,
                conversations=0.1,
                describe=0.5,
                focus=0.4,
                kinds=SLOWEST,
            ),
        ),
    ),
    falls_from=0.08,
)

IS_THERE = ("count shape", "exists")
MORE = Curriculum(
    (
        Stage("reading", 0.3, Mix(text=0.9, describe=0.15)),
        Stage(
            "is there",
            0.15,
            Mix(text=0.8, describe=0.1, focus=0.75, kinds=IS_THERE, rounds=3, alike=0.3),
        ),
        Stage(
            "several",
            0.15,
            Mix(several=0.4, clips=0.32, text=0.7, describe=0.3, focus=0.4, kinds=IS_THERE, rounds=3, alike=0.3),
        ),
        Stage(
            "everything",
            0.4,
            Mix(
                several=0.2,
                clips=0.16,
                talk=0.015,
                text=0.45,
                conversations=0.08,
                describe=0.6,
                focus=0.35,
                kinds=SLOWEST,
                rounds=2,
                alike=0.2,
            ),
        ),
    ),
    peak=0.5,
    falls_from=0.4,
    no_character=0.03,
)

WEAK = ("side", "is it beside", "beside", "exists", "absent", "count", "count shape", "count colour", "what at")
BROAD = Curriculum(
    (
        Stage("look", 0.24, Mix(text=0.5, several=0.04, clips=0.03), dense_only=True),
        Stage(
            "broad",
            0.76,
            Mix(
                several=0.08,
                changed=0.04,
                clips=0.09,
                conversations=0.08,
                photographs=0.02,
                talk=0.005,
                text=0.4,
                describe=0.7,
                focus=0.35,
                kinds=WEAK,
                rounds=2,
                alike=0.15,
            ),
        ),
    ),
    peak=0.5,
    falls_from=0.25,
    dense_fades_at=0.9,
    no_character=0.03,
)

GENTLE = Curriculum(
    (
        Stage(
            "gentle",
            1.0,
            Mix(
                several=0.08,
                changed=0.03,
                clips=0.09,
                conversations=0.12,
                photographs=0.01,
                talk=0.01,
                text=0.35,
                describe=0.6,
                focus=0.35,
                kinds=WEAK,
                rounds=2,
                alike=0.15,
            ),
        ),
    ),
    peak=0.35,
    falls_from=0.3,
    dense_fades_at=0.9,
    no_character=0.03,
)

LOOK = Curriculum(
    (Stage("look", 1.0, Mix(crowded=0.6, text=0.4, several=0.06, clips=0.03), dense_only=True),), no_character=0.03
)

DEEP = Curriculum(
    (
        Stage(
            "skills",
            0.25,
            Mix(
                several=0.13,
                changed=0.05,
                clips=0.12,
                conversations=0.12,
                photographs=0.01,
                talk=0.01,
                crowded=0.05,
                text=0.35,
                describe=0.5,
                focus=0.65,
                kinds=WEAK,
                objects=(2, 2, 3, 3, 4, 5, 5),
                rounds=4,
                alike=0.15,
            ),
        ),
        Stage(
            "everything",
            0.75,
            Mix(
                several=0.08,
                changed=0.04,
                clips=0.1,
                conversations=0.08,
                photographs=0.02,
                talk=0.01,
                crowded=0.2,
                reading=0.24,
                text=0.2,
                describe=0.75,
                focus=0.3,
                kinds=WEAK,
                objects=(2, 3, 3, 4, 5, 5),
                rounds=2,
                alike=0.15,
            ),
        ),
    ),
    peak=0.75,
    falls_from=0.25,
    dense_fades_at=0.92,
    no_character=0.03,
)

POLISH_MIX = replace(
    DEEP.stages[1].mix,
    several=0.06,
    changed=0.1,
    clips=0.06,
    conversations=0.1,
    photographs=0.01,
    crowded=0.12,
    reading=0.3,
    focus=0.2,
)
POLISH = Curriculum((Stage("polish", 1.0, POLISH_MIX),), peak=0.35, no_character=0.03)

BROADER = Curriculum(
    (
        replace(LOOK.stages[0], share=0.05),
        Stage(
            "broader",
            0.95,
            replace(
                POLISH_MIX,
                changed=0.06,
                clips=0.07,
                conversations=0.17,
                crowded=0.13,
                reading=0.26,
                unnamed=0.05,
            ),
        ),
    ),
    peak=0.5,
    dense_peak=0.35,
    falls_from=0.2,
    dense_fades_at=0.92,
    no_character=0.03,
)

CHANGES_MIX = replace(BROADER.stages[1].mix, several=0.05, changed=0.14, conversations=0.15, crowded=0.12)
PAIRS_MIX = replace(CHANGES_MIX, changed=0.6, several=0.03, clips=0.05, conversations=0.06, crowded=0.04, reading=0.1)
CHANGES = Curriculum(
    (
        Stage("pairs", 0.17, PAIRS_MIX),
        Stage("changes", 0.83, CHANGES_MIX),
    ),
    peak=0.45,
    falls_from=0.15,
    dense_fades_at=0.92,
    no_character=0.03,
)

READ_MIX = replace(
    CHANGES_MIX,
    several=0.03,
    changed=0.1,
    clips=0.05,
    conversations=0.08,
    reading=0.4,
    unnamed=0.02,
    describe=0.95,
    focus=0.1,
)
READ = Curriculum((Stage("read", 1.0, READ_MIX),), peak=0.3, no_character=0.03)

CURRICULA = {
    "read": READ,
    "changes": CHANGES,
    "broader": BROADER,
    "look": LOOK,
    "deep": DEEP,
    "polish": POLISH,
    "first": FIRST,
    "more": MORE,
    "broad": BROAD,
    "gentle": GENTLE,
}
