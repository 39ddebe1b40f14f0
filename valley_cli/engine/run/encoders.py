"""Pictures through the vision towers, several at once where they are small, and what was encoded lately."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from valley_cli.api import OnStage, Stage
from valley_cli.engine.families.base import Compute, Item

KEPT_BYTES = 256_000_000  # rows of encoded pictures, for the next question; never more than the weights take
PATCHES_AT_ONCE = {"cpu": 2048, "cuda": 16384}  # of Qwen2-VL: bounds memory; fewer leave a card idle


class EncodedCache:
    """The towers of ``model`` on ``device``. Runs without gradients."""

    def __init__(self, model: Compute, device: torch.device) -> None:
        self.model, self.device = model, device
        self._limit = min(KEPT_BYTES, sum(parameter.nbytes for parameter in model.parameters()))
        self._kept: dict[str, Tensor] = {}  # by picture key, the newest last

    @property
    def n_bytes(self) -> int:
        """Of what is kept."""
        return sum(rows.nbytes for rows in self._kept.values())

    def drop_caches(self) -> None:
        self._kept.clear()

    @torch.inference_mode()
    def rows(self, pictures: Sequence[Item], on_stage: OnStage) -> list[Tensor]:
        """What the decoder reads of each picture, [tokens, C]."""
        missing = {picture.key: picture for picture in pictures if picture.key not in self._kept}
        found = {picture.key: self._kept.pop(picture.key) for picture in pictures if picture.key in self._kept}
        for group in in_groups(list(missing.values()), PATCHES_AT_ONCE[self.device.type]):
            on_stage(Stage("looking at pictures", len(found), len(found) + len(missing), "pictures"))
            for picture, rows in zip(group, self.model.encode(group), strict=True):
                found[picture.key] = rows
                del missing[picture.key]
        self._keep(found)
        return [found[picture.key] for picture in pictures]

    def _keep(self, found: dict[str, Tensor]) -> None:
        self._kept |= found
        size = self.n_bytes
        while len(self._kept) > 1 and size > self._limit:
            size -= self._kept.pop(next(iter(self._kept))).nbytes


def in_groups(pictures: Sequence[Item], patches: int) -> Iterator[list[Item]]:
    """The pictures in order, so many at once that they have ``patches`` patches together, or one that has more."""
    group: list[Item] = []
    total = 0
    for picture in pictures:
        size = picture.n_patches
        if group and total + size > patches:
            yield group
            group, total = [], 0
        group.append(picture)
        total += size
    if group:
        yield group
