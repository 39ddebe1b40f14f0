"""The engine's thread when something breaks, stops it or is long: no caller waits, and nothing is left behind."""

from __future__ import annotations

import ctypes
import gc
import json
import queue
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.answers import generate, plan_of
from tests.batches import PICTURE, asking, write_rows
from tests.commands import cold
from tests.conftest import VALLEY25
from valley_cli.api import Done, EngineOptions, Message, OnStage, Request, Sampling, Stage, unheard
from valley_cli.engine.families.valley.model import Valley
from valley_cli.engine.families.valley.opened import read_checkpoint
from valley_cli.engine.families.valley.weights import load_model
from valley_cli.engine.local import LocalEngine
from valley_cli.engine.run.failure import again, without_locals
from valley_cli.engine.run.runner import Runner
from valley_cli.engine.run.unread import Piece
from valley_cli.engine.run.worker import PIECE_TOKENS, Worker
from valley_cli.engine.schedule.slots import Slot
from valley_cli.errors import DeviceError, EngineError, SourceError, TimedOutError, ValleyError, WeightsError

CPU = torch.device("cpu")
FILES = replace(read_checkpoint(VALLEY25), eos_ids=frozenset())  # answers have the length they are told
LIMIT_S = 30
LONG = "many words " * 1200  # nine pieces

pytestmark = pytest.mark.usefixtures("one_thread")


class Breaking(Runner):
    """A runner that runs out of memory in the third step; what is called then breaks, and so does a second question
    for the room there is."""

    def __init__(self) -> None:
        super().__init__(load_model(FILES, CPU, torch.float32), CPU)
        self.steps, self.asked, self.broke_at = 0, 0, 0.0

    def decode(self, tokens: Sequence[int], slots: Sequence[Slot], lengths: Sequence[int]) -> torch.Tensor:
        self.steps += 1
        if self.steps == 3:
            raise torch.OutOfMemoryError("full")
        return super().decode(tokens, slots, lengths)

    def drop_caches(self) -> None:
        self.broke_at = time.monotonic()
        raise RuntimeError("an illegal memory access was encountered")

    def cache_tokens(self, rows: int) -> int:
        self.asked += 1
        if self.asked > 1:
            self.drop_caches()
        return 10_000


class Counting(Runner):
    """A runner that notes the length of every piece; from the second one on it waits at a gate."""

    def __init__(self) -> None:
        super().__init__(load_model(FILES, CPU, torch.float32), CPU)
        self.pieces: list[int] = []
        self.at_gate, self.gate = threading.Event(), threading.Event()

    def prefill_pieces(self, pieces: Sequence[Piece]) -> torch.Tensor:
        self.pieces += [len(piece.rows) for piece in pieces]
        if len(self.pieces) == 2:
            self.at_gate.set()
            assert self.gate.wait(LIMIT_S)
        return super().prefill_pieces(pieces)


def engine_with(runner: Runner) -> LocalEngine:
    engine = LocalEngine(FILES, "tiny", EngineOptions(device="cpu"))
    engine._worker = Worker(lambda _: runner)
    return engine


def ask(text: str = "Hello?", n: int = 12, timeout_s: float | None = None) -> Request:
    return Request((Message("user", text),), sampling=Sampling(max_new_tokens=n), timeout_s=timeout_s)


Outcome = tuple[BaseException | Done, float]  # what a request ended with, and when


def outcome(engine: LocalEngine, request: Request) -> Outcome:
    try:
        *_, done = generate(engine, request)
        assert isinstance(done, Done)
        return done, time.monotonic()
    except BaseException as error:
        return error, time.monotonic()


class Asking:
    """Requests on threads of their own, which the test does not wait for if they never end."""

    def __init__(self, engine: LocalEngine, *requests: Request) -> None:
        self._found: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._engine, self._count = engine, len(requests)
        for request in requests:
            threading.Thread(target=self._ask, args=(request,), daemon=True).start()

    def _ask(self, request: Request) -> None:
        self._found.put(outcome(self._engine, request))

    def ended(self) -> list[Outcome]:
        """As they end. Raises queue.Empty if one does not."""
        return [self._found.get(timeout=LIMIT_S) for _ in range(self._count)]


@pytest.mark.parametrize("outside", ["after a step", "before a step"])
def test_what_breaks_outside_of_a_step_fails_everybody_now_and_later(outside: str) -> None:
    """While memory is looked for after a step that ran out of it; before a request that needs more than there is."""
    runner = Breaking()
    engine = engine_with(runner)
    lengths = [500] * 6 if outside == "after a step" else [500, 9000, 20_000]
    found = Asking(engine, *(ask(f"question {n}", n) for n in lengths)).ended()
    assert all(when - runner.broke_at < 1 for _, when in found)
    errors = [error for error, _ in [*found, outcome(engine, ask())]]
    assert {str(error) for error in errors} == {
        "the engine broke: RuntimeError: an illegal memory access was encountered"
    }
    assert {type(error) for error in errors} == {EngineError}
    assert {type(error.__cause__) for error in errors if isinstance(error, EngineError)} == {RuntimeError}
    assert len({id(error) for error in errors}) == len(errors)  # one of its own for everybody
    engine.close()
    with pytest.raises(ValleyError, match="closed"):
        next(generate(engine, ask()))


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "answering"])
def test_a_thread_that_is_killed_fails_everybody(busy: bool) -> None:
    engine = engine_with(Runner(load_model(FILES, CPU, torch.float32), CPU))
    assert engine._worker
    outcome(engine, ask(n=2))
    asked = Asking(engine, *(ask(f"question {n}", n=20_000) for n in range(4 * busy)))
    time.sleep(0.2)
    thread = engine._worker._thread
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
    since = time.monotonic()
    found = Asking(engine, ask()).ended() + asked.ended()
    assert all(when - since < 1 for _, when in found)
    assert [type(error) for error, _ in found] == [EngineError] * len(found)
    engine.close()


