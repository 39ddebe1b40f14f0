"""What every benchmark says at its end: the machine, the versions, the commit, and one RESULT line."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "transformers", "typer", "pillow", "numpy")


def machine() -> dict[str, Any]:
    """Processor, cores and system."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": len(names) or None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


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

    What --quick or --rehearse gave is not kept. A card's name is told where figures are a card's.
    """
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
