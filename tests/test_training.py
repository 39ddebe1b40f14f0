"""How valley-mini is made: what training sees is what the program sees, and nothing held out is ever trained on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import inside
from training import clips, curriculum, phrases, questions, several, talk, world
from training.batches import answer_logits, collate, parted
from training.data import Mix, Task, make_sample, pixels_of, preprocess_options, random_sample
from training.draw import draw
from training.evaluate import interval
from training.exam import EXAM, SPLITS, exam_items, shuffled
from training.folder import SHARED, load_model, shipped_config
from training.labels import NAMES, NOT_LEARNED
from training.loop import Job, Trainer
from training.model import ModelConfig, patches_of_pixels
from training.questions import Question
from training.rows import IGNORE, PICTURE, branches_row, turns_row
from training.scenes import crowded_scene, make_scene
from training.tokenizer import SHIPPED, SYSTEM, Encoder
from valley_cli.api import Message
from valley_cli.engine.checkpoint.tokenizer import load_tokenizer
from valley_cli.engine.families.valley.preprocess import plan_picture, preprocess
from valley_cli.engine.families.valley.prompt import PromptBuilder, place_pictures

ROOT = Path(__file__).parent.parent
SCENES = 30


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    return PromptBuilder(load_tokenizer(SHIPPED))


def scenes(count: int = SCENES) -> list[world.Scene]:
    return [make_scene(world.dice_for(index), with_text=0.3) for index in range(count)]


def frozen(split: str) -> list[dict[str, Any]]:
    """The exam's items as they lie in the file, with what their pictures show."""
    found: list[dict[str, Any]] = json.loads((EXAM / f"{split}.json").read_text())
    return found


def test_the_same_seed_gives_the_same_scene_pixels_and_questions() -> None:
    for index, scene in enumerate(scenes()):
        again = make_scene(world.dice_for(index), with_text=0.3)
        assert again == scene
        assert draw(again).image.tobytes() == draw(scene).image.tobytes()
        asked = [questions.ask_all(world.dice_for(index), s) for s in (scene, again)]
        assert asked[0] == asked[1]


@pytest.mark.parametrize("split", SPLITS)
def test_no_picture_of_the_exam_is_drawn_in_training(split: str) -> None:
    drawn = {frozenset((t.shape, t.colour, t.rgb) for t in scene.things) for scene in scenes(2000)}
    shown = {frozenset((s, c, tuple(rgb)) for s, c, rgb in item["objects"]) for item in frozen(split)}
    assert len(shown) > 100
    assert not (drawn & shown) - {frozenset()}


def test_the_shifted_exam_shows_pairs_that_training_never_draws() -> None:
    trained = {(t.colour, t.shape) for scene in scenes(500) for t in scene.things}
    shown = {(colour, shape) for item in frozen("shifted") for shape, colour, _ in item["objects"]}
    assert not trained & set(world.HELD_OUT_PAIRS)
    assert len(shown & set(world.HELD_OUT_PAIRS)) > 5


@pytest.mark.parametrize(
    ("told", "trained", "varied"),
    [
        ("objects", world.COLOURS, world.VARIED),
        ("backgrounds", world.BACKGROUNDS, world.BACKGROUND_VARIED),
    ],
)
def test_no_shade_of_the_shifted_exam_can_be_drawn_in_training(told: str, trained: world.Shades, varied: int) -> None:
    lines = [np.linspace(a, b, 256) for shades in trained.values() for a, b in combinations(shades, 2)]
    shown = {tuple(rgb) for item in frozen("shifted") for *_, rgb in item[told]}
    assert len(shown) > 100
    for rgb in shown:
        assert min(np.abs(line - rgb).max(1).min() for line in lines) > varied + 0.5, rgb  # of the rounding


def test_no_held_out_pair_comes_into_training_by_a_change() -> None:
    changed = 0
    for index in range(600):
        for make in (several.changed_pictures, clips.clip):
            pictures, asked = make(world.dice_for(index))
            looks = {(thing.colour, thing.shape) for scene in pictures for thing in scene.things}
            assert not looks & set(world.HELD_OUT_PAIRS)
            changed += any(word in asked[0].answer for word in ("changed colour", "changes colour", "became"))
    assert changed > 100


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
    assert len(phrases.FORMS) > 35
    for forms in phrases.FORMS.values():
        assert forms["held_out"]
        assert all(pattern.fullmatch(phrases.bare(form.format(**filled))) for form in forms["held_out"])
        asked = [opening + form.format(**filled) for form in forms["trained"] for opening in ("", *phrases.OPENINGS)]
        assert not any(pattern.fullmatch(phrases.bare(question)) for question in asked)


