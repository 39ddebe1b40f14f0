"""``python -m training.evaluate FOLDER [--card]``: how often a checkpoint is right, as trained and shifted.

Answers come from the program's engine (--with engine) or from the training code's model (--with own), where "every
token of the right answer is the likeliest one" is checked instead of decoding: the same thing as an exact match of
greedy decoding, and much faster. FOLDER may also be a run's folder (with own): its mean weights are taken.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from training import card
from training.batches import collate
from training.checkpoint import load_exported, load_run
from training.data import Sample, make_sample
from training.exam import PER_KIND, SPLITS, Item, make_items
from training.measure import right_answers
from training.model import ValleyMini
from training.scores import Line, lines_of, markdown
from training.tokenizer import Encoder

BATCH = 24
SHUFFLED = 60  # items of each kind that are asked again with other pictures


@torch.inference_mode()
def own_results(model: ValleyMini, samples: Sequence[Sample], pad_id: int) -> list[bool]:
    """Whether the last question of every sample is answered rightly."""
    results: dict[int, bool] = {}
    by_length = sorted(range(len(samples)), key=lambda number: len(samples[number].row.ids))
    for start in range(0, len(samples), BATCH):
        numbers = by_length[start : start + BATCH]
        found = iter(right_answers(model, collate([samples[n] for n in numbers], pad_id)))
        for number in numbers:
            results[number] = [right for _, right in (next(found) for _ in samples[number].asked)][-1]
    return [results[number] for number in range(len(samples))]


def shuffle_pictures(samples: Sequence[Sample]) -> list[Sample]:
    """Every sample with the pictures of another one that has as many; those that find none are as they were."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, sample in enumerate(samples):
        groups[len(sample.labels)].append(number)
    shuffled = list(samples)
    for group in groups.values():
        for here, there in zip(group, group[1:] + group[:1], strict=True):
            shuffled[here] = replace(samples[here], pixels_NHWC=samples[there].pixels_NHWC)
    return shuffled


def shuffled_results(model: ValleyMini, encoder: Encoder, items: Sequence[Item]) -> dict[int, bool]:
    """Right or wrong with another item's pictures, for the first items of each kind."""
    by_kind: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        by_kind[item.rows[0]].append(number)
    found: dict[int, bool] = {}
    for numbers in by_kind.values():
        chosen = numbers[:SHUFFLED]
        samples = shuffle_pictures([make_sample(encoder, items[n].task()) for n in chosen])
        found |= dict(zip(chosen, own_results(model, samples, encoder.pad_id), strict=True))
    return found


def print_wrong(items: Sequence[Item], answers: Sequence[str], most: int) -> None:
    wrong = [(item, answer) for item, answer in zip(items, answers, strict=True) if answer != item.question.answer]
    for item, answer in wrong[:most]:
        print(f"{item.rows[0]}: {item.question.text}\n  right: {item.question.answer}\n  said:  {answer}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path, help="exported checkpoint, or a run's folder")
    parser.add_argument("--with", dest="source", choices=("engine", "own"), default="engine")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--per-kind", type=int, default=PER_KIND, help="items of every kind with a bar")
    parser.add_argument("--others", type=int, default=100, help="items of every other kind")
    parser.add_argument(
        "--seed", type=int, default=0, help="another exam than the reported one, for choices on the way"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the training code's model")
    parser.add_argument("--card", action="store_true", help="write the table into the folder's README.md")
    parser.add_argument("--json", type=Path, help="write the scores there")
    parser.add_argument("--errors", type=int, default=0, help="print so many wrong answers of the engine")
    return parser.parse_args()


def evaluate(args: argparse.Namespace) -> dict[str, dict[str, Line]]:
    """split -> row -> line."""
    is_run = (args.folder / "checkpoint.pt").is_file()
    model, encoder = load_run(args.folder) if is_run else load_exported(args.folder)
    results = {}
    for split in args.splits:
        items = make_items(split, args.per_kind, args.others, args.seed)
        if args.source == "engine":
            from training.through_engine import answers

            said = answers(args.folder, items)
            right = [answer == item.question.answer for answer, item in zip(said, items, strict=True)]
            print_wrong(items, said, args.errors)
            shuffled = shuffled_results(model, encoder, items)
        else:
            right = own_results(model, [make_sample(encoder, item.task()) for item in items], encoder.pad_id)
            shuffled = {}
        results[split] = lines_of(items, right, shuffled)
    return results


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    results = evaluate(args)
    text = markdown(results, "the program's engine" if args.source == "engine" else "the training code's model")
    print(text)
    if args.card:
        card.write(args.folder, text)
    if args.json:
        found = {split: [asdict(line) for line in lines.values()] for split, lines in results.items()}
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
