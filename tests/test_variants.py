"""Configurations no published checkpoint has today, and rows that break: counts stay right, neighbours stay well."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.answers import generate, plan_of, prepared_of, price
from tests.conftest import IMAGES, VALLEY2, VALLEY25
from valley_cli.api import EngineOptions, Media, Message, Request, Sampling
from valley_cli.engine.families.valley.opened import CheckpointFiles, read_checkpoint
from valley_cli.engine.families.valley.preprocess import PreprocessOptions, preprocess
from valley_cli.engine.families.valley.prompt import place_pictures
from valley_cli.engine.local import LocalEngine
from valley_cli.engine.run.kvcache import KVCache
from valley_cli.engine.run.sampler import make_sampler_state, sample
from valley_cli.engine.run.worker import Worker
from valley_cli.engine.schedule.slots import Slot
from valley_cli.errors import ModelError, PromptError

LAND, SMALL = (Media(name, path=str(IMAGES / name)) for name in ("land_320x240.png", "m0_64x64.png"))


def pixel_shuffle(folder: Path) -> Path:
    """valley2-tiny with the mlp_pixel_shuffle projector, 81 rows a tile."""
    shutil.copytree(VALLEY2, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.mm_projector.")}
    for name, shape in {"0.weight": (32, 432), "0.bias": (32,), "2.weight": (64, 32), "2.bias": (64,)}.items():
        tensors[f"model.mm_projector.mlp.{name}"] = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"mm_projector_type": "mlp_pixel_shuffle", "num_patches_per_side": 9}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "overrides",
    [
        {"eagle_vision_tower": None},
        {"eagle_vision_tower": None, "max_vision_token": 150},
        {"max_vision_token": 400},
        {"max_vision_token": None},
        {"tokenizer_model_max_length": 300},
        {"tokenize_function": "st_argmax"},
    ],
    ids=str,
)
@pytest.mark.parametrize("pictures", [(LAND,), (LAND, SMALL)], ids=["one", "two"])
def test_what_is_counted_is_what_is_merged(overrides: dict[str, Any], pictures: tuple[Media, ...]) -> None:
    check_count(read_checkpoint(VALLEY2, overrides), pictures)


def test_a_pixel_shuffled_picture_is_counted_as_merged(tmp_path: Path) -> None:
    files = read_checkpoint(pixel_shuffle(tmp_path / "shuffled"))
    # base 9 x 9; a 320x240 picture takes 7 of the padded tile's 9 rows (27 x 240 / 320 = 6.75, cut evenly); ViT 9 x 11
    assert check_count(files, (LAND,)) == 81 + 7 * 9 + 99


def check_count(files: CheckpointFiles, pictures: tuple[Media, ...]) -> int:
    """Image tokens; raises if the priced prompt is not the one that the decoder reads."""
    from valley_cli.engine.run.runner import load_runner

    request = Request((Message("user", "What?"),), images=pictures)
    plan = plan_of(files, request)
    prepared = prepared_of(files, plan)
    merged = load_runner(files, "cpu", "float32").embed_prompt(prepared.units, prepared.items, prepared.prompt_tokens)
    merged_whole = len(load_runner(files, "cpu", "float32").embed_prompt(prepared.units, prepared.items))
    assert prepared.prompt_tokens in (merged_whole, files.config.tokenizer_model_max_length)
    assert len(merged) == plan.prompt_tokens
    return plan.image_tokens


def test_the_github_flavour_reads_its_options_from_config_json() -> None:
    request = Request((Message("user", "What?"),), images=(LAND, SMALL), flavour="github")
    for overrides, tiles, wrapped in (
        ({}, True, True),
        ({"anyres": False, "use_special_start_end_token": False}, False, False),
    ):
        files = read_checkpoint(VALLEY2, overrides)
        layout = plan_of(files, request)
        assert all((plan.n_tiles > 1) == tiles for plan in layout.plans)
        assert ("<im_start>" in layout.prompt.text) == wrapped


def test_a_picture_three_pixels_high_is_scrambled_only_as_published() -> None:
    image = Image.effect_noise((50, 3), 90).convert("RGB")
    image.putpixel((0, 0), (255, 0, 0))
    right = preprocess(image, 2, PreprocessOptions()).tiles
    published = preprocess(image, 2, PreprocessOptions(as_published=True)).tiles
    assert right is not None
    assert published is not None
    assert right.shape == published.shape
    assert abs(right - published).max() > 0.1


def test_a_placeholder_that_the_template_drops_needs_no_picture() -> None:
    files = read_checkpoint(VALLEY25)
    engine = LocalEngine(files, "tiny", EngineOptions(device="cpu"))
    history = (
        Message("user", "<image> What?"),
        Message("assistant", "<think>x <image> y</think>ok"),
        Message("user", "And?"),
    )
    assert len(price(engine, Request(history, images=(SMALL,))).pictures) == 1
    with pytest.raises(PromptError, match="0 pictures"):
        price(engine, Request(history))


def test_a_system_prompt_of_none_is_the_default_one() -> None:
    turns = place_pictures([Message("system", None), Message("user", "x")], [0, 0], 0)  # type: ignore[arg-type]
    assert turns[0]["content"] == "You are a helpful assistant."


def test_text_that_is_not_unicode_is_a_prompt_error() -> None:
    engine = LocalEngine(read_checkpoint(VALLEY25), "tiny", EngineOptions(device="cpu"))
    with pytest.raises(PromptError, match="UTF-8"):
        price(engine, Request((Message("user", "hi \udcff"),)))


@pytest.mark.parametrize(("key", "value"), [("hidden_act", "gelu"), ("rope_parameters", {"rope_type": "yarn"})])
def test_a_config_that_asks_for_other_arithmetic_is_refused(key: str, value: object) -> None:
    with pytest.raises(ModelError):
        read_checkpoint(VALLEY2, {key: value})


def test_untied_weights_without_a_head_are_missing_it(tmp_path: Path) -> None:
    from valley_cli.engine.families.valley.weights import load_model

    folder = Path(shutil.copytree(VALLEY25, tmp_path / "headless"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"missing: lm_head\.weight"):
        load_model(read_checkpoint(folder), torch.device("cpu"), torch.float32)
    tied = load_model(read_checkpoint(folder, {"tie_word_embeddings": True}), torch.device("cpu"), torch.float32)
    assert tied.logits(torch.zeros(1, 64)).shape == (1, 928)


def test_a_very_cold_sample_is_the_likeliest_token() -> None:
    sampler = make_sampler_state(Sampling(temperature=1e-40, seed=0), (), 3, torch.device("cpu"))
    assert sample(torch.tensor([[1.0, 3.0, 2.0]]), [sampler]).tolist() == [1]


def test_what_a_segment_held_before_does_not_reach_its_neighbours() -> None:
    config = read_checkpoint(VALLEY25).config.text
    cache = KVCache(config, torch.device("cpu"), torch.float32)
    cache.resize(128)
    slots = Slot(0, 64), Slot(64, 64)

    def read(slot: Slot, tokens: int, value: float) -> None:
        heads = config.num_attention_heads, config.num_key_value_heads
        q, k = (torch.full((1, n, tokens, config.head_dim), value) for n in heads)
        for layer in range(config.num_hidden_layers):
            cache.prefill(slot, 0)(layer, q, k, k)

    read(Slot(0, 128), 100, torch.nan)
    for slot, tokens in zip(slots, (2, 5), strict=True):
        cache.attach_slot(slot, 0)
        read(slot, tokens, 1.0)
    q, k = (torch.ones(2, n, 1, config.head_dim) for n in (config.num_attention_heads, config.num_key_value_heads))
    for layer in range(config.num_hidden_layers):
        assert cache.decode(slots, [2, 5])(layer, q, k, k).isfinite().all()


class BreakingRunner:
    """Loads, then fails in the way it is told to: what the worker does with a runner that breaks."""

    memory_bytes = 0
    device = torch.device("cpu")

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def cache_tokens(self, rows: int) -> int:
        return 10_000

    def resize(self, *args: object) -> None:
        pass

    attach_slot = resize

    def embed_prompts(self, *args: object) -> None:
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("odd"), KeyboardInterrupt()], ids=["error", "base exception"])
def test_no_caller_waits_for_ever(error: BaseException) -> None:
    files = read_checkpoint(VALLEY25)
    engine = LocalEngine(files, "tiny", EngineOptions(device="cpu"))
    load: Callable[..., Any] = lambda _: BreakingRunner(error)  # noqa: E731
    engine._worker = Worker(load)
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            next(generate(engine, Request((Message("user", "x"),), sampling=Sampling(max_new_tokens=2))))
        except BaseException as found:
            caught.append(found)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert [type(found) for found in caught] == [type(error)] * 3
    engine.close()
