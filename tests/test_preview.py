"""``--preview``: what is drawn is the picture, in every way that a terminal can show it."""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import select
from collections.abc import Iterator
from typing import TextIO

import numpy as np
import pytest
from PIL import Image

from tests.talk import SHAPES, STAR
from valley_cli.api import Media, MediaLimits, Request
from valley_cli.commands.shared.answering import with_preview
from valley_cli.terminal.preview import (
    Graphics,
    Screen,
    draw,
    fit,
    graphics_of,
    half_blocks,
    pictures_of,
    screen_of,
    sheet,
)
from valley_cli.terminal.preview_sixel import sixels
from valley_cli.terminal.render import Renderer, StatusLine


@pytest.fixture
def picture() -> Image.Image:
    return Image.open(SHAPES).convert("RGB").resize((40, 24))


def drawn_blocks(text: str) -> np.ndarray:
    """The pixels (H, W, 3) of half blocks in true colour."""
    rows = []
    for line in text.splitlines():
        upper, lower = [], []
        colours: list[list[int]] = []
        for escape, block in re.findall(r"\x1b\[([0-9;]*)m|(▀)", line):
            if block:
                upper.append(colours[0])
                lower.append(colours[1])
            elif escape != "0":
                numbers = [int(number) for number in escape.split(";")]
                assert numbers[:2] == [38, 2]
                assert numbers[5:7] == [48, 2]
                colours = [numbers[2:5], numbers[7:]]
        rows += [upper, lower]
    return np.array(rows)


def test_half_blocks_are_the_pixels(picture: Image.Image) -> None:
    text = half_blocks(picture, true_colour=True)
    assert np.array_equal(drawn_blocks(text), np.asarray(picture))
    assert all(line.endswith("\x1b[0m") for line in text.splitlines())


def test_256_colours_are_the_nearest(picture: Image.Image) -> None:
    values = {("\x1b[38;5;16;48;5;231m▀\x1b[0m\n"): ((0, 0, 0), (255, 255, 255))}
    values["\x1b[38;5;196;48;5;244m▀\x1b[0m\n"] = ((250, 10, 3), (128, 128, 128))
    for text, pixels in values.items():
        image = Image.new("RGB", (1, 2))
        for y, pixel in enumerate(pixels):
            image.putpixel((0, y), pixel)
        assert half_blocks(image, true_colour=False) == text


def drawn_sixels(text: str) -> Iterator[tuple[int, int, int]]:
    """(x, y, colour register) of every dot that is set."""
    body = re.fullmatch(r'\x1bPq"1;1;\d+;\d+((?:#\d+;2;\d+;\d+;\d+)*)(.*)\x1b\\', text, re.S)
    assert body
    for band, lines in enumerate(body[2].split("-")):
        for line in lines.split("$"):
            x, colour = 0, -1
            for chosen, times, character in re.findall(r"#(\d+)|(?:!(\d+))?([?-~])", line):
                if chosen:
                    colour = int(chosen)
                    continue
                for _ in range(int(times or 1)):
                    yield from ((x, 6 * band + y, colour) for y in range(6) if (ord(character) - 63) >> y & 1)
                    x += 1


def test_sixels_are_the_pixels_each_drawn_once(picture: Image.Image) -> None:
    image = picture.resize((40, 20))  # the last band is not whole
    text = sixels(image)
    pixels = np.asarray(image)
    palette = {int(n): rgb for n, *rgb in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", text)}
    dots = list(drawn_sixels(text))
    assert len(dots) == len({dot[:2] for dot in dots}) == 40 * 20
    for x, y, colour in dots:
        found = [int(percent) * 255 / 100 for percent in palette[colour]]
        assert np.abs(np.subtract(found, pixels[y, x])).max() < 24


def test_graphics_hold_the_picture_itself(picture: Image.Image) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8))
    for image in (picture, noise):  # the noise takes several chunks
        kitty = draw([image], Screen(10, 5, "kitty", (6, 12)))
        chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty)
        assert [keys.endswith("m=1") for keys, _ in chunks] == [True] * (len(chunks) - 1) + [False]
        assert "c=10,r=" in chunks[0][0]
        shown = png("".join(data for _, data in chunks))
        columns, rows = fit(image.size, Screen(10, 5, "kitty"))
        assert np.array_equal(np.asarray(shown), np.asarray(image.resize((columns * 6, rows * 12))))
    iterm = draw([picture], Screen(10, 5, "iterm", (6, 12)))
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);width=10;height=3:([^\x07]*)\x07\n", iterm)
    assert found
    assert len(base64.b64decode(found[2])) == int(found[1])


