"""From SigLIP's 729 rows a tile to the decoder's width (spec valley2, section 6)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from valley_cli.engine.families.valley.config import ProjectorConfig
from valley_cli.engine.layers.basic import Conv2d, Embedding, LayerNorm, Linear
from valley_cli.engine.layers.matmul import linear


def _as_map(x: Tensor) -> Tensor:
    """[n, s * s, C] -> [n, C, s, s]"""
    side = math.isqrt(x.shape[1])
    return x.transpose(1, 2).unflatten(2, (side, side))


def _as_rows(x: Tensor) -> Tensor:
    """[n, C, s, s] -> [n, s * s, C]"""
    return x.flatten(2).transpose(1, 2)


class OvisConvAdapter(nn.Module):
    """Each position becomes a mixture over a visual vocabulary (Ovis, Lu et al., 2024): 729 -> 196 rows."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.conv = Conv2d(config.input_dim, config.input_dim, 3, stride=2, padding=1)
        self.mlp = nn.Sequential(
            Linear(config.input_dim, config.mlp_dim, bias=False),
            LayerNorm(config.mlp_dim),  # eps 1e-5 here, 1e-6 in the towers
        )
        self.embedding = Embedding(config.mlp_dim, config.output_dim)
        self.hard = config.tokenize_function == "st_argmax"

    def forward(self, x: Tensor) -> Tensor:
        scores = self.mlp(_as_rows(self.conv(_as_map(x))))  # [n, 196, vocabulary]
        if self.hard:
            return self.embedding(scores.argmax(-1))
        return linear(scores.softmax(-1), self.embedding.weight.t())


class ConvAdapter(nn.Module):
    """MLP on every row, then a stride-2 convolution: 729 -> 196 rows."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            Linear(config.input_dim, config.mlp_dim), nn.GELU(), Linear(config.mlp_dim, config.output_dim)
        )
        self.conv = Conv2d(config.output_dim, config.output_dim, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return _as_rows(self.conv(_as_map(self.mlp(x))))


class MlpPixelShuffle(nn.Module):
    """r x r neighbouring rows are stacked into one, then an MLP: 729 -> 81 rows for r = 3."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.ratio = config.pixel_shuffle
        stacked = config.input_dim * self.ratio**2
        self.mlp = nn.Sequential(Linear(stacked, config.mlp_dim), nn.GELU(), Linear(config.mlp_dim, config.output_dim))

    def forward(self, x: Tensor) -> Tensor:
        n, rows, channels = x.shape
        side, r = math.isqrt(rows), self.ratio
        x = x.reshape(n, side, side // r, channels * r).permute(0, 2, 1, 3)
        x = x.reshape(n, side // r, side // r, channels * r * r).permute(0, 2, 1, 3)
        return self.mlp(x.reshape(n, -1, channels * r * r))


def build_projector(config: ProjectorConfig) -> nn.Module:
    """The projector ``config.kind`` names."""
    kinds: dict[str, type[nn.Module]] = {
        "ovis_conv_adapter": OvisConvAdapter,
        "conv_adapter": ConvAdapter,
        "mlp_pixel_shuffle": MlpPixelShuffle,
    }
    return kinds[config.kind](config)


def pool_map(map_HWC: Tensor, out_hw: tuple[int, int]) -> Tensor:
    """Adaptive average pooling of [h, w, C] to ``out_hw``."""
    if tuple(map_HWC.shape[:2]) == out_hw:
        return map_HWC
    return F.adaptive_avg_pool2d(map_HWC.permute(2, 0, 1)[None], out_hw)[0].permute(1, 2, 0)


def join_tiles(tiles: Tensor, grid_wh: tuple[int, int]) -> Tensor:
    """[gh * gw, 196, C] -> one map [gh * 14, gw * 14, C]"""
    grid_w, grid_h = grid_wh
    side = math.isqrt(tiles.shape[1])
    joined = tiles.unflatten(1, (side, side)).unflatten(0, (grid_h, grid_w))  # [gh, gw, s, s, C]
    return joined.transpose(1, 2).reshape(grid_h * side, grid_w * side, -1)


def pool_tiles(tiles: Tensor, side: int) -> Tensor:
    """[n, s * s, C] -> [n, side * side, C]"""
    return torch.stack([pool_map(_as_map(t[None])[0].permute(1, 2, 0), (side, side)).flatten(0, 1) for t in tiles])
