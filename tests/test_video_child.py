"""The decoding child may hang, die or be orphaned: the answer comes all the same, or an error does, in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.clips import HAS_DECORD, read_number, scrambled, write_clip, write_pictures
from tests.servers import Server, send
from valley_cli.api import FrameSelection, Media, MediaLimits
from valley_cli.errors import RefusedError, SourceError, UsageError
from valley_cli.media.clip.clip import Clip, open_clip
from valley_cli.media.clip.select import uniform
from valley_cli.settings import as_flags

PUBLISHED = uniform(30, 8)
WORKER = b"valley_cli.media.clip.worker"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


def media(path: Path, **selection: float) -> Media:
    wanted = FrameSelection(**selection) if selection else None  # type: ignore[arg-type]
    return Media(path.name, "video", path=str(path), selection=wanted)


def numbers(clip: Clip) -> list[int]:
    return [read_number(frame.image) for frame in clip.frames()]


def children(of: int) -> list[int]:
    """The decoding children of a process."""
    found = []
    for task in Path(f"/proc/{of}/task").iterdir():
        with suppress(OSError):  # a thread or child that has just ended
            for pid in (task / "children").read_text().split():
                if WORKER in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
    return found


def gone(pid: int) -> bool:
    """True once the process has ended; waits for it."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_frames_come_in_order_with_their_times_and_the_child_is_gone(clip: Path) -> None:
    with open_clip(media(clip), MediaLimits()) as opened:
        (child,) = children(os.getpid())
        assert numbers(opened) == PUBLISHED
        assert opened.plan.names[2] == "clip.mp4 @ 0.80 s"
        assert opened.plan.duration_s == pytest.approx(3.0)
        assert not children(os.getpid())
    assert gone(child)


def test_a_killed_child_is_replaced_once(clip: Path) -> None:
    with open_clip(media(clip), MediaLimits()) as opened:
        os.kill(children(os.getpid())[0], signal.SIGKILL)
        assert numbers(opened) == PUBLISHED


def test_children_that_are_killed_again_and_again_are_an_error(clip: Path) -> None:
    over = threading.Event()

    def kill() -> None:
        while not over.is_set():
            for child in children(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.005)

    with open_clip(media(clip), MediaLimits()) as opened:
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with pytest.raises(SourceError, match="killed or crashed, twice"):
                opened.frames()
        finally:
            over.set()
            killer.join()


@pytest.mark.skipif(
    not HAS_DECORD, reason="decord is not installed: PyAV has all of the time, and no other comes after"
)
def test_a_child_that_hangs_is_replaced_within_its_time(clip: Path) -> None:
    begun = time.monotonic()
    with open_clip(media(clip), MediaLimits(clip_timeout_s=14)) as opened:
        hanging = children(os.getpid())[0]
        os.kill(hanging, signal.SIGSTOP)
        assert numbers(opened) == PUBLISHED
    assert time.monotonic() - begun < 14
    assert gone(hanging)


def test_a_clip_that_takes_longer_than_its_time_is_an_error_in_that_time(clip: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(RefusedError, match=r"within 0\.02 s"), open_clip(media(clip), MediaLimits(clip_timeout_s=0.02)):
        pass
    assert time.monotonic() - begun < 5
    assert not children(os.getpid())


def test_a_clip_that_hangs_decord_is_answered(tmp_path: Path) -> None:
    with open_clip(media(write_clip(tmp_path / "clip.ts")), MediaLimits(clip_timeout_s=30)) as opened:
        assert numbers(opened) == PUBLISHED


def test_a_request_that_is_given_up_ends_at_once(clip: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(SourceError, match="stopped"), open_clip(media(clip), MediaLimits(), cancelled=lambda: True):
        pass
    assert time.monotonic() - begun < 5


def test_the_child_dies_with_its_parent(clip: Path) -> None:
    script = (
        "import sys, time\n"
        "from valley_cli.api import Media, MediaLimits\n"
        "from valley_cli.media.clip.clip import open_clip\n"
        f"with open_clip(Media('c', 'video', path={str(clip)!r}), MediaLimits()):\n"
        "    print('open', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"open\n"
        (child,) = children(parent.pid)
        parent.kill()
        assert gone(child)


def test_damage_that_a_decoder_patches_up_is_said(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", range(60), options={"g": "10"}, container={"movflags": "+faststart"})
    path.write_bytes(scrambled(path.read_bytes(), 0.6, 60))  # frames 26 to 28
    with open_clip(media(path, frames=60), MediaLimits()) as opened:
        came = numbers(opened)
        assert came == sorted(came)
        assert opened.notes


def test_frames_are_kept_smaller_where_they_would_take_too_much_memory(clip: Path) -> None:
    with open_clip(media(clip), MediaLimits(max_clip_pixels=128 * 96 * 2)) as opened:
        frames = opened.frames()
        assert {frame.image.size for frame in frames} == {opened.plan.size_wh} == {(64, 48)}
        assert [read_number(frame.image) for frame in frames] == PUBLISHED
        assert "64x48" in opened.notes[0]


def test_a_frame_that_is_wanted_twice_is_kept_once(clip: Path) -> None:
    with open_clip(media(clip, frames=60), MediaLimits()) as opened:
        frames = opened.frames()
    assert len(frames) == 60
    assert len({id(frame.data) for frame in frames}) == 30


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"start_s": 1.0, "end_s": 1.9}, [10, 11, 12, 13, 15, 16, 17, 19]),
        ({"frames": 3, "end_s": 0.25}, [0, 1, 2]),
        ({"fps": 2.0}, [0, 5, 10, 15, 20, 25]),
        ({"fps": 10.0, "max_frames": 4}, [0, 9, 19, 29]),
        ({"fps": 1.0, "start_s": 1.5}, [15, 25]),
        ({"at_s": (2.95, 0.0, 3.0)}, [29, 0, 29]),
    ],
    ids=str,
)
def test_a_selection_is_made_by_time(clip: Path, selection: dict[str, float], expected: list[int]) -> None:
    with open_clip(media(clip, **selection), MediaLimits()) as opened:
        assert [moment.index for moment in opened.plan.moments] == expected


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"start_s": 3.2}, "clip.mp4: --start 3.2 s lies behind the clip's end at 3.00 s"),
        ({"at_s": (1.0, 99.0)}, "--at 99 s lies behind"),
        ({"start_s": 2.0, "end_s": 1.0}, "comes before the start"),
        ({"fps": 1e9}, "frames a second over"),
        ({"frames": 0}, "--frames: 0"),
        ({"fps": float("nan")}, "must be numbers"),
        ({"at_s": (1.0,), "fps": 1.0}, "--at names the moments itself"),
    ],
    ids=str,
)
def test_a_selection_the_clip_does_not_have_is_an_error(clip: Path, selection: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError) as caught, open_clip(media(clip, **selection), MediaLimits()):
        pass
    assert words in as_flags(caught.value.message)


