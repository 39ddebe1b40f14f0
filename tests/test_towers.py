"""The towers equal transformers' own classes on random weights, at sizes no golden case has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.answers import pictures_of, plan_of, prepared_of
from tests.conftest import IMAGES, VALLEY2, VALLEY25
from valley_cli.api import Media, Message, Request, Stage
from valley_cli.engine.families.valley.config import ProjectorConfig
from valley_cli.engine.families.valley.opened import read_checkpoint
from valley_cli.engine.families.valley.preprocess import Picture, PicturePlan
from valley_cli.engine.families.valley.projector import MlpPixelShuffle, OvisConvAdapter
from valley_cli.engine.layers.config import SiglipConfig, VitConfig
from valley_cli.engine.layers.vision import MLP_ROWS, SiglipTower, VitMLP, VitTower
from valley_cli.engine.run.encoders import in_groups
from valley_cli.engine.run.runner import load_runner


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


@pytest.mark.parametrize(
    "grids_hw", [[(2, 2)], [(4, 10)], [(18, 6), (4, 10), (10, 4), (2, 2)]], ids=["four", "wide", "several"]
)
def test_vit_equals_transformers(grids_hw: list[tuple[int, int]]) -> None:
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(depth=3, embed_dim=32, num_heads=2, mlp_ratio=3, hidden_size=24)
    reference: Any = Qwen2VisionTransformerPretrainedModel(config).eval()
    scramble(reference, 3)
    ours = VitTower(VitConfig(embed_dim=32, depth=3, num_heads=2, mlp_dim=96, merger_dim=128, output_dim=24))
    ours.load_state_dict(reference.state_dict())
    total = sum(grid_h * grid_w for grid_h, grid_w in grids_hw)
    patches = torch.randn(total, 1176, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = reference(patches, grid_thw=torch.tensor([[1, *grid_hw] for grid_hw in grids_hw])).pooler_output
        assert (ours(patches, grids_hw) - expected).abs().max() < 2e-5


def test_the_mlp_of_a_large_picture_is_computed_in_parts() -> None:
    mlp = VitMLP(VitConfig(embed_dim=8, mlp_dim=12))
    scramble(mlp, 7)
    x = torch.randn(MLP_ROWS + 5, 8, generator=torch.Generator().manual_seed(8))
    assert torch.equal(mlp(x), torch.cat([mlp(x[:MLP_ROWS]), mlp(x[MLP_ROWS:])]))


@pytest.mark.parametrize("folder", [VALLEY2, VALLEY25], ids=["valley2", "valley2.5"])
def test_pictures_together_give_what_each_gives_alone(folder: Path) -> None:
    files = read_checkpoint(folder)
    names = ("m0_64x64.png", "m4_200x60.png", "m3_56x84.png", "m0_64x64.png", "m1_120x80.png")
    request = Request((Message("user", "?"),), images=tuple(Media(n, path=str(IMAGES / n)) for n in names))
    pictures = pictures_of(prepared_of(files, plan_of(files, request)))
    towers = load_runner(files, "cpu", "float32").encoded
    alone = [towers.model.encode([picture])[0] for picture in pictures]
    stages: list[Stage] = []
    for _ in range(2):
        for found, expected in zip(towers.rows(pictures, stages.append), alone, strict=True):
            assert (found - expected).abs().max() < 2e-5
    assert [(stage.done, stage.total) for stage in stages] == [(0, 4)]  # one group; the second time all were kept


def test_pictures_are_grouped_in_order_and_a_large_one_stands_alone() -> None:
    def picture(patches: int) -> Picture:
        plan = PicturePlan((1, 1), False, 0, (1, 1), (1, 1), (28 * patches // 2, 14 * 2))
        return Picture(plan, None, None, str(patches))

    sizes = [4, 4, 100, 8, 4, 4]
    groups = in_groups([picture(size // 2) for size in sizes], 12)
    assert [[int(p.key) * 2 for p in group] for group in groups] == [[4, 4], [100], [8, 4], [4]]


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
