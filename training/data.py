"""Samples: scenes drawn, preprocessed by the program's own code, labelled, and their questions as rows of ids."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training import clips, crowds, photographs, questions, several, talk
from training.draw import draw
from training.labels import PictureLabels, label_picture, mark_changes
from training.questions import Question, sentence
from training.rows import Row, branch_length, branches_row, turns_row
from training.scenes import make_scene, with_a_pair
from training.tokenizer import SYSTEM, Encoder
from training.world import Dice, Scene
from valley_cli.engine.families.valley.preprocess import (
    PreprocessOptions,
    options_from_files,
    plan_picture,
    square_pad,
    vit_view,
)

SLOT, SHORTEST = 96, 12  # positions of a slot; of the shortest branch, about
SLOTS = 2  # that a sample fills with questions about its pictures
MOST_ASKED = 24  # questions about one picture, before those are left out that no slot has room for
SIDE, SIDE_SEVERAL = 168, 112  # pixels of the square a picture is brought to, alone and among several
PREPROCESSOR_CONFIG = {  # a little apart: at exactly SIDE**2 the published rounding gives some sizes 25 tokens
    "image_aspect_ratio": "pad",
    "min_pixels": SIDE * (SIDE - 1),
    "max_pixels": SIDE * (SIDE + 1),
    "multi_image_min_pixels": SIDE_SEVERAL * (SIDE_SEVERAL - 1),
    "multi_image_max_pixels": SIDE_SEVERAL * (SIDE_SEVERAL + 1),
}
OTHER_SYSTEMS = ("", "Answer briefly.", "You are Valley, a helpful assistant.", "Be brief.", "You see drawings.")
OTHER_SYSTEM_SHARE = 0.06
ONE_WORD_SYSTEMS = ("Answer in one word.", "Answer with one word.", "Use one word.", "Answer in one word only.")
ONE_WORD_SHARE = 0.03  # of the single pictures


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of samples; what is left of 1 is single pictures."""

    several: float = 0.0
    changed: float = 0.0
    clips: float = 0.0
    conversations: float = 0.0
    photographs: float = 0.0
    talk: float = 0.0
    crowded: float = 0.0  # nothing is asked about these
    reading: float = 0.0  # pictures with a word, which is asked for
    unnamed: float = 0.0  # pictures of objects in colours without a name: of shapes, numbers, sizes and places
    text: float = 0.1  # of the single pictures: with a word in them
    describe: float = 0.7  # of the single pictures: with the description among the questions
    focus: float = 0.0  # of the single pictures: only ``kinds`` are asked, about ``objects`` objects
    kinds: tuple[str, ...] = ()
    objects: tuple[int, ...] = (2, 2, 3, 3, 4, 5)
    rounds: int = 1  # how many times over ``kinds`` are asked of one picture
    alike: float = 0.0  # of the focused pictures: with two objects of one shape


@dataclass(frozen=True)
class Task:
    """What a sample shows and asks. ``attached``: pictures of each turn of a conversation; None: branches.

    ``slots``: so many slots are filled with branches, those that find no room are left out; 0: all are asked.
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
    labels: list[PictureLabels]
    asked: list[Question]
    row: Row


@cache
def preprocess_options() -> PreprocessOptions:
    """The program's reading of the checkpoint's own files."""
    return options_from_files({"only_navit": True, "anyres": False}, PREPROCESSOR_CONFIG)


def pixels_of(images: list[Image.Image]) -> NDArray[np.uint8]:
    """uint8 [pictures, side, side, 3]: what the program's preprocessing brings them to, before it normalises."""
    plans = [plan_picture(image.size, len(images), preprocess_options()) for image in images]
    return np.stack([np.asarray(vit_view(square_pad(i), plan)) for i, plan in zip(images, plans, strict=True)])


def make_sample(encoder: Encoder, task: Task) -> Sample:
    """Draw the scenes and pack the questions."""
    drawings = [draw(scene) for scene in task.scenes]
    grid = (SIDE if len(drawings) == 1 else SIDE_SEVERAL) // 28
    pixels = pixels_of([drawing.image for drawing in drawings]) if drawings else None
    labels = [label_picture(scene, drawing, grid) for scene, drawing in zip(task.scenes, drawings, strict=True)]
    mark_changes(task.scenes, labels)
    asked = task.asked
    if task.attached is None:
        if task.slots:
            asked = fitting(encoder, asked, task.slots)
        row = branches_row(encoder, len(drawings), grid * grid, asked, task.system)
    else:
        row = turns_row(encoder, task.attached[: len(asked)], grid * grid, asked, task.system)
    return Sample(pixels, labels, asked, row)


