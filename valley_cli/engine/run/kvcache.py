"""Keys and values of running sequences: one pool of rows, allocated once from a memory budget.

A sequence holds one contiguous slot of rows, so attention reads views and nothing is gathered or copied: pages with
a block table would copy every key at every step on a CPU. Rows of a batch whose slots lie at even distances and
whose lengths are alike are one call, the others are calls of their own: nobody pays for a longer neighbour. On a CPU
rows that were never written take no memory.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from valley_cli.engine.layers.config import TextConfig
from valley_cli.engine.layers.decoder import Attend
from valley_cli.engine.schedule.slots import Move, Slot

ALIKE_TOKENS = 128  # lengths that differ by less, or by less than a half, share a call


@dataclass(frozen=True)
class RowGroup:
    """Rows ``first`` to ``end`` of a batch in slots of one size, the first one ``slot``, ``stride`` apart."""

    first: int
    end: int
    slot: Slot
    stride: int
    longest: int  # tokens, the new one included
    shortest: int

    def joined(self, slot: Slot, length: int) -> RowGroup | None:
        """The group with one row more, None if that row does not belong to it."""
        rows, distance = self.end - self.first, slot.start - self.slot.start
        stride = distance // rows
        longest, shortest = max(self.longest, length), min(self.shortest, length)
        even = stride > 0 and distance == rows * stride and (rows == 1 or stride == self.stride)
        alike = slot.tokens == self.slot.tokens and longest - shortest <= max(ALIKE_TOKENS, longest // 2)
        return RowGroup(self.first, self.end + 1, self.slot, stride, longest, shortest) if even and alike else None


def find_row_groups(slots: Sequence[Slot], lengths: Sequence[int]) -> list[RowGroup]:
    """The batch's rows, ``lengths`` tokens each, in as few groups as their order allows."""
    groups: list[RowGroup] = []
    for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        joined = groups[-1].joined(slot, length) if groups else None
        if joined:
            groups[-1] = joined
        else:
            groups.append(RowGroup(row, row + 1, slot, slot.tokens, length, length))
    return groups


