"""Seconds of the two vision towers per picture, beside transformers' towers called as the published code calls them.

    python -m benchmarks.vision [--quick] [--device cuda]

SigLIP and the Qwen2-VL ViT at their published widths in bfloat16; on CUDA all layers, on a CPU one. On a processor that
multiplies bfloat16 slowly transformers' towers have float32 instead, and ours may take 1.25 times as long. One
picture of 1000x700 (7 tiles, 3600 patches) and 8 frames of 320x240 (8 tiles, 3168 patches); with --quick a picture of
320x240 and 2 frames. The published code passes all tiles of a request at once, its pooling head included, and all
patches at once. Then memory: the most that the ViT takes beyond its input, per patch, for pictures of 1000, 2000 and
4000 pixels a side. It is linear if that stays level.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import finish, show_machine, status_bytes
from valley_cli.engine.families.valley import geometry
from valley_cli.engine.families.valley.model import TILES_AT_ONCE
from valley_cli.engine.layers.config import SiglipConfig, VitConfig
from valley_cli.engine.layers.matmul import multiplies_slowly
from valley_cli.engine.layers.vision import SiglipTower, VitTower

LARGE, FRAME = (1000, 700), (320, 240)
SIDES = (1000, 2000, 4000)
BARS = {"speed": 0.95, "growth": 1.15}  # least ratio to transformers; most bytes a patch at 4000 over 1000 pixels
FLOAT32_BAR = 0.8  # least ratio where transformers' towers have float32


def grid_hw(size_wh: tuple[int, int]) -> tuple[int, int]:
    """In patches, as the published preprocessing cuts a picture."""
    width, height = geometry.patch_size(geometry.fetch_size(size_wh), None, None)
    return height // geometry.PATCH, width // geometry.PATCH


def n_tiles(size_wh: tuple[int, int]) -> int:
    """Of a picture alone, the base tile included."""
    across, down = geometry.tile_layout(size_wh, "(1x1),...,(3x3)", 384).grid_wh
    return 1 + across * down


def random_weights(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Small values, norms about one; buffers stay as they are."""
    model.to(dtype).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.02)


def siglip_pair(depth: int, device: torch.device, dtype: torch.dtype) -> tuple[Any, SiglipTower]:
    """transformers' tower and ours, over the same tensors unless ``reference_dtype`` differs from ``dtype``."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipConfig(num_hidden_layers=depth)
    with torch.device(device):
        reference: Any = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=depth,
                num_attention_heads=config.num_attention_heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
            )
        )
    with torch.device("meta"):
        ours = SiglipTower(config)
    random_weights(reference, dtype)
    state = {name.removeprefix("vision_model."): tensor for name, tensor in reference.state_dict().items()}
    ours.load_state_dict({name: state[name] for name in ours.state_dict()}, assign=True)
    return reference.to(reference_dtype(device, dtype)), ours


def reference_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """float32 where ``dtype`` is multiplied slowly: transformers would take minutes."""
    return torch.float32 if multiplies_slowly(torch.empty(0, dtype=dtype, device=device)) else dtype


def vit_pair(depth: int, device: torch.device, dtype: torch.dtype) -> tuple[Any, VitTower]:
    """transformers' tower and ours over the same tensors."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = VitConfig(depth=depth)
    shape = {"depth": depth, "embed_dim": config.embed_dim, "num_heads": config.num_heads, "mlp_ratio": 4}
    with torch.device(device):
        reference: Any = Qwen2VisionTransformerPretrainedModel(
            Qwen2VLVisionConfig(**shape, hidden_size=config.output_dim)
        )
    random_weights(reference, dtype)
    with torch.device("meta"):
        ours = VitTower(config)
    ours.load_state_dict({name: reference.state_dict()[name] for name in ours.state_dict()}, assign=True)
    return reference.to(reference_dtype(device, dtype)), ours


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def speed(device: torch.device, large: tuple[int, int], frames: int, repeats: int) -> dict[str, Any]:
    """Seconds a picture by tower and load, transformers' and ours, and how far their results are apart."""
    dtype, whole = torch.bfloat16, device.type == "cuda"
    theirs_dtype = reference_dtype(device, dtype)
    siglip, our_siglip = siglip_pair(SiglipConfig.num_hidden_layers if whole else 1, device, dtype)
    vit, our_vit = vit_pair(VitConfig.depth if whole else 1, device, dtype)
    one, clip = f"one {large[0]}x{large[1]}", f"{frames} frames"
    loads = {one: (n_tiles(large), [grid_hw(large)]), clip: (frames, [grid_hw(FRAME)] * frames)}
    figures: dict[str, Any] = {}
    for name, (tiles_n, grids) in loads.items():
        tiles = torch.randn(tiles_n, 3, 384, 384, device=device).to(dtype)
        patches = torch.randn(sum(h * w for h, w in grids), 1176, device=device).to(dtype)
        thw = torch.tensor([[1, *grid] for grid in grids], device=device)

        def in_parts(tiles: Tensor) -> Tensor:
            return torch.cat([our_siglip(part) for part in tiles.split(TILES_AT_ONCE[device.type])])

        pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "siglip": (partial(siglip, pixel_values=tiles.to(theirs_dtype)), partial(in_parts, tiles)),
            "vit": (partial(vit, patches.to(theirs_dtype), grid_thw=thw), partial(our_vit, patches, grids)),
        }
        for tower, (theirs, ours) in pairs.items():
            expected = theirs()
            expected = expected.last_hidden_state if tower == "siglip" else expected.pooler_output
            apart = float((expected - ours()).abs().max())
            pairs_s = [(seconds(theirs, device), seconds(ours, device)) for _ in range(repeats)]
            times = {"transformers": min(a for a, _ in pairs_s), "valley": min(b for _, b in pairs_s)}
            row = {who: round(best / len(grids), 5) for who, best in times.items()}
            row |= {"ratio": round(times["transformers"] / times["valley"], 2), "apart": round(apart, 6)}
            figures[f"{tower}, {name}"] = row
            theirs_s, ours_s = row["transformers"], row["valley"]
            print(f"{tower:<7}{name:<14} transformers {theirs_s:8.4f} s  valley {ours_s:8.4f} s a picture")
    return figures


