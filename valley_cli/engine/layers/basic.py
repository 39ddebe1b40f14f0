"""Layers shared by the decoder and the towers. Axes: B rows, T tokens, H heads, D head_dim, C channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from valley_cli.engine.layers.matmul import linear, multiplies_slowly


class _Unset:
    """Leaves parameters as they are: they come from the checkpoint.

    Filling them first would cost more than time: ``normal_`` on the meta device imports torch._dynamo, 2 CPU seconds.
    """

    def reset_parameters(self) -> None:
        pass


class Linear(_Unset, nn.Linear):
    """``nn.Linear`` without random initial values, multiplied as the processor does it fastest."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Embedding(_Unset, nn.Embedding):
    """``nn.Embedding`` without random initial values."""


class LayerNorm(_Unset, nn.LayerNorm):
    """``nn.LayerNorm`` without initial values."""


class Conv2d(_Unset, nn.Conv2d):
    """``nn.Conv2d`` without random initial values.

    On two cores without AVX-512 one of 3 x 3 over 384 channels takes 176 ms in bfloat16 and 6 ms in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not multiplies_slowly(self.weight):
            return super().forward(x)
        bias = None if self.bias is None else self.bias.float()
        return self._conv_forward(x.float(), self.weight.float(), bias).to(x.dtype)


class Conv3d(_Unset, nn.Conv3d):
    """``nn.Conv3d`` without random initial values."""


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotate_half(x: Tensor) -> Tensor:
    """(a, b) -> (-b, a) over the halves of the last axis."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., 2021) in the rotate-half layout; ``cos``/``sin`` broadcast to ``x``."""
    return x * cos + rotate_half(x) * sin


def inverse_frequencies(dim: int, theta: float, device: torch.device | str = "cpu") -> Tensor:
    """theta^(-2i/dim) for i < dim/2, float32."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
