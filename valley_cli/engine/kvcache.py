"""Keys and values of running sequences, kept in slots of one preallocated tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from valley_cli.engine.models.config import TextConfig
from valley_cli.engine.models.text import Attend

CAPACITY_STEP = 256


class KVCache:
    """``keys``/``values``: [layers, slots, KV heads, capacity, head_dim]. Who holds which slot is the scheduler's.

    Grows (with a copy) when a sequence needs more room than any before it; never shrinks.
    """

    def __init__(self, config: TextConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config
        self.device = device
        self.dtype = dtype
        self.keys = self.values = self._allocate(0, 0)

    @property
    def slots(self) -> int:
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    @property
    def n_bytes(self) -> int:
        return 2 * self.keys.nbytes

    def _allocate(self, slots: int, capacity: int) -> Tensor:
        shape = (self.config.num_hidden_layers, slots, self.config.num_key_value_heads, capacity, self.config.head_dim)
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def reserve(self, slots: int, capacity: int) -> None:
        """Room for ``slots`` sequences of ``capacity`` tokens; what is kept stays. Raises torch.OutOfMemoryError."""
        if slots <= self.slots and capacity <= self.capacity:
            return
        slots = max(slots, self.slots)
        capacity = max(-(-capacity // CAPACITY_STEP) * CAPACITY_STEP, self.capacity)
        keys, values = self._allocate(slots, capacity), self._allocate(slots, capacity)  # both, or neither
        for old, new in ((self.keys, keys), (self.values, values)):
            new[:, : old.shape[1], :, : old.shape[3]] = old
        self.keys, self.values = keys, values

    def prefill(self, slot: int, start: int) -> Attend:
        """Attention for one row of T new tokens in ``slot``, behind the ``start`` tokens already there."""
        for kept in (self.keys, self.values):  # a NaN left there would reach neighbours: 0 x NaN under a mask is NaN
            kept[:, slot, :, start:].zero_()

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            end = start + q.shape[2]
            self.keys[layer, slot, :, start:end] = k[0]
            self.values[layer, slot, :, start:end] = v[0]
            if start == 0:
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            keys, values = self.keys[layer, slot : slot + 1, :, :end], self.values[layer, slot : slot + 1, :, :end]
            mask = torch.ones(q.shape[2], end, dtype=torch.bool, device=q.device).tril(start)
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)

        return attend

    def decode(self, slots: Sequence[int], lengths: Sequence[int]) -> Attend:
        """Attention for one new token a row: row i is in ``slots[i]`` behind ``lengths[i]`` tokens."""
        if len(slots) == 1:
            return self._decode_one(slots[0], lengths[0])
        slot_ids = torch.tensor(slots, device=self.device)
        places = torch.tensor(lengths, device=self.device)
        longest = max(lengths) + 1
        visible = torch.arange(longest, device=self.device) <= places[:, None]  # [B, L]
        whole = list(slots) == list(range(len(slots)))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys[layer][slot_ids, :, places] = k[:, :, 0]
            self.values[layer][slot_ids, :, places] = v[:, :, 0]
            rows = slice(len(slots)) if whole else slot_ids
            return _grouped(q, self.keys[layer, rows, :, :longest], self.values[layer, rows, :, :longest], visible)

        return attend

    def _decode_one(self, slot: int, length: int) -> Attend:
        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys[layer, slot, :, length] = k[0, :, 0]
            self.values[layer, slot, :, length] = v[0, :, 0]
            one, end = slice(slot, slot + 1), length + 1
            return _grouped(q, self.keys[layer, one, :, :end], self.values[layer, one, :, :end], None)

        return attend


def _grouped(q: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
    """One query token a row; the heads that share a key head become that head's queries, so nothing is repeated.

    q [B, H, 1, D], keys/values [B, KV, L, D], visible [B, L] -> [B, H, 1, D]
    """
    rows, heads, _, dim = q.shape
    grouped = q.view(rows, keys.shape[1], -1, dim)  # [B, KV, H / KV, D]
    mask = None if visible is None else visible[:, None, None]
    return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask).view(rows, heads, 1, dim)
