"""Samples and batches: scenes drawn, preprocessed by the program's own code, labelled and packed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training import clips, crowds, photographs, questions, several, talk
from training.draw import draw
from training.labels import PictureLabels, label_picture
from training.model import Layout
from training.questions import Question, sentence
from training.rows import IGNORE, PICTURE, Row, branch_length, branches_row, turns_row
from training.scenes import make_scene, with_a_pair
from training.tokenizer import SYSTEM, Encoder
from training.world import Dice, Scene
from valley_cli.engine.preprocess import PreprocessOptions, options_from_files, plan_picture, square_pad

SLOT, SLOT_STEP, PREFIX_STEP = 96, 32, 16  # least positions of a slot; lengths are multiples of these
TOKENS = 1500  # at most, of a batch without a shape
SHORTEST, MOST_ASKED = 12, 24  # positions of a branch, about; questions about one picture
NEVER = -30_000.0  # added to the scores of positions that may not be seen
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


Place = tuple[int, int, int, int]  # a part of a row: number of the row, first token in the batch, start, end in the row


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
    text: float = 0.1  # of the single pictures: with a word in them
    describe: float = 0.7  # of the single pictures: with the description among the questions
    slots: int = 2  # of SLOT positions each, filled with questions
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


@dataclass(frozen=True)
class Pictures:
    """All pictures of one size in a batch. ``slots_N``: which of the batch's tokens are theirs, in order.

    The last pictures may be there only to fill a shape: they have neither slots nor labels.
    """

    pixels_NHWC: torch.Tensor
    slots_N: torch.Tensor
    labels: PictureLabels

    def to(self, device: torch.device) -> Pictures:
        return Pictures(self.pixels_NHWC.to(device), self.slots_N.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Batch:
    """Tokens of some samples as ``Layout`` puts them. ``target_N``, ``weight_N``: of the answers' tokens.

    ``answer_N``: the number of the question that the token answers, counted over all questions of the batch.
    """

    ids_T: torch.Tensor
    layout: Layout
    target_N: torch.Tensor
    weight_N: torch.Tensor
    answer_N: torch.Tensor
    pictures: list[Pictures]
    samples: list[Sample]
    shape: Shape | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on ``device``."""
        if device.type == "cpu":
            return self
        layout = Layout(**{f.name: getattr(self.layout, f.name).to(device) for f in fields(Layout)})
        own = {name: getattr(self, name).to(device) for name in ("ids_T", "target_N", "weight_N", "answer_N")}
        return replace(self, layout=layout, pictures=[group.to(device) for group in self.pictures], **own)


@cache
def preprocess_options() -> PreprocessOptions:
    """The program's reading of the checkpoint's own files."""
    return options_from_files({"only_navit": True, "anyres": False}, PREPROCESSOR_CONFIG)


def pixels_of(images: list[Image.Image]) -> NDArray[np.uint8]:
    """uint8 [pictures, side, side, 3]: what the program's preprocessing brings them to, before it normalises."""
    found = []
    for image in images:
        plan = plan_picture(image.size, len(images), preprocess_options())
        square = square_pad(image)
        for size_wh in (plan.fetched_wh, plan.patched_wh):
            if square.size != size_wh:
                square = square.resize(size_wh, Image.Resampling.BICUBIC)
        found.append(np.asarray(square))
    return np.stack(found)


def make_sample(encoder: Encoder, task: Task) -> Sample:
    """Draw the scenes and pack the questions."""
    drawings = [draw(scene) for scene in task.scenes]
    grid = (SIDE if len(drawings) == 1 else SIDE_SEVERAL) // 28
    pixels = pixels_of([drawing.image for drawing in drawings]) if drawings else None
    labels = [label_picture(scene, drawing, grid) for scene, drawing in zip(task.scenes, drawings, strict=True)]
    asked = task.asked
    if task.attached is None:
        if task.slots:
            asked = fitting(encoder, asked, task.slots)
        row = branches_row(encoder, len(drawings), grid * grid, asked, task.system)
    else:
        row = turns_row(encoder, task.attached[: len(asked)], grid * grid, asked, task.system)
    return Sample(pixels, labels, asked, row)


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
        return Task([scene], one_word(found), None, rng.choice(ONE_WORD_SYSTEMS), mix.slots)
    for _ in range(1, mix.rounds):
        found += [q for q in questions.ask_all(rng, scene) if q.kind in kinds]
    asked = questions.choose(rng, found, MOST_ASKED, mix.describe, kinds)
    return Task([scene], asked, slots=mix.slots)


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
        (mix.crowded, lambda rng: ([crowds.crowded_scene(rng)], [])),
    ]
    kind = rng.random()
    for share, make in makers:
        if kind < share:
            scenes, asked = make(rng)
            return Task(scenes, asked, slots=mix.slots)
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


@dataclass(frozen=True)
class Shape:
    """Sizes that batches of one kind are padded to, so that one compiled function serves them all.

    S ``samples`` with a prefix of ``prefix`` and ``slots`` slots of SLOT positions each, and ``pictures`` pictures.
    """

    samples: int
    prefix: int
    slots: int
    pictures: int
    side: int

    def holds(self, sample: Sample) -> bool:
        prefix, branches = sample.row.parts()
        right = prefix <= self.prefix and max((end - start for start, end in branches), default=0) <= SLOT
        pixels = sample.pixels_NHWC
        right &= pixels is None or (len(pixels) * self.samples <= self.pictures and pixels.shape[1] == self.side)
        return right and len(packed(branches, SLOT)) <= self.slots


SHAPES = (Shape(6, 64, 1, 6, SIDE), Shape(6, 64, 2, 6, SIDE), Shape(3, 176, 2, 24, SIDE_SEVERAL))