class KVCache:
    """``keys``/``values``: a tensor [tokens, KV heads, head_dim] a layer; within a slot, ``_strides`` says what lies
    where. Who holds which slot is the scheduler's. New lists of tensors mean new tensors: what recorded the old ones
    must record again.

    Rows of a slot that its sequence has not written are zero: a NaN left there would reach its neighbours in a
    call, as 0 x NaN under a mask is NaN.
    """

    def __init__(
        self, config: TextConfig, device: torch.device, dtype: torch.dtype, token_major: bool | None = None
    ) -> None:
        """``token_major``: see ``_strides``; None: as the device has it."""
        self.token_major = device.type != "cpu" if token_major is None else token_major
        self.config = config
        self.device = device
        self.dtype = dtype
        self.heads, self.head_dim = config.num_key_value_heads, config.head_dim
        self.clear()

    def clear(self) -> None:
        """Give the pool's memory back; its length is 0."""
        self.tokens = 0
        self.keys = [self._allocate(0) for _ in range(self.config.num_hidden_layers)]
        self.values = [*self.keys]
        self._written: dict[Slot, int] = {}  # tokens in each slot that was used since it was zero
        self._touched = 0  # tokens that take memory on a CPU

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return 2 * self.config.num_hidden_layers * self.heads * self.head_dim * self.dtype.itemsize

    @property
    def n_bytes(self) -> int:
        """Memory taken: on a CPU only what was ever written."""
        return self.token_bytes * (self._touched if self.device.type == "cpu" else self.tokens)

    def _allocate(self, tokens: int) -> Tensor:
        """Zeros that take memory, on a CPU, when they are first written. Raises torch.OutOfMemoryError."""
        shape = (tokens, self.heads, self.head_dim)
        n_bytes = math.prod(shape) * self.dtype.itemsize
        if self.device.type != "cpu" or not n_bytes or not hasattr(mmap, "MAP_PRIVATE"):
            return torch.zeros(shape, device=self.device, dtype=self.dtype)
        try:
            pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise torch.OutOfMemoryError(f"cannot allocate memory for {tokens} tokens") from error
        return torch.frombuffer(pages, dtype=self.dtype).view(shape)

    def resize(self, tokens: int, moves: Iterable[Move] = ()) -> None:
        """Make the pool ``tokens`` long and put what is to stay where ``moves`` say, layer by layer.

        Raises torch.OutOfMemoryError, after which the pool is empty.
        """
        copies = [(move.source, move.target, self._written.get(move.source, 0)) for move in moves]
        try:
            for pool in (self.keys, self.values):
                for layer, old in enumerate(pool):
                    pool[layer] = self._allocate(tokens)
                    for source, target, n in copies:
                        self._rows(pool[layer], target, n).copy_(self._rows(old, source, n))
                    del old  # before the next one is made
        except (RuntimeError, MemoryError):
            self.clear()
            raise
        self.tokens, self.keys, self.values = tokens, [*self.keys], [*self.values]
        self._written = {target: n for _, target, n in copies}
        self._touched = sum(self._written.values())

    def attach_slot(self, slot: Slot, kept: int, source: Slot | None = None) -> None:
        """Make ``slot`` ready for a sequence whose first ``kept`` tokens are there, or come from ``source``."""
        stale = {old: n for old, n in self._written.items() if old.start < slot.end and slot.start < old.end}
        for pool in (*self.keys, *self.values):
            prefix = self._rows(pool, source, kept).clone() if source else None
            for old, n in stale.items():
                self._rows(pool, old, n)[:, :, kept if old == slot and not source else 0 :].zero_()
            if prefix is not None:
                self._rows(pool, slot, kept).copy_(prefix)
        for old in stale:
            del self._written[old]
        self._written[slot] = kept

    def _wrote(self, slot: Slot, tokens: int) -> None:
        self._written[slot] = tokens
        self._touched = max(self._touched, sum(self._written.values()))

    def note_step(self, slots: Sequence[Slot], lengths: Sequence[int], tokens: int = 1) -> None:
        """So many ``tokens`` are written behind ``lengths``."""
        for slot, length in zip(slots, lengths, strict=True):
            self._written[slot] = min(length + tokens, slot.tokens)

    def _strides(self, slot: Slot) -> tuple[int, int]:
        """Rows from head to head and from token to token. On a CPU each head's tokens lie together, which attention
        reads 1.3 to 1.5 times as fast; kernels for CUDA that take a block table want each token's heads together."""
        return (1, self.heads) if self.token_major else (slot.tokens, 1)

    def _rows(self, pool: Tensor, slot: Slot, tokens: int, rows: int = 1, stride: int = 0) -> Tensor:
        """The first ``tokens`` of ``rows`` slots, ``stride`` apart, in one layer: [rows, KV, tokens, D], a view."""
        shape = (rows, self.heads, tokens, self.head_dim)
        strides = [self.head_dim * step for step in (stride * self.heads, *self._strides(slot))]
        return pool.as_strided(shape, (*strides, 1), slot.start * self.heads * self.head_dim)

    def prefill(self, slot: Slot, start: int) -> Attend:
        """Attention for one row of T new tokens in ``slot``, behind the ``start`` tokens already there."""
        bias: Tensor | None = None  # the same for every layer

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            nonlocal bias
            end = start + q.shape[2]
            keys, values = (self._rows(pool[layer], slot, end) for pool in (self.keys, self.values))
            keys[:, :, start:], values[:, :, start:] = k, v
            if layer == 0:
                self._wrote(slot, end)
            if start == 0:
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            bias = causal_bias(q, start) if bias is None else bias
            return biased_attention(q, keys, values, bias)

        return attend

    def prefill_pieces(self, places: Sequence[tuple[Slot, int]], lengths: Sequence[int]) -> Attend:
        """Attention for one row in which pieces of several prompts follow each other, ``lengths`` tokens each: piece i
        goes into its slot behind the tokens already there."""
        attends = [self.prefill(slot, start) for slot, start in places]
        if len(attends) == 1:
            return attends[0]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            parts = [x.split([*lengths], dim=2) for x in (q, k, v)]  # [1, heads, T of a piece, D] each
            return torch.cat(
                [one(layer, *part) for one, part in zip(attends, zip(*parts, strict=True), strict=True)], 2
            )

        return attend

    def decode(self, slots: Sequence[Slot], lengths: Sequence[int]) -> Attend:
        """Attention for one new token a row: row i is in ``slots[i]`` behind ``lengths[i]`` tokens."""
        if len(slots) == 1:
            return self._decode_one(slots[0], lengths[0])
        places = torch.tensor(
            [
                slot.start * self.heads + head * head_step + length * token_step
                for slot, length in zip(slots, lengths, strict=True)
                for head_step, token_step in (self._strides(slot),)
                for head in range(self.heads)
            ],
            device=self.device,
        )  # [B * KV]
        groups = find_row_groups(slots, [length + 1 for length in lengths])
        masks = [self._visible(group, lengths) for group in groups]
        self.note_step(slots, lengths)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            parts = []
            for pool, new in ((self.keys[layer], k), (self.values[layer], v)):
                pool.view(-1, self.head_dim).index_copy_(0, places, new.reshape(-1, self.head_dim))
            for group, mask in zip(groups, masks, strict=True):
                rows = group.slot, group.longest, group.end - group.first, group.stride
                keys, values = self._rows(self.keys[layer], *rows), self._rows(self.values[layer], *rows)
                parts.append(_grouped(q[group.first : group.end], keys, values, mask))
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        return attend

    def _decode_one(self, slot: Slot, length: int) -> Attend:
        self._written[slot] = length + 1

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = (self._rows(pool[layer], slot, length + 1) for pool in (self.keys, self.values))
            keys[0, :, length], values[0, :, length] = k[0, :, 0], v[0, :, 0]
            return _grouped(q, keys, values, None)

        return attend

    def _visible(self, group: RowGroup, lengths: Sequence[int]) -> Tensor | None:
        """[rows, 1, 1, longest]: which of the places read hold a token; None if all do."""
        if group.shortest == group.longest:
            return None
        last = torch.tensor(lengths[group.first : group.end], device=self.device)
        return (torch.arange(group.longest, device=self.device) <= last[:, None])[:, None, None]


