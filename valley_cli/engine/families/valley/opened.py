"""A checkpoint's small files and tensor headers, read without torch: enough to preprocess, prompt and price."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valley_cli.api import OnStage, Request, unheard
from valley_cli.engine.checkpoint.headers import DTYPE_BYTES, TensorInfo, tensor_index
from valley_cli.engine.checkpoint.tokenizer import TextTokenizer, load_tokenizer, read_json
from valley_cli.engine.families.base import Prepared
from valley_cli.engine.families.valley.config import ValleyConfig, is_unused, read_config
from valley_cli.engine.families.valley.prepare import Preparer, ValleyPlan
from valley_cli.engine.families.valley.preprocess import PreprocessOptions, options_from_files
from valley_cli.engine.families.valley.prompt import PromptBuilder
from valley_cli.engine.hub.registry import ModelInfo, family_info
from valley_cli.errors import ModelError, WeightsError
from valley_cli.media.request import MediaReader, ReadTimings
from valley_cli.text import printable

if TYPE_CHECKING:
    import torch

    from valley_cli.engine.checkpoint.mapped import MappedTensors
    from valley_cli.engine.families.valley.model import Valley

END_OF_TURN_TOKEN = "<|im_end|>"


@dataclass(frozen=True)
class CheckpointFiles:
    """Everything about a checkpoint but the tensors themselves: this family's ``base.Model``.

    ``info`` None: not one of the published models, or the bare published processor is wanted.
    """

    folder: Path
    config: ValleyConfig
    preprocess: PreprocessOptions
    tokenizer: TextTokenizer
    tensors: Mapping[str, TensorInfo]
    eos_ids: frozenset[int]
    info: ModelInfo | None = None

    @property
    def context_tokens(self) -> int:
        return self.config.text.max_position_embeddings

    @property
    def notice(self) -> str | None:
        return self.info.notice if self.info else None

    @property
    def can(self) -> frozenset[str]:
        thinks = self.info is None or self.info.think_system_prompt is not None
        return frozenset(["exact", "price", "video", *(["think"] if thinks else [])])

    @property
    def stored_dtype(self) -> str:
        return self.config.dtype

    @property
    def cached_values(self) -> int:
        text = self.config.text
        return 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim

    @property
    def token_bytes(self) -> Callable[[int], bytes]:
        return self.tokenizer.token_bytes

    def hidden_ids(self, exact: bool) -> set[int]:
        """See ``base.Model``."""
        end_of_turn = self.tokenizer.token_id(END_OF_TURN_TOKEN)
        return {token for token in (end_of_turn, *(() if exact else self.eos_ids)) if token is not None}

    def with_defaults(self, request: Request) -> Request:
        """See ``base.Model``."""
        return Preparer(self).with_defaults(request)

    def plan(self, request: Request, media: MediaReader, timings: ReadTimings, *, pixels: bool = True) -> ValleyPlan:
        """See ``base.Model``."""
        return Preparer(self).plan(request, media, timings, pixels=pixels)

    def prepare(
        self, plan: ValleyPlan, media: MediaReader, timings: ReadTimings, begin: Callable[[], object] = lambda: None
    ) -> Prepared:
        """See ``base.Model``."""
        return Preparer(self).prepare(plan, media, timings, begin)

    def build(
        self, device: torch.device, dtype: torch.dtype, on_stage: OnStage = unheard
    ) -> tuple[Valley, MappedTensors]:
        """See ``base.Model``. Raises WeightsError."""
        from valley_cli.engine.families.valley.weights import map_model

        return map_model(self, device, dtype, on_stage)

    @cached_property
    def prompts(self) -> PromptBuilder:
        return PromptBuilder(self.tokenizer)

    @property
    def n_values(self) -> int:
        """Values in all tensors."""
        return sum(info.n_values for info in self.tensors.values())

    @property
    def n_decoder_values(self) -> int:
        """Values read for every token: layers, final norm and head (the embeddings where they are tied)."""
        head = "model.embed_tokens.weight" if self.config.text.tie_word_embeddings else "lm_head.weight"
        parts = ("model.layers.", "model.norm.", head)
        return sum(info.n_values for name, info in self.tensors.items() if name.startswith(parts))

    @property
    def weight_bytes(self) -> int:
        """Bytes on disk of all tensors."""
        return sum(info.n_bytes for info in self.tensors.values())


def claims(config: Mapping[str, Any]) -> bool:
    """Whatever no other family takes: the published configurations do not all name themselves."""
    return True


def open_checkpoint(folder: Path, info: ModelInfo | None) -> CheckpointFiles:
    """See ``read_checkpoint``; ``info`` None: that of the family."""
    files = read_checkpoint(folder)
    return replace(files, info=info or family_info(files.config.family))


def read_checkpoint(folder: Path, config_overrides: Mapping[str, Any] | None = None) -> CheckpointFiles:
    """Read the small files of ``folder``; ``config_overrides`` replace values of config.json.

    Raises ModelError for a folder that is no Valley checkpoint, WeightsError for weight files that are damaged or hold
    types that cannot be computed with.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json", "give the folder that holds config.json and *.safetensors")
    raw = read_json(folder / "config.json") | dict(config_overrides or {})
    tensors = tensor_index(folder)
    config = read_config(raw, {name: info.shape for name, info in tensors.items()})
    _check_types(tensors, config)
    tokenizer = load_tokenizer(folder)
    preprocess = options_from_files(raw, read_json(folder / "preprocessor_config.json"))
    return CheckpointFiles(
        folder=folder,
        config=config,
        preprocess=preprocess,
        tokenizer=tokenizer,
        tensors=tensors,
        eos_ids=_eos_ids(read_json(folder / "generation_config.json"), raw, tokenizer),
    )


def _check_types(tensors: Mapping[str, TensorInfo], config: ValleyConfig) -> None:
    """Raises WeightsError if a tensor that is needed is of a type that nothing here can compute with."""
    for name, info in tensors.items():
        if info.dtype not in DTYPE_BYTES and not is_unused(name, config):
            raise WeightsError(
                f"{info.file.parent}: {info.file.name} holds tensors of type {printable(str(info.dtype))}, "
                "which valley cannot compute with",
                "give a checkpoint in bfloat16, float16 or float32",
            )


def _eos_ids(generation: Mapping[str, Any], raw: Mapping[str, Any], tokenizer: TextTokenizer) -> frozenset[int]:
    """Tokens that end an answer: generation_config.json, else config.json, else the tokenizer's eos token."""
    for source in (generation, raw):
        value = source.get("eos_token_id")
        if isinstance(value, int):
            return frozenset([value])
        if value:
            return frozenset(value)
    found = tokenizer.token_id(tokenizer.special.get("eos_token", "<|im_end|>"))
    return frozenset() if found is None else frozenset([found])
