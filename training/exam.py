"""The fixed questions that reported scores come from: held-out items of every kind, as trained and shifted.

Shifted items have fonts, backgrounds, shades, drawing code, colour-shape pairs and phrasings that are never trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from training import clips, photographs, questions, several, talk, world
from training.data import Task, one_word
from training.draw import draw
from training.questions import Question, sentence, with_article
from training.scenes import make_scene
from training.world import Dice, Scene

PER_KIND, SPACING = 500, 100_000  # indices of a kind's items start at a multiple of SPACING, away from other uses
SPLITS = ("held-out", "shifted")
ONE_WORD = "Answer in one word."


@dataclass(frozen=True)
class Item:
    """A request and its only right answer.

    The last of ``asked`` is the question; the ones before are turns of the conversation so far, ``attached[i]``
    pictures coming with turn i. ``rows``: the lines of the table it counts in.
    """

    scenes: tuple[Scene, ...]
    asked: tuple[Question, ...]
    attached: tuple[int, ...]
    rows: tuple[str, ...]
    system: str | None = None

    @property
    def question(self) -> Question:
        return self.asked[-1]

    def images(self) -> list[Image.Image]:
        return [draw(scene).image for scene in self.scenes]

    def task(self) -> Task:
        """The item as the training code's model takes it."""
        plain = Task(list(self.scenes), list(self.asked), list(self.attached))
        return Task(plain.scenes, plain.asked, plain.attached, self.system) if self.system else plain


Maker = Callable[[Dice], Item | None]


@dataclass(frozen=True)
class Kind:
    """A line of the table. ``bars``: what is aimed at, as trained and shifted; None where nothing is aimed at."""

    name: str
    make: Maker
    bars: tuple[float, float] | None = None


def single(name: str, kinds: tuple[str, ...], detail: Callable[[Question, Scene], str] | None = None) -> Maker:
    """Items of some question kinds about one picture without text."""

    def make(rng: Dice) -> Item | None:
        scene = make_scene(rng)
        asked = [q for q in questions.ask_all(rng, scene) if q.kind in kinds]
        if not asked:
            return None
        question = rng.choice(asked)
        more = [f"{name}: {detail(question, scene)}"] if detail else []
        if rng.shifted and name in ("colour", "shape"):
            more += [f"{name}: held-out pairs"] * held_out_pair(question, scene)
        return Item((scene,), (question,), (1,), (name, of_scenes(name, scene), *more))

    return make


def held_out_pair(question: Question, scene: Scene) -> bool:
    """Whether a question about a colour or a shape means an object whose colour and shape training never combined."""
    meant = [t for t in scene.things if question.answer in (sentence(t.colour), sentence(with_article(t.shape)))]
    return len(meant) == 1 and (meant[0].colour, meant[0].shape) in world.HELD_OUT_PAIRS


def of_scenes(name: str, scene: Scene) -> str:
    return f"{name}: {'rich' if scene.rich else 'plain'} scenes"


def objects(question: Question, scene: Scene) -> str:
    return f"{len(scene.things)} object{'s' * (len(scene.things) != 1)}"


def relation_type(question: Question, scene: Scene) -> str:
    return {"side": "which side?", "is it beside": "yes or no", "beside": "what is beside?"}[question.kind]


def absent_type(question: Question, scene: Scene) -> str:
    return "asked as if it were there" if question.kind == "absent" else f"is there? {question.answer}"


def reading(rng: Dice) -> Item | None:
    scene = make_scene(rng, with_text=1.0)
    asked = [q for q in questions.ask_all(rng, scene) if q.kind == "read"]
    length = len(scene.text.content) if scene.text else 0
    more = of_scenes("reading", scene), f"reading: {length} character{'s' * (length != 1)}"
    return Item((scene,), (asked[0],), (1,), ("reading", *more))


def text_description(rng: Dice) -> Item | None:
    scene = make_scene(rng, with_text=1.0)
    return Item((scene,), (questions.ask_all(rng, scene)[0],), (1,), ("description with text",))


