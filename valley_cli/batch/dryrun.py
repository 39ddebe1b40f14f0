"""``--dry-run``: every row checked and priced, none answered."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from valley_cli.api import Cost, Request
from valley_cli.batch.pipeline import Pipeline
from valley_cli.batch.progress import REDRAW_S, Progress
from valley_cli.batch.records import Outcome, complaint
from valley_cli.batch.rows import Row
from valley_cli.batch.run import WINDOW, Run
from valley_cli.errors import EXIT_FAILED_ROWS, PromptError, RoomError, UsageError
from valley_cli.terminal.render import size_text

_MAX_NAMED = 1000  # faulty rows in the JSON object


@dataclass
class Totals:
    """What all rows would take together, and the largest of them. Memory in bytes."""

    model: str
    rows: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    image_tokens: int = 0
    max_new_tokens: int = 0
    largest_prompt_tokens: int = 0
    largest_kv_bytes: int = 0
    weight_bytes: int = 0
    available_bytes: int = 0
    errors: list[str] = field(default_factory=list)

    def add(self, cost: Cost) -> None:
        """Count a row that can be answered."""
        self.prompt_tokens += cost.prompt_tokens
        self.image_tokens += cost.image_tokens
        self.max_new_tokens += cost.max_new_tokens
        self.largest_prompt_tokens = max(self.largest_prompt_tokens, cost.prompt_tokens)
        self.largest_kv_bytes = max(self.largest_kv_bytes, cost.kv_bytes)
        self.weight_bytes, self.available_bytes = cost.weight_bytes, cost.available_bytes

    def table(self) -> str:
        """For people."""
        lines = {
            "model": self.model,
            "rows": f"{self.rows:,}, {self.failed:,} of them faulty" if self.failed else f"{self.rows:,}, none faulty",
            "prompts": f"{self.prompt_tokens:,} tokens ({self.image_tokens:,} for pictures), "
            f"the longest {self.largest_prompt_tokens:,}",
            "answers": f"up to {self.max_new_tokens:,} tokens",
            "memory": f"{size_text(self.weight_bytes)} weights + {size_text(self.largest_kv_bytes)} cache for the "
            f"largest row, {size_text(self.available_bytes)} free",
        }
        return "\n".join(f"{name:<9}{text}" for name, text in lines.items())

    def record(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def dry_run(run: Run, progress: Progress) -> tuple[Totals, int]:
    """(what the rows of ``run`` would take, the exit code). Faulty rows are named on stderr as they are found."""
    totals = Totals(run.engine.about.name)

    def price(row: Row) -> Cost | str:
        request: Request | None = None
        try:
            request = run.reader.build(row)
            return _fitting(run.engine.price(request))
        except Exception as error:
            return complaint(Outcome(row, request, error=error))

    pipeline = Pipeline(run.rows(), price, n_threads=run.plan.max_inflight, window=WINDOW, ordered=True)
    for found in pipeline.outcomes(REDRAW_S):
        if found is None:
            progress.tick()
            continue
        totals.rows += 1
        run.tally.done += 1
        if isinstance(found, Cost):
            totals.add(found)
            continue
        totals.failed += 1
        run.tally.failed += 1
        totals.errors += [found] if len(totals.errors) < _MAX_NAMED else []
        progress.say(f"valley: {found}")
    progress.clear()
    return totals, EXIT_FAILED_ROWS if totals.failed else 0


def _fitting(cost: Cost | None) -> Cost:
    """Raises PromptError and RoomError for what could not be answered, UsageError for an engine that cannot tell."""
    if cost is None:
        raise UsageError("this engine cannot tell what a request takes", "leave --dry-run out")
    if cost.max_new_tokens < 1:
        raise PromptError(f"{cost.prompt_tokens} tokens, and the context holds {cost.context_tokens}")
    if not cost.fits:
        needed = size_text(cost.kv_bytes + cost.weight_bytes)
        raise RoomError(f"needs {needed} of memory, and {size_text(cost.available_bytes)} are free")
    return cost
