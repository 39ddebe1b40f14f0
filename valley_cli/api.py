"""The engine's interface: small, and made of frozen values. Standard library only.

with answering(engine, request) as answer:  # leaving the block cancels what is not finished
    for event in answer:
        ...                                 # Stage | TextDelta | ThinkDelta, then exactly one Done
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

Role = Literal["system", "user", "assistant"]
Flavour = Literal["hf", "github"]
FinishReason = Literal["stop", "length", "cancelled"]

PIXELS_PER_TOKEN = 28 * 28  # one merged Qwen2-VL token covers 2x2 patches of 14x14 pixels


@dataclass(frozen=True)
class MediaLimits:
    """Guards on what is fetched or opened (units in the names)."""

    max_image_bytes: int = 50_000_000
    max_video_bytes: int = 2_000_000_000
    max_image_pixels: int = 100_000_000
    max_redirects: int = 3
    connect_timeout_s: float = 5.0
    image_timeout_s: float = 60.0
    video_timeout_s: float = 600.0
    clip_timeout_s: float = 300.0  # to decode a clip's frames, once it is here
    max_clip_pixels: int = 320_000_000  # of all frames of a clip (3 bytes each); beyond, they are kept smaller
    retries: int = 2
    backoff_s: float = 0.5  # before the first retry; doubles each time


@dataclass(frozen=True)
class FrameSelection:
    """Which moments of a clip are looked at; times in seconds from its start.

    Default: ``frames`` of them, uniform as published (``linspace(0, n-1, frames)`` truncated), between ``start_s`` and
    ``end_s``. ``fps``: so many a second instead, at most ``max_frames``. ``at_s``: exactly these moments.
    ``frame_rate``: frames a second of a clip that is given as its pictures.
    """

    frames: int = 8
    fps: float | None = None
    max_frames: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    at_s: tuple[float, ...] = ()
    frame_rate: float = 1.0


@dataclass(frozen=True)
class Media:
    """A handle on a picture or clip that nobody has opened yet.

    ``name`` is safe to print (credentials and control characters removed). Exactly one of ``path``, ``url``, ``data``
    and ``frames`` (a clip that is given as its pictures) is set. ``typed`` is true for sources a person typed: only
    those may reach private addresses. ``selection``: of a clip; None is the published one. ``size_wh``: of a picture,
    in pixels, where it is known; then ``Engine.price`` does not open it.
    """

    name: str
    kind: Literal["image", "video"] = "image"
    path: str | None = None
    url: str | None = field(default=None, repr=False)
    data: bytes | None = field(default=None, repr=False)
    typed: bool = True
    frames: tuple[Media, ...] = ()
    selection: FrameSelection | None = None
    size_wh: tuple[int, int] | None = None


@dataclass(frozen=True)
class Message:
    """One turn. ``media`` attached here put their placeholders in front of this message's text, unless it holds
    ``<image>`` itself: there they stand then.

    ``places``: the characters at which such an ``<image>`` begins, every other one being text; None: each is a place,
    as published.
    """

    role: Role
    content: str
    media: tuple[Media, ...] = ()
    places: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; ``temperature`` 0 is greedy. Applied in the order penalty, temperature, top-k, top-p."""

    max_new_tokens: int | None = None  # None: the model family's own default
    temperature: float = 0.0
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False  # go on to ``max_new_tokens``: for measuring


@dataclass(frozen=True)
class Request:
    """A whole conversation to be continued by one assistant turn.

    ``images`` are pictures and clips without a place: the published rule puts them before the first user message unless
    that message holds ``<image>`` itself. ``think``: True/False is passed to the chat template, None leaves the
    template's own default. ``exact``: do what the published code does and nothing else; text of the messages that reads
    as one of the tokenizer's added tokens then is that token, which it is not otherwise. ``timeout_s``: seconds for
    reading the media, waiting and answering, without the time that loading the model takes; the answer raises
    TimedOutError after that.
    """

    messages: tuple[Message, ...]
    images: tuple[Media, ...] = ()
    sampling: Sampling = Sampling()
    think: bool | None = False
    flavour: Flavour = "hf"
    exact: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    timeout_s: float | None = None


@dataclass(frozen=True)
class EngineOptions:
    """What to run and where; can be pickled. ``model`` is a registered name, a hub id or a folder; ``auto`` picks one.

    ``media_cache_bytes``: memory for media that several requests share. Addresses are then fetched once, so not for
    engines that live longer than what an address shows.
    """

    model: str = "auto"
    engine: str = "local"
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    offline: bool = False
    limits: MediaLimits = MediaLimits()
    media_cache_bytes: int = 0


