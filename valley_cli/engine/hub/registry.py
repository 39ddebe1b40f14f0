"""The models valley knows by name: plain data, no file or network access. Standard library only.

``weight_bytes`` prices a download or a device before anything is read; ``context_tokens`` and the pixel limits are
defaults that the checkpoint's own config may narrow.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from valley_cli.api import PIXELS_PER_TOKEN

Family = Literal["valley2", "valley2.5"]

THINK_SYSTEM_PROMPT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think><answer> answer here </answer>. In the reasoning process enclosed within <think> "
    "</think>, each specific visual cue is enclosed within <vcues_*>...</vcues_*>, where * indicates the index of the "
    "specific cue. Before concluding the final answer, pause for a quick consistency check: verify whether the visual "
    "cues support the reasoning and whether each step logically follows from what is seen. If correct, conclude the "
    "answer; otherwise, revise the visual cues and reasoning, then conclude."
)


@dataclass(frozen=True)
class ModelInfo:
    """One known model. ``repo_ids[0]`` is canonical; the others are tried where it does not exist.

    ``embedded`` names a folder under ``valley_cli/assets`` that holds the weights; such a model is never downloaded.
    ``think_system_prompt`` is None for families that do not think.
    """

    name: str
    aliases: tuple[str, ...]
    repo_ids: tuple[str, ...]
    family: Family
    dtype: Literal["bfloat16", "float32"]
    context_tokens: int
    max_new_tokens: int
    weight_bytes: int
    summary: str
    think_system_prompt: str | None = None
    max_pixels_several: int = 16384 * PIXELS_PER_TOKEN  # each of several pictures, or of a clip's frames
    embedded: str | None = None
    notice: str | None = None  # said with every answer


MODELS: tuple[ModelInfo, ...] = (
    ModelInfo(
        name="valley2",
        aliases=("valley-eagle-7b",),
        repo_ids=("bytedance-research/Valley-Eagle-7B",),
        family="valley2",
        dtype="bfloat16",
        context_tokens=32768,
        max_new_tokens=1024,
        weight_bytes=17_760_805_248,
        summary="Valley2, 8.9B: SigLIP and Qwen2-VL towers, Qwen2.5-7B",
    ),
    ModelInfo(
        name="valley2-dpo",
        aliases=(),
        repo_ids=("bytedance-research/Valley2-DPO",),
        family="valley2",
        dtype="bfloat16",
        context_tokens=32768,
        max_new_tokens=1024,
        weight_bytes=17_760_805_248,
        summary="Valley2, 8.9B, tuned on preferences (DPO)",
    ),
    ModelInfo(
        name="valley2.5",
        aliases=("valley3-2025",),
        repo_ids=("bytedance-research/Valley2.5", "bytedance-research/Valley3"),  # the second: its first published id
        family="valley2.5",
        dtype="bfloat16",
        context_tokens=32768,
        max_new_tokens=4096,
        weight_bytes=18_960_000_000,  # estimated: 9.48B parameters, no published index could be read
        summary="Valley2.5, 9.5B: Qwen2-VL tower, Qwen3-8B; can think",
        think_system_prompt=THINK_SYSTEM_PROMPT,
        max_pixels_several=256 * PIXELS_PER_TOKEN,
    ),
    ModelInfo(
        name="valley-mini",
        aliases=(),
        repo_ids=(),
        family="valley2.5",
        dtype="float32",
        context_tokens=4096,
        max_new_tokens=256,
        weight_bytes=12_000_000,  # estimated: 3M parameters
        summary="embedded, 3M: knows generated drawings only, no photographs",
        max_pixels_several=256 * PIXELS_PER_TOKEN,
        embedded="valley-mini",
        notice=(
            "valley-mini, trained on generated drawings only, does not understand photographs; "
            "a real model: -m valley2-dpo"
        ),
    ),
)


def _spellings(info: ModelInfo) -> tuple[str, ...]:
    """Everything ``info`` answers to, lower case."""
    return tuple(spelling.lower() for spelling in (info.name, *info.aliases, *info.repo_ids))


def find(name: str) -> ModelInfo | None:
    """The model called ``name`` (its name, an alias or a repo id, in any case), or None."""
    wanted = name.strip().lower()
    return next((info for info in MODELS if wanted in _spellings(info)), None)


def suggest(name: str) -> list[str]:
    """Registered names that ``name`` may have meant, nearest first; empty if nothing is near."""
    owners = {spelling: info.name for info in MODELS for spelling in _spellings(info)}
    owners |= {spelling.rpartition("/")[2]: owner for spelling, owner in list(owners.items())}
    wanted = name.strip().lower()
    near = difflib.get_close_matches(wanted, owners, n=6, cutoff=0.6)
    near += difflib.get_close_matches(wanted.rpartition("/")[2], owners, n=6, cutoff=0.6)
    return list(dict.fromkeys(owners[spelling] for spelling in near))[:3]


def family_info(family: Family) -> ModelInfo:
    """The defaults of a checkpoint that has no name here: those of its family's first model."""
    return next(info for info in MODELS if info.family == family)
