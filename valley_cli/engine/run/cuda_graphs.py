"""Decode steps recorded as CUDA graphs, by number of rows and span: one launch instead of hundreds, and no waiting.

Recording takes about as long as a dozen steps, so a step is recorded once it has been taken more often than that: a
short answer never pays, a chat, a batch or a server soon does.

The step after a greedy one is started before the host has seen the token: the device goes on while the host looks at
stop strings and writes the answer. If the next step turns out to be another (a row ended, one came), what was begun is
forgotten: it wrote only behind the ends of its rows, and inside their rooms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from valley_cli.engine.layers.fused import FusedDecoder
from valley_cli.engine.run.decode_step import Pool, StaticStep, flash_works

RECORD_AFTER = 12  # steps of one kind, unless told otherwise
ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
LEAST_SPAN = 1024


@dataclass(frozen=True)
class Batch:
    """The rows of a step: row i says ``tokens[i]`` behind ``lengths[i]`` tokens that begin at ``starts[i]`` of the
    pool and may be ``rooms[i]``."""

    tokens: tuple[int, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    rooms: tuple[int, ...]

    @property
    def room_for_two(self) -> bool:
        """Whether the step after this one would write inside every row's room."""
        return all(length + 1 < room for length, room in zip(self.lengths, self.rooms, strict=True))

    def after(self, tokens: Sequence[int]) -> Batch:
        """The next step's, if every row goes on with ``tokens``."""
        return Batch(tuple(tokens), self.starts, tuple(length + 1 for length in self.lengths), self.rooms)


@dataclass(frozen=True)
class Recorded:
    """A step and what repeats it."""

    step: StaticStep
    replay: Callable[[], None]


class DecodeGraphs:
    """Records and repeats steps over one pool. ``ahead``: start the next step before this one's tokens are read."""

    def __init__(
        self,
        embedding: Tensor,
        decoder: FusedDecoder,
        keys: Pool,
        values: Pool,
        context: int,
        record_after: int = RECORD_AFTER,
        ahead: bool = True,
    ) -> None:
        """``context``: the most tokens a row may ever hold. ``record_after``: steps of a kind."""
        self.embedding, self.decoder, self.keys, self.values = embedding, decoder, keys, values
        self.context, self.record_after, self.ahead = context, record_after, ahead
        self.flash = flash_works(decoder.config, embedding.device, embedding.dtype)
        self._taken: Counter[tuple[int, int]] = Counter()
        self._recorded: dict[tuple[int, int], Recorded | None] = {}  # None: there was no memory for it
        self._begun: tuple[Recorded, Batch] | None = None
        self._pool = torch.cuda.graph_pool_handle() if embedding.is_cuda else None

    @property
    def n_recorded(self) -> int:
        """Kinds of steps that are recorded."""
        return sum(recorded is not None for recorded in self._recorded.values())

    def find(self, batch: Batch) -> Recorded | None:
        """The recorded step for ``batch``, None if it is not worth recording yet."""
        rows = next((rows for rows in ROWS if rows >= len(batch.tokens)), 0)
        kind = (rows, self._span(max(batch.lengths) + 1))
        self._taken[kind] += 1
        if rows and kind not in self._recorded and self._taken[kind] > self.record_after:
            self._recorded[kind] = self._record(batch, *kind)
        recorded = self._recorded.get(kind)
        if recorded is None:  # the step will be taken in another way
            self._begun = None
        return recorded

    def changed(self, start: int) -> None:
        """The rows from ``start`` on are another sequence's, or are written by something else than a step."""
        if self._begun and start in self._begun[1].starts:
            self._begun = None

    def _span(self, tokens: int) -> int:
        """Flash attention reads what there is; the masked kind reads the whole span."""
        return self.context if self.flash else max(LEAST_SPAN, 1 << (tokens - 1).bit_length())

    def _record(self, batch: Batch, rows: int, span: int) -> Recorded | None:
        self._begun = None
        step = StaticStep(self.embedding, self.decoder, self.keys, self.values, rows, span, self.flash)
        step.feed(batch.tokens, batch.starts, batch.lengths)
        if not self.embedding.is_cuda:
            return Recorded(step, step)
        try:
            return Recorded(step, record(step, self._pool))
        except torch.OutOfMemoryError:
            return None

    def logits(self, recorded: Recorded, batch: Batch) -> Tensor:
        """[B, vocabulary]"""
        self._run(recorded, batch)
        return recorded.step.logits[: len(batch.tokens)]

    def greedy(self, recorded: Recorded, batch: Batch) -> list[int]:
        """The likeliest next tokens; NO_TOKEN where the numbers are broken."""
        self._run(recorded, batch)
        chosen, arrived = recorded.step.chosen, None
        if chosen.is_cuda:
            chosen = torch.empty_like(chosen, device="cpu", pin_memory=True).copy_(chosen, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        else:
            chosen = chosen.clone()
        going_on = self.ahead and batch.room_for_two
        if going_on:
            recorded.replay()
        if arrived:
            arrived.synchronize()
        ids: list[int] = chosen[: len(batch.tokens)].tolist()
        self._begun = (recorded, batch.after(ids)) if going_on else None
        return ids

    def _run(self, recorded: Recorded, batch: Batch) -> None:
        """Take the step, unless it was begun already."""
        begun, self._begun = self._begun, None
        if begun != (recorded, batch):
            recorded.step.feed(batch.tokens, batch.starts, batch.lengths)
            recorded.replay()


def record(step: StaticStep, pool: Any) -> Callable[[], None]:
    """What repeats the kernels of ``step`` in one launch. Its inputs must be fed again afterwards."""
    inputs = step.inputs.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # once as it is: libraries set themselves up
        step()
        step.inputs.copy_(inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # others may decode pictures meanwhile
        step()
    return graph.replay
