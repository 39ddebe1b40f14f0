"""Dense labels: what each merged patch of a picture shows. They teach the tower to see, in training only."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.draw import Drawing
from training.shapes import SHAPES
from training.world import BACKGROUNDS, CHARACTERS, COLOURS, SIZES, STYLES, Scene

SUBGRID = 4  # a merged patch is looked at in SUBGRID x SUBGRID points
MAX_GRID = 6
NOT_LEARNED = -100  # a label that counts neither for nor against: cross entropy leaves it out
CLASSES = {  # label -> number of classes; 0 means "none" except for row and column
    "shape": 1 + len(SHAPES),
    "colour": 1 + len(COLOURS),
    "size": 1 + len(SIZES),
    "left character": 1 + len(CHARACTERS),
    "right character": 1 + len(CHARACTERS),
    "background": 1 + len(BACKGROUNDS),
    "style": 1 + len(STYLES),
    "cell": 10,
    "row": MAX_GRID,
    "column": MAX_GRID,
    "change": 2,  # 1 where the second of two pictures shows something else than the first
}
NAMES = tuple(CLASSES)


def mark_changes(scenes: list[Scene], labels: list[Tensor]) -> None:
    """Fill in the label "change" of the second of two pictures of one scene; nowhere else is it learned.

    Of unrelated pictures and of clips nearly every object would be a change: no reason to compare.
    """
    change, look = NAMES.index("change"), [NAMES.index("shape"), NAMES.index("colour")]
    for picture in labels:
        picture[:, change] = NOT_LEARNED
    if len(scenes) == 2 and scenes[0].seed == scenes[1].seed:
        before, after = labels
        after[:, change] = (before[:, look] != after[:, look]).any(1)


def _owners(drawing: Drawing, grid: int) -> tuple[NDArray[np.int64], float, float, int]:
    """[grid * grid, 16] owners on the square canvas, the picture's corner on it and the canvas's side in pixels."""
    height, width = drawing.owner_HW.shape
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    canvas = Image.new("L", (side, side), 255)  # 255: outside the picture
    canvas.paste(Image.fromarray(drawing.owner_HW), (left, top))
    points = np.asarray(canvas.resize((grid * SUBGRID,) * 2, Image.Resampling.NEAREST), np.int64)
    points = points.reshape(grid, SUBGRID, grid, SUBGRID).transpose(0, 2, 1, 3)
    return points.reshape(grid * grid, SUBGRID**2), left, top, side


def label_picture(scene: Scene, drawing: Drawing, grid: int) -> Tensor:
    """int64 [grid * grid, len(NAMES)]: the classes of each merged patch of the padded square."""
    owners, left, top, side = _owners(drawing, grid)
    tokens = grid * grid
    classes = np.zeros((tokens, len(NAMES)), np.int64)
    column = {name: number for number, name in enumerate(NAMES)}
    rows, columns = np.divmod(np.arange(tokens), grid)
    classes[:, column["row"]], classes[:, column["column"]] = rows, columns
    outside = (owners == 255).mean(1) > 0.5
    classes[:, column["background"]] = np.where(outside, 0, 1 + tuple(BACKGROUNDS).index(scene.background))
    classes[:, column["style"]] = np.where(outside, 0, 1 + STYLES.index(scene.style))
    covered = np.full(tokens, 1)  # an object must cover at least 2 of the 16 points
    for number, thing in enumerate(scene.things, 1):
        points = (owners == number).sum(1)
        here = points > covered
        covered = np.maximum(covered, points)
        looks = SHAPES.index(thing.shape), tuple(COLOURS).index(thing.colour), SIZES.index(thing.size)
        classes[here, :3] = np.add(looks, 1)
        classes[here, column["cell"]] = thing.cell + 1
    for x, y, character in drawing.characters:
        token_x, token_y = (x + left) * grid / side, (y + top) * grid / side
        token = min(grid - 1, int(token_y)) * grid + min(grid - 1, int(token_x))
        half = "left character" if token_x % 1 < 0.5 else "right character"
        classes[token, column[half]] = CHARACTERS.index(character) + 1
    return torch.from_numpy(classes)
