"""The full-size architectures, on the meta device: names, shapes and counts of the published checkpoints."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.conftest import GOLDEN
from valley_cli.engine.families.valley.config import Shapes, is_unused, read_config
from valley_cli.engine.families.valley.model import Valley

PUBLISHED_PARAMETERS = 8_880_402_624  # spec valley2, section 1: exact, of Valley-Eagle-7B and Valley2-DPO
POOLING_HEAD_PARAMETERS = 15_238_352  # SigLIP's head, in the files and not used: derived below from its shapes
SIGLIP = "model.vision_tower.vision_tower.vision_model."
VIT = "model.qwen2vl_vision_tower."


def layer_shapes(hidden: int, inner: int, heads: int, kv_heads: int, dim: int) -> dict[str, tuple[int, ...]]:
    """What ``read_config`` looks at in a decoder of these sizes."""
    return {
        "model.layers.0.self_attn.q_proj.weight": (heads * dim, hidden),
        "model.layers.0.self_attn.k_proj.weight": (kv_heads * dim, hidden),
        "model.layers.0.mlp.gate_proj.weight": (inner, hidden),
    }


def vit_shapes(merger: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{VIT}patch_embed.proj.weight": (1280, 3, 2, 14, 14),
        f"{VIT}blocks.31.norm1.weight": (1280,),
        f"{VIT}blocks.0.mlp.fc1.weight": (5120, 1280),
        f"{VIT}merger.mlp.0.weight": (merger, 5120),
        f"{VIT}merger.mlp.2.weight": (hidden, merger),
    }


VALLEY2: Shapes = {
    "model.embed_tokens.weight": (151679, 3584),
    "lm_head.weight": (151679, 3584),
    "model.layers.27.input_layernorm.weight": (3584,),
    "model.layers.0.self_attn.q_proj.bias": (3584,),
    **layer_shapes(3584, 18944, 28, 4, 128),
    "model.mm_projector.mlp.0.weight": (32000, 1152),
    f"{SIGLIP}embeddings.patch_embedding.weight": (1152, 3, 14, 14),
    f"{SIGLIP}encoder.layers.0.mlp.fc1.weight": (4304, 1152),
    f"{SIGLIP}encoder.layers.26.layer_norm1.weight": (1152,),
    **vit_shapes(5120, 3584),
}
VALLEY25: Shapes = {
    "model.embed_tokens.weight": (151675, 4096),
    "lm_head.weight": (151675, 4096),
    "model.layers.35.input_layernorm.weight": (4096,),
    "model.layers.0.self_attn.q_norm.weight": (128,),
    **layer_shapes(4096, 12288, 32, 8, 128),
    **vit_shapes(65536, 4096),
}
CONFIG2 = {"mm_projector_type": "ovis_conv_adapter", "mm_hidden_size": 1152, "eagle_vision_tower": "x", "anyres": True}
CONFIG2 |= {"num_attention_heads": 28}


def build(config: dict[str, object], shapes: Shapes) -> Valley:
    with torch.device("meta"):
        return Valley(read_config(config, shapes))


def test_valley2_has_the_published_number_of_parameters() -> None:
    c, inner = 1152, 4304
    head = c + 3 * c * c + 3 * c + c * c + c + 2 * c + inner * c + inner + c * inner + c
    assert head == POOLING_HEAD_PARAMETERS
    parameters = sum(math.prod(p.shape) for p in build(CONFIG2, VALLEY2).parameters())
    assert parameters + POOLING_HEAD_PARAMETERS == PUBLISHED_PARAMETERS


@pytest.mark.skipif(not (GOLDEN / "valley2-published-meta").is_dir(), reason="the published index is not in a clone")
def test_valley2_has_the_published_names() -> None:
    folder = GOLDEN / "valley2-published-meta"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * PUBLISHED_PARAMETERS
    config = read_config(json.loads((folder / "config.json").read_text()), VALLEY2)
    assert config == read_config(CONFIG2 | {"rope_theta": 1e6}, VALLEY2)
    needed = {name for name in index["weight_map"] if not is_unused(name, config)}
    assert set(build(CONFIG2, VALLEY2).state_dict()) == needed


def test_valley25_is_qwen3_8b_with_the_wide_merger() -> None:
    model = build({"only_navit": True}, VALLEY25)
    config = model.config
    assert (config.family, config.text.num_attention_heads, config.text.num_key_value_heads) == ("valley2.5", 32, 8)
    names = set(model.state_dict())
    assert "model.layers.35.self_attn.k_norm.weight" in names
    assert not any("bias" in name for name in names if ".self_attn." in name)
    sizes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert sizes[f"{VIT}merger.mlp.0.weight"] == (65536, 5120)
    decoder = sum(math.prod(shape) for name, shape in sizes.items() if not name.startswith(VIT))
    assert 8.1e9 < decoder < 8.3e9  # spec valley2, section 1: about 8.2e9, merger 0.60e9 besides the ViT's 0.68e9
