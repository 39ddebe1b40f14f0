"""The decoder's one-token step with fewer and larger operations: the fast path for small models on a CPU.

There the time goes into starting operations, not into arithmetic. Queries, keys and values are one product, gate and
up another, rotary embedding and per-head norm treat queries and keys at once, and residuals ride on the products:
11 operations a layer that matter instead of 40. At 3 M parameters on one core: 2.3 times as many tokens a second.
Weights are copied, transposed; a test holds every number to the plain path's in ``text``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from valley_cli.engine.models.config import TextConfig
from valley_cli.engine.models.layers import RMSNorm
from valley_cli.engine.models.text import Attend, DecoderLayer, rotary_table
from valley_cli.engine.models.valley import Valley


@dataclass(frozen=True)
class FusedLayer:
    """One layer's weights, matrices as [in, out]."""

    input_norm: Tensor  # [C]
    qkv: Tensor  # [C, (H + 2 KV) D]
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # [H + KV, D]
    out: Tensor  # [H D, C]
    post_norm: Tensor  # [C]
    gate_up: Tensor  # [C, 2 I]
    down: Tensor  # [I, C]


def fuse(layer: DecoderLayer, config: TextConfig) -> FusedLayer:
    """The weights of ``layer``, copied."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    qk_norm = None
    if isinstance(attention.q_norm, RMSNorm) and isinstance(attention.k_norm, RMSNorm):
        q_norm = attention.q_norm.weight.expand(config.num_attention_heads, -1)
        qk_norm = torch.cat((q_norm, attention.k_norm.weight.expand(config.num_key_value_heads, -1)))
    return FusedLayer(
        input_norm=layer.input_layernorm.weight,
        qkv=torch.cat([projection.weight for projection in projections]).t().contiguous(),
        qkv_bias=torch.cat([projection.bias for projection in projections]) if config.qkv_bias else None,
        qk_norm=qk_norm,
        out=attention.o_proj.weight.t().contiguous(),
        post_norm=layer.post_attention_layernorm.weight,
        gate_up=torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)).t().contiguous(),
        down=mlp.down_proj.weight.t().contiguous(),
    )


@torch.inference_mode()
def fuse_decoder(model: Valley) -> FusedDecoder:
    """The fast path of ``model``; its weights are copied."""
    return FusedDecoder([*model.model.layers], model.config.text)  # type: ignore[list-item]


class FusedDecoder:
    """``step`` does what ``text.decode_hidden`` does for one token a row."""

    def __init__(self, layers: list[DecoderLayer], config: TextConfig) -> None:
        self.config = config
        self.layers = [fuse(layer, config) for layer in layers]

    @property
    def n_bytes(self) -> int:
        """Of the copied matrices."""
        return sum(part.nbytes for layer in self.layers for part in (layer.qkv, layer.out, layer.gate_up, layer.down))

    def step(self, x_BC: Tensor, positions_B: Tensor, attend: Attend) -> Tensor:
        """Decoder output before the final norm, [B, C]."""
        config, half = self.config, self.config.head_dim // 2
        cos, sin = rotary_table(config, positions_B[:, None], x_BC.dtype)  # [B, 1, D]
        sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)  # rotate_half(x) * sin == roll(x) * this
        n_qk = config.num_attention_heads + config.num_key_value_heads
        for index, layer in enumerate(self.layers):
            h = F.rms_norm(x_BC, (config.hidden_size,), layer.input_norm, config.rms_norm_eps)
            qkv = h @ layer.qkv if layer.qkv_bias is None else torch.addmm(layer.qkv_bias, h, layer.qkv)
            qkv = qkv.view(len(x_BC), -1, config.head_dim)  # [B, H + 2 KV, D]
            qk, v = qkv[:, :n_qk], qkv[:, n_qk:]
            if layer.qk_norm is not None:
                qk = F.rms_norm(qk, (config.head_dim,), None, config.rms_norm_eps) * layer.qk_norm
            qk = qk * cos + qk.roll(half, -1) * sin
            q, k = qk[:, : config.num_attention_heads], qk[:, config.num_attention_heads :]
            out = attend(index, q[:, :, None], k[:, :, None], v[:, :, None])  # [B, H, 1, D]
            x_BC = torch.addmm(x_BC, out.reshape(len(x_BC), -1), layer.out)
            h = F.rms_norm(x_BC, (config.hidden_size,), layer.post_norm, config.rms_norm_eps)
            gate, up = (h @ layer.gate_up).chunk(2, dim=-1)
            x_BC = torch.addmm(x_BC, F.silu(gate) * up, layer.down)
        return x_BC
