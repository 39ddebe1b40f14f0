"""Samples to batches: a prefix a sample, branches packed into slots of one length, padded to a few shapes.

A compiled function serves every batch of one shape; batches without a shape are computed uncompiled.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data import SIDE, SIDE_SEVERAL, SLOT, Sample, packed
from training.labels import PictureLabels
from training.model import Layout
from training.rows import IGNORE, PICTURE

SLOT_STEP, PREFIX_STEP = 32, 16  # lengths of a batch without a shape are multiples of these
NEVER = -30_000.0  # added to the scores of positions that may not be seen
TOKENS = 1500  # at most, of a batch without a shape
Place = tuple[int, int, int, int]  # a part of a row: number of the row, first token in the batch, start, end in the row


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


@dataclass(frozen=True)
class Shape:
    """Sizes that batches of one kind are padded to, so that one compiled function serves them all.

    S ``samples`` with a prefix of ``prefix`` and ``slots`` slots of ``length`` positions each; ``pictures`` pictures.
    """

    samples: int
    prefix: int
    slots: int
    length: int
    pictures: int
    side: int

    def holds(self, sample: Sample) -> bool:
        prefix, branches = sample.row.parts()
        pixels = sample.pixels_NHWC
        right = pixels is None or (len(pixels) * self.samples <= self.pictures and pixels.shape[1] == self.side)
        right &= prefix <= self.prefix and max((end - start for start, end in branches), default=0) <= self.length
        return right and len(packed(branches, self.length)) <= self.slots


SHAPES = (
    Shape(6, 56, 1, SLOT, 6, SIDE),
    Shape(6, 56, 2, SLOT, 6, SIDE),
    Shape(4, 56, 1, 2 * SLOT, 4, SIDE),  # longer conversations
    Shape(3, 64, 1, 2 * SLOT, 6, SIDE_SEVERAL),  # pictures that come later
    Shape(3, 176, 2, SLOT, 24, SIDE_SEVERAL),
    Shape(1, 336, 2, SLOT, 16, SIDE_SEVERAL),
)


def parted(samples: list[Sample]) -> list[tuple[list[Sample], Shape | None]]:
    """Samples of one shape together, those that ask nothing apart; None: no shape, or too few to be padded to it."""
    groups: dict[tuple[Shape | None, bool], list[Sample]] = {}
    for sample in samples:
        shape = next((shape for shape in SHAPES if shape.holds(sample)), None)
        groups.setdefault((shape, bool(shape and sample.asked)), []).append(sample)
    parts: list[tuple[list[Sample], Shape | None]] = []
    rest = groups.pop((None, False), [])
    for (shape, _), found in groups.items():
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
    if shape:
        prefix, length = shape.prefix, shape.length
    slots = [(number, slot) for number, (_, branches) in enumerate(parts) for slot in packed(branches, length)]
    heads, count = (shape.samples, shape.samples * shape.slots) if shape else (len(samples), len(slots))
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
