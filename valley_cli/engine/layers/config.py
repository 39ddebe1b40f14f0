"""The shapes of decoder and towers. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextConfig:
    """The decoder: Qwen2 (``qkv_bias``) or Qwen3 (``qk_norm``)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    qkv_bias: bool
    qk_norm: bool
    tie_word_embeddings: bool


@dataclass(frozen=True)
class SiglipConfig:
    """The SigLIP tower; defaults are so400m/14-384, hard-coded in the published code."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    image_size: int = 384
    patch_size: int = 14
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class VitConfig:
    """The Qwen2-VL tower. ``merger_dim``: inner width of the merger (65536 in Valley2.5)."""

    embed_dim: int = 1280
    depth: int = 32
    num_heads: int = 16
    mlp_dim: int = 5120
    merger_dim: int = 5120
    output_dim: int = 3584
