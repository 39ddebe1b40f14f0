"""``valley bench``: how fast a model runs here, measured through the engine's own door."""

from __future__ import annotations

import random
import statistics
import struct
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cache
from itertools import count, islice
from typing import Annotated

import typer

from valley_cli.api import Cost, Done, Engine, Media, Message, Request, Sampling, Stage
from valley_cli.commands.shared import options as opt
from valley_cli.engine import open_engine
from valley_cli.errors import UsageError
from valley_cli.settings import Settings
from valley_cli.terminal.render import Renderer, StatusLine, size_text

app = typer.Typer(rich_markup_mode=None, add_completion=False)
BATCHES = (4, 16)
PICTURE_WH = (1000, 700)

Tokens = Annotated[int, typer.Option("--tokens", min=2, max=100_000, help="Length of each measured answer.")]


@dataclass(frozen=True)
class Figures:
    """What is measured. ``bandwidth_share``: bytes of the decoder's weights, and of keys and
    values, read each second over a plain read's; None where the engine cannot tell."""

    model: str
    load_s: float
    first_token_s: float
    prompt_tokens: int
    pictures_per_s: float
    tokens_per_s: float
    batch_tokens_per_s: dict[str, float]
    bandwidth_bytes_per_s: float
    bandwidth_share: float | None
    memory_bytes: int


@app.command()
@opt.with_settings(opt.pick("model", *opt.ENGINE, "json", "quiet", "verbose", "log", "debug"))
def bench(
    settings: Settings,
    tokens: Tokens = 128,
) -> None:
    """Measure a model on this machine: first token, tokens and pictures per second, memory."""
    run(settings, tokens)


def run(settings: Settings, tokens: int) -> None:
    """Measure and print."""
    status = StatusLine(sys.stderr, quiet=settings.quiet, verbose=settings.verbose)
    with closing(open_engine(settings.engine_options(), status.stage)) as engine:
        figures = measure(engine, tokens, settings.device, status)
    status.close()
    renderer = Renderer(sys.stdout, status, settings.json)
    if settings.json:
        renderer.write_json(asdict(figures))
    else:
        renderer.write(table(figures, tokens))


def measure(engine: Engine, tokens: int, device: str, status: StatusLine) -> Figures:
    """Five short runs, one after the other; the first one loads the model."""
    from valley_cli.engine.device import probe

    cost = engine.price(request(1, tokens))
    if cost and (room := cost.max_new_tokens) < tokens:
        raise UsageError(
            f"--tokens {tokens} does not fit the context beside the picture", f"give {max(room, 2)} at most"
        )
    engine.load(status.stage)
    loaded = ask(engine, 1, 2)
    status.stage(Stage("measuring the first token"))
    firsts = [ask(engine, seed, 1) for seed in (2, 3, 4)]
    status.stage(Stage("measuring pictures"))
    pictures_s = seconds(engine, range(10, 14), 1)
    status.stage(Stage("measuring one answer"))
    single = max((ask(engine, seed, tokens) for seed in (20, 21)), key=lambda done: done.timings.tokens_per_s)
    batches = {}
    unseen = count(100)  # pictures that no earlier request had: none of their prompts is in the cache
    for size in BATCHES:
        status.stage(Stage(f"measuring {size} answers at once"))
        runs = 2 if probe.runs_on_cuda(device) else 1  # the first one there chooses kernels and records steps
        best_s = min(seconds(engine, islice(unseen, size), tokens) for _ in range(runs))
        batches[str(size)] = round(size * tokens / best_s, 1)
    status.stage(Stage("measuring the memory"))
    bandwidth = probe.read_bandwidth(device)
    cost = engine.price(request(5, tokens))
    share = single.timings.tokens_per_s * read_per_token(cost) / bandwidth if cost else None
    return Figures(
        model=single.model,
        load_s=round(loaded.timings.load_s, 3),
        first_token_s=round(statistics.median(done.timings.ttft_s for done in firsts), 4),
        prompt_tokens=firsts[0].usage.prompt_tokens,
        pictures_per_s=round(4 / pictures_s, 2),
        tokens_per_s=round(single.timings.tokens_per_s, 1),
        batch_tokens_per_s=batches,
        bandwidth_bytes_per_s=round(bandwidth),
        bandwidth_share=None if share is None else round(share, 3),
        memory_bytes=single.timings.memory_bytes,
    )


def read_per_token(cost: Cost) -> float:
    """Bytes that a token in the middle of an answer reads: the decoder's weights, and keys and values so far."""
    whole = cost.prompt_tokens + cost.max_new_tokens
    return cost.decoder_bytes + cost.kv_bytes * (cost.prompt_tokens + cost.max_new_tokens / 2) / whole


def request(seed: int, tokens: int) -> Request:
    """A question about a picture of noise; equal seeds, equal pictures."""
    picture = Media(f"noise {seed}", data=noise(seed))
    sampling = Sampling(max_new_tokens=tokens, ignore_eos=True)
    return Request((Message("user", "Describe the given image.", (picture,)),), sampling=sampling)


def ask(engine: Engine, seed: int, tokens: int) -> Done:
    """One whole answer."""
    *_, done = engine.submit(request(seed, tokens))
    assert isinstance(done, Done)
    return done


def seconds(engine: Engine, seeds: Iterable[int], tokens: int) -> float:
    """How long it takes to answer about all of ``seeds`` at once."""
    wanted = list(seeds)
    for seed in wanted:
        noise(seed)
    start = time.perf_counter()
    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(lambda seed: ask(engine, seed, tokens), wanted))
    return time.perf_counter() - start


@cache
def noise(seed: int) -> bytes:
    """A BMP picture of random pixels: 24 bits, rows of a multiple of four bytes."""
    width, height = PICTURE_WH
    pixels = random.Random(seed).randbytes(width * height * 3)
    file_header = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54)
    info_header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    return file_header + info_header + pixels


def table(figures: Figures, tokens: int) -> str:
    """A line a figure."""
    width, height = PICTURE_WH
    lines = {
        "model": figures.model,
        "loading": f"{figures.load_s:.2f} s",
        "first token": f"{figures.first_token_s:.3f} s after a picture of {width}x{height}, "
        f"{figures.prompt_tokens} tokens",
        "pictures": f"{figures.pictures_per_s:.2f} a second",
        "one answer": f"{figures.tokens_per_s:.1f} tokens/s over {tokens} tokens",
        **{
            f"{size} at once": f"{value:.1f} tokens/s in all, prompts included"
            for size, value in figures.batch_tokens_per_s.items()
        },
        "memory bus": bus_text(figures),
        "memory": size_text(figures.memory_bytes),
    }
    return "".join(f"{name:<12}{text}\n" for name, text in lines.items())


def bus_text(figures: Figures) -> str:
    """How much of the memory bus an answer uses."""
    plain = f"a plain read's {figures.bandwidth_bytes_per_s / 1e9:.1f} GB/s"
    return plain if figures.bandwidth_share is None else f"{100 * figures.bandwidth_share:.0f} % of {plain}"
