"""The most memory that reading a prompt takes beside its cache, in pieces as the engine reads it, and at once.

    python -m benchmarks.prefill_memory [--quick] [--device cuda]

A decoder of Qwen2-0.5B's width, four layers deep, in float32 (bfloat16 on CUDA), and prompts of 512, 2,048 and 8,192
tokens; with --quick not the longest. Each is read in a process of its own; on a CPU the figure is the growth of its
resident memory beyond what it held before and the cache's own rows. The bound that must hold in pieces, whatever the
prompt's length T, in values of the model's dtype, P being a piece's tokens (see ``worker.PIECE_TOKENS``):

    P x (4 hidden + 4 inner + 3 (heads + 2 KV heads) head_dim)      of one layer at work
    2 P x T                                                         what each token of the last piece may see

and 32 MB for what libraries keep. The second line is needed once only, but it grows with every piece, and glibc keeps
the holes that earlier ones left: with MALLOC_MMAP_THRESHOLD_=1000000 it does not, and 8,192 tokens take 69 MB and not
113. Read at once, T stands where P does in the first line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.pairs import HALF_B
from benchmarks.report import ROOT, finish, show_machine, status_bytes
from valley_cli.engine.families.valley.config import ValleyConfig
from valley_cli.engine.families.valley.model import Valley
from valley_cli.engine.layers.config import TextConfig
from valley_cli.engine.run.runner import Runner
from valley_cli.engine.run.worker import PIECE_TOKENS
from valley_cli.engine.schedule.slots import Slot

CONFIG = replace(HALF_B, vocab_size=4096, num_hidden_layers=4, max_position_embeddings=32_768)
LENGTHS = (512, 2048, 8192)
LIBRARIES_BYTES = 32_000_000


def bound_bytes(config: TextConfig, piece: int, tokens: int, dtype: torch.dtype) -> int:
    """Of reading a prompt of ``tokens`` in pieces of ``piece``."""
    attention = 3 * (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    layer = 4 * config.hidden_size + 4 * config.intermediate_size + attention
    return piece * (layer + 2 * tokens) * dtype.itemsize + LIBRARIES_BYTES


@torch.inference_mode()
def random_runner(device: torch.device, dtype: torch.dtype) -> Runner:
    config = ValleyConfig("valley2.5", CONFIG, None, None, None, False, "", 384, True, 100_000, None, "")
    with torch.device("meta"):
        model = Valley(config)
    del model.lm_head
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.02)
    return Runner(model, device)


def read(runner: Runner, slot: Slot, rows: torch.Tensor, piece: int) -> None:
    runner.attach_slot(slot)
    for start in range(0, len(rows), piece):
        logits = runner.prefill(slot, rows[start : start + piece], start)
    assert int(logits.argmax()) >= 0  # waits for the device


def measure(device: torch.device, tokens: int, piece: int) -> dict[str, Any]:
    """In a process of its own: bytes at most beyond weights, prompt and cache, and seconds."""
    runner = random_runner(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    runner.resize(tokens + 64)
    read(runner, Slot(tokens, 64), runner.embed_prompt(range(16), ()), piece)  # what is loaded once
    rows = runner.embed_prompt([n % CONFIG.vocab_size for n in range(tokens)], ())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        before, cached = status_bytes("VmRSS"), runner.cache.n_bytes
    start = time.perf_counter()
    read(runner, Slot(0, tokens), rows, piece)
    seconds = time.perf_counter() - start
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) - before  # its cache was there before
    else:
        peak = status_bytes("VmHWM") - before - (runner.cache.n_bytes - cached)
    return {"peak_bytes": peak, "seconds": round(seconds, 2)}


def in_a_process(device: str, tokens: int, piece: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.prefill_memory", "--device", device, "--child", str(tokens)]
    out = subprocess.run([*command, str(piece)], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    found: dict[str, Any] = json.loads(out)
    return found


def main() -> None:
    arguments = sys.argv[1:]
    name = arguments[arguments.index("--device") + 1] if "--device" in arguments else "cpu"
    device = torch.device(name)
    if "--child" in arguments:
        tokens, piece = (int(word) for word in arguments[arguments.index("--child") + 1 :])
        print(json.dumps(measure(device, tokens, piece)))
        return
    piece, dtype = PIECE_TOKENS[device.type], torch.bfloat16 if device.type == "cuda" else torch.float32
    show_machine()
    figures: dict[str, Any] = {"piece_tokens": piece, "dtype": str(dtype)}
    ok = True
    for tokens in LENGTHS[:2] if "--quick" in arguments else LENGTHS:
        bound = bound_bytes(CONFIG, piece, tokens, dtype)
        row: dict[str, Any] = {"bound_bytes": bound}
        row |= {how: in_a_process(name, tokens, size) for how, size in (("in pieces", piece), ("at once", tokens))}
        figures[f"{tokens} tokens"] = row
        ok = ok and row["in pieces"]["peak_bytes"] <= bound
        told = [f"{how} {row[how]['peak_bytes'] / 1e6:6.0f} MB, {row[how]['seconds']} s" for how in list(row)[1:]]
        print(f"{tokens:>6} tokens: {'; '.join(told)} (bound {bound / 1e6:.0f} MB)")
    suffix = "" if device.type == "cpu" else "-cuda"
    finish(f"prefill_memory{suffix}", figures, {"peak_bytes in pieces": "<= bound_bytes"}, ok)


if __name__ == "__main__":
    main()
