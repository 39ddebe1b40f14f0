"""Several pictures at once, frames of a clip, and talk without a picture."""

from __future__ import annotations

import random
from dataclasses import replace

from training import phrases
from training.phrases import ask
from training.questions import NUMBERS, Question, brief, name, only, sentence, with_article
from training.shapes import SHAPES
from training.world import Scene, Thing, empty_scene, make_scene, pick_colour

SIDES = (112, 240)
MOTIONS = ("right", "left", "down", "up", "colour", "grow", "shrink", "appear", "disappear", "still")
WHICH = ("Which picture has {a_thing}?", "Which image shows {a_thing}?", "In which picture is {a_thing}?")
WHAT_IN = ("What is in picture {number}?", "What is in image {number}?", "Describe picture {number}.")
HOW_MANY = ("How many pictures are there?", "How many images are there?")
TALK = (
    (("Hello.", "Hi.", "Hello!", "Hi there."), "Hello. Show me a drawing and ask about it."),
    (
        ("Who are you?", "What are you?", "What is your name?"),
        "I am valley-mini, a small model that knows simple drawings.",
    ),
    (
        ("What can you do?", "Help.", "How can you help me?"),
        "I can name colours, shapes, places and counts in simple drawings.",
    ),
    (("Thank you.", "Thanks.", "Thanks!"), "You are welcome."),
    (
        ("Describe the given image.", "What do you see?", "How many objects are there?", "What colour is it?"),
        "There is no picture.",
    ),
)


def several_pictures(rng: random.Random) -> tuple[list[Scene], list[Question]]:
    """Two or three pictures of one or two large objects; the overall description comes first."""
    scenes = [
        make_scene(rng, rng.choice((1, 1, 2)), sizes=("large",), sides=SIDES) for _ in range(rng.choice((2, 2, 3)))
    ]
    overall = " ".join(f"Picture {i}: {brief(scene)}" for i, scene in enumerate(scenes, 1))
    rest = [Question("pictures", ask(rng, HOW_MANY), sentence(NUMBERS[len(scenes)]))]
    everything = tuple(thing for scene in scenes for thing in scene.things)
    for number, scene in enumerate(scenes, 1):
        rest.append(Question("what in", ask(rng, WHAT_IN, number=str(number)), brief(scene)))
        thing = rng.choice(scene.things)
        if only(everything, shape=thing.shape, colour=thing.colour):
            words = thing.shape if only(everything, shape=thing.shape) else name(thing)
            rest.append(Question("which", ask(rng, WHICH, a_thing=with_article(words)), f"Picture {number}."))
    rng.shuffle(rest)
    return scenes, [Question("describe several", ask(rng, phrases.DESCRIBE_SEVERAL), overall), *rest]


def clip(rng: random.Random) -> tuple[list[Scene], list[Question]]:
    """Frames of one object that moves, changes or stays; 8 frames as the program sends them, sometimes fewer."""
    frames = rng.choice((4, 6, 8, 8, 8))
    base = empty_scene(rng, SIDES)
    motion = rng.choice(MOTIONS)
    colour, rgb = pick_colour(rng, base.rgb)
    later_colour, later_rgb = colour, rgb
    while later_colour == colour:
        later_colour, later_rgb = pick_colour(rng, base.rgb)
    radius = min(base.width, base.height) * rng.uniform(0.24, 0.34) / 2
    thing = Thing(rng.choice(SHAPES), colour, "large", 0, 0, radius, rng.uniform(-0.2, 0.2), rgb, 4)
    across, down, cut = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.randint(1, frames - 1)
    scenes = []
    for number in range(frames):
        progress = number / (frames - 1)
        placed = _moved(thing, base, motion, progress, across, down)
        if motion == "colour" and number >= cut:
            placed = replace(placed, rgb=later_rgb, colour=later_colour)
        hidden = (motion == "appear" and number < cut) or (motion == "disappear" and number >= cut)
        scenes.append(replace(base, things=() if hidden else (placed,), seed=base.seed))
    return scenes, _clip_questions(rng, thing, motion, later_colour)


def _moved(thing: Thing, base: Scene, motion: str, progress: float, across: float, down: float) -> Thing:
    """The object at one moment: ``progress`` 0..1 through its motion."""
    forth, back = 0.06 + 0.88 * progress, 0.94 - 0.88 * progress
    across = {"right": forth, "left": back}.get(motion, across)
    down = {"down": forth, "up": back}.get(motion, down)
    radius = thing.radius
    if motion in ("grow", "shrink"):
        across = down = 0.5
        radius = min(base.width, base.height) * (0.1 + 0.32 * (progress if motion == "grow" else 1 - progress))
    x = thing.radius + across * (base.width - 2 * thing.radius)
    y = thing.radius + down * (base.height - 2 * thing.radius)
    return replace(thing, x=x, y=y, radius=radius)


def _clip_questions(rng: random.Random, thing: Thing, motion: str, later_colour: str) -> list[Question]:
    subject = with_article(name(thing))
    told = {
        "right": f"{subject} moves from left to right",
        "left": f"{subject} moves from right to left",
        "down": f"{subject} moves from top to bottom",
        "up": f"{subject} moves from bottom to top",
        "colour": f"a {thing.shape} changes colour from {thing.colour} to {later_colour}",
        "grow": f"{subject} grows",
        "shrink": f"{subject} shrinks",
        "appear": f"{subject} appears",
        "disappear": f"{subject} disappears",
        "still": f"{subject} stays still",
    }[motion]
    found = [Question("describe clip", ask(rng, phrases.DESCRIBE_CLIP), sentence(told))]
    ways = ("right", "left", "down", "up")
    if motion in ways:
        found.append(Question("direction", f"Which way does the {thing.shape} move?", sentence(motion)))
    found.append(Question("clip shape", "What shape is in the video?", sentence(with_article(thing.shape))))
    if motion == "colour":
        found.append(Question("clip colour", f"What colour is the {thing.shape} at the end?", sentence(later_colour)))
    else:
        found.append(Question("clip colour", f"What colour is the {thing.shape}?", sentence(thing.colour)))
    found.append(Question("moves", f"Does the {thing.shape} move?", "Yes." if motion in ways else "No."))
    return found


def talk(rng: random.Random) -> list[Question]:
    """A request without a picture."""
    asked, answer = rng.choice(TALK)
    return [Question("talk", ask(rng, asked), answer)]
