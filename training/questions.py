"""What is true of a scene, as questions with exactly one right answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from training.phrases import ask
from training.shapes import SHAPES
from training.world import COLOURS, PLACES, Dice, Scene, Thing

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
VOWELS = "aeiou"


@dataclass(frozen=True)
class Question:
    """``kind`` names the skill, for the mix and for the table of scores."""

    kind: str
    text: str
    answer: str


def with_article(words: str) -> str:
    return f"{'an' if words[0] in VOWELS else 'a'} {words}"


def sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


def join(parts: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def plural(shape: str) -> str:
    return "crosses" if shape == "cross" else shape + "s"


def name(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def describe(scene: Scene) -> str:
    """The whole description: every object in reading order, the background, the text."""
    ground = with_article(f"{scene.style} {scene.background} background")
    parts = [f"{with_article(f'{t.size} {name(t)}')} at the {PLACES[t.cell]}" for t in scene.things]
    said = sentence(f"{join(parts)} on {ground}" if parts else ground)
    return said + (f' The text says "{scene.text.content}".' if scene.text else "")


def brief(scene: Scene) -> str:
    """Only which objects, in reading order."""
    return sentence(join([with_article(name(t)) for t in scene.things]) if scene.things else "nothing")


def only(things: tuple[Thing, ...], **wanted: str) -> bool:
    """Whether exactly one object has these attributes."""
    return sum(all(getattr(t, key) == value for key, value in wanted.items()) for t in things) == 1


def about_thing(rng: Dice, scene: Scene, thing: Thing) -> Iterator[Question]:
    """Colour, shape, size and place of one object that can be named without ambiguity."""
    if only(scene.things, shape=thing.shape):
        yield Question("colour", ask(rng, "colour_of", thing=thing.shape), sentence(thing.colour))
    if only(scene.things, colour=thing.colour):
        shape = ask(rng, "shape_of", colour=thing.colour)
        yield Question("shape", shape, sentence(with_article(thing.shape)))
    if only(scene.things, shape=thing.shape, colour=thing.colour):
        handle = thing.shape if only(scene.things, shape=thing.shape) and rng.random() < 0.6 else name(thing)
        yield Question("where", ask(rng, "where", thing=handle), sentence(f"at the {PLACES[thing.cell]}"))
        yield Question("size", ask(rng, "size_of", thing=handle), sentence(thing.size))


def about_lone_thing(rng: Dice, thing: Thing) -> Iterator[Question]:
    """Questions that need not name the object, as there is only one."""
    yield Question("colour", ask(rng, "colour_only"), sentence(thing.colour))
    yield Question("shape", ask(rng, "shape_only"), sentence(with_article(thing.shape)))
    yield Question("where", ask(rng, "where_only"), sentence(f"at the {PLACES[thing.cell]}"))


def about_counts(rng: Dice, scene: Scene) -> Iterator[Question]:
    """How many objects, of a shape, of a colour; which shapes and colours."""
    things = scene.things
    yield Question("count", ask(rng, "count"), sentence(NUMBERS[len(things)]))
    if not things:
        return
    shape = rng.choice(things).shape if rng.random() < 0.65 else rng.choice(SHAPES)
    number = NUMBERS[sum(t.shape == shape for t in things)]
    yield Question("count shape", ask(rng, "count_shape", things=plural(shape)), sentence(number))
    colour = rng.choice(things).colour if rng.random() < 0.65 else rng.choice(tuple(COLOURS))
    number = NUMBERS[sum(t.colour == colour for t in things)]
    yield Question("count colour", ask(rng, "count_colour", colour=colour), sentence(number))
    shapes, colours = join([with_article(t.shape) for t in things]), join([t.colour for t in things])
    yield Question("shapes", ask(rng, "shapes"), sentence(shapes))
    yield Question("colours", ask(rng, "colours"), sentence(colours))


def about_places(rng: Dice, scene: Scene) -> Iterator[Question]:
    """What is at a place, and beside an object. Rows with text in them are left alone."""
    cell = rng.choice(scene.things).cell if scene.things and rng.random() < 0.75 else rng.randrange(9)
    text_row = int(3 * scene.text.y / scene.height) if scene.text else None
    if cell // 3 != text_row:
        there = [with_article(name(t)) for t in scene.things if t.cell == cell]
        answer = sentence(there[0] if there else "nothing")
        yield Question("what at", ask(rng, "what_at", place=PLACES[cell]), answer)
    if len(scene.things) >= 2:
        first, second = rng.sample(scene.things, 2)
        yield from relations(rng, scene, first, second)


def sides_of(thing: Thing, mark: Thing) -> list[tuple[str, str]]:
    """(side, opposite side) of ``thing`` seen from ``mark``; only where their columns or rows differ."""
    (row_1, column_1), (row_2, column_2) = divmod(thing.cell, 3), divmod(mark.cell, 3)
    sides = []
    if column_1 != column_2:
        sides.append(("left of", "right of") if column_1 < column_2 else ("right of", "left of"))
    if row_1 != row_2:
        sides.append(("above", "below") if row_1 < row_2 else ("below", "above"))
    return sides


def handle_of(rng: Dice, scene: Scene, thing: Thing) -> str | None:
    """Words that name one object of the scene and no other, or None."""
    handles = [thing.shape] if only(scene.things, shape=thing.shape) else []
    if only(scene.things, shape=thing.shape, colour=thing.colour):
        handles.append(name(thing))
    return rng.choice(handles) if handles else None


def relations(rng: Dice, scene: Scene, thing: Thing, mark: Thing) -> Iterator[Question]:
    """ "Is the star left or right of the circle?", "Is the star above the circle?", "What is left of the star?"."""
    words, mark_words = handle_of(rng, scene, thing), handle_of(rng, scene, mark)
    if mark_words is None:
        return
    side, opposite = rng.choice(sides_of(thing, mark))
    if len(scene.things) == 2:
        question = ask(rng, "side", side=side, thing=mark_words)
        yield Question("beside", question, sentence(with_article(name(thing))))
    if words is None:
        return
    one, other = (side.removesuffix(" of"), opposite) if side.endswith(" of") else (side, opposite)
    one, other = rng.choice(((one, other), (opposite.removesuffix(" of"), side)))
    question = ask(rng, "side_choice", thing=words, mark=mark_words, one=one, other=other)
    yield Question("side", question, sentence(side.removesuffix(" of")))
    said = rng.choice((side, opposite))
    question = ask(rng, "side_check", thing=words, mark=mark_words, side=said)
    yield Question("is it beside", question, "Yes." if said == side else "No.")


def exists(rng: Dice, scene: Scene) -> Question:
    """ "Is there a red star?": half yes; many of the no's have the right colour or shape."""
    colour, shape = rng.choice(tuple(COLOURS)), rng.choice(SHAPES)
    if scene.things:
        thing, other = rng.choice(scene.things), rng.choice(scene.things)
        kind = rng.random()
        if kind < 0.5:
            colour, shape = thing.colour, thing.shape
        elif kind < 0.7:
            colour, shape = thing.colour, other.shape
        elif kind < 0.8:
            colour = thing.colour
        elif kind < 0.9:
            shape = thing.shape
    if rng.random() < 0.4:
        there = any(t.shape == shape for t in scene.things)
        words = shape
    else:
        there = any((t.colour, t.shape) == (colour, shape) for t in scene.things)
        words = f"{colour} {shape}"
    question = ask(rng, "exists", a_thing=with_article(words))
    return Question("exists", question, "Yes." if there else "No.")


