"""The many ways to ask for the same thing. ``{thing}`` and the like are filled in by the questions.

Each ``Forms`` also holds phrasings that are never trained on, for the shifted questions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from training.shapes import SHAPES as SHAPE_NAMES
from training.world import COLOURS as COLOUR_NAMES
from training.world import PLACES, Dice


@dataclass(frozen=True)
class Forms:
    """Phrasings of one question: those to train with, and those held out."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]


def forms(trained: str, held_out: str) -> Forms:
    """One phrasing a line."""
    lines = [tuple(line.strip() for line in text.splitlines() if line.strip()) for text in (trained, held_out)]
    return Forms(*lines)


DESCRIBE = forms(
    """Describe the given image.
    Describe the given image.
    Describe the image.
    Describe this image.
    Describe the picture.
    Describe this picture.
    Describe the given picture.
    Please describe the image.
    Please describe the picture.
    What is in the image?
    What is in the picture?
    What is in this picture?
    What's in the picture?
    What do you see?
    What can you see?
    What do you see in the image?
    What do you see here?
    What does the picture show?
    What does this image show?
    What is shown?
    What is shown here?
    Tell me what is in the picture.
    Tell me what you see.
    Describe what you see.
    Describe it.
    Give a description of the image.
    Write a description of the picture.
    What is this?
    Say what is in the picture.
    Say what you see.
    Tell me about the picture.
    Tell me what the image shows.
    What is there to see?
    List everything in the picture.
    Please say what is in the image.""",
    """Can you describe this image?
    What is shown in the picture?
    Describe what is in the image.
    What can you see in this picture?
    Give me a description of this picture.""",
)
DESCRIBE_SEVERAL = forms(
    """Describe the given images.
    Describe the given images.
    Describe the images.
    Describe these pictures.
    Describe the pictures.
    Describe all pictures.
    What is in the images?
    What is in the pictures?
    What do the pictures show?
    What do you see in the pictures?""",
    """Describe these images.
    What do the images show?
    What do you see in these images?""",
)
DESCRIBE_CLIP = forms(
    """Describe the given video.
    Describe the given video.
    Describe the video.
    Describe this video.
    Describe this clip.
    Describe the clip.
    What happens in the video?
    What happens in the clip?
    What happens?
    What happens here?
    What is happening?
    What is happening in the video?
    What do you see in the video?
    Tell me what happens.
    Say what happens.
    What is going on?
    What goes on in the clip?
    Tell me what the video shows.""",
    """What happens in this video?
    Describe what happens.
    What is happening in the clip?
    Please describe the video.""",
)
COUNT = forms(
    """How many objects are there?
    How many shapes are there?
    How many things are there?
    How many objects are in the picture?
    How many shapes are in the image?
    How many things are in the picture?
    How many objects do you see?
    How many shapes can you see?
    How many objects does the picture show?
    Count the objects.
    Count the shapes.
    Count the shapes in the picture.
    Count everything in the picture.
    Count all objects.
    What number of shapes is there?
    Say how many objects you see.
    How many objects does this image have?
    How many things does the drawing show?
    The picture has how many objects?
    Give the number of objects.
    How many different objects are in it?
    What is the number of objects?
    Tell me how many objects there are.""",
    """How many shapes do you see?
    How many objects are there in total?
    Can you count the objects?
    How many things can you see?""",
)
COLOUR_OF = forms(
    """What colour is the {thing}?
    What colour is the {thing}?
    What is the colour of the {thing}?
    Which colour is the {thing}?
    Which colour does the {thing} have?
    What colour does the {thing} have?
    What colour is the {thing} in the picture?
    Name the colour of the {thing}.
    Tell me the colour of the {thing}.
    Say which colour the {thing} is.
    Of what colour is the {thing}?
    The {thing} has what colour?
    What is the colour that the {thing} has?
    The {thing} has which colour?""",
    """Can you tell me the colour of the {thing}?
    In which colour is the {thing}?
    What is the {thing}'s colour?
    The {thing} is what colour?""",
)
COLOUR_ONLY = forms(
    """What colour is it?
    What colour is the object?
    What colour is the shape?
    What colour is this?
    What is its colour?
    Which colour is it?
    Which colour does the object have?
    What is the colour of the object?
    Name the colour.""",
    """What is the colour of the shape?
    Which colour is the shape?
    Name the colour of the object.""",
)
SHAPE_OF = forms(
    """What shape is {colour}?
    Which shape is {colour}?
    Which object is {colour}?
    What is {colour}?
    What shape is the {colour} object?
    What shape is the {colour} thing?
    What is the {colour} object?
    What shape does the {colour} object have?
    What is the {colour} shape?
    What is the {colour} one?
    Which one is {colour}?
    Which of the shapes is {colour}?
    What kind of shape is {colour}?
    The {colour} object is which shape?
    Say which shape the {colour} object is.
    Say what the {colour} thing is.
    What do you see that is {colour}?
    Name the {colour} object.
    Name the {colour} shape.""",
    """Which shape does the {colour} object have?
    What is the shape of the {colour} object?
    What is the {colour} thing?""",
)
SHAPE_ONLY = forms(
    """What shape is it?
    What is it?
    What shape is the object?
    Which shape is it?
    What shape is this?
    Which shape is this?
    What shape does it have?
    What is its shape?
    What shape do you see?
    Name the shape.""",
    """Which shape do you see?
    What shape does the object have?
    Which shape is the object?""",
)
WHERE = forms(
    """Where is the {thing}?
    Where is the {thing}?
    At which place is the {thing}?
    Where is the {thing} in the picture?
    Where in the picture is the {thing}?
    Where do you see the {thing}?
    Tell me where the {thing} is.
    Say where the {thing} is.
    What is the place of the {thing}?
    The {thing} is at which place?
    In which part of the picture is the {thing}?""",
    """Where can you see the {thing}?
    Where is the {thing} in the image?
    In the picture, where is the {thing}?""",
)
WHERE_ONLY = forms(
    """Where is it?
    Where is the object?
    Where is the shape?
    Where in the picture is it?
    At which place is it?""",
    """Where do you see it?
    Where is the object in the picture?""",
)
SIZE_OF = forms(
    """Is the {thing} small or large?
    Is the {thing} large or small?
    What size is the {thing}?
    What size does the {thing} have?
    How big is the {thing}?
    How large is the {thing}?""",
    """What is the size of the {thing}?
    Is the {thing} big or small?""",
)
WHAT_AT = forms(
    """What is at the {place}?
    What is at the {place} of the picture?
    What do you see at the {place}?
    Which object is at the {place}?
    What can you see at the {place}?""",
    """At the {place}, what is there?
    What object is at the {place}?""",
)
BACKGROUND = forms(
    """What colour is the background?
    What is the background colour?
    What colour is behind the objects?
    Which colour is the background?
    Which colour does the background have?
    What is the colour of the background?
    Name the colour of the background.""",
    """What colour does the background have?
    Tell me the background colour.""",
)
STYLE = forms(
    """Is the background plain, gradient, noisy or textured?
    What style is the background?
    What style does the background have?
    What kind of background is it?""",
    """Which style is the background?
    What is the style of the background?""",
)
EXISTS = forms(
    """Is there {a_thing}?
    Is there {a_thing}?
    Is there {a_thing} in the picture?
    Is there {a_thing} in the image?
    Is there {a_thing} here?
    Do you see {a_thing}?
    Can you see {a_thing}?
    Can you find {a_thing}?
    Does the picture show {a_thing}?
    Does it show {a_thing}?
    Is {a_thing} in the picture?
    Is {a_thing} there?""",
    """Does the image show {a_thing}?
    Can you see {a_thing} in the picture?
    Do you see {a_thing} here?
    Is {a_thing} part of the picture?""",
)
COUNT_SHAPE = forms(
    """How many {things} are there?
    How many {things} are there?
    How many {things} do you see?
    How many {things} can you see?
    How many {things} are in the picture?
    How many objects are {things}?
    Count the {things}.
    What is the number of {things}?""",
    """How many {things} are there in the image?
    Can you count the {things}?
    How many {things} does the picture show?""",
)
COUNT_COLOUR = forms(
    """How many {colour} objects are there?
    How many objects are {colour}?
    How many {colour} shapes are there?
    How many {colour} things do you see?
    How many of the objects are {colour}?
    Count the {colour} objects.""",
    """How many {colour} objects do you see?
    How many shapes are {colour}?""",
)
SHAPES = forms(
    """What shapes are there?
    Which shapes do you see?
    Which shapes are there?
    What shapes are in the picture?
    List the shapes.""",
    """Which shapes are in the picture?
    What shapes do you see?""",
)
COLOURS = forms(
    """What colours are the objects?
    Which colours do the objects have?
    Which colours are the objects?
    What are the colours of the objects?
    List the colours of the objects.""",
    """What colours do the objects have?
    Name the colours of the objects.""",
)
SIDE = forms(
    """What is {side} the {thing}?
    Which object is {side} the {thing}?
    What do you see {side} the {thing}?
    What object is {side} the {thing}?
    Name the object {side} the {thing}.""",
    """What can you see {side} the {thing}?
    Which thing is {side} the {thing}?""",
)
SIDE_CHOICE = forms(
    """Is the {thing} {one} or {other} the {mark}?
    Is the {thing} {other} or {one} the {mark}?
    Is the {thing} {one} the {mark} or {other} it?""",
    """Do you see the {thing} {one} or {other} the {mark}?
    Would you say the {thing} is {one} or {other} the {mark}?""",
)
SIDE_CHECK = forms(
    """Is the {thing} {side} the {mark}?
    Is the {thing} {side} the {mark} in the picture?
    Do you see the {thing} {side} the {mark}?""",
    """Can you see the {thing} {side} the {mark}?
    In the picture, is the {thing} {side} the {mark}?""",
)
READ = forms(
    """Read the text.
    Read the text.
    Read it.
    Read the word.
    Read what is written.
    What does the text say?
    What text is in the picture?
    What is written in the image?
    What is written in the picture?
    What is written here?
    What does it say?
    Which word is written?
    What is the text?
    What is the word?
    Say what is written.
    Tell me what the text says.
    Which letters or digits are there?
    Read the letters.
    Read what you see.
    Spell the word.
    What can be read here?""",
    """Please read the text.
    What text do you see?
    Which text is written in the picture?
    What does the text in the image say?""",
)
WHICH = forms(
    """Which picture has {a_thing}?
    Which picture shows {a_thing}?
    Which image has {a_thing}?
    Which image shows {a_thing}?
    In which picture is {a_thing}?
    In which image is {a_thing}?
    In which picture do you see {a_thing}?
    Where is {a_thing}?""",
    """In which picture can you see {a_thing}?
    Which of the pictures has {a_thing}?
    In which image do you see {a_thing}?""",
)
WHAT_IN = forms(
    """What is in picture {number}?
    What is in image {number}?
    What do you see in picture {number}?
    What does picture {number} show?
    Describe picture {number}.
    Describe image {number}.""",
    """What does image {number} show?
    What can you see in picture {number}?""",
)
HOW_MANY = forms(
    """How many pictures are there?
    How many images are there?
    How many pictures do you see?""",
    """How many images do you see?""",
)
CHANGED = forms(
    """What changed?
    What has changed?
    What is different?
    What differs?
    What is the difference?
    What changed between the pictures?
    What is the difference between the pictures?
    What is new in picture 2?""",
    """What has changed between the pictures?
    What is different in picture 2?
    Tell me what changed.""",
)
DIRECTION = forms(
    """Which way does the {thing} move?
    Which way does the {thing} go?
    Where does the {thing} move?
    In which direction does the {thing} move?
    Which direction does the {thing} move?
    Does the {thing} move left, right, up or down?
    Which way does it move?
    Where does it go?""",
    """In which direction does the {thing} go?
    Where does the {thing} go?
    Which way is the {thing} moving?""",
)
MOVES = forms(
    """Does the {thing} move?
    Does it move?
    Is the {thing} moving?
    Does the {thing} stay in its place?""",
    """Is it moving?
    Do you see the {thing} move?""",
)
CLIP_CHANGE = forms(
    """What changes?
    How does the {thing} change?
    What changes in the video?
    What happens to the {thing}?
    What does the {thing} do?
    What becomes of the {thing}?
    Say what happens to the {thing}.
    What is going on with the {thing}?
    Tell me how the {thing} changes.""",
    """What happens to the {thing} in the video?
    What changes in this clip?""",
)
CLIP_SHAPE = forms(
    """What shape is in the video?
    Which shape is in the clip?
    What shape do you see?
    Which shape moves or changes?
    What object is in the video?""",
    """Which shape is in the video?
    What shape is in this clip?""",
)
LAST_COLOUR = forms(
    """What colour is the {thing} at the end?
    What colour is the {thing} in the end?
    Which colour does the {thing} have at the end?
    Which colour does the {thing} get?
    What colour does the {thing} become?
    What colour is the {thing} at last?""",
    """Which colour is the {thing} at the end?
    At the end, what colour is the {thing}?""",
)
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
    What is its shape?
    Which shape is it?""",
    """Which shape does it have?
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
    """And can you see {a_thing}?
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
LIGHT = forms(
    """Is it light or dark?
    Is the picture light or dark?
    Is the photograph light or dark?
    How light is the picture?""",
    """Is this picture light or dark?""",
)
MAIN_COLOURS = forms(
    """What are the main colours?
    Which colours are in the photograph?
    What colours do you see?
    Name the main colours.""",
    """Which colours do you see?""",
)
SPELLINGS = (("colour", "color"), ("grey", "gray"), ("centre", "center"))
OPENINGS = ("Please: ", "Tell me: ", "Look at the picture. ", "Now: ", "Look: ", "Question: ")


MORE_OPENINGS = (
    "Hello. ",
    "Hi, ",
    "Well, ",
    "And now: ",
    "Next: ",
    "I wonder: ",
    "So, ",
    "OK. ",
    "One more: ",
    "Say: ",
    "Please answer: ",
    "Have a look. ",
    "I want to know: ",
    "Quick question: ",
    "Look closely. ",
    "In this drawing: ",
    "About the picture: ",
)
ENDINGS = (
    "here",
    "now",
    "please",
    "altogether",
    "in all",
    "exactly",
    "overall",
    "then",
    "again",
    "in it",
    "on it",
    "in this drawing",
    "at all",
    "for me",
    "to you",
    "in your view",
    "all in all",
    "this time",
    "in the end",
    "if any",
)
FILLERS = (
    "actually also just really maybe perhaps then there only simply still already often always never quite very "
    "rather about around with without under over between inside outside near far here these those that this such "
    "some any every each other another same different new old good nice main first last next second whole single "
    "own real true think know guess find look give make take want need use try help name call write check note "
    "mind view page screen image's photo sketch panel figure item items part parts kind sort type form one ones "
    "body piece set group row side please thanks dear friend today once twice again soon later before after while "
    "when how why who whose which what seen shown drawn given asked found made put placed kept visible present "
    "clear likely sure certain possible"
).split()
FUNCTION_WORDS = ("the", "a", "an", "is", "are", "do", "does", "you", "of", "in", "there", "it", "have", "please")
DISTURBED = 0.3  # of the training's questions


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


ALL_FORMS = tuple(value for value in dict(globals()).values() if isinstance(value, Forms))


@cache
def held_out_pattern() -> re.Pattern[str]:
    """Matches the bare words of every phrasing that is held out, whatever is filled in."""
    colours, shapes = "|".join(COLOUR_NAMES), "|".join(SHAPE_NAMES)
    thing = f"(?:(?:{colours}) )?(?:{shapes})"
    sides = "left|right|left of|right of|above|below"
    filled = {"thing": thing, "mark": thing, "a_thing": f"an? {thing}", "things": f"(?:{shapes})e?s"}
    filled |= {"colour": colours, "place": "|".join(PLACES), "number": "[0-9]"}
    filled |= {"side": sides, "one": sides, "other": sides}
    templates = [re.escape(bare(template)) for each in ALL_FORMS for template in each.held_out]
    return re.compile("|".join(re.sub(r"\\{(\w+)\\}", lambda m: f"(?:{filled[m[1]]})", t) for t in templates))


def ask(rng: Dice, asked: Forms, **parts: str) -> str:
    """A phrasing, filled in; now and then in American spelling, lower case, without full stop or with an opening."""
    question = rng.choice(asked.held_out if rng.shifted else asked.trained).format(**parts)
    if rng.training and rng.random() < DISTURBED:
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
