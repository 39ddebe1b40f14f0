"""What a checkpoint is, from config.json where it speaks and from tensor names and shapes where it is silent.

Standard library only. Spec valley2, sections 1.1 to 1.3.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from valley_cli.engine.layers.config import SiglipConfig, TextConfig, VitConfig
from valley_cli.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]
Family = Literal["valley2", "valley2.5"]
SIGLIP_PREFIX = "model.vision_tower.vision_tower.vision_model."
VIT_PREFIX = "model.qwen2vl_vision_tower."
PROJECTOR_PREFIX = "model.mm_projector."
UNUSED = ("*.rotary_emb.inv_freq", "*.position_ids", f"{SIGLIP_PREFIX}head.*")
UNUSED_ONLY_NAVIT = ("model.vision_tower.*", "model.mm_projector.*")
PROJECTORS = ("ovis_conv_adapter", "conv_adapter", "mlp_pixel_shuffle")


@dataclass(frozen=True)
class ProjectorConfig:
    """Between SigLIP and the decoder. ``mlp_dim``: visual vocabulary, or inner width of the MLP."""

    kind: str
    input_dim: int
    mlp_dim: int
    output_dim: int
    tokenize_function: str = "softmax"
    pixel_shuffle: int = 3


@dataclass(frozen=True)
class ValleyConfig:
    """A whole model. ``siglip``/``projector`` or ``vit`` are None for checkpoints without that tower."""

    family: Family
    text: TextConfig
    siglip: SiglipConfig | None
    projector: ProjectorConfig | None
    vit: VitConfig | None
    anyres: bool
    grid_pinpoints: str
    vit_crop_size: int
    use_special_start_end_token: bool  # read by the github flavour only, as are anyres and grid_pinpoints there
    max_vision_token: int
    tokenizer_model_max_length: int | None
    dtype: str


def read_config(raw: Mapping[str, Any], shapes: Shapes) -> ValleyConfig:
    """Raises ModelError for configurations the published code does not have either."""
    text = _text(raw, shapes)
    if raw.get("mm_use_im_start_end"):
        raise ModelError("config.json asks for mm_use_im_start_end, which no published Valley code supports")
    only_navit = bool(raw.get("only_navit", not _has(shapes, SIGLIP_PREFIX)))
    siglip = None if only_navit else _siglip(raw.get("siglip_vision_config") or {}, shapes)
    has_vit = raw["eagle_vision_tower"] is not None if "eagle_vision_tower" in raw else _has(shapes, VIT_PREFIX)
    vit = _vit(raw.get("qwen2vl_vision_config") or {}, shapes, text.hidden_size) if has_vit or only_navit else None
    return ValleyConfig(
        family="valley2.5" if only_navit else "valley2",
        text=text,
        siglip=siglip,
        projector=_projector(raw, shapes, text.hidden_size) if siglip else None,
        vit=vit,
        anyres=bool(raw.get("anyres", False)),
        grid_pinpoints=raw.get("grid_pinpoints") or "(1x1),...,(3x3)",
        vit_crop_size=raw.get("vit_crop_size", 384),
        use_special_start_end_token=bool(raw.get("use_special_start_end_token", True)),
        max_vision_token=100_000 if raw.get("max_vision_token") is None else raw["max_vision_token"],
        tokenizer_model_max_length=raw.get("tokenizer_model_max_length"),
        dtype=raw.get("torch_dtype") or raw.get("dtype") or "bfloat16",
    )


def is_unused(name: str, config: ValleyConfig) -> bool:
    """Whether a tensor that may be in the files is not needed for inference."""
    patterns: tuple[str, ...] = UNUSED if config.siglip else UNUSED + UNUSED_ONLY_NAVIT
    if config.vit is None:
        patterns += ("model.qwen2vl_vision_tower.*",)
    if config.text.tie_word_embeddings:
        patterns += ("lm_head.weight",)
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _has(shapes: Shapes, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def _count(shapes: Shapes, prefix: str, said: int | None) -> int:
    """How many numbered blocks there are under ``prefix``; raises ModelError where config.json has ``said`` another
    number: the published code would leave layers out, or fill them with random numbers."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    count = 1 + max((int(match[1]) for name in shapes if (match := pattern.match(name))), default=-1)
    if said is not None and said != count:
        raise ModelError(
            f"config.json says {said} layers, the weights have {count} ({prefix}*)", "download the checkpoint again"
        )
    return count


def _dim(shapes: Shapes, name: str, axis: int) -> int:
    if name not in shapes:
        raise ModelError(f"the checkpoint has no tensor {name}", "is it a Valley2 or Valley2.5 checkpoint?")
    return shapes[name][axis]


