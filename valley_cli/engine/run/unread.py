"""What the worker gives to the runner: prompts that are to be read, and pieces of them. No torch at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from valley_cli.engine.families.valley.prompt import IMAGE_ID
from valley_cli.engine.schedule.slots import Segment

if TYPE_CHECKING:
    from torch import Tensor

    from valley_cli.engine.families.valley.preprocess import Picture

PromptRows: TypeAlias = "Tensor"  # what the decoder reads of a prompt, [T, C], and any piece of it


@dataclass(frozen=True)
class Unread:
    """A prompt of which the first ``skip`` ids, whole pictures among them, are in the cache. ``said``: the answer so
    far, to be read anew."""

    input_ids: Sequence[int]
    pictures: Sequence[Picture]
    skip: int = 0
    said: Sequence[int] = ()

    @property
    def ids(self) -> list[int]:
        """The ids that are to be read."""
        return [*self.input_ids, *self.said][self.skip :]

    @property
    def needed(self) -> Sequence[Picture]:
        """The pictures that are to be looked at."""
        seen = [*self.input_ids][: self.skip].count(IMAGE_ID)
        return self.pictures[seen : seen + self.ids.count(IMAGE_ID)]


@dataclass(frozen=True)
class Piece:
    """Rows of a prompt [T, C] that go behind the ``start`` tokens which ``segment`` holds."""

    segment: Segment
    rows: PromptRows
    start: int = 0
