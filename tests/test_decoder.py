"""The decoder equals transformers' own, and every way of running it equals every other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.decoders import Decoder, fused_decoder, prompt, tiny
from valley_cli.engine.layers.decoder import causal_attend
from valley_cli.engine.layers.matmul import WeightLayout, can_pack
from valley_cli.engine.run.kvcache import KVCache
from valley_cli.engine.schedule.slots import Move, Slot

TOLERANCE = 2e-5


ROOM = 64


def seg(slot: int) -> Slot:
    """The slots of these tests lie side by side."""
    return Slot(slot * ROOM, ROOM)


def run_cached(ours: Decoder, cache: KVCache, slot: int, ids: Tensor, first: int) -> Tensor:
    """Prefill ``first`` tokens, then one token at a time. -> logits [T, vocabulary]"""
    parts = [ours.logits(ids[None, :first], torch.arange(first)[None], cache.prefill(seg(slot), 0))[0]]
    for place in range(first, len(ids)):
        step = ours.logits(ids[None, place : place + 1], torch.tensor([[place]]), cache.decode([seg(slot)], [place]))
        parts.append(step[0])
    return torch.cat(parts)


def new_cache(ours: Decoder, slots: int) -> KVCache:
    cache = KVCache(ours.config, torch.device("cpu"), torch.float32)
    cache.resize(slots * ROOM)
    return cache


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_plain_path_equals_transformers(kind: str) -> None:
    reference, ours = tiny(kind)
    ids = torch.stack([prompt(23, 1), prompt(23, 2)])
    found = ours.logits(ids, torch.arange(23)[None])
    assert (found - reference(input_ids=ids).logits).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_cached_decode_equals_full_forward(kind: str) -> None:
    _, ours = tiny(kind)
    ids = prompt(40, 3)
    full = ours.logits(ids[None], torch.arange(40)[None])[0]
    for first in (1, 17, 39):
        assert (run_cached(ours, new_cache(ours, 1), 0, ids, first) - full).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_prefill_in_two_pieces_equals_one(kind: str) -> None:
    _, ours = tiny(kind)
    ids, cache = prompt(30, 4), new_cache(ours, 2)
    full = ours.logits(ids[None], torch.arange(30)[None])[0]
    head = ours.logits(ids[None, :11], torch.arange(11)[None], cache.prefill(seg(1), 0))[0]
    tail = ours.logits(ids[None, 11:], torch.arange(11, 30)[None], cache.prefill(seg(1), 11))[0]
    assert (torch.cat((head, tail)) - full).abs().max() < TOLERANCE


class Written(TorchDispatchMode):
    """Counts the new tensors of at least ``n_values``."""

    def __init__(self, n_values: int) -> None:
        super().__init__()
        self.n_values, self.count = n_values, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = "full" in str(func) or "ones" in str(func) or "zeros" in str(func)
        self.count += made and isinstance(result, Tensor) and result.numel() >= self.n_values
        return result


def test_what_a_piece_may_see_is_written_down_once_for_all_layers() -> None:
    _, ours = tiny("qwen2")
    cache, ids = new_cache(ours, 1), prompt(60, 4)
    ours.logits(ids[None, :20], torch.arange(20)[None], cache.prefill(seg(0), 0))
    with Written(40 * 60) as written:
        ours.logits(ids[None, 20:], torch.arange(20, 60)[None], cache.prefill(seg(0), 20))
    assert written.count == 1


@pytest.mark.parametrize("slots", [[0, 1, 2], [0, 2, 5]], ids=["dense", "with gaps"])
def test_a_batch_of_mixed_lengths_equals_single_runs(slots: list[int]) -> None:
    _, ours = tiny("qwen3")
    rows = [prompt(length, seed) for seed, length in enumerate((9, 31, 18))]
    cache = new_cache(ours, 6)
    singles = [run_cached(ours, new_cache(ours, 1), 0, ids, len(ids) - 4)[-4:] for ids in rows]
    for slot, ids in zip(slots, rows, strict=True):
        ours.logits(ids[None, :-4], torch.arange(len(ids) - 4)[None], cache.prefill(seg(slot), 0))
    for step in range(4):
        lengths = [len(ids) - 4 + step for ids in rows]
        tokens = torch.stack([ids[place] for ids, place in zip(rows, lengths, strict=True)])[:, None]
        logits = ours.logits(tokens, torch.tensor(lengths)[:, None], cache.decode([*map(seg, slots)], lengths))
        for row, single in enumerate(singles):
            assert (logits[row, 0] - single[step]).abs().max() < TOLERANCE


def test_a_cache_that_is_resized_and_packed_keeps_what_it_holds() -> None:
    _, ours = tiny("qwen2")
    ids, cache = prompt(20, 6), new_cache(ours, 3)
    full = ours.logits(ids[None], torch.arange(20)[None])[0, -1]
    ours.logits(ids[None, :19], torch.arange(19)[None], cache.prefill(seg(2), 0))
    cache.resize(700, [Move(seg(2), seg(0))])
    found = ours.logits(ids[None, 19:], torch.tensor([[19]]), cache.decode([seg(0)], [19]))[0, -1]
    assert cache.tokens == 700
    assert (found - full).abs().max() < TOLERANCE


@pytest.mark.parametrize("target", [Slot(0, 64), Slot(64, 96), Slot(128, 64)], ids=["other", "over", "same"])
def test_a_prefix_that_is_copied_continues_as_it_would_have(target: Slot) -> None:
    _, ours = tiny("qwen3")
    ids, cache = prompt(40, 6), new_cache(ours, 3)
    full = ours.logits(ids[None], torch.arange(40)[None])[0, -1]
    ours.logits(ids[None, :30], torch.arange(30)[None], cache.prefill(seg(2), 0))
    cache.attach_slot(target, 25, source=None if target == seg(2) else seg(2))
    found = ours.logits(ids[None, 25:], torch.arange(25, 40)[None], cache.prefill(target, 25))[0, -1]
    assert (found - full).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("layout", ["rows", "packed", "transposed"])
@pytest.mark.parametrize("slots", [[0], [0, 1, 2], [4, 1, 2]], ids=["one", "dense", "with gaps"])
def test_the_fused_decoder_equals_the_plain_one(kind: str, layout: WeightLayout, slots: list[int]) -> None:
    _, ours = tiny(kind)
    fused = fused_decoder(ours, layout)
    rows = [prompt(length, seed) for seed, length in enumerate((9, 31, 18))][: len(slots)]
    caches = new_cache(ours, 6), new_cache(ours, 6)
    for slot, ids in zip(slots, rows, strict=True):
        places = torch.arange(len(ids))[None]
        plain = ours.logits(ids[None], places, caches[0].prefill(seg(slot), 0))[0]
        hidden = fused.hidden(ours.embed_tokens(ids[None]), places, caches[1].prefill(seg(slot), 0))[0]
        assert (fused.logits(hidden) - plain).abs().max() < TOLERANCE
    for step in range(5):
        lengths = [len(ids) + step for ids in rows]
        places = torch.tensor(lengths)[:, None]
        tokens = torch.tensor([(7 * step + 11 * row) % 97 for row in range(len(rows))])[:, None]
        plain = ours.logits(tokens, places, caches[0].decode([*map(seg, slots)], lengths))[:, 0]
        hidden = fused.hidden(ours.embed_tokens(tokens), places, caches[1].decode([*map(seg, slots)], lengths))[:, 0]
        assert (fused.logits(hidden) - plain).abs().max() < TOLERANCE


def test_packed_bfloat16_errs_no_more_than_plain_bfloat16() -> None:
    layout: WeightLayout = "packed" if can_pack(torch.bfloat16) else "rows"
    _, ours = tiny("qwen3")
    ids = prompt(40, 8)
    exact = ours.double().logits(ids[None], torch.arange(40)[None])[0]
    ours = ours.bfloat16()
    plain = ours.logits(ids[None], torch.arange(40)[None])[0]
    fused = fused_decoder(ours, layout)
    packed = fused.logits(fused.hidden(ours.embed_tokens(ids[None]), torch.arange(40)[None], causal_attend)[0])
    assert (packed - exact).abs().mean() < 1.5 * (plain - exact).abs().mean()