def _text(raw: Mapping[str, Any], shapes: Shapes) -> TextConfig:
    vocab_size, hidden = (_dim(shapes, "model.embed_tokens.weight", axis) for axis in (0, 1))
    first = "model.layers.0."
    qk_norm = f"{first}self_attn.q_norm.weight" in shapes
    q_rows = _dim(shapes, f"{first}self_attn.q_proj.weight", 0)
    kv_rows = _dim(shapes, f"{first}self_attn.k_proj.weight", 0)
    if qk_norm:
        head_dim = _dim(shapes, f"{first}self_attn.q_norm.weight", 0)
    elif raw.get("head_dim"):
        head_dim = raw["head_dim"]
    else:
        head_dim = q_rows // raw["num_attention_heads"] if raw.get("num_attention_heads") else 128
    rope = raw.get("rope_parameters") or {}
    if raw.get("rope_scaling") or rope.get("rope_type", "default") != "default":
        raise ModelError("config.json asks for scaled rotary positions, which no published Valley model uses")
    if raw.get("hidden_act", "silu") != "silu":
        raise ModelError(f"config.json asks for hidden_act {raw['hidden_act']!r}, no published Valley model does")
    if raw.get("use_sliding_window"):
        raise ModelError("config.json asks for sliding-window attention, which no published Valley model uses")
    return TextConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=_dim(shapes, f"{first}mlp.gate_proj.weight", 0),
        num_hidden_layers=_count(shapes, "model.layers.", raw.get("num_hidden_layers")),
        num_attention_heads=q_rows // head_dim,
        num_key_value_heads=kv_rows // head_dim,
        head_dim=head_dim,
        rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=float(raw.get("rope_theta") or rope.get("rope_theta") or 1e6),
        max_position_embeddings=raw.get("max_position_embeddings", 32768),
        qkv_bias=f"{first}self_attn.q_proj.bias" in shapes,
        qk_norm=qk_norm,
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", "lm_head.weight" not in shapes)),
    )


def _siglip(raw: Mapping[str, Any], shapes: Shapes) -> SiglipConfig:
    patch = f"{SIGLIP_PREFIX}embeddings.patch_embedding.weight"
    return SiglipConfig(
        hidden_size=_dim(shapes, patch, 0),
        intermediate_size=_dim(shapes, f"{SIGLIP_PREFIX}encoder.layers.0.mlp.fc1.weight", 0),
        num_hidden_layers=_count(shapes, f"{SIGLIP_PREFIX}encoder.layers.", raw.get("num_hidden_layers")),
        num_attention_heads=raw.get("num_attention_heads", SiglipConfig.num_attention_heads),
        image_size=raw.get("image_size", SiglipConfig.image_size),
        patch_size=_dim(shapes, patch, 2),
        layer_norm_eps=raw.get("layer_norm_eps", SiglipConfig.layer_norm_eps),
    )


def _vit(raw: Mapping[str, Any], shapes: Shapes, hidden_size: int) -> VitConfig:
    patch = f"{VIT_PREFIX}patch_embed.proj.weight"
    output_dim = _dim(shapes, f"{VIT_PREFIX}merger.mlp.2.weight", 0)
    if output_dim != hidden_size:
        raise ModelError(f"the Qwen2-VL tower gives rows of {output_dim} but the decoder takes {hidden_size}")
    _dim(shapes, patch, 0)
    return VitConfig(
        embed_dim=shapes[patch][0],
        depth=_count(shapes, f"{VIT_PREFIX}blocks.", raw.get("depth")),
        num_heads=raw.get("num_heads", VitConfig.num_heads),
        mlp_dim=_dim(shapes, f"{VIT_PREFIX}blocks.0.mlp.fc1.weight", 0),
        merger_dim=_dim(shapes, f"{VIT_PREFIX}merger.mlp.0.weight", 0),
        output_dim=output_dim,
    )


def _projector(raw: Mapping[str, Any], shapes: Shapes, hidden_size: int) -> ProjectorConfig:
    kind = raw.get("mm_projector_type") or _projector_kind(shapes)
    if kind not in PROJECTORS:
        raise ModelError(f"unknown mm_projector_type {kind!r}", f"known: {', '.join(PROJECTORS)}")
    tokenize = raw.get("tokenize_function", "softmax")
    if kind == "ovis_conv_adapter" and tokenize not in ("softmax", "st_argmax"):
        raise ModelError(f"unknown tokenize_function {tokenize!r}", "known: softmax, st_argmax")
    return ProjectorConfig(
        kind=kind,
        input_dim=raw.get("mm_hidden_size") or _dim(shapes, f"{SIGLIP_PREFIX}post_layernorm.weight", 0),
        mlp_dim=_dim(shapes, f"{PROJECTOR_PREFIX}mlp.0.weight", 0),
        output_dim=hidden_size,
        tokenize_function=tokenize,
        pixel_shuffle=raw.get("pixelshuffle_downsample_ratio", 3),
    )


def _projector_kind(shapes: Shapes) -> str:
    """Named by its tensors where config.json does not say."""
    if f"{PROJECTOR_PREFIX}embedding.weight" in shapes:
        return "ovis_conv_adapter"
    return "conv_adapter" if f"{PROJECTOR_PREFIX}conv.weight" in shapes else "mlp_pixel_shuffle"
