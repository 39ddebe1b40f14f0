"""The fixed questions that reported scores come from: held-out scenes, one question of each kind a picture."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from PIL import Image

from training import clips, questions, world
from training.data import Sample, make_sample
from training.questions import Question
from training.tokenizer import Encoder
from training.world import Scene

SINGLE, OTHERS = 500, 100  # pictures without text; requests of each other kind
TEXT_FROM, SEVERAL_FROM, CLIPS_FROM = 10_000, 20_000, 30_000  # first indices; single pictures start at 0
OWN_ROWS = ("colour", "shape", "where", "size")  # kinds that get two rows: one object, several objects


@dataclass(frozen=True)
class Item:
    """A request and its only right answer. ``rows``: the lines of the table it counts in."""

    scenes: tuple[Scene, ...]
    question: Question
    rows: tuple[str, ...]

    def images(self) -> list[Image.Image]:
        return [world.draw(scene).image for scene in self.scenes]


def one_of_each(rng: random.Random, asked: list[Question]) -> list[Question]:
    """One question of every kind."""
    kinds = dict.fromkeys(question.kind for question in asked)
    return [rng.choice([question for question in asked if question.kind == kind]) for kind in kinds]


def rows_of(question: Question, scene: Scene) -> tuple[str, ...]:
    """The table's lines for a question about one picture."""
    objects = len(scene.things)
    if question.kind == "describe" and scene.text is None:
        return "whole description", f"whole description, {objects} object{'s' * (objects != 1)}"
    if question.kind in OWN_ROWS:
        return (f"{question.kind}, {'one object' if objects == 1 else 'among several objects'}",)
    return (question.kind,)


def make_items(single: int = SINGLE, others: int = OTHERS) -> list[Item]:
    """The exam. Reading is asked only where there is text."""
    items = []
    for index in range(single):
        rng = world.rng_for("held-out", index)
        scene = world.make_scene(rng)
        asked = [q for q in questions.ask_all(rng, scene) if q.kind != "read"]
        items += [Item((scene,), q, rows_of(q, scene)) for q in one_of_each(rng, asked)]
    for index in range(others):
        rng = world.rng_for("held-out", TEXT_FROM + index)
        scene = world.make_scene(rng, with_text=1.0)
        kept = {"read": "reading", "describe": "description with text"}
        items += [Item((scene,), q, (kept[q.kind],)) for q in questions.ask_all(rng, scene) if q.kind in kept]
        for start, make in ((SEVERAL_FROM, clips.several_pictures), (CLIPS_FROM, clips.clip)):
            rng = world.rng_for("held-out", start + index)
            scenes, asked = make(rng)
            items += [Item(tuple(scenes), q, (q.kind,)) for q in one_of_each(rng, asked)]
    return items


def samples_of(encoder: Encoder, items: list[Item]) -> list[Sample]:
    """Items as samples for the training code's model: questions to the same scenes become one row's branches."""
    samples = []
    for scenes, group in itertools.groupby(items, key=lambda item: item.scenes):
        samples.append(make_sample(encoder, list(scenes), [item.question for item in group]))
    return samples
