"""Frames of clips in which one object moves, changes or stays."""

from __future__ import annotations

from dataclasses import replace

from training.phrases import ask
from training.questions import Question, name, sentence, with_article
from training.scenes import empty_scene, make_thing
from training.several import NARROWEST, SIDES
from training.world import HELD_OUT_PAIRS, Dice, Scene, Thing, pick_colour

MOTIONS = ("right", "left", "down", "up", "colour", "grow", "shrink", "appear", "disappear", "still")
WAYS = ("right", "left", "down", "up")
FRAMES = (4, 5, 6, 7, 8, 8, 8, 8, 8, 8, 8, 8, 10, 12, 16)
LEAST_WAY = 0.45  # of the picture that a moving object crosses


def clip(rng: Dice) -> tuple[list[Scene], list[Question]]:
    """Frames of one object; mostly 8, as the program sends them."""
    frames = rng.choice(FRAMES)
    base = empty_scene(rng, SIDES, NARROWEST)
    motion = rng.choice(MOTIONS)
    radius = min(base.width, base.height) * rng.uniform(0.2, 0.36) / 2
    thing = make_thing(rng, base, 0, 0, radius, "large")
    later_colour, later_rgb = pick_colour(rng, base.rgb)
    while later_colour == thing.colour or (later_colour, thing.shape) in HELD_OUT_PAIRS:
        later_colour, later_rgb = pick_colour(rng, base.rgb)
    start = rng.uniform(0.03, 0.97 - LEAST_WAY)
    path = (start, rng.uniform(start + LEAST_WAY, 0.97)) if rng.random() < 0.6 else (0.05, 0.95)
    across, down, cut = rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.85), rng.randint(1, frames - 1)
    scenes = []
    for number in range(frames):
        placed = _moved(thing, base, motion, number / (frames - 1), (across, down), path)
        if motion == "colour" and number >= cut:
            placed = replace(placed, rgb=later_rgb, colour=later_colour)
        hidden = (motion == "appear" and number < cut) or (motion == "disappear" and number >= cut)
        scenes.append(replace(base, things=() if hidden else (placed,), seed=base.seed))
    return scenes, _clip_questions(rng, thing, motion, later_colour)


def _moved(
    thing: Thing, base: Scene, motion: str, progress: float, place: tuple[float, float], path: tuple[float, float]
) -> Thing:
    """The object at one moment: ``progress`` 0..1 through its motion; ``path``: from where to where it moves."""
    forth = path[0] + (path[1] - path[0]) * progress
    across = {"right": forth, "left": 1 - forth}.get(motion, place[0])
    down = {"down": forth, "up": 1 - forth}.get(motion, place[1])
    radius = thing.radius
    if motion in ("grow", "shrink"):
        across, down = 0.5 + (across - 0.5) * 0.3, 0.5 + (down - 0.5) * 0.3
        radius = min(base.width, base.height) * (0.1 + 0.28 * (progress if motion == "grow" else 1 - progress))
    x = thing.radius + across * (base.width - 2 * thing.radius)
    y = thing.radius + down * (base.height - 2 * thing.radius)
    return replace(thing, x=x, y=y, radius=radius)


def _clip_questions(rng: Dice, thing: Thing, motion: str, later_colour: str) -> list[Question]:
    subject = with_article(name(thing))
    told = {
        "right": f"{subject} moves from left to right",
        "left": f"{subject} moves from right to left",
        "down": f"{subject} moves from top to bottom",
        "up": f"{subject} moves from bottom to top",
        "colour": f"{with_article(thing.shape)} changes colour from {thing.colour} to {later_colour}",
        "grow": f"{subject} grows",
        "shrink": f"{subject} shrinks",
        "appear": f"{subject} appears",
        "disappear": f"{subject} disappears",
        "still": f"{subject} stays still",
    }[motion]
    found = [Question("describe clip", ask(rng, "describe_clip"), sentence(told))]
    handle = thing.shape if motion == "colour" or rng.random() < 0.6 else name(thing)
    if motion in WAYS:
        found.append(Question("direction", ask(rng, "direction", thing=handle), sentence(motion)))
    found.append(Question("clip change", ask(rng, "clip_change", thing=handle), sentence(told)))
    found.append(Question("clip shape", ask(rng, "clip_shape"), sentence(with_article(thing.shape))))
    if motion == "colour":
        found.append(Question("clip colour", ask(rng, "last_colour", thing=thing.shape), sentence(later_colour)))
    else:
        found.append(Question("clip colour", ask(rng, "colour_of", thing=thing.shape), sentence(thing.colour)))
    asked = ask(rng, "moves", thing=handle)
    says_yes = (motion in WAYS) != ("stay" in asked)
    if "stay" not in asked or motion in (*WAYS, "still"):
        found.append(Question("moves", asked, "Yes." if says_yes else "No."))
    return found
