"""The model families. To add one: a folder with a module that has ``claims`` and ``open_checkpoint``, named here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from valley_cli.engine.checkpoint.tokenizer import read_json
from valley_cli.engine.families.base import Model
from valley_cli.engine.hub.registry import ModelInfo

# asked in this order; the last one takes what the others leave, and says what is wrong with it
FAMILIES = ["valley_cli.engine.families.valley.opened"]


def open_model(folder: Path, info: ModelInfo | None = None) -> Model:
    """The checkpoint in ``folder``, by the family that its config.json names. Raises ModelError, WeightsError."""
    config = read_json(folder / "config.json")
    modules = map(import_module, FAMILIES)
    module = next(module for module in modules if module.claims(config))
    found: Model = module.open_checkpoint(folder, info)
    return found
