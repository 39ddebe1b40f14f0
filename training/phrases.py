"""The many ways to ask for the same thing, read from ``phrases.toml``, and how training disturbs them.

Each set of phrasings also holds some that are never trained on: the frozen exam's shifted questions use them.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

from training.shapes import SHAPES
from training.world import COLOURS, PLACES, Dice

DATA = tomllib.loads(Path(__file__).with_name("phrases.toml").read_text())
FORMS: dict[str, dict[str, list[str]]] = DATA["ask"]  # name -> "trained" and "held_out" phrasings
TALK: list[tuple[list[str], str]] = [(talk["asked"], talk["answer"]) for talk in DATA["talk"]]
OPENINGS, MORE_OPENINGS, ENDINGS = (DATA["disturb"][key] for key in ("openings", "more_openings", "endings"))
FILLERS, FUNCTION_WORDS = (DATA["disturb"][key].split() for key in ("fillers", "function_words"))
SPELLINGS = (("colour", "color"), ("grey", "gray"), ("centre", "center"))
DISTURBED = 0.3  # of the questions


def disturbed(rng: Dice, question: str) -> str:
    """The question with an opening or an ending, with a word put in, or without a small word."""
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(MORE_OPENINGS) + question
    words = question.split(" ")
    if kind < 0.5:
        end = question[-1] if question[-1] in ".?" else ""
        return f"{question.removesuffix(end)} {rng.choice(ENDINGS)}{end}"
    if kind < 0.8:
        words.insert(rng.randint(1, len(words) - 1) if len(words) > 1 else 0, rng.choice(FILLERS))
        return " ".join(words)
    small = [at for at, word in enumerate(words) if word.lower() in FUNCTION_WORDS]
    if small:
        del words[rng.choice(small)]
    return " ".join(words)


def bare(question: str) -> str:
    """The words alone: what makes two phrasings the same."""
    return question.rstrip(".?").lower()


@cache
def held_out_pattern() -> re.Pattern[str]:
    """Matches the bare words of every phrasing that is held out, whatever is filled in."""
    colours, shapes = "|".join(COLOURS), "|".join(SHAPES)
    thing = f"(?:(?:{colours}) )?(?:{shapes})"
    sides = "left|right|left of|right of|above|below"
    filled = {"thing": thing, "mark": thing, "a_thing": f"an? {thing}", "things": f"(?:{shapes})e?s"}
    filled |= {"colour": colours, "place": "|".join(PLACES), "number": "[0-9]"}
    filled |= {"side": sides, "one": sides, "other": sides}
    templates = [re.escape(bare(template)) for each in FORMS.values() for template in each["held_out"]]
    return re.compile("|".join(re.sub(r"\\{(\w+)\\}", lambda m: f"(?:{filled[m[1]]})", t) for t in templates))


def ask(rng: Dice, name: str, **parts: str) -> str:
    """A phrasing, filled in; now and then in American spelling, lower case, without full stop or with an opening."""
    question = rng.choice(FORMS[name]["trained"]).format(**parts)
    if rng.random() < DISTURBED:
        other = disturbed(rng, question)
        question = question if held_out_pattern().fullmatch(bare(other)) else other
    if rng.random() < 0.3:
        for british, american in SPELLINGS:
            question = question.replace(british, american)
    if rng.random() < 0.12:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.12:
        question = question.rstrip(".?")
    elif rng.random() < 0.03:
        question = rng.choice(OPENINGS) + question
    return question
