"""The many ways to ask for the same thing. ``{thing}`` and the like are filled in by the questions."""

from __future__ import annotations

import random

DESCRIBE = (
    "Describe the given image.",
    "Describe the image.",
    "Describe this image.",
    "Describe the picture.",
    "Describe this picture.",
    "Describe the given picture.",
    "Please describe the image.",
    "Please describe the picture.",
    "What is in the image?",
    "What is in the picture?",
    "What is in this picture?",
    "What's in the picture?",
    "What do you see?",
    "What can you see?",
    "What do you see in the image?",
    "What does the picture show?",
    "What is shown?",
    "Tell me what is in the picture.",
    "Describe what you see.",
    "Give a description of the image.",
)
DESCRIBE_SEVERAL = (
    "Describe the given images.",
    "Describe the images.",
    "Describe these pictures.",
    "Describe the pictures.",
    "What is in the images?",
    "What do the pictures show?",
)
DESCRIBE_CLIP = (
    "Describe the given video.",
    "Describe the video.",
    "Describe this clip.",
    "What happens in the video?",
    "What happens in the clip?",
    "What happens?",
)
COUNT = (
    "How many objects are there?",
    "How many shapes are there?",
    "How many things are there?",
    "How many objects are in the picture?",
    "How many shapes are in the image?",
    "How many objects do you see?",
    "Count the objects.",
    "Count the shapes.",
)
COLOUR_OF = ("What colour is the {thing}?", "What is the colour of the {thing}?", "Which colour is the {thing}?")
COLOUR_ONLY = ("What colour is it?", "What colour is the object?", "What colour is the shape?", "Name the colour.")
SHAPE_OF = (
    "What shape is {colour}?",
    "Which shape is {colour}?",
    "What is {colour}?",
    "What shape is the {colour} object?",
)
SHAPE_ONLY = (
    "What shape is it?",
    "What shape is the object?",
    "Which shape is it?",
    "What shape is this?",
    "Name the shape.",
)
WHERE = ("Where is the {thing}?", "At which place is the {thing}?", "Where is the {thing} in the picture?")
WHERE_ONLY = ("Where is it?", "Where is the object?", "Where is the shape?")
SIZE_OF = ("Is the {thing} small or large?", "What size is the {thing}?", "How big is the {thing}?")
WHAT_AT = ("What is at the {place}?", "What do you see at the {place}?", "Which object is at the {place}?")
BACKGROUND = (
    "What colour is the background?",
    "What is the background colour?",
    "Which colour is the background?",
    "What is the colour of the background?",
)
STYLE = ("Is the background plain, gradient or noisy?", "What style is the background?")
EXISTS = ("Is there {a_thing}?", "Is there {a_thing} in the picture?", "Do you see {a_thing}?")
COUNT_SHAPE = ("How many {things} are there?", "How many {things} do you see?", "Count the {things}.")
COUNT_COLOUR = (
    "How many {colour} objects are there?",
    "How many objects are {colour}?",
    "How many {colour} shapes are there?",
)
SHAPES = ("What shapes are there?", "Which shapes do you see?", "List the shapes.")
COLOURS = ("What colours are the objects?", "Which colours do the objects have?", "List the colours of the objects.")
SIDE = ("What is {side} the {thing}?", "Which object is {side} the {thing}?")
READ = (
    "Read the text.",
    "What does the text say?",
    "What is written in the image?",
    "What is written in the picture?",
    "What does it say?",
    "Which word is written?",
)
SPELLINGS = (("colour", "color"), ("grey", "gray"), ("centre", "center"))


def ask(rng: random.Random, forms: tuple[str, ...], **parts: str) -> str:
    """One of ``forms``, filled in; now and then in American spelling, lower case or without its full stop."""
    question = rng.choice(forms).format(**parts)
    if rng.random() < 0.3:
        for british, american in SPELLINGS:
            question = question.replace(british, american)
    if rng.random() < 0.12:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.12:
        question = question.rstrip(".?")
    return question
