"""``python -m training.evaluate FOLDER [--card]``: exact match of greedy answers on held-out pictures.

Beside each score stand its 95 % interval, the best score without looking (always the commonest answer of that
line) and the score with the pictures shuffled between items. Answers come from the program's engine (--with engine)
or from the training code's model (--with own), where "every token of the right answer is the likeliest one" is
checked instead of decoding: that is the same thing as an exact match of greedy decoding.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from training import card
from training.checkpoint import load_exported
from training.data import Sample, collate
from training.exam import OTHERS, SINGLE, Item, make_items, samples_of
from training.measure import right_answers
from training.model import ValleyMini
from training.tokenizer import Encoder

BATCH, THREADS = 16, 8
FIRST_ROWS = ("colour, one object", "shape, one object", "count", "whole description")


@torch.inference_mode()
def own_results(model: ValleyMini, encoder: Encoder, samples: Sequence[Sample]) -> list[bool]:
    """Right or wrong of every question, in order."""
    results = []
    for start in range(0, len(samples), BATCH):
        batch = collate(list(samples[start : start + BATCH]), encoder.pad_id)
        results += [right for _, right in right_answers(model, batch)]
    return results


def shuffle_pictures(samples: Sequence[Sample]) -> list[Sample]:
    """Every sample with the pictures of another one that has as many."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, sample in enumerate(samples):
        groups[len(sample.labels)].append(number)
    shuffled = list(samples)
    for group in groups.values():
        for here, there in zip(group, group[1:] + group[:1], strict=True):
            shuffled[here] = replace(samples[here], patches_NPD=samples[there].patches_NPD)
    return shuffled


def engine_answers(folder: Path, items: Sequence[Item]) -> list[str]:
    """The answers of the program's own engine, decoded greedily."""
    from training.through_engine import answers

    with ThreadPoolExecutor(THREADS) as pool:
        return answers(folder, items, pool)


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z = 1.96
    share, spread = right / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return centre - half, centre + half


@dataclass(frozen=True)
class Line:
    """A line of the table: shares of ``n`` questions."""

    row: str
    n: int
    score: float
    low: float
    high: float
    blind: float
    shuffled: float


def table(items: Sequence[Item], right: Sequence[bool], shuffled: Sequence[bool]) -> list[Line]:
    """The scores, the four that matter most first."""
    lines: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        for row in item.rows:
            lines[row].append(number)
    ordered = [row for row in FIRST_ROWS if row in lines] + sorted(row for row in lines if row not in FIRST_ROWS)
    found = []
    for row in ordered:
        numbers = lines[row]
        hits, total = sum(right[n] for n in numbers), len(numbers)
        commonest = Counter(items[n].question.answer for n in numbers).most_common(1)[0][1]
        elsewhere = sum(shuffled[n] for n in numbers) / total
        found.append(Line(row, total, hits / total, *interval(hits, total), commonest / total, elsewhere))
    return found


def markdown(lines: Sequence[Line], single: int, source: str) -> str:
    """The table for people."""
    head = (
        f"Exact match of greedy answers ({source}) on {single} held-out pictures, seeds never trained on. "
        "*blind*: always the commonest answer of that line. *shuffled*: with another item's picture.\n\n"
        "| question | n | score | 95 % interval | blind | shuffled |\n|---|---|---|---|---|---|\n"
    )
    form = "| {row} | {n} | {score:.3f} | {low:.3f} to {high:.3f} | {blind:.2f} | {shuffled:.2f} |"
    return head + "\n".join(form.format(**asdict(line)) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path, help="exported checkpoint")
    parser.add_argument("--with", dest="source", choices=("engine", "own"), default="engine")
    parser.add_argument("--single", type=int, default=SINGLE, help="single pictures without text")
    parser.add_argument("--others", type=int, default=OTHERS, help="requests of each other kind")
    parser.add_argument("--threads", type=int, default=1, help="threads of the training code's model")
    parser.add_argument("--card", action="store_true", help="write the table into the folder's README.md")
    parser.add_argument("--json", type=Path, help="write the scores there")
    parser.add_argument("--errors", type=int, default=0, help="print so many wrong answers of the engine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    items = make_items(args.single, args.others)
    model, encoder = load_exported(args.folder)
    samples = samples_of(encoder, items)
    shuffled = own_results(model, encoder, shuffle_pictures(samples))
    if args.source == "engine":
        answers = engine_answers(args.folder, items)
        right = [answer == item.question.answer for answer, item in zip(answers, items, strict=True)]
        wrong = [(answer, item.question) for answer, item, ok in zip(answers, items, right, strict=True) if not ok]
        for answer, question in wrong[: args.errors]:
            print(f"{question.text}\n  right: {question.answer}\n  said:  {answer}")
    else:
        right = own_results(model, encoder, samples)
    lines = table(items, right, shuffled)
    source = "the program's engine" if args.source == "engine" else "the training code's model"
    text = markdown(lines, args.single, source)
    print(text)
    if args.card:
        card.write(args.folder, text)
    if args.json:
        args.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
