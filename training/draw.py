"""Scenes to pixels; the same scene always gives the same pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training import fonts
from training.shapes import square_of, stencil
from training.world import Scene, Text, Thing

GRAINS = 168  # of the noise along the longer side, at least: the program looks at all pictures in one size
FINEST = 24  # cells of the finest octave of fractal noise along a side
OUTLINE, BORDER = (0.13, 0.22), 0.12  # widths of lines over the radius


@dataclass(frozen=True)
class Drawing:
    """A drawn scene. ``owner_HW`` holds 0 or 1 + the index of the thing that covers a pixel."""

    image: Image.Image
    owner_HW: NDArray[np.uint8]
    characters: tuple[tuple[float, float, str], ...] = field(default=())  # x, y in pixels, character


def _ramp(noise: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """[height, width, 1] from darker to lighter along a random direction."""
    slope, angle = noise.uniform(28, 45), noise.integers(8) * np.pi / 4
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    along = np.cos(angle) * x + np.sin(angle) * y
    return np.asarray(slope * along / max(1e-6, float(abs(along).max())), np.float32)[..., None]


def _grains(noise: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """[height, width, 1 or 3] of noise whose grains grow with the picture."""
    grain = max(1, round(max(height, width) / GRAINS))
    channels = 3 if noise.random() < 0.3 else 1
    shape = (-(-height // grain), -(-width // grain), channels)
    grains = noise.uniform(18, 28) * noise.standard_normal(shape, dtype=np.float32)
    return grains.repeat(grain, 0).repeat(grain, 1)[:height, :width]


def _texture(dice: np.random.Generator, size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """[height, width, 3] of mean 0: noise in which every octave is about half as strong as the coarser one."""
    total = np.zeros((FINEST, FINEST, 3), np.float32)
    for cells in (3, 6, 12, FINEST):
        coarse = dice.standard_normal((cells, cells, 3), dtype=np.float32) * (3.0 / cells) ** 0.8
        colours = Image.fromarray((127 + 30 * coarse).clip(0, 255).astype(np.uint8))
        total += np.asarray(colours.resize((FINEST, FINEST), Image.Resampling.BICUBIC), np.float32)
    total -= total.mean((0, 1))
    shared = total.mean(2, keepdims=True)
    mixed = Image.fromarray((127 + 1.2 * (shared + 0.4 * (total - shared))).clip(0, 255).astype(np.uint8))
    found = np.asarray(mixed.resize(size_wh, Image.Resampling.BICUBIC), np.float32)
    found = found - found.mean((0, 1))
    spread = dice.uniform(20, 34)
    return (found * (spread / max(1.0, float(found.std())))).clip(-2.2 * spread, 2.2 * spread)


def draw_background(scene: Scene) -> Image.Image:
    """The scene's background: one colour, or a gradient, noise or a texture over one."""
    dice, size_wh = np.random.default_rng(scene.seed), (scene.width, scene.height)
    if scene.style == "plain":
        return Image.new("RGB", size_wh, scene.rgb)
    if scene.style == "textured":
        added = _texture(dice, size_wh)
    else:
        added = (_ramp if scene.style == "gradient" else _grains)(dice, scene.height, scene.width)
    pixels = np.array(scene.rgb, np.float32) + added
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_text(image: Image.Image, text: Text) -> tuple[tuple[float, float, str], ...]:
    """Draw a word; returns the centre of each character."""
    font = fonts.load(text.font, text.height)
    left = text.x - font.getlength(text.content) / 2
    ImageDraw.Draw(image).text((left, text.y), text.content, font=font, fill=text.rgb, anchor="lm")
    ends = [font.getlength(text.content[:i]) for i in range(len(text.content) + 1)]
    return tuple((left + (a + b) / 2, text.y, c) for a, b, c in zip(ends, ends[1:], text.content, strict=False))


def draw_thing(image: Image.Image, thing: Thing, number: int, owner: Image.Image, smooth: int) -> None:
    """Draw one object, and its number where it covers the picture."""
    inside, (corner, _) = stencil(thing, smooth), square_of(thing)
    line = OUTLINE[0] + (OUTLINE[1] - OUTLINE[0]) * abs(thing.form)
    image.paste(thing.rgb, corner, stencil(thing, smooth, line) if thing.fill == "outlined" else inside)
    if thing.fill == "bordered":
        image.paste(thing.line, corner, stencil(thing, smooth, BORDER))
    owner.paste(number, corner, inside.point(lambda value: 255 * (value > 100)))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The picture with the losses of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def draw(scene: Scene) -> Drawing:
    """The picture of a scene."""
    image = draw_background(scene)
    owner = Image.new("L", image.size, 0)
    for number, thing in enumerate(scene.things, 1):
        draw_thing(image, thing, number, owner, 1 + scene.seed % 4)  # 1: hard edges, as naive drawings have
    texts = (*((scene.text,) if scene.text else ()), *scene.crowd)
    characters = tuple(character for text in texts for character in draw_text(image, text))
    if scene.quality:
        image = as_jpeg(image, scene.quality)
    return Drawing(image, np.asarray(owner), characters)
