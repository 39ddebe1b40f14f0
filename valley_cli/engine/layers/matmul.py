"""Matrix products in the layout that a device reads fastest. One weight matrix, whichever way it is kept.

    layout      weight kept as             for
    rows        [out, in], plain           CUDA, and CPUs without oneDNN
    packed      oneDNN's own blocks        CPUs: bfloat16 and float32 of more than a few million parameters
    transposed  [in, out], plain           small float32 models on a CPU, where starting an operation is what costs
    unpacked    [out, in], plain           bfloat16 on CPUs that multiply it slowly: a few rows as it lies, many rows by
                                           blocks that are unpacked to float32 on the way

Measured on 2 Zen 4 cores, one token at a time, as bytes of weights read a second (a plain read: 31 GB/s): bfloat16
rows 11 GB/s, packed 19 to 27; float32 rows 13, packed 20 to 26. Packing runs at 1 to 7 GB/s: it is paid back after
four tokens or so. For many tokens at once (a prompt) packed is as fast as rows.

oneDNN packs bfloat16 on processors with AVX-512 only. On two cores with AVX2 alone, 512 rows times 18944 x 3584 take
6.0 s in bfloat16 rows, 1.1 s by unpacked blocks, and 1.0 s is what the float32 units can do at most; 16 rows 0.19 s and
0.09 s, 4 rows 0.05 s and 0.08 s. From how many rows on it pays is tried out on the processor at hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

WeightLayout = Literal["rows", "packed", "transposed", "unpacked"]
AS_STORED: tuple[WeightLayout, ...] = ("rows", "unpacked")  # a single weight is not copied
BLOCK_BYTES = 4_000_000  # of a weight in float32: about what a core's cache holds, and large enough for its product
ROWS_AT_ONCE = 4096  # whose float32 copies exist at the same time
TRIED_ROWS = (2, 4, 8, 16, 32, 64)
TRIED_ROUNDS = 5  # in turn, of which the best counts
TRIED_SIDE = 2048  # of the weight that is tried: larger than a core's cache, as weights are
Release = Callable[[Iterable[Tensor]], None]


class Product(Protocol):
    """``x @ weight.T + bias`` for ``x`` [N, in]."""

    n_bytes: int

    def __call__(self, x: Tensor) -> Tensor:
        """-> [N, out]"""
        ...

    def added(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual`` [N, out] plus the product, which has no bias. -> [N, out]"""
        ...


class Rows:
    """The weight as the checkpoint has it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        self.n_bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def added(self, residual: Tensor, x: Tensor) -> Tensor:
        return torch.addmm(residual, x, self.weight.t())


class Unpacked(Rows):
    """The weight as the checkpoint has it; from ``least`` rows on, it is multiplied in float32 by blocks."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, least: int | None = None) -> None:
        """``least`` None: what was found to pay on this processor."""
        super().__init__(weight, bias)
        self.least = least or rows_worth_unpacking(weight.dtype) or 0

    def __call__(self, x: Tensor) -> Tensor:
        return by_blocks(x, self.weight, self.bias) if 0 < self.least <= len(x) else super().__call__(x)

    def added(self, residual: Tensor, x: Tensor) -> Tensor:
        if 0 < self.least <= len(x):
            return by_blocks(x, self.weight, residual)
        return super().added(residual, x)


class Transposed:
    """The weight as [in, out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight.t().contiguous(), bias
        self.n_bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def added(self, residual: Tensor, x: Tensor) -> Tensor:
        return torch.addmm(residual, x, self.weight)


class Packed:
    """The weight in oneDNN's blocks; the operators are those that torch.compile freezes weights with."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 1)
        self.bias = bias
        self.n_bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def added(self, residual: Tensor, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, None, "add")


_CLASSES: dict[WeightLayout, Callable[[Tensor, Tensor | None], Product]] = {
    "rows": Rows,
    "packed": Packed,
    "transposed": Transposed,
    "unpacked": Unpacked,
}


def product(
    layout: WeightLayout,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    dtype: torch.dtype | None = None,
    release: Release = lambda sources: None,
) -> Product:
    """One product for ``weights`` [out_i, in] stacked, in ``dtype``; ``AS_STORED`` of a single weight is no copy.

    ``release`` is told the weights that were copied, each as soon as it is.
    """
    dtype = dtype or weights[0].dtype
    weight = weights[0] if len(weights) == 1 and weights[0].dtype == dtype else stacked(weights, dtype, release)
    made = _CLASSES[layout](weight, torch.cat(list(biases)).to(dtype) if biases else None)
    if weight is weights[0] and layout not in AS_STORED:
        release(weights)
    return made


