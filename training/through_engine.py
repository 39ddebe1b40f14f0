"""Questions answered by the program itself: encoded pictures in, text out, as a user would meet it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from PIL import Image

from training.exam import Item
from valley_cli.engine import open_engine
from valley_cli.engine.base import Engine, EngineOptions, Media, Message, Request, Sampling, TextDelta

MAX_NEW_TOKENS = 128


def as_png(image: Image.Image, name: str) -> Media:
    """A picture as the bytes of a PNG file (lossless)."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Media(name, data=buffer.getvalue())


def ask_engine(engine: Engine, images: Sequence[Image.Image], question: str) -> str:
    """The greedy answer to a question about pictures."""
    media = tuple(as_png(image, f"picture {number}") for number, image in enumerate(images, 1))
    request = Request((Message("user", question),), media, Sampling(max_new_tokens=MAX_NEW_TOKENS))
    return "".join(event.text for event in engine.generate(request) if isinstance(event, TextDelta))


def answers(folder: Path, items: Sequence[Item], pool: Executor) -> list[str]:
    """The engine's answers, in order; requests run beside each other on ``pool``."""
    engine = open_engine(EngineOptions(model=str(folder), device="cpu"))
    try:
        return list(pool.map(lambda item: ask_engine(engine, item.images(), item.question.text), items))
    finally:
        engine.close()
