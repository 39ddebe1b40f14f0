"""Cancelling a request at every moment: while it is read, waits, is loaded for, has its prompt read, or answers."""

from __future__ import annotations

import pickle
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from tests.answers import generate
from tests.conftest import IMAGES, VALLEY25
from tests.servers import Server, drip
from valley_cli.api import (
    Answer,
    Done,
    EngineOptions,
    Event,
    Media,
    Message,
    Request,
    Sampling,
    Stage,
    TextDelta,
    answering,
)
from valley_cli.engine.families.valley.opened import read_checkpoint
from valley_cli.engine.families.valley.weights import load_model
from valley_cli.engine.local import LocalEngine
from valley_cli.engine.run.runner import Runner
from valley_cli.engine.run.unread import Piece
from valley_cli.engine.run.worker import Worker

pytestmark = pytest.mark.usefixtures("one_thread")
FILES = read_checkpoint(VALLEY25)
CPU = torch.device("cpu")
SOON_S = 1.0  # 0.2 s on a machine that does nothing else
LIMIT_S = 60
LONG = "word " * 2000


def make() -> LocalEngine:
    return LocalEngine(replace(FILES, eos_ids=frozenset()), "tiny", EngineOptions(device="cpu", dtype="float32"))


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    with closing(make()) as opened:
        yield opened


def ask(text: str = "Hello?", *media: Media, n: int = 8) -> Request:
    return Request((Message("user", text, media),), sampling=Sampling(max_new_tokens=n))


class Listening:
    """Collects the events of an answer on a thread of its own."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.events: list[Event | BaseException] = []
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for event in self.answer:
                self.events.append(event)
        except BaseException as error:
            self.events.append(error)
        self.ended_at = time.monotonic()

    def until(self, there: Callable[[Event | BaseException], bool]) -> None:
        """Wait for such an event."""
        end = time.monotonic() + LIMIT_S
        while not any(map(there, [*self.events])):
            assert time.monotonic() < end, self.events
            time.sleep(0.002)

    def end(self) -> Event | BaseException:
        """Its last event, once it is there."""
        self._thread.join(LIMIT_S)
        assert self.ended_at
        return self.events[-1]


def cancelled_after(listening: Listening) -> float:
    """Seconds from cancelling to the answer's end."""
    begun = time.monotonic()
    listening.answer.cancel()
    done = listening.end()
    assert isinstance(done, Done)
    assert done.finish_reason == "cancelled"
    assert done.model == "tiny"
    return listening.ended_at - begun


def is_stage(name: str) -> Callable[[object], bool]:
    return lambda event: isinstance(event, Stage) and event.name == name


@pytest.mark.parametrize("kind", ["image", "video"])
def test_while_a_slow_address_is_read(engine: LocalEngine, kind: str) -> None:
    with Server({"/slow": drip()}) as server:
        media = Media("slow", "video" if kind == "video" else "image", url=server.url("/slow"))
        asked = Listening(engine.submit(ask("What?", media)))
        asked.until(is_stage("reading pictures"))
        while not server.seen:
            time.sleep(0.01)
        assert cancelled_after(asked) < SOON_S
        readers = [thread for thread in threading.enumerate() if thread.name == "valley-reading"]
        for reader in readers:  # the thread ends as well: nothing goes on behind the caller's back
            reader.join(SOON_S)
            assert not reader.is_alive()
    assert engine._worker is None  # nothing was loaded for it


def test_while_the_model_is_loaded(engine: LocalEngine) -> None:
    gate = threading.Event()
    runner = Runner(load_model(FILES, CPU, torch.float32), CPU)

    def load(on_stage: Callable[[Stage], None]) -> Runner:
        on_stage(Stage("loading weights", 1, 2, "bytes"))
        assert gate.wait(LIMIT_S)
        on_stage(Stage("loading weights", 2, 2, "bytes"))
        return runner

    engine._worker = Worker(load)
    first, second = Listening(engine.submit(ask())), Listening(engine.submit(ask()))
    for asked in (first, second):
        asked.until(is_stage("loading weights"))
    assert cancelled_after(first) < SOON_S
    gate.set()
    assert isinstance(second.end(), Done)
    assert Stage("loading weights", 2, 2, "bytes") in second.events  # of the request that it delays


