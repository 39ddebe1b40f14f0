"""Samples and batches: scenes drawn, preprocessed by the program's own code, labelled and packed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training import clips, photographs, questions, several, talk
from training.draw import draw
from training.labels import PictureLabels, label_picture
from training.questions import Question, sentence
from training.rows import IGNORE, PICTURE, Row, branches_row, turns_row
from training.scenes import make_scene, with_a_pair
from training.tokenizer import SYSTEM, Encoder
from training.world import Dice, Scene
from valley_cli.engine.preprocess import PreprocessOptions, options_from_files, preprocess

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
    text: float = 0.1  # of the single pictures: with a word in them
    describe: float = 0.7  # of the single pictures: with the description among the questions
    branches: int = 6
    focus: float = 0.0  # of the single pictures: only ``kinds`` are asked, about ``objects`` objects
    kinds: tuple[str, ...] = ()
    objects: tuple[int, ...] = (2, 2, 3, 3, 4, 5)
    rounds: int = 1  # how many times over ``kinds`` are asked of one picture
    alike: float = 0.0  # of the focused pictures: with two objects of one shape


@dataclass(frozen=True)
class Task:
    """What a sample shows and asks. ``attached``: pictures of each turn of a conversation; None: branches."""

    scenes: list[Scene]
    asked: list[Question]
    attached: list[int] | None = None
    system: str = SYSTEM


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

    def to(self, device: torch.device) -> Pictures:
        return Pictures(self.patches_NPD.to(device), self.slots.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Batch:
    """Rows padded to one length; ``visible_BLL``[i, j]: position i may look at position j."""

    ids_BL: torch.Tensor
    position_BL: torch.Tensor
    branch_BL: torch.Tensor
    label_BL: torch.Tensor
    weight_BL: torch.Tensor
    answer_BL: torch.Tensor
    visible_BLL: torch.Tensor
    pictures: list[Pictures]
    samples: list[Sample]

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on ``device``."""
        if device.type == "cpu":
            return self
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name.endswith(("_BL", "_BLL"))}
        return replace(self, pictures=[group.to(device) for group in self.pictures], **tensors)


def preprocess_options() -> PreprocessOptions:
    """The program's reading of the checkpoint's own files."""
    return options_from_files({"only_navit": True, "anyres": False}, PREPROCESSOR_CONFIG)


def patches_of(images: list[Image.Image]) -> NDArray[np.float32]:
    """[pictures, patches, 1176], by the program's own preprocessing."""
    options = preprocess_options()
    found = [preprocess(image, len(images), options).patches for image in images]
    return np.stack([patches for patches in found if patches is not None])


def make_sample(encoder: Encoder, task: Task) -> Sample:
    """Draw the scenes and pack the questions."""
    drawings = [draw(scene) for scene in task.scenes]
    grid = (SIDE if len(drawings) == 1 else SIDE_SEVERAL) // 28
    patches = patches_of([drawing.image for drawing in drawings]) if drawings else None
    labels = [label_picture(scene, drawing, grid) for scene, drawing in zip(task.scenes, drawings, strict=True)]
    asked = task.asked
    if task.attached is None:
        row = branches_row(encoder, len(drawings), grid * grid, asked, task.system)
    else:
        row = turns_row(encoder, task.attached[: len(asked)], grid * grid, asked, task.system)
    return Sample(patches, labels, asked, row)


def single_task(rng: Dice, mix: Mix) -> Task:
    """Questions about one picture."""
    focused = rng.random() < mix.focus
    scene = make_scene(rng, rng.choice(mix.objects)) if focused else make_scene(rng, None, mix.text)
    if focused and rng.random() < mix.alike and len(scene.things) > 1:
        scene = with_a_pair(rng, scene)
    kinds = mix.kinds if focused else ()
    found = questions.ask_all(rng, scene)
    if rng.random() < ONE_WORD_SHARE:
        return Task([scene], one_word(found)[: mix.branches], None, rng.choice(ONE_WORD_SYSTEMS))
    for _ in range(1, mix.rounds):
        found += [q for q in questions.ask_all(rng, scene) if q.kind in kinds]
    return Task([scene], questions.choose(rng, found, mix.branches, mix.describe, kinds))


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
    ]
    kind = rng.random()
    for share, make in makers:
        if kind < share:
            scenes, asked = make(rng)
            return Task(scenes, asked[: mix.branches])
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


def collate(samples: list[Sample], pad_id: int) -> Batch:
    """Samples to one batch of tensors."""
    length = max(len(sample.row.ids) for sample in samples)
    fills = {"ids": pad_id, "position": 0, "branch": -1, "label": IGNORE, "answer": 0}
    filled = {name: torch.full((len(samples), length), fill) for name, fill in fills.items()}
    for b, row in enumerate(sample.row for sample in samples):
        for name, tensor in filled.items():
            tensor[b, : len(row.ids)] = torch.tensor(getattr(row, name))
    ids, branch = filled["ids"], filled["branch"]
    weight = torch.zeros(len(samples), length)
    for b, sample in enumerate(samples):
        weight[b, : len(sample.row.weight)] = torch.tensor(sample.row.weight)
    visible = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    visible &= torch.ones(length, length, dtype=torch.bool).tril()
    pictures = _group_pictures(samples, ids)
    return Batch(ids, filled["position"], branch, filled["label"], weight, filled["answer"], visible, pictures, samples)


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
