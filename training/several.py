"""Several pictures at once: what each shows, which one shows something, what changed from one to the next."""

from __future__ import annotations

from dataclasses import replace

from training import world
from training.phrases import ask
from training.questions import NUMBERS, Question, brief, name, only, sentence, with_article
from training.scenes import make_scene, make_thing
from training.world import HELD_OUT_PAIRS, PLACES, Dice, Scene, Thing, pick_look

SIDES = (112, 300)
NARROWEST = 0.56  # 16:9
NUMBER, NUMBER_WEIGHTS = range(2, 9), (0.36, 0.24, 0.14, 0.09, 0.07, 0.05, 0.05)
CHANGES = ("colour", "shape", "move", "appear", "disappear", "none")
COUNTS = (1, 1, 1, 2, 2, 2, 3)  # of objects before a change
NOT_IN_ANY = "There is no {thing} in the pictures."


def large_scene(rng: Dice, count: int) -> Scene:
    """A picture to be shown among several: few, large objects."""
    return make_scene(rng, count, sizes=("large",), sides=SIDES, narrowest=NARROWEST)


def several_pictures(rng: Dice) -> tuple[list[Scene], list[Question]]:
    """Two to eight pictures of one or two large objects; the overall description comes first."""
    number = rng.choices(NUMBER, NUMBER_WEIGHTS)[0]
    counts = (1, 1, 2) if number < 5 else (1,)
    scenes = [large_scene(rng, rng.choice(counts)) for _ in range(number)]
    overall = " ".join(f"Picture {i}: {brief(scene)}" for i, scene in enumerate(scenes, 1))
    rest = [Question("pictures", ask(rng, "how_many"), sentence(NUMBERS[len(scenes)]))]
    everything = tuple(thing for scene in scenes for thing in scene.things)
    for number, scene in enumerate(scenes, 1):
        rest.append(Question("what in", ask(rng, "what_in", number=str(number)), brief(scene)))
        if scene.things:
            rest += which(rng, number, rng.choice(scene.things), everything)
    missing, colour, _ = pick_look(rng, (127, 127, 127))
    if not any((t.shape, t.colour) == (missing, colour) for t in everything):
        words = f"{colour} {missing}"
        question = ask(rng, "which", a_thing=with_article(words))
        rest.append(Question("which none", question, NOT_IN_ANY.format(thing=words)))
    rng.shuffle(rest)
    return scenes, [Question("describe several", ask(rng, "describe_several"), overall), *rest]


def which(rng: Dice, number: int, thing: Thing, everything: tuple[Thing, ...]) -> list[Question]:
    """ "Which picture has a star?", if one has it and the others have not."""
    if not only(everything, shape=thing.shape, colour=thing.colour):
        return []
    words = thing.shape if only(everything, shape=thing.shape) and rng.random() < 0.6 else name(thing)
    return [Question("which", ask(rng, "which", a_thing=with_article(words)), f"Picture {number}.")]


def changed_pictures(rng: Dice) -> tuple[list[Scene], list[Question]]:
    """Two pictures of one scene that differ in one thing at most."""
    before = large_scene(rng, rng.choice(COUNTS))
    while not before.things:
        before = large_scene(rng, 1)
    after, told = change(rng, before)
    asked = [Question("changed", ask(rng, "changed"), told) for _ in range(2)]
    overall = f"Picture 1: {brief(before)} Picture 2: {brief(after)}"
    asked.append(Question("describe several", ask(rng, "describe_several"), overall))
    for number, scene in ((1, before), (2, after)):
        asked.append(Question("what in", ask(rng, "what_in", number=str(number)), brief(scene)))
    return [before, after], asked


def change(rng: Dice, before: Scene) -> tuple[Scene, str]:
    """The scene with one thing changed, and a sentence that says what."""
    kind = rng.choice(CHANGES)
    thing = rng.choice(before.things)
    others = [t for t in before.things if t is not thing]
    if kind == "disappear":
        return replace(before, things=tuple(others)), sentence(f"{with_article(name(thing))} disappeared")
    if kind in ("appear", "move"):
        free = free_place(rng, before, thing.radius)
        if free is None:
            return before, "Nothing changed."
        new = make_thing(rng, before, *free, thing.radius, "large")
        told = f"{with_article(name(new))} appeared"
        if kind == "move":
            new = replace(thing, x=new.x, y=new.y, cell=new.cell)
            told = f"the {name(thing)} moved from the {PLACES[thing.cell]} to the {PLACES[new.cell]}"
        things = sorted([*(others if kind == "move" else before.things), new], key=lambda t: t.cell)
        return replace(before, things=tuple(things)), sentence(told)
    if kind == "none":
        return before, "Nothing changed."
    new = other = thing
    while other.colour == thing.colour or other.shape == thing.shape or (new.colour, new.shape) in HELD_OUT_PAIRS:
        other = make_thing(rng, before, thing.x, thing.y, thing.radius, "large")
        if kind == "colour":
            new = replace(thing, colour=other.colour, rgb=other.rgb)
        else:
            new = replace(other, colour=thing.colour, rgb=thing.rgb)
    if kind == "colour":
        told = f"the {thing.shape} changed colour from {thing.colour} to {new.colour}"
    else:
        told = f"the {name(thing)} became {with_article(new.shape)}"
    return replace(before, things=tuple(new if t is thing else t for t in before.things)), sentence(told)


def free_place(rng: Dice, scene: Scene, radius: float) -> tuple[float, float] | None:
    """The middle of a place in which nothing stands and an object of ``radius`` has room, or None."""
    taken = {t.cell for t in scene.things}
    room = [
        (x, y)
        for x, y in (world.centre_of(cell, scene.width, scene.height) for cell in range(9) if cell not in taken)
        if radius <= x <= scene.width - radius
        and radius <= y <= scene.height - radius
        and all((x - t.x) ** 2 + (y - t.y) ** 2 >= (0.8 * (radius + t.radius)) ** 2 for t in scene.things)
    ]
    return rng.choice(room) if room else None
