"""``python -m training.evaluate FOLDER [--card]``: how often a model is right about the frozen exam.

Answers come from the program's engine, as its users get them. The table goes to the terminal and, with --card, into
the folder's README.md.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from training.exam import SPLITS, Item, exam_items, results, shuffled
from training.folder import write_card

Z = 1.96  # of a 95 % interval
HEAD = """Exact match of greedy answers (the program's engine) on the questions in `tests/data/exam`, none of which is
ever trained on. *As trained*: the world of the training. *Shifted*: shades, fonts, drawing code, phrasings, and pairs
of colour and shape that training never has. Behind each score its 95 % interval. *Blind*: always the commonest answer
of that line. *Other pictures*: with those of another question; it should be low.

| question | n | as trained | 95 % | shifted | 95 % | blind | other pictures |
|---|---|---|---|---|---|---|---|
"""


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, spread = right / total, Z * Z / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return centre - half, centre + half


def row(name: str, items: dict[str, list[Item]], right: dict[str, list[bool]], elsewhere: Sequence[bool]) -> str:
    """A line of the table, about the questions given; ``elsewhere``: right or wrong with other pictures."""
    cells = [name, str(len(items[SPLITS[0]]))]
    for split in SPLITS:
        low, high = interval(sum(right[split]), len(right[split]))
        cells += [f"{sum(right[split]) / len(right[split]):.3f}", f"{low:.3f} to {high:.3f}"]
    answers = Counter(item.turns[-1].answer for item in items[SPLITS[0]])
    cells.append(f"{answers.most_common(1)[0][1] / len(items[SPLITS[0]]):.2f}")
    cells.append(f"{sum(elsewhere) / len(elsewhere):.2f}" if elsewhere else "")
    return "| " + " | ".join(cells) + " |"


def table(folder: Path, per_kind: int) -> str:
    """The scores of every kind and of all together, in Markdown."""
    items = {split: exam_items(split, per_kind) for split in SPLITS}
    right = {split: results(folder, items[split]) for split in SPLITS}
    others = shuffled(items[SPLITS[0]])
    elsewhere = list(zip(others, results(folder, others), strict=True))
    rows = [row("all", items, right, [right for _, right in elsewhere])]
    for kind in dict.fromkeys(item.kind for item in items[SPLITS[0]]):
        of_kind = {split: [item for item in items[split] if item.kind == kind] for split in SPLITS}
        right_of = {s: [r for r, item in zip(right[s], items[s], strict=True) if item.kind == kind] for s in SPLITS}
        rows.append(row(kind, of_kind, right_of, [right for item, right in elsewhere if item.kind == kind]))
    return HEAD + "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path, help="model folder")
    parser.add_argument("--per-kind", type=int, default=10, help="questions of every kind, at most")
    parser.add_argument("--card", action="store_true", help="write the table into the folder's README.md")
    args = parser.parse_args()
    text = table(args.folder, args.per_kind)
    print(text)
    if args.card:
        write_card(args.folder, text)


if __name__ == "__main__":
    main()
