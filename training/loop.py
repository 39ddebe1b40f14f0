"""The training loop of one process; several processes average their gradients (gloo)."""

from __future__ import annotations

import time
from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from training import world
from training.batches import Batch, collate, parted
from training.curriculum import Curriculum, Stage
from training.data import random_sample
from training.dense import DenseHeads
from training.labels import CLASSES
from training.measure import answer_logits, quick_scores, seen
from training.model import ModelConfig, ValleyMini
from training.optim import make_optimizers, set_lr
from training.tokenizer import Encoder

MUON_LR, ADAM_LR = 0.02, 2e-3
MAX_GRADIENT = 2.0
LEAST_DENSE = 0.5  # weight of the dense labels of pictures about which nothing is asked
LOG_EVERY_STEPS = 25
SCORED = 36  # held-out pictures of the quick scores
SAVE_EVERY_S, SCORE_EVERY_S = 60, 600
MEAN_DECAY = 0.99  # of the running mean of the weights, per step; less at first
MAX_COUNTED_STEP_S = 60.0  # a longer step (the machine slept) does not use up the run's time


@dataclass(frozen=True)
class Job:
    """What one process is asked to do. ``elapsed_limit_s``: the run's length, over all its restarts."""

    out: Path
    elapsed_limit_s: float
    batch: int
    seed: int
    rank: int
    world_size: int
    curriculum: Curriculum
    device: str = "cpu"
    compiled: bool = True