def test_the_shifted_exam_asks_in_words_that_are_held_out() -> None:
    talked = {phrases.bare(text) for asked, _ in phrases.TALK for text in asked}
    for item in frozen("shifted"):
        for text, *_ in item["turns"]:
            for opening in phrases.OPENINGS:
                text = text.removeprefix(opening)
            for british, american in phrases.SPELLINGS:
                text = re.sub(american, british, text)
            assert phrases.held_out_pattern().fullmatch(phrases.bare(text)) or phrases.bare(text) in talked, text


def test_a_disturbed_question_is_none_of_those_held_out() -> None:
    rng = world.dice_for(0)
    held_out = {phrases.bare(form.format(a_thing="a star")) for form in phrases.FORMS["exists"]["held_out"]}
    asked = {phrases.bare(phrases.ask(rng, "exists", a_thing="a star")) for _ in range(20_000)}
    assert len(asked) > 1000
    assert not asked & held_out


def test_every_object_stands_out_and_lies_where_its_place_says() -> None:
    for scene in scenes(400):
        cells = [thing.cell for thing in scene.things]
        assert cells == sorted(set(cells))
        for thing in scene.things:
            assert world.place_of(thing.x, thing.y, scene.width, scene.height) == thing.cell
            assert np.linalg.norm(np.subtract(thing.rgb, scene.rgb)) >= world.MIN_CONTRAST


def test_training_sees_the_pixels_that_the_program_sees() -> None:
    for pictures in (1, 3):
        images = [draw(scene).image for scene in scenes(pictures)]
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
        row = branches_row(encoder, pictures, 1, [Question("count", question, "Two.")])
        assert row.ids == list(prompts.build(turns, think=False).input_ids) + encoder.encode("Two.<|im_end|>")


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


MIXED = Mix({"several": 0.15, "clips": 0.2, "conversations": 0.35, "talk": 0.05, "crowded": 0.1})


def test_slots_see_their_own_prefix_and_branch_only(encoder: Encoder) -> None:
    batch = collate([random_sample(encoder, world.dice_for(i), MIXED) for i in range(12)], encoder.pad_id)
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
    model, compared = load_model(SHIPPED), 0
    mixed = [random_sample(encoder, world.dice_for(i), MIXED) for i in range(60)]
    assert sorted(map(id, (sample for part in parted(mixed) for sample in part))) == sorted(map(id, mixed))
    for part in parted(mixed):
        batch = collate(part, encoder.pad_id)
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
                    compared += 1
    assert compared > 100


def test_crowded_scenes_are_full_and_ask_nothing(encoder: Encoder) -> None:
    crowded = [crowded_scene(world.dice_for(index)) for index in range(SCENES)]
    assert sum(len(draw(scene).characters) for scene in crowded) / SCENES > 6
    sample = make_sample(encoder, Task([crowded[0]], []))
    assert sample.row.parts() == (len(sample.row.ids), [])


def test_the_curriculum_fills_its_run_teaches_every_kind_and_ends_still() -> None:
    assert sum(stage.share for stage in curriculum.STAGES) == pytest.approx(1)
    stages = [curriculum.stage_at(i / 100) for i in range(100)]
    assert tuple(dict.fromkeys(stage.name for stage in stages)) == tuple(stage.name for stage in curriculum.STAGES)
    alone = curriculum.STAGES[0].share
    factors = [curriculum.lr_factor(i / 100, 1000) for i in range(101) if i / 100 >= alone]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] <= 1
    assert factors[-1] < 0.03
    assert curriculum.dense_weight(0.95) == 0
    assert curriculum.lr_factor(0, 0) < 0.05


def test_clips_and_several_pictures_ask_only_what_they_show() -> None:
    for index in range(SCENES):
        pictures, asked = several.several_pictures(world.dice_for(index))
        assert 2 <= len(pictures) <= 8
        for question in asked:
            if question.kind == "which":
                number = int(question.answer.removeprefix("Picture ").rstrip("."))
                assert 1 <= number <= len(pictures)
        frames, asked = clips.clip(world.dice_for(index))
        assert 4 <= len(frames) <= 16
        assert asked[0].kind == "describe clip"
        assert all(t.x - t.radius * 0.9 >= 0 and t.x <= frame.width for frame in frames for t in frame.things)


