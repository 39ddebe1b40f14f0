"""What every benchmark says at its end: the machine, the versions, the commit, and one RESULT line."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "neon", "bf16", "sve")  # those that products depend on
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS")  # variables that make less of a processor
PACKAGES = ("torch", "transformers", "typer", "pillow", "numpy")


def machine() -> dict[str, Any]:
    """Processor, what it can do, cores and system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.lower().startswith(("flags", "features"))), [])
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "limited by": {name: os.environ[name] for name in LIMITS if name in os.environ},
        "cores": len(names) or os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def show_machine() -> None:
    """Print it, before the first figure."""
    print(*(f"{name}: {value}" for name, value in machine().items()), sep=", ", flush=True)


def status_bytes(field: str) -> int:
    """A line of this process's /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def card() -> str:
    """Name and memory of the CUDA card."""
    import torch

    found = torch.cuda.get_device_properties(0)
    return f"{found.name}, {found.total_memory / 1e9:.0f} GB"


def versions() -> dict[str, str]:
    """Of the packages that decide speed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit measured, with ``+`` where the tree differs from it."""
    try:
        run = ["git", "-C", str(ROOT)]
        head = subprocess.run([*run, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*run, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def finish(name: str, figures: dict[str, Any], bars: dict[str, str], ok: bool) -> None:
    """Print the RESULT line, keep it under ``results/``, and end with 0 if the bars are met.

    What --quick or --rehearse gave is not kept; what a processor gave that was made less of, under a name of its own.
    A card's name is told where figures are a card's.
    """
    if machine()["limited by"]:
        name += "-limited"
    result = {
        "benchmark": name,
        "figures": figures,
        "bars": bars,
        "ok": ok,
        "machine": machine() | ({"card": card()} if "cuda" in sys.argv else {}),
        "versions": versions(),
        "commit": commit(),
    }
    if not {"--quick", "--rehearse"} & set(sys.argv):
        folder = ROOT / "benchmarks" / "results"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("RESULT " + json.dumps(result))
    sys.exit(0 if ok else 1)
