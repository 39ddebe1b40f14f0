"""From logits to tokens: penalty, temperature, top-k, top-p, in the published order (spec valley2, section 10).

A whole batch is chosen at once, on the device, and nothing is waited for: rows that ask for the same thing share their
operations, and greedy rows take one in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from valley_cli.api import Sampling

COLDEST = 1e-5  # below, float32 scores overflow; the likeliest token has all the mass long before
NO_TOKEN = -1  # what a row of broken numbers gives


@dataclass(frozen=True)
class SamplerState:
    """How one request's tokens are chosen, and what that needs to remember on the device.

    The generator is the request's own, so that neighbours in a batch do not change its answer. ``seen`` marks the
    tokens of prompt and answer, [vocabulary] bool, where they are penalised.
    """

    sampling: Sampling
    generator: torch.Generator | None
    seen: Tensor | None

    @property
    def plain(self) -> bool:
        """The likeliest token, whatever was said before."""
        return self.generator is None and self.seen is None


def make_sampler_state(
    sampling: Sampling, seen_ids: Iterable[int], vocabulary: int, device: torch.device, drawn: int = 0
) -> SamplerState:
    """``seen_ids``: real token ids; the published code crashes on the placeholder's, -200. ``drawn``: tokens that were
    chosen already, by another sampler of this request."""
    seen = None
    if sampling.repetition_penalty != 1.0:
        seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        seen[torch.tensor(sorted(set(seen_ids)), device=device, dtype=torch.int64)] = True
    generator = make_generator(sampling, device)
    if generator:
        for _ in range(drawn):
            torch.empty(vocabulary, device=device).exponential_(generator=generator)
    return SamplerState(sampling, generator, seen)


def make_generator(sampling: Sampling, device: torch.device) -> torch.Generator | None:
    """Seeded as asked, or by chance; None for greedy choices."""
    if sampling.temperature == 0.0:
        return None
    generator = torch.Generator(device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return generator


def sample(logits: Tensor, samplers: Sequence[SamplerState]) -> Tensor:
    """The next token of every row of ``logits`` [B, vocabulary], and marks it as seen. -> [B], on the device

    NO_TOKEN for a row whose numbers are not numbers.
    """
    if all(sampler.plain for sampler in samplers):
        return likeliest(logits)
    logits = penalise(logits, samplers)
    chosen = likeliest(logits)
    groups: dict[tuple[float, int, float], list[int]] = {}
    for row, sampler in enumerate(samplers):
        if sampler.generator:
            sampling = sampler.sampling
            groups.setdefault((sampling.temperature, sampling.top_k, sampling.top_p), []).append(row)
    for (temperature, top_k, top_p), rows in groups.items():
        scores = keep_top(logits[rows].float() / max(temperature, COLDEST), top_k, top_p)
        chosen[rows] = draw(scores.softmax(-1), [samplers[row].generator for row in rows])
    for row, sampler in enumerate(samplers):
        if sampler.seen is not None:
            sampler.seen.index_fill_(0, chosen[row].clamp_min(0), True)
    return chosen


def likeliest(logits: Tensor) -> Tensor:
    """[B, vocabulary] -> [B]"""
    best, ids = logits.max(-1)
    return ids.masked_fill(best.isnan(), NO_TOKEN)


def penalise(logits: Tensor, samplers: Sequence[SamplerState]) -> Tensor:
    """Tokens already seen lose: positive logits divided, negative ones multiplied (Keskar et al., 2019)."""
    rows = [row for row, sampler in enumerate(samplers) if sampler.seen is not None]
    if not rows:
        return logits
    seen = torch.stack([sampler.seen for sampler in samplers if sampler.seen is not None])
    penalties = [samplers[row].sampling.repetition_penalty for row in rows]
    penalty = torch.tensor(penalties, dtype=logits.dtype).to(logits.device, non_blocking=True)[:, None]
    picked = logits[rows]
    logits = logits.clone()
    logits[rows] = torch.where(seen, torch.where(picked < 0, picked * penalty, picked / penalty), picked)
    return logits


def keep_top(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """All but each row's ``top_k`` best, then all outside the nucleus of mass ``top_p`` (Holtzman et al., 2020), to
    -inf. [B, vocabulary] -> [B, vocabulary]"""
    if 0 < top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1.0:
        ascending, order = scores.sort()
        outside = ascending.softmax(-1).cumsum(-1) <= 1.0 - top_p
        outside[:, -1] = False  # the best token always stays
        scores = scores.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), -torch.inf)
    return scores


def draw(probabilities: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
    """One token a row by its own generator: the first to arrive of exponential clocks, as ``torch.multinomial`` does.

    [B, vocabulary] -> [B]; NO_TOKEN for a row that is not a distribution.
    """
    clocks = torch.empty_like(probabilities)
    for row, generator in zip(clocks, generators, strict=True):
        row.exponential_(generator=generator)
    return likeliest(probabilities / clocks)
