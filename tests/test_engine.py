"""The engine through its public door, on tiny golden checkpoints."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from tests.answers import generate, price
from tests.conftest import IMAGES, VALLEY2, VALLEY25
from valley_cli.api import Done, Engine, EngineOptions, Media, Message, Request, Sampling, TextDelta, ThinkDelta
from valley_cli.engine import open_engine
from valley_cli.engine.device import probe
from valley_cli.engine.families.valley.opened import read_checkpoint
from valley_cli.engine.local import AUTO_CUDA, AUTO_OTHER, LocalEngine, choose_model
from valley_cli.engine.run.runner import load_runner
from valley_cli.engine.run.unread import Piece, Unread
from valley_cli.engine.schedule.slots import Slot
from valley_cli.errors import ModelError, PromptError, SourceError, UsageError, ValleyError

SMALL = Media("m0", path=str(IMAGES / "m0_64x64.png"))
OTHER = Media("m4", path=str(IMAGES / "m4_200x60.png"))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    opened = open_engine(EngineOptions(model=str(VALLEY25), device="cpu"))
    yield opened
    opened.close()


def ask(text: str = "Hello?", *media: Media, n: int = 12, **sampling: object) -> Request:
    chosen = Sampling(max_new_tokens=n, **sampling)  # type: ignore[arg-type]
    return Request((Message("user", text),), images=media, sampling=chosen)


def run(engine: Engine, request: Request) -> tuple[str, Done]:
    *deltas, done = generate(engine, request)
    assert isinstance(done, Done)
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)), done


def test_an_answer_is_text_and_then_one_done(engine: Engine) -> None:
    text, done = run(engine, ask("What is it?", SMALL))
    assert text
    assert done.finish_reason == "length"
    assert done.usage.completion_tokens == len(done.token_ids) == 12
    assert done.usage.image_tokens == 4
    assert done.timings.ttft_s > 0


def test_text_only_turns_carry_no_picture_unless_exact(engine: Engine) -> None:
    _, plain = run(engine, ask())
    _, exact = run(engine, replace(ask(), exact=True))
    assert plain.usage.image_tokens == 0
    assert exact.usage.image_tokens == 4
    assert exact.usage.prompt_tokens > plain.usage.prompt_tokens


def test_requests_at_once_answer_as_they_do_alone(engine: Engine) -> None:
    requests = [ask(f"Question {n} {'please ' * n}", *([SMALL] * (n % 3)), n=8 + n) for n in range(12)]
    alone = [run(engine, request)[1].token_ids for request in requests]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda request: run(engine, request)[1].token_ids, requests))
    assert together == alone


def test_a_seeded_sample_does_not_depend_on_its_neighbours(engine: Engine) -> None:
    seeded = ask("Sample", n=20, temperature=1.0, seed=7)
    _, alone = run(engine, seeded)
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(run, engine, ask(f"noise {n}", n=30, temperature=1.0)) for n in range(3)]
        _, among = run(engine, seeded)
        [other.result() for other in others]
    assert among.token_ids == alone.token_ids


def test_closing_the_iterator_frees_the_slot(engine: Engine) -> None:
    for _ in range(40):  # more than there are slots
        events = generate(engine, ask(n=5000))
        next(events)
        events.close()
    _, done = run(engine, ask(n=3))
    assert done.usage.completion_tokens == 3


def test_a_stop_string_ends_the_answer_before_it(engine: Engine) -> None:
    text, _ = run(engine, ask(n=30))
    stop = text[5:8]
    cut, done = run(engine, ask(n=30, stop=(stop,)))
    assert cut == text[: text.index(stop)]
    assert done.finish_reason == "stop"


def test_repetition_penalty_works_with_pictures(engine: Engine) -> None:
    _, plain = run(engine, ask("Look", SMALL, n=30))
    _, penalised = run(engine, ask("Look", SMALL, n=30, repetition_penalty=0.1))  # below 1: drawn to what was seen
    assert penalised.token_ids != plain.token_ids


def test_thinking_takes_its_system_prompt_and_is_passed_to_the_template(engine: Engine) -> None:
    _, plain = run(engine, ask())
    *deltas, done = generate(engine, replace(ask(), think=True))
    assert isinstance(done, Done)
    assert done.usage.prompt_tokens > plain.usage.prompt_tokens + 100
    assert all(isinstance(delta, TextDelta | ThinkDelta) for delta in deltas)


def test_media_of_a_later_turn_stand_in_that_turn(engine: Engine) -> None:
    turns = (
        Message("user", "First.", (SMALL,)),
        Message("assistant", "Fine."),
        Message("user", "Second.", (OTHER,)),
    )
    placed = Request(turns, sampling=Sampling(max_new_tokens=6))
    written = Request(
        (Message("user", "<image>\nFirst."), Message("assistant", "Fine."), Message("user", "<image>\nSecond.")),
        images=(SMALL, OTHER),
        sampling=Sampling(max_new_tokens=6),
    )
    assert run(engine, placed)[1].token_ids == run(engine, written)[1].token_ids


@pytest.mark.parametrize(
    ("messages", "images", "words"),
    [
        ([("user", "<image> and <image>")], 1, "2 <image> placeholders but the request has 1 pictures"),
        ([("user", "a"), ("assistant", "b")], 0, "last message must be the user's"),
        ([("user", "a"), ("user", "b")], 0, "expected the assistant's"),
        ([("system", "only")], 0, "last message must be the user's"),
        ([("user", "look at this <image>")], 0, "1 <image> placeholders but the request has 0 pictures"),
    ],
)
def test_requests_that_do_not_fit_together_say_why(
    engine: Engine, messages: list[tuple[str, str]], images: int, words: str
) -> None:
    request = Request(tuple(Message(r, t) for r, t in messages), images=(SMALL,) * images)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match=words):
        next(generate(engine, request))


def test_a_request_longer_than_the_context_is_refused_with_its_numbers(engine: Engine) -> None:
    with pytest.raises(PromptError, match=r"tokens \(0 for pictures\) but the model's context holds 32768"):
        next(generate(engine, ask("word " * 40_000)))


def test_an_unreadable_picture_is_a_source_error(engine: Engine) -> None:
    with pytest.raises(SourceError, match="gone"):
        next(generate(engine, ask("?", Media("gone.png", path=str(IMAGES / "gone.png")))))


def test_measure_counts_what_generate_uses(engine: Engine) -> None:
    request = ask("How much?", SMALL, OTHER)
    cost = price(engine, request)
    _, done = run(engine, request)
    assert cost.prompt_tokens == done.usage.prompt_tokens
    assert cost.image_tokens == done.usage.image_tokens == sum(picture.tokens for picture in cost.pictures)
    assert cost.fits
    assert [picture.size_wh for picture in cost.pictures] == [(64, 64), (200, 60)]


def test_the_github_flavour_counts_its_own_tiles() -> None:
    opened = open_engine(EngineOptions(model=str(VALLEY2), device="cpu"))
    hf = price(opened, ask("?", SMALL, OTHER))
    github = price(opened, replace(ask("?", SMALL, OTHER), flavour="github"))
    opened.close()
    assert [picture.tiles for picture in hf.pictures] == [1, 1]
    assert all(picture.tiles > 1 for picture in github.pictures)


def test_closing_the_engine_ends_running_answers_and_refuses_new_ones() -> None:
    opened = open_engine(EngineOptions(model=str(VALLEY25), device="cpu"))
    events = generate(opened, ask(n=20_000))
    next(events)
    closing = threading.Thread(target=opened.close)
    closing.start()
    *_, done = events
    closing.join(timeout=30)
    assert isinstance(done, Done)
    assert done.finish_reason == "cancelled"
    with pytest.raises(ValleyError, match="closed"):
        next(generate(opened, ask()))


def test_a_model_that_cannot_be_loaded_fails_every_request(tmp_path: object) -> None:
    import shutil
    from pathlib import Path

    folder = Path(str(tmp_path)) / "broken"
    shutil.copytree(VALLEY25, folder)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"only_navit": true', '"only_navit": false'))
    with pytest.raises(ModelError):
        open_engine(EngineOptions(model=str(folder)))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (EngineOptions(model="no-such-model", offline=True), ModelError),
        (EngineOptions(model=str(IMAGES)), ModelError),
        (EngineOptions(model=str(VALLEY25), engine="warp"), UsageError),
    ],
)
def test_what_cannot_be_opened_says_so(options: EngineOptions, error: type[ValleyError]) -> None:
    with pytest.raises(error) as caught:
        open_engine(options)
    assert caught.value.hint


def test_an_answer_ends_where_the_context_does(engine: Engine) -> None:
    request = ask("word " * 8000, n=60_000)
    cost = price(engine, request)
    assert cost.prompt_tokens + cost.max_new_tokens == cost.context_tokens == 32768
    assert not price(engine, ask("word " * 40_000)).fits


def test_options_a_family_does_not_have_are_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="two towers"):
        next(generate(engine, replace(ask("?", SMALL), flavour="github")))
    opened = open_engine(EngineOptions(model=str(VALLEY2), device="cpu"))
    with pytest.raises(UsageError, match="does not think"):
        price(opened, replace(ask(), think=True))
    opened.close()


def fresh(request: Request) -> Done:
    """The answer of an engine that has seen nothing before."""
    opened = open_engine(EngineOptions(model=str(VALLEY25), device="cpu"))
    _, done = run(opened, request)
    opened.close()
    return done


def test_the_second_turn_continues_from_the_first_and_says_the_same(engine: Engine) -> None:
    first = ask("First question", SMALL, n=6)
    text, done = run(engine, first)
    history = (Message("user", "First question", (SMALL,)), Message("assistant", text), Message("user", "And now?"))
    second = Request(history, sampling=Sampling(max_new_tokens=20))
    _, continued = run(engine, second)
    assert continued.usage.cached_tokens > done.usage.image_tokens
    assert continued.token_ids == fresh(second).token_ids


def test_another_question_about_a_picture_finds_it_read(engine: Engine) -> None:
    run(engine, ask("One question", OTHER))
    _, other = run(engine, ask("Another one", OTHER, n=20))
    assert other.usage.cached_tokens >= 14
    assert other.token_ids == fresh(ask("Another one", OTHER, n=20)).token_ids


def test_a_picture_among_several_is_another_picture() -> None:
    opened = open_engine(EngineOptions(model=str(VALLEY2), device="cpu"))
    run(opened, ask("What?", SMALL, n=4))
    _, both = run(opened, ask("What?", SMALL, OTHER, n=12))
    again = open_engine(EngineOptions(model=str(VALLEY2), device="cpu"))
    assert both.token_ids == run(again, ask("What?", SMALL, OTHER, n=12))[1].token_ids
    assert both.usage.cached_tokens < 60  # the system prompt at most: alone, the picture was cut into tiles
    opened.close()
    again.close()


def test_many_requests_that_join_leave_and_are_cancelled_answer_as_single_ones(engine: Engine) -> None:
    rng = random.Random(11)
    kinds = [
        ask(f"{'please ' * rng.randrange(6)}what {n % 5}?", *rng.choice([(), (SMALL,), (OTHER,), (SMALL, OTHER)]), n=9)
        for n in range(12)
    ]
    alone = [fresh(kind).token_ids for kind in kinds]

    def one(number: int) -> bool:
        kind, stop_after = rng.randrange(len(kinds)), rng.choice([None, None, 1, 3])
        time.sleep(rng.random() * 0.02)
        events = generate(engine, kinds[kind])
        if stop_after is not None:
            for _ in range(stop_after):
                next(events, None)
            events.close()
            return True
        *_, done = events
        return isinstance(done, Done) and done.token_ids == alone[kind]

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(one, range(200)))


def test_a_prompt_read_in_pieces_beside_an_answer_says_the_same() -> None:
    files = replace(read_checkpoint(VALLEY25), eos_ids=frozenset())  # answers go on until they are told to stop
    opened = LocalEngine(files, "tiny", EngineOptions(device="cpu"))
    beside = generate(opened, ask("talk", n=20_000))
    next(beside)
    long = ask("many words " * 900, OTHER, n=10)
    _, pieces = run(opened, long)
    assert isinstance(next(beside), TextDelta)  # still under way
    beside.close()
    opened.close()
    again = LocalEngine(files, "tiny", EngineOptions(device="cpu"))
    assert pieces.usage.prompt_tokens > 3 * 512
    assert pieces.token_ids == run(again, long)[1].token_ids
    again.close()


@pytest.mark.parametrize(
    ("device", "chosen"),
    [
        ("cpu", AUTO_OTHER),
        ("auto", AUTO_OTHER),
        ("cuda", AUTO_OTHER),
        ("cuda:0", AUTO_OTHER),
        ("cuda:1", AUTO_CUDA),
        ("cuda:2", AUTO_OTHER),
    ],
)
def test_auto_is_the_model_that_the_card_asked_for_holds(device: str, chosen: str) -> None:
    free_bytes = [2_000_000_000, 80_000_000_000, 0]
    assert choose_model(EngineOptions(device=device), free_bytes.__getitem__) == chosen


def test_a_small_model_takes_no_other_thread_s_processors() -> None:
    """Whether engines follow each other, overlap or cannot be loaded."""

    def threads_of_a_new_thread() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before, of_engines = torch.get_num_threads(), []
    torch.set_num_threads(3)
    options = EngineOptions(model=str(VALLEY25), device="cpu")
    files = read_checkpoint(VALLEY25)
    no_such_layers = replace(files.config, text=replace(files.config.text, num_hidden_layers=9))
    try:
        first, second = open_engine(options), open_engine(options)
        for opened in (first, second):
            opened.load(lambda stage: of_engines.append(torch.get_num_threads()))
            run(opened, ask(n=3))
            assert of_engines[-1] == 1
        first.close()
        assert (torch.get_num_threads(), threads_of_a_new_thread()) == (3, 3)
        second.close()
        broken = LocalEngine(replace(files, config=no_such_layers), "broken", EngineOptions(device="cpu"))
        with pytest.raises(ModelError, match="missing"):
            next(generate(broken, ask()))
        broken.close()
        assert (torch.get_num_threads(), threads_of_a_new_thread()) == (3, 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system gives no process fewer processors")
def test_a_container_s_processors_are_those_that_count() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert probe.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert probe.usable_cores() == len(before)


def test_prompts_read_together_have_the_logits_of_each_alone() -> None:
    """Of different lengths, some from the start and one behind what is there."""
    files = read_checkpoint(VALLEY25)
    runner = load_runner(files, "cpu", "float32")
    prompts = [[*range(5, 5 + length)] for length in (40, 3, 17)]
    runner.resize(256)
    slots = [Slot(64 * number, 64) for number in range(3)]
    alone = []
    for prompt, slot in zip(prompts, slots, strict=True):
        runner.attach_slot(slot)
        alone.append(runner.prefill(slot, runner.embed_prompt(prompt, ())))
    for slot in slots:
        runner.attach_slot(slot)
    rows = runner.embed_prompts([Unread(prompt, ()) for prompt in prompts])
    runner.prefill(slots[0], rows[0][:11])
    starts = (11, 0, 0)
    pieces = [Piece(s, r[start:], start) for s, r, start in zip(slots, rows, starts, strict=True)]
    together = runner.prefill_pieces(pieces)
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)
