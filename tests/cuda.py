"""What must hold on a CUDA card, as plain functions of a device: ``python -m tests.cuda [cuda|cuda:N|cpu]`` runs them
without pytest (benchmarks/gpu.sh does), ``test_cuda`` runs them with it, on this processor too."""

from __future__ import annotations

import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from tests.answers import generate
from tests.decoders import ROOM, Served, full_logits, greedy_alone, prompt, tiny
from valley_cli.api import Done, EngineOptions, Message, OnStage, Request, Sampling, Stage
from valley_cli.engine.layers.config import TextConfig, VitConfig
from valley_cli.engine.layers.vision import VitTower
from valley_cli.engine.run.cuda_graphs import Batch
from valley_cli.engine.run.decode_step import StaticStep, flash_works
from valley_cli.engine.run.kvcache import KVCache
from valley_cli.engine.run.sampler import NO_TOKEN, make_sampler_state, sample
from valley_cli.engine.schedule.slots import Slot

GOLDEN = Path(__file__).parent / "data" / "golden"
TOLERANCE = 1e-4  # float32, logits of a few units


def recorded_steps_in_any_order(device: torch.device, ahead: bool = True) -> None:
    """Rows come and leave in any order, steps are begun ahead and dropped: each says what it says alone."""
    served, rng = Served(device=device.type), random.Random(5)
    graphs, free = served.graphs(ahead, record_after=3), [0, 100, 200, 300]
    prompts = [prompt(rng.choice((10, 10, 25)), seed).to(device) for seed in range(6)]
    alone = [greedy_alone(served.plain, ids, 40) for ids in prompts]
    assert len({tuple(said) for said in alone}) == len(alone)
    running: list[tuple[int, int, list[int], int]] = []  # prompt, start, said, how many it will say
    finished = recorded_steps = 0
    while finished < 60:
        if free and (not running or rng.random() < 0.4):
            number, start = rng.randrange(len(prompts)), free.pop(rng.randrange(len(free)))
            graphs.changed(start)
            running.append((number, start, [served.read(prompts[number], start)], rng.choice((1, 3, 20, 40))))
        lengths = tuple(len(prompts[number]) + len(said) - 1 for number, _, said, _ in running)
        starts = tuple(start for _, start, _, _ in running)
        batch = Batch(tuple(said[-1] for _, _, said, _ in running), starts, lengths, (ROOM,) * len(running))
        if recorded := graphs.find(batch):
            recorded_steps += 1
            by_logits = rng.random() < 0.2
            logits = graphs.logits(recorded, batch) if by_logits else None
            ids = graphs.greedy(recorded, batch) if logits is None else logits.argmax(-1).tolist()
        else:
            step = StaticStep(served.embedding, served.decoder, served.keys, served.values, len(running), 64, False)
            step.feed(batch.tokens, batch.starts, batch.lengths)
            step()
            ids = step.chosen.tolist()
        for (_, _, said, _), token in zip(running, ids, strict=True):
            said.append(token)
        for ended in [row for row in running if len(row[2]) >= row[3]]:
            assert ended[2][: ended[3]] == alone[ended[0]][: ended[3]]
            running.remove(ended)
            free.append(ended[1])
            finished += 1
    assert recorded_steps > 100


def recorded_steps_give_the_plain_path_s_logits(device: torch.device) -> None:
    """Qwen2 and Qwen3 kinds, padded rows, gaps between the rows."""
    for kind in ("qwen2", "qwen3"):
        served, starts = Served(kind, device.type), (250, 7, 120)
        graphs = served.graphs(ahead=False, record_after=0)
        rows = [prompt(length, seed).to(device) for seed, length in enumerate((9, 31, 18))]
        for start, ids in zip(starts, rows, strict=True):
            served.read(ids, start)
        for number in range(6):
            tokens = tuple((7 * number + 11 * row) % 97 for row in range(3))
            batch = Batch(tokens, starts, tuple(map(len, rows)), (ROOM,) * 3)
            recorded = graphs.find(batch)
            assert recorded
            logits = graphs.logits(recorded, batch)
            rows = [torch.cat((ids, ids.new_tensor([token]))) for ids, token in zip(rows, tokens, strict=True)]
            for ids, found in zip(rows, logits, strict=True):
                assert (found - full_logits(served.plain, ids)).abs().max() < TOLERANCE


