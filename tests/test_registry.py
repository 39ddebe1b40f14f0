"""The registry: names lead to one model, and its numbers are those of the specification."""

from __future__ import annotations

import dataclasses

import pytest

from tests.conftest import ROOT
from valley_cli.engine.families.valley.opened import read_checkpoint
from valley_cli.engine.hub.registry import MODELS, THINK_SYSTEM_PROMPT, find, suggest


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("valley2", "valley2"),
        ("Valley-Eagle-7B", "valley2"),
        ("bytedance-research/valley-eagle-7b", "valley2"),
        ("VALLEY2-DPO", "valley2-dpo"),
        (" valley2.5 ", "valley2.5"),
        ("valley3-2025", "valley2.5"),
        ("bytedance-research/Valley3", "valley2.5"),
        ("valley-mini", "valley-mini"),
    ],
)
def test_every_spelling_finds_its_model(typed: str, name: str) -> None:
    info = find(typed)
    assert info is not None
    assert info.name == name


@pytest.mark.parametrize("typed", ["", "valley", "valley3", "Valley2-DPO/", "org/valley2"])
def test_other_names_find_nothing(typed: str) -> None:
    assert find(typed) is None


def test_no_spelling_is_shared_by_two_models() -> None:
    spellings = [text.lower() for info in MODELS for text in {info.name, *info.aliases, *info.repo_ids}]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("valley2-dop", "valley2-dpo"),
        ("Valey2", "valley2"),
        ("valley25", "valley2.5"),
        ("bytedance-research/Valley2-DP0", "valley2-dpo"),
        ("bytedance/Valley-Eagle-7B", "valley2"),
        ("vallymini", "valley-mini"),
    ],
)
def test_a_slip_of_the_finger_is_answered_with_the_nearest_name(typed: str, first: str) -> None:
    assert suggest(typed)[0] == first


def test_nothing_is_suggested_for_a_name_that_is_not_near() -> None:
    assert suggest("resnet-50") == []


def test_token_limits_and_pixel_limits_follow_the_family() -> None:
    valley2, valley25, mini = find("valley2"), find("valley2.5"), find("valley-mini")
    assert valley2
    assert valley25
    assert mini
    assert (valley2.max_new_tokens, valley25.max_new_tokens, mini.max_new_tokens) == (1024, 4096, 256)
    assert valley2.max_pixels_several == 12845056
    assert valley25.max_pixels_several == 200704


def test_only_valley25_has_a_thinking_prompt_and_it_is_one_line() -> None:
    assert [info.name for info in MODELS if info.think_system_prompt] == ["valley2.5"]
    assert "\n" not in THINK_SYSTEM_PROMPT
    assert "  " not in THINK_SYSTEM_PROMPT
    assert THINK_SYSTEM_PROMPT.startswith("A conversation between User and Assistant. The user asks")
    assert THINK_SYSTEM_PROMPT.endswith("revise the visual cues and reasoning, then conclude.")


def test_a_model_is_either_embedded_or_on_the_hub_and_cannot_be_changed() -> None:
    for info in MODELS:
        assert bool(info.repo_ids) != bool(info.embedded)
    with pytest.raises(dataclasses.FrozenInstanceError):
        MODELS[0].name = "other"  # type: ignore[misc]


def test_the_embedded_weights_are_what_the_registry_says() -> None:
    for info in MODELS:
        if info.embedded:
            config = read_checkpoint(ROOT / "valley_cli" / "assets" / info.embedded).config
            assert (config.family, config.text.max_position_embeddings) == (info.family, info.context_tokens)
