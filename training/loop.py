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
from training.batches import Batch, answer_logits, collate, parted, seen
from training.curriculum import Stage, dense_weight, lr_factor, stage_at
from training.data import random_sample
from training.dense import DenseHeads
from training.folder import shipped_config
from training.model import ValleyMini
from training.optim import make_optimizers, set_lr
from training.tokenizer import Encoder

MUON_LR, ADAM_LR = 0.02, 2e-3
MAX_GRADIENT = 2.0
LEAST_DENSE = 0.5  # weight of the dense labels of pictures about which nothing is asked
LOG_EVERY_STEPS = 25
SAVE_EVERY_S = 60
MEAN_DECAY = 0.99  # of the running mean of the weights, per step; less at first


@dataclass(frozen=True)
class Job:
    """What one process is asked to do. ``limit_s``: the run's length, over all its restarts."""

    out: Path
    limit_s: float
    batch: int
    seed: int
    rank: int = 0
    workers: int = 1


class Trainer:
    """Model, optimizers and progress; ``save`` and ``restore`` make a run resumable."""

    def __init__(self, job: Job) -> None:
        torch.manual_seed(job.seed)
        self.job = job
        self.encoder = Encoder()
        self.model = ValleyMini(shipped_config())
        self.heads = DenseHeads(self.model.config.hidden_size)
        self.mean = deepcopy(self.model)
        self.optimizers = make_optimizers([self.model, self.heads], MUON_LR, ADAM_LR)
        self.parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.step, self.phase_start, self.elapsed_s, self.only_looked = 0, 0, 0.0, True
        self.last_step = time.monotonic()
        self.noted: dict[str, list[float]] = defaultdict(list)

    def save(self) -> None:
        """Write the checkpoint; a broken-off write leaves the one before."""
        modules = {"model": self.model, "mean": self.mean, "heads": self.heads}
        state: dict[str, Any] = {name: module.state_dict() for name, module in modules.items()}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        state["progress"] = (self.step, self.phase_start, self.elapsed_s, self.only_looked)
        state["made"] = {"world": world.VERSION, "seed": self.job.seed, "workers": self.job.workers}
        state["made"] |= {"batch": self.job.batch}
        partial = self.job.out / "checkpoint.part"
        torch.save(state, partial)
        partial.replace(self.job.out / "checkpoint.pt")

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path, weights_only=True)
        for name, module in (("model", self.model), ("mean", self.mean), ("heads", self.heads)):
            module.load_state_dict(state[name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.phase_start, self.elapsed_s, self.only_looked = state["progress"]

    def log(self, line: str) -> None:
        """Print and keep a line."""
        print(line, flush=True)
        with (self.job.out / "log.txt").open("a") as file:
            file.write(line + "\n")

    def next_batches(self, stage: Stage) -> list[Batch]:
        """The samples of this step and process: a function of the seed, the step, the process and the stage only."""
        first = (self.job.seed << 40) + (self.step * self.job.workers + self.job.rank) * self.job.batch
        rngs = [world.dice_for(first + number) for number in range(self.job.batch)]
        samples = [random_sample(self.encoder, rng, stage.mix) for rng in rngs]
        return [collate(part, self.encoder.pad_id) for part in parted(samples)]

    def loss(self, batch: Batch, stage: Stage, progress: float) -> Tensor:
        """Dense labels alone, or answers with dense labels beside them."""
        only_looks = stage.looks_only or not any(sample.asked for sample in batch.samples)
        beside = dense_weight(progress)
        towers = seen(self.model, batch)
        dense = [self.heads.tower(t, group.labels) for t, group in zip(towers, batch.pictures, strict=True)]
        if only_looks:
            return self._total(dense, "see") * (1.0 if stage.looks_only else max(LEAST_DENSE, beside))
        logits, probed = answer_logits(self.model, batch, towers)
        each = F.cross_entropy(logits, batch.target_N, reduction="none")
        answers = (each * batch.weight_N).sum() / batch.weight_N.sum()
        self.noted["loss"].append(answers.item())
        self.noted["token"].append((logits.argmax(-1) == batch.target_N).float().mean().item())
        if beside == 0:
            return answers
        placed = [self.heads.decoder(probed[group.slots_N], group.labels) for group in batch.pictures]
        return answers + beside * (self._total(dense, "see") + self._total(placed, "place"))

    def _total(self, parts: list[tuple[Tensor, dict[str, float]]], prefix: str) -> Tensor:
        if not parts:
            return torch.zeros(())
        for name, value in parts[0][1].items():
            self.noted[f"{prefix} {name}"].append(value)
        return torch.stack([loss for loss, _ in parts]).mean()

    def average_gradients(self, elapsed_s: float) -> float:
        """Gradients averaged over the processes; returns the first one's time, which all follow."""
        if self.job.workers == 1:
            return elapsed_s
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        parts = (flat / self.job.workers).split([parameter.numel() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        time_of_first = torch.tensor(elapsed_s, dtype=torch.float64)
        dist.broadcast(time_of_first, 0)
        return time_of_first.item()

    def train_step(self) -> None:
        """One step of the optimizers."""
        progress = self.elapsed_s / self.job.limit_s
        stage = stage_at(progress)
        if stage.looks_only != self.only_looked:
            self.phase_start, self.only_looked = self.step, stage.looks_only
        set_lr(self.optimizers, lr_factor(progress, self.step - self.phase_start))
        for batch in self.next_batches(stage):
            share = len(batch.samples) / self.job.batch
            (share * self.loss(batch, stage, progress)).backward()  # type: ignore[no-untyped-call]
        now = time.monotonic()
        self.elapsed_s = self.average_gradients(self.elapsed_s + now - self.last_step)
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
        if self.step % LOG_EVERY_STEPS == 0 and self.job.rank == 0:
            means = " ".join(f"{name}={sum(found) / len(found):.3f}" for name, found in self.noted.items())
            samples = self.step * self.job.batch * self.job.workers
            self.log(f"{stage.name} step {self.step} {self.elapsed_s / 60:.1f}min samples {samples} {means}")
            self.noted.clear()

    def run(self) -> None:
        """Train until the time is used up, saving on the way."""
        saved = self.last_step = time.monotonic()
        while self.elapsed_s < self.job.limit_s:
            self.train_step()
            if self.job.rank == 0 and time.monotonic() - saved > SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()
        if self.job.rank == 0:
            self.save()
            self.log(f"done step {self.step} {self.elapsed_s / 60:.1f}min")
