"""Samples: scenes drawn, preprocessed by the program's own code, labelled, and their questions as rows of ids."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training import clips, questions, scenes, several, talk
from training.draw import draw
from training.labels import label_picture, mark_changes
from training.questions import Question, sentence
from training.rows import Row, branch_length, branches_row, turns_row
from training.scenes import make_scene
from training.tokenizer import SHIPPED, SYSTEM, Encoder
from training.world import Dice, Scene
from valley_cli.engine.families.valley import preprocess

SLOT, SLOTS = 96, 2  # positions of a slot; slots that a sample fills with questions about its pictures
SHORTEST = 12  # positions of the shortest question with its answer, about
MOST_ASKED = 24  # questions about one picture, before those are left out that no slot has room for
SIDE, SIDE_SEVERAL = 168, 112  # pixels of the square a picture is brought to, alone and among several
FOCUSED_OBJECTS = (2, 2, 3, 3, 4, 5)  # numbers of objects in pictures of which only some kinds are asked
OTHER_SYSTEMS = ("", "Answer briefly.", "You are Valley, a helpful assistant.", "Be brief.", "You see drawings.")
OTHER_SYSTEM_SHARE = 0.06
ONE_WORD_SYSTEMS = ("Answer in one word.", "Answer with one word.", "Use one word.", "Answer in one word only.")
ONE_WORD_SHARE = 0.03  # of the single pictures


@dataclass(frozen=True)
class Mix:
    """What samples are made of. ``shares``: of each kind in MAKERS or TALKS; what is left of 1 is single pictures.

    Of the single pictures, ``text`` is the share with a word in them, ``describe`` of those with the description among
    the questions, ``focus`` of those of which only ``kinds`` are asked.
    """

    shares: dict[str, float] = field(default_factory=dict)
    text: float = 0.1
    describe: float = 0.7
    focus: float = 0.0
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What a sample shows and asks. ``attached``: pictures of each turn of a conversation; None: separate questions.

    ``slots``: so many slots are filled with separate questions, those that find no room are left out; 0: all are asked.
    """

    scenes: list[Scene]
    asked: list[Question]
    attached: list[int] | None = None
    system: str = SYSTEM
    slots: int = 0


@dataclass(frozen=True)
class Sample:
    """One conversation's pictures (uint8 pixels [n, side, side, 3] and labels) and questions."""

    pixels_NHWC: NDArray[np.uint8] | None
    labels: list[Tensor]
    asked: list[Question]
    row: Row


@cache
def preprocess_options() -> preprocess.PreprocessOptions:
    """The program's reading of the checkpoint's own files."""
    config, processor = (
        json.loads((SHIPPED / f"{name}.json").read_text()) for name in ("config", "preprocessor_config")
    )
    return preprocess.options_from_files(config, processor)


def pixels_of(images: list[Image.Image]) -> NDArray[np.uint8]:
    """uint8 [pictures, side, side, 3]: what the program's preprocessing brings them to, before it normalises."""
    plans = [preprocess.plan_picture(image.size, len(images), preprocess_options()) for image in images]
    return np.stack(
        [np.asarray(preprocess.vit_view(preprocess.square_pad(i), plan)) for i, plan in zip(images, plans, strict=True)]
    )


def make_sample(encoder: Encoder, task: Task) -> Sample:
    """Draw the scenes and pack the questions."""
    drawings = [draw(scene) for scene in task.scenes]
    grid = (SIDE if len(drawings) == 1 else SIDE_SEVERAL) // 28
    pixels = pixels_of([drawing.image for drawing in drawings]) if drawings else None
    labels = [label_picture(scene, drawing, grid) for scene, drawing in zip(task.scenes, drawings, strict=True)]
    mark_changes(task.scenes, labels)
    if task.attached is not None:
        row = turns_row(encoder, task.attached[: len(task.asked)], grid * grid, task.asked, task.system)
        return Sample(pixels, labels, task.asked, row)
    asked = fitting(encoder, task.asked, task.slots) if task.slots else task.asked
    return Sample(pixels, labels, asked, branches_row(encoder, len(drawings), grid * grid, asked, task.system))


def fitting(encoder: Encoder, asked: list[Question], slots: int) -> list[Question]:
    """Those of the questions that fill ``slots`` slots, the first ones first."""
    free, chosen = [SLOT] * slots, []
    for question in asked:
        size = branch_length(encoder, question)
        number = next((n for n, room in enumerate(free) if size <= room), None)
        if number is not None:
            free[number] -= size
            chosen.append(question)
        if max(free) < SHORTEST:
            break
    return chosen or asked[:1]


def single_task(rng: Dice, mix: Mix) -> Task:
    """Questions about one picture."""
    focused = rng.random() < mix.focus
    scene = make_scene(rng, rng.choice(FOCUSED_OBJECTS)) if focused else make_scene(rng, None, mix.text)
    found = questions.ask_all(rng, scene)
    if rng.random() < ONE_WORD_SHARE:
        return Task([scene], one_word(found), None, rng.choice(ONE_WORD_SYSTEMS), SLOTS)
    if focused:
        found += [q for q in questions.ask_all(rng, scene) if q.kind in mix.kinds]
    asked = questions.choose(rng, found, MOST_ASKED, mix.describe, mix.kinds if focused else ())
    return Task([scene], asked, slots=SLOTS)


def one_word(found: list[Question]) -> list[Question]:
    """The questions that one word answers, answered in one word."""
    short = [replace(q, answer=sentence(re.sub("^(an?|at the) ", "", q.answer[:-1], flags=re.I))) for q in found]
    return [q for q in short if " " not in q.answer]


def reading(rng: Dice) -> tuple[list[Scene], list[Question]]:
    """A picture with a word in it and what it says, now and then within the description."""
    scene = make_scene(rng, with_text=1.0)
    found = questions.ask_all(rng, scene)
    first = [q for q in found if q.kind == "read" or (q.kind == "describe" and rng.random() < 0.4)]
    return [scene], [*first, *(rng.sample(found[2:], 3))]


MAKERS: dict[str, Callable[[Dice], tuple[list[Scene], list[Question]]]] = {
    "several": several.several_pictures,
    "changed": several.changed_pictures,
    "clips": clips.clip,
    "reading": reading,
    "crowded": lambda rng: ([scenes.crowded_scene(rng)], []),
}
TALKS: dict[str, Callable[[Dice], talk.Conversation]] = {"conversations": talk.conversation, "talk": talk.talk}


def random_task(rng: Dice, mix: Mix) -> Task:
    """A training task of the mix."""
    single = 1 - sum(mix.shares.values())
    kind = rng.choices(["single", *mix.shares], [single, *mix.shares.values()])[0]
    if kind in MAKERS:
        scenes, asked = MAKERS[kind](rng)
        return Task(scenes, asked, slots=SLOTS)
    if kind in TALKS:
        said = TALKS[kind](rng)
        return Task(said.scenes, said.asked, said.attached)
    return single_task(rng, mix)


def random_sample(encoder: Encoder, rng: Dice, mix: Mix) -> Sample:
    """A training sample of the mix."""
    system = rng.choice(OTHER_SYSTEMS) if rng.random() < OTHER_SYSTEM_SHARE else SYSTEM
    task = random_task(rng, mix)
    return make_sample(encoder, replace(task, system=system) if task.system == SYSTEM else task)
