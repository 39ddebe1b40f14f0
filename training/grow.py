"""``python -m training.grow FOLDER OUT``: an exported checkpoint as the start of a run, with the layers it lacks.

A new layer's last matrices are zero, so it passes on what comes in: the grown model computes what the old one did.
The heads of the dense labels are not exported and start anew.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open

from training.checkpoint import load_exported
from training.dense import DenseHeads
from training.labels import CLASSES
from training.model import ModelConfig, ValleyMini

LAST = ("attn.proj", "mlp.fc2", "o_proj", "down_proj")  # what a layer adds to its input ends in one of these


def grown(model: ValleyMini, vision_depth: int, layers: int) -> ValleyMini:
    """The model with blocks added at the end of the tower and of the decoder; the old ones keep their weights."""
    config = replace(model.config, vision_depth=vision_depth, num_hidden_layers=layers)
    larger = ValleyMini(config)
    old, state = model.state_dict(), larger.state_dict()
    for name, tensor in state.items():
        if name in old:
            state[name] = old[name]
        elif any(last in name for last in LAST):
            state[name] = torch.zeros_like(tensor)
    larger.load_state_dict(state)
    return larger


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.grow", description=__doc__)
    parser.add_argument("folder", type=Path, help="exported checkpoint")
    parser.add_argument("out", type=Path, help="folder of the run to start from (training.train --init)")
    args = parser.parse_args()
    model, _ = load_exported(args.folder)
    wanted = ModelConfig()
    larger = grown(model, wanted.vision_depth, wanted.num_hidden_layers)
    heads = DenseHeads(larger.config.hidden_size)
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copy(args.folder / "tokenizer.json", args.out / "tokenizer.json")
    with safe_open(args.folder / "model.safetensors", "pt") as weights:
        facts = weights.metadata()  # how the folder was trained: for the model card of what comes after
    state = {"model": larger.state_dict(), "heads": heads.state_dict(), "config": larger.config.as_dict()}
    torch.save({**state, "classes": dict(CLASSES), "facts": facts}, args.out / "checkpoint.pt")


if __name__ == "__main__":
    main()
