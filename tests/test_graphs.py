"""Steps over fixed tensors say what the plain path says, whoever comes, leaves or is begun ahead of time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from tests.answers import generate
from tests.conftest import VALLEY25
from tests.cuda import recorded_steps_in_any_order
from tests.decoders import ROOM, Served, full_logits, greedy_alone, prompt
from tests.test_decoder import TOLERANCE
from valley_cli.api import Done, EngineOptions, Message, Request, Sampling
from valley_cli.engine.families.valley.opened import CheckpointFiles, read_checkpoint
from valley_cli.engine.families.valley.weights import load_model
from valley_cli.engine.local import LocalEngine
from valley_cli.engine.run.cuda_graphs import RECORD_AFTER, Batch
from valley_cli.engine.run.decode_step import StaticStep
from valley_cli.engine.run.runner import Runner
from valley_cli.engine.run.sampler import NO_TOKEN
from valley_cli.engine.run.worker import Worker

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("starts", [(0,), (0, 100, 200), (250, 7, 120)], ids=["one", "dense", "with gaps"])
def test_a_static_step_equals_the_plain_path(kind: str, starts: tuple[int, ...]) -> None:
    served = Served(kind)
    rows = [prompt(length, seed) for seed, length in enumerate((9, 31, 18))][: len(starts)]
    for start, ids in zip(starts, rows, strict=True):
        served.read(ids, start)
    step = StaticStep(served.embedding, served.decoder, served.keys, served.values, 4, 64, flash=False)
    for number in range(5):
        tokens = [(7 * number + 11 * row) % 97 for row in range(len(rows))]
        step.feed(tokens, starts, [len(ids) for ids in rows])
        rows = [torch.cat((ids, torch.tensor([token]))) for ids, token in zip(rows, tokens, strict=True)]
        step()
        for ids, found in zip(rows, step.logits, strict=False):
            assert (found - full_logits(served.plain, ids)).abs().max() < TOLERANCE


def test_a_static_step_is_its_own_successor() -> None:
    served, ids = Served(), prompt(12, 3)
    first = served.read(ids, 0)
    step = StaticStep(served.embedding, served.decoder, served.keys, served.values, 2, 64, flash=False)
    step.feed([first], [0], [12])
    found = [first]
    for _ in range(9):
        step()
        found.append(int(step.chosen[0]))
    assert found == greedy_alone(served.plain, ids, 10)


def test_steps_that_are_not_begun_ahead_say_the_same() -> None:
    recorded_steps_in_any_order(torch.device("cpu"), ahead=False)


def test_what_was_begun_for_one_sequence_is_never_given_to_another() -> None:
    served, twin = Served(), prompt(10, 0)
    graphs, (first, second) = served.graphs(ahead=True), greedy_alone(served.plain, twin, 2)
    for seed in range(1, 3000):  # a prompt that begins its answer with the same token and goes on with another
        other = prompt(10, seed)
        if served.read(other, 0) == first and greedy_alone(served.plain, other, 2)[1] != second:
            break
    expected = greedy_alone(served.plain, other, 2)
    assert (expected[0], expected[1] != second) == (first, True)
    served.read(twin, 0)
    batch = Batch((first,), (0,), (10,), (ROOM,))
    for _ in range(RECORD_AFTER + 1):
        recorded = graphs.find(batch)
    assert recorded
    before = Batch((int(twin[-1]),), (0,), (9,), (ROOM,))
    assert graphs.greedy(recorded, before) == [first]  # and the step after it is begun
    graphs.changed(0)
    served.read(other, 0)
    assert graphs.greedy(recorded, batch) == expected[1:]


def test_a_short_answer_is_not_worth_recording_and_too_many_rows_are_not_recorded() -> None:
    served = Served()
    graphs, few = served.graphs(ahead=False), Batch((1,), (0,), (5,), (ROOM,))
    assert [graphs.find(few) is None for _ in range(RECORD_AFTER + 2)] == [True] * RECORD_AFTER + [False] * 2
    many = Batch((1,) * 65, (0,) * 65, (5,) * 65, (ROOM,) * 65)
    assert all(graphs.find(many) is None for _ in range(RECORD_AFTER + 2))


def test_no_step_is_begun_that_would_write_behind_a_row_s_room() -> None:
    served, ids = Served(), prompt(10, 4)
    first, graphs = served.read(ids, 100), served.graphs(ahead=True)
    batch = Batch((first,), (100,), (10,), (11,))  # room for this token, not for the next
    for _ in range(RECORD_AFTER + 1):
        recorded = graphs.find(batch)
    assert recorded
    graphs.greedy(recorded, batch)
    assert served.keys[0][110].isfinite().all()
    assert served.keys[0][111].isnan().all()


def test_a_row_of_broken_numbers_says_no_token_and_its_neighbour_goes_on() -> None:
    served, ids = Served(), prompt(10, 4)
    first = served.read(ids, 0)
    served.read(ids, 100)
    served.values[0][103] = torch.nan
    step = StaticStep(served.embedding, served.decoder, served.keys, served.values, 2, 64, flash=False)
    step.feed([first, first], [0, 100], [10, 10])
    step()
    assert step.chosen.tolist() == [greedy_alone(served.plain, ids, 2)[1], NO_TOKEN]


@pytest.fixture
def recorded() -> Iterator[Callable[[CheckpointFiles], LocalEngine]]:
    """Makes engines that take recorded steps wherever they can, as they do on CUDA, on this processor."""
    opened = []

    def make(files: CheckpointFiles) -> LocalEngine:
        engine = LocalEngine(files, files.folder.name, EngineOptions(device="cpu", dtype="float32"))
        model = load_model(files, torch.device("cpu"), torch.float32)
        runner = Runner(model, torch.device("cpu"), record_after=0)
        engine._worker = Worker(lambda _: runner)
        opened.append((engine, runner))
        return engine

    yield make
    for engine, runner in opened:
        engine.close()
        assert runner.takes_recorded_steps


def test_recorded_steps_under_random_joining_and_leaving_say_what_single_runs_say(
    recorded: Callable[[CheckpointFiles], LocalEngine],
) -> None:
    files = replace(read_checkpoint(VALLEY25), eos_ids=frozenset())
    rng = random.Random(23)
    sampled = Sampling(max_new_tokens=30, temperature=0.8, seed=5)
    requests = [
        Request((Message("user", f"{'please ' * rng.randrange(4)}what {n}?"),), sampling=sampling)
        for n in range(8)
        for sampling in (Sampling(max_new_tokens=30), sampled)
    ]
    engine, plain = recorded(files), LocalEngine(files, "plain", EngineOptions(device="cpu", dtype="float32"))
    alone = [token_ids(plain, request) for request in requests]
    plain.close()

    def one(number: int) -> bool:
        kind = rng.randrange(len(requests))
        time.sleep(rng.random() * 0.02)
        if rng.random() < 0.3:
            events = generate(engine, requests[kind])
            for _ in range(rng.randrange(1, 12)):
                next(events, None)
            events.close()
            return True
        return token_ids(engine, requests[kind]) == alone[kind]

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(one, range(120)))
    assert token_ids(engine, requests[0]) == alone[0]


def token_ids(engine: LocalEngine, request: Request) -> tuple[int, ...]:
    *_, done = generate(engine, request)
    assert isinstance(done, Done)
    return done.token_ids
