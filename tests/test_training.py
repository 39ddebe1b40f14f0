"""How valley-mini is made: what training sees is what the program sees, and nothing held out is ever trained on."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from training import clips, crowds, data, exam, export, phrases, questions, several, talk, world
from training.batches import SHAPES, collate, parted
from training.checkpoint import load_exported
from training.curriculum import CURRICULA
from training.data import Mix, Task, make_sample, pixels_of, preprocess_options, random_sample
from training.dense import DenseHeads
from training.draw import draw
from training.evaluate import shuffle_pictures
from training.grow import grown
from training.labels import NAMES, NOT_LEARNED
from training.measure import answer_logits
from training.model import patches_of_pixels
from training.questions import Question
from training.rows import IGNORE, PICTURE, prompt_ids, turns_row
from training.scenes import make_scene, with_a_pair
from training.scores import interval
from training.tokenizer import SYSTEM, Encoder
from valley_cli.api import Message
from valley_cli.engine.checkpoint.tokenizer import load_tokenizer
from valley_cli.engine.families.valley.preprocess import plan_picture, preprocess
from valley_cli.engine.families.valley.prompt import PromptBuilder, place_pictures

MINI = Path(__file__).parent.parent / "valley_cli" / "assets" / "valley-mini"
SCENES = 30


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(MINI / "tokenizer.json")


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    return PromptBuilder(load_tokenizer(MINI))


def scenes(split: str, count: int = SCENES) -> list[world.Scene]:
    return [make_scene(world.rng_for(split, index), with_text=0.3) for index in range(count)]


@pytest.mark.parametrize("split", ["train", "shifted"])
def test_the_same_seed_gives_the_same_scene_pixels_and_questions(split: str) -> None:
    for index, scene in enumerate(scenes(split)):
        again = make_scene(world.rng_for(split, index), with_text=0.3)
        assert again == scene
        assert draw(again).image.tobytes() == draw(scene).image.tobytes()
        asked = [questions.ask_all(world.rng_for(split, index), s) for s in (scene, again)]
        assert asked[0] == asked[1]


def test_held_out_scenes_are_never_trained_on() -> None:
    drawn = [set(scenes(split, 200)) for split in ("train", "held-out", "shifted")]
    assert [len(found) for found in drawn] == [200, 200, 200]
    assert not drawn[0] & (drawn[1] | drawn[2])
    with pytest.raises(ValueError, match="unknown split"):
        world.rng_for("test", 0)


def test_shifted_items_use_what_training_never_does() -> None:
    trained, shifted = scenes("train", 300), scenes("shifted", 300)
    pairs = [{(t.colour, t.shape) for scene in some for t in scene.things} for some in (trained, shifted)]
    assert not pairs[0] & set(world.HELD_OUT_PAIRS)
    assert pairs[1] & set(world.HELD_OUT_PAIRS)
    fonts = [{scene.text.font for scene in some if scene.text} for some in (trained, shifted)]
    assert not fonts[0] & fonts[1] or fonts[1] == {"bundled"}  # nothing else is installed
    lines = {row for item in exam.make_items("shifted", per_kind=60, others=0) for row in item.rows}
    assert {"shape: held-out pairs", "colour: held-out pairs"} <= lines


def test_no_shade_of_the_shifted_items_can_be_drawn_in_training() -> None:
    for trained, held_out, varied in (
        (world.COLOURS, world.SHIFTED_COLOURS, world.VARIED),
        (world.BACKGROUNDS, world.SHIFTED_BACKGROUNDS, world.BACKGROUND_VARIED),
    ):
        assert set(held_out) == set(trained)
        lines = [np.linspace(a, b, 256) for shades in trained.values() for a, b in combinations(shades, 2)]
        for rgb in (rgb for shades in held_out.values() for rgb in shades):
            nearest = min(np.abs(line - rgb).max(1).min() for line in lines)
            assert nearest > varied + world.SHIFTED_VARIED + 0.5, rgb  # of the rounding
    drawn = [thing for scene in scenes("shifted", 100) for thing in scene.things]
    shades = [shade for shades in world.SHIFTED_COLOURS.values() for shade in shades]
    assert all(min(np.abs(np.subtract(s, t.rgb)).max() for s in shades) <= world.SHIFTED_VARIED for t in drawn)


def test_no_held_out_pair_comes_into_training_by_a_change() -> None:
    changed = 0
    for index in range(600):
        for make in (several.changed_pictures, clips.clip):
            pictures, asked = make(world.rng_for("train", index))
            looks = {(thing.colour, thing.shape) for scene in pictures for thing in scene.things}
            assert not looks & set(world.HELD_OUT_PAIRS)
            changed += any(word in asked[0].answer for word in ("changed colour", "changes colour", "became"))
    assert changed > 100


def test_objects_without_a_colour_name_are_asked_about_without_one() -> None:
    for index in range(SCENES):
        (scene,), asked = data.unnamed(world.rng_for("train", index))
        assert len(asked) > 3
        words = {word for q in asked for word in re.findall(r"\w+", f"{q.text} {q.answer}".lower())}
        assert not words & {*world.COLOURS, world.UNNAMED, "gray"}
        for thing in scene.things:
            distance, name = world.named_distance(thing.rgb)
            assert distance >= world.LEAST_UNNAMED
            assert (name, thing.shape) not in world.HELD_OUT_PAIRS
    assert world.named_distance((255, 0, 0)) == (0, "red")


def test_a_phrasing_held_out_in_one_place_is_trained_in_no_other() -> None:
    pattern = phrases.held_out_pattern()
    filled = {
        "thing": "star",
        "mark": "red ring",
        "a_thing": "a star",
        "things": "stars",
        "colour": "red",
        "number": "2",
    }
    filled |= {"place": "top left", "side": "left of", "one": "above", "other": "below"}
    assert len(phrases.ALL_FORMS) > 35
    for forms in phrases.ALL_FORMS:
        assert forms.held_out
        assert all(pattern.fullmatch(phrases.bare(form.format(**filled))) for form in forms.held_out)
        asked = [opening + form.format(**filled) for form in forms.trained for opening in ("", *phrases.OPENINGS)]
        assert not any(pattern.fullmatch(phrases.bare(question)) for question in asked)


def test_a_disturbed_question_is_none_of_those_held_out() -> None:
    rng = world.rng_for("train", 0)
    held_out = {phrases.bare(form.format(a_thing="a star")) for form in phrases.EXISTS.held_out}
    asked = {phrases.bare(phrases.ask(rng, phrases.EXISTS, a_thing="a star")) for _ in range(20_000)}
    assert len(asked) > 1000
    assert not asked & held_out


def test_every_object_stands_out_and_lies_where_its_place_says() -> None:
    for scene in scenes("train", 200) + scenes("shifted", 200):
        cells = [thing.cell for thing in scene.things]
        assert cells == sorted(set(cells))
        for thing in scene.things:
            assert world.place_of(thing.x, thing.y, scene.width, scene.height) == thing.cell
            assert np.linalg.norm(np.subtract(thing.rgb, scene.rgb)) >= world.MIN_CONTRAST


def test_training_sees_the_pixels_that_the_program_sees() -> None:
    for pictures in (1, 3):
        images = [draw(scene).image for scene in scenes("train", pictures)]
        side = 168 if pictures == 1 else 112
        trained = (
            patches_of_pixels(torch.from_numpy(pixels_of(images))).unflatten(2, (3, 1, 196)).expand(-1, -1, 3, 2, 196)
        )
        for image, patches in zip(images, trained.flatten(2), strict=True):
            seen = preprocess(image, pictures, preprocess_options())
            assert seen.patches is not None
            assert seen.plan.vit_tokens == (side // 28) ** 2
            np.testing.assert_allclose(patches.numpy(), seen.patches, atol=1e-6)


def test_pictures_of_every_size_become_the_same_number_of_tokens() -> None:
    for pictures, tokens in ((1, 36), (2, 16)):
        sizes = [(side, max(1, side // part)) for side in range(28, 1500) for part in (1, 3)]
        plans = [plan_picture(size, pictures, preprocess_options()) for size in sizes]
        assert {plan.vit_tokens for plan in plans} == {tokens}


@pytest.mark.parametrize("pictures", [0, 1, 3])
def test_training_prompts_have_the_ids_of_the_programs_prompts(
    encoder: Encoder, prompts: PromptBuilder, pictures: int
) -> None:
    for question in ("Describe the given image.", "what colour is it", "How many objects are there?"):
        turns = place_pictures([Message("user", question)], [0], pictures)
        assert prompt_ids(encoder, pictures, 1, question) == list(prompts.build(turns, think=False).input_ids)


@pytest.mark.parametrize("attached", [[1, 0], [0, 2], [1, 1], [8, 0]])
def test_later_turns_have_the_ids_of_the_programs_prompts(
    encoder: Encoder, prompts: PromptBuilder, attached: list[int]
) -> None:
    asked = [Question("count", "How many objects are there?", "Two."), Question("read", "Read the text.", "None.")]
    row = turns_row(encoder, attached, 1, asked)
    messages = [Message("user", asked[0].text), Message("assistant", "Two."), Message("user", asked[1].text)]
    turns = place_pictures(messages, [attached[0], 0, attached[1]], 0)
    ids = list(prompts.build(turns, think=False).input_ids)
    assert row.ids[: len(ids)] == ids
    assert row.ids[len(ids) :] == encoder.encode("None.<|im_end|>")
    assert [label for label in row.label if label != IGNORE] == encoder.encode("Two.<|im_end|>") + row.ids[len(ids) :]
    assert sorted(set(row.answer)) == [0, 1, 2]


MIXED = Mix(several=0.15, clips=0.2, conversations=0.35, talk=0.05, crowded=0.1)


def test_slots_see_their_own_prefix_and_branch_only(encoder: Encoder) -> None:
    batch = collate([random_sample(encoder, world.rng_for("train", i), MIXED) for i in range(12)], encoder.pad_id)
    samples, prefix, rows, length = batch.layout.sizes()
    assert len(batch.layout.owner_R) == rows
    assert len(batch.ids_T) == samples * prefix + rows * length
    visible_RLT = batch.layout.bias_RLT == 0
    lengths = torch.tensor([sample.row.parts()[0] for sample in batch.samples])
    in_prefix = torch.arange(prefix) < lengths[batch.layout.owner_R][:, None]
    assert (visible_RLT[:, :, :prefix] == in_prefix[:, None]).all()
    assert not visible_RLT[:, :, prefix:].triu(1).any()
    slots = sum(len(group.slots_N) for group in batch.pictures)
    assert slots == (batch.ids_T == PICTURE).sum()


@pytest.mark.usefixtures("one_thread")
def test_an_answer_is_as_likely_in_a_padded_batch_of_slots_as_in_a_conversation_of_its_own(encoder: Encoder) -> None:
    model, _ = load_exported(MINI)
    mixed = [random_sample(encoder, world.rng_for("train", i), MIXED) for i in range(120)]
    filled = {shape: part for part, shape in parted(mixed)}
    assert set(filled) == {*SHAPES, None}
    for shape, part in filled.items():
        batch = collate(part, encoder.pad_id, shape)
        if shape:
            assert batch.layout.sizes()[:2] == (shape.samples, shape.prefix)
        with torch.inference_mode():
            logits, _ = answer_logits(model, batch)
        number = 0
        for sample in part:
            for question in sample.asked:
                number += 1
                if sample.row.branch[-1] > 1:  # branches: each is a conversation of one turn
                    tokens = sample.row.ids.count(PICTURE) // len(sample.labels)
                    row = turns_row(encoder, [len(sample.labels)], tokens, [question])
                    if row.ids[: row.parts()[0]] != sample.row.ids[: sample.row.parts()[0]]:
                        continue  # another system prompt
                    with torch.inference_mode():
                        alone = collate([replace(sample, asked=[question], row=row)], encoder.pad_id)
                        expected, _ = answer_logits(model, alone)
                    assert torch.allclose(logits[batch.answer_N == number], expected, atol=1e-3)


def test_a_grown_model_computes_what_the_old_one_did(encoder: Encoder) -> None:
    model, _ = load_exported(MINI)
    larger = grown(model, model.config.vision_depth + 1, model.config.num_hidden_layers + 1)
    batch = collate([random_sample(encoder, world.rng_for("train", i), MIXED) for i in range(6)], encoder.pad_id)
    with torch.inference_mode():
        assert torch.allclose(answer_logits(model, batch)[0], answer_logits(larger, batch)[0], atol=1e-4)


def test_crowded_scenes_are_full_and_ask_nothing(encoder: Encoder) -> None:
    scenes_drawn = [crowds.crowded_scene(world.rng_for("train", index)) for index in range(SCENES)]
    drawings = [draw(scene) for scene in scenes_drawn]
    shown = [len(scene.things) + len(found.characters) for scene, found in zip(scenes_drawn, drawings, strict=True)]
    assert sum(shown) / SCENES > 6
    sample = make_sample(encoder, Task([scenes_drawn[0]], []))
    assert sample.row.parts() == (len(sample.row.ids), [])


@pytest.mark.parametrize("name", CURRICULA)
def test_a_curriculum_fills_its_run_and_ends_still(name: str) -> None:
    curriculum = CURRICULA[name]
    assert sum(stage.share for stage in curriculum.stages) == pytest.approx(1)
    assert len({curriculum.stage_at(i / 100).name for i in range(100)}) == len(curriculum.stages)
    alone = next((stage.share for stage in curriculum.stages if stage.dense_only), 0.0)
    factors = [curriculum.lr_factor(i / 100, 1000) for i in range(101) if i / 100 >= alone]
    assert factors == sorted(factors, reverse=True)
    assert curriculum.dense_weight(0.95) == 0
    if alone < 1:  # a run of the tower alone is only a beginning
        assert factors[0] <= curriculum.peak
        assert factors[-1] < 0.03


def test_a_pair_is_two_objects_of_one_shape() -> None:
    paired = 0
    for index in range(SCENES):
        rng = world.rng_for("train", index)
        scene = make_scene(rng, 3)
        if len(scene.things) == 3:
            after = with_a_pair(rng, scene)
            assert [thing.cell for thing in after.things] == [thing.cell for thing in scene.things]
            assert sum(a != b for a, b in zip(scene.things, after.things, strict=True)) <= 1
            paired += len({thing.shape for thing in after.things}) < 3
    assert paired > SCENES / 2


def test_clips_and_several_pictures_ask_only_what_they_show() -> None:
    for index in range(SCENES):
        pictures, asked = several.several_pictures(world.rng_for("train", index))
        assert 2 <= len(pictures) <= 8
        for question in asked:
            if question.kind == "which":
                number = int(question.answer.removeprefix("Picture ").rstrip("."))
                assert 1 <= number <= len(pictures)
        frames, asked = clips.clip(world.rng_for("train", index))
        assert 4 <= len(frames) <= 16
        assert asked[0].kind == "describe clip"
        assert all(t.x - t.radius * 0.9 >= 0 and t.x <= frame.width for frame in frames for t in frame.things)


def test_what_changed_tells_the_two_pictures_apart() -> None:
    told = set()
    for index in range(SCENES):
        (before, after), asked = several.changed_pictures(world.rng_for("train", index))
        answer = next(q.answer for q in asked if q.kind == "changed")
        assert (before.things == after.things) == (answer == "Nothing changed.")
        told.add(answer.rsplit(" ", 1)[-1])
    assert {"appeared.", "disappeared.", "changed."} <= told


def test_a_conversation_asks_anything_at_any_turn() -> None:
    kinds = [[q.kind for q in talk.about_one_picture(world.rng_for("train", i)).asked] for i in range(5 * SCENES)]
    assert sum(found[0] == "fresh" for found in kinds) > SCENES
    assert sum("fresh" in found[1:] for found in kinds) > 2 * SCENES
    assert sum("turn" in found[1:] for found in kinds) > 2 * SCENES


def test_the_second_picture_of_a_pair_is_labelled_where_it_differs(encoder: Encoder) -> None:
    change, told, rng = NAMES.index("change"), set(), world.rng_for("train", 0)
    for index in range(SCENES):
        pictures, asked = several.changed_pictures(world.rng_for("train", index))
        first, second = make_sample(encoder, Task(pictures, asked)).labels
        assert (first.classes[:, change] == NOT_LEARNED).all()
        differs = second.classes[:, change] == 1
        assert differs.any() == (asked[0].answer != "Nothing changed.")
        assert not differs.all()
        told.add(bool(differs.any()))
    assert len(told) == 2
    for pictures, asked in (clips.clip(rng), several.several_pictures(rng)):
        unlabelled = make_sample(encoder, Task(pictures, asked)).labels
        assert all((picture.classes[:, change] == NOT_LEARNED).all() for picture in unlabelled)


def test_heads_with_a_label_more_keep_what_the_old_ones_know() -> None:
    old, new = DenseHeads(8).state_dict(), DenseHeads(8)
    new.load_first({name: tensor[:-2] if name.startswith("decoder.out") else tensor for name, tensor in old.items()})
    for name, tensor in new.state_dict().items():
        known = len(tensor) - 2 if name.startswith("decoder.out") else len(tensor)
        assert torch.equal(tensor[:known], old[name][:known])


def test_every_turn_of_a_conversation_has_its_answer_and_its_pictures() -> None:
    for index in range(3 * SCENES):
        said = talk.conversation(world.rng_for("train", index))
        assert 2 <= len(said.asked) <= talk.MOST_TURNS
        assert sum(said.attached[: len(said.asked)]) == len(said.scenes)


def test_an_absent_object_is_absent() -> None:
    for index in range(SCENES):
        rng = world.rng_for("train", index)
        scene = make_scene(rng)
        missing = questions.absent(rng, scene).answer.removeprefix("There is no ").rstrip(".")
        assert not any(missing in (t.shape, questions.name(t)) for t in scene.things)


def test_the_exam_gives_every_item_its_lines_and_shuffles_every_picture(encoder: Encoder) -> None:
    for split in exam.SPLITS:
        items = exam.make_items(split, per_kind=3, others=3)
        assert [item.rows[0] for item in items] == [kind.name for kind in exam.KINDS for _ in range(3)]
        samples = [make_sample(encoder, item.task()) for item in items]
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
