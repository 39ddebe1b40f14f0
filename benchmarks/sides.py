"""The two that are compared, each as a function from prompts to greedy answers, and how their answers are compared."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from valley_cli.api import Sampling
from valley_cli.engine.run.runner import Runner
from valley_cli.engine.schedule.slots import Slot

PROMPT = 64  # tokens
MARGIN = 0.002  # between the two likeliest tokens: below it, rounding decides
Rows = list[list[int]]


class Valley:
    """(c): a runner with room for ``rows`` answers of ``count`` tokens."""

    def __init__(self, runner: Runner, rows: int, count: int) -> None:
        self.runner = runner
        self.slots = [Slot(n * (PROMPT + count), PROMPT + count) for n in range(rows)]
        runner.resize(rows * (PROMPT + count))

    def __call__(self, prompts: Rows, count: int) -> Rows:
        """Greedy continuations, all in one batch."""
        runner, slots = self.runner, self.slots[: len(prompts)]
        samplers = [runner.sampler(Sampling(), ()) for _ in prompts]
        firsts = []
        for slot, prompt in zip(slots, prompts, strict=True):
            runner.attach_slot(slot)
            firsts.append(runner.prefill(slot, runner.embed_prompt(prompt, ())))
        said = [[token] for token in runner.sample(torch.stack(firsts), samplers)]
        for step in range(count - 1):
            lengths = [PROMPT + step] * len(prompts)
            chosen = runner.step([row[-1] for row in said], slots, lengths, samplers)
            for row, token in zip(said, chosen, strict=True):
                row.append(token)
        return said

    def forced(self, prompt: list[int], answer: list[int]) -> Tensor:
        """Logits at every token of ``answer``, read one by one. [len(answer), vocabulary]"""
        slot = self.slots[0]
        self.runner.attach_slot(slot)
        found = [self.runner.prefill(slot, self.runner.embed_prompt(prompt, ()))]
        for step, token in enumerate(answer[:-1]):
            found.append(self.runner.decode([token], [slot], [PROMPT + step])[0])
        return torch.stack(found)


class Transformers:
    """(a), or with ``static`` (b)."""

    def __init__(self, model: Any, *, static: bool = False, compiled: bool = False) -> None:
        self.model = model
        self.options = {"cache_implementation": "static", "disable_compile": not compiled} if static else {}

    def __call__(self, prompts: Rows, count: int) -> Rows:
        """Greedy continuations of prompts of one length."""
        ids = torch.tensor(prompts, device=self.model.device)
        mask = torch.ones_like(ids)
        out = self.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            **self.options,
        )
        found: Rows = out[:, ids.shape[1] :].tolist()
        return found

    @torch.inference_mode()
    def forced(self, prompt: list[int], answer: list[int]) -> Tensor:
        """See ``Valley.forced``; read all at once."""
        ids = torch.tensor([prompt + answer[:-1]], device=self.model.device)
        logits: Tensor = self.model(input_ids=ids).logits[0, len(prompt) - 1 :]
        return logits


def tokens_per_s(run: Any, prompts: Rows, count: int) -> tuple[float, Rows]:
    start = time.perf_counter()
    rows = run(prompts, count)
    return len(prompts) * count / (time.perf_counter() - start), rows


def compare(runs: dict[str, Any], prompts: Rows, count: int, repeats: int) -> tuple[dict[str, float], dict[str, Rows]]:
    """Best tokens/s of each run, one after the other, and what each said."""
    best, said = dict.fromkeys(runs, 0.0), {}
    for _ in range(repeats):
        for name, run in runs.items():
            speed, said[name] = tokens_per_s(run, prompts, count)
            best[name] = max(best[name], round(speed, 1))
    return best, said


def agreement(reference: Transformers, ours: Valley, prompt: list[int], said: dict[str, Rows]) -> dict[str, Any]:
    """Where greedy answers part, whether that may be, and how far logits are apart on the reference's own tokens."""
    answer, found = said["transformers"][0], said["valley"][0]
    expected = reference.forced(prompt, answer).float()
    apart = (ours.forced(prompt, answer).float() - expected).abs()
    margins = expected.topk(2).values.diff(dim=-1).neg().flatten().tolist()
    differs = next((step for step in range(len(answer)) if answer[step] != found[step]), None)
    unsure = next((step for step, margin in enumerate(margins) if margin < MARGIN), None)
    return {
        "first_difference": differs,
        "first_unsure_step": unsure,
        "agree": differs is None or (unsure is not None and unsure <= differs),
        "logit_error_mean": float(f"{apart.mean():.3g}"),
        "logit_error_max": float(f"{apart.max():.3g}"),
        "logit_spread": float(f"{expected.std():.3g}"),
    }