@torch.inference_mode()
def peak_bytes(side: int, device: torch.device) -> tuple[int, int]:
    """(patches, most bytes beyond weights and input) of a ViT over a picture of ``side`` x ``side`` pixels.

    On a CPU the tower has one head and one layer: even so 65,536 patches need half a minute to see each other.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config = VitConfig(depth=2) if device.type == "cuda" else VitConfig(80, 1, 1, 320, 320, 448)
    with torch.device("meta"):
        tower = VitTower(config)
    random_weights(tower.to_empty(device=device), dtype)
    grid = grid_hw((side, side))
    tower(torch.zeros(16, 1176, device=device, dtype=dtype), [(4, 4)])  # what is loaded once
    patches = torch.zeros(grid[0] * grid[1], 1176, device=device, dtype=dtype).normal_()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        tower(patches, [grid])
        return len(patches), torch.cuda.max_memory_allocated() - before
    before = status_bytes("VmRSS")
    tower(patches, [grid])
    return len(patches), status_bytes("VmHWM") - before


def memory(device: torch.device, sides: tuple[int, ...]) -> dict[str, Any]:
    """Bytes a patch at each side, each measured in a process of its own."""
    rows = {}
    for side in sides:
        command = [sys.executable, "-m", "benchmarks.vision", "--device", device.type, "--memory", str(side)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        patches, peak = map(int, done.stdout.split())
        rows[str(side)] = {"patches": patches, "peak_bytes": peak, "bytes_a_patch": round(peak / patches)}
        print(f"{side:>5} pixels a side: {patches:>6} patches, {peak / 1e6:7.0f} MB at most")
    first, last = rows[str(sides[0])], rows[str(sides[-1])]
    return {"sides": rows, "growth": round(last["bytes_a_patch"] / first["bytes_a_patch"], 3)}


def main() -> None:
    arguments = sys.argv[1:]
    quick = "--quick" in arguments
    device = torch.device(arguments[arguments.index("--device") + 1] if "--device" in arguments else "cpu")
    if "--memory" in arguments:
        print(*peak_bytes(int(arguments[arguments.index("--memory") + 1]), device))
        return
    quick = quick and device.type == "cpu"
    show_machine()
    figures = {"speed": speed(device, FRAME, 2, 1) if quick else speed(device, LARGE, 8, 2)}
    figures["memory"] = memory(device, SIDES[:2] if quick else SIDES)
    slowest = min(row["ratio"] for row in figures["speed"].values())
    slow = reference_dtype(device, torch.bfloat16) != torch.bfloat16
    speed_bar = FLOAT32_BAR if slow else BARS["speed"]
    ok = slowest >= speed_bar and figures["memory"]["growth"] <= BARS["growth"]
    beside = "transformers in float32" if slow else "transformers"
    bars = {"ratio": f">= {speed_bar} x {beside}", "growth of bytes a patch": f"<= {BARS['growth']}"}
    finish("vision" if device.type == "cpu" else "vision-cuda", figures, bars, ok)


if __name__ == "__main__":
    main()