def png(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("size", [(40, 24), (4000, 3), (3, 4000), (1, 1)])
@pytest.mark.parametrize("graphics", ["kitty", "iterm", "sixel", "truecolor", "256"])
def test_every_picture_fits_its_room(size: tuple[int, int], graphics: Graphics) -> None:
    screen = Screen(20, 6, graphics)
    columns, rows = fit(size, screen)
    assert 1 <= columns <= 20
    assert 1 <= rows <= 6
    text = draw([Image.new("RGB", size)], screen)
    assert text.endswith("\n")
    assert graphics not in ("truecolor", "256") or text.count("\n") == rows


def test_frames_are_shown_together_in_their_order() -> None:
    colours = [(20 * index, 0, 0) for index in range(10)]
    whole = sheet([Image.new("RGB", (50, 30), colour) for colour in colours])
    found = [whole.getpixel((25 + 51 * (index % 4), 15 + 31 * (index // 4))) for index in range(10)]
    assert found == colours
    assert sheet([Image.new("RGB", (5, 3))] * 400).size == sheet([Image.new("RGB", (5, 3))] * 16).size


@pytest.mark.parametrize(
    ("environ", "graphics"),
    [
        ({"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app", "COLORTERM": "truecolor"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "truecolor"),
        ({"TERM": "xterm-256color"}, "256"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x", "KITTY_WINDOW_ID": "1"}, "256"),
    ],
)
def test_graphics_are_known_by_what_the_terminal_says_of_itself(environ: dict[str, str], graphics: str) -> None:
    assert graphics_of(environ) == graphics


@pytest.fixture
def screen() -> Iterator[tuple[TextIO, int]]:
    """(the program's side of a pseudo-terminal, the descriptor that shows what was written)"""
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as stream:
        yield stream, ours
    os.close(ours)


def test_a_preview_on_a_terminal_holds_what_it_read(
    screen: tuple[TextIO, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TMUX", "STY", "KITTY_WINDOW_ID", "TERM_PROGRAM", "LC_TERMINAL", "WT_SESSION", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal, shown = screen
    renderer = Renderer(io.StringIO(), StatusLine(terminal), err=terminal)
    request = with_preview(Request((), images=(Media("a star", path=STAR),)), renderer, MediaLimits())
    assert [(media.name, media.path) for media in request.images] == [("a star", None)]
    seen = b""
    while "▀".encode() not in seen:
        assert select.select([shown], [], [], 5)[0], seen
        seen += os.read(shown, 1 << 16)
    quiet = Renderer(io.StringIO(), StatusLine(terminal, quiet=True), err=terminal, quiet=True)
    assert with_preview(request, quiet, MediaLimits()) is request


def test_nothing_is_drawn_where_it_could_not_be_seen(screen: tuple[TextIO, int]) -> None:
    terminal, _ = screen
    assert screen_of(terminal, {"TERM": "xterm-256color"})
    assert screen_of(terminal, {"TERM": "xterm-256color", "NO_COLOR": "1"}) is None
    assert screen_of(terminal, {"TERM": "dumb"}) is None
    assert screen_of(io.StringIO(), {"TERM": "xterm-kitty"}) is None


def test_a_preview_in_a_pipe_reads_and_shows_nothing() -> None:
    err = io.StringIO()
    renderer = Renderer(io.StringIO(), StatusLine(err), err=err)
    request = Request((), images=(Media("gone.png", path="gone.png"),))
    assert with_preview(request, renderer, MediaLimits()) is request
    assert err.getvalue() == ""


def test_what_was_shown_is_not_read_again() -> None:
    held, (image,) = pictures_of(Media("a star", path=STAR), MediaLimits())
    assert (held.path, held.name, image.size) == (None, "a star", Image.open(STAR).size)
    clip = Media("clip", "video", frames=(held, held))
    assert pictures_of(clip, MediaLimits())[0] is clip
    assert len(pictures_of(clip, MediaLimits())[1]) == 2