class Gated(Runner):
    """Waits at a gate when a prompt longer than a piece has been begun."""

    def __init__(self, engine: LocalEngine) -> None:
        super().__init__(load_model(FILES, CPU, torch.float32), CPU)
        self.pieces = 0
        self.at_gate, self.gate = threading.Event(), threading.Event()

    def prefill_pieces(self, pieces: list[Piece]) -> torch.Tensor:  # type: ignore[override]
        self.pieces += 1
        if len(pieces[0].rows) == 512:
            self.at_gate.set()
            assert self.gate.wait(LIMIT_S)
        return super().prefill_pieces(pieces)


def test_while_its_prompt_is_read_and_while_it_waits_for_that(engine: LocalEngine) -> None:
    runner = Gated(engine)
    engine._worker = Worker(lambda _: runner)
    reading = Listening(engine.submit(ask(LONG)))
    assert runner.at_gate.wait(LIMIT_S)
    waiting = Listening(engine.submit(ask("next")))
    reading.until(is_stage("reading the prompt"))
    time.sleep(0.1)  # ``waiting`` has come
    assert cancelled_after(waiting) < SOON_S
    assert cancelled_after(reading) < SOON_S  # though the piece is not read
    runner.gate.set()
    assert isinstance(Listening(engine.submit(ask("another"))).end(), Done)
    assert runner.pieces == 2  # one of the long prompt's; the other's


def test_a_request_behind_others_says_that_it_waits(engine: LocalEngine) -> None:
    runner = Gated(engine)
    engine._worker = Worker(lambda _: runner)
    with answering(engine, ask(LONG)) as first:
        begun = Listening(first)
        assert runner.at_gate.wait(LIMIT_S)
        second = Listening(engine.submit(ask("next")))
        time.sleep(0.1)
        runner.gate.set()
        second.until(is_stage("waiting"))
        assert isinstance(second.end(), Done)
        assert isinstance(begun.end(), Done)


def test_while_it_answers(engine: LocalEngine) -> None:
    asked = Listening(engine.submit(ask(n=20_000)))
    asked.until(lambda event: isinstance(event, TextDelta))
    assert cancelled_after(asked) < SOON_S
    done = asked.events[-1]
    assert isinstance(done, Done)
    assert done.usage.completion_tokens == len(done.token_ids) > 0
    asked.answer.cancel()  # again: nothing happens


def test_leaving_the_block_or_the_loop_cancels(engine: LocalEngine) -> None:
    with answering(engine, ask(n=20_000)) as answer:
        for event in answer:
            if isinstance(event, TextDelta):
                break
    next(generate(engine, ask(n=20_000)))
    worker = engine._worker
    assert worker
    end = time.monotonic() + LIMIT_S
    while worker._unanswered:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_cancelled_request_leaves_its_neighbours_alone_in_200_random_schedules(engine: LocalEngine) -> None:
    """Before the first token too; afterwards every slot is free and later answers are as before."""
    rng = random.Random(14)
    picture = Media("m", path=str(IMAGES / "m0_64x64.png"))
    kinds = [ask("Hello?", n=6), ask("What is it?", picture, n=5), ask("long " * 300, n=4), ask("count", n=9)]
    expected = [tokens(make_alone(request)) for request in kinds]
    for _ in range(200):
        chosen = [rng.randrange(len(kinds)) for _ in range(4)]
        asked = [Listening(engine.submit(kinds[kind])) for kind in chosen]
        for listening in rng.sample(asked, 2):
            time.sleep(rng.choice((0, 0, 0.001, 0.003, 0.01, 0.03)))
            listening.answer.cancel()
        for kind, listening in zip(chosen, asked, strict=True):
            done = listening.end()
            assert isinstance(done, Done), done
            if done.finish_reason != "cancelled":
                assert done.token_ids == expected[kind]
            else:
                assert done.token_ids == expected[kind][: len(done.token_ids)]
    assert [tokens(list(generate(engine, request))) for request in kinds] == expected
    scheduler = engine._worker._scheduler  # type: ignore[union-attr]
    assert scheduler.idle
    scheduler.drop_prefix_cache()
    assert scheduler.allocator.free == scheduler.allocator.tokens


def make_alone(request: Request) -> list[Event]:
    with closing(make()) as fresh:
        return list(generate(fresh, request))


def tokens(events: list[Event]) -> tuple[int, ...]:
    done = events[-1]
    assert isinstance(done, Done)
    return done.token_ids


def test_options_can_be_sent_to_another_process() -> None:
    options = EngineOptions(model="valley-mini", device="cpu", media_cache_bytes=5)
    assert pickle.loads(pickle.dumps(options)) == options
