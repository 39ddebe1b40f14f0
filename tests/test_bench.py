"""``valley bench`` measures what it says it does."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import closing

import pytest
from PIL import Image

from tests.answers import Told
from tests.commands import inside
from tests.conftest import VALLEY25
from valley_cli.api import Cost, Done, Engine, EngineOptions, Event, MediaLimits, Request
from valley_cli.commands.bench import PICTURE_WH, measure, noise
from valley_cli.engine import open_engine
from valley_cli.media.picture.image import open_image
from valley_cli.terminal.render import StatusLine

TINY = ("-m", str(VALLEY25), "--tokens", "40", "--device", "cpu")


def test_json_holds_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("bench", *TINY, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == str(VALLEY25)
    assert found["prompt_tokens"] > 36 * 25  # 1000x700 pixels are 36 x 25 tokens
    assert set(found["batch_tokens_per_s"]) == {"4", "16"}
    for name in ("load_s", "first_token_s", "pictures_per_s", "tokens_per_s", "bandwidth_bytes_per_s", "memory_bytes"):
        assert found[name] > 0, name
    assert 0 < found["bandwidth_share"] < 1


class Watched:
    """The engine it is given; keeps how each answer went."""

    def __init__(self, engine: Engine) -> None:
        self.about, self.load = engine.about, engine.load
        self.engine = engine
        self.done: list[Done] = []

    def submit(self, request: Request) -> Told:
        return Told(self._watched(request))

    def _watched(self, request: Request) -> Iterator[Event]:
        for event in self.engine.submit(request):
            self.done += [event] if isinstance(event, Done) else []
            yield event

    def price(self, request: Request) -> Cost | None:
        return self.engine.price(request)

    def close(self) -> None:
        self.engine.close()


def test_no_measured_prompt_comes_out_of_the_cache() -> None:
    with closing(Watched(open_engine(EngineOptions(model=str(VALLEY25), device="cpu")))) as engine:
        measure(engine, 2, "cpu", StatusLine(io.StringIO()))
    assert len(engine.done) >= 4 + 16
    for done in engine.done:  # the words in front of the picture are everyone's
        assert done.usage.cached_tokens < done.usage.prompt_tokens - done.usage.image_tokens


def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("bench", *TINY) == 0
    captured = capsys.readouterr()
    assert "tokens/s over 40 tokens" in captured.out
    assert captured.err == ""


def test_a_model_that_is_not_there_exits_5(capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("bench", "-m", "no-such-model", "--offline") == 5
    assert "no-such-model" in capsys.readouterr().err


def test_noise_is_a_picture_of_the_size_it_says() -> None:
    picture: Image.Image = open_image(noise(1), "noise", MediaLimits())
    assert picture.size == PICTURE_WH
    assert noise(1) == noise(1) != noise(2)


def test_answers_that_do_not_fit_the_context_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("bench", *TINY, "--tokens", "90000") == 2
    assert "does not fit the context" in capsys.readouterr().err
