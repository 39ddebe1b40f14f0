"""The two vision towers (spec valley2, sections 5 and 7). Attribute names equal the weights' names.

They are small enough to stand here: importing transformers' own classes costs three CPU seconds a start. Pictures go
through together, and every one sees itself alone: no mask over several pictures is ever built, memory is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from valley_cli.engine.layers.basic import (
    Conv2d,
    Conv3d,
    Embedding,
    LayerNorm,
    Linear,
    apply_rotary,
    inverse_frequencies,
)
from valley_cli.engine.layers.config import SiglipConfig, VitConfig
from valley_cli.engine.layers.matmul import linear

VIT_EPS = 1e-6
MLP_ROWS = 8192  # at once: a picture of 65,536 patches would else take 1.3 GB in float32, three times
VIT_ROPE_THETA = 10_000.0


class SiglipEmbeddings(nn.Module):
    """Patches of 14 pixels ("valid": the last 6 rows and columns are not seen) plus learned positions."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        side = config.image_size // config.patch_size
        self.patch_embedding = Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)
        self.position_embedding = Embedding(side * side, config.hidden_size)

    def forward(self, tiles: Tensor) -> Tensor:
        patches = self.patch_embedding(tiles).flatten(2).transpose(1, 2)  # [n, 729, C]
        return patches + self.position_embedding.weight


class SiglipAttention(nn.Module):
    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj = Linear(size, size), Linear(size, size)
        self.v_proj, self.out_proj = Linear(size, size), Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, size = x.shape
        q, k, v = (
            proj(x).view(n, tokens, self.heads, -1).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v)  # [n, H, 729, D]
        return self.out_proj(out.transpose(1, 2).reshape(n, tokens, size))


class SiglipMLP(nn.Module):
    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SiglipLayer(nn.Module):
    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = SiglipAttention(config)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = SiglipMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class SiglipEncoder(nn.Module):
    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SiglipLayer(config) for _ in range(config.num_hidden_layers))


class SiglipTower(nn.Module):
    """SigLIP without its pooling head: tiles [n, 3, 384, 384] -> [n, 729, C] (Zhai et al., 2023)."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.embeddings = SiglipEmbeddings(config)
        self.encoder = SiglipEncoder(config)
        self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, tiles: Tensor) -> Tensor:
        x = self.embeddings(tiles)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x)


class PatchEmbed(nn.Module):
    """The published 3-D convolution over patches already cut out is one matrix product."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.proj = Conv3d(3, config.embed_dim, (2, 14, 14), (2, 14, 14), bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        return linear(patches, self.proj.weight.flatten(1))


Runs = Sequence[tuple[int, int]]  # so many pictures of so many patches each, one after the other


class VitAttention(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, runs: Runs) -> Tensor:
        total = x.shape[0]
        q, k, v = self.qkv(x).view(total, 3, self.heads, -1).permute(1, 2, 0, 3)  # each [H, total, D]
        q, k = (apply_rotary(part.float(), cos, sin).to(x.dtype) for part in (q, k))
        parts, first = [], 0
        for n, patches in runs:
            each = (
                part[:, first : first + n * patches].unflatten(1, (n, patches)).transpose(0, 1) for part in (q, k, v)
            )
            out = F.scaled_dot_product_attention(*each)  # [n, H, patches, D]
            parts.append(out.transpose(1, 2).reshape(n * patches, -1))
            first += n * patches
        return self.proj(parts[0] if len(parts) == 1 else torch.cat(parts))


class VitMLP(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.embed_dim, config.mlp_dim)
        self.fc2 = Linear(config.mlp_dim, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._rows(rows) for rows in x.split(MLP_ROWS)]) if len(x) > MLP_ROWS else self._rows(x)

    def _rows(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))  # quick GELU


class VitBlock(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.embed_dim, VIT_EPS)
        self.attn = VitAttention(config)
        self.norm2 = LayerNorm(config.embed_dim, VIT_EPS)
        self.mlp = VitMLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, runs: Runs) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, runs)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """Four neighbouring patches become one token: Qwen2-VL's own, or Valley2.5's wide one."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.ln_q = LayerNorm(config.embed_dim, VIT_EPS)
        self.mlp = nn.Sequential(
            Linear(4 * config.embed_dim, config.merger_dim),
            nn.GELU(),
            Linear(config.merger_dim, config.output_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x).view(-1, self.mlp[0].in_features))


class VitTower(nn.Module):
    """Qwen2-VL's vision transformer: patches [sum of gh * gw, 1176] of pictures of ``grids_hw``, one after the other
    -> [sum of gh * gw / 4, hidden]."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.head_dim = config.embed_dim // config.num_heads
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(VitBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config)

    def forward(self, patches: Tensor, grids_hw: Sequence[tuple[int, int]]) -> Tensor:
        tables = [self.rotary(grid_hw, patches.device) for grid_hw in grids_hw]
        cos, sin = (torch.cat(parts) for parts in zip(*tables, strict=True))
        runs = [(len(list(run)), size) for size, run in groupby(grid_h * grid_w for grid_h, grid_w in grids_hw)]
        x = self.patch_embed(patches)
        for block in self.blocks:
            x = block(x, cos, sin, runs)
        return self.merger(x)

    def rotary(self, grid_hw: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin [patches, D] float32: half the frequencies turn with the row, half with the column."""
        grid_h, grid_w = grid_hw
        rows = torch.arange(grid_h, device=device)[:, None].expand(grid_h, grid_w)
        cols = torch.arange(grid_w, device=device)[None, :].expand(grid_h, grid_w)
        positions = torch.stack((rows, cols), dim=-1)  # [gh, gw, 2] -> merge order
        positions = positions.reshape(grid_h // 2, 2, grid_w // 2, 2, 2).transpose(1, 2).reshape(-1, 2)
        inv_freq = inverse_frequencies(self.head_dim // 2, VIT_ROPE_THETA, device)
        angles = (positions.float()[..., None] * inv_freq).flatten(1)  # [patches, D / 2]
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()
