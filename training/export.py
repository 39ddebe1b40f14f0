"""``python -m training.export RUN_FOLDER... OUT_FOLDER``: a run's checkpoint as a Valley2.5 folder that valley loads.

Several runs: each started from weights of the ones before it; all stand in the model card. The first one may be a
folder of ``training.grow``, which knows the runs behind an exported checkpoint. The weights written are the running
mean of the last one's, or those of ``--weights``, a folder made by ``training.mean``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from training import card
from training.data import PREPROCESSOR_CONFIG
from training.model import ModelConfig
from training.tokenizer import SPECIAL

CURVE = ("count", "colour", "shape", "where", "side", "describe", "read", "which", "describe clip", "turn", "absent")
MAX_BYTES = 20_000_000
TEMPLATE = (  # plain ChatML; enable_thinking is accepted and changes nothing
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def config_json(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json in the published layout of Valley2.5."""
    return {
        "architectures": ["ValleyQwen3ForCausalLM"],
        "model_type": "valley",
        "llm_name": "qwen3",
        "torch_dtype": "float16",
        "only_navit": True,
        "anyres": False,
        "eagle_vision_tower": "Qwen/Qwen2-VL-7B-Instruct",
        "navit_merger_hidden_dim": config.merger_hidden_dim,
        "use_special_start_end_token": True,
        "mm_use_im_start_end": False,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "rms_norm_eps": 1e-6,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": 4096,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": config.vocab_size,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "qwen2vl_vision_config": {
            "model_type": "qwen2_vl",
            "depth": config.vision_depth,
            "embed_dim": config.vision_embed_dim,
            "num_heads": config.vision_num_heads,
            "mlp_ratio": config.vision_mlp_ratio,
            "hidden_size": config.hidden_size,
            "hidden_act": "quick_gelu",
            "in_channels": 3,
            "in_chans": 3,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def generation_json(tokenizer: Tokenizer) -> dict[str, Any]:
    eos_ids = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    return {"do_sample": False, "eos_token_id": eos_ids, "pad_token_id": eos_ids[1]}


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer_config.json: the added tokens and their ids."""
    added = {
        str(token_id): {
            "content": token.content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token.special,
        }
        for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }


def commit() -> str:
    """The commit the training code stands at, or "unknown"."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def curve(runs: Sequence[Path], before: dict[str, str]) -> str:
    """The quick scores that the runs' logs hold, as a table in Markdown, or as more rows of the table before."""
    rows = ["| minute | " + " | ".join(CURVE) + " |", "|---" * (len(CURVE) + 1) + "|"] if not before else []
    first = len(before["seed"].split(",")) + 1 if before else 1
    for number, log in enumerate((run / "log.txt" for run in runs), first):
        minute, prefix = "?", f"run {number}, " if len(runs) > 1 or before else ""
        for line in log.read_text().splitlines() if log.is_file() else ():
            if found := re.search(r" ([\d.]+)min ", line):
                minute = found[1]
            if line.startswith("SCORES "):
                scores = dict(re.findall(r"(\w[\w ]*)=([\d.]+)", line.removeprefix("SCORES ")))
                rows.append(f"| {prefix}{minute} | " + " | ".join(scores.get(kind, "") for kind in CURVE) + " |")
    return "\n".join(rows)


def export(runs: Sequence[Path], out: Path, weights: Path | None = None) -> None:
    """Write the folder; raises ValueError for a checkpoint over the size limit."""
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in runs]
    before: dict[str, str] = states[0].get("facts", {})
    if before:  # the first folder is one of ``training.grow``: it stands for all the runs before
        states, runs = states[1:], runs[1:]
    state, last = states[-1], runs[-1]
    tokenizer = Tokenizer.from_file(str(last / "tokenizer.json"))
    chosen = torch.load(weights / "checkpoint.pt", weights_only=True) if weights else state
    tensors = {name: tensor.half().contiguous() for name, tensor in chosen.get("mean", chosen["model"]).items()}

    def own(name: str) -> list[str]:
        return [before[name]] if before else []

    steps, _, elapsed_s, _ = zip(*(found["progress"] for found in states), strict=True)
    facts = {
        "format": "pt",
        "world": str(state["world"]),
        "seed": ", then ".join([*own("seed"), *(str(found["seed"]) for found in states)]),
        "steps": " + ".join([*own("steps"), *map(str, steps)]),
        "minutes": " + ".join([*own("minutes"), *(f"{seconds / 60:.0f}" for seconds in elapsed_s)]),
        "shares": chosen.get("shares", "the last run's"),
        "commit": commit(),
        "curve": "\n".join([*own("curve"), curve(runs, before)]),
    }
    if sum(tensor.nbytes for tensor in tensors.values()) > MAX_BYTES:
        raise ValueError(f"the weights exceed {MAX_BYTES} bytes")
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata=facts)
    shutil.copy(last / "tokenizer.json", out / "tokenizer.json")
    files = {
        "config.json": config_json(ModelConfig(**state["config"]), tokenizer),
        "generation_config.json": generation_json(tokenizer),
        "preprocessor_config.json": PREPROCESSOR_CONFIG,
        "tokenizer_config.json": tokenizer_json(tokenizer),
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    (out / "chat_template.jinja").write_text(TEMPLATE)
    (out / "model.safetensors").chmod(0o644)  # safetensors leaves it readable by its owner only
    card.write(out, scores=None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of the runs, in order")
    parser.add_argument("out", type=Path, help="folder to write the checkpoint to")
    parser.add_argument(
        "--weights", type=Path, help="folder of a mean of runs, to be written instead of the last run's"
    )
    args = parser.parse_args()
    export(args.runs, args.out, args.weights)


if __name__ == "__main__":
    main()
