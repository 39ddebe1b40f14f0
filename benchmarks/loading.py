"""Time and memory to load a checkpoint of 2 GB and more, beside transformers' ``from_pretrained``.

    python -m benchmarks.loading [--quick]

A Valley2.5 of random weights with a decoder of 1.0 B parameters in four shards, as bfloat16 and as float32. Each run is
a process of its own, which loads and reads eight tokens, so that no weight is left on the disk; its memory is the peak
of VmHWM beyond what the imports took. Cold: the files are dropped from the page cache first. transformers loads the
decoder from the same files. On a CPU the bar is 1.05 times the weights as they are run. ``--quick``: bfloat16 only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT, finish, status_bytes

TINY = ROOT / "tests" / "data" / "golden" / "valley2.5-tiny" / "checkpoint"
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 1536, 6144, 24, 12, 4, 128, 60_000
SHARDS, N_TOKENS = 4, 8
MEMORY_BAR, TIME_BAR = 1.05, 1.5  # times the weights; times a plain read of the files and packing them
CASES = (("bfloat16", "bfloat16"), ("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16"))


def write_checkpoint(folder: Path, dtype_name: str) -> int:
    """Random weights in the published layout. -> bytes of the files"""
    import torch
    from safetensors.torch import save_file

    from valley_cli.engine.families.valley.config import ValleyConfig
    from valley_cli.engine.families.valley.model import Valley
    from valley_cli.engine.layers.config import TextConfig, VitConfig

    text = TextConfig(
        VOCABULARY, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM, 1e-6, 1e6, 32768, False, True, False
    )
    vit = VitConfig(depth=1, output_dim=HIDDEN)
    config = ValleyConfig("valley2.5", text, None, None, vit, False, "", 384, True, 100_000, None, dtype_name)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Valley(config).state_dict().items()}
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    raw = json.loads((folder / "config.json").read_text())
    del raw["qwen2vl_vision_config"]
    raw |= {"num_hidden_layers": LAYERS, "torch_dtype": dtype_name}
    (folder / "config.json").write_text(json.dumps(raw))
    torch.manual_seed(1)
    names, total = list(shapes), 0
    weight_map: dict[str, str] = {}
    for number in range(SHARDS):
        file = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        part = names[len(names) * number // SHARDS : len(names) * (number + 1) // SHARDS]
        tensors = {}
        for name in part:
            values = torch.empty(shapes[name], dtype=getattr(torch, dtype_name)).normal_(std=0.02)
            tensors[name] = values + 1 if len(shapes[name]) == 1 else values
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
        total += (folder / file).stat().st_size
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    write_reference(folder, dtype_name)
    return total


def write_reference(folder: Path, dtype_name: str) -> None:
    """``folder``/reference: the same files as a model of transformers."""
    reference = folder / "reference"
    reference.mkdir()
    for file in folder.glob("*.safetensors*"):
        (reference / file.name).symlink_to(file)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": dtype_name,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }
    (reference / "config.json").write_text(json.dumps(config))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def drop_from_page_cache(folder: Path) -> None:
    for file in shards(folder):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain_read_s(folder: Path) -> float:
    """Seconds to read the files once, from wherever they are."""
    start = time.perf_counter()
    buffer = bytearray(8_000_000)
    for file in shards(folder):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - start


def child(which: str, folder: Path, dtype_name: str) -> None:
    """In a process of its own: load, read a few tokens, print the figures."""
    import torch

    stages: list[Any] = []
    if which == "valley":
        from valley_cli.engine.families.valley.opened import read_checkpoint
        from valley_cli.engine.run.runner import load_runner
        from valley_cli.engine.schedule.slots import Slot

        files = read_checkpoint(folder)
    else:
        from transformers import Qwen3ForCausalLM

        Qwen3ForCausalLM.from_pretrained  # noqa: B018  # the import is lazy
    torch.zeros(4, 4) @ torch.zeros(4, 4)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, start = status_bytes("VmRSS"), time.perf_counter()
    if which == "valley":
        runner = load_runner(files, "cpu", dtype_name, stages.append)
        load_s = time.perf_counter() - start
        runner.resize(N_TOKENS)
        runner.prefill(Slot(0, N_TOKENS), runner.embed_prompt(range(N_TOKENS), ()))
    else:
        model = Qwen3ForCausalLM.from_pretrained(folder / "reference", dtype=getattr(torch, dtype_name))
        load_s = time.perf_counter() - start
        with torch.inference_mode():
            model(torch.arange(N_TOKENS)[None], logits_to_keep=1)
    figures = {
        "load_s": round(load_s, 2),
        "first_s": round(time.perf_counter() - start, 2),
        "peak_bytes": status_bytes("VmHWM") - before,
        "kept_bytes": status_bytes("VmRSS") - before,
        "reports": len(stages),
    }
    print(json.dumps(figures))


def run(which: str, folder: Path, dtype_name: str, cold: bool) -> dict[str, Any]:
    if cold:
        drop_from_page_cache(folder)
    command = [sys.executable, "-m", "benchmarks.loading", "--child", which, str(folder), dtype_name]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    figures: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return figures


def measure(folder: Path, n_bytes: int, stored: str, run_as: str) -> dict[str, Any]:
    """Figures of one case, cold and warm, side by side."""
    weights = n_bytes * (2 if run_as == "bfloat16" else 4) // (2 if stored == "bfloat16" else 4)
    drop_from_page_cache(folder)
    cold_read_s = plain_read_s(folder)
    figures: dict[str, Any] = {"weights_bytes": weights, "plain_read_cold_s": round(cold_read_s, 2)}
    figures["plain_read_warm_s"] = round(plain_read_s(folder), 2)
    for which in ("valley", "transformers"):
        for cold in (True, False):
            found = run(which, folder, run_as, cold)
            found["peak_over_weights"] = round(found["peak_bytes"] / weights, 3)
            figures[f"{which} {'cold' if cold else 'warm'}"] = found
            print(
                f"{stored} as {run_as}, {which}, {'cold' if cold else 'warm'}: ready after {found['load_s']} s, first"
                f" tokens after {found['first_s']} s (plain read {cold_read_s:.2f} s cold), peak"
                f" {found['peak_over_weights']} of the weights"
            )
    return figures


def main() -> None:
    if "--child" in sys.argv:
        which, path, dtype_name = sys.argv[sys.argv.index("--child") + 1 :]
        child(which, Path(path), dtype_name)
        return
    cases = CASES[:1] if "--quick" in sys.argv else CASES
    figures: dict[str, Any] = {}
    for stored in dict.fromkeys(stored for stored, _ in cases):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / stored
            n_bytes = write_checkpoint(folder, stored)
            for run_as in [run_as for kept_as, run_as in cases if kept_as == stored]:
                figures[f"{stored} as {run_as}"] = measure(folder, n_bytes, stored, run_as)
    valley = [entry[f"valley {state}"] for entry in figures.values() for state in ("cold", "warm")]
    ok = all(entry["peak_over_weights"] <= MEMORY_BAR and entry["reports"] >= 50 for entry in valley)
    bars = {"peak_over_weights": f"<= {MEMORY_BAR}", "reports": ">= 50"}
    finish("loading", figures, bars, ok)


if __name__ == "__main__":
    main()
