"""A model family that is not ours, in this one file: what it takes to add one, and that it answers through the engine.

The toy spells: its tokens are bytes, its pictures are one token that stands for their mean colour, and its decoder is
made of our layers with random weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.answers import generate, price
from tests.conftest import IMAGES, VALLEY25
from valley_cli.api import Done, EngineOptions, Media, Message, OnStage, PictureCost, Request, Sampling, unheard
from valley_cli.engine import families, open_engine
from valley_cli.engine.checkpoint.mapped import MappedTensors
from valley_cli.engine.families.base import MediaUnit, Prepared, PromptPlan, Unit
from valley_cli.engine.hub.registry import ModelInfo
from valley_cli.engine.layers.config import TextConfig
from valley_cli.engine.layers.decoder import DecoderLayer
from valley_cli.engine.layers.fused import DecoderParts
from valley_cli.media.request import MediaReader, Reading, ReadTimings, Source

TEXT = TextConfig(
    vocab_size=257,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    rms_norm_eps=1e-6,
    rope_theta=10_000.0,
    max_position_embeddings=512,
    qkv_bias=False,
    qk_norm=True,
    tie_word_embeddings=True,
)
END = 256


@dataclass(frozen=True)
class Colour:
    """A picture's mean colour, for the encoder."""

    key: str
    rgb: tuple[float, ...]
    n_patches: int = 1


@dataclass(frozen=True, kw_only=True)
class ToyPlan(PromptPlan):
    sources: tuple[Source, ...]
    text: bytes


@dataclass(frozen=True)
class ToyModel:
    folder: Path
    eos_ids: frozenset[int] = frozenset([END])
    context_tokens: int = TEXT.max_position_embeddings
    notice: str | None = "a toy"
    can: frozenset[str] = frozenset(["price"])
    n_values: int = 30_000
    n_decoder_values: int = 20_000
    cached_values: int = 2 * 2 * 16
    weight_bytes: int = 120_000
    stored_dtype: str = "float32"

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < END else b""

    def hidden_ids(self, exact: bool) -> set[int]:
        return {END}

    def with_defaults(self, request: Request) -> Request:
        return request

    def plan(self, request: Request, media: MediaReader, timings: ReadTimings, *, pixels: bool = True) -> ToyPlan:
        with ExitStack() as clips:
            reading = Reading(request, media, timings, clips)
            sources = tuple(reading.sources([item for message in request.messages for item in message.media]))
        text = "".join(message.content for message in request.messages).encode()
        costs = tuple(PictureCost(source.name, source.size_wh, 0, (1, 1), 1) for source in sources)
        return ToyPlan(costs=costs, prompt_tokens=len(sources) + len(text), sources=sources, text=text)

    def prepare(
        self, plan: ToyPlan, media: MediaReader, timings: ReadTimings, begin: Callable[[], object] = lambda: None
    ) -> Prepared:
        items = []
        for source in plan.sources:
            pixel = source.image().resize((1, 1)).getpixel((0, 0))
            assert isinstance(pixel, tuple)
            items.append(Colour(str(pixel), pixel))
        units: tuple[Unit, ...] = (*(MediaUnit(item.key, 1) for item in items), *plan.text)
        return Prepared(units, tuple(items), plan.prompt_tokens)

    def build(self, device: torch.device, dtype: torch.dtype, on_stage: OnStage = unheard) -> tuple[Toy, MappedTensors]:
        return Toy().to(device, dtype).eval().requires_grad_(False), MappedTensors({}, ())


class Toy(nn.Module):
    """Random weights, always the same ones."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.embed_tokens = nn.Embedding(TEXT.vocab_size, TEXT.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(TEXT) for _ in range(TEXT.num_hidden_layers))
        self.norm = nn.Parameter(torch.ones(TEXT.hidden_size))
        self.colours = nn.Linear(3, TEXT.hidden_size)
        for parameter in self.parameters():  # our layers come without values of their own
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.3, generator=generator)
            else:
                parameter.data.fill_(1.0)

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def embedding(self) -> Tensor:
        return self.embed_tokens.weight

    @property
    def decoder(self) -> DecoderParts:
        return DecoderParts(TEXT, self.layers, self.norm, self.embedding, None)

    def encode(self, items: Sequence[Colour]) -> list[Tensor]:
        return [self.colours(torch.tensor([item.rgb]) / 255) for item in items]

    def embed(self, units: Sequence[Unit], rows: Sequence[Tensor]) -> Tensor:
        left = iter(rows)
        return torch.cat(
            [self.embed_tokens(torch.tensor([unit])) if isinstance(unit, int) else next(left) for unit in units]
        )


def claims(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "toy"


def open_checkpoint(folder: Path, info: ModelInfo | None) -> ToyModel:
    return ToyModel(folder)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    """A folder that only the toy family can open."""
    monkeypatch.setattr(families, "FAMILIES", [__name__, *families.FAMILIES])
    assert sys.modules[__name__].claims is claims
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "toy"}))
    save = tmp_path / "model.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    save.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (tmp_path / "tokenizer.json").write_text("{}")  # every checkpoint has one; the toy reads bytes
    return EngineOptions(model=str(tmp_path), device="cpu")


def test_a_family_in_one_file_answers_through_the_engine(toy: EngineOptions) -> None:
    picture = Media("m0", path=str(IMAGES / "m0_64x64.png"))
    request = Request((Message("user", "spell", (picture,)),), sampling=Sampling(max_new_tokens=12))
    found = []
    for _ in range(2):
        with closing(open_engine(toy)) as engine:
            assert engine.about.notice == "a toy"
            assert price(engine, request).prompt_tokens == 1 + len("spell")
            for _ in range(2):
                *_, done = generate(engine, request)
                assert isinstance(done, Done)
                found.append(done.token_ids)
    assert len(set(found)) == 1
    assert found[0]


def test_pictures_count_for_it_and_other_folders_stay_valley_s(toy: EngineOptions) -> None:
    answers = set()
    with closing(open_engine(toy)) as engine:
        for name in ("m0_64x64.png", "m1_120x80.png", "m2_100x100.png", "m4_200x60.png"):
            if (IMAGES / name).exists():
                media = Media(name, path=str(IMAGES / name))
                request = Request((Message("user", "?", (media,)),), sampling=Sampling(max_new_tokens=12))
                *_, done = generate(engine, request)
                assert isinstance(done, Done)
                answers.add(done.token_ids)
    assert len(answers) > 1
    with closing(open_engine(EngineOptions(model=str(VALLEY25), device="cpu"))) as engine:
        assert engine.about.notice != "a toy"
