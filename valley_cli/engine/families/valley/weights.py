"""Tensors from safetensors files into the model: meta device, mapped files, assign; no second copy of anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from valley_cli.api import OnStage, unheard
from valley_cli.engine.checkpoint.mapped import MappedTensors
from valley_cli.engine.families.valley.config import is_unused
from valley_cli.engine.families.valley.model import Valley
from valley_cli.errors import WeightsError

if TYPE_CHECKING:
    from valley_cli.engine.families.valley.opened import CheckpointFiles

LISTED = 8


def load_model(
    files: CheckpointFiles,
    device: torch.device,
    dtype: torch.dtype,
    on_stage: OnStage = unheard,
) -> Valley:
    """The model with its tensors on ``device`` in ``dtype``, ready for inference. Raises as ``map_model`` does."""
    model, mapped = map_model(files, device, dtype, on_stage, late=())
    mapped.read_the_rest()
    return model


def map_model(
    files: CheckpointFiles,
    device: torch.device,
    dtype: torch.dtype,
    on_stage: OnStage = unheard,
    late: tuple[str, ...] = ("model.layers.", "lm_head."),
) -> tuple[Valley, MappedTensors]:
    """The model before all of it is read: on a CPU, what is used as the files have it, and what begins with ``late``,
    which ``fuse_decoder`` converts as it copies, are views of the files.

    All else is copied to the device or converted one by one, and the pages let go of: the host holds no more of the
    checkpoint than what it uses. Raises WeightsError that lists missing, unexpected and misshapen tensors.
    """
    with torch.device("meta"):
        model = Valley(files.config)
    if files.config.text.tie_word_embeddings:
        del model.lm_head
    names = check_names(model, files)
    mapped = MappedTensors(files.tensors, names, on_stage)
    state: dict[str, torch.Tensor] = {}
    for name in names:
        view = mapped.views.pop(name)
        state[name] = view if device.type == "cpu" and name.startswith(late) else view.to(device, dtype)
        if state[name] is not view:  # copied
            mapped.release([view])
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False), mapped


def check_names(model: Valley, files: CheckpointFiles) -> list[str]:
    """Names of the tensors to load, after comparing names and shapes with the checkpoint's."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: info.shape for name, info in files.tensors.items()}
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(name for name in found.keys() - expected.keys() if not is_unused(name, files.config))
    misshapen = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    lines = _listed("missing", missing) + _listed("unexpected", unexpected) + _listed("misshapen", misshapen)
    if lines:
        raise WeightsError(
            f"{files.folder}: the tensors are not those of a {files.config.family} model\n" + "\n".join(lines),
            "check that the folder is a complete Valley2 or Valley2.5 checkpoint",
        )
    return list(expected)


def _listed(kind: str, names: list[str]) -> list[str]:
    more = [f"  ... and {len(names) - LISTED} more"] if len(names) > LISTED else []
    return [f"  {kind}: {name}" for name in names[:LISTED]] + more
