"""Pictures through the vision towers, several at once where they are small, and what was encoded lately."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from valley_cli.api import OnStage, Stage
from valley_cli.engine.families.valley.model import Valley

if TYPE_CHECKING:
    from valley_cli.engine.families.valley.preprocess import Picture

KEPT_BYTES = 256_000_000  # rows of encoded pictures, for the next question; never more than the weights take
PATCHES_AT_ONCE = {"cpu": 2048, "cuda": 16384}  # of Qwen2-VL: bounds memory; fewer leave a card idle

Encoded = tuple[Tensor | None, Tensor | None]


class Towers:
    """The towers of ``model`` on ``device``. Runs without gradients."""

    def __init__(self, model: Valley, device: torch.device) -> None:
        self.model, self.device = model, device
        self._limit = min(KEPT_BYTES, sum(parameter.nbytes for parameter in model.parameters()))
        self._kept: dict[str, Tensor] = {}  # by picture key, the newest last

    @property
    def n_bytes(self) -> int:
        """Of what is kept."""
        return sum(rows.nbytes for rows in self._kept.values())

    def forget(self) -> None:
        self._kept.clear()

    @torch.inference_mode()
    def rows(self, pictures: Sequence[Picture], on_stage: OnStage) -> list[Tensor]:
        """What the decoder reads of each picture, [tokens, C]: the SigLIP rows, then the Qwen2-VL rows."""
        missing = {picture.key: picture for picture in pictures if picture.key not in self._kept}
        found = {picture.key: self._kept.pop(picture.key) for picture in pictures if picture.key in self._kept}
        for group in in_groups(list(missing.values()), PATCHES_AT_ONCE[self.device.type]):
            on_stage(Stage("looking at pictures", len(found), len(found) + len(missing), "pictures"))
            for picture, encoded in zip(group, self.encode(group), strict=True):
                found[picture.key] = torch.cat([part for part in encoded if part is not None])
                del missing[picture.key]
        self._keep(found)
        return [found[picture.key] for picture in pictures]

    def _keep(self, found: dict[str, Tensor]) -> None:
        self._kept |= found
        size = self.n_bytes
        while len(self._kept) > 1 and size > self._limit:
            size -= self._kept.pop(next(iter(self._kept))).nbytes

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> list[Encoded]:
        """(SigLIP rows, Qwen2-VL rows) of each picture, [tokens, C], None for towers the model lacks."""
        config, plans = self.model.config, [picture.plan for picture in pictures]
        siglip: Sequence[Tensor | None] = [None] * len(pictures)
        vit: Sequence[Tensor | None] = [None] * len(pictures)
        tiles = [self._tensor(picture.tiles) for picture in pictures if picture.tiles is not None]
        if config.siglip and len(tiles) == len(pictures):
            sizes, grids = [plan.size_wh for plan in plans], [plan.tile_grid_wh for plan in plans]
            siglip = self.model.encode_tiles(tiles, sizes, grids)
        patches = [self._tensor(picture.patches) for picture in pictures if picture.patches is not None]
        if config.vit and len(patches) == len(pictures):
            vit = self.model.encode_patches(patches, [plan.grid_hw for plan in plans])
        return list(zip(siglip, vit, strict=True))

    def _tensor(self, array: object) -> Tensor:
        return torch.as_tensor(array).to(self.device, self.model.dtype)


def in_groups(pictures: Sequence[Picture], patches: int) -> Iterator[list[Picture]]:
    """The pictures in order, so many at once that they have ``patches`` patches together, or one that has more."""
    group: list[Picture] = []
    total = 0
    for picture in pictures:
        size = picture.plan.grid_hw[0] * picture.plan.grid_hw[1]
        if group and total + size > patches:
            yield group
            group, total = [], 0
        group.append(picture)
        total += size
    if group:
        yield group
