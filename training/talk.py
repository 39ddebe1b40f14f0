"""Conversations: references back, pictures attached later, and talk without a picture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from training import clips, several
from training.phrases import TALK, ask
from training.questions import Question, ask_all, brief, describe, only, sentence, with_article
from training.scenes import make_scene
from training.shapes import SHAPES
from training.world import PLACES, Dice, Scene, Thing

MOST_TURNS = 6
MOST_DESCRIBED = 4  # pictures that are described before another question: else it becomes too long
TEXT_SHARE = 0.15  # of the pictures
TOPICS = {  # what is asked of an object: by its name, as "it"
    "colour": ("colour_of", "it_colour"),
    "size": ("size_of", "it_size"),
    "place": ("where", "it_place"),
    "shape": ("shape_of", "it_shape"),
}
FOLLOWED = ("colour", "size", "place")  # after these one may ask "And the star?"


@dataclass(frozen=True)
class Conversation:
    """``attached[i]`` pictures come with turn i, in the order of ``scenes``."""

    scenes: list[Scene]
    asked: list[Question]
    attached: list[int] = field(default_factory=list)


def small_talk(rng: Dice, with_picture: bool = False) -> Question:
    """A greeting and the like; without a picture also a question that needs one."""
    asked, answer = rng.choice(TALK[:-1] if with_picture else TALK)
    return Question("talk", rng.choice(asked), answer)


def talk(rng: Dice) -> Conversation:
    """Requests without a picture, one or several."""
    asked = [small_talk(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    return Conversation([], asked, [0] * len(asked))


def about(rng: Dice, thing: Thing, topic: str, as_it: bool = False) -> Question:
    """Colour, size, place or shape of an object: asked by its name, or of "it"."""
    answers = {"colour": thing.colour, "size": thing.size, "place": f"at the {PLACES[thing.cell]}"}
    answer = sentence(answers.get(topic, with_article(thing.shape)))
    by_name, of_it = TOPICS[topic]
    if as_it:
        return Question("turn", ask(rng, of_it), answer)
    return Question("fresh", ask(rng, by_name, thing=thing.shape, colour=thing.colour), answer)


def about_one_picture(rng: Dice) -> Conversation:
    """Two to six turns about one picture: references back and questions that stand on their own, in any order."""
    scene = make_scene(rng, rng.choice((1, 2, 2, 3, 3, 4)), TEXT_SHARE)
    named = [t for t in scene.things if only(scene.things, shape=t.shape)]
    if not named:
        return about_one_picture(rng)
    turns = rng.choice((2, 2, 2, 3, 3, 4, 5, MOST_TURNS, MOST_TURNS))
    question, meant, topic = _first_turn(rng, scene, named)
    asked = [question]
    while len(asked) < turns:
        question, meant, topic = _next_turn(rng, scene, named, meant, topic)
        asked.append(question)
    return Conversation([scene], asked, [1] + [0] * (len(asked) - 1))


def _first_turn(rng: Dice, scene: Scene, named: list[Thing]) -> tuple[Question, Thing | None, str]:
    """A first question; the object that "it" means after it, if any, and the topic left in the air."""
    thing, topic, kind = rng.choice(named), rng.choice(FOLLOWED), rng.random()
    if kind < 0.3:
        return fresh(rng, scene), None, topic
    if kind < 0.4 and len(scene.things) == 1:
        topic = rng.choice(tuple(TOPICS))
        return about(rng, thing, topic, as_it=True), thing, topic
    if kind < 0.5 and len(scene.things) == 1:
        return Question("fresh", ask(rng, "describe"), describe(scene)), thing, "describe"
    if kind < 0.6:
        return Question("fresh", ask(rng, "exists", a_thing=with_article(thing.shape)), "Yes."), thing, "exists"
    if kind < 0.75 and only(scene.things, colour=thing.colour):
        topic = "shape"
    return about(rng, thing, topic), thing, topic


def fresh(rng: Dice, scene: Scene) -> Question:
    """A question that stands on its own, of any kind with equal chance."""
    kinds: dict[str, list[Question]] = {}
    for question in ask_all(rng, scene):
        kinds.setdefault(question.kind, []).append(question)
    chosen = rng.choice(rng.choice(tuple(kinds.values())))
    return Question("fresh", chosen.text, chosen.answer)


def _next_turn(
    rng: Dice, scene: Scene, named: list[Thing], thing: Thing | None, topic: str
) -> tuple[Question, Thing | None, str]:
    """A question that follows; the object that "it" now means, if any, and the topic left in the air."""
    kind, only_one = rng.random(), named[0] if len(scene.things) == 1 else None
    if kind < 0.03:
        return small_talk(rng, with_picture=True), only_one, ""
    if kind < 0.5:
        return fresh(rng, scene), only_one, ""
    others = [t for t in named if t is not thing]
    if thing is None or (kind < 0.55 and others):
        other, topic = rng.choice(others), rng.choice(FOLLOWED)
        return about(rng, other, topic), other, topic
    if kind < 0.7 and others and topic in FOLLOWED:
        other = rng.choice(others)
        answer = about(rng, other, topic).answer
        return Question("turn", ask(rng, "and_the", thing=other.shape), answer), other, topic
    if kind < 0.8 and topic == "exists":
        shape = rng.choice(SHAPES)
        there = any(t.shape == shape for t in scene.things)
        if not there or shape == thing.shape:
            answer = "Yes." if there else "No."
            return Question("turn", ask(rng, "and_a", a_thing=with_article(shape)), answer), thing, topic
    topic = rng.choice([t for t in TOPICS if t != topic])
    return about(rng, thing, topic, as_it=True), thing, topic


def about_a_clip(rng: Dice) -> Conversation:
    """Questions about a clip, one after another."""
    scenes, found = clips.clip(rng)
    rest = found[1:]
    rng.shuffle(rest)
    asked = [found[0], *rest[: rng.randint(1, 3)]]
    if rng.random() < 0.3:
        rng.shuffle(asked)
    shown = [thing for scene in scenes for thing in scene.things]
    if rng.random() < 0.5:
        asked.append(Question("", ask(rng, "it_shape"), sentence(with_article(shown[0].shape))))
    if rng.random() < 0.5 and len({thing.colour for thing in shown}) == 1:
        asked.append(Question("", ask(rng, "it_colour"), sentence(shown[0].colour)))
    return Conversation(scenes, [Question("clip turn", q.text, q.answer) for q in asked], [len(scenes)] + [0] * 6)


def about_several(rng: Dice) -> Conversation:
    """Questions about several pictures, one after another; the description not always first."""
    scenes, found = several.several_pictures(rng)
    described, rest = found[0], found[1:]
    asked = [described, *rest][: rng.randint(2, MOST_TURNS)]
    if len(scenes) > MOST_DESCRIBED or rng.random() < 0.5:
        asked = rest[: rng.randint(2, MOST_TURNS)]
    return Conversation(scenes, [replace(q, kind="several turn") for q in asked], [len(scenes)] + [0] * 6)


def attached_later(rng: Dice) -> Conversation:
    """A second picture, or the first one, comes with a later turn."""
    kind = rng.random()
    if kind < 0.25:  # talk first
        scene = make_scene(rng, rng.choice((1, 2, 3)))
        follow = [Question("attached", ask(rng, "describe"), describe(scene))]
        return Conversation([scene], [small_talk(rng), *follow], [0, 1])
    if kind < 0.55:
        (before, after), asked = several.changed_pictures(rng)
        first = Question("shown first", ask(rng, "describe"), describe(before))
        second = asked[0] if rng.random() < 0.6 else Question("attached", ask(rng, "this_one"), brief(after))
        return Conversation([before, after], [first, second], [1, 1])
    scenes = [several.large_scene(rng, rng.choice((1, 1, 2))) for _ in range(2)]
    first = Question("shown first", ask(rng, "describe"), describe(scenes[0]))
    forms_of_second = rng.choice(("this_one", "describe"))
    asked = [first, Question("attached", ask(rng, forms_of_second), brief(scenes[1]))]
    everything = tuple(t for scene in scenes for t in scene.things)
    for number, scene in enumerate(scenes, 1):
        if scene.things and rng.random() < 0.5:
            asked += several.which(rng, number, rng.choice(scene.things), everything)
    return Conversation(scenes, asked, [1, 1] + [0] * (len(asked) - 2))


def conversation(rng: Dice) -> Conversation:
    """Any conversation with a picture."""
    make = rng.choices((about_one_picture, about_a_clip, attached_later, about_several), (0.6, 0.1, 0.2, 0.1))[0]
    return make(rng)
