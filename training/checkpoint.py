"""An exported folder or a run's checkpoint, loaded back into the training code's own model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from training.model import ModelConfig, ValleyMini
from training.tokenizer import Encoder

DECODER_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "rope_theta",
)


def load_exported(folder: Path) -> tuple[ValleyMini, Encoder]:
    """Model (float32, evaluation mode) and encoder of an exported folder."""
    config = json.loads((folder / "config.json").read_text())
    vision = config["qwen2vl_vision_config"]
    sizes = {key: config[key] for key in DECODER_KEYS}
    model = ValleyMini(
        ModelConfig(
            **sizes,
            vision_depth=vision["depth"],
            vision_embed_dim=vision["embed_dim"],
            vision_num_heads=vision["num_heads"],
            vision_mlp_ratio=vision["mlp_ratio"],
            merger_hidden_dim=config["navit_merger_hidden_dim"],
        )
    )
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()})
    return model.eval(), Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")))


def load_run(folder: Path) -> tuple[ValleyMini, Encoder]:
    """Model (the running mean of its weights, evaluation mode) and encoder of a run's folder."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    model = ValleyMini(ModelConfig(**state["config"]))
    model.load_state_dict(state.get("mean", state["model"]))
    return model.eval(), Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")))