def packed(branches: list[tuple[int, int]], length: int) -> list[list[tuple[int, int]]]:
    """Branches put into slots of ``length``, each into the first one with room; at least one slot."""
    slots: list[list[tuple[int, int]]] = [[]]
    free = [length]
    for start, end in branches:
        number = next((n for n, room in enumerate(free) if end - start <= room), len(free))
        if number == len(free):
            slots.append([])
            free.append(length)
        slots[number].append((start, end))
        free[number] -= end - start
    return slots


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
    scene = make_scene(rng, rng.choice(mix.objects)) if focused else make_scene(rng, None, mix.text)
    if focused and rng.random() < mix.alike and len(scene.things) > 1:
        scene = with_a_pair(rng, scene)
    kinds = mix.kinds if focused else ()
    found = questions.ask_all(rng, scene)
    if rng.random() < ONE_WORD_SHARE:
        return Task([scene], one_word(found), None, rng.choice(ONE_WORD_SYSTEMS), SLOTS)
    for _ in range(1, mix.rounds):
        found += [q for q in questions.ask_all(rng, scene) if q.kind in kinds]
    asked = questions.choose(rng, found, MOST_ASKED, mix.describe, kinds)
    return Task([scene], asked, slots=SLOTS)


def reading(rng: Dice) -> tuple[list[Scene], list[Question]]:
    """A picture with a word in it and what it says, now and then within the description."""
    scene = make_scene(rng, with_text=1.0)
    found = questions.ask_all(rng, scene)
    first = [q for q in found if q.kind == "read" or (q.kind == "describe" and rng.random() < 0.4)]
    return [scene], [*first, *(rng.sample(found[2:], 3))]


def unnamed(rng: Dice) -> tuple[list[Scene], list[Question]]:
    """A picture of objects whose colours have no name, and what can be asked of it all the same."""
    rng.unnamed = True
    scene = make_scene(rng, rng.choice((1, 1, 2, 2, 3, 4)))
    rng.unnamed = False
    asked = questions.without_colours(questions.ask_all(rng, scene) + questions.ask_all(rng, scene))
    rng.shuffle(asked)
    return [scene], asked[:MOST_ASKED]


def one_word(found: list[Question]) -> list[Question]:
    """The questions that one word answers, answered in one word."""
    short = [replace(q, answer=sentence(re.sub("^(an?|at the) ", "", q.answer[:-1], flags=re.I))) for q in found]
    return [q for q in short if " " not in q.answer]


def random_task(rng: Dice, mix: Mix) -> Task:
    """A training task of the mix."""
    makers: list[tuple[float, Callable[[Dice], tuple[list[Scene], list[Question]]]]] = [
        (mix.several, several.several_pictures),
        (mix.changed, several.changed_pictures),
        (mix.clips, clips.clip),
        (mix.photographs, photographs.photograph),
        (mix.reading, reading),
        (mix.unnamed, unnamed),
        (mix.crowded, lambda rng: ([crowds.crowded_scene(rng)], [])),
    ]
    kind = rng.random()
    for share, make in makers:
        if kind < share:
            scenes, asked = make(rng)
            return Task(scenes, asked, slots=SLOTS)
        kind -= share
    for share, converse in ((mix.conversations, talk.conversation), (mix.talk, talk.talk)):
        if kind < share:
            said = converse(rng)
            return Task(said.scenes, said.asked, said.attached)
        kind -= share
    return single_task(rng, mix)


def random_sample(encoder: Encoder, rng: Dice, mix: Mix) -> Sample:
    """A training sample of the mix."""
    system = rng.choice(OTHER_SYSTEMS) if rng.random() < OTHER_SYSTEM_SHARE else SYSTEM
    task = random_task(rng, mix)
    return make_sample(encoder, replace(task, system=system) if task.system == SYSTEM else task)
