"""The decode step over tensors that stay where they are, so that a CUDA graph can record and repeat it.

Which tokens, where their keys begin and how many there are is read from the device: nothing depends on the host, and a
step that has run has its own successor as input. Every number equals the step of ``kvcache``; a test says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from valley_cli.engine.layers.config import TextConfig
from valley_cli.engine.layers.decoder import Attend
from valley_cli.engine.layers.fused import FusedDecoder
from valley_cli.engine.run.sampler import likeliest

Pool = Sequence[Tensor]  # a layer's keys or values: [tokens, KV heads, head_dim]


class StaticStep:
    """One more token for each of ``rows`` rows, greedily chosen; ``chosen`` and ``logits`` are its results."""

    def __init__(
        self, embedding: Tensor, decoder: FusedDecoder, keys: Pool, values: Pool, rows: int, span: int, flash: bool
    ) -> None:
        """``span``: the most tokens a row may hold, this step's included. ``flash``: see ``flash_works``."""
        self.embedding, self.decoder, self.keys, self.values = embedding, decoder, keys, values
        self.rows, self.span, self.flash = rows, span, flash
        self.inputs = torch.zeros(3, rows, dtype=torch.int64, device=embedding.device)
        self.logits = torch.empty(0)
        self.chosen = torch.empty(0)

    def feed(self, tokens: Sequence[int], starts: Sequence[int], lengths: Sequence[int]) -> None:
        """Row i says ``tokens[i]`` behind ``lengths[i]`` tokens that begin at ``starts[i]``. Rows that are left over
        do what row 0 does: they write the same values to the same place."""
        spare = self.rows - len(tokens)
        values = torch.tensor([[*row, *row[:1] * spare] for row in map(list, (tokens, starts, lengths))])
        self.inputs.copy_(values.pin_memory() if self.inputs.is_cuda else values, non_blocking=True)

    def __call__(self) -> None:
        ids, starts, lengths = self.inputs
        attend = (flash_attend if self.flash else masked_attend)(self.keys, self.values, starts, lengths, self.span)
        embedded = F.embedding(ids, self.embedding)[:, None]  # [B, 1, C]
        hidden = self.decoder.hidden(embedded, lengths[:, None], attend)
        self.logits = self.decoder.logits(hidden[:, 0])
        self.chosen = likeliest(self.logits)
        ids.copy_(self.chosen.clamp_min(0))
        lengths.add_(1)


def masked_attend(keys: Pool, values: Pool, starts: Tensor, lengths: Tensor, span: int) -> Attend:
    """Attention for one token a row over copies of ``span`` rows each; what lies behind the new token is masked, and is
    the new token again, so that no row ever reads another's (0 x NaN under a mask is NaN)."""
    places = starts + lengths
    offsets = torch.arange(span, device=starts.device)
    rows = starts[:, None] + torch.minimum(offsets, lengths[:, None])  # [B, span]
    visible = (offsets <= lengths[:, None])[:, None, None]  # [B, 1, 1, span]

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys[layer].index_copy_(0, places, k[:, :, 0])
        values[layer].index_copy_(0, places, v[:, :, 0])
        k_seen, v_seen = keys[layer][rows].transpose(1, 2), values[layer][rows].transpose(1, 2)  # [B, KV, span, D]
        grouped = q.reshape(len(q), k.shape[1], -1, q.shape[-1])  # heads that share a key head are its queries
        return F.scaled_dot_product_attention(grouped, k_seen, v_seen, attn_mask=visible).view_as(q)

    return attend


def flash_attend(keys: Pool, values: Pool, starts: Tensor, lengths: Tensor, span: int) -> Attend:
    """The same by the FlashAttention kernel for rows of different lengths, which reads the pool where it lies."""
    places, n_rows = starts + lengths, len(starts)
    queries = torch.arange(n_rows + 1, device=starts.device, dtype=torch.int32)
    begins = F.pad(starts, (0, 1)).to(torch.int32)  # the lengths are told apart, so the end of the last is not read
    used = (lengths + 1).to(torch.int32)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys[layer].index_copy_(0, places, k[:, :, 0])
        values[layer].index_copy_(0, places, v[:, :, 0])
        out = torch.ops.aten._flash_attention_forward(
            q[:, :, 0].contiguous(),  # [B, H, D]
            keys[layer],
            values[layer],
            queries,
            begins,
            1,
            span,
            0.0,
            False,
            False,
            seqused_k=used,
        )[0]
        return out[:, :, None]

    return attend


@cache
def flash_works(config: TextConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``flash_attend`` runs here and agrees with ``masked_attend``: tried once, on rows of three lengths."""
    if device.type != "cuda" or dtype == torch.float32:
        return False
    generator = torch.Generator(device).manual_seed(0)
    heads, kv, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    keys, values = noise(700, kv, dim), noise(700, kv, dim)
    q, k, v = noise(3, heads, 1, dim), noise(3, kv, 1, dim), noise(3, kv, 1, dim)
    starts, lengths = torch.tensor([[300, 0, 40], [299, 17, 180]], device=device)
    try:
        found, expected = (
            attend([keys], [values], starts, lengths, 512)(0, q, k, v) for attend in (flash_attend, masked_attend)
        )
        return bool((found - expected).abs().max() < 0.02)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):  # an older card, or another torch
        return False
