"""Samples and batches: scenes drawn, preprocessed by the program's own code, labelled and packed."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training import clips, questions, world
from training.labels import PictureLabels, label_picture
from training.questions import Question
from training.rows import IGNORE, PICTURE, Row, build_row
from training.tokenizer import SYSTEM, Encoder
from training.world import Scene
from valley_cli.engine.preprocess import PreprocessOptions, options_from_files, preprocess

SIDE, SIDE_SEVERAL = 168, 112  # pixels of the square a picture is brought to, alone and among several
PREPROCESSOR_CONFIG = {
    "image_aspect_ratio": "pad",
    "min_pixels": SIDE**2,
    "max_pixels": SIDE**2,
    "multi_image_min_pixels": SIDE_SEVERAL**2,
    "multi_image_max_pixels": SIDE_SEVERAL**2,
}
OTHER_SYSTEMS = ("", "Answer briefly.", "You are Valley, a helpful assistant.", "Be brief.")
OTHER_SYSTEM_SHARE = 0.06


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of samples; what is left of 1 is single pictures."""

    several: float = 0.0
    clips: float = 0.0
    talk: float = 0.0
    text: float = 0.1  # of the single pictures: with a word in them
    turns: float = 0.0  # of the rows: a conversation instead of branches
    describe: float = 0.7  # of the single pictures: with the description among the questions
    branches: int = 6
    focus: float = 0.0  # of the single pictures: only ``kinds`` are asked, about ``objects`` objects
    kinds: tuple[str, ...] = ()
    objects: tuple[int, ...] = (2, 2, 3, 3, 4)
    rounds: int = 1  # how many times over ``kinds`` are asked of one picture
    alike: float = 0.0  # of the focused pictures: with two objects of one shape


@dataclass(frozen=True)
class Sample:
    """One conversation's pictures (patches [n, patches, 1176] and labels) and questions."""

    patches_NPD: NDArray[np.float32] | None
    labels: list[PictureLabels]
    asked: list[Question]
    row: Row


@dataclass(frozen=True)
class Pictures:
    """All pictures of one grid in a batch. ``slots``: where their tokens go in the flattened [B * L] rows."""

    patches_NPD: torch.Tensor
    slots: torch.Tensor
    labels: PictureLabels


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length; ``visible_BLL``[i, j]: position i may look at position j."""

    ids_BL: torch.Tensor
    position_BL: torch.Tensor
    branch_BL: torch.Tensor
    label_BL: torch.Tensor
    weight_BL: torch.Tensor
    visible_BLL: torch.Tensor
    pictures: list[Pictures]
    samples: list[Sample]


def preprocess_options() -> PreprocessOptions:
    """The program's reading of the checkpoint's own files."""
    return options_from_files({"only_navit": True, "anyres": False}, PREPROCESSOR_CONFIG)


def patches_of(images: list[Image.Image]) -> NDArray[np.float32]:
    """[pictures, patches, 1176], by the program's own preprocessing."""
    options = preprocess_options()
    found = [preprocess(image, len(images), options).patches for image in images]
    return np.stack([patches for patches in found if patches is not None])


def make_sample(
    encoder: Encoder, scenes: list[Scene], asked: list[Question], turns: bool = False, system: str = SYSTEM
) -> Sample:
    """Draw the scenes and pack the questions."""
    drawings = [world.draw(scene) for scene in scenes]
    grid = (SIDE if len(scenes) == 1 else SIDE_SEVERAL) // 28
    patches = patches_of([drawing.image for drawing in drawings]) if drawings else None
    labels = [label_picture(scene, drawing, grid) for scene, drawing in zip(scenes, drawings, strict=True)]
    return Sample(
        patches, labels, asked, build_row(encoder, len(scenes), grid * grid, asked, turns=turns, system=system)
    )


def random_sample(encoder: Encoder, rng: random.Random, mix: Mix) -> Sample:
    """A training sample of the mix."""
    system = rng.choice(OTHER_SYSTEMS) if rng.random() < OTHER_SYSTEM_SHARE else SYSTEM
    turns = rng.random() < mix.turns
    kind = rng.random()
    if kind < mix.several:
        scenes, asked = clips.several_pictures(rng)
    elif kind < mix.several + mix.clips:
        scenes, asked = clips.clip(rng)
    elif kind < mix.several + mix.clips + mix.talk:
        scenes, asked = [], clips.talk(rng)
    else:
        focused = rng.random() < mix.focus
        scene = world.make_scene(rng, rng.choice(mix.objects)) if focused else world.make_scene(rng, None, mix.text)
        if focused and mix.alike and rng.random() < mix.alike:
            scene = world.with_a_pair(rng, scene)
        kinds = mix.kinds if focused else ()
        found = questions.ask_all(rng, scene)
        for _ in range(1, mix.rounds):
            found += [q for q in questions.ask_all(rng, scene) if q.kind in kinds]
        asked = questions.choose(rng, found, mix.branches, mix.describe, kinds)
        scenes = [scene]
    asked = asked[: mix.branches]
    if turns:
        rng.shuffle(asked)
    return make_sample(encoder, scenes, asked, turns, system)


def collate(samples: list[Sample], pad_id: int) -> Batch:
    """Samples to one batch of tensors."""
    length = max(len(sample.row.ids) for sample in samples)
    ids, position, branch, label = (torch.full((len(samples), length), fill) for fill in (pad_id, 0, -1, IGNORE))
    for b, row in enumerate(sample.row for sample in samples):
        for tensor, values in ((ids, row.ids), (position, row.position), (branch, row.branch), (label, row.label)):
            tensor[b, : len(values)] = torch.tensor(values)
    weight = torch.zeros(len(samples), length)
    for b, sample in enumerate(samples):
        weight[b, : len(sample.row.weight)] = torch.tensor(sample.row.weight)
    visible = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    visible &= torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(ids, position, branch, label, weight, visible, _group_pictures(samples, ids), samples)


def _group_pictures(samples: list[Sample], ids_BL: torch.Tensor) -> list[Pictures]:
    """Pictures of the same grid together, as the tower takes them in one go."""
    groups: dict[int, list[tuple[NDArray[np.float32], torch.Tensor, list[PictureLabels]]]] = {}
    for b, sample in enumerate(samples):
        if sample.patches_NPD is not None:
            slots = (ids_BL[b] == PICTURE).nonzero()[:, 0] + b * ids_BL.shape[1]
            groups.setdefault(sample.patches_NPD.shape[1], []).append((sample.patches_NPD, slots, sample.labels))
    return [
        Pictures(
            torch.from_numpy(np.concatenate([patches for patches, _, _ in group])),
            torch.cat([slots for _, slots, _ in group]),
            PictureLabels.concatenate([labels for _, _, some in group for labels in some]),
        )
        for group in groups.values()
    ]