def stacked(weights: Sequence[Tensor], dtype: torch.dtype, release: Release) -> Tensor:
    """``weights`` [out_i, in] as one [out, in] of ``dtype``; nothing but the result is allocated."""
    stack = weights[0].new_empty((sum(map(len, weights)), weights[0].shape[1]), dtype=dtype)
    for part, weight in zip(stack.split([*map(len, weights)]), weights, strict=True):
        part.copy_(weight)
        release([weight])
    return stack


def choose_layout(device: torch.device, dtype: torch.dtype, small: bool) -> WeightLayout:
    """What ``device`` reads fastest; ``small``: operations cost more than arithmetic."""
    if device.type != "cpu":
        return "rows"
    if small and dtype == torch.float32:
        return "transposed"
    if can_pack(dtype):
        return "packed"
    return "unpacked" if rows_worth_unpacking(dtype) else "rows"


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs and multiplies ``dtype`` here: tried once, on a matrix that changes nothing."""
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return False
    one = torch.eye(64, dtype=dtype)
    try:
        return torch.equal(Packed(one)(one), one)
    except (RuntimeError, AttributeError, NotImplementedError):  # another processor, or another torch
        return False


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` for ``x`` [..., in] and a weight that is kept as it is. -> [..., out]"""
    if not multiplies_slowly(weight):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    return Unpacked(weight, bias)(rows).view(*x.shape[:-1], len(weight))


def multiplies_slowly(weight: Tensor) -> bool:
    """Whether this device multiplies many rows faster once ``weight`` is unpacked to float32."""
    return weight.device.type == "cpu" and rows_worth_unpacking(weight.dtype) is not None


def by_blocks(x: Tensor, weight: Tensor, addend: Tensor | None = None) -> Tensor:
    """``x @ weight.T + addend`` for ``x`` [N, in], multiplied and summed in float32 and rounded once. -> [N, out]

    ``addend``: a bias [out] or a residual [N, out]. Beside the result it takes ``BLOCK_BYTES`` and 4 bytes a value of
    ``ROWS_AT_ONCE`` rows.
    """
    n_out, n_in = weight.shape
    size = max(BLOCK_BYTES // (4 * n_in), 64)
    scratch = torch.empty(min(size, n_out), n_in)
    out = x.new_empty(len(x), n_out)
    for first in range(0, len(x), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        wide = x[rows].float()
        for start in range(0, n_out, size):
            columns = slice(start, start + size)
            block = scratch[: min(size, n_out - start)].copy_(weight[columns]).t()  # [in, columns]
            if addend is None:
                out[rows, columns] = wide @ block
            else:
                part = addend[columns] if addend.dim() == 1 else addend[rows, columns]
                out[rows, columns] = torch.addmm(part.float(), wide, block)
    return out


@cache
def rows_worth_unpacking(dtype: torch.dtype) -> int | None:
    """From how many rows on ``by_blocks`` is faster than the product in ``dtype``; None where it never is.

    Tried out in some 50 ms, once, and not at all where oneDNN packs ``dtype``: there its own product is fast. On one
    thread, as several that wait for each other on busy cores would tell more about what else is running.
    """
    if dtype == torch.float32 or can_pack(dtype):
        return None
    n_threads = torch.get_num_threads()
    if n_threads == 1:  # this thread's own number perhaps, which setting it again would make everybody's
        return _rows_worth_unpacking(dtype)
    torch.set_num_threads(1)
    try:
        return _rows_worth_unpacking(dtype)
    finally:
        torch.set_num_threads(n_threads)


def _rows_worth_unpacking(dtype: torch.dtype) -> int | None:
    weight = torch.ones(TRIED_SIDE, TRIED_SIDE, dtype=dtype)
    for n_rows in TRIED_ROWS:
        x = torch.ones(n_rows, TRIED_SIDE, dtype=dtype)
        rounds = [(_seconds(by_blocks, x, weight), _seconds(F.linear, x, weight)) for _ in range(TRIED_ROUNDS)]
        unpacked_s, plain_s = map(min, zip(*rounds, strict=True))
        if unpacked_s < plain_s:
            return n_rows
    return None


def _seconds(multiply: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> float:
    start = time.perf_counter()
    multiply(x, weight)
    return time.perf_counter() - start
