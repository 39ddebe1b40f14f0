"""``python -m training.train --out runs/x --minutes 75 [--resume]``: train valley-mini on this machine's cores.

Starts one single-threaded process a core: on a busy machine that beats one process with several threads.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from training.curriculum import CURRICULA
from training.loop import Job, Trainer
from training.tokenizer import Encoder

RENDEZVOUS_LIMIT = timedelta(minutes=20)
KEEP_MEMORY = {  # malloc keeps what it has: the same buffers are needed again at every step
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "200000000",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoint, tokenizer, log")
    parser.add_argument("--curriculum", choices=tuple(CURRICULA), default="first", help="what is taught when")
    parser.add_argument("--minutes", type=float, default=75, help="length of the whole run, restarts included")
    parser.add_argument("--batch", type=int, default=24, help="samples a step and process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with --workers 1 and a larger --batch")
    parser.add_argument("--eager", action="store_true", help="do not compile: half as fast, but no minute of compiling")
    parser.add_argument("--init", type=Path, help="checkpoint.pt of another run: start from its weights")
    return parser.parse_args()


def work(args: argparse.Namespace, rank: int) -> None:
    """One process's share of the run."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if args.workers > 1:
        meeting = f"file://{(args.out / 'rendezvous').resolve()}"
        dist.init_process_group("gloo", meeting, RENDEZVOUS_LIMIT, args.workers, rank)
    job = Job(args.out, args.minutes * 60, args.batch, args.seed, rank, args.workers, CURRICULA[args.curriculum])
    job = replace(job, device=args.device, compiled=not args.eager)
    trainer = Trainer(job)
    if args.resume:
        trainer.restore(args.out / "checkpoint.pt", weights_only=False)
    elif args.init:
        trainer.restore(args.init, weights_only=True)
    trainer.run()
    if args.workers > 1:
        dist.destroy_process_group()


def launch(args: argparse.Namespace) -> int:
    """Start the processes and wait for them; one that fails ends the others."""
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rendezvous").unlink(missing_ok=True)
    if args.init and not args.resume:
        shutil.copy(args.init.with_name("tokenizer.json"), args.out / "tokenizer.json")
    Encoder.load(args.out / "tokenizer.json")
    command = [sys.executable, "-m", "training.train", *sys.argv[1:]]
    environments = [{**os.environ, **KEEP_MEMORY, "TRAINING_RANK": str(rank)} for rank in range(args.workers)]
    processes = [subprocess.Popen(command, env=environment) for environment in environments]
    try:
        return max(process.wait() for process in processes)
    finally:
        for process in processes:
            process.kill()


def main() -> int:
    args = parse()
    rank = os.environ.get("TRAINING_RANK")
    if rank is None:
        return launch(args)
    work(args, int(rank))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