def causal_bias(q: Tensor, start: int) -> Tensor:
    """What is added to the scores of ``q`` [B, H, T, D], which stands behind ``start`` tokens: [T, start + T].

    In the dtype that the kernels would convert a boolean mask to in every layer, and with rows that begin at multiples
    of 16 values, or the efficient kernel of CUDA would copy it in every layer.
    """
    tokens, end = q.shape[2], start + q.shape[2]
    bias = torch.full((tokens, -(-end // 16) * 16), -torch.inf, dtype=q.dtype, device=q.device)
    return bias.triu_(start + 1)[:, :end]


def biased_attention(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Key heads are the batch of the call, and the queries that share one are its heads.

    So no kernel has to know of grouped queries. On CUDA the efficient one does not, and what is left for a call that is
    both masked and grouped may be the plain one, which writes down all scores: 4 GB for 2,048 tokens of Valley2 behind
    30,000 in bfloat16.

    q [1, H, T, D], keys/values [1, KV, L, D], bias [T, L] -> [1, H, T, D]
    """
    kv_heads, groups = keys.shape[1], q.shape[1] // keys.shape[1]
    k, v = (x[0][:, None].expand(-1, groups, -1, -1) for x in (keys, values))  # [KV, H / KV, L, D], nothing copied
    grouped = q[0].unflatten(0, (kv_heads, groups))  # [KV, H / KV, T, D]
    return F.scaled_dot_product_attention(grouped, k, v, attn_mask=bias).flatten(0, 1)[None]


def _grouped(q: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
    """One query token a row; the heads that share a key head become that head's queries, so nothing is repeated.

    q [B, H, 1, D], keys/values [B, KV, L, D], visible [B, 1, 1, L] -> [B, H, 1, D]
    """
    rows, heads, _, dim = q.shape
    grouped = q.view(rows, keys.shape[1], -1, dim)  # [B, KV, H / KV, D]
    return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=visible).view(rows, heads, 1, dim)
