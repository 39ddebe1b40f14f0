"""valley-mini for training: a Qwen2-VL vision tower and a Qwen3 decoder whose module names are the tensor names.

Letters in names: B rows, L positions, N pictures, P patches, T tokens, H hidden, A heads, D width of a head.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VISION_THETA = 10000.0
EPS = 1e-6


@dataclass(frozen=True)
class ModelConfig:
    """Sizes; the defaults are valley-mini's."""

    vocab_size: int = 720
    hidden_size: int = 192
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 48
    intermediate_size: int = 384
    rope_theta: float = 10000.0
    vision_depth: int = 4
    vision_embed_dim: int = 128
    vision_num_heads: int = 4
    vision_mlp_ratio: int = 4
    merger_hidden_dim: int = 512

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding over the last axis (the two halves of a head form the pairs)."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def attend(q_NAPD: Tensor, k_NBTD: Tensor, v_NBTD: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention in plain steps: on a CPU, for rows of a few hundred, twice as fast as the fused kernel.

    A is a multiple of B (grouped queries); ``mask`` [N, 1, P, T] is added to the scores. Returns [N, P, A * D].
    """
    heads, length, dim = q_NAPD.shape[1:]
    groups = heads // k_NBTD.shape[1]
    with torch.autocast(q_NAPD.device.type, enabled=False):  # all in the precision that comes in
        q = (q_NAPD * dim**-0.5).unflatten(1, (-1, groups)).flatten(2, 3)  # N, B, groups * P, D
        scores = (q @ k_NBTD.mT).unflatten(2, (groups, length))
        if mask is not None:
            scores += mask[:, None]
        mixed = scores.softmax(-1).flatten(2, 3) @ v_NBTD
    return mixed.unflatten(2, (groups, length)).flatten(1, 2).transpose(1, 2).flatten(2)


def vision_rotary(patches: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos, sin [patches, head_dim] of a square grid's patches in 2x2 merge order."""
    grid = round(patches**0.5)
    rows = torch.arange(grid)[:, None].expand(grid, grid)
    ordered = [x.reshape(grid // 2, 2, grid // 2, 2).transpose(1, 2).flatten() for x in (rows, rows.T)]
    frequency = VISION_THETA ** -(torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2))
    angle = torch.cat([place[:, None] * frequency for place in ordered], 1).repeat(1, 2)
    return angle.cos(), angle.sin()


class PatchEmbed(nn.Module):
    """The convolution over whole patches, as a matmul; both temporal halves of a patch hold the same frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, dim, (2, 14, 14), (2, 14, 14), bias=False)

    def forward(self, patches_NPD: Tensor) -> Tensor:
        frame = patches_NPD.unflatten(-1, (3, 2, 196))[..., 0, :].flatten(-2)
        return F.linear(frame, self.proj.weight.sum(2).flatten(1))


class VisionAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x_NPE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        qkv = self.qkv(x_NPE).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3, N, A, P, D
        q, k = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin)
        return self.proj(attend(q.type_as(qkv), k.type_as(qkv), qkv[2]))


class VisionMlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class VisionBlock(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.vision_embed_dim
        self.norm1, self.norm2 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.attn = VisionAttention(dim, config.vision_num_heads)
        self.mlp = VisionMlp(dim, dim * config.vision_mlp_ratio)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """Four neighbouring patches to one token of the decoder's width."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.vision_embed_dim
        self.ln_q = nn.LayerNorm(dim, EPS)
        hidden = config.merger_hidden_dim
        self.mlp = nn.Sequential(nn.Linear(4 * dim, hidden), nn.GELU(), nn.Linear(hidden, config.hidden_size))

    def forward(self, x_NPE: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x_NPE).unflatten(1, (-1, 4)).flatten(2))


class VisionTower(nn.Module):
    """Square pictures of one size -> their tokens [N, T, H]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.vision_embed_dim // config.vision_num_heads
        self.patch_embed = PatchEmbed(config.vision_embed_dim)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.vision_depth))
        self.merger = Merger(config)

    def forward(self, patches_NPD: Tensor) -> Tensor:
        cos, sin = (t.to(patches_NPD.device) for t in vision_rotary(patches_NPD.shape[1], self.head_dim))
        x = self.patch_embed(patches_NPD)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.merger(x)


class DecoderAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, dim = config.hidden_size, config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.dim = dim
        self.q_proj, self.o_proj = nn.Linear(hidden, heads * dim, False), nn.Linear(heads * dim, hidden, False)
        self.k_proj, self.v_proj = nn.Linear(hidden, kv_heads * dim, False), nn.Linear(hidden, kv_heads * dim, False)
        self.q_norm, self.k_norm = nn.RMSNorm(dim, EPS), nn.RMSNorm(dim, EPS)

    def forward(self, x_BLH: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (p(x_BLH).unflatten(-1, (-1, self.dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (t.transpose(1, 2) for t in (self.q_norm(q), self.k_norm(k), v))  # B, A, L, D
        q, k = rotate(q, cos, sin).type_as(v), rotate(k, cos, sin).type_as(v)
        return self.o_proj(attend(q, k, v, mask.type_as(v)))


class DecoderMlp(nn.Module):
    def __init__(self, hidden: int, wide: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(hidden, wide, False), nn.Linear(hidden, wide, False)
        self.down_proj = nn.Linear(wide, hidden, False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, EPS)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, EPS)
        self.self_attn = DecoderAttention(config)
        self.mlp = DecoderMlp(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class ValleyModel(nn.Module):
    """Tower and decoder. ``forward`` also returns the hidden states after ``probe`` layers, for dense labels."""

    frequency: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, EPS)
        self.qwen2vl_vision_tower = VisionTower(config)
        exponent = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        self.register_buffer("frequency", config.rope_theta**-exponent, persistent=False)

    def forward(self, x_BLH: Tensor, position_BL: Tensor, visible_BLL: Tensor, probe: int) -> tuple[Tensor, Tensor]:
        angle = (position_BL[:, None, :, None] * self.frequency).repeat(1, 1, 1, 2)  # B, 1, L, D
        cos, sin = angle.cos(), angle.sin()
        mask = torch.zeros_like(visible_BLL, dtype=x_BLH.dtype).masked_fill(~visible_BLL, -1e9)[:, None]
        probed = x_BLH
        for number, layer in enumerate(self.layers, 1):
            x_BLH = layer(x_BLH, cos, sin, mask)
            if number == probe:
                probed = x_BLH
        return self.norm(x_BLH), probed


class ValleyMini(nn.Module):
    """The whole model; the output matrix is the embedding (tied)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = ValleyModel(config)
        self.apply(_initialise)

    def see(self, patches_NPD: Tensor) -> Tensor:
        """Tokens of pictures of one size, [N, T, H]."""
        return self.model.qwen2vl_vision_tower(patches_NPD)

    def embed(self, ids_BL: Tensor, pictures: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Embeddings with picture tokens put in their slots; ``pictures``: (tokens [n, H], flat slots [n])."""
        x = F.embedding(ids_BL.clamp(min=0), self.model.embed_tokens.weight)
        for tokens, slots in pictures:
            x = x.flatten(0, 1).index_copy(0, slots, tokens.to(x.dtype)).view_as(x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight).float()


def _initialise(module: nn.Module) -> None:
    """Normal weights of 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding | nn.Conv3d):
        nn.init.normal_(module.weight, std=0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