@pytest.fixture
def counting() -> Iterator[tuple[LocalEngine, Counting]]:
    runner = Counting()
    engine = engine_with(runner)
    yield engine, runner
    runner.gate.set()
    engine.close()


def test_a_long_prompt_alone_is_read_in_pieces(counting: tuple[LocalEngine, Counting]) -> None:
    engine, runner = counting
    runner.gate.set()
    *_, done = generate(engine, ask(LONG, n=8))
    assert isinstance(done, Done)
    assert sum(runner.pieces) == done.usage.prompt_tokens > 4 * PIECE_TOKENS["cpu"]
    assert max(runner.pieces) == PIECE_TOKENS["cpu"]
    whole = Runner(load_model(FILES, CPU, torch.float32), CPU)
    whole.resize(done.usage.prompt_tokens + 8)
    slot, said = Slot(0, whole.cache.tokens), list[int]()
    prompt = plan_of(FILES, ask(LONG)).prompt
    logits = whole.prefill(slot, whole.embed_prompt(prompt.input_ids, ()))
    for length in range(done.usage.prompt_tokens, whole.cache.tokens):
        said += whole.sample(logits[None], [whole.sampler(Sampling(), ())])
        (logits,) = whole.decode(said[-1:], [slot], [length])
    assert done.token_ids == tuple(said)


def test_a_prompt_whose_caller_is_gone_is_read_no_further(counting: tuple[LocalEngine, Counting]) -> None:
    engine, runner = counting
    with pytest.raises(TimedOutError):
        next(generate(engine, ask(LONG, timeout_s=1)))
    assert runner.at_gate.is_set()
    runner.gate.set()
    assert isinstance(outcome(engine, ask("next", n=2))[0], Done)
    assert len(runner.pieces) == 2 + 1  # the next one's


def test_closing_waits_for_one_piece_only(counting: tuple[LocalEngine, Counting]) -> None:
    engine, runner = counting
    asked = Asking(engine, ask(LONG))
    assert runner.at_gate.wait(LIMIT_S)
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine._worker._closed:  # type: ignore[union-attr]
        time.sleep(0.01)
    runner.gate.set()
    ((done, _),) = asked.ended()
    closing.join(LIMIT_S)
    assert not closing.is_alive()
    assert isinstance(done, Done)
    assert done.finish_reason == "cancelled"
    assert len(runner.pieces) == 2


@pytest.fixture
def misnamed(tmp_path: Path) -> Path:
    """A checkpoint that fails once it is loaded: one tensor has another name."""
    folder = Path(shutil.copytree(VALLEY25, tmp_path / "model"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b"model.norm.weight", b"model.form.weight"))
    return folder


def run_out_of_memory(stage: Stage) -> None:
    if stage.name == "loading weights" and stage.done > stage.total // 2:
        raise MemoryError


@pytest.mark.parametrize(("on_stage", "error"), [(unheard, WeightsError), (run_out_of_memory, DeviceError)])
def test_a_load_that_failed_leaves_nothing_of_the_model_behind(
    on_stage: OnStage, error: type[ValleyError], misnamed: Path
) -> None:
    """Before anybody asks: then it would be freed on that thread, and by then Python may be ending."""

    def models() -> int:
        return sum(type(found) is Valley for found in gc.get_objects())

    files = read_checkpoint(misnamed if on_stage is unheard else VALLEY25)
    engine = LocalEngine(files, "broken", EngineOptions(device="cpu"))
    gc.collect()
    gc.disable()
    try:
        before = models()
        engine.load(on_stage)
        assert engine._worker
        engine._worker._thread.join(LIMIT_S)
        assert models() == before
    finally:
        gc.enable()
    assert [type(outcome(engine, ask())[0]) for _ in range(3)] == [error] * 3
    engine.close()


@pytest.mark.parametrize("command", ["batch", "describe"])
def test_a_load_that_failed_ends_the_command_with_its_code(command: str, misnamed: Path, tmp_path: Path) -> None:
    rows, model = write_rows(tmp_path / "in.jsonl", asking(30)), ("-m", str(misnamed), "--device", "cpu")
    args = [str(rows), "-o", str(tmp_path / "out")] if command == "batch" else [PICTURE]
    for _ in range(3 if command == "batch" else 1):
        done = cold(command, *args, *model)
        assert done.returncode == 5, done.stderr
        assert b"model.norm.weight" in done.stderr
        assert b"terminate" not in done.stderr


class OddError(Exception):
    """An error that cannot be made again from its ``args``."""

    def __new__(cls, first: str, second: str) -> OddError:
        return super().__new__(cls, first)

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def test_an_error_that_cannot_be_made_twice_is_told_all_the_same() -> None:
    odd = OddError("a", "b")
    assert again(odd) is odd
    broken = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    assert str(again(broken)) == str(broken)


def test_an_error_is_told_without_what_its_frames_worked_on() -> None:
    class Weights:
        pass

    held = [Weights()]

    def holding() -> None:
        mine = held.pop()
        try:
            json.loads("{")
        except ValueError as error:
            raise SourceError("name", f"{type(mine).__name__} broke", "a hint") from error

    try:
        holding()
    except ValleyError as error:
        kept = without_locals(error)
    gc.collect()
    assert not any(type(found) is Weights for found in gc.get_objects())
    told = again(kept)
    assert isinstance(told, SourceError)
    assert (str(told), told.hint, told.reason) == ("name: Weights broke", "a hint", "Weights broke")
    assert isinstance(told.__cause__, ValueError)
    assert told.__traceback__ is kept.__traceback__ is not None
