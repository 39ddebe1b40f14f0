"""The decoder as it is run: ``text``'s numbers with fewer and larger operations, weights in the device's best layout.

Queries, keys and values are one product, gate and up another, rotary embedding and per-head norm treat queries and
keys at once, and residuals ride on the products: 11 operations a layer that matter instead of 40. A test holds every
number to the plain path's in ``text``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from valley_cli.engine.layers.basic import RMSNorm
from valley_cli.engine.layers.config import TextConfig
from valley_cli.engine.layers.decoder import Attend, DecoderLayer, rotary_table
from valley_cli.engine.layers.matmul import AS_STORED, Product, Release, WeightLayout, can_pack, product

HEAD_PACK_BYTES = 4_000_000  # a smaller head stays in the processor's cache


@dataclass(frozen=True)
class FusedLayer:
    """One layer's weights."""

    input_norm: Tensor  # [C]
    qkv: Product  # C -> (H + 2 KV) D
    qk_norm: Tensor | None  # [H + KV, D]
    out: Product  # H D -> C
    post_norm: Tensor  # [C]
    gate_up: Product  # C -> 2 I
    down: Product  # I -> C

    @property
    def n_bytes(self) -> int:
        """Of the matrices."""
        return self.qkv.n_bytes + self.out.n_bytes + self.gate_up.n_bytes + self.down.n_bytes


def fuse(
    layer: DecoderLayer,
    config: TextConfig,
    layout: WeightLayout,
    dtype: torch.dtype | None = None,
    release: Release = lambda sources: None,
) -> FusedLayer:
    """The weights of ``layer``, which is left as it is, in ``layout`` and ``dtype``. ``release``: see ``product``."""
    attention, mlp = layer.self_attn, layer.mlp
    dtype = dtype or layer.input_layernorm.weight.dtype
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    biases = [projection.bias for projection in projections] if config.qkv_bias else []
    qk_norm = None
    if isinstance(attention.q_norm, RMSNorm) and isinstance(attention.k_norm, RMSNorm):
        q_norm = attention.q_norm.weight.expand(config.num_attention_heads, -1)
        qk_norm = torch.cat((q_norm, attention.k_norm.weight.expand(config.num_key_value_heads, -1))).to(dtype)
    return FusedLayer(
        input_norm=layer.input_layernorm.weight.detach().to(dtype),
        qkv=product(layout, [p.weight for p in projections], biases, dtype, release),
        qk_norm=qk_norm,
        out=product(layout, [attention.o_proj.weight], (), dtype, release),
        post_norm=layer.post_attention_layernorm.weight.detach().to(dtype),
        gate_up=product(layout, [mlp.gate_proj.weight, mlp.up_proj.weight], (), dtype, release),
        down=product(layout, [mlp.down_proj.weight], (), dtype, release),
    )


@dataclass
class DecoderParts:
    """A decoder's weights as a checkpoint has them. ``head`` is None where it is tied to the ``embedding``."""

    config: TextConfig
    layers: nn.ModuleList
    norm: Tensor  # [C]
    embedding: Tensor  # [vocabulary, C]
    head: nn.Linear | None

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype


@torch.inference_mode()
def fuse_decoder(parts: DecoderParts, layout: WeightLayout, release: Release = lambda sources: None) -> FusedDecoder:
    """The decoder made of ``parts``, which lose their layers one by one, so that no second copy of all weights is made.

    Layers and head of another dtype than the embedding's are converted to it. ``release``: see ``product``.
    """
    head = _fuse_head(parts, layout, release)  # the largest copy of all, made while there is the most room
    fused: list[FusedLayer] = []
    for index, layer in enumerate(parts.layers):
        assert isinstance(layer, DecoderLayer)
        fused.append(fuse(layer, parts.config, layout, parts.dtype, release))
        parts.layers[index] = nn.Identity()
    return FusedDecoder(fused, parts.config, parts.norm.detach(), head)


def _fuse_head(parts: DecoderParts, layout: WeightLayout, release: Release) -> Product:
    """The head, packed where that is faster: of tied weights a copy, for the embedding needs plain rows."""
    source = (parts.embedding if parts.head is None else parts.head.weight).detach()
    weight = source.to(parts.dtype)
    if layout in AS_STORED or weight.nbytes < HEAD_PACK_BYTES or not can_pack(weight.dtype):
        if parts.head is not None:
            parts.head.weight = nn.Parameter(weight, requires_grad=False)
            release([source] if weight is not source else [])
        return product(layout if layout in AS_STORED else "rows", [weight])
    head = product("packed", [weight])
    release([source])
    if parts.head is not None:
        parts.head.weight = nn.Parameter(weight[:0].clone(), requires_grad=False)
    return head


class FusedDecoder:
    """``hidden`` does what ``text.decode_hidden`` does, ``logits`` what a model's final norm and head do."""

    def __init__(self, layers: list[FusedLayer], config: TextConfig, norm: Tensor, head: Product) -> None:
        self.layers, self.config, self.norm, self.head = layers, config, norm, head

    @property
    def n_bytes(self) -> int:
        """Of all matrices, the head's included."""
        return sum(layer.n_bytes for layer in self.layers) + self.head.n_bytes

    def hidden(self, x_BTC: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Decoder output before the final norm, [B, T, C]."""
        config, half = self.config, self.config.head_dim // 2
        rows, tokens, size = x_BTC.shape
        cos, sin = rotary_table(config, positions_BT, x_BTC.dtype)
        sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)  # rotate_half(x) * sin == roll(x) * this
        cos, sin = cos[:, :, None], sin[:, :, None]  # [B, T, 1, D]
        n_heads, n_qk = config.num_attention_heads, config.num_attention_heads + config.num_key_value_heads
        x = x_BTC.view(rows * tokens, size)
        for index, layer in enumerate(self.layers):
            h = F.rms_norm(x, (size,), layer.input_norm, config.rms_norm_eps)
            qkv = layer.qkv(h).view(rows, tokens, -1, config.head_dim)  # [B, T, H + 2 KV, D]
            qk, v = qkv[:, :, :n_qk], qkv[:, :, n_qk:]
            if layer.qk_norm is not None:
                qk = F.rms_norm(qk, (config.head_dim,), None, config.rms_norm_eps) * layer.qk_norm
            qk = (qk * cos + qk.roll(half, -1) * sin).transpose(1, 2)  # [B, H + KV, T, D]
            out = attend(index, qk[:, :n_heads], qk[:, n_heads:], v.transpose(1, 2))  # [B, H, T, D]
            x = layer.out.added(x, out.transpose(1, 2).reshape(rows * tokens, -1))
            h = F.rms_norm(x, (size,), layer.post_norm, config.rms_norm_eps)
            gate, up = layer.gate_up(h).chunk(2, dim=-1)
            x = layer.down.added(x, F.silu(gate) * up)
        return x.view(rows, tokens, size)

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, C] -> [N, vocabulary]. Pass only the positions whose logits are wanted."""
        return self.head(F.rms_norm(hidden, (self.config.hidden_size,), self.norm, self.config.rms_norm_eps))