def test_an_address_is_streamed_to_a_file_without_a_name(clip: Path, tmp_path: Path) -> None:
    gif = write_pictures(tmp_path / "a.gif").read_bytes()
    old, tempfile.tempdir = tempfile.tempdir, str(tmp_path / "temporary")
    Path(tempfile.tempdir).mkdir()
    try:
        with Server({"/clip": send(clip.read_bytes()), "/gif": send(gif, content_type="text/plain")}) as server:
            for path, expected in (("/clip", PUBLISHED), ("/gif", uniform(12, 8))):
                with open_clip(Media(path, "video", url=server.url(path)), MediaLimits()) as opened:
                    assert not list(Path(tempfile.tempdir).iterdir())
                    assert numbers(opened) == expected
            small = MediaLimits(max_video_bytes=1000)
            with pytest.raises(RefusedError) as caught, open_clip(Media("c", "video", url=server.url("/clip")), small):
                pass
            assert "VALLEY_MAX_VIDEO_BYTES" in str(caught.value.hint)
        tempfile.tempdir = str(tmp_path / "gone")
        with (
            pytest.raises(SourceError, match="temporary file") as refused,
            open_clip(Media("c", "video", data=gif), MediaLimits()),
        ):
            pass
        assert "TMPDIR" in str(refused.value.hint)
    finally:
        tempfile.tempdir = old


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"just words", "is text, not a clip"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "is text, not a clip"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "is text, not a clip"),
        (b"<!doctype html><html>", "is a web page, not a clip"),
        (b"\x89PNG\r\n\x1a\n", "is a picture, not a clip"),
        (b"%PDF-1.7", "is a PDF, not a clip"),
        (bytes(100), "no known kind of clip"),
    ],
    ids=lambda value: str(value)[:16],
)
def test_what_is_no_clip_is_known_by_its_bytes_and_never_opened(content: bytes, words: str) -> None:
    with pytest.raises(SourceError) as caught, open_clip(Media("c.mp4", "video", data=content), MediaLimits()):
        pass
    assert words in as_flags(caught.value.message)


def test_names_that_look_like_addresses_or_options_are_files(clip: Path, tmp_path: Path) -> None:
    for name in ("concat:a|b.mp4", "-i.mp4", "http:x.mp4", "%d.mp4", os.fsdecode(b"\xff\xfe.mp4"), "a\nb.mp4"):
        odd = tmp_path / name
        odd.write_bytes(clip.read_bytes())
        with open_clip(Media("odd", "video", path=str(odd)), MediaLimits()) as opened:
            assert numbers(opened) == PUBLISHED


def test_without_a_video_library_gifs_are_read_and_others_tell_what_to_install(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("av", "decord"):
        (tmp_path / library).mkdir()
        (tmp_path / library / "__init__.py").write_text("raise ModuleNotFoundError(name=__name__)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with open_clip(media(write_pictures(tmp_path / "a.gif")), MediaLimits()) as opened:
        assert numbers(opened) == uniform(12, 8)
    with pytest.raises(SourceError) as caught, open_clip(media(clip), MediaLimits()):
        pass
    assert "pip install av" in str(caught.value.hint)
    (tmp_path / "av" / "__init__.py").unlink()
    (tmp_path / "av").rmdir()
    with open_clip(media(clip), MediaLimits()) as opened:
        assert numbers(opened) == PUBLISHED


def test_a_clip_that_rests_holds_no_child(clip: Path) -> None:
    with open_clip(media(clip), MediaLimits()) as opened:
        opened.rest()
        assert not children(os.getpid())
        assert numbers(opened) == PUBLISHED