def flash_attention_is_used_where_it_can_be(device: torch.device) -> None:
    """Half precision on Ampere cards and later; elsewhere the masked kind."""
    can = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    for heads, kv, dim in ((28, 4, 128), (32, 8, 128), (14, 2, 64)):
        config = TextConfig(9, heads * dim, 9, 1, heads, kv, dim, 1e-6, 1e6, 4096, False, True, True)
        assert flash_works(config, device, torch.bfloat16) == can
        assert not flash_works(config, device, torch.float32)


def a_batch_of_samplers_repeats_itself_and_stands_a_broken_row(device: torch.device) -> None:
    """Seeded draws, penalties and greedy rows side by side."""
    ways = [
        Sampling(),
        Sampling(temperature=0.8, top_p=0.9, seed=3),
        Sampling(temperature=1.5, top_k=20, seed=4, repetition_penalty=1.2),
    ]
    steps = torch.randn(12, 4, 300, generator=torch.Generator().manual_seed(1)).to(device)
    steps[:, 3] = torch.nan

    def drawn() -> list[list[int]]:
        samplers = [make_sampler_state(sampling, (1, 2), 300, device) for sampling in [*ways, ways[1]]]
        return [sample(logits, samplers).tolist() for logits in steps]

    first = drawn()
    assert first == drawn()
    assert [row[0] for row in first] == steps[:, 0].argmax(-1).tolist()
    assert {row[3] for row in first} == {NO_TOKEN}


def towers_give_what_a_processor_gives(device: torch.device) -> None:
    """Several pictures at once, in float32."""
    tower = VitTower(VitConfig(embed_dim=32, depth=2, num_heads=2, mlp_dim=64, merger_dim=128, output_dim=24))
    generator = torch.Generator().manual_seed(2)
    for parameter in tower.parameters():
        parameter.requires_grad_(False).copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    grids = [(4, 6), (4, 6), (2, 2)]
    patches = torch.randn(52, 1176, generator=generator)
    expected = tower(patches, grids)
    assert (tower.to(device)(patches.to(device), grids).cpu() - expected).abs().max() < TOLERANCE


def golden_answers(device: torch.device) -> None:
    """The published code's answers, through the engine, steps recorded from the first on. Needs Pillow."""
    from tests.golden import Case
    from valley_cli.engine.families.valley.weights import load_model
    from valley_cli.engine.local import LocalEngine
    from valley_cli.engine.run.runner import Runner
    from valley_cli.engine.run.worker import Worker

    for path in sorted(GOLDEN.glob("*/cases/*.json")):
        case = Case(path)
        engine = LocalEngine(case.files, "golden", EngineOptions(device=str(device), dtype="float32"))
        runner = Runner(load_model(case.files, device, torch.float32), device, record_after=0)

        def load(_: OnStage, runner: Runner = runner) -> Runner:
            take_card(device)
            return runner

        engine._worker = Worker(load)
        for _ in range(2):  # the second time nearly all of the prompt is found in the cache
            case.check_answer(engine)
        engine.close()
        assert runner.takes_recorded_steps


def the_engine_s_thread_takes_its_card(device: torch.device) -> None:
    """Recorded steps, events and streams are made on the thread's own card; no other one is touched. On a machine with
    several cards ``cuda:1`` says more than ``cuda``. Needs Pillow."""
    from valley_cli.engine.families.valley.opened import read_checkpoint
    from valley_cli.engine.local import LocalEngine

    index, cards = device.index or 0, torch.cuda.device_count() if device.type == "cuda" else 0
    seen: set[int] = set()

    def note(stage: Stage) -> None:
        """Called on the engine's thread."""
        if stage.name != "starting torch":
            seen.add(torch.cuda.current_device() if cards else index)

    others = [card for card in range(cards) if card != index]
    before = [torch.cuda.memory_reserved(card) for card in others]
    files = read_checkpoint(GOLDEN / "valley2.5-tiny" / "checkpoint")
    engine = LocalEngine(files, "tiny", EngineOptions(device=str(device)))
    engine.load(note)
    sampling = Sampling(max_new_tokens=60, ignore_eos=True)  # enough for steps to be recorded
    *_, done = generate(engine, Request((Message("user", "Hello?"),), sampling=sampling))
    engine.close()
    assert isinstance(done, Done)
    assert len(done.token_ids) == 60
    assert seen == {index}
    assert before == [torch.cuda.memory_reserved(card) for card in others]