def of_pictures(
    name: str, make_pictures: Callable[[Dice], tuple[list[Scene], list[Question]]], kinds: tuple[str, ...], by: str = ""
) -> Maker:
    """Items of some question kinds about several pictures or a clip. ``by``: "pictures" or "kind" adds a line each."""

    def make(rng: Dice) -> Item | None:
        scenes, found = make_pictures(rng)
        asked = [q for q in found if q.kind in kinds]
        if not asked:
            return None
        question = rng.choice(asked)
        more = {"pictures": (f"{name}: {len(scenes)}",), "kind": (f"{name}: {question.kind}",)}.get(by, ())
        return Item(tuple(scenes), (question,), (len(scenes),), (name, *more))

    return make


CONVERSATIONS = (talk.about_one_picture, talk.about_a_clip, talk.attached_later, talk.about_several)
LATER = {
    "turn": "refers back",
    "fresh": "stands on its own",
    "talk": "stands on its own",
    "clip turn": "about a clip",
    "several turn": "about several pictures",
}


def later_turn(rng: Dice) -> Item | None:
    """A second or later question of a conversation; what was answered before is given."""
    said = rng.choices(CONVERSATIONS, (0.5, 0.2, 0.2, 0.1))[0](rng)
    last = rng.choice((2, 2, 2, 3, 4, 5, 6))
    asked = said.asked[:last]
    if len(asked) < 2:
        return None
    attached = said.attached[: len(asked)]
    if sum(attached) != len(said.scenes):
        return None
    about = LATER.get(asked[-1].kind, "a picture comes later")
    return Item(tuple(said.scenes), tuple(asked), tuple(attached), ("second turn", f"second turn: {about}"))


def one_word_answer(rng: Dice) -> Item | None:
    scene = make_scene(rng)
    asked = [q for q in one_word(questions.ask_all(rng, scene)) if q.kind in ("shape", "where", "colour")]
    return Item((scene,), (rng.choice(asked),), (1,), ("one word asked for",), ONE_WORD) if asked else None


def photograph(rng: Dice) -> Item | None:
    scenes, asked = photographs.photograph(rng)
    question = rng.choice(asked)
    return Item(tuple(scenes), (question,), (1,), ("photograph", f"photograph: {question.kind}"))


MOTION = ("describe clip", "direction", "clip change", "moves")
KINDS = (
    Kind("colour", single("colour", ("colour",)), (0.99, 0.95)),
    Kind("shape", single("shape", ("shape",)), (0.98, 0.92)),
    Kind("count", single("count", ("count",), objects), (0.96, 0.90)),
    Kind("relation", single("relation", ("side", "is it beside", "beside"), relation_type), (0.95, 0.88)),
    Kind("reading", reading, (0.95, 0.80)),
    Kind("whole description", single("whole description", ("describe",), objects), (0.90, 0.75)),
    Kind("which picture", of_pictures("which picture", several.several_pictures, ("which",), "pictures"), (0.93, 0.85)),
    Kind("motion and change", of_pictures("motion and change", clips.clip, MOTION, "kind"), (0.95, 0.88)),
    Kind("second turn", later_turn, (0.93, 0.85)),
    Kind("absent object", single("absent object", ("absent", "exists"), absent_type), (0.95, 0.90)),
    Kind("place", single("place", ("where", "what at"))),
    Kind("size", single("size", ("size",))),
    Kind("number of a shape", single("number of a shape", ("count shape",))),
    Kind("number of a colour", single("number of a colour", ("count colour",))),
    Kind("background", single("background", ("background", "style"))),
    Kind("description with text", text_description),
    Kind("several described", of_pictures("several described", several.several_pictures, ("describe several",))),
    Kind("what changed", of_pictures("what changed", several.changed_pictures, ("changed",))),
    Kind("one word asked for", one_word_answer),
    Kind("photograph", photograph),
)
BARS = {kind.name: kind.bars for kind in KINDS if kind.bars}


def make_items(split: str, per_kind: int = PER_KIND, others: int = 100, seed: int = 0) -> list[Item]:
    """The exam: ``per_kind`` items of every kind that has a bar, ``others`` of the rest. ``seed``: another exam."""
    items = []
    for number, kind in enumerate(KINDS):
        index, found, wanted = seed * 10_000_000 + (number + 20) * SPACING, 0, per_kind if kind.bars else others
        while found < wanted:
            item = kind.make(world.rng_for(split, index))
            index += 1
            if item is not None:
                items.append(item)
                found += 1
    return items
