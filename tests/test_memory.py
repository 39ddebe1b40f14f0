"""Too little memory: requests wait, are put back and go on, and every answer is the one it would have been alone."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.answers import generate, plan_of, prepared_of
from tests.commands import COLD_LIMIT_S, environment
from tests.conftest import IMAGES, ROOT, VALLEY25
from valley_cli.api import Done, EngineOptions, Media, Message, Request, Sampling, TextDelta
from valley_cli.engine.families.valley.opened import read_checkpoint
from valley_cli.engine.families.valley.weights import load_model
from valley_cli.engine.local import LocalEngine
from valley_cli.engine.run.runner import Runner
from valley_cli.engine.run.unread import Piece
from valley_cli.engine.run.worker import MAX_RUNNING, Worker
from valley_cli.engine.schedule.slots import Move, Slot
from valley_cli.errors import RoomError, SourceError

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL, OTHER = (Media(name, path=str(IMAGES / name)) for name in ("m0_64x64.png", "m4_200x60.png"))
CPU = torch.device("cpu")
STEP_TOKENS = 32  # what computing a row's next token takes beside the cache, in units of a token's cache
FILES = replace(read_checkpoint(VALLEY25), eos_ids=frozenset())  # answers have the length they are told


class TightRunner(Runner):
    """A runner on a device of ``limit`` tokens' memory, of which the cache takes what it is long.

    ``promised``: what the device says is free, as a device does that others use as well. ``limits``: the device
    becomes larger and smaller, from one call to the next.
    """

    def __init__(self, promised: int, limit: int, limits: Iterator[int] | None = None) -> None:
        super().__init__(load_model(FILES, CPU, torch.float32), CPU)
        self.promised, self.limit, self.limits = promised, limit, limits
        self.most_rows = self.refusals = 0

    def take(self, tokens: int) -> None:
        if self.limits:
            self.limit = next(self.limits)
        if tokens > self.limit:
            self.refusals += 1
            raise torch.OutOfMemoryError(f"{tokens} of {self.limit}")

    def cache_tokens(self, rows: int) -> int:
        return self.promised

    def resize(self, tokens: int, moves: Sequence[Move] = ()) -> None:
        try:
            self.take(tokens)
        except torch.OutOfMemoryError:
            self.cache.clear()
            raise
        super().resize(tokens, moves)

    def prefill_pieces(self, pieces: Sequence[Piece]) -> torch.Tensor:
        self.take(self.cache.tokens + STEP_TOKENS)
        return super().prefill_pieces(pieces)

    def decode(self, tokens: Sequence[int], slots: Sequence[Slot], lengths: Sequence[int]) -> torch.Tensor:
        self.take(self.cache.tokens + STEP_TOKENS * len(slots))
        self.most_rows = max(self.most_rows, len(slots))
        return super().decode(tokens, slots, lengths)


def engine_with(runner: Runner) -> LocalEngine:
    opened = LocalEngine(FILES, "tiny", EngineOptions(device="cpu"))
    opened._worker = Worker(lambda _: runner)
    opened._worker._scheduler.recovery_steps = 4
    return opened


def ask(text: str, *media: Media, n: int = 12, **sampling: Any) -> Request:
    return Request((Message("user", text),), images=media, sampling=Sampling(max_new_tokens=n, **sampling))


def answer(engine: LocalEngine, request: Request) -> tuple[str, tuple[int, ...]]:
    *deltas, done = generate(engine, request)
    assert isinstance(done, Done)
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)), done.token_ids


def alone(requests: list[Request]) -> list[tuple[str, tuple[int, ...]]]:
    """Each by an engine with plenty of memory, which has seen nothing before."""
    found = []
    for request in requests:
        engine = LocalEngine(FILES, "tiny", EngineOptions(device="cpu"))
        found.append(answer(engine, request))
        engine.close()
    return found


def together(engine: LocalEngine, requests: list[Request]) -> list[tuple[str, tuple[int, ...]]]:
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: answer(engine, request), requests))


REQUESTS = [
    ask("one"),
    ask("two " * 30, n=40),
    ask("three", SMALL, n=30),
    ask("three", OTHER, n=30),
    ask("four", SMALL, n=25, temperature=1.0, seed=7),
    ask("five " * 9, n=33, temperature=0.7, seed=8, repetition_penalty=1.3),
    ask("six " * 60, n=20, repetition_penalty=1.2),
    ask("seven", SMALL, OTHER, n=35),
]


@pytest.fixture(scope="module")
def expected() -> list[tuple[str, tuple[int, ...]]]:
    return alone(REQUESTS)


def test_requests_wait_for_room_and_answer_as_they_do_alone(expected: list[tuple[str, tuple[int, ...]]]) -> None:
    runner = TightRunner(promised=700, limit=10_000)  # two or three at a time
    engine = engine_with(runner)
    assert together(engine, REQUESTS * 3) == expected * 3
    assert 2 <= runner.most_rows < 8
    assert not runner.refusals
    engine.close()


def test_when_memory_runs_out_the_newer_half_waits_and_nothing_is_lost_or_said_twice(
    expected: list[tuple[str, tuple[int, ...]]],
) -> None:
    runner = TightRunner(promised=4000, limit=4000 + 3 * STEP_TOKENS)
    engine = engine_with(runner)
    assert together(engine, REQUESTS) == expected
    assert runner.refusals
    assert runner.most_rows > 1
    engine.close()


def test_what_cannot_run_alone_fails_and_its_neighbours_do_not(expected: list[tuple[str, tuple[int, ...]]]) -> None:
    runner = TightRunner(promised=100_000, limit=600)
    engine = engine_with(runner)

    def outcome(request: Request) -> object:
        try:
            return answer(engine, request)
        except RoomError as error:
            return str(error)

    with ThreadPoolExecutor(9) as pool:
        *found, failed = pool.map(outcome, [*REQUESTS, ask("huge " * 1000)])
    assert found == expected
    assert "out of memory: the request needs a cache of" in str(failed)
    engine.close()


def test_a_request_beyond_the_budget_is_refused_with_its_numbers() -> None:
    engine = engine_with(TightRunner(promised=500, limit=10_000))
    with pytest.raises(RoomError, match=r"needs a cache of \d+ tokens .* up to 490 of the answer; .* room for 500 tok"):
        answer(engine, ask("short", n=490))
    assert len(answer(engine, ask("short", n=100))[1]) == 100
    engine.close()


def test_what_was_refused_is_answered_once_there_is_memory() -> None:
    runner = TightRunner(promised=500, limit=10_000)
    engine = engine_with(runner)
    with pytest.raises(RoomError):
        answer(engine, ask("long", n=900))
    runner.promised = 2000  # another program has ended
    assert len(answer(engine, ask("long", n=900))[1]) == 900
    runner.promised = 100  # what is there stays
    assert len(answer(engine, ask("long", n=901))[1]) == 901
    engine.close()


def test_after_a_while_as_many_run_as_before() -> None:
    runner = TightRunner(promised=4000, limit=1000)
    engine = engine_with(runner)
    assert engine._worker
    scheduler = engine._worker._scheduler
    together(engine, REQUESTS)
    assert scheduler.allowed < MAX_RUNNING
    runner.limit = 100_000
    answer(engine, ask("long", n=4 * MAX_RUNNING))
    assert scheduler.allowed == MAX_RUNNING
    assert scheduler.allocator.tokens == 4000
    engine.close()


def test_a_cancelled_request_makes_room_at_once() -> None:
    engine = engine_with(TightRunner(promised=600, limit=10_000))
    first = generate(engine, ask("first", n=500))
    next(first)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(answer, engine, ask("second", n=500))
        time.sleep(0.05)
        assert not second.done()
        first.close()
        assert len(second.result(timeout=30)[1]) == 500
    engine.close()


def test_200_requests_that_join_leave_fail_for_memory_and_share_prefixes_answer_as_single_ones(
    expected: list[tuple[str, tuple[int, ...]]],
) -> None:
    rng = random.Random(5)

    def weather() -> Iterator[int]:
        while True:  # at the least enough for the longest one alone
            yield from [rng.choice([450, 900, 2000, 5000, 5000])] * rng.randrange(1, 60)

    runner = TightRunner(promised=1500, limit=0, limits=weather())
    engine = engine_with(runner)

    def one(number: int) -> bool:
        kind, stop_after = rng.randrange(len(REQUESTS)), rng.choice([None, None, 1, 3])
        time.sleep(rng.random() * 0.02)
        if stop_after is None:
            return answer(engine, REQUESTS[kind]) == expected[kind]
        events = generate(engine, REQUESTS[kind])
        for _ in range(stop_after):
            next(events, None)
        events.close()
        return True

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(one, range(200)))
    assert runner.refusals > 5
    engine.close()


MANY_PICTURES = """
import io, resource, sys
from PIL import Image
from valley_cli.engine import open_engine
from valley_cli.api import EngineOptions, Media, Message, Request
from valley_cli.errors import PromptError

