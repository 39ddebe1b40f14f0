"""What the worker gives to the runner: prompts that are to be read, and pieces of them. No torch at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from valley_cli.engine.families.base import Item, Unit
from valley_cli.engine.schedule.slots import Slot

if TYPE_CHECKING:
    from torch import Tensor

PromptRows: TypeAlias = "Tensor"  # what the decoder reads of a prompt, [T, C], and any piece of it


@dataclass(frozen=True)
class Unread:
    """A prompt of which the first ``skip`` units are in the cache. ``said``: the answer so far, to be read anew.

    ``most_tokens``: the prompt, without what was said, is cut to so many.
    """

    units: Sequence[Unit]
    items: Sequence[Item]
    skip: int = 0
    said: Sequence[int] = ()
    most_tokens: int | None = None

    @property
    def left(self) -> list[Unit]:
        """The units that are to be read."""
        return [*self.units, *self.said][self.skip :]

    @property
    def needed(self) -> Sequence[Item]:
        """The pictures that are to be looked at."""
        seen = sum(not isinstance(unit, int) for unit in [*self.units][: self.skip])
        return self.items[seen : seen + sum(not isinstance(unit, int) for unit in self.left)]


@dataclass(frozen=True)
class Piece:
    """Rows of a prompt [T, C] that go behind the ``start`` tokens which ``slot`` holds."""

    slot: Slot
    rows: PromptRows
    start: int = 0
