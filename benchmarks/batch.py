"""Rows per second of ``valley batch`` beside the same rows one after another, and memory of 10,000 rows beside 1,000.

    python -m benchmarks.batch [--quick] [speed | memory]

Same process, same engine, distinct 224 px pictures, exactly 64 new tokens a row (``ignore_eos``). Each round runs both,
each on an engine of its own that has answered one question, so that nothing is found in a cache. The bars: 2.5 times
the rows per second with valley-mini, 1.1 times the memory. A checkpoint of random weights is reported beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from benchmarks.prefix import write_checkpoint
from benchmarks.report import finish
from valley_cli.api import Answer, Cost, Done, Engine, EngineOptions, Message, Request, Sampling
from valley_cli.batch.filing import FileOutput
from valley_cli.batch.index import Index
from valley_cli.batch.lines import open_input
from valley_cli.batch.progress import Progress, Tally
from valley_cli.batch.rows import RowReader
from valley_cli.batch.run import Plan, Run
from valley_cli.commands.batch import MEDIA_CACHE_BYTES
from valley_cli.engine import open_engine
from valley_cli.settings import load_settings

SPEED_BAR, MEMORY_BAR = 2.5, 1.1
NEW_TOKENS, SIDE = 64, 224
LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


class ToTheEnd:
    """An engine whose answers have all the tokens that were asked for."""

    def __init__(self, engine: Engine) -> None:
        self.about, self.load, self._engine = engine.about, engine.load, engine

    def submit(self, request: Request) -> Answer:
        return self._engine.submit(replace(request, sampling=replace(request.sampling, ignore_eos=True)))

    def price(self, request: Request) -> Cost | None:
        return self._engine.price(request)

    def close(self) -> None:
        self._engine.close()


def write_rows(folder: Path, count: int, new_tokens: int) -> Path:
    """Rows about ``count`` distinct pictures: two rectangles whose colours count."""
    rows = []
    for number in range(count):
        picture = Image.new("RGB", (SIDE, SIDE), (number % 256, number // 256, 120))
        ImageDraw.Draw(picture).rectangle((20 + number % 100, 30, 150, 180), fill=(200, number % 256, 40))
        path = folder / f"{number}.png"
        picture.save(path, compress_level=1)
        rows.append({"id": number, "image": path.name, "prompt": "What is in it?", "max_new_tokens": new_tokens})
    prompts = folder / "rows.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prompts


def opened(model: str) -> Engine:
    """An engine that has loaded its weights."""
    engine = ToTheEnd(open_engine(EngineOptions(model=model, device="cpu", media_cache_bytes=MEDIA_CACHE_BYTES)))
    list(engine.submit(Request((Message("user", "Hello"),), sampling=Sampling(max_new_tokens=2))))
    return engine


def one_after_another(prompts: Path, engine: Engine) -> int:
    """Tokens of all rows, each begun when the one before it is answered."""
    reader = RowReader(load_settings({}), engine.about.name, base_dir=str(prompts.parent))
    tokens = 0
    for line in open_input(str(prompts)).open():
        *_, done = engine.submit(reader.build(reader.look(line, lambda _: True)))
        assert isinstance(done, Done)
        tokens += done.usage.completion_tokens
    return tokens


def as_a_batch(prompts: Path, engine: Engine) -> int:
    """The same through the whole of ``valley batch -o``."""
    out, index, tally = prompts.with_name("out.jsonl"), Index(), Tally()
    out.unlink(missing_ok=True)
    reader = RowReader(load_settings({}), engine.about.name, base_dir=str(prompts.parent))
    with closing(FileOutput(str(out), [], index)) as output:
        run = Run(Plan(), open_input(str(prompts)), reader, engine, output, index, tally)
        code = run.go(Progress(sys.stderr, tally, quiet=True))
    assert code == 0
    return tally.new_tokens


def timed(work: Callable[[Path, Engine], int], prompts: Path, model: str) -> tuple[float, int]:
    """(seconds, tokens) on a new engine."""
    with closing(opened(model)) as engine:
        begun = time.perf_counter()
        tokens = work(prompts, engine)
        return time.perf_counter() - begun, tokens


def compare(model: str, count: int, rounds: int, folder: Path, new_tokens: int = NEW_TOKENS) -> dict[str, Any]:
    """Rows per second both ways; the ratio is the median of the rounds'."""
    prompts = write_rows(folder, count, new_tokens)
    runs = []
    for _ in range(rounds):
        (single_s, n_single), (batch_s, n_batch) = (timed(w, prompts, model) for w in (one_after_another, as_a_batch))
        assert n_single == n_batch == count * new_tokens
        runs.append({"single": round(count / single_s, 3), "batch": round(count / batch_s, 3)})
        print(f"{Path(model).name}: {runs[-1]['single']} rows/s one after another, {runs[-1]['batch']} as a batch")
    ratios = sorted(run["batch"] / run["single"] for run in runs)
    return {"ratio": round(ratios[len(ratios) // 2], 3), "rows": count, "new_tokens": new_tokens, "rounds": runs}


def peak_bytes(count: int, folder: Path) -> int:
    """Peak resident memory of the installed command over ``count`` rows of 2 tokens, to standard output."""
    prompts = write_rows(folder, count, 2)
    command: list[str | Path] = [
        Path(sys.executable).with_name("valley"),
        "batch",
        prompts,
        "-m",
        "valley-mini",
        "--device",
        "cpu",
        "-q",
    ]
    # from a small process: a child's peak begins with what its parent held when it was forked
    found = subprocess.run([sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, check=True)
    return int(found.stdout) * 1024


def speed(folder: Path, quick: bool) -> dict[str, Any]:
    """valley-mini both ways, and a larger checkpoint, which the bar is not about."""
    figures = {"valley-mini": compare("valley-mini", 32 if quick else 96, 1 if quick else 3, folder)}
    if not quick:
        checkpoint = folder / "0.25B"
        checkpoint.mkdir()
        write_checkpoint(checkpoint)
        figures["0.25B"] = compare(str(checkpoint), 4, 1, folder, new_tokens=32)
    return figures


def memory(folder: Path, quick: bool) -> dict[str, Any]:
    """Peak memory of few rows and of ten times as many."""
    few, many = (200, 2000) if quick else (1000, 10_000)
    peaks = {count: peak_bytes(count, folder) for count in (few, many)}
    print(f"peak memory: {peaks[few] / 1e6:.0f} MB for {few} rows, {peaks[many] / 1e6:.0f} MB for {many}")
    return {"peak_bytes": peaks, "memory_ratio": round(peaks[many] / peaks[few], 3)}


def main() -> None:
    parts = [part for part in ("speed", "memory") if part in sys.argv] or ["speed", "memory"]
    figures: dict[str, Any] = {}
    bars, met = {}, True
    with tempfile.TemporaryDirectory() as name:
        if "speed" in parts:
            figures |= speed(Path(name), "--quick" in sys.argv)
            bars["valley-mini.ratio"] = f">= {SPEED_BAR}"
            met = figures["valley-mini"]["ratio"] >= SPEED_BAR
        if "memory" in parts:
            figures |= memory(Path(name), "--quick" in sys.argv)
            bars["memory_ratio"] = f"<= {MEMORY_BAR}"
            met = met and figures["memory_ratio"] <= MEMORY_BAR
    finish("batch" if len(parts) == 2 else f"batch_{parts[0]}", figures, bars, met)


if __name__ == "__main__":
    main()
