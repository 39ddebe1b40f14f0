"""Linear heads that predict the dense labels, from the tower's tokens and from an early decoder layer.

The tower knows only relative places, so "row", "column" and "cell" are asked of the decoder, after PROBE layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.labels import CLASSES, NAMES, OFFSETS, SUBGRID, PictureLabels

PROBE = 2
TOWER_WEIGHTS = {
    "shape": 1.0,
    "colour": 1.0,
    "size": 0.5,
    "left character": 1.0,
    "right character": 1.0,
    "background": 0.5,
    "style": 0.5,
}
DECODER_WEIGHTS = {"shape": 0.5, "colour": 0.5, "size": 0.5, "cell": 1.0, "row": 0.5, "column": 0.5, "change": 1.0}
EVERYWHERE = ("background", "style", "row", "column")  # labels without a "none" class
NONE_WEIGHT, NO_CHARACTER = 0.3, 0.03  # of patches that show no object, no character
Scores = dict[str, float]


class DenseHead(nn.Module):
    """One linear layer for several labels, and optionally for offsets and mask."""

    def __init__(self, width: int, weights: dict[str, float], geometry: bool) -> None:
        super().__init__()
        self.weights, self.geometry = weights, geometry
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, sum(CLASSES[name] for name in weights) + geometry * (OFFSETS + SUBGRID**2))

    def forward(self, tokens: Tensor, labels: PictureLabels) -> tuple[Tensor, Scores]:
        """The loss, and the accuracy of each label where there is something to see."""
        predicted = self.out(self.norm(tokens.float()))
        widths = [CLASSES[name] for name in self.weights] + ([OFFSETS, SUBGRID**2] if self.geometry else [])
        parts = predicted.split(widths, -1)
        loss, scores = predicted.new_zeros(()), {}
        for (name, weight), logits in zip(self.weights.items(), parts, strict=False):
            target = labels.classes[:, NAMES.index(name)]
            here = torch.ones_like(target, dtype=torch.bool) if name in EVERYWHERE else target > 0
            share = torch.where(here, 1.0, NO_CHARACTER if "character" in name else NONE_WEIGHT)
            each = F.cross_entropy(logits, target, reduction="none")
            loss = loss + weight * (each * share).sum() / share.sum()
            if here.any():
                scores[name] = (logits.argmax(-1) == target)[here].float().mean().item()
        return (loss + self._geometry_loss(parts, labels) if self.geometry else loss), scores

    def _geometry_loss(self, parts: tuple[Tensor, ...], labels: PictureLabels) -> Tensor:
        on_thing = (labels.classes[:, 0] > 0).float()[:, None]
        error = F.smooth_l1_loss(parts[-2], labels.offsets, beta=0.2, reduction="none") * on_thing
        mask = F.binary_cross_entropy_with_logits(parts[-1], labels.mask)
        return error.sum() / on_thing.sum().clamp(min=1) + 2 * mask


class DenseHeads(nn.Module):
    """Both heads; used in training only and never exported."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tower = DenseHead(width, TOWER_WEIGHTS, geometry=True)
        self.decoder = DenseHead(width, DECODER_WEIGHTS, geometry=False)
