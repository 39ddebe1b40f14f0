"""``python -m training.train --out runs/mini``: make a model of valley-mini's kind from nothing.

Trains for --minutes, then writes OUT/valley-mini, a folder that ``valley -m`` opens, asks it the exam and puts the
scores into its card. One single-threaded process a core trains: that beats one process with several threads.
"""

from __future__ import annotations

import argparse
import os
import signal
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from training.evaluate import table
from training.folder import export, write_card
from training.loop import Job, Trainer

RENDEZVOUS_LIMIT = timedelta(minutes=20)
KEEP_MEMORY = {  # malloc of the processes keeps what it has: the same buffers are needed again at every step
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "200000000",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoint, log, model")
    parser.add_argument("--minutes", type=float, default=240, help="length of the training, restarts included")
    parser.add_argument("--batch", type=int, default=24, help="samples a step and process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--per-kind", type=int, default=10, help="exam questions of every kind, at most")
    args = parser.parse_args()
    if args.resume != (args.out / "checkpoint.pt").is_file():
        parser.error(f"{args.out} holds {'no run' if args.resume else 'a run: give --resume or another --out'}")
    return args


def work(rank: int, args: argparse.Namespace) -> None:
    """One process's share of the run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # sent when the command is killed, and ignored behind a script's `&`
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if args.workers > 1:
        meeting = f"file://{(args.out / 'rendezvous').resolve()}"
        dist.init_process_group("gloo", meeting, RENDEZVOUS_LIMIT, args.workers, rank)
    trainer = Trainer(Job(args.out, args.minutes * 60, args.batch, args.seed, rank, args.workers))
    if args.resume:
        trainer.restore(args.out / "checkpoint.pt")
    trainer.run()
    if args.workers > 1:
        dist.destroy_process_group()


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rendezvous").unlink(missing_ok=True)
    os.environ.update(KEEP_MEMORY)
    spawn(work, (args,), args.workers)  # type: ignore[no-untyped-call]
    folder = args.out / "valley-mini"
    export(args.out, folder)
    write_card(folder, table(folder, args.per_kind))
    print(f"made {folder}")


if __name__ == "__main__":
    main()
