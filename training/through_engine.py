"""Questions answered by the program itself: encoded pictures in, text out, as a user would meet it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from training.exam import Item
from valley_cli.api import Engine, EngineOptions, Media, Message, Request, Sampling, TextDelta
from valley_cli.engine import open_engine

MAX_NEW_TOKENS = 160
AT_ONCE = 16  # requests that the engine works on together


def as_png(image: Image.Image, name: str) -> Media:
    """A picture as the bytes of a PNG file (lossless)."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return Media(name, data=buffer.getvalue())


def conversation(item: Item) -> tuple[Message, ...]:
    """The item's turns, each with its pictures; answers before the last question are the right ones."""
    media = [as_png(image, f"picture {number}") for number, image in enumerate(item.images(), 1)]
    messages = [Message("system", item.system)] if item.system else []
    for number, (question, pictures) in enumerate(zip(item.asked, item.attached, strict=True), 1):
        messages.append(Message("user", question.text, tuple(media[:pictures])))
        del media[:pictures]
        if number < len(item.asked):
            messages.append(Message("assistant", question.answer))
    return tuple(messages)


def ask_engine(engine: Engine, item: Item) -> str:
    """The greedy answer to an item's last question."""
    request = Request(conversation(item), sampling=Sampling(max_new_tokens=MAX_NEW_TOKENS))
    return "".join(event.text for event in engine.submit(request) if isinstance(event, TextDelta))


def answers(folder: Path, items: Sequence[Item]) -> list[str]:
    """The engine's answers, in order; requests run beside each other."""
    engine = open_engine(EngineOptions(model=str(folder), device="cpu"))
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda item: ask_engine(engine, item), items))
    finally:
        engine.close()
