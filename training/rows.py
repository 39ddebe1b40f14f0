"""Conversations as rows of token ids: the program's own prompt, many questions to one picture.

A row is a shared prefix (system prompt and pictures) and then either *branches*, questions that each see the prefix
and themselves only and whose positions start again after the prefix, or *turns*, a conversation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from training.questions import Question
from training.tokenizer import SYSTEM, Encoder

PICTURE = -200  # the picture placeholder's id in the published code
IGNORE = -100  # label of a position without loss


@dataclass
class Row:
    """Parallel lists, one entry a position. ``branch`` 0 is the prefix; ``label`` is the id at this position.

    ``weight`` of a position in the loss: an answer of n tokens counts as sqrt(n), so that descriptions do not drown
    the short answers.
    """

    ids: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)

    def add(self, ids: list[int], start: int, branch: int, learn: bool = False) -> int:
        """Append ``ids`` at positions from ``start``; returns the position after them."""
        self.ids += ids
        self.position += range(start, start + len(ids))
        self.branch += [branch] * len(ids)
        self.label += ids if learn else [IGNORE] * len(ids)
        self.weight += [len(ids) ** -0.5 if learn else 0.0] * len(ids)
        return start + len(ids)


def prefix(encoder: Encoder, pictures: int, tokens: int, system: str) -> tuple[list[int], str]:
    """Ids up to the last picture, and the text that the first question's chunk starts with."""
    ids = list(encoder.encode(f"<|im_start|>system\n{system}<|im_end|>\n"))
    if not pictures:
        return ids, "<|im_start|>user\n"
    opening = "<|im_start|>user\n<im_start>"
    for _ in range(pictures):
        ids += encoder.encode(opening) + [PICTURE] * tokens
        opening = "<im_end> <im_start>"
    return ids, "<im_end>\n"


def prompt_ids(encoder: Encoder, pictures: int, tokens: int, question: str, system: str = SYSTEM) -> list[int]:
    """The whole prompt of a first turn, ready to be continued by the answer."""
    ids, opening = prefix(encoder, pictures, tokens, system)
    return ids + encoder.encode(f"{opening}{question}<|im_end|>\n") + encoder.encode("<|im_start|>assistant\n")


def build_row(
    encoder: Encoder, pictures: int, tokens: int, asked: list[Question], *, turns: bool, system: str = SYSTEM
) -> Row:
    """The row of a sample: ``asked`` as branches, or as the turns of one conversation."""
    row = Row()
    ids, opening = prefix(encoder, pictures, tokens, system)
    shared = row.add(ids, 0, 0)
    at = shared
    for number, question in enumerate(asked):
        branch = 1 if turns else number + 1
        if not turns:
            at = shared
        elif number:
            at = row.add(encoder.encode("\n"), at, branch)
            opening = "<|im_start|>user\n"
        at = row.add(encoder.encode(f"{opening}{question.text}<|im_end|>\n"), at, branch)
        at = row.add(encoder.encode("<|im_start|>assistant\n"), at, branch)
        at = row.add(encoder.encode(f"{question.answer}<|im_end|>"), at, branch, learn=True)
    return row
