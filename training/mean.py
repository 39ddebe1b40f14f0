"""``python -m training.mean OUT RUN=SHARE...``: a run folder whose weights are a mean of other runs' weights.

Works for runs that started from each other's weights: their mean is often better than each, as each forgot something.
The heads of the dense labels are the last run's. The folder can start a run (``--init``) or be exported.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch


def mean(out: Path, shares: dict[Path, float]) -> None:
    """Write the folder. Raises ValueError for shares that do not add up to 1."""
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError("the shares must add up to 1")
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in shares]
    weights = [state.get("mean", state["model"]) for state in states]
    pairs = list(zip(shares.values(), weights, strict=True))
    names = weights[0]
    mixed = {name: torch.stack([share * found[name] for share, found in pairs]).sum(0) for name in names}
    out.mkdir(parents=True, exist_ok=True)
    last = {key: value for key, value in states[-1].items() if key not in ("mean", "optimizers")}
    said = ", ".join(f"{share:.3g} {run.name}" for run, share in shares.items())
    torch.save(last | {"model": mixed, "shares": said}, out / "checkpoint.pt")
    shutil.copy(list(shares)[-1] / "tokenizer.json", out / "tokenizer.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.mean", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("runs", nargs="+", metavar="RUN=SHARE", help="run folders, the newest last")
    args = parser.parse_args()
    pairs = [run.rsplit("=", 1) for run in args.runs]
    mean(args.out, {Path(run): float(share) for run, share in pairs})


if __name__ == "__main__":
    main()
