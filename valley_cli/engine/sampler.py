"""From logits to a token: penalty, temperature, top-k, top-p, in the published order (spec valley2, section 10)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from valley_cli.engine.base import Sampling

COLDEST = 1e-5  # below, float32 scores overflow; the likeliest token has all the mass long before


def choose(logits: Tensor, sampling: Sampling, seen_ids: Sequence[int], generator: torch.Generator | None) -> int:
    """The next token for one row of ``logits`` [vocabulary]; ``seen_ids``: prompt and answer, no placeholders."""
    if sampling.repetition_penalty != 1.0 and seen_ids:
        logits = penalise(logits, sampling.repetition_penalty, seen_ids)
    if sampling.temperature == 0.0:
        return int(logits.argmax())
    scores = keep_top(logits.float() / max(sampling.temperature, COLDEST), sampling.top_k, sampling.top_p)
    return int(torch.multinomial(scores.softmax(-1), 1, generator=generator))


def penalise(logits: Tensor, penalty: float, seen_ids: Sequence[int]) -> Tensor:
    """Tokens already seen lose: positive logits divided, negative ones multiplied (Keskar et al., 2019).

    The published code crashes here on the placeholder id -200; it is defined over real token ids.
    """
    ids = torch.tensor(sorted(set(seen_ids)), device=logits.device)
    logits = logits.clone()
    picked = logits[ids]
    logits[ids] = torch.where(picked < 0, picked * penalty, picked / penalty)
    return logits


def keep_top(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """All but the ``top_k`` best, then all outside the nucleus of mass ``top_p`` (Holtzman et al., 2020), to -inf."""
    if 0 < top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[-1], -torch.inf)
    if top_p < 1.0:
        ascending, order = scores.sort()
        outside = ascending.softmax(-1).cumsum(-1) <= 1.0 - top_p
        outside[-1] = False  # the best token always stays
        scores = scores.masked_fill(torch.zeros_like(outside).scatter(0, order, outside), -torch.inf)
    return scores


def make_generator(sampling: Sampling, device: torch.device) -> torch.Generator | None:
    """A generator of the request's own, so that neighbours in a batch do not change its answer."""
    if sampling.temperature == 0.0:
        return None
    generator = torch.Generator(device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return generator
