"""valley-mini for training: a Qwen2-VL vision tower and a Qwen3 decoder whose module names are the tensor names.

Letters in names: N pictures or answer tokens, P patches or positions of a prefix, T tokens, H hidden, A heads, D width
of a head; S samples, R slots, L positions of a slot (``training.rows`` tells what prefixes and slots are).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from valley_cli.engine.families.valley.preprocess import CLIP_MEAN, CLIP_STD

VISION_THETA = 10000.0
EPS = 1e-6


@dataclass(frozen=True)
class ModelConfig:
    """Sizes; the defaults are valley-mini's."""

    vocab_size: int = 729
    hidden_size: int = 192
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 48
    intermediate_size: int = 384
    rope_theta: float = 10000.0
    vision_depth: int = 6
    vision_embed_dim: int = 128
    vision_num_heads: int = 4
    vision_mlp_ratio: int = 4
    merger_hidden_dim: int = 512


@dataclass(frozen=True)
class Layout:
    """Who sees whom. Tokens: the prefixes of S samples, each P long, then R slots, each L long.

    ``owner_R``: the sample of each slot. ``bias_RLT`` [R, L, P + L] and ``causal_PP`` are added to the scores: 0 where
    one may look, very low elsewhere. ``learn_N``: tokens after which an answer's token comes.
    """

    position_T: Tensor
    owner_R: Tensor
    causal_PP: Tensor
    bias_RLT: Tensor
    learn_N: Tensor

    def sizes(self) -> tuple[int, int, int, int]:
        """S, P, R, L."""
        rows, length, seen = self.bias_RLT.shape
        prefix = seen - length
        return (self.position_T.shape[0] - rows * length) // prefix, prefix, rows, length


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding over the last axis (the two halves of a head form the pairs)."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def attend(q_NAPD: Tensor, k_NBTD: Tensor, v_NBTD: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention in plain steps: on a CPU, for rows of a few hundred, twice as fast as the fused kernel.

    A is a multiple of B (grouped queries); ``mask``, added to the scores, broadcasts to [N, B, A / B, P, T]. Returns
    [N, P, A * D].
    """
    heads, length, dim = q_NAPD.shape[1:]
    groups = heads // k_NBTD.shape[1]
    q = (q_NAPD * dim**-0.5).unflatten(1, (-1, groups)).flatten(2, 3)  # N, B, groups * P, D
    scores = (q @ k_NBTD.mT).unflatten(2, (groups, length))
    if mask is not None:
        scores = scores + mask
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


def patches_of_pixels(pixels_NHWC: Tensor) -> Tensor:
    """uint8 [N, side, side, 3] -> [N, patches, 588]: normalised patches in 2x2 merge order, (channel, y, x) inside.

    The program's patches (spec valley2, 3.2) without their second, equal frame.
    """
    n, side = pixels_NHWC.shape[0], pixels_NHWC.shape[1]
    mean, std = (pixels_NHWC.new_tensor(values, dtype=torch.float32) for values in (CLIP_MEAN, CLIP_STD))
    normal = (pixels_NHWC.float() / 255 - mean) / std
    tiles = normal.view(n, side // 28, 2, 14, side // 28, 2, 14, 3)
    return tiles.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(n, -1, 588)


class PatchEmbed(nn.Module):
    """The convolution over whole patches, as a matmul; both temporal halves of a patch hold the same frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, dim, (2, 14, 14), (2, 14, 14), bias=False)

    def forward(self, patches_NPD: Tensor) -> Tensor:
        return F.linear(patches_NPD, self.proj.weight.sum(2).flatten(1))


class VisionAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x_NPE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        qkv = self.qkv(x_NPE).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3, N, A, P, D
        q, k = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin)
        return self.proj(attend(q, k, qkv[2]))


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

    def forward(self, pixels_NHWC: Tensor) -> Tensor:
        patches_NPD = patches_of_pixels(pixels_NHWC)
        cos, sin = vision_rotary(patches_NPD.shape[1], self.head_dim)
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

    def forward(self, x_TH: Tensor, turn: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        """Prefixes see themselves, slots their prefix and what ``layout.bias_RLT`` lets them see of themselves."""
        q, k, v = (p(x_TH).unflatten(-1, (-1, self.dim)) for p in (self.q_proj, self.k_proj, self.v_proj))  # T, A, D
        q, k = rotate(self.q_norm(q), *turn), rotate(self.k_norm(k), *turn)
        samples, prefix, rows, length = layout.sizes()
        split = samples * prefix
        q_S, k_S, v_S = (t[:split].unflatten(0, (samples, prefix)) for t in (q, k, v))  # S, P, A, D
        q_R, k_R, v_R = (t[split:].unflatten(0, (rows, length)) for t in (q, k, v))  # R, L, A, D
        seen_k, seen_v = (torch.cat((t[layout.owner_R], own), 1) for t, own in ((k_S, k_R), (v_S, v_R)))  # R, P+L
        seen_k, seen_v = seen_k.transpose(1, 2), seen_v.transpose(1, 2)
        of_prefix = attend(q_S.transpose(1, 2), k_S.transpose(1, 2), v_S.transpose(1, 2), layout.causal_PP)
        of_slots = attend(q_R.transpose(1, 2), seen_k, seen_v, layout.bias_RLT[:, None, None])
        return self.o_proj(torch.cat((of_prefix.flatten(0, 1), of_slots.flatten(0, 1))))


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

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turn, layout)
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

    def forward(self, x_TH: Tensor, layout: Layout, probe: int) -> tuple[Tensor, Tensor]:
        """(hidden states before the answers' tokens [n, H], states after ``probe`` layers [T, H])."""
        angle = (layout.position_T[:, None, None] * self.frequency).repeat(1, 1, 2)  # T, 1, D
        turn = angle.cos(), angle.sin()
        probed = x_TH
        for number, layer in enumerate(self.layers, 1):
            x_TH = layer(x_TH, turn, layout)
            if number == probe:
                probed = x_TH
        return self.norm(x_TH[layout.learn_N]), probed


class ValleyMini(nn.Module):
    """The whole model; the output matrix is the embedding (tied)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = ValleyModel(config)
        self.apply(_initialise)

    def see(self, pixels_NHWC: Tensor) -> Tensor:
        """Tokens of pictures of one size, [N, T, H]."""
        return self.model.qwen2vl_vision_tower(pixels_NHWC)

    def embed(self, ids_T: Tensor, pictures: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Embeddings [T, H] with picture tokens put in their slots; ``pictures``: (tokens [n, H], slots [n])."""
        x = F.embedding(ids_T.clamp(min=0), self.model.embed_tokens.weight)
        for tokens, slots in pictures:
            x = x.index_copy(0, slots, tokens)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight)


def _initialise(module: nn.Module) -> None:
    """Normal weights of 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding | nn.Conv3d):
        nn.init.normal_(module.weight, std=0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
