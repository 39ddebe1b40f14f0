"""The sampler does what its words mean, in the published order, for every row as if it were alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from valley_cli.api import Sampling
from valley_cli.engine.run.sampler import NO_TOKEN, SamplerState, keep_top, make_sampler_state, sample

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, 3.0])
CPU = torch.device("cpu")


def sampler(sampling: Sampling, seen: tuple[int, ...] = (), vocabulary: int = 5) -> SamplerState:
    return make_sampler_state(sampling, seen, vocabulary, CPU)


def one(logits: Tensor, how: SamplerState) -> int:
    return sample(logits[None], [how]).tolist()[0]


def test_greedy_takes_the_likeliest() -> None:
    assert one(LOGITS, sampler(Sampling())) == 4


def test_top_k_and_top_p_equal_transformers() -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    generator = torch.Generator().manual_seed(1)
    for top_k, top_p, temperature in [(20, 0.8, 0.7), (5, 1.0, 1.0), (0, 0.3, 2.0), (3, 0.01, 0.5)]:
        logits = torch.randn(3, 200, generator=generator) * 3
        expected = TemperatureLogitsWarper(temperature)(None, logits)
        if top_k:
            expected = TopKLogitsWarper(top_k)(None, expected)
        if top_p < 1.0:
            expected = TopPLogitsWarper(top_p)(None, expected)
        assert torch.equal(keep_top(logits / temperature, top_k, top_p), expected)


def test_repetition_penalty_equals_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    for penalty in (1.3, 0.5, 4.0):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([[4, 3, 4, 0]]), LOGITS[None])[0]
        assert one(LOGITS, sampler(Sampling(repetition_penalty=penalty), (4, 3, 4, 0))) == int(expected.argmax())


def test_what_was_said_is_penalised_from_then_on() -> None:
    how = sampler(Sampling(repetition_penalty=100.0))
    assert [one(LOGITS, how) for _ in range(4)] == [4, 0, 1, 2]


def test_a_seed_repeats_the_choice_and_temperature_spreads_it() -> None:
    def drawn(seed: int) -> list[int]:
        how = sampler(Sampling(temperature=1.5, seed=seed))
        return [one(LOGITS, how) for _ in range(40)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) > 2


def test_frequencies_follow_the_softmax() -> None:
    how = sampler(Sampling(temperature=1.0, seed=0))
    counts = torch.bincount(torch.tensor([one(LOGITS, how) for _ in range(4000)]), minlength=5)
    assert (counts / 4000 - LOGITS.softmax(-1)).abs().max() < 0.03


def test_a_seeded_draw_is_that_of_torch_multinomial() -> None:
    generator, how = torch.Generator().manual_seed(3), sampler(Sampling(temperature=1.0, seed=3))
    expected = [int(torch.multinomial(LOGITS.softmax(-1), 1, generator=generator)) for _ in range(30)]
    assert [one(LOGITS, how) for _ in range(30)] == expected


@pytest.mark.parametrize("top_p", [1e-6, 0.5])
def test_the_nucleus_is_never_empty(top_p: float) -> None:
    assert 0 <= one(torch.zeros(7), sampler(Sampling(temperature=1.0, top_p=top_p, seed=1), vocabulary=7)) < 7


def test_each_row_of_a_batch_is_chosen_as_if_it_were_alone() -> None:
    wanted = [
        Sampling(),
        Sampling(temperature=0.9, seed=4),
        Sampling(repetition_penalty=1.5),
        Sampling(temperature=0.9, seed=5),
        Sampling(temperature=2.0, top_k=3, top_p=0.9, seed=6, repetition_penalty=1.2),
        Sampling(temperature=2.0, top_k=3, top_p=0.9, seed=7),
    ]
    steps = torch.randn(25, len(wanted), 60, generator=torch.Generator().manual_seed(9))
    together = [sampler(sampling, (1, 2), 60) for sampling in wanted]
    apart = [sampler(sampling, (1, 2), 60) for sampling in wanted]
    for logits in steps:
        assert sample(logits, together).tolist() == [one(row, how) for row, how in zip(logits, apart, strict=True)]


def test_a_row_of_broken_numbers_gives_no_token_and_leaves_its_neighbours_alone() -> None:
    logits = torch.stack((LOGITS, LOGITS * torch.nan, LOGITS))
    greedy = [sampler(Sampling()) for _ in range(3)]
    assert sample(logits, greedy).tolist() == [4, NO_TOKEN, 4]
    drawn = [sampler(Sampling(temperature=0.5, seed=row, repetition_penalty=1.1)) for row in range(3)]
    ids = sample(logits, drawn).tolist()
    assert ids[1] == NO_TOKEN
    assert min(ids[0], ids[2]) >= 0
