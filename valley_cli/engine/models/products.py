"""Matrix products in the layout that a device reads fastest. One weight matrix, whichever way it is kept.

    layout      weight kept as             for
    rows        [out, in], plain           CUDA, and CPUs without oneDNN
    packed      oneDNN's own blocks        CPUs: bfloat16 and float32 of more than a few million parameters
    transposed  [in, out], plain           small float32 models on a CPU, where starting an operation is what costs

Measured on 2 Zen 4 cores, one token at a time, as bytes of weights read a second (a plain read: 31 GB/s): bfloat16
rows 11 GB/s, packed 19 to 27; float32 rows 13, packed 20 to 26. Packing runs at 1 to 7 GB/s: it is paid back after
four tokens or so. For many tokens at once (a prompt) packed is as fast as rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Layout = Literal["rows", "packed", "transposed"]
LetGo = Callable[[Iterable[Tensor]], None]


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


_CLASSES: dict[Layout, type[Rows] | type[Transposed] | type[Packed]] = {
    "rows": Rows,
    "packed": Packed,
    "transposed": Transposed,
}


def product(
    layout: Layout,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] = (),
    dtype: torch.dtype | None = None,
    let_go: LetGo = lambda sources: None,
) -> Product:
    """One product for ``weights`` [out_i, in] stacked, in ``dtype``; only ``rows`` of a single weight is no copy.

    ``let_go`` is told the weights that were copied, each as soon as it is.
    """
    dtype = dtype or weights[0].dtype
    weight = weights[0] if len(weights) == 1 and weights[0].dtype == dtype else stacked(weights, dtype, let_go)
    made = _CLASSES[layout](weight, torch.cat(list(biases)).to(dtype) if biases else None)
    if weight is weights[0] and layout != "rows":
        let_go(weights)
    return made


def stacked(weights: Sequence[Tensor], dtype: torch.dtype, let_go: LetGo) -> Tensor:
    """``weights`` [out_i, in] as one [out, in] of ``dtype``; nothing but the result is allocated."""
    stack = weights[0].new_empty((sum(map(len, weights)), weights[0].shape[1]), dtype=dtype)
    for part, weight in zip(stack.split([*map(len, weights)]), weights, strict=True):
        part.copy_(weight)
        let_go([weight])
    return stack


def choose_layout(device: torch.device, dtype: torch.dtype, small: bool) -> Layout:
    """What ``device`` reads fastest; ``small``: operations cost more than arithmetic."""
    if device.type != "cpu":
        return "rows"
    if small and dtype == torch.float32:
        return "transposed"
    return "packed" if can_pack(dtype) else "rows"


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
