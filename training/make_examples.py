"""``python -m training.make_examples FOLDER``: the pictures and the clip of the README, drawn by the world's code."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import av

from training.draw import draw
from training.world import BACKGROUNDS, COLOURS, PLACES, Scene, Thing

SMALL, LARGE = 0.16, 0.28  # diameters as shares of the longer side
SEED = 1  # of the noise; also chooses smooth edges


def thing(scene: Scene, words: str, place: str, diameter: float = 0.0) -> Thing:
    """``words`` like "large red star" in the middle of one of the nine places."""
    size, colour, shape = words.split()
    cell = PLACES.index(place)
    x, y = (cell % 3 + 0.5) * scene.width / 3, (cell // 3 + 0.5) * scene.height / 3
    share = diameter or (SMALL if size == "small" else LARGE)
    radius = share * max(scene.width, scene.height) / 2
    return Thing(shape, colour, size, x, y, radius, 0.0, COLOURS[colour][0], cell)


def scene(background: str, style: str, things: dict[str, str], size_wh: tuple[int, int] = (336, 336)) -> Scene:
    """A scene of ``things``, place -> words."""
    empty = Scene(*size_wh, background, style, BACKGROUNDS[background][0], SEED)
    found = [thing(empty, words, place) for place, words in things.items()]
    return Scene(*size_wh, background, style, empty.rgb, SEED, tuple(sorted(found, key=lambda t: t.cell)))


def examples() -> dict[str, Scene]:
    """File name -> scene."""
    shapes = {"top left": "large red circle", "right": "small blue square", "bottom left": "large green triangle"}
    three = {"top": "small orange star", "left": "small orange star", "bottom right": "small orange star"}
    return {
        "shapes.png": scene("white", "plain", shapes),
        "star.png": scene("navy", "plain", {"centre": "large yellow star"}),
        "three.png": scene("beige", "gradient", three),
        "wide.png": scene("mint", "plain", {"left": "small purple ring", "top right": "small red cross"}, (400, 300)),
        "heart.png": scene("black", "gradient", {"bottom": "large pink heart"}),
        "ring.png": scene("grey", "plain", {"bottom right": "large white ring"}, (300, 400)),
    }


def moving(words: str, background: str, n_frames: int = 24) -> list[Scene]:
    """``words`` like "large red circle" going from left to right."""
    empty = scene(background, "plain", {}, (224, 168))
    placed = thing(empty, words, "left", 0.21)
    scenes = []
    for number in range(n_frames):
        x = placed.radius + (0.06 + 0.88 * number / (n_frames - 1)) * (empty.width - 2 * placed.radius)
        scenes.append(replace(empty, things=(replace(placed, x=x),)))
    return scenes


def write_clip(scenes: list[Scene], path: Path, rate: int = 8) -> None:
    """H.264 in MP4, ``rate`` frames a second."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = scenes[0].width, scenes[0].height, "yuv420p"
        for one in scenes:
            container.mux(stream.encode(av.VideoFrame.from_image(draw(one).image)))
        container.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.make_examples", description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in examples().items():
        draw(drawn).image.save(args.folder / name, optimize=True)
    write_clip(moving("large red circle", "white"), args.folder / "moving.mp4")


if __name__ == "__main__":
    main()
