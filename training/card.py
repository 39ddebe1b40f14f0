"""The model card (README.md) of an exported checkpoint: what it is, what it knows, how well."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

TEXT = """# valley-mini

The small model inside `valley`: {parameters:.1f} million parameters, in the layout of Valley2.5 (a Qwen2-VL vision
tower and a Qwen3 decoder). It loads through the same code as the published Valley2.5.

**It was trained on generated drawings and does not understand photographs.** It is there so that the program can be
tried, tested and measured without a download.

## What it was taught

- Drawings with 0 to 5 coloured shapes in 11 colours: whole descriptions, colour, shape, size, place, number, which side
  of another, and that something is not there. Three of four scenes were plain ones: 8 shapes (circle, square, triangle,
  star, heart, diamond, cross, ring) each in its own ninth of a picture of at most 4:3 either way, on 6 background
  colours, plain, gradient or noisy. One of four was rich: 56 to 672 pixels, up to three times as wide as high or the
  reverse, moons and arrows too, outlined or bordered shapes, anywhere and overlapping a little, 6 more background
  colours, textures, losses of JPEG. Rich scenes are harder for it: see the table.
- One word or number of up to four capital letters or digits, in some forty fonts.
- Two to eight pictures (which one shows something; of two, what changed) and clips of 4 to 16 frames of one object that
  moves, grows, shrinks, changes colour, appears, disappears or stays.
- Conversations of up to six turns: questions that refer back, any other question at any turn, and pictures that come
  with a later turn.
- "Answer in one word." as a system prompt; of a photograph its main colours, how light it is and where it is lighter.

## Limits

- Every picture is put on a square of 168 pixels (112 among several pictures or in clips): small details are lost, and
  in pictures much wider than high, or the reverse, everything becomes small. Wider than three to one was not trained.
- Of photographs it often says something wrong all the same; see the table.
- Of words it mistakes narrow letters side by side (I, J, L: two fall into one token) and O, Q and 0, I and 1.
- It invents when it cannot read or see. Talk is a handful of fixed answers. English only, and only about its world;
  other phrasings than those in `training/phrases.py` often work, see *shifted* in the table.
- Only the pairs of moon and arrow with four colours each are held out: the first runs saw all pairs of the other eight
  shapes. Charts, sentences, small letters and more than one moving object were not taught.

## Recipe

Trained from nothing by `python -m training.train` in runs that follow each other (now world version {world}; seeds
{seed}; commit {commit}): {steps} steps, {minutes} minutes on two CPU cores shared with other work. The weights are
running means: {shares} (*start*: those shipped before). `training/README.md` tells how, and what was
tried. Stages were adjusted on the way by restarts from checkpoints, after looks at held-out and shifted items other
than the table's.

Scores on the way (held-out pictures; the worlds before run 4 were easier):

{curve}

## Scores

{scores}

What keeps the shifted items apart from training, checked by tests: no training can draw one of their shades, however
it varies its own; fonts and drawing code are others; none of their phrasings is one to train with, of any kind of
question (nor was one in an earlier world; but a word put in at random could make four of them there: "Do you see a
star here?", "What is shown in the picture?", "Please read the text.", "Please describe the video."). Of the held-out
pairs none can come into the present world; in the one before, a change of a colour or a shape made one, 14 times among
61 000 objects.
"""
NOT_MEASURED = "Not measured yet: `python -m training.evaluate` fills this in."


def write(folder: Path, scores: str | None) -> None:
    """Write the card; ``scores`` is the table in Markdown."""
    with safe_open(folder / "model.safetensors", "pt") as weights:
        facts = weights.metadata() or {}
        sizes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    parameters = sum(_product(shape) for shape in sizes) / 1e6
    text = TEXT.format(parameters=parameters, scores=scores or NOT_MEASURED, **facts)
    (folder / "README.md").write_text(text)


def _product(shape: list[int]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total