def test_what_changed_tells_the_two_pictures_apart() -> None:
    told = set()
    for index in range(SCENES):
        (before, after), asked = several.changed_pictures(world.dice_for(index))
        answer = next(q.answer for q in asked if q.kind == "changed")
        assert (before.things == after.things) == (answer == "Nothing changed.")
        told.add(answer.rsplit(" ", 1)[-1])
    assert {"appeared.", "disappeared.", "changed."} <= told


def test_a_conversation_asks_anything_at_any_turn() -> None:
    kinds = [[q.kind for q in talk.about_one_picture(world.dice_for(i)).asked] for i in range(5 * SCENES)]
    assert sum(found[0] == "fresh" for found in kinds) > SCENES
    assert sum("fresh" in found[1:] for found in kinds) > 2 * SCENES
    assert sum("turn" in found[1:] for found in kinds) > 2 * SCENES


def test_the_second_picture_of_a_pair_is_labelled_where_it_differs(encoder: Encoder) -> None:
    change, told, rng = NAMES.index("change"), set(), world.dice_for(0)
    for index in range(SCENES):
        pictures, asked = several.changed_pictures(world.dice_for(index))
        first, second = make_sample(encoder, Task(pictures, asked)).labels
        assert (first[:, change] == NOT_LEARNED).all()
        differs = second[:, change] == 1
        assert differs.any() == (asked[0].answer != "Nothing changed.")
        assert not differs.all()
        told.add(bool(differs.any()))
    assert len(told) == 2
    for pictures, asked in (clips.clip(rng), several.several_pictures(rng)):
        unlabelled = make_sample(encoder, Task(pictures, asked)).labels
        assert all((picture[:, change] == NOT_LEARNED).all() for picture in unlabelled)


def test_every_turn_of_a_conversation_has_its_answer_and_its_pictures() -> None:
    for index in range(3 * SCENES):
        said = talk.conversation(world.dice_for(index))
        assert 2 <= len(said.asked) <= talk.MOST_TURNS
        assert sum(said.attached[: len(said.asked)]) == len(said.scenes)


def test_an_absent_object_is_absent() -> None:
    for index in range(SCENES):
        rng = world.dice_for(index)
        scene = make_scene(rng)
        missing = questions.absent(rng, scene).answer.removeprefix("There is no ").rstrip(".")
        assert not any(missing in (t.shape, questions.name(t)) for t in scene.things)


@pytest.mark.parametrize("split", SPLITS)
def test_the_exam_has_every_kind_and_shuffles_every_picture(split: str) -> None:
    items = exam_items(split)
    assert len({item.kind for item in items}) == 19
    assert len(exam_items(split, per_kind=3)) == 3 * 19
    for item in shuffled(items):
        own = next(other for other in items if other.turns == item.turns)
        assert (own.pictures, own.kind) == (item.pictures, item.kind)
        assert own.first != item.first
    low, high = interval(90, 100)
    assert low < 0.9 < high


def test_the_chat_template_ignores_the_thinking_switch(prompts: PromptBuilder) -> None:
    turns = place_pictures([Message("user", "Hello.")], [0], 0)
    texts = {prompts.build(turns, think).text for think in (True, False, None)}
    assert texts == {
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"
    }


def test_new_models_have_the_shipped_sizes() -> None:
    assert shipped_config() == ModelConfig()


@pytest.mark.usefixtures("one_thread")
def test_the_same_seed_makes_the_same_weights(tmp_path: Path) -> None:
    made = []
    for seed in (1, 1, 2):
        trainer = Trainer(Job(tmp_path, 60, 2, seed))
        trainer.train_step()
        made.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_one_command_makes_a_model_that_the_program_opens_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "training.train", "--out", str(tmp_path), "--batch", "2", "--per-kind", "1"]
    for workers, minutes, more in (("2", "0.03", ()), ("1", "0.06", ("--resume",))):
        run = [*command, "--workers", workers, "--minutes", minutes, *more]
        subprocess.run(run, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    steps = [int(step) for step in re.findall(r"done step (\d+)", (tmp_path / "log.txt").read_text())]
    assert steps[1] > steps[0] > 0
    folder = tmp_path / "valley-mini"
    for name in SHARED:
        assert (folder / name).read_bytes() == (SHIPPED / name).read_bytes()
    card = (folder / "README.md").read_text()
    assert f"{steps[1]} steps" in card
    assert "| whole description | 1 |" in card
    image = str(ROOT / "examples" / "star.png")
    assert inside("describe", image, "-m", str(folder), "--max-new-tokens", "8", "--json") == 0
    assert json.loads(capsys.readouterr().out)["usage"]["completion_tokens"] > 0