file = io.BytesIO()
Image.effect_noise((2000, 2000), 50).convert("RGB").save(file, "JPEG", quality=30)
open("large.jpg", "wb").write(file.getvalue())
engine = open_engine(EngineOptions(model=sys.argv[1], device="cpu"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
request = Request((Message("user", "What?", (Media("large.jpg", path="large.jpg"),) * 200),))
assert engine.price(request).max_new_tokens < 1
try:
    list(engine.submit(request))
except PromptError as error:
    assert "context holds" in str(error)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1000, "torch" in sys.modules)
"""


def test_pictures_that_cannot_fit_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """200 of 4 M pixels: 3.2 GB, were they kept."""
    command = [sys.executable, "-c", MANY_PICTURES, str(VALLEY25)]
    env = environment({"PYTHONPATH": str(ROOT)})
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=COLD_LIMIT_S)
    assert done.returncode == 0, done.stderr
    megabytes, loaded = done.stdout.split()
    assert int(megabytes) < 50
    assert loaded == "False"


def test_a_picture_that_was_changed_between_two_looks_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    shutil.copy(IMAGES / "m0_64x64.png", path)
    plan = plan_of(FILES, Request((Message("user", "What?", (Media("a.png", path=str(path)),)),)))
    shutil.copy(IMAGES / "m4_200x60.png", path)
    with pytest.raises(SourceError, match="was changed"):
        prepared_of(FILES, plan)


def test_what_can_be_read_only_once_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=((IMAGES / "m0_64x64.png").read_bytes(),))
    writer.start()
    engine = LocalEngine(FILES, "tiny", EngineOptions(device="cpu"))
    *_, done = generate(
        engine, Request((Message("user", "What?", (Media("p", path=str(pipe)),)),), sampling=Sampling(max_new_tokens=1))
    )
    writer.join()
    engine.close()
    assert isinstance(done, Done)
