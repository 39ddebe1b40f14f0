"""The decoder: Qwen2 and Qwen3 in one file (spec valley2, section 9). Attribute names equal the weights' names.

How keys and values are kept is not the decoder's business: ``attend(layer, q, k, v)`` is an argument.
``causal_attend`` is the plain path, which keeps nothing; ``engine.kvcache`` gives the fast ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from valley_cli.engine.layers.basic import Linear, RMSNorm, apply_rotary, inverse_frequencies
from valley_cli.engine.layers.config import TextConfig

# (layer, q [B, H, T, D], k [B, KV, T, D], v [B, KV, T, D]) -> [B, H, T, D]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def causal_attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over the tokens at hand, nothing kept: the plain path."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


class Attention(nn.Module):
    """Grouped-query attention; Qwen2 has biases, Qwen3 normalises queries and keys per head."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        q_dim, kv_dim = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = Linear(config.hidden_size, q_dim, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, kv_dim, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, kv_dim, bias=config.qkv_bias)
        self.o_proj = Linear(q_dim, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x_BTC: Tensor, cos: Tensor, sin: Tensor, layer: int, attend: Attend) -> Tensor:
        rows, tokens, _ = x_BTC.shape
        heads = (rows, tokens, -1, self.head_dim)
        q = self.q_norm(self.q_proj(x_BTC).view(heads)).transpose(1, 2)  # [B, H, T, D]
        k = self.k_norm(self.k_proj(x_BTC).view(heads)).transpose(1, 2)
        v = self.v_proj(x_BTC).view(heads).transpose(1, 2)
        out = attend(layer, apply_rotary(q, cos, sin), apply_rotary(k, cos, sin), v)
        return self.o_proj(out.transpose(1, 2).reshape(rows, tokens, -1))


class MLP(nn.Module):
    """SwiGLU (Shazeer, 2020)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each with a residual."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_BTC: Tensor, cos: Tensor, sin: Tensor, layer: int, attend: Attend) -> Tensor:
        x_BTC = x_BTC + self.self_attn(self.input_layernorm(x_BTC), cos, sin, layer, attend)
        return x_BTC + self.mlp(self.post_attention_layernorm(x_BTC))


def rotary_table(config: TextConfig, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [..., T, D] of int64 ``positions`` [..., T], computed in float32 and cast to ``dtype``."""
    inv_freq = inverse_frequencies(config.head_dim, config.rope_theta, positions.device)
    angles = positions.float()[..., None] * inv_freq
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def decode_hidden(
    layers: nn.ModuleList, config: TextConfig, x_BTC: Tensor, positions_BT: Tensor, attend: Attend
) -> Tensor:
    """All decoder layers over ``x_BTC`` at ``positions_BT``; the final norm is the caller's. -> [B, T, C]"""
    cos, sin = rotary_table(config, positions_BT, x_BTC.dtype)
    cos, sin = cos[:, None], sin[:, None]  # [B, 1, T, D]
    for index, layer in enumerate(layers):
        x_BTC = layer(x_BTC, cos, sin, index, attend)
    return x_BTC
