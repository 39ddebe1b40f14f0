"""Answers and prices as tests read them: without stages, and of engines that can tell."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

from valley_cli.api import Cost, Done, Engine, Event, MediaLimits, Request, Stage, TextDelta, ThinkDelta
from valley_cli.engine.families.base import Prepared
from valley_cli.engine.families.valley.opened import CheckpointFiles
from valley_cli.engine.families.valley.prepare import ValleyPlan
from valley_cli.engine.families.valley.preprocess import Picture
from valley_cli.media.request import MediaReader, ReadTimings


def generate(engine: Engine, request: Request) -> Generator[TextDelta | ThinkDelta | Done, None, None]:
    """The answer's events but for the stages; closing it cancels the request."""
    for event in engine.submit(request):
        if not isinstance(event, Stage):
            yield event


def price(engine: Engine, request: Request) -> Cost:
    """What the request takes."""
    cost = engine.price(request)
    assert cost is not None
    return cost


class Told:
    """An answer whose ``events`` are known."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = events

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def cancel(self) -> None:
        pass


def plan_of(files: CheckpointFiles, request: Request, timings: ReadTimings | None = None) -> ValleyPlan:
    """What the request takes, as ``files`` alone see it."""
    return files.plan(request, MediaReader(MediaLimits()), timings or ReadTimings())


def prepared_of(files: CheckpointFiles, plan: ValleyPlan, timings: ReadTimings | None = None) -> Prepared:
    """The plan's pictures decoded."""
    return files.prepare(plan, MediaReader(MediaLimits()), timings or ReadTimings())


def pictures_of(prepared: Prepared) -> tuple[Picture, ...]:
    """The tensors of its pictures."""
    return tuple(item for item in prepared.items if isinstance(item, Picture))
