"""Valley2 and Valley2.5: towers, projector, decoder, and how pictures enter the sequence (spec valley2, 7 and 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from valley_cli.engine.families.base import Unit
from valley_cli.engine.families.valley import geometry
from valley_cli.engine.families.valley.config import ValleyConfig
from valley_cli.engine.families.valley.projector import build_projector, join_tiles, pool_map, pool_tiles
from valley_cli.engine.layers.basic import Embedding, Linear, RMSNorm
from valley_cli.engine.layers.decoder import DecoderLayer
from valley_cli.engine.layers.fused import DecoderParts
from valley_cli.engine.layers.vision import SiglipTower, VitTower

if TYPE_CHECKING:
    from valley_cli.engine.families.valley.preprocess import Picture

# Bounds the visual-vocabulary softmax, tiles x 196 x 32000 values: 50 MB a matrix on a CPU in float32, where more tiles
# at once bring nothing; a CUDA card wants them all.
TILES_AT_ONCE = {"cpu": 2, "cuda": 16}


Size = tuple[int, int]
Encoded = tuple[Tensor | None, Tensor | None]


class _Named(nn.Module):
    """A module whose one child has the name the checkpoint gives it."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class ValleyModel(nn.Module):
    """Everything under ``model.`` in the checkpoint."""

    def __init__(self, config: ValleyConfig) -> None:
        super().__init__()
        text = config.text
        self.embed_tokens = Embedding(text.vocab_size, text.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(text) for _ in range(text.num_hidden_layers))
        self.norm = RMSNorm(text.hidden_size, text.rms_norm_eps)
        if config.siglip and config.projector:
            self.vision_tower = _Named(vision_tower=_Named(vision_model=SiglipTower(config.siglip)))
            self.mm_projector = build_projector(config.projector)
        if config.vit:
            self.qwen2vl_vision_tower = VitTower(config.vit)


class Valley(nn.Module):
    """The whole model. No state: keys and values live with the caller."""

    def __init__(self, config: ValleyConfig) -> None:
        super().__init__()
        self.config = config
        self.model = ValleyModel(config)
        self.lm_head = Linear(config.text.hidden_size, config.text.vocab_size, bias=False)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embed_tokens.weight.dtype

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., C] -> [..., vocabulary]. Pass only the positions whose logits are wanted."""
        weight = self.model.embed_tokens.weight if self.config.text.tie_word_embeddings else self.lm_head.weight
        return F.linear(self.model.norm(hidden), weight)

    def encode_tiles(self, tiles: Sequence[Tensor], sizes_wh: Sequence[Size], grids_wh: Sequence[Size]) -> list[Tensor]:
        """SigLIP rows of each picture, [tokens, C], from its tiles [n, 3, 384, 384]; the base tile comes first."""
        tower = self.model.get_submodule("vision_tower.vision_tower.vision_model")
        parts = torch.cat(list(tiles)).split(TILES_AT_ONCE[tiles[0].device.type])
        rows = torch.cat([self.model.mm_projector(tower(part)) for part in parts])
        each = rows.split([len(part) for part in tiles])
        return [self._laid_out(*picture) for picture in zip(each, sizes_wh, grids_wh, strict=True)]

    def _laid_out(self, rows: Tensor, size_wh: Size, grid_wh: Size) -> Tensor:
        """One picture's tiles [n, rows, C] as the sequence has them, [tokens, C]."""
        config = self.config
        if not config.anyres:
            return rows[0]
        if config.vit is None:
            return _pooled_without_eagle(rows, config.max_vision_token)
        if len(rows) == 1:
            return rows[0]
        side = math.isqrt(rows.shape[1])
        map_hw = (grid_wh[1] * side, grid_wh[0] * side)
        top, bottom, left, right = geometry.unpad_window(map_hw, size_wh)
        window = join_tiles(rows[1:], grid_wh)[top : max(bottom, top), left : max(right, left)]
        if window.numel():
            window = pool_map(window, geometry.tile_map_hw(size_wh, grid_wh, config.max_vision_token, side))
        return torch.cat((rows[0], window.flatten(0, 1)))

    def encode_patches(self, patches: Sequence[Tensor], grids_hw: Sequence[Size]) -> Sequence[Tensor]:
        """Qwen2-VL rows of each picture, [tokens, C], from its patches [gh * gw, 1176]."""
        rows = self.model.qwen2vl_vision_tower(torch.cat(list(patches)), grids_hw)
        return rows.split([grid_h * grid_w // 4 for grid_h, grid_w in grids_hw])

    @property
    def embedding(self) -> Tensor:
        """See ``base.Compute``."""
        return self.model.embed_tokens.weight

    @property
    def decoder(self) -> DecoderParts:
        """See ``base.Compute``."""
        head = None if self.config.text.tie_word_embeddings else self.lm_head
        return DecoderParts(self.config.text, self.model.layers, self.model.norm.weight, self.embedding, head)

    def encode_towers(self, pictures: Sequence[Picture]) -> list[Encoded]:
        """(SigLIP rows, Qwen2-VL rows) of each picture, [tokens, C], None for towers the model lacks."""
        config, plans = self.config, [picture.plan for picture in pictures]
        siglip: Sequence[Tensor | None] = [None] * len(pictures)
        vit: Sequence[Tensor | None] = [None] * len(pictures)
        tiles = [self._tensor(picture.tiles) for picture in pictures if picture.tiles is not None]
        if config.siglip and len(tiles) == len(pictures):
            sizes, grids = [plan.size_wh for plan in plans], [plan.tile_grid_wh for plan in plans]
            siglip = self.encode_tiles(tiles, sizes, grids)
        patches = [self._tensor(picture.patches) for picture in pictures if picture.patches is not None]
        if config.vit and len(patches) == len(pictures):
            vit = self.encode_patches(patches, [plan.grid_hw for plan in plans])
        return list(zip(siglip, vit, strict=True))

    def _tensor(self, array: object) -> Tensor:
        return torch.as_tensor(array).to(self.embedding.device, self.dtype)

    def encode(self, items: Sequence[Picture]) -> list[Tensor]:
        """See ``base.Compute``: the SigLIP rows, then the Qwen2-VL rows."""
        return [torch.cat([part for part in parts if part is not None]) for parts in self.encode_towers(items)]

    def embed(self, units: Sequence[Unit], rows: Sequence[Tensor]) -> Tensor:
        """See ``base.Compute``."""
        left, parts, text = iter(rows), list[Tensor](), list[int]()

        def flush() -> None:
            if text:
                parts.append(self.model.embed_tokens(torch.tensor(text, device=self.embedding.device)))
                text.clear()

        for unit in units:
            if isinstance(unit, int):
                text.append(unit)
            else:
                flush()
                parts.append(next(left))
        flush()
        return torch.cat(parts)


def _pooled_without_eagle(rows: Tensor, max_vision_token: int) -> Tensor:
    """SigLIP-only checkpoints: all tiles one after the other, pooled to k x k when there are too many (spec 7)."""
    if rows.shape[0] * rows.shape[1] > max_vision_token:
        rows = pool_tiles(rows, int(math.sqrt(max_vision_token / rows.shape[0])))
    return rows.flatten(0, 1)
