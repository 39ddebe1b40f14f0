"""The sampler does what its words mean, in the published order."""

from __future__ import annotations

import pytest
import torch

from valley_cli.engine.base import Sampling
from valley_cli.engine.sampler import choose, keep_top, make_generator, penalise

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, 3.0])
CPU = torch.device("cpu")


def test_greedy_takes_the_likeliest() -> None:
    assert choose(LOGITS, Sampling(), (), None) == 4


def test_top_k_and_top_p_equal_transformers() -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    generator = torch.Generator().manual_seed(1)
    for top_k, top_p, temperature in [(20, 0.8, 0.7), (5, 1.0, 1.0), (0, 0.3, 2.0), (3, 0.01, 0.5)]:
        logits = torch.randn(1, 200, generator=generator) * 3
        expected = TemperatureLogitsWarper(temperature)(None, logits)
        if top_k:
            expected = TopKLogitsWarper(top_k)(None, expected)
        if top_p < 1.0:
            expected = TopPLogitsWarper(top_p)(None, expected)
        assert torch.equal(keep_top(logits[0] / temperature, top_k, top_p), expected[0])


def test_repetition_penalty_equals_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[4, 3, 4, 0]]), LOGITS[None])[0]
    assert torch.equal(penalise(LOGITS, 1.3, (4, 3, 4, 0)), expected)
    assert choose(LOGITS, Sampling(repetition_penalty=2.0), (4,), None) == 0


def test_a_seed_repeats_the_choice_and_temperature_spreads_it() -> None:
    def draw(seed: int) -> list[int]:
        sampling = Sampling(temperature=1.5, seed=seed)
        generator = make_generator(sampling, CPU)
        return [choose(LOGITS, sampling, (), generator) for _ in range(40)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert len(set(draw(1))) > 2


def test_frequencies_follow_the_softmax() -> None:
    sampling = Sampling(temperature=1.0, seed=0)
    generator = make_generator(sampling, CPU)
    counts = torch.bincount(torch.tensor([choose(LOGITS, sampling, (), generator) for _ in range(4000)]), minlength=5)
    assert (counts / 4000 - LOGITS.softmax(-1)).abs().max() < 0.03


@pytest.mark.parametrize("top_p", [1e-6, 0.5])
def test_the_nucleus_is_never_empty(top_p: float) -> None:
    assert (
        choose(
            torch.zeros(7),
            Sampling(temperature=1.0, top_p=top_p, seed=1),
            (),
            make_generator(Sampling(1, 1.0, seed=1), CPU),
        )
        < 7
    )
