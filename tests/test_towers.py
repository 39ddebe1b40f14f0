"""The towers equal transformers' own classes on random weights, at sizes no golden case has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from valley_cli.engine.models.config import ProjectorConfig, SiglipConfig, VitConfig
from valley_cli.engine.models.projector import MlpPixelShuffle, OvisConvAdapter
from valley_cli.engine.models.vision import SiglipTower, VitTower


def scramble(model: torch.nn.Module, seed: int) -> None:
    """Random values everywhere, norms and biases included."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False).copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def test_siglip_equals_transformers() -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3}
    reference: Any = SiglipVisionModel(SiglipVisionConfig(**shape, image_size=384, patch_size=14)).eval()
    scramble(reference, 1)
    ours = SiglipTower(SiglipConfig(**shape))
    ours.load_state_dict(
        {
            name.removeprefix("vision_model."): tensor
            for name, tensor in reference.state_dict().items()
            if ".head." not in f".{name}" and "position_ids" not in name
        }
    )
    tiles = torch.randn(2, 3, 384, 384, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = reference(pixel_values=tiles).last_hidden_state
        assert (ours(tiles) - expected).abs().max() < 2e-5


@pytest.mark.parametrize("grid_hw", [(2, 2), (4, 10), (18, 6)])
def test_vit_equals_transformers(grid_hw: tuple[int, int]) -> None:
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(depth=3, embed_dim=32, num_heads=2, mlp_ratio=3, hidden_size=24)
    reference: Any = Qwen2VisionTransformerPretrainedModel(config).eval()
    scramble(reference, 3)
    ours = VitTower(VitConfig(embed_dim=32, depth=3, num_heads=2, mlp_dim=96, merger_dim=128, output_dim=24))
    ours.load_state_dict(reference.state_dict())
    patches = torch.randn(grid_hw[0] * grid_hw[1], 1176, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = reference(patches, grid_thw=torch.tensor([[1, *grid_hw]])).pooler_output
        assert (ours(patches, grid_hw) - expected).abs().max() < 2e-5


def test_hard_tokenising_takes_one_row_of_the_visual_vocabulary() -> None:
    config = ProjectorConfig("ovis_conv_adapter", input_dim=8, mlp_dim=50, output_dim=6, tokenize_function="st_argmax")
    projector = OvisConvAdapter(config)
    scramble(projector, 5)
    rows = projector(torch.randn(1, 729, 8, generator=torch.Generator().manual_seed(6)))
    assert rows.shape == (1, 196, 6)
    vocabulary = {tuple(row) for row in projector.embedding.weight.tolist()}
    assert all(tuple(row) in vocabulary for row in rows[0].tolist())


def test_pixel_shuffle_stacks_neighbours() -> None:
    projector = MlpPixelShuffle(ProjectorConfig("mlp_pixel_shuffle", input_dim=2, mlp_dim=18, output_dim=18))
    stacked = torch.nn.Linear(18, 18, bias=False)
    stacked.weight.requires_grad_(False).copy_(torch.eye(18))
    projector.mlp = torch.nn.Sequential(stacked)  # shows what the MLP would be given
    places = torch.arange(729.0)
    rows = projector(torch.stack((places // 27, places % 27), dim=-1)[None])[0]  # [81, 18]: (row, column) pairs
    assert rows.shape == (81, 18)
    for index, row in enumerate(rows):
        found = {(int(r), int(c)) for r, c in row.view(9, 2)}
        top, left = index // 9 * 3, index % 9 * 3
        assert found == {(top + r, left + c) for r in range(3) for c in range(3)}
