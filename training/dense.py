"""Linear heads that predict the dense labels, from the tower's tokens and from an early decoder layer.

The tower knows only relative places, so "row", "column" and "cell" are asked of the decoder, after PROBE layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.labels import CLASSES, NAMES

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
NO_OBJECT, NO_CHARACTER = 0.3, 0.03  # weights of patches that show none


class DenseHead(nn.Module):
    """One linear layer for several labels; ``weights`` of their losses."""

    def __init__(self, width: int, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = weights
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, sum(CLASSES[name] for name in weights))

    def forward(self, tokens: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss, and the accuracy of each label where there is something to see."""
        parts = self.out(self.norm(tokens)).split([CLASSES[name] for name in self.weights], -1)
        loss, scores = tokens.new_zeros(()), {}
        for (name, weight), logits in zip(self.weights.items(), parts, strict=True):
            target = labels[:, NAMES.index(name)]
            here = torch.ones_like(target, dtype=torch.bool) if name in EVERYWHERE else target > 0
            share = torch.where(here, 1.0, NO_CHARACTER if "character" in name else NO_OBJECT)
            each = F.cross_entropy(logits, target, reduction="none")
            loss = loss + weight * (each * share).sum() / share.sum()
            if here.any():
                scores[name] = (logits.argmax(-1) == target)[here].float().mean().item()
        return loss, scores


class DenseHeads(nn.Module):
    """Both heads; used in training only and never exported."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tower, self.decoder = DenseHead(width, TOWER_WEIGHTS), DenseHead(width, DECODER_WEIGHTS)
