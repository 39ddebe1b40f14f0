"""Which moments of a clip are meant, as typed and in JSON."""

from __future__ import annotations

from typing import Any

import pytest

from valley_cli.api import FrameSelection
from valley_cli.errors import UsageError
from valley_cli.sources.times import read_selection, read_time, split_options, write_selection


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("75", 75.0), ("1:15", 75.0), ("0:01:15.5", 75.5), (".5", 0.5), ("120:00", None), ("1:75", None)],
)
def test_times_are_seconds_or_clock_times(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(UsageError, match="no time"):
            read_time(text, "--start")
    else:
        assert read_time(text, "--start") == seconds


@pytest.mark.parametrize(
    "selection",
    [
        FrameSelection(),
        FrameSelection(3, start_s=1.5, end_s=9.0),
        FrameSelection(fps=2.0, max_frames=4),
        FrameSelection(at_s=(1.0, 2.5), frame_rate=25.0),
    ],
)
def test_what_is_written_is_read_back_the_same(selection: FrameSelection) -> None:
    assert read_selection(write_selection(selection)) == selection


def test_options_stand_anywhere_behind_the_command() -> None:
    sources, selection = split_options(["--frames", "4", "a b.mp4", "--start=0:10", "--at", "1,2", "--at=3", "c.mp4"])
    assert sources == ["a b.mp4", "c.mp4"]
    assert selection == FrameSelection(4, start_s=10.0, at_s=(1.0, 2.0, 3.0))
    assert split_options(["a.mp4"]) == (["a.mp4"], None)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--frame", "4"], "no option --frame"),
        (["--frames"], "--frames needs a value"),
        (["--frames", "many"], 'frames is "many"'),
        (["--frames", "0"], "frames is 0"),
        (["--fps", "0"], "fps is 0"),
        (["--end", "late"], "end 'late' is no time"),
    ],
)
def test_wrong_options_are_named(words: list[str], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        split_options(words)


@pytest.mark.parametrize("found", [{"start": -1}, {"end": True}, {"frames": 2.5}, {"at": [None]}])
def test_wrong_numbers_in_json_are_named(found: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(found))):
        read_selection(found)
