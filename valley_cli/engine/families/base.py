"""What a model family is to the rest of the engine. A family is one folder here, named in ``families.FAMILIES``.

Three values in a row, each made once: the open checkpoint (``Model``: sizes only, no torch) -> ``PromptPlan`` ->
``Prepared``. Only ``Model.build`` imports torch; what it gives (``Compute``) encodes media and embeds prompts, and
lends its decoder's weights. Scheduler, worker and runner know units, keys and rows; they name no family.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from valley_cli.api import OnStage, PictureCost, Request, unheard
from valley_cli.errors import PromptError, option
from valley_cli.media.request import MediaReader, ReadTimings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from valley_cli.engine.checkpoint.mapped import MappedTensors
    from valley_cli.engine.layers.fused import DecoderParts


@dataclass(frozen=True)
class MediaUnit:
    """A picture's place in the sequence: ``tokens`` rows that equal keys make equal."""

    key: str
    tokens: int


Unit: TypeAlias = int | MediaUnit  # a text token or a whole picture


def count_tokens(units: Iterable[Unit]) -> int:
    """Rows the units take in the cache."""
    return sum(1 if isinstance(unit, int) else unit.tokens for unit in units)


class Item(Protocol):
    """What a family makes of one picture for its towers. ``key`` names its tensors: equal keys, equal tensors."""

    @property
    def key(self) -> str: ...

    @property
    def n_patches(self) -> int:
        """What it costs the towers, for grouping."""
        ...


@dataclass(frozen=True)
class PromptPlan:
    """What a request takes, before a pixel is read. ``notes``: what was wrong with media that could be read."""

    costs: tuple[PictureCost, ...]
    prompt_tokens: int
    notes: tuple[str, ...] = ()

    @property
    def image_tokens(self) -> int:
        return min(sum(cost.tokens for cost in self.costs), self.prompt_tokens)


@dataclass(frozen=True)
class Prepared:
    """A prompt that can be run: its units, and an item for each unit of a picture, in order.

    ``prompt_tokens``: fewer than the units have where the checkpoint cuts long prompts.
    """

    units: tuple[Unit, ...]
    items: tuple[Item, ...]
    prompt_tokens: int

    @property
    def reusable_units(self) -> tuple[Unit, ...]:
        """The prompt as the cache knows it; empty if it was cut, which nothing may continue."""
        return self.units if count_tokens(self.units) == self.prompt_tokens else ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Real token ids only."""
        return tuple(unit for unit in self.units if isinstance(unit, int))


class Model(Protocol):
    """One open checkpoint; plain Python, safe to use from several threads."""

    @property
    def folder(self) -> Path: ...

    @property
    def eos_ids(self) -> Collection[int]: ...

    @property
    def context_tokens(self) -> int: ...

    @property
    def notice(self) -> str | None:
        """What a user must know about the answers."""
        ...

    @property
    def can(self) -> frozenset[str]:
        """See ``api.About``."""
        ...

    @property
    def n_values(self) -> int:
        """Values in all tensors."""
        ...

    @property
    def n_decoder_values(self) -> int:
        """Values read for every token."""
        ...

    @property
    def cached_values(self) -> int:
        """Values that the cache holds for a token."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        ...

    @property
    def stored_dtype(self) -> str: ...

    @property
    def token_bytes(self) -> Callable[[int], bytes]:
        """The bytes of a token."""
        ...

    def hidden_ids(self, exact: bool) -> set[int]:
        """Tokens that end an answer and are not shown."""
        ...

    def with_defaults(self, request: Request) -> Request:
        """Fill in what the family decides."""
        ...

    def plan(self, request: Request, media: MediaReader, timings: ReadTimings, *, pixels: bool = True) -> Any:
        """A ``PromptPlan``, or the family's own kind of one. Raises SourceError, PromptError, UsageError."""
        ...

    def prepare(
        self, plan: Any, media: MediaReader, timings: ReadTimings, begin: Callable[[], object] = lambda: None
    ) -> Prepared:
        """Arrays by unit, one medium at a time; ``begin`` is called when the first is known to be whole."""
        ...

    def build(
        self, device: torch.device, dtype: torch.dtype, on_stage: OnStage = unheard
    ) -> tuple[Compute, MappedTensors]:
        """The weights on their device, and the files that some of them still lie in."""
        ...


class Compute(Protocol):
    """A checkpoint's weights at work."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def embedding(self) -> Tensor:
        """Of the tokens, [vocabulary, C]."""
        ...

    @property
    def decoder(self) -> DecoderParts:
        """The decoder's weights, which ``fuse_decoder`` takes away layer by layer."""
        ...

    def parameters(self) -> Iterable[Tensor]: ...

    def encode(self, items: Sequence[Any]) -> list[Tensor]:
        """What the decoder reads of each item, [tokens, C]."""
        ...

    def embed(self, units: Sequence[Unit], rows: Sequence[Tensor]) -> Tensor:
        """Token embeddings with ``rows`` in the place of each picture, in order. -> [T, C]"""
        ...


def answer_room(plan: PromptPlan, request: Request, context_tokens: int) -> int:
    """Longest answer in tokens: what was asked for, or what the context has left (0 or less: the prompt is too long).

    The published code knows no such limit, so neither does an ``exact`` request.
    """
    wanted = request.sampling.max_new_tokens or 0
    return wanted if request.exact else min(wanted, context_tokens - plan.prompt_tokens)


def check_fits(plan: PromptPlan, room: int, context_tokens: int) -> None:
    """Raises PromptError with the numbers if ``room`` is no room for an answer."""
    if room < 1:
        raise PromptError(
            f"the request is {plan.prompt_tokens} tokens ({plan.image_tokens} for pictures) "
            f"but the model's context holds {context_tokens}",
            f"send fewer or smaller pictures ({option('max_pixels')}), or shorten the text",
        )
