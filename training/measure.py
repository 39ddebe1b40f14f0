"""Quick scores during training, with the right answer's tokens given (equal to greedy exact match, and cheap)."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from training import clips, photographs, questions, several, talk, world
from training.batches import Batch, collate
from training.data import Sample, Task, make_sample
from training.dense import PROBE
from training.model import ValleyMini
from training.scenes import make_scene
from training.tokenizer import Encoder

FIRST_INDEX = 1_000_000  # held-out pictures of these scores; the reported scores use others
MAX_BRANCHES = 16


def seen(model: ValleyMini, batch: Batch) -> list[Tensor]:
    """The tower's tokens [n, H] of each group of pictures."""
    return [model.see(group.pixels_NHWC).flatten(0, 1)[: len(group.slots_N)] for group in batch.pictures]


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


def held_out_samples(encoder: Encoder, count: int, split: str = "held-out") -> list[Sample]:
    """``count`` single pictures without text, half as many with text, a third as many of each other kind."""
    tasks = []
    for number in range(count):
        rng = world.rng_for(split, FIRST_INDEX + number)
        scene = make_scene(rng)
        tasks.append(Task([scene], questions.choose(rng, questions.ask_all(rng, scene), MAX_BRANCHES, 1.0)))
        if number % 2 == 0:
            scene = make_scene(rng, with_text=1.0)
            tasks.append(Task([scene], [q for q in questions.ask_all(rng, scene) if q.kind == "read"]))
        if number % 3 == 0:
            makers = (several.several_pictures, several.changed_pictures, clips.clip, photographs.photograph)
            tasks += [Task(*make(rng)) for make in makers]
            said = talk.conversation(rng)
            tasks.append(Task(said.scenes, said.asked, said.attached))
    return [make_sample(encoder, task) for task in tasks]


@torch.no_grad()
def quick_scores(model: ValleyMini, encoder: Encoder, count: int = 100, split: str = "held-out") -> dict[str, float]:
    """Share of exactly right answers by kind."""
    model.eval()
    results: dict[str, list[bool]] = defaultdict(list)
    samples = held_out_samples(encoder, count, split)
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16):
        for start in range(0, len(samples), 20):
            for kind, right in right_answers(model, collate(samples[start : start + 20], encoder.pad_id).to(device)):
                results[kind].append(right)
    model.train()
    return {kind: sum(found) / len(found) for kind, found in sorted(results.items())}