def parted(samples: list[Sample]) -> list[tuple[list[Sample], Shape | None]]:
    """Samples of one shape together; None: a part that has no shape, or is too small to be padded to it."""
    groups: dict[Shape | None, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(next((shape for shape in SHAPES if shape.holds(sample)), None), []).append(sample)
    parts: list[tuple[list[Sample], Shape | None]] = []
    rest = groups.pop(None, [])
    for shape, found in groups.items():
        assert shape is not None
        for start in range(0, len(found), shape.samples):
            part = found[start : start + shape.samples]
            if 2 * len(part) > shape.samples:
                parts.append((part, shape))
            else:
                rest += part
    return [*parts, *((part, None) for part in _by_length(rest))]


def _by_length(samples: list[Sample]) -> list[list[Sample]]:
    """Samples of about one length together, each part of at most TOKENS tokens."""
    parts: list[list[Sample]] = []
    tokens = 0
    for sample in sorted(samples, key=lambda sample: (sample.row.parts()[0], len(sample.row.ids))):
        tokens += len(sample.row.ids)
        if not parts or tokens > TOKENS:
            parts.append([])
            tokens = len(sample.row.ids)
        parts[-1].append(sample)
    return parts


def collate(samples: list[Sample], pad_id: int, shape: Shape | None = None) -> Batch:
    """Samples to one batch: a prefix each, and their branches packed into slots of one length."""
    parts = [sample.row.parts() for sample in samples]
    prefix = rounded_up(max(end for end, _ in parts), PREFIX_STEP)
    longest = max((end - start for _, branches in parts for start, end in branches), default=0)
    length = rounded_up(max(SLOT, longest), SLOT_STEP)
    slots = [(number, slot) for number, (_, branches) in enumerate(parts) for slot in packed(branches, length)]
    heads, count = len(samples), len(slots)
    if shape:
        heads, prefix, count = shape.samples, shape.prefix, shape.samples * shape.slots
    places = [(number, number * prefix, 0, end) for number, (end, _) in enumerate(parts)]
    for at, (number, branches) in zip(
        range(heads * prefix, heads * prefix + count * length, length), slots, strict=False
    ):
        for start, end in branches:
            places.append((number, at, start, end))
            at += end - start
    of = _placed(samples, places, heads * prefix + count * length, pad_id)
    owner = np.array([number for number, _ in slots] + [0] * (count - len(slots)), np.int64)
    bias = _bias(of["branch"], owner, heads, prefix, length)
    learn = (of["label"] != IGNORE).nonzero()[:, 0]
    causal = torch.full((prefix, prefix), NEVER).triu(1)
    layout = Layout(of["position"], torch.from_numpy(owner), causal, bias, learn - 1)
    pictures = _group_pictures(samples, places, of["ids"].numpy(), shape)
    weight = of["weight"][learn].float()
    return Batch(of["ids"], layout, of["label"][learn], weight, of["answer"][learn], pictures, samples, shape)


def _placed(samples: list[Sample], places: list[Place], total: int, pad_id: int) -> dict[str, Tensor]:
    """The rows' lists, each put into one list of ``total`` tokens as ``places`` say."""
    filled = {"ids": np.full(total, pad_id), "position": np.zeros(total, np.int64), "branch": np.full(total, -1)}
    filled |= {"label": np.full(total, IGNORE), "answer": np.zeros(total, np.int64), "weight": np.zeros(total)}
    asked = np.cumsum([0, *(len(sample.asked) for sample in samples)])
    arrays = [{name: np.array(getattr(sample.row, name)) for name in filled} for sample in samples]
    for number, at, start, end in places:
        for name, array in filled.items():
            array[at : at + end - start] = arrays[number][name][start:end]
        filled["answer"][at : at + end - start] += asked[number]
    return {name: torch.from_numpy(array) for name, array in filled.items()}


def rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step


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


def _bias(branch_T: Tensor, owner_R: NDArray[np.int64], samples: int, prefix: int, length: int) -> Tensor:
    """[R, L, P + L]: 0 where a slot's position may look, NEVER elsewhere."""
    of_prefix = branch_T[: samples * prefix].view(samples, prefix)[torch.from_numpy(owner_R)]
    own = branch_T[samples * prefix :].view(len(owner_R), length)
    seen = (own[:, None, :] == own[:, :, None]) & torch.ones(length, length, dtype=torch.bool).tril()
    whole = torch.cat(((of_prefix == 0)[:, None].expand(-1, length, -1), seen), 2)
    return torch.zeros(whole.shape).masked_fill_(~whole, NEVER)


def _group_pictures(
    samples: list[Sample], places: list[Place], ids_T: NDArray[np.int64], shape: Shape | None
) -> list[Pictures]:
    """Pictures of the same size together, as the tower takes them in one go; black ones fill a shape."""
    tokens: dict[int, list[NDArray[np.int64]]] = {}
    for number, at, start, end in places:
        if samples[number].pixels_NHWC is not None:
            tokens.setdefault(number, []).append((ids_T[at : at + end - start] == PICTURE).nonzero()[0] + at)
    groups: dict[int, list[int]] = {}
    for number in tokens:
        groups.setdefault(samples[number].labels[0].classes.shape[0], []).append(number)
    found = []
    for group in groups.values():
        pixels = [samples[n].pixels_NHWC for n in group]
        if shape:
            missing = shape.pictures - sum(len(p) for p in pixels if p is not None)
            pixels.append(np.zeros((missing, shape.side, shape.side, 3), np.uint8))
        found.append(
            Pictures(
                torch.from_numpy(np.concatenate(pixels)),  # type: ignore[arg-type]
                torch.from_numpy(np.concatenate([part for n in group for part in tokens[n]])),
                PictureLabels.concatenate([labels for n in group for labels in samples[n].labels]),
            )
        )
    return found
