"""Right or wrong to tables: intervals, what is reached without looking, bars."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from training.exam import BARS, KINDS, Item

Z = 1.96  # of a 95 % interval


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, spread = right / total, Z * Z / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return centre - half, centre + half


@dataclass(frozen=True)
class Line:
    """A line of the table: shares of ``n`` questions. ``shuffled`` is None where it was not measured."""

    row: str
    n: int
    score: float
    low: float
    high: float
    blind: float
    shuffled: float | None


def lines_of(items: Sequence[Item], right: Sequence[bool], shuffled: dict[int, bool]) -> dict[str, Line]:
    """The score of every line. ``shuffled``: item number -> right with another item's pictures, for some items."""
    numbers_of: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        for row in item.rows:
            numbers_of[row].append(number)
    found = {}
    for row, numbers in numbers_of.items():
        hits, total = sum(right[n] for n in numbers), len(numbers)
        commonest = Counter(items[n].question.answer for n in numbers).most_common(1)[0][1]
        elsewhere = [shuffled[n] for n in numbers if n in shuffled]
        share = sum(elsewhere) / len(elsewhere) if elsewhere else None
        found[row] = Line(row, total, hits / total, *interval(hits, total), commonest / total, share)
    return found


def verdict(line: Line, bar: float | None) -> str:
    if bar is None:
        return ""
    return f"{bar:.2f} {'reached' if line.score >= bar else 'not reached'}"


def markdown(results: dict[str, dict[str, Line]], source: str) -> str:
    """The table for people; ``results``: split -> row -> line."""
    head = (
        f"Exact match of greedy answers ({source}) on items whose seeds are never trained on. *As trained*: the world "
        "of the training. *Shifted*: fonts, drawing code and phrasings that are held out, other shades, and held-out "
        "colour-shape pairs one time in ten (how far they are from the training stands below the table). Behind each "
        "score its 95 % interval and the bar. *Blind*: always the commonest answer "
        "of that line. *Shuffled*: with another item's pictures (the first items of each kind).\n\n"
        "| question | n | as trained | 95 % | bar | shifted | 95 % | bar | blind | shuffled |\n" + "|---" * 10 + "|\n"
    )
    first, second = (results.get(split, {}) for split in ("held-out", "shifted"))
    rows = [row for kind in KINDS for row in sorted({*first, *second}) if row.split(":")[0] == kind.name]
    lines = []
    for row in rows:
        bars = BARS.get(row, (None, None))
        cells = [row, str(max(line.n for line in (first.get(row), second.get(row)) if line))]
        for line, bar in ((first.get(row), bars[0]), (second.get(row), bars[1])):
            cells += (
                [f"{line.score:.3f}", f"{line.low:.3f} to {line.high:.3f}", verdict(line, bar)] if line else [""] * 3
            )
        one = first.get(row) or second[row]
        cells += [f"{one.blind:.2f}", "" if one.shuffled is None else f"{one.shuffled:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return head + "\n".join(lines)
