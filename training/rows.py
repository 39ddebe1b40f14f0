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
    the short answers. ``answer``: 1 + the number of the question that the position answers, 0 outside of answers.
    """

    ids: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)

    def add(self, ids: list[int], start: int, branch: int, answer: int = 0) -> int:
        """Append ``ids`` at positions from ``start``, learned if they are an answer; returns the next position."""
        learn = answer > 0
        self.ids += ids
        self.position += range(start, start + len(ids))
        self.branch += [branch] * len(ids)
        self.label += ids if learn else [IGNORE] * len(ids)
        self.weight += [len(ids) ** -0.5 if learn else 0.0] * len(ids)
        self.answer += [answer] * len(ids)
        return start + len(ids)

    def parts(self) -> tuple[int, list[tuple[int, int]]]:
        """Length of the prefix, which comes first, and (start, end) of each branch."""
        prefix = next((at for at, branch in enumerate(self.branch) if branch), len(self.branch))
        starts = [at for at in range(prefix, len(self.branch)) if self.branch[at] != self.branch[at - 1]]
        ends = [*starts[1:], len(self.branch)]
        return prefix, list(zip(starts, ends, strict=False))


def user_turn(pictures: int, tokens: int, encoder: Encoder) -> tuple[list[int], str]:
    """Ids of a user's turn up to its last picture, and the text that the question's chunk starts with."""
    if not pictures:
        return [], "<|im_start|>user\n"
    ids: list[int] = []
    opening = "<|im_start|>user\n<im_start>"
    for _ in range(pictures):
        ids += encoder.encode(opening) + [PICTURE] * tokens
        opening = "<im_end> <im_start>"
    return ids, "<im_end>\n"


def system_turn(encoder: Encoder, system: str) -> list[int]:
    return list(encoder.encode(f"<|im_start|>system\n{system}<|im_end|>\n"))


def branches_row(encoder: Encoder, pictures: int, tokens: int, asked: list[Question], system: str = SYSTEM) -> Row:
    """A row in which every question follows the pictures on its own."""
    row = Row()
    ids, opening = user_turn(pictures, tokens, encoder)
    shared = row.add(system_turn(encoder, system) + ids, 0, 0)
    for number, question in enumerate(asked, 1):
        at = row.add(encoder.encode(f"{opening}{question.text}<|im_end|>\n"), shared, number)
        at = row.add(encoder.encode("<|im_start|>assistant\n"), at, number)
        row.add(encoder.encode(f"{question.answer}<|im_end|>"), at, number, number)
    return row


def branch_length(encoder: Encoder, question: Question) -> int:
    """Positions that a question about pictures and its answer take as a branch."""
    asked = encoder.encode(f"{user_turn(1, 0, encoder)[1]}{question.text}<|im_end|>\n")
    told = encoder.encode(f"{question.answer}<|im_end|>")
    return len(asked) + len(encoder.encode("<|im_start|>assistant\n")) + len(told)


def turns_row(encoder: Encoder, attached: list[int], tokens: int, asked: list[Question], system: str = SYSTEM) -> Row:
    """A row that is one conversation; ``attached[i]`` pictures come with question i, the first ones in the prefix."""
    row = Row()
    at = row.add(system_turn(encoder, system), 0, 0)
    for number, (question, pictures) in enumerate(zip(asked, attached, strict=True), 1):
        if number > 1:
            at = row.add(encoder.encode("\n"), at, 1)
        ids, opening = user_turn(pictures, tokens, encoder)
        at = row.add(ids, at, min(1, number - 1))
        at = row.add(encoder.encode(f"{opening}{question.text}<|im_end|>\n"), at, 1)
        at = row.add(encoder.encode("<|im_start|>assistant\n"), at, 1)
        at = row.add(encoder.encode(f"{question.answer}<|im_end|>"), at, 1, number)
    return row
