"""Answers and prices as tests read them: without stages, and of engines that can tell."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

from valley_cli.api import Cost, Done, Engine, Event, Request, Stage, TextDelta, ThinkDelta


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