@dataclass(frozen=True)
class Stage:
    """What a request waits for just now (loading, reading, waiting its turn): ``done``/``total`` in ``unit`` (bytes,
    pictures), if known."""

    name: str
    done: int = 0
    total: int = 0
    unit: str = ""


@dataclass(frozen=True)
class TextDelta:
    """A piece of the answer: never half a character, never part of a stop string."""

    text: str


@dataclass(frozen=True)
class ThinkDelta:
    """A piece of the model's thinking."""

    text: str


@dataclass(frozen=True)
class Usage:
    """Token counts; ``image_tokens`` and ``cached_tokens`` are parts of ``prompt_tokens``."""

    prompt_tokens: int = 0
    image_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Seconds of each stage; ``ttft_s`` runs from ``submit`` to the first token.

    ``media_s``: until the prompt was ready, of which ``fetch_s`` reading bytes and ``decode_media_s`` making tensors of
    them; little or 0 for media that another request had just read. ``wait_s``: in the queue; ``encode_s``: in the
    vision towers; ``decode_s``: from the first token to the last.
    """

    load_s: float = 0.0
    media_s: float = 0.0
    ttft_s: float = 0.0
    decode_s: float = 0.0
    tokens_per_s: float = 0.0
    memory_bytes: int = 0
    fetch_s: float = 0.0
    decode_media_s: float = 0.0
    encode_s: float = 0.0
    wait_s: float = 0.0


@dataclass(frozen=True)
class Done:
    """Always the last event. ``notes``: what a user must know of the media that were read, such as a clip cut off."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    model: str
    token_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


Event = Stage | TextDelta | ThinkDelta | Done
OnStage = Callable[[Stage], None]


def unheard(stage: Stage) -> None:
    """For whoever shows no stages."""


@dataclass(frozen=True)
class PictureCost:
    """What one picture costs: pixel size (w, h) as read, tiles for SigLIP, patch grid (h, w), tokens in the prompt."""

    name: str
    size_wh: tuple[int, int]
    tiles: int
    grid_hw: tuple[int, int]
    tokens: int


@dataclass(frozen=True)
class Cost:
    """What a request would take, without running the model. Memory in bytes."""

    model: str
    pictures: tuple[PictureCost, ...]
    prompt_tokens: int
    image_tokens: int
    max_new_tokens: int
    context_tokens: int
    kv_bytes: int
    weight_bytes: int
    decoder_bytes: int  # the part of the weights that is read for every token
    available_bytes: int

    @property
    def fits(self) -> bool:
        """True if the context has room for an answer and the device for weights and cache."""
        return self.max_new_tokens > 0 and self.kv_bytes + self.weight_bytes <= self.available_bytes


@dataclass(frozen=True)
class About:
    """What an engine is. ``name``: the model that answers. ``notice``: what a user must know about its answers.

    ``can``: what not every engine can: "exact" (``Request.exact``), "price", "video", "think".
    """

    name: str
    notice: str | None = None
    context_tokens: int | None = None
    can: frozenset[str] = frozenset()


class Answer(Protocol):
    """One request under way. Iterated once, by one thread; a ValleyError may be raised in the place of any event."""

    def __iter__(self) -> Iterator[Event]: ...

    def cancel(self) -> None:
        """Stop working on it, from any thread and at any moment; the iterator then ends soon with ``cancelled``.
        Nothing happens where it has ended."""
        ...


class Engine(Protocol):
    """What commands and servers talk to."""

    @property
    def about(self) -> About: ...

    def submit(self, request: Request) -> Answer:
        """Begin to answer ``request``; returns at once. What is wrong with it, the answer raises."""
        ...

    def price(self, request: Request) -> Cost | None:
        """What ``request`` would take, without generating; None where this engine cannot tell. Raises as its answer
        would for unreadable sources."""
        ...

    def load(self, on_stage: OnStage = unheard) -> None:
        """Begin to load, where that is not done at the first request; ``on_stage`` hears of it, on any thread."""
        ...

    def close(self) -> None:
        """Free the device; running requests end with ``cancelled``."""
        ...


@contextmanager
def answering(engine: Engine, request: Request) -> Iterator[Answer]:
    """The answer to ``request``, cancelled when the block is left before its end."""
    answer = engine.submit(request)
    try:
        yield answer
    finally:
        answer.cancel()
