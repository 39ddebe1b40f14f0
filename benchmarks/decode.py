"""Tokens per second: the same random weights through transformers' ``generate`` and through valley, side by side.

    python -m benchmarks.decode [--quick]

(a) transformers, eager, dynamic cache; (c) valley's runner. On a CPU: a decoder of valley-mini's size in float32 and,
without ``--quick``, one of 0.5 B parameters in float32 and bfloat16. Each pair is run in alternation, best of each
taken. Greedy tokens of the two must agree in float32; in bfloat16 the first difference is reported.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.report import finish
from valley_cli.engine.models.config import TextConfig, ValleyConfig
from valley_cli.engine.models.valley import Valley
from valley_cli.engine.runner import Runner
from valley_cli.engine.space import Segment

PROMPT, CPU = 64, torch.device("cpu")
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Size:
    """A decoder to measure."""

    name: str
    shape: dict[str, Any]
    head_dim: int
    dtype: torch.dtype
    new_tokens: int
    bar: float  # least ratio of valley's tokens/s to transformers'


def shape(vocab: int, hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    """Keys that transformers and TextConfig share."""
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }


MINI = Size("mini float32", shape(729, 192, 384, 6, 4, 2), 48, torch.float32, 200, 2.0)
HALF_B = shape(151_936, 896, 4864, 24, 14, 2)
LARGE = (
    Size("0.5B float32", HALF_B, 64, torch.float32, 24, 1.0),
    Size("0.5B bfloat16", HALF_B, 64, torch.bfloat16, 24, 1.5),
)


def build(size: Size) -> tuple[Any, Runner]:
    """transformers' model and valley's runner over the same tensors."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    rope = {"rope_type": "default", "rope_theta": 1e6}
    reference = Qwen3ForCausalLM(Qwen3Config(**size.shape, head_dim=size.head_dim, rope_parameters=rope))
    reference = reference.to(size.dtype).eval().requires_grad_(False)
    text = TextConfig(head_dim=size.head_dim, rope_theta=1e6, qkv_bias=False, qk_norm=True, **size.shape)
    config = ValleyConfig("valley2.5", text, None, None, None, False, "", 384, True, 100_000, None, "")
    with torch.device("meta"):
        model = Valley(config)
    del model.lm_head
    state = {name: tensor for name, tensor in reference.state_dict().items() if name != "lm_head.weight"}
    model.load_state_dict(state, assign=True)
    return reference, Runner(model.eval().requires_grad_(False), CPU)


def valley_tokens(runner: Runner, rows: list[list[int]], count: int) -> list[list[int]]:
    """Greedy continuations of ``rows``, all in one batch."""
    out, room = [], len(rows[0]) + count
    segments = [Segment(n * room, room) for n in range(len(rows))]
    runner.resize(room * len(rows))
    for segment, row in zip(segments, rows, strict=True):
        logits = runner.prefill(segment, runner.merge(row, ()))
        out.append([int(logits.argmax())])
    for step in range(count - 1):
        logits = runner.decode([row[-1] for row in out], segments, [len(row) + step for row in rows])
        for row, token in zip(out, logits.argmax(-1).tolist(), strict=True):
            row.append(token)
    return out


def reference_tokens(reference: Any, rows: list[list[int]], count: int) -> list[list[int]]:
    """transformers' greedy continuations of rows of one length."""
    ids = torch.tensor(rows)
    mask = torch.ones_like(ids)
    out = reference.generate(
        ids, attention_mask=mask, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    found: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return found


def tokens_per_s(run: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    start = time.perf_counter()
    rows = run()
    return sum(map(len, rows)) / (time.perf_counter() - start), rows


def measure(size: Size, repeats: int) -> dict[str, Any]:
    """Figures of one size, single stream."""
    torch.set_num_threads(1 if size is MINI else CORES)  # as the engine does for small models
    reference, runner = build(size)
    rows = [torch.randint(0, size.shape["vocab_size"], (PROMPT,), generator=torch.Generator().manual_seed(2)).tolist()]
    best = {"transformers": 0.0, "valley": 0.0}
    for _ in range(repeats):
        speed, expected = tokens_per_s(lambda: reference_tokens(reference, rows, size.new_tokens))
        best["transformers"] = max(best["transformers"], speed)
        speed, found = tokens_per_s(lambda: valley_tokens(runner, rows, size.new_tokens))
        best["valley"] = max(best["valley"], speed)
    pairs = list(zip(found[0], expected[0], strict=True))
    differs = next((step for step, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    ratio = best["valley"] / best["transformers"]
    figures: dict[str, Any] = {name: round(value, 1) for name, value in best.items()}
    figures |= {"ratio": round(ratio, 2), "bar": size.bar, "first_difference": differs}
    figures["ok"] = ratio >= size.bar and (differs is None or size.dtype != torch.float32)
    if size is MINI:
        figures["batches"] = batches(runner, rows[0], size.new_tokens)
    print(f"{size.name:<14} transformers {best['transformers']:7.1f}  valley {best['valley']:7.1f}  x{ratio:.2f}")
    return figures


def batches(runner: Runner, row: list[int], count: int) -> dict[str, float]:
    """Throughput of valley at batch sizes 1, 4 and 16, tokens/s."""
    found = {}
    for n in (1, 4, 16):
        runs = [tokens_per_s(lambda n=n: valley_tokens(runner, [row] * n, count))[0] for _ in range(3)]  # type: ignore[misc]
        found[str(n)] = round(max(runs), 1)
    return found


def main() -> None:
    quick = "--quick" in sys.argv
    figures: dict[str, Any] = {MINI.name: measure(MINI, 3 if quick else 8)}
    figures["batch 16 over 1"] = round(figures[MINI.name]["batches"]["16"] / figures[MINI.name]["batches"]["1"], 2)
    print(f"batch 16 over single stream at mini size: x{figures['batch 16 over 1']}")
    if not quick:
        figures |= {size.name: measure(size, 2) for size in LARGE}
    ok = figures["batch 16 over 1"] >= 4 and all(entry["ok"] for entry in figures.values() if isinstance(entry, dict))
    bars = {size.name: f">= {size.bar}" for size in (MINI, *LARGE)} | {"batch 16 over 1": ">= 4"}
    finish("decode", figures, bars, ok)


if __name__ == "__main__":
    main()
