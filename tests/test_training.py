"""How valley-mini is made: what training sees is what the program sees, and nothing held out is ever trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training import clips, exam, export, questions, world
from training.checkpoint import load_exported
from training.curriculum import CURRICULA
from training.data import Mix, collate, patches_of, preprocess_options, random_sample
from training.evaluate import interval, shuffle_pictures
from training.measure import quick_scores
from training.questions import Question
from training.rows import IGNORE, PICTURE, build_row, prompt_ids
from training.tokenizer import SYSTEM, Encoder
from valley_cli.engine.base import Message
from valley_cli.engine.preprocess import preprocess
from valley_cli.engine.prompt import PromptBuilder, place_pictures
from valley_cli.engine.tokenizer import load_tokenizer

MINI = Path(__file__).parent.parent / "valley_cli" / "assets" / "valley-mini"
SCENES = 30
LOWEST = {"count": 0.85, "colour": 0.80, "shape": 0.85, "where": 0.80, "describe": 0.80}  # for 40 pictures


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(MINI / "tokenizer.json")


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    return PromptBuilder(load_tokenizer(MINI))


def scenes(split: str, count: int = SCENES) -> list[world.Scene]:
    return [world.make_scene(world.rng_for(split, index), with_text=0.3) for index in range(count)]


def test_the_same_seed_gives_the_same_scene_pixels_and_questions() -> None:
    for index, scene in enumerate(scenes("train")):
        again = world.make_scene(world.rng_for("train", index), with_text=0.3)
        assert again == scene
        assert world.draw(again).image.tobytes() == world.draw(scene).image.tobytes()
        asked = [questions.ask_all(world.rng_for("train", index), s) for s in (scene, again)]
        assert asked[0] == asked[1]


def test_held_out_scenes_are_never_trained_on() -> None:
    trained, held_out = set(scenes("train", 300)), set(scenes("held-out", 300))
    assert len(trained) == len(held_out) == 300
    assert not trained & held_out
    with pytest.raises(ValueError, match="unknown split"):
        world.rng_for("test", 0)


def test_every_object_stands_out_and_lies_where_its_place_says() -> None:
    for scene in scenes("train", 200):
        cells = [thing.cell for thing in scene.things]
        assert cells == sorted(set(cells))
        for thing in scene.things:
            assert world.place_of(thing.x, thing.y, scene.width, scene.height) == thing.cell
            assert np.linalg.norm(np.subtract(thing.rgb, scene.rgb)) >= world.MIN_CONTRAST


def test_training_sees_the_pixels_that_the_program_sees() -> None:
    for pictures in (1, 3):
        images = [world.draw(scene).image for scene in scenes("train", pictures)]
        side = 168 if pictures == 1 else 112
        for image, patches in zip(images, patches_of(images), strict=True):
            seen = preprocess(image, pictures, preprocess_options())
            assert seen.patches is not None
            assert seen.plan.vit_tokens == (side // 28) ** 2
            assert np.array_equal(patches, seen.patches)


@pytest.mark.parametrize("pictures", [0, 1, 3])
def test_training_prompts_have_the_ids_of_the_programs_prompts(
    encoder: Encoder, prompts: PromptBuilder, pictures: int
) -> None:
    for question in ("Describe the given image.", "what colour is it", "How many objects are there?"):
        turns = place_pictures([Message("user", question)], [0], pictures)
        assert prompt_ids(encoder, pictures, 1, question) == list(prompts.build(turns, think=False).input_ids)


def test_second_turns_have_the_ids_of_the_programs_prompts(encoder: Encoder, prompts: PromptBuilder) -> None:
    asked = [Question("count", "How many objects are there?", "Two."), Question("read", "Read the text.", "None.")]
    row = build_row(encoder, 1, 1, asked, turns=True)
    messages = [Message("user", asked[0].text), Message("assistant", "Two."), Message("user", asked[1].text)]
    ids = list(prompts.build(place_pictures(messages, [1, 0, 0], 0), think=False).input_ids)
    assert row.ids[: len(ids)] == ids
    assert row.ids[len(ids) :] == encoder.encode("None.<|im_end|>")
    assert [label for label in row.label if label != IGNORE] == encoder.encode("Two.<|im_end|>") + row.ids[len(ids) :]


def test_branches_see_the_pictures_and_themselves_only(encoder: Encoder) -> None:
    mix = Mix(several=0.2, clips=0.2, talk=0.1)
    batch = collate([random_sample(encoder, world.rng_for("train", i), mix) for i in range(12)], encoder.pad_id)
    for branch_L, visible_LL in zip(batch.branch_BL, batch.visible_BLL, strict=True):
        at, seen = visible_LL.nonzero(as_tuple=True)
        assert (seen <= at).all()
        assert ((branch_L[at] == branch_L[seen]) | (branch_L[seen] == 0)).all()
    slots = sum(len(group.slots) for group in batch.pictures)
    assert slots == (batch.ids_BL == PICTURE).sum()


@pytest.mark.parametrize("name", CURRICULA)
def test_a_curriculum_fills_its_run_and_ends_still(name: str) -> None:
    curriculum = CURRICULA[name]
    assert sum(stage.share for stage in curriculum.stages) == pytest.approx(1)
    assert len({curriculum.stage_at(i / 100).name for i in range(100)}) == len(curriculum.stages)
    factors = [curriculum.lr_factor(i / 100, 1000) for i in range(10, 101)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] <= curriculum.peak
    assert factors[-1] < 0.03
    assert curriculum.dense_weight(0.9) == 0


def test_a_pair_is_two_objects_of_one_shape() -> None:
    for index in range(SCENES):
        rng = world.rng_for("train", index)
        scene = world.make_scene(rng, 3)
        paired = world.with_a_pair(rng, scene)
        assert [thing.cell for thing in paired.things] == [thing.cell for thing in scene.things]
        assert len({thing.shape for thing in paired.things}) < 3
        assert sum(a != b for a, b in zip(scene.things, paired.things, strict=True)) <= 1


def test_clips_and_several_pictures_ask_only_what_they_show() -> None:
    for index in range(SCENES):
        pictures, asked = clips.several_pictures(world.rng_for("train", index))
        for question in asked:
            if question.kind == "which":
                number = int(question.answer.removeprefix("Picture ").rstrip("."))
                assert 1 <= number <= len(pictures)
        frames, asked = clips.clip(world.rng_for("train", index))
        assert 4 <= len(frames) <= 8
        assert asked[0].kind == "describe clip"


def test_the_exam_gives_every_item_one_line_and_shuffles_every_picture(encoder: Encoder) -> None:
    items = exam.make_items(single=6, others=2)
    assert all(item.rows for item in items)
    samples = exam.samples_of(encoder, items)
    assert sum(len(sample.asked) for sample in samples) == len(items)
    for before, after in zip(samples, shuffle_pictures(samples), strict=True):
        assert before.asked == after.asked
        assert len(before.labels) == len(after.labels)
    low, high = interval(90, 100)
    assert low < 0.9 < high


def test_the_chat_template_ignores_the_thinking_switch(prompts: PromptBuilder) -> None:
    turns = place_pictures([Message("user", "Hello.")], [0], 0)
    texts = {prompts.build(turns, think).text for think in (True, False, None)}
    assert texts == {
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"
    }
    assert (MINI / "chat_template.jinja").read_text() == export.TEMPLATE


def test_the_shipped_checkpoint_answers_held_out_questions() -> None:
    scores = quick_scores(*load_exported(MINI), count=40)
    assert {kind: scores[kind] for kind, lowest in LOWEST.items() if scores[kind] < lowest} == {}
