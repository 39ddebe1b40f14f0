"""A checkpoint's small files and tensor headers, read without torch: enough to preprocess, prompt and price."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from valley_cli.engine.models.config import ValleyConfig, read_config
from valley_cli.engine.preprocess import PreprocessOptions, options_from_files
from valley_cli.engine.prompt import PromptBuilder
from valley_cli.engine.tokenizer import TextTokenizer, load_tokenizer, read_json
from valley_cli.errors import ModelError, WeightsError

INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is: file, dtype as safetensors spells it, shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.n_values * DTYPE_BYTES.get(self.dtype, 4)


@dataclass(frozen=True)
class CheckpointFiles:
    """Everything about a checkpoint but the tensors themselves."""

    folder: Path
    config: ValleyConfig
    preprocess: PreprocessOptions
    tokenizer: TextTokenizer
    tensors: Mapping[str, TensorInfo]
    eos_ids: frozenset[int]

    @cached_property
    def prompts(self) -> PromptBuilder:
        return PromptBuilder(self.tokenizer)

    @property
    def weight_bytes(self) -> int:
        """Bytes on disk of all tensors."""
        return sum(info.n_bytes for info in self.tensors.values())


def read_checkpoint(folder: Path, config_overrides: Mapping[str, Any] | None = None) -> CheckpointFiles:
    """Read the small files of ``folder``; ``config_overrides`` replace values of config.json.

    Raises ModelError for a folder that is no Valley checkpoint, WeightsError for damaged weight files.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json", "give the folder that holds config.json and *.safetensors")
    raw = read_json(folder / "config.json") | dict(config_overrides or {})
    tensors = tensor_index(folder)
    config = read_config(raw, {name: info.shape for name, info in tensors.items()})
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


def tensor_index(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of the checkpoint, from the headers of one file or of the shards an index names."""
    index = read_json(folder / INDEX)
    if index:
        files = sorted({folder / name for name in index.get("weight_map", {}).values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(f"{folder}: missing {', '.join(missing)}", "download the checkpoint again")
    if not files:
        raise ModelError(f"{folder}: no *.safetensors weights", "download the weights, or give another folder")
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        tensors |= _read_header(file)
    return tensors


def _read_header(file: Path) -> dict[str, TensorInfo]:
    """The JSON header of a safetensors file: 8 bytes of length, then the header, then the data."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                raise ValueError("no header")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {name: TensorInfo(file, e["dtype"], tuple(e["shape"])) for name, e in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file}: not a safetensors file ({error})", "download the checkpoint again") from None
    if (size := file.stat().st_size) != 8 + length + end:
        raise WeightsError(f"{file}: {size} bytes, expected {8 + length + end}", "download the checkpoint again")
    return tensors


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
