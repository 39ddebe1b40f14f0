"""CPU time of ``valley --help``, and what ``valley describe`` spends from start to its first token, in parts.

    python -m benchmarks.startup [--quick]

The help is timed next to ``python -c pass`` in alternation; the bar is 150 ms of CPU (user + system) for the whole
command. The parts of a describe on the embedded model are CPU and wall seconds up to each point, in one process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.report import ROOT, finish

VALLEY = Path(sys.executable).with_name("valley")
HELP_BAR_S = 0.150
PARTS = """
import json, sys, time
marks = [("python", time.process_time(), 0.0)]
start = time.perf_counter()
def mark(name):
    marks.append((name, time.process_time(), time.perf_counter() - start))
from valley_cli.app import build_app
build_app()
from valley_cli.commands import describe
mark("command")
from valley_cli.engine import open_engine
from valley_cli.api import EngineOptions, Media, Message, Request, Sampling
engine = open_engine(EngineOptions(model="valley-mini", device="cpu"))
mark("engine and tokenizer")
request = Request((Message("user", "Describe the given image."),), images=(Media("p", path=sys.argv[1]),))
import torch
mark("torch")
events = iter(engine.submit(request))
while type(next(events)).__name__ == "Stage":
    pass
mark("first token")
for event in events:
    pass
mark("whole answer")
print(json.dumps({"marks": marks, "timings": vars(event.timings), "tokens": event.usage.completion_tokens}))
"""


def cpu_seconds(command: list[str]) -> float:
    """User + system seconds of ``command`` and its children."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    repeats = 5 if "--quick" in sys.argv else 20
    picture = next((ROOT / "examples").glob("*.png"))
    help_s, bare_s = [], []
    for _ in range(repeats):
        help_s.append(cpu_seconds([str(VALLEY), "--help"]))
        bare_s.append(cpu_seconds([sys.executable, "-c", "pass"]))
    figures: dict[str, object] = {
        "help_cpu_s": round(statistics.median(help_s), 4),
        "python_cpu_s": round(statistics.median(bare_s), 4),
        "help_over_python": round(statistics.median(help_s) / statistics.median(bare_s), 2),
    }
    print(f"valley --help {figures['help_cpu_s']} s CPU (bar {HELP_BAR_S}); python alone {figures['python_cpu_s']} s")
    parts = []
    for _ in range(1 if "--quick" in sys.argv else 3):
        run = [sys.executable, "-c", PARTS, str(picture)]
        parts.append(json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout))
    best = min(parts, key=lambda part: part["marks"][-1][1])
    previous = 0.0
    for name, cpu, wall in best["marks"]:
        print(f"  {name:<22}{cpu - previous:7.3f} s CPU, {wall:7.3f} s since start")
        previous = cpu
    figures["describe_parts"] = [{"part": n, "cpu_s": round(c, 3), "wall_s": round(w, 3)} for n, c, w in best["marks"]]
    figures["describe_timings"] = {name: round(value, 4) for name, value in best["timings"].items()}
    ok = statistics.median(help_s) < HELP_BAR_S
    finish("startup", figures, {"help_cpu_s": f"< {HELP_BAR_S}"}, ok)


if __name__ == "__main__":
    main()
