"""``valley video`` as its users run it: which frames, what they cost, what is said about them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.commands import inside
from tests.conftest import SUBSET
from training.make_examples import moving, write_clip
from training.world import draw
from valley_cli.engine.base import FrameSelection
from valley_cli.media.video_select import select, uniform

ANSWERED = ("-q", "-p", "Which way does the circle move?")


def test_the_published_sampling_is_reproduced() -> None:
    golden = json.loads((SUBSET / "geometry" / "video_sampling.json").read_text())
    for row in golden["rows"]:
        assert uniform(row["n_frames"], 8) == row["indices"]
        times = [index / 25 for index in range(row["n_frames"])]
        assert select(times, row["n_frames"] / 25, FrameSelection()) == row["indices"]


def test_uniform_is_numpys_linspace_truncated() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        n_frames, count = chance.randint(1, 200_000), chance.randint(1, 70)
        assert uniform(n_frames, count) == np.linspace(0, n_frames - 1, count).astype(int).tolist()


@pytest.fixture(scope="session")
def there_and_back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A circle that goes right for 3 s and left for 3 s, as mp4, as GIF and as a folder of PNGs."""
    folder = tmp_path_factory.mktemp("clips")
    scenes = moving("large red circle", "white")
    scenes += scenes[::-1]
    write_clip(scenes, folder / "clip.mp4")
    images = [draw(scene).image for scene in scenes]
    images[0].save(folder / "clip.gif", save_all=True, append_images=images[1:], duration=125)
    (folder / "frames").mkdir()
    for number, image in enumerate(images):
        image.save(folder / "frames" / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("source", "rate"), [("clip.mp4", ()), ("clip.gif", ()), ("frames", ("--frame-rate", "8"))], ids=lambda v: str(v)
)
def test_the_mini_model_sees_the_motion_of_the_part_that_is_asked_for(
    there_and_back: Path, source: str, rate: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for part, expected in ((("--end", "2.9"), "right"), (("--start", "3.0"), "left")):
        assert inside("video", str(there_and_back / source), *rate, *part, *ANSWERED) == 0
        assert expected in capsys.readouterr().out.lower()
