"""Answers of the training code's own model, with the right answer's tokens given.

"Every token of the right answer is the likeliest one" is the same as an exact match of greedy decoding, and cheap.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from training import world
from training.batches import Batch, collate, parted
from training.curriculum import STAGES
from training.data import random_sample
from training.dense import PROBE
from training.model import ValleyMini
from training.tokenizer import Encoder


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


def right_answers(model: ValleyMini, batch: Batch) -> list[tuple[str, bool]]:
    """(kind, exactly right?) of every question in a batch, in order."""
    logits, _ = answer_logits(model, batch)
    asked = [question for sample in batch.samples for question in sample.asked]
    wrong = set(batch.answer_N[logits.argmax(-1) != batch.target_N].tolist())
    return [(question.kind, number not in wrong) for number, question in enumerate(asked, 1)]


@torch.no_grad()
def quick_scores(model: ValleyMini, encoder: Encoder, count: int) -> dict[str, float]:
    """Share of exactly right answers by kind, on held-out samples of the last stage's mix."""
    rngs = [world.rng_for("held-out", number) for number in range(count)]
    samples = [random_sample(encoder, rng, STAGES[-1].mix) for rng in rngs]
    results: dict[str, list[bool]] = defaultdict(list)
    for part in parted([sample for sample in samples if sample.asked]):
        for kind, right in right_answers(model, collate(part, encoder.pad_id)):
            results[kind].append(right)
    return {kind: sum(found) / len(found) for kind, found in sorted(results.items())}