class Trainer:
    """Model, optimizers and progress; ``state`` and ``restore`` make a run resumable."""

    def __init__(self, job: Job) -> None:
        torch.manual_seed(job.seed)
        self.job = job
        self.encoder = Encoder.load(job.out / "tokenizer.json")
        self.device = torch.device(job.device)
        self.model = ValleyMini(ModelConfig(vocab_size=self.encoder.tokenizer.get_vocab_size())).to(self.device)
        self.heads = DenseHeads(self.model.config.hidden_size, job.curriculum.no_character).to(self.device)
        self.mean = deepcopy(self.model)
        if job.compiled:
            for block in (*self.model.model.layers, *self.model.model.qwen2vl_vision_tower.blocks):
                block.compile(dynamic=False)
        self.optimizers = make_optimizers([self.model, self.heads], MUON_LR, ADAM_LR)
        self.parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.step, self.phase_start, self.elapsed_s, self.was_dense_only = 0, 0, 0.0, True
        self.last_step = time.monotonic()
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    # -- progress ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "mean": self.mean.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "config": self.model.config.as_dict(),
            "progress": (self.step, self.phase_start, self.elapsed_s, self.was_dense_only),
            "world": world.VERSION,
            "classes": dict(CLASSES),
            "seed": self.job.seed,
        }

    def restore(self, path: Path, weights_only: bool) -> None:
        """Continue from a checkpoint; ``weights_only``: a new run that starts from its weights."""
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["mean" if weights_only and "mean" in state else "model"])
        self.mean.load_state_dict(state.get("mean", state["model"]))
        if weights_only:
            if list(state["classes"].items()) == list(CLASSES.items())[: len(state["classes"])]:  # else they start anew
                self.heads.load_first(state["heads"])
            return
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.phase_start, self.elapsed_s, self.was_dense_only = state["progress"]

    def save(self) -> None:
        partial = self.job.out / "checkpoint.part"
        torch.save(self.state(), partial)
        partial.replace(self.job.out / "checkpoint.pt")

    def log(self, *words: object) -> None:
        if self.job.rank == 0:
            line = " ".join(str(word) for word in words)
            print(line, flush=True)
            with (self.job.out / "log.txt").open("a") as file:
                file.write(line + "\n")

    # -- one step ------------------------------------------------------------------------------------------

    def next_batches(self, stage: Stage) -> list[Batch]:
        """The samples of this step and rank, those of about one length together, so that little is padded.

        A function of the seed, the step and the rank only.
        """
        first = (self.job.seed << 40) + (self.step * self.job.world_size + self.job.rank) * self.job.batch
        rngs = [world.rng_for("train", first + number) for number in range(self.job.batch)]
        samples = [random_sample(self.encoder, rng, stage.mix) for rng in rngs]
        parts = parted(samples)
        return [collate(part, self.encoder.pad_id, shape).to(self.device) for part, shape in parts]

    def loss(self, batch: Batch, stage: Stage, progress: float) -> Tensor:
        """Dense labels alone, or answers with dense labels beside them."""
        only_looks = stage.dense_only or not any(sample.asked for sample in batch.samples)
        beside = self.job.curriculum.dense_weight(progress)
        with torch.autocast(self.device.type, torch.bfloat16):
            towers = seen(self.model, batch)
            dense = [self.heads.tower(t, group.labels) for t, group in zip(towers, batch.pictures, strict=True)]
            if not only_looks:
                logits, probed = answer_logits(self.model, batch, towers)
        if only_looks:
            return self._total(dense, "see") * (1.0 if stage.dense_only else max(LEAST_DENSE, beside))
        weight = batch.weight_N
        each = F.cross_entropy(logits, batch.target_N, reduction="none")
        answers = (each * weight).sum() / weight.sum()
        self._note("loss", answers.item())
        self._note("token", (logits.argmax(-1) == batch.target_N).float().mean().item())
        if beside == 0:
            return answers
        placed = [self.heads.decoder(probed[group.slots_N], group.labels) for group in batch.pictures]
        return answers + beside * (self._total(dense, "see") + self._total(placed, "place"))

    def _total(self, parts: list[tuple[Tensor, dict[str, float]]], prefix: str) -> Tensor:
        if not parts:
            return torch.zeros((), device=self.device)
        for name, value in parts[0][1].items():
            self._note(f"{prefix} {name}", value)
        return torch.stack([loss for loss, _ in parts]).mean()

    def _note(self, name: str, value: float) -> None:
        self.sums[name] += value
        self.counts[name] += 1

    def average_gradients(self, spent_s: float) -> float:
        """Gradients averaged over the processes; returns rank 0's time, which all follow."""
        if self.job.world_size == 1:
            return spent_s
        zero = torch.zeros(())
        grads = [(zero.expand(p.shape) if p.grad is None else p.grad).flatten() for p in self.parameters]
        flat = torch.cat([*grads, torch.tensor([spent_s if self.job.rank == 0 else 0.0])])
        dist.all_reduce(flat)
        at = 0
        for parameter in self.parameters:
            size = parameter.numel()
            if parameter.grad is not None:
                parameter.grad.copy_(flat[at : at + size].view_as(parameter) / self.job.world_size)
            at += size
        return flat[-1].item()

    def train_step(self) -> None:
        progress = self.elapsed_s / self.job.elapsed_limit_s
        stage = self.job.curriculum.stage_at(progress)
        if stage.dense_only != self.was_dense_only:
            self.phase_start, self.was_dense_only = self.step, stage.dense_only
        set_lr(self.optimizers, self.job.curriculum.lr_factor(progress, self.step - self.phase_start))
        for batch in self.next_batches(stage):
            share = len(batch.samples) / self.job.batch
            with torch.compiler.set_stance("default" if batch.shape else "force_eager"):
                (share * self.loss(batch, stage, progress)).backward()  # type: ignore[no-untyped-call]
        now = time.monotonic()
        self.elapsed_s += self.average_gradients(min(now - self.last_step, MAX_COUNTED_STEP_S))
        self.last_step = now
        nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(MEAN_DECAY, 1 - 4 / (self.step + 4))
        with torch.no_grad():
            for kept, parameter in zip(self.mean.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(parameter, 1 - decay)
        if self.step % LOG_EVERY_STEPS == 0:
            means = " ".join(f"{name}={self.sums[name] / self.counts[name]:.3f}" for name in self.sums)
            seen = self.step * self.job.batch * self.job.world_size
            self.log(f"{stage.name} step {self.step} {self.elapsed_s / 60:.1f}min seen {seen}", means)
            self.sums.clear()
            self.counts.clear()

    def run(self) -> None:
        """Train until the time is used up, saving and scoring on the way."""
        saved = scored = self.last_step = time.monotonic()
        while self.elapsed_s < self.job.elapsed_limit_s:
            self.train_step()
            if self.job.rank == 0 and time.monotonic() - saved > SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()
            if self.job.rank == 0 and time.monotonic() - scored > SCORE_EVERY_S and not self.was_dense_only:
                scores = quick_scores(self.mean, self.encoder, SCORED)
                self.log("SCORES", " ".join(f"{kind}={value:.2f}" for kind, value in scores.items()))
                scored = time.monotonic()
        if self.job.rank == 0:
            self.save()
            self.log("DONE", self.step, f"{self.elapsed_s / 60:.1f} min")
