"""A library of another version is told as that; what damaged files make of a fitting one is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.clips import write_clip
from valley_cli.api import Media, MediaLimits
from valley_cli.errors import LibraryError, SourceError
from valley_cli.libraries import installed, misfit, required
from valley_cli.media.clip.clip import open_clip
from valley_cli.media.picture.image import open_image

PYAV = "import sys\nERROR = 16\nINFO = 32\n"
OTHERS = {
    "another signature": f"{PYAV}def open(file, mode='r'):\n    raise SystemExit\n",
    "a name that is gone": PYAV,
    "a module that is gone": "open = None\n",
}


def write_pyav(folder: Path, code: str) -> None:
    """A PyAV 99 in ``folder`` that is no more than ``code``; its ``logging`` is there if the code needs it."""
    (folder / "av").mkdir()
    (folder / "av" / "__init__.py").write_text(code)
    if code.startswith(PYAV):
        names = "restore_default_callback = set_libav_level = lambda *args: None\nINFO = 32\n"
        (folder / "av" / "logging.py").write_text(names)
    (folder / "av-99.0.dist-info").mkdir()
    (folder / "av-99.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: av\nVersion: 99.0\n")


@pytest.mark.parametrize("code", OTHERS.values(), ids=OTHERS)
def test_a_pyav_that_does_not_fit_is_no_damaged_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    write_pyav(tmp_path, code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LibraryError) as caught, open_clip(Media("a.mp4", "video", path=str(clip)), MediaLimits()):
        pass
    wanted = required("av")
    assert wanted
    assert wanted.startswith("av")
    assert f"av 99.0 does not fit this valley, which works with {wanted}" in caught.value.message
    assert caught.value.hint == f"pip install '{wanted}'"


def test_what_is_required_is_read_from_the_package() -> None:
    assert str(required("pillow")).startswith("pillow")
    assert str(required("Pillow")).startswith("pillow")
    assert required("pil") is None
    assert required("pytest") is None, "an extra is not required"
    assert installed("numpy")[0].isdigit()
    assert installed("no-such-distribution") == "(no version)"


def raised(step: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each step raises an error of its own
        step()
    return caught.value


def test_only_what_our_own_call_finds_missing_counts() -> None:
    """This module is not the package's, so the calls here stand for what the library does inside."""
    library: Any = Image
    assert misfit(raised(lambda: library.no_such_name), "PIL") is None
    assert misfit(raised(lambda: library.open(no_such_argument=1)), "PIL") is None
    assert misfit(ImportError("libavcodec.so: cannot open"), "av") is not None
    assert misfit(ValueError("no"), "av") is None


def test_a_damaged_picture_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(path)
    whole = path.read_bytes()
    for end in range(8, whole.index(b"IDAT"), 3):
        with pytest.raises(SourceError):
            open_image(whole[:end] + bytes(64), "a.png", MediaLimits())
