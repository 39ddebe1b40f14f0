"""Conversations: references back, pictures attached later, and talk without a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from training import clips, phrases, several
from training.phrases import ask, forms
from training.questions import (
    NUMBERS,
    Question,
    brief,
    describe,
    only,
    plural,
    sentence,
    with_article,
)
from training.scenes import make_scene
from training.shapes import SHAPES
from training.world import PLACES, Dice, Scene, Thing

Maker = Callable[[Dice, str, Thing], Question]
MOST_TURNS = 6
IT_COLOUR = forms(
    """And its colour?
    And what colour is it?
    What colour is it?
    What is its colour?
    Which colour is it?
    Its colour?
    And the colour?""",
    """And which colour is it?
    Which colour does it have?
    What is the colour?""",
)
IT_SIZE = forms(
    """And its size?
    How big is it?
    Is it small or large?
    And how large is it?
    What size is it?""",
    """How large is it?
    And what size is it?""",
)
IT_PLACE = forms(
    """And where is it?
    Where is it?
    Where?
    And its place?
    Where in the picture is it?""",
    """Where do you see it?
    And at which place is it?""",
)
IT_SHAPE = forms(
    """And its shape?
    What is it?
    What is it?
    What shape is it?
    And what shape is it?
    Which shape is it?""",
    """What is its shape?
    And which shape is it?""",
)
AND_THE = forms(
    """And the {thing}?
    What about the {thing}?
    And what about the {thing}?
    And of the {thing}?""",
    """How about the {thing}?
    Now the {thing}?""",
)
AND_A = forms(
    """And {a_thing}?
    Is there also {a_thing}?
    What about {a_thing}?
    And is there {a_thing}?""",
    """Do you also see {a_thing}?
    And do you see {a_thing}?""",
)
THIS_ONE = forms(
    """And this one?
    And this picture?
    What is in this one?
    And here?
    What do you see now?
    Describe this one.
    What about this one?
    And now?""",
    """And in this one?
    What about this picture?""",
)
TALK = (
    (
        ("Hello.", "Hi.", "Hello!", "Hi there.", "Hello", "hi", "Good morning.", "Hey."),
        "Hello. Show me a drawing and ask about it.",
    ),
    (
        ("Who are you?", "What are you?", "What is your name?", "who are you", "Which model are you?"),
        "I am valley-mini, a small model that knows simple drawings.",
    ),
    (
        ("What can you do?", "Help.", "How can you help me?", "help", "What do you know?"),
        "I can name colours, shapes, places and counts in simple drawings.",
    ),
    (("Thank you.", "Thanks.", "Thanks!", "thanks", "Thank you!"), "You are welcome."),
    (("Goodbye.", "Bye.", "bye", "Goodbye!"), "Goodbye."),
    (
        (
            "Describe the given image.",
            "What do you see?",
            "How many objects are there?",
            "What colour is it?",
            "Which picture has a star?",
            "Where is the circle?",
            "What is in the picture?",
            "Describe the given video.",
        ),
        "There is no picture.",
    ),
)


@dataclass(frozen=True)
class Conversation:
    """``attached[i]`` pictures come with turn i, in the order of ``scenes``."""

    scenes: list[Scene]
    asked: list[Question]
    attached: list[int] = field(default_factory=list)


def small_talk(rng: Dice) -> Question:
    asked, answer = rng.choice(TALK)
    return Question("talk", rng.choice(asked), answer)


def talk(rng: Dice) -> Conversation:
    """Requests without a picture, one or several."""
    asked = [small_talk(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    return Conversation([], asked, [0] * len(asked))


def _aspects(rng: Dice, thing: Thing) -> dict[str, tuple[Question, Question]]:
    """What can be asked of an object: by its name, and as "it"."""
    colour, size = sentence(thing.colour), sentence(thing.size)
    place, shape = sentence(f"at the {PLACES[thing.cell]}"), thing.shape
    whole = sentence(with_article(shape))
    return {
        "colour": (
            Question("first", ask(rng, phrases.COLOUR_OF, thing=shape), colour),
            Question("turn", ask(rng, IT_COLOUR), colour),
        ),
        "size": (
            Question("first", ask(rng, phrases.SIZE_OF, thing=shape), size),
            Question("turn", ask(rng, IT_SIZE), size),
        ),
        "place": (
            Question("first", ask(rng, phrases.WHERE, thing=shape), place),
            Question("turn", ask(rng, IT_PLACE), place),
        ),
        "shape": (
            Question("first", ask(rng, phrases.SHAPE_OF, colour=thing.colour), whole),
            Question("turn", ask(rng, IT_SHAPE), whole),
        ),
    }


def about_one_picture(rng: Dice) -> Conversation:
    """Two to six turns about one picture; from the second on with references back."""
    scene = make_scene(rng, rng.choice((1, 2, 2, 3, 3, 4)))
    named = [t for t in scene.things if only(scene.things, shape=t.shape)]
    if not named:
        return about_one_picture(rng)
    turns = rng.choice((2, 2, 2, 3, 3, 4, 5, MOST_TURNS))
    thing, topic = rng.choice(named), rng.choice(("colour", "size", "place"))
    opening = rng.random()
    asked = [_aspects(rng, thing)[topic][0]]
    if opening < 0.35 and len(scene.things) == 1:
        asked, topic = [Question("first", ask(rng, phrases.DESCRIBE), describe(scene))], "describe"
        if opening < 0.2:
            topic = rng.choice(("colour", "size", "place", "shape"))
            asked = [_aspects(rng, thing)[topic][1]]
    elif opening < 0.4:
        asked = [Question("first", ask(rng, phrases.EXISTS, a_thing=with_article(thing.shape)), "Yes.")]
        topic = "exists"
    elif opening < 0.6 and only(scene.things, colour=thing.colour):
        asked_for = ask(rng, phrases.SHAPE_OF, colour=thing.colour)
        asked, topic = [Question("first", asked_for, sentence(with_article(thing.shape)))], "shape"
    while len(asked) < turns:
        question, thing, topic = _next_turn(rng, scene, named, thing, topic)
        asked.append(question)
    return Conversation([scene], asked, [1] + [0] * (len(asked) - 1))


def _next_turn(rng: Dice, scene: Scene, named: list[Thing], thing: Thing, topic: str) -> tuple[Question, Thing, str]:
    """A question that follows; the object and the topic it leaves in the air."""
    kind = rng.random()
    others = [t for t in named if t is not thing]
    if kind < 0.3 and others and topic in ("colour", "size", "place"):
        other = rng.choice(others)
        answer = _aspects(rng, other)[topic][1].answer
        return Question("turn", ask(rng, AND_THE, thing=other.shape), answer), other, topic
    if kind < 0.42 and topic == "exists":
        shape = rng.choice(SHAPES)
        there = any(t.shape == shape for t in scene.things)
        if not there or shape == thing.shape:
            answer = "Yes." if there else "No."
            return Question("turn", ask(rng, AND_A, a_thing=with_article(shape)), answer), thing, topic
    if kind < 0.52:
        number = sentence(NUMBERS[len(scene.things)])
        return Question("turn", ask(rng, phrases.COUNT), number), thing, "count"
    if kind < 0.55:
        return Question("turn", ask(rng, phrases.DESCRIBE), describe(scene)), thing, "describe"
    if kind < 0.6 and others:
        other, topic = rng.choice(others), rng.choice(("colour", "size", "place"))
        question = _aspects(rng, other)[topic][0]
        return Question("turn", question.text, question.answer), other, topic
    if kind < 0.66 and len({t.shape for t in scene.things}) > 0:
        number = sentence(NUMBERS[sum(t.shape == thing.shape for t in scene.things)])
        return Question("turn", ask(rng, phrases.COUNT_SHAPE, things=plural(thing.shape)), number), thing, "count"
    topic = rng.choice([t for t in ("colour", "size", "place", "shape") if t != topic])
    return _aspects(rng, thing)[topic][1], thing, topic


def about_a_clip(rng: Dice) -> Conversation:
    """Questions about a clip, one after another."""
    scenes, found = clips.clip(rng)
    rest = found[1:]
    rng.shuffle(rest)
    asked = [found[0], *rest[: rng.randint(1, 3)]]
    if rng.random() < 0.3:
        rng.shuffle(asked)
    return Conversation(scenes, [Question("clip turn", q.text, q.answer) for q in asked], [len(scenes)] + [0] * 6)


def attached_later(rng: Dice) -> Conversation:
    """A second picture, or the first one, comes with a later turn."""
    kind = rng.random()
    if kind < 0.25:  # talk first
        scene = make_scene(rng, rng.choice((1, 2, 3)))
        follow = [Question("attached", ask(rng, phrases.DESCRIBE), describe(scene))]
        return Conversation([scene], [small_talk(rng), *follow], [0, 1])
    if kind < 0.55:
        (before, after), asked = several.changed_pictures(rng)
        first = Question("shown first", ask(rng, phrases.DESCRIBE), describe(before))
        second = asked[0] if rng.random() < 0.6 else Question("attached", ask(rng, THIS_ONE), brief(after))
        return Conversation([before, after], [first, second], [1, 1])
    scenes = [several.large_scene(rng, rng.choice((1, 1, 2))) for _ in range(2)]
    first = Question("shown first", ask(rng, phrases.DESCRIBE), describe(scenes[0]))
    forms_of_second = rng.choice((THIS_ONE, phrases.DESCRIBE))
    asked = [first, Question("attached", ask(rng, forms_of_second), brief(scenes[1]))]
    everything = tuple(t for scene in scenes for t in scene.things)
    for number, scene in enumerate(scenes, 1):
        if scene.things and rng.random() < 0.5:
            asked += several.which(rng, number, rng.choice(scene.things), everything)
    return Conversation(scenes, asked, [1, 1] + [0] * (len(asked) - 2))


def conversation(rng: Dice) -> Conversation:
    """Any conversation with a picture."""
    make = rng.choices((about_one_picture, about_a_clip, attached_later), (0.68, 0.12, 0.2))[0]
    return make(rng)
