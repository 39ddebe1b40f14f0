"""Media that several requests share: fetched and decoded once, whoever comes first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.answers import generate, price
from tests.clips import write_clip
from tests.conftest import IMAGES, VALLEY25
from tests.servers import Server, drip, in_turn, send
from valley_cli.api import Cost, Done, EngineOptions, FrameSelection, Media, Message, Request, Sampling, Stage
from valley_cli.engine import open_engine
from valley_cli.engine.local import LocalEngine, open_local
from valley_cli.errors import PromptError, SourceError, TimedOutError
from valley_cli.media.cache import MediaCache, never, source_key
from valley_cli.media.request import ReadTimings

PICTURE = IMAGES / "m0_64x64.png"
OPTIONS = EngineOptions(model=str(VALLEY25), device="cpu", media_cache_bytes=10_000_000)


def get(cache: MediaCache, source: str, read: Callable[[], bytes], give_up: Callable[[], bool] = never) -> object:
    return cache.content(source, "as it is", read, lambda data: [data], lambda value: len(value[0]), give_up)


def about(*media: Media, timeout_s: float | None = None) -> Request:
    sampling = Sampling(max_new_tokens=2)
    return Request((Message("user", "What?"),), images=media, sampling=sampling, timeout_s=timeout_s)


def test_an_address_that_many_requests_name_at_once_is_fetched_once() -> None:
    with Server({"/a.png": send(PICTURE.read_bytes())}) as server:
        engine = open_engine(OPTIONS)
        request = about(Media("a", url=server.url("/a.png")))
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: list(generate(engine, request))[-1], range(24)))
        engine.close()
        assert len(server.seen) == 1
    done = [answer for answer in answers if isinstance(answer, Done)]
    assert len({answer.token_ids for answer in done}) == 1
    assert sum(answer.timings.fetch_s > 0 for answer in done) == 1


def test_without_a_cache_every_request_looks_again() -> None:
    with Server({"/a.png": send(PICTURE.read_bytes())}) as server:
        engine = open_engine(EngineOptions(model=str(VALLEY25), device="cpu"))
        for _ in range(2):
            list(generate(engine, about(Media("a", url=server.url("/a.png")))))
        engine.close()
        assert len(server.seen) == 2


def test_equal_bytes_under_two_names_become_one_value() -> None:
    cache = MediaCache(100)
    assert get(cache, "one", lambda: b"same") is get(cache, "other", lambda: b"same")


def test_a_file_that_changed_is_another_source(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    before = source_key(Media("a", path=str(path)))
    assert source_key(Media("another name", path=str(path))) == before
    path.write_bytes(b"newer")
    assert source_key(Media("a", path=str(path))) != before
    assert source_key(Media("gone", path=str(tmp_path / "gone"))) is None


def test_a_typed_address_and_an_untyped_one_are_two_sources() -> None:
    assert source_key(Media("a", url="http://a/")) != source_key(Media("a", url="http://a/", typed=False))


def test_what_is_kept_stays_within_the_budget_and_the_longest_unused_goes_first() -> None:
    cache, made = MediaCache(250), []

    def make(name: str) -> bytes:
        made.append(name)
        return bytes(100)

    for name in "ababcab":  # c pushes out a, which was used before b; a then pushes out b, and b c
        cache.shared(name, partial(make, name), len)
    assert made == ["a", "b", "c", "a", "b"]


def test_what_is_made_twice_because_one_gave_up_waiting_counts_once() -> None:
    cache, begun, go_on = MediaCache(250), threading.Event(), threading.Event()

    def slowly() -> bytes:
        begun.set()
        go_on.wait()
        return bytes(100)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.shared, "a", slowly, len)
        begun.wait()
        cache.shared("a", lambda: bytes(100), len, lambda: True)  # its time is up: it does not wait for the first
        go_on.set()
        first.result()
    other = cache.shared("b", lambda: bytes(100), len)
    assert cache.shared("b", lambda: bytes(100), len) is other
    assert cache.shared("a", lambda: bytes(1), len) == bytes(100)  # both have room


def test_those_who_wait_share_an_error_and_the_next_one_tries_again() -> None:
    cache, tries, together = MediaCache(100), [], threading.Barrier(4)

    def read() -> bytes:
        tries.append(1)
        time.sleep(0.3)
        raise SourceError("a", "is gone")

    def one(_: int) -> str:
        together.wait()
        with pytest.raises(SourceError) as caught:
            get(cache, "a", read)
        return caught.value.message

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(one, range(4))) == {"a: is gone"}
    assert len(tries) == 1
    assert get(cache, "a", lambda: b"there now") == [b"there now"]


def test_one_whose_time_is_up_does_not_fail_those_who_wait_for_the_same() -> None:
    cache, begun, over = MediaCache(100), threading.Event(), threading.Event()

    def given_up() -> bytes:
        begun.set()
        over.wait()
        raise SourceError("a", "reading was stopped")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(get, cache, "a", given_up, over.is_set)
        begun.wait()
        second = pool.submit(get, cache, "a", lambda: b"whole")
        time.sleep(0.1)
        over.set()
        assert second.result() == [b"whole"]
        assert isinstance(first.exception(), SourceError)


@pytest.mark.parametrize("in_headers", [False, True])
def test_a_request_ends_when_its_time_is_up_while_its_source_hangs(in_headers: bool) -> None:
    engine = open_engine(OPTIONS)
    with Server({"/slow": drip(in_headers=in_headers)}) as server:
        begun = time.monotonic()
        with pytest.raises(TimedOutError, match=r"0\.5 s"):
            next(generate(engine, about(Media("slow", url=server.url("/slow")), timeout_s=0.5)))
        assert time.monotonic() - begun < 3
    engine.close()


def test_a_request_ends_when_its_time_is_up_while_it_answers_and_loading_does_not_count() -> None:
    engine = open_engine(OPTIONS)
    request = Request(
        (Message("user", "Hello"),), sampling=Sampling(max_new_tokens=30_000, ignore_eos=True), timeout_s=0.2
    )
    with pytest.raises(TimedOutError):
        list(generate(engine, request))
    *_, done = generate(engine, about(timeout_s=30))
    assert isinstance(done, Done)
    assert done.finish_reason == "length"
    engine.close()


def test_a_clip_that_is_changed_after_it_was_planned_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    clip, picture = Media("a.mp4", "video", path=str(path)), Media("p", path=str(PICTURE))

    def change(stage: Stage) -> None:
        if stage.done == 1 and looked_at:  # the picture's turn: the clip, planned for an earlier request, is not open
            write_clip(path, size_wh=(64, 48))

    looked_at: list[Cost] = []
    engine = open_local(OPTIONS)
    looked_at.append(price(engine, about(clip, picture)))
    timings = ReadTimings(on_stage=change)
    with pytest.raises(SourceError, match="was changed"):
        engine.model.prepare(engine.model.plan(about(clip, picture), engine.media, timings), engine.media, timings)
    engine.close()


def test_an_address_that_shows_another_clip_is_looked_at_anew(tmp_path: Path) -> None:
    old, new = (
        write_clip(tmp_path / "a.mp4").read_bytes(),
        write_clip(tmp_path / "b.mp4", size_wh=(64, 48)).read_bytes(),
    )
    with Server({"/a.mp4": in_turn(send(old), send(new))}) as server:
        engine = open_local(OPTIONS)
        request = about(Media("a", "video", url=server.url("/a.mp4")))
        price(engine, request)
        with pytest.raises(SourceError, match="was changed"):
            next(generate(engine, request))
        assert isinstance([*generate(engine, request)][-1], Done)
        engine.close()


def kept(engine: LocalEngine) -> list[str]:
    """What the engine's cache holds of clips."""
    return sorted(str(key[0]) for key in engine.media._cache._kept if isinstance(key, tuple))


def test_a_clip_is_planned_before_it_is_decoded_and_not_decoded_where_it_cannot_fit(tmp_path: Path) -> None:
    clip = Media("a.mp4", "video", path=str(write_clip(tmp_path / "a.mp4")))
    engine = open_local(OPTIONS)
    few = price(engine, about(clip))
    assert kept(engine) == ["plan"]
    many = about(*[replace(clip, selection=FrameSelection(at_s=(n / 100,) * 60)) for n in range(40)])
    assert price(engine, many).max_new_tokens < 1
    with pytest.raises(PromptError, match="context holds"):
        next(generate(engine, many))
    assert set(kept(engine)) == {"plan"}
    *_, done = generate(engine, about(clip))
    assert isinstance(done, Done)
    assert done.usage.prompt_tokens == few.prompt_tokens
    assert "frames" in kept(engine)
    engine.close()
