"""Tokens per second: the same random weights through transformers' ``generate`` and through valley, side by side.

    python -m benchmarks.decode [--quick | --prompt] [--device cuda [--compile]] [--rehearse]

(a) transformers with its dynamic cache, (b) with a static cache, (c) valley's runner; at several batch sizes. On a CPU:
a decoder of valley-mini's size in float32 and, without --quick, one of 0.5 B parameters in float32 and bfloat16. On
CUDA: the decoders of Valley2 and Valley2.5, with --quick of the first only; with --compile that one beside a compiled
static cache. --rehearse: all that --device cuda does, on tiny decoders and without bars. The runs alternate, and the
best of each counts. In float32 greedy tokens must agree up to the first step whose two likeliest tokens are within
0.002; in bfloat16 the first difference is told, and how far the logits are apart when both read the same tokens.

Then (with --prompt: that alone) how long valley takes to read a prompt of 512 tokens: in bfloat16 at most 1.25 times as
long as in float32, also on a processor that multiplies bfloat16 slowly (``ATEN_CPU_CAPABILITY=avx2
ONEDNN_MAX_CPU_ISA=AVX2`` makes one of any with AVX-512).
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.pairs import (
    HALF_B_BFLOAT16,
    HALF_B_FLOAT32,
    MINI,
    TINY,
    VALLEY2,
    VALLEY25,
    Size,
    reference_model,
    valley_runner,
)
from benchmarks.report import finish, show_machine
from benchmarks.sides import PROMPT, Rows, Transformers, Valley, agreement, compare, tokens_per_s
from valley_cli.engine.run.runner import Runner
from valley_cli.engine.schedule.slots import Slot

BATCHES = (1, 4, 16, 64)
CPU_BARS = {MINI.name: 2.0, HALF_B_FLOAT32.name: 1.0, HALF_B_BFLOAT16.name: 1.5}
HALVES = (HALF_B_FLOAT32, HALF_B_BFLOAT16)
PROMPT_BAR = 1.25  # bfloat16 over float32
CUDA_BAR, BANDWIDTH_BAR, BATCH_BAR, MINI_BATCH_BAR = 1.8, 0.8, 3.0, 4.0


Outcome = tuple[dict[str, Any], dict[str, str], bool]


@dataclass(frozen=True)
class Plan:
    """What to run: batch sizes, those at which (b) runs as well, tokens an answer, runs of which the best counts."""

    batches: tuple[int, ...]
    static: tuple[int, ...]
    count: int
    repeats: int
    compiled: bool = False


def measure(size: Size, device: torch.device, plan: Plan) -> dict[str, Any]:
    """Figures of one size."""
    batches, count = plan.batches, plan.count
    model = reference_model(size, device)
    reference, fixed = Transformers(model), Transformers(model, static=True, compiled=plan.compiled)
    ours = Valley(valley_runner(size, model, device), max(batches), count)
    generator = torch.Generator().manual_seed(2)
    prompts: Rows = torch.randint(0, size.config.vocab_size, (max(batches), PROMPT), generator=generator).tolist()
    figures: dict[str, Any] = {"weight_bytes": size.n_bytes, "new_tokens": count, "batches": {}}
    for n in batches:
        runs: dict[str, Any] = {"transformers": reference, "valley": ours}
        if n in plan.static:
            runs["static"] = fixed
        if device.type == "cuda":
            compare(runs, prompts[:n], count, 1)  # kernels are chosen, steps recorded, code compiled
        best, said = compare(runs, prompts[:n], count, plan.repeats)
        best["ratio"] = round(best["valley"] / best["transformers"], 2)
        figures["batches"][str(n)] = best
        print(
            f"{size.name:<18} batch {n:>2}  " + "  ".join(f"{name} {value}" for name, value in best.items()), flush=True
        )
        if n == 1:
            figures["ratio"] = best["ratio"]
            figures |= agreement(reference, ours, prompts[0], said)
            figures["decode_only"] = round(decode_only(ours, prompts[:1], count, best["valley"]), 1)
    figures["prompt_512_s"] = round(min(read_s(ours.runner, 512) for _ in range(3)), 3)
    return figures


def read_s(runner: Runner, tokens: int) -> float:
    """Seconds until the logits behind a prompt of so many tokens are there."""
    slot = Slot(0, tokens)
    runner.attach_slot(slot)
    start = time.perf_counter()
    runner.prefill(slot, runner.embed_prompt([*range(tokens)], ())).argmax().item()
    return time.perf_counter() - start


def decode_only(ours: Valley, prompts: Rows, count: int, whole: float) -> float:
    """Tokens/s behind the first token, from the speed of ``whole`` answers."""
    first_s = min(1 / tokens_per_s(ours, prompts, 1)[0] for _ in range(3))
    return (count - 1) / (count / whole - first_s)


def add_bandwidth(figures: dict[str, Any], size: Size, device: torch.device) -> None:
    """Share of the device's copy bandwidth that a single answer's steps use."""
    source = torch.empty(1 << 29, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(8):
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = max(best, 2 * source.nbytes / (time.perf_counter() - start))
    read = size.step_bytes(1, PROMPT + figures["new_tokens"] // 2)
    figures["copy_bytes_per_s"] = round(best)
    figures["bandwidth_share"] = round(figures["decode_only"] * read / best, 3)


def on_cpu(quick: bool) -> Outcome:
    """Figures, bars, whether they are met."""
    cpu = torch.device("cpu")
    torch.set_num_threads(1)  # as the engine does for small models
    count, repeats = (60, 2) if quick else (100, 2)
    figures: dict[str, Any] = {MINI.name: measure(MINI, cpu, Plan(BATCHES, BATCHES, count, repeats))}
    mini = figures[MINI.name]["batches"]
    batch = round(mini["16"]["valley"] / mini["1"]["valley"], 2)
    if not quick:
        torch.set_num_threads(os.cpu_count() or 1)
        for size in HALVES:
            figures[size.name] = measure(size, cpu, Plan((1, 16), (1,), 12, 2))
    ok = batch >= MINI_BATCH_BAR
    for name, entry in figures.items():
        entry["ok"] = entry["ratio"] >= CPU_BARS[name] and (entry["agree"] or "float32" not in name)
        ok = ok and entry["ok"]
    bars = {f"{name}, single": f">= {bar} x transformers" for name, bar in CPU_BARS.items()}
    bars["mini, batch 16 over 1"] = f">= {MINI_BATCH_BAR}"
    figures["batch 16 over 1"] = batch
    if quick:
        return figures, bars, ok
    prompt, prompt_bars, prompt_ok = compare_prompts({size: figures[size.name]["prompt_512_s"] for size in HALVES})
    return figures | prompt, bars | prompt_bars, ok and prompt_ok


def prompt_alone() -> Outcome:
    """Figures, bars, whether they are met, of reading a prompt alone."""
    cpu, times = torch.device("cpu"), {}
    for size in HALVES:
        runner = valley_runner(size, reference_model(size, cpu), cpu)
        runner.resize(512)
        times[size] = round(min(read_s(runner, 512) for _ in range(4)), 3)
        del runner
    return compare_prompts(times)


def compare_prompts(times: dict[Size, float]) -> Outcome:
    """``times``: seconds of a prompt in float32, then in bfloat16."""
    wide_s, half_s = times.values()
    ratio = round(half_s / wide_s, 2)
    print(f"512 tokens of prompt: float32 {wide_s:.2f} s, bfloat16 {half_s:.2f} s, {ratio:.2f} times", flush=True)
    figures = {"prompt": {size.name: seconds for size, seconds in times.items()} | {"bfloat16 over float32": ratio}}
    return figures, {"prompt, bfloat16 over float32": f"<= {PROMPT_BAR}"}, ratio <= PROMPT_BAR


def on_cuda(device: torch.device, sizes: Sequence[Size], plan: Plan) -> Outcome:
    """Figures, bars, whether they are met."""
    figures: dict[str, Any] = {}
    for whole in sizes:
        size = whole.layers(layers_that_fit(whole, device))
        entry = measure(size, device, plan)
        entry["layers"] = size.config.num_hidden_layers
        if device.type == "cuda":
            gc.collect()  # transformers' modules know each other
            torch.cuda.empty_cache()
            add_bandwidth(entry, size, device)
        best = {who: max(row[who] for row in entry["batches"].values()) for who in ("transformers", "valley")}
        entry["best_batch_ratio"] = round(best["valley"] / best["transformers"], 2)
        share = entry.get("bandwidth_share", 0.0)
        entry["ok"] = entry["ratio"] >= CUDA_BAR and share >= BANDWIDTH_BAR and entry["best_batch_ratio"] >= BATCH_BAR
        figures[size.name] = entry
    bars = {
        "single": f">= {CUDA_BAR} x transformers and >= {BANDWIDTH_BAR} of the copy bandwidth",
        "best batch": f">= {BATCH_BAR} x transformers' best batch",
    }
    return figures, bars, all(entry["ok"] for entry in figures.values())


def layers_that_fit(size: Size, device: torch.device) -> int:
    """How deep a model may be of which two copies, and caches, go into the device's free memory."""
    n = size.config.num_hidden_layers
    if device.type != "cuda":
        return n
    free = torch.cuda.mem_get_info(device)[0] * 0.8
    return max(1, min(n, int((free - 2 * size.layers(0).n_bytes) / (2 * size.layer_values * size.dtype.itemsize))))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.decode")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--prompt", action="store_true", help="how long a prompt takes to read, nothing else")
    parser.add_argument("--compile", action="store_true", help="compile transformers' static cache (minutes)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rehearse", action="store_true", help="what --device cuda does, on tiny decoders")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    show_machine()
    if arguments.prompt:
        finish("decode-prompt", *prompt_alone())
    if device.type == "cpu" and not arguments.rehearse:
        finish("decode", *on_cpu(arguments.quick))
    plan = Plan((1, 16), (1,), 32, 1) if arguments.quick else Plan(BATCHES, (1, 16), 128, 2)
    sizes = (TINY,) * 2 if arguments.rehearse else (VALLEY2,) if arguments.quick else (VALLEY2, VALLEY25)
    if arguments.compile:
        finish("decode-compiled", *on_cuda(device, sizes[:1], Plan((1, 16), (1, 16), 128, 1, compiled=True)))
    torch.set_num_threads(1 if arguments.rehearse else torch.get_num_threads())
    figures, bars, ok = on_cuda(device, sizes, plan)
    finish("decode-cuda", figures, bars, ok or arguments.rehearse)


if __name__ == "__main__":
    main()
