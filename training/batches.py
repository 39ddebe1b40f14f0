"""Samples to batches: a prefix a sample, and its questions packed into slots of one length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data import SLOT, Sample
from training.dense import PROBE
from training.model import Layout, ValleyMini
from training.rows import IGNORE, PICTURE

STEP = 16  # lengths of prefixes and slots are multiples of it
NEVER = -30_000.0  # added to the scores of positions that may not be seen
TOKENS = 3000  # of a batch's samples, at most
Place = tuple[int, int, int, int]  # a part of a row: number of the row, first token in the batch, start, end in the row


@dataclass(frozen=True)
class Pictures:
    """All pictures of one size in a batch. ``slots_N``: which of the batch's tokens are theirs, in order."""

    pixels_NHWC: Tensor
    slots_N: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Batch:
    """Tokens of some samples as ``Layout`` puts them. ``target_N``, ``weight_N``: of the answers' tokens.

    ``answer_N``: the number of the question that the token answers, counted over all questions of the batch.
    """

    ids_T: Tensor
    layout: Layout
    target_N: Tensor
    weight_N: Tensor
    answer_N: Tensor
    pictures: list[Pictures]
    samples: list[Sample]


def parted(samples: list[Sample]) -> list[list[Sample]]:
    """Samples of about one length together, those that ask nothing apart; each part of at most TOKENS tokens."""
    parts: list[list[Sample]] = []
    tokens = 0
    for sample in sorted(samples, key=lambda s: (bool(s.asked), s.row.parts()[0], len(s.row.ids))):
        tokens += len(sample.row.ids)
        if not parts or tokens > TOKENS or bool(parts[-1][0].asked) != bool(sample.asked):
            parts.append([])
            tokens = len(sample.row.ids)
        parts[-1].append(sample)
    return parts


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


def collate(samples: list[Sample], pad_id: int) -> Batch:
    """Samples to one batch."""
    parts = [sample.row.parts() for sample in samples]
    prefix = rounded_up(max(end for end, _ in parts))
    length = rounded_up(max([SLOT, *(end - start for _, branches in parts for start, end in branches)]))
    slots = [(number, slot) for number, (_, branches) in enumerate(parts) for slot in packed(branches, length)]
    places = [(number, number * prefix, 0, end) for number, (end, _) in enumerate(parts)]
    first = len(samples) * prefix
    for row, (number, branches) in enumerate(slots):
        at = first + row * length
        for start, end in branches:
            places.append((number, at, start, end))
            at += end - start
    of = _placed(samples, places, first + len(slots) * length, pad_id)
    owner = torch.tensor([number for number, _ in slots])
    bias = _bias(of["branch"], owner, prefix, length)
    learn = (of["label"] != IGNORE).nonzero()[:, 0]
    layout = Layout(of["position"], owner, torch.full((prefix, prefix), NEVER).triu(1), bias, learn - 1)
    pictures = _group_pictures(samples, places, of["ids"].numpy())
    weight = of["weight"][learn].float()
    return Batch(of["ids"], layout, of["label"][learn], weight, of["answer"][learn], pictures, samples)


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


def rounded_up(number: int) -> int:
    """To a multiple of STEP."""
    return -(-number // STEP) * STEP


def _bias(branch_T: Tensor, owner_R: Tensor, prefix: int, length: int) -> Tensor:
    """[R, L, P + L]: 0 where a slot's position may look, NEVER elsewhere."""
    first = len(branch_T) - len(owner_R) * length
    of_prefix = branch_T[:first].view(-1, prefix)[owner_R]
    own = branch_T[first:].view(-1, length)
    seen = (own[:, None, :] == own[:, :, None]) & torch.ones(length, length, dtype=torch.bool).tril()
    whole = torch.cat(((of_prefix == 0)[:, None].expand(-1, length, -1), seen), 2)
    return torch.zeros(whole.shape).masked_fill_(~whole, NEVER)


def _group_pictures(samples: list[Sample], places: list[Place], ids_T: NDArray[np.int64]) -> list[Pictures]:
    """Pictures of the same size together, as the tower takes them in one go."""
    tokens: dict[int, list[NDArray[np.int64]]] = {}
    groups: dict[int, dict[int, NDArray[np.uint8]]] = {}
    for number, at, start, end in places:
        pixels = samples[number].pixels_NHWC
        if pixels is not None:
            tokens.setdefault(number, []).append((ids_T[at : at + end - start] == PICTURE).nonzero()[0] + at)
            groups.setdefault(pixels.shape[1], {})[number] = pixels
    return [
        Pictures(
            torch.from_numpy(np.concatenate(list(group.values()))),
            torch.from_numpy(np.concatenate([part for number in group for part in tokens[number]])),
            torch.cat([labels for number in group for labels in samples[number].labels]),
        )
        for group in groups.values()
    ]


def seen(model: ValleyMini, batch: Batch) -> list[Tensor]:
    """The tower's tokens [n, H] of each group of pictures."""
    return [model.see(group.pixels_NHWC).flatten(0, 1) for group in batch.pictures]


def answer_logits(model: ValleyMini, batch: Batch, towers: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """(logits [N, vocabulary] of the answers' tokens, probed hidden states [T, H])."""
    tokens = towers if towers is not None else seen(model, batch)
    slots = [group.slots_N for group in batch.pictures]
    x_TH = model.embed(batch.ids_T, list(zip(tokens, slots, strict=True)))
    hidden, probed = model.model(x_TH, batch.layout, PROBE)
    return model.logits(hidden), probed
