"""``valley video`` as its users run it: which frames, what they cost, what is said about them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.answers import generate, price
from tests.clips import moving_circle, read_number, write_clip, write_images, write_pictures
from tests.commands import Terminal, cold, inside
from tests.conftest import IMAGES, SUBSET, VALLEY2, VALLEY25
from valley_cli.api import Done, EngineOptions, FrameSelection, Media, Message, Request, Sampling
from valley_cli.engine import open_engine
from valley_cli.media.clip.select import select, uniform

TINY = ("-m", str(VALLEY25), "--max-new-tokens", "4")
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
    images = moving_circle()
    images += images[::-1]
    write_images(images, folder / "clip.mp4", rate=8)
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


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """3 s, 10 frames a second, each with its number."""
    return str(write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4"))


def priced(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """What ``--dry-run --json`` says."""
    assert inside("video", *args, *TINY, "--dry-run", "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_frames_times_and_tokens_are_said_before_the_answer(clip: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("video", clip, *TINY, "--json") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["sources"] == [clip]
    assert found["clips"][0]["times_s"] == [0, 0.4, 0.8, 1.2, 1.6, 2, 2.4, 2.9]
    assert "30 frames, 3.00 s): 8 at 0.00 0.40 0.80 1.20 1.60 2.00 2.40 2.90 s\n" in captured.err
    usage = found["usage"]
    assert f"{usage['image_tokens']} tokens for 8 frames, {usage['prompt_tokens']} in all" in captured.err
    dry = priced(capsys, clip)
    assert dry["image_tokens"] == usage["image_tokens"]
    assert dry["prompt_tokens"] == usage["prompt_tokens"]
    assert dry["clips"][0]["times_s"] == [0, 0.4, 0.8, 1.2, 1.6, 2, 2.4, 2.9]
    assert inside("video", clip, *TINY, "-q") == 0
    assert capsys.readouterr().err == ""


def test_the_engine_reads_a_clip_as_the_command_does(clip: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("video", clip, "-m", str(VALLEY2), "--max-new-tokens", "6", "--end", "1:00", "--json") == 0
    command = json.loads(capsys.readouterr().out)
    frames = tuple(
        Media("f", path=str(path)) for path in sorted(_saved(clip, Path(clip).parent / "saved", "-m", str(VALLEY2)))
    )
    answers = []
    for media in (Media("c", "video", path=clip), Media("c", "video", frames=frames)):
        engine = open_engine(EngineOptions(model=str(VALLEY2), device="cpu", media_cache_bytes=10**8))
        question = Message("user", "Describe the given video.")
        for request in (Request((question,), (media,)), Request((Message("user", question.content, (media,)),))):
            *_, done = generate(engine, Request(request.messages, request.images, Sampling(max_new_tokens=6)))
            assert isinstance(done, Done)
            assert price(engine, request).image_tokens == done.usage.image_tokens
            answers.append((done.token_ids, done.usage.prompt_tokens))
        engine.close()
    assert len(set(answers)) == 1
    assert command["usage"]["prompt_tokens"] == answers[0][1]


def _saved(clip: str, folder: Path, *model: str) -> list[Path]:
    assert inside("video", clip, *model, "--dry-run", "--save-frames", str(folder)) == 0
    return list(folder.iterdir())


def test_what_the_context_cannot_hold_is_refused_with_options_that_make_it_fit(
    clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inside("video", clip, "--frames", "400") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    hint = captured.err.splitlines()[-1]
    assert "it would fit with --frames" in hint
    for words in hint.partition("fit with ")[2].split(" or "):
        options = words.split() if "--frames" in words else ["--frames", "400", *words.split()]
        assert inside("video", clip, *options, "--dry-run", "--json") == 0
        assert json.loads(capsys.readouterr().out)["fits"]
    assert inside("video", clip, "--frames", "5000") == 2
    assert inside("video", clip, "-m", str(VALLEY2), "--flavour", "github", "--frames", "9") == 2
    assert "only 8 of the 9 frames" in capsys.readouterr().err
    assert inside("video", clip, "-m", str(VALLEY2), "--flavour", "github", "--max-new-tokens", "2") == 0


def test_the_contact_sheet_and_the_frames_are_saved_and_never_over_something_else(
    clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, folder = tmp_path / "sheet.png", tmp_path / "new" / "frames"
    out = ("--dry-run", "--contact-sheet", str(sheet), "--save-frames", str(folder))
    assert inside("video", clip, *TINY, "--at", "2.9,0,0:01.5", *out) == 0
    assert [path.name for path in sorted(folder.iterdir())] == [
        "0000_2.900s.png",
        "0001_0.000s.png",
        "0002_1.500s.png",
    ]
    assert [read_number(Image.open(path)) for path in sorted(folder.iterdir())] == [29, 0, 15]
    with Image.open(sheet) as image:
        assert image.width > 2 * 128
    before = sheet.read_bytes()
    assert inside("video", clip, *TINY, *out) == 2
    assert "--force" in capsys.readouterr().err
    assert sheet.read_bytes() == before
    assert inside("video", clip, *TINY, *out, "--force") == 0
    assert sheet.read_bytes() != before
    assert inside("video", clip, *TINY, "--contact-sheet", clip, "--force") == 2
    assert inside("video", clip, *TINY, "--contact-sheet", str(tmp_path / "no" / "s.png")) == 1
    assert not list(tmp_path.rglob("*.part"))


def test_pictures_are_the_frames_of_one_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, *rest = [Image.new("RGB", (56, 56), (20 * number, 0, 0)) for number in range(12)]
    for number, image in enumerate((first, *rest)):
        image.save(tmp_path / f"{number}.png")
    from_folder = priced(capsys, str(tmp_path))
    from_glob = priced(capsys, str(tmp_path / "*.png"))
    one_by_one = priced(capsys, *(str(tmp_path / f"{number}.png") for number in range(12)), "--frame-rate", "4")
    names = [Path(picture["name"]).name for picture in from_folder["pictures"]]
    assert names == [f"{index}.png" for index in uniform(12, 8)]
    assert from_folder["pictures"] == from_glob["pictures"] == one_by_one["pictures"]
    assert len(from_folder["clips"]) == len(one_by_one["clips"]) == 1
    assert one_by_one["clips"][0]["times_s"][-1] == 2.75
    write_pictures(tmp_path / "clip.gif")
    assert inside("video", str(tmp_path), *TINY) == 4
    assert "holds both clips and pictures" in capsys.readouterr().err


@pytest.mark.parametrize("exact", [(), ("--exact",)], ids=["", "exact"])
def test_pictures_of_many_sizes_and_turns_cost_what_was_said(
    exact: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it to look at it
    for number, size in enumerate([(56, 112), (140, 56), (84, 84)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.jpg", exif=exif)
    dry = priced(capsys, str(tmp_path), "--frames", "3", *exact)
    turned = [tuple(picture["size_wh"]) for picture in dry["pictures"]]
    assert turned == ([(56, 112), (140, 56), (84, 84)] if exact else [(112, 56), (56, 140), (84, 84)])
    assert inside("video", str(tmp_path), *TINY, "--frames", "3", *exact, "--json") == 0
    assert json.loads(capsys.readouterr().out)["usage"]["prompt_tokens"] == dry["prompt_tokens"]


def test_several_clips_are_looked_at_one_after_another(
    clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gif = str(write_pictures(tmp_path / "a.gif"))
    assert inside("video", gif, clip, *TINY, "--frames", "3", "--json") == 0
    captured = capsys.readouterr()
    assert "2 clips, looked at one after another\n" in captured.err
    assert json.loads(captured.out)["sources"] == [gif, clip]
    dry = priced(capsys, gif, clip, gif, "--frames", "3")
    assert [picture["name"].partition(" @ ")[0] for picture in dry["pictures"]] == [gif] * 3 + [clip] * 3 + [gif] * 3


def test_a_picture_or_a_clip_given_to_the_wrong_command_names_the_right_one(
    clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inside("video", str(IMAGES / "m0_64x64.png"), *TINY) == 4
    assert "valley describe" in capsys.readouterr().err
    assert inside("describe", clip, *TINY) == 4
    assert f"valley video {clip}" in capsys.readouterr().err


def test_what_could_not_be_read_of_a_damaged_clip_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_clip(tmp_path / "half.mp4", range(60), container={"movflags": "+faststart"})
    path.write_bytes(path.read_bytes()[:-3000])
    assert inside("video", str(path), *TINY) == 0
    assert "half.mp4: its pictures end at" in capsys.readouterr().err
    assert inside("video", str(path), *TINY, "--json", "-q") == 0
    assert "pictures end at" in json.loads(capsys.readouterr().out)["clips"][0]["notes"][0]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"video": "half.mp4"}\n{"video": "half.mp4", "prompt": "what?"}\n')
    assert inside("batch", str(rows), *TINY, "-q") == 0
    for line in capsys.readouterr().out.splitlines():
        assert json.loads(line)["notes"][0].startswith("half.mp4: its pictures end at")


def test_bytes_on_stdin_give_the_answer_of_the_file(clip: str, capsys: pytest.CaptureFixture[str]) -> None:
    piped = cold("video", "-", *TINY, "--json", stdin=Path(clip).read_bytes(), env={"TMPDIR": os.path.dirname(clip)})
    assert inside("video", clip, *TINY, "--json") == 0
    of_file = json.loads(capsys.readouterr().out)
    assert json.loads(piped.stdout)["response"] == of_file["response"]
    assert b"- (h264 128x96" in piped.stderr


def test_on_a_terminal_the_stages_are_named(clip: str) -> None:
    terminal = Terminal("video", clip, *TINY)
    assert terminal.finish() == 0
    for stage in (b"reading clips", b"reading frames", b"8 at 0.00 0.40"):
        assert stage in terminal.screen
