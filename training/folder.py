"""Model folders: the sizes of the shipped one, a run's weights written as one like it, and reading one back."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from training.model import ModelConfig, ValleyMini
from training.tokenizer import SHIPPED

SETTINGS = ("config", "generation_config", "preprocessor_config", "tokenizer_config", "tokenizer")
SHARED = (*(f"{name}.json" for name in SETTINGS), "chat_template.jinja")  # the same in every model of this kind
CARD = Path(__file__).with_name("card.md")
NOT_MEASURED = "Not measured yet: `python -m training.evaluate FOLDER --card` fills this in."


def shipped_config(folder: Path = SHIPPED) -> ModelConfig:
    """The sizes that a folder's config.json tells."""
    config = json.loads((folder / "config.json").read_text())
    vision = config["qwen2vl_vision_config"]
    told = {f"vision_{key}": vision[key] for key in ("depth", "embed_dim", "num_heads", "mlp_ratio")}
    told |= {"merger_hidden_dim": config["navit_merger_hidden_dim"]}
    return ModelConfig(**{field.name: {**config, **told}[field.name] for field in fields(ModelConfig)})


def load_model(folder: Path) -> ValleyMini:
    """The training code's model (float32, evaluation mode) with a folder's weights."""
    model = ValleyMini(shipped_config(folder))
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()})
    return model.eval()


def commit() -> str:
    """The commit the training code stands at, or "unknown"."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def export(run: Path, out: Path) -> None:
    """Write the running mean of a run's weights as a Valley2.5 folder that the program opens, with its card."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    steps, _, elapsed_s, _ = state["progress"]
    facts = {name: str(value) for name, value in state["made"].items()}
    facts |= {"format": "pt", "steps": str(steps), "minutes": f"{elapsed_s / 60:.1f}", "commit": commit()}
    out.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        shutil.copyfile(SHIPPED / name, out / name)
    tensors = {name: tensor.half().contiguous() for name, tensor in state["mean"].items()}
    save_file(tensors, out / "model.safetensors", metadata=facts)
    (out / "model.safetensors").chmod(0o644)  # safetensors leaves it readable by its owner only
    write_card(out, NOT_MEASURED)


def write_card(folder: Path, scores: str) -> None:
    """Write the model card (README.md) of an exported folder; ``scores`` is a table in Markdown."""
    with safe_open(folder / "model.safetensors", "pt") as weights:
        facts = weights.metadata() or {}
    (folder / "README.md").write_text(CARD.read_text().format(scores=scores, **facts))
