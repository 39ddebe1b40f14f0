"""Who runs next, who holds which slot, and what a slot is reused for."""

from __future__ import annotations

from valley_cli.engine.base import Sampling
from valley_cli.engine.detokenize import Detokenizer
from valley_cli.engine.scheduler import Scheduler, shared_units
from valley_cli.engine.sequence import PictureUnit, Sequence, Unit, count_tokens

PHOTO = PictureUnit("photo", 100)
SYSTEM: tuple[Unit, ...] = (1, 2, 3)


def sequence(*units: Unit) -> Sequence:
    tokens = count_tokens(units)
    return Sequence(None, tokens, (), 10, Sampling(), (), Detokenizer(lambda token: b""), units=units)


def run(scheduler: Scheduler, *units: Unit, answer: tuple[int, ...] = (70, 71)) -> Sequence:
    """Let one request come, be answered and go; where it sat stays on it."""
    found = sequence(*units)
    scheduler.add(found)
    assert scheduler.next_step().prefill is found
    scheduler.has_read(found)
    found.length = found.prompt_tokens + len(answer) - 1
    found.new_ids = [*answer]
    slot = found.slot
    scheduler.release(found)
    found.slot = slot
    return found


def test_the_next_turn_continues_where_the_last_one_stopped() -> None:
    scheduler = Scheduler(4)
    first = run(scheduler, *SYSTEM, PHOTO, 10, 11)
    second = run(scheduler, *SYSTEM, PHOTO, 10, 11, 70, 20, 21)
    assert second.slot == first.slot
    assert second.reused_tokens == 3 + 100 + 2 + 1  # the answer's last token was never read back
    assert second.reused_units == 3 + 1 + 2 + 1


def test_another_question_about_the_same_picture_keeps_the_picture() -> None:
    scheduler = Scheduler(4)
    run(scheduler, *SYSTEM, PHOTO, 10, answer=tuple(range(500, 900)))
    assert run(scheduler, *SYSTEM, PHOTO, 30).reused_tokens == 103


def test_another_conversation_does_not_take_a_slot_for_a_system_prompt() -> None:
    scheduler = Scheduler(4)
    first = run(scheduler, *SYSTEM, PHOTO, 10)
    other = run(scheduler, *SYSTEM, PictureUnit("drawing", 100), 10)
    assert other.slot != first.slot
    assert other.reused_tokens == 0
    assert run(scheduler, *SYSTEM, PHOTO, 10, 70, 20).slot == first.slot


def test_the_last_token_is_always_computed() -> None:
    assert shared_units((1, 2, 3), (1, 2, 3)) == 2
    assert shared_units((1, 2, 3, 4), (1, 2)) == 1
    assert shared_units((), (1, 2)) == shared_units((1, 2), ()) == 0


def test_no_more_slots_are_kept_than_allowed_and_the_oldest_goes_first() -> None:
    scheduler = Scheduler(16, kept=2)
    pictures = [PictureUnit(str(n), 50) for n in range(5)]
    slots = [run(scheduler, picture, 1).slot for picture in pictures]
    assert slots == [0, 1, 0, 1, 0]
    assert [units[0] for units in scheduler.held.values()] == pictures[3:]


def test_a_broken_sequence_leaves_nothing_to_reuse() -> None:
    scheduler = Scheduler(2)
    broken = sequence(PHOTO, 1)
    scheduler.add(broken)
    scheduler.next_step()
    broken.length = 101
    scheduler.release(broken, intact=False)
    assert run(scheduler, PHOTO, 1).reused_tokens == 0


def test_every_slot_is_free_again_after_all_have_gone() -> None:
    scheduler = Scheduler(3)
    sequences = [sequence(n) for n in range(5)]
    for waiting in sequences:
        scheduler.add(waiting)
    for expected in sequences[:3]:
        while (step := scheduler.next_step()).prefill is None:
            pass
        assert step.prefill is expected
        scheduler.has_read(expected)
    assert scheduler.next_step().decode == tuple(sequences[:3])
    for gone in sequences:
        scheduler.release(gone)
    assert scheduler.idle
    assert sorted([*scheduler.empty_slots, *scheduler.held]) == [0, 1, 2]


def test_a_long_prompt_is_read_in_turn_with_the_answers() -> None:
    scheduler = Scheduler(4)
    answering, reading = sequence(1, 2), sequence(3, 4)
    scheduler.add(answering)
    scheduler.next_step()
    scheduler.has_read(answering)
    scheduler.add(reading)
    steps = [scheduler.next_step() for _ in range(6)]
    assert [step.decode for step in steps[::2]] == [(answering,)] * 3
    assert [step.prefill for step in steps[1::2]] == [reading] * 3
    scheduler.has_read(reading)
    assert scheduler.next_step().decode == (answering, reading)


def test_a_prompt_half_read_is_not_kept() -> None:
    scheduler = Scheduler(2)
    half = sequence(PHOTO, 1)
    scheduler.add(half)
    scheduler.next_step()
    half.length = 50
    half.cancelled = True
    assert scheduler.cancelled() == [half]
    scheduler.release(half)
    assert scheduler.idle
    assert not scheduler.held


def test_a_turn_that_is_interrupted_while_it_is_read_keeps_what_it_took_over() -> None:
    scheduler = Scheduler(2)
    run(scheduler, *SYSTEM, PHOTO, 10)
    interrupted = sequence(*SYSTEM, PHOTO, 10, 70, 20, 21)
    scheduler.add(interrupted)
    scheduler.next_step()
    scheduler.release(interrupted)
    assert run(scheduler, *SYSTEM, PHOTO, 10, 70, 30).reused_tokens >= 103