def absent(rng: Dice, scene: Scene) -> Question:
    """A question about an object that is not there; the answer says so."""
    missing = [shape for shape in SHAPES if not any(t.shape == shape for t in scene.things)]
    words = rng.choice(missing)
    if scene.things and rng.random() < 0.35:  # the right shape in another colour
        thing = rng.choice(scene.things)
        used = {t.colour for t in scene.things if t.shape == thing.shape}
        words = f"{rng.choice([c for c in COLOURS if c not in used])} {thing.shape}"
    asked = rng.choice(("where", "size_of", "colour_of", "colour_of"))
    if " " in words and asked == "colour_of":
        asked = "where"
    return Question("absent", ask(rng, asked, thing=words), f"There is no {words}.")


def ask_all(rng: Dice, scene: Scene) -> list[Question]:
    """Every question about one picture; the description comes first."""
    found = [Question("describe", ask(rng, "describe"), describe(scene))]
    if scene.text or rng.random() < 0.1:
        answer = f'The text says "{scene.text.content}".' if scene.text else "There is no text."
        found.append(Question("read", ask(rng, "read"), answer))
    found += about_counts(rng, scene)
    found += about_places(rng, scene)
    for thing in scene.things:
        found += about_thing(rng, scene, thing)
    if len(scene.things) == 1:
        found += about_lone_thing(rng, scene.things[0])
    found.append(exists(rng, scene))
    found.append(absent(rng, scene))
    found.append(Question("background", ask(rng, "background"), sentence(scene.background)))
    found.append(Question("style", ask(rng, "style"), sentence(scene.style)))
    return found


def choose(
    rng: Dice, found: list[Question], limit: int, describe_share: float, kinds: tuple[str, ...] = ()
) -> list[Question]:
    """``limit`` questions: reading always, the description with a chance of ``describe_share``, others of ``kinds``."""
    first = [q for q in found if q.kind == "describe" and rng.random() < describe_share]
    first += [q for q in found if q.kind == "read"]
    rest = [q for q in found if q.kind not in ("describe", "read") and (not kinds or q.kind in kinds)]
    rng.shuffle(rest)
    return (first + rest)[:limit]