def a_prompt_read_in_pieces_sees_what_it_sees_as_a_whole(device: torch.device) -> None:
    """Pieces of any length, as the cache lies on this device."""
    config = TextConfig(9, 56 * 16, 9, 2, 14, 2, 16, 1e-6, 1e6, 4096, False, True, True)
    cache, slot, generator = KVCache(config, device, torch.float32), Slot(64, 512), torch.Generator()
    cache.resize(1024)
    heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    q, k, v = (torch.randn(1, n, 300, config.head_dim, generator=generator.manual_seed(n)).to(device) for n in heads)
    whole, start = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), 0
    for length in (100, 1, 37, 128, 34):
        part, attend = slice(start, start + length), cache.prefill(slot, start)
        for layer in range(config.num_hidden_layers):
            found = attend(layer, q[:, :, part], k[:, :, part], v[:, :, part])
            assert (found - whole[:, :, part]).abs().max() < TOLERANCE
        start += length


def a_piece_behind_a_long_prompt_writes_down_no_scores(device: torch.device) -> None:
    """A fused kernel reads it, and rightly: all scores of 2,048 tokens of Valley2 behind 14,336 would be 1.9 GB."""
    tokens, before = (2048, 14336) if device.type == "cuda" else (64, 448)
    heads, kv_heads, dim, end = 28, 4, 128, before + tokens
    config = TextConfig(9, heads * dim, 9, 1, heads, kv_heads, dim, 1e-6, 1e6, 32768, False, True, True)
    cache = KVCache(config, device, torch.bfloat16)
    cache.resize(end)
    q, k = (torch.randn(1, n, tokens, dim, device=device, dtype=torch.bfloat16) for n in (heads, kv_heads))
    attend = cache.prefill(Slot(0, end), before)
    for pool in (*cache.keys, *cache.values):
        pool.normal_()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    found = attend(0, q, k, k)
    if device.type == "cuda":
        scores, taken = heads * tokens * end * 2, torch.cuda.max_memory_allocated(device) - held
        assert taken < scores / 4, f"{taken / 1e6:.0f} MB"
    keys, values = (cache._rows(pool[0], Slot(0, end), end).float() for pool in (cache.keys, cache.values))
    last = F.scaled_dot_product_attention(q[:, :, -1:].float(), keys, values, enable_gqa=True)  # it sees them all
    assert (found[:, :, -1:] - last).abs().max() < 0.05


def half_precision_errs_like_the_plain_path(device: torch.device) -> None:
    """bfloat16 through recorded steps, by flash attention on CUDA, is no further from float32 than the plain path."""
    served, ids = Served(device=device.type, dtype=torch.bfloat16), prompt(30, 8).to(device)
    exact = full_logits(tiny("qwen3")[1].to(device), ids)
    plain = (full_logits(served.plain, ids).float() - exact).abs().mean()
    served.read(ids[:-1], 50)
    graphs, batch = served.graphs(ahead=False, record_after=0), Batch((int(ids[-1]),), (50,), (29,), (ROOM,))
    recorded = graphs.find(batch)
    assert recorded
    assert (graphs.logits(recorded, batch)[0].float() - exact).abs().mean() < 2 * plain


CHECKS: tuple[Callable[[torch.device], None], ...] = (
    recorded_steps_in_any_order,
    recorded_steps_give_the_plain_path_s_logits,
    flash_attention_is_used_where_it_can_be,
    a_batch_of_samplers_repeats_itself_and_stands_a_broken_row,
    towers_give_what_a_processor_gives,
    half_precision_errs_like_the_plain_path,
    a_prompt_read_in_pieces_sees_what_it_sees_as_a_whole,
    a_piece_behind_a_long_prompt_writes_down_no_scores,
    the_engine_s_thread_takes_its_card,
    golden_answers,
)


def take_card(device: torch.device) -> None:
    """Make ``device`` the calling thread's, where it is a card."""
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)


def main(device: torch.device) -> int:
    """Print a line a check; how many failed."""
    failed = 0
    take_card(device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # two would mostly wait for each other
    for check in CHECKS:
        start = time.perf_counter()
        try:
            with torch.inference_mode():
                check(device)
        except ModuleNotFoundError as error:
            print(f"left out {check.__name__}: {error}", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print(f"FAIL {check.__name__}", flush=True)
        else:
            print(f"ok   {check.__name__} ({time.perf_counter() - start:.1f} s)", flush=True)
    print(f"{failed} of {len(CHECKS)} failed")
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")) else 0)
