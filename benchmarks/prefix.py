"""Time to the first token of a chat's second turn against its first, with a 1000x700 picture.

    python -m benchmarks.prefix [--quick] [--device cuda]

A Valley2 of random weights: hidden 896, 12 decoder layers, both towers with 4 layers each at their real widths (1152
and 1280), real tile and token geometry: 2216 picture tokens. The bar: turn 2 takes at most 15 % of turn 1.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.report import ROOT, finish
from valley_cli.api import Done, Engine, EngineOptions, Media, Message, Request, Sampling, TextDelta
from valley_cli.engine import open_engine
from valley_cli.engine.families.valley.config import ProjectorConfig, ValleyConfig
from valley_cli.engine.families.valley.model import Valley
from valley_cli.engine.layers.config import SiglipConfig, TextConfig, VitConfig

BAR = 0.15
TINY = ROOT / "tests" / "data" / "golden" / "valley2-tiny" / "checkpoint"
HIDDEN, LAYERS, TOWER_LAYERS, VOCABULARY = 896, 12, 4, 932


def write_checkpoint(folder: Path) -> None:
    """Random weights in the published layout, with the tiny checkpoint's tokenizer."""
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "num_attention_heads": 14,
        "num_hidden_layers": LAYERS,
        "mm_hidden_size": 1152,
        "torch_dtype": "bfloat16",
    }
    for tower in ("siglip_vision_config", "qwen2vl_vision_config"):
        del config[tower]
    (folder / "config.json").write_text(json.dumps(config))
    model_config = ValleyConfig(
        family="valley2",
        text=TextConfig(VOCABULARY, HIDDEN, 4864, LAYERS, 14, 2, 64, 1e-6, 1e6, 32768, True, False, False),
        siglip=SiglipConfig(num_hidden_layers=TOWER_LAYERS),
        projector=ProjectorConfig("ovis_conv_adapter", 1152, 32000, HIDDEN),
        vit=VitConfig(depth=TOWER_LAYERS, output_dim=HIDDEN),
        anyres=True,
        grid_pinpoints=config["grid_pinpoints"],
        vit_crop_size=384,
        use_special_start_end_token=True,
        max_vision_token=100_000,
        tokenizer_model_max_length=None,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Valley(model_config).state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, shape in shapes.items():
        norm = len(shape) == 1 and name.endswith("weight")
        values = torch.ones(shape) if norm else torch.randn(shape, generator=generator) * 0.02
        tensors[name] = values.to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors")


def first_token(engine: Engine, request: Request) -> tuple[Done, str]:
    """The whole answer; its Done holds the times."""
    *deltas, done = engine.submit(request)
    assert isinstance(done, Done)
    return done, "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def conversation(engine: Engine, picture: Media) -> dict[str, Any]:
    """Seconds and tokens of two turns about ``picture``."""
    sampling = Sampling(max_new_tokens=8)
    opening = Message("user", "What is in the picture?", (picture,))
    first, answer = first_token(engine, Request((opening,), sampling=sampling))
    turns = (opening, Message("assistant", answer), Message("user", "And what is right of it?"))
    second, _ = first_token(engine, Request(turns, sampling=sampling))
    return {
        "turn_1_s": round(first.timings.ttft_s - first.timings.load_s, 3),
        "turn_2_s": round(second.timings.ttft_s, 3),
        "prompt_tokens": second.usage.prompt_tokens,
        "image_tokens": second.usage.image_tokens,
        "cached_tokens": second.usage.cached_tokens,
    }


def main() -> None:
    device = sys.argv[sys.argv.index("--device") + 1] if "--device" in sys.argv else "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder)
        runs = []
        engine = open_engine(EngineOptions(model=str(folder), device=device, dtype="bfloat16"))
        first_token(engine, Request((Message("user", "Hello"),), sampling=Sampling(max_new_tokens=2)))  # loads
        for number in range(1 if "--quick" in sys.argv else 3):
            path = folder / f"{number}.png"
            Image.effect_noise((1000, 700), 40 + number).convert("RGB").save(path)
            runs.append(conversation(engine, Media(path.name, path=str(path))))
        engine.close()
    ratio = min(run["turn_2_s"] / run["turn_1_s"] for run in runs)
    for run in runs:
        cached = f"{run['cached_tokens']} of {run['prompt_tokens']} tokens cached"
        print(f"turn 1 {run['turn_1_s']} s, turn 2 {run['turn_2_s']} s; {cached}")
    finish(
        "prefix" if device == "cpu" else "prefix-cuda",
        {"ratio": round(ratio, 4), "runs": runs},
        {"ratio": f"<= {BAR}"},
        ratio <= BAR,
    )


if __name__ == "__main__":
    main()
