"""Who runs next, who holds which slot, what a slot is reused for, and what happens when memory runs out."""

from __future__ import annotations

import itertools
import random

from valley_cli.api import Sampling
from valley_cli.engine.families.base import MediaUnit, Unit, count_tokens
from valley_cli.engine.schedule.detokenize import Detokenizer
from valley_cli.engine.schedule.scheduler import Scheduler, shared_units
from valley_cli.engine.schedule.sequence import Sequence
from valley_cli.engine.schedule.slots import Slot, SlotAllocator, compact, rounded

PHOTO = MediaUnit("photo", 100)
SYSTEM: tuple[Unit, ...] = (1, 2, 3)


def sequence(*units: Unit) -> Sequence:
    tokens = count_tokens(units)
    return Sequence(None, tokens, (), 10, Sampling(), (), Detokenizer(lambda token: b""), units=units)


def make(tokens: int = 4096, max_running: int = 4, kept: int = 16) -> Scheduler:
    return Scheduler(SlotAllocator(tokens), max_running, kept)


def begin(scheduler: Scheduler, found: Sequence) -> Sequence:
    """Let ``found`` come and be read."""
    scheduler.add(found)
    while (step := scheduler.next_step()).prefill == ():
        assert step.decode, "nobody runs and nobody is read"
    assert step.prefill == (found,)
    read(scheduler, found)
    return found


def read(scheduler: Scheduler, found: Sequence) -> None:
    found.length = found.prompt_tokens
    scheduler.start_decoding(found)


def run(scheduler: Scheduler, *units: Unit, answer: tuple[int, ...] = (70, 71)) -> Sequence:
    """Let one request come, be answered and go; where it sat stays on it."""
    found = begin(scheduler, sequence(*units))
    found.length = found.prompt_tokens + len(answer) - 1
    found.new_ids = [*answer]
    slot = found.slot
    scheduler.release(found)
    found.slot = slot
    return found


def test_the_next_turn_continues_where_the_last_one_stopped() -> None:
    scheduler = make(max_running=4)
    first = run(scheduler, *SYSTEM, PHOTO, 10, 11)
    second = run(scheduler, *SYSTEM, PHOTO, 10, 11, 70, 20, 21)
    assert second.slot == first.slot
    assert second.reused_tokens == 3 + 100 + 2 + 1  # the answer's last token was never read back
    assert second.reused_units == 3 + 1 + 2 + 1


def test_another_question_about_the_same_picture_keeps_the_picture() -> None:
    scheduler = make(max_running=4)
    run(scheduler, *SYSTEM, PHOTO, 10, answer=tuple(range(500, 900)))
    assert run(scheduler, *SYSTEM, PHOTO, 30).reused_tokens == 103


def test_another_conversation_does_not_take_a_slot_for_a_system_prompt() -> None:
    scheduler = make(max_running=4)
    first = run(scheduler, *SYSTEM, PHOTO, 10)
    other = run(scheduler, *SYSTEM, MediaUnit("drawing", 100), 10)
    assert other.slot != first.slot
    assert other.reused_tokens == 0
    assert run(scheduler, *SYSTEM, PHOTO, 10, 70, 20).slot == first.slot


def test_the_last_token_is_always_computed() -> None:
    assert shared_units((1, 2, 3), (1, 2, 3)) == 2
    assert shared_units((1, 2, 3, 4), (1, 2)) == 1
    assert shared_units((), (1, 2)) == shared_units((1, 2), ()) == 0


def test_no_more_slots_are_kept_than_allowed_and_the_oldest_goes_first() -> None:
    scheduler = make(max_running=16, kept=2)
    pictures = [MediaUnit(str(n), 50) for n in range(5)]
    for picture in pictures:
        run(scheduler, picture, 1)
    assert [units[0] for units in scheduler.prefix_cache.values()] == pictures[3:]


def test_a_broken_sequence_leaves_nothing_to_reuse() -> None:
    scheduler = make(max_running=2)
    broken = sequence(PHOTO, 1)
    scheduler.add(broken)
    scheduler.next_step()
    broken.length = 101
    scheduler.release(broken, intact=False)
    assert run(scheduler, PHOTO, 1).reused_tokens == 0


def test_all_room_is_free_again_after_all_have_gone() -> None:
    scheduler = make(max_running=3)
    sequences = [sequence(n) for n in range(5)]
    for waiting in sequences:
        scheduler.add(waiting)
    assert scheduler.next_step().prefill == tuple(sequences[:3])  # short ones are read together
    for found in sequences[:3]:
        read(scheduler, found)
    assert scheduler.next_step().decode == tuple(sequences[:3])
    for gone in sequences:
        scheduler.release(gone)
    assert scheduler.idle
    scheduler.drop_prefix_cache()
    assert scheduler.allocator.take(4096) == Slot(0, 4096)


def test_a_long_prompt_is_read_in_turn_with_the_answers() -> None:
    scheduler = make(max_running=4)
    answering, reading = sequence(1, 2), sequence(3, 4)
    scheduler.add(answering)
    scheduler.next_step()
    scheduler.start_decoding(answering)
    scheduler.add(reading)
    steps = [scheduler.next_step() for _ in range(6)]
    assert [step.decode for step in steps[::2]] == [(answering,)] * 3
    assert [step.prefill for step in steps[1::2]] == [(reading,)] * 3
    scheduler.start_decoding(reading)
    assert scheduler.next_step().decode == (answering, reading)


def test_a_prompt_half_read_is_not_kept() -> None:
    scheduler = make(max_running=2)
    half = sequence(PHOTO, 1)
    scheduler.add(half)
    scheduler.next_step()
    half.length = 50
    half.cancelled = True
    assert scheduler.cancelled() == [half]
    scheduler.release(half)
    assert scheduler.idle
    assert not scheduler.prefix_cache


def test_a_turn_that_is_interrupted_while_it_is_read_keeps_what_it_took_over() -> None:
    scheduler = make(max_running=2)
    run(scheduler, *SYSTEM, PHOTO, 10)
    interrupted = sequence(*SYSTEM, PHOTO, 10, 70, 20, 21)
    scheduler.add(interrupted)
    scheduler.next_step()
    scheduler.release(interrupted)
    assert run(scheduler, *SYSTEM, PHOTO, 10, 70, 30).reused_tokens >= 103


def test_the_first_in_the_queue_waits_for_room_and_nobody_overtakes_it() -> None:
    scheduler = make(tokens=256)
    first, long, short = sequence(PHOTO), sequence(MediaUnit("big", 200)), sequence(1)
    begin(scheduler, first)
    scheduler.add(long)
    scheduler.add(short)
    assert [scheduler.next_step().decode for _ in range(3)] == [(first,)] * 3
    scheduler.release(first)
    assert scheduler.next_step().prefill == (long,)
    read(scheduler, long)
    scheduler.next_step()
    assert scheduler.next_step().decode == (long,)


def test_what_is_only_kept_gives_way_the_longest_unused_first() -> None:
    scheduler = make(tokens=512)
    for name in "abc":
        run(scheduler, MediaUnit(name, 100))
    assert len(scheduler.prefix_cache) == 3
    run(scheduler, MediaUnit("a", 100), 5)
    run(scheduler, MediaUnit("d", 200))
    assert [units[0].key for units in scheduler.prefix_cache.values() if isinstance(units[0], MediaUnit)][:2] == [
        "a",
        "d",
    ]


def test_nothing_that_is_kept_gives_way_for_one_that_has_to_wait_all_the_same() -> None:
    scheduler = make(tokens=512)
    run(scheduler, MediaUnit("kept", 100))
    running = begin(scheduler, sequence(MediaUnit("runs", 200)))
    scheduler.add(sequence(MediaUnit("long", 400)))
    assert [scheduler.next_step().decode for _ in range(3)] == [(running,)] * 3
    assert [units[0].key for units in scheduler.prefix_cache.values() if isinstance(units[0], MediaUnit)] == ["kept"]
    scheduler.release(running, intact=False)
    assert scheduler.next_step().prefill
    assert not scheduler.prefix_cache


def test_what_is_kept_gives_way_where_it_and_the_holes_beside_it_are_room_together() -> None:
    scheduler = make(tokens=512)
    run(scheduler, MediaUnit("kept", 100))
    scheduler.add(sequence(MediaUnit("long", 480)))
    assert scheduler.allocator.largest() < 490 <= scheduler.allocator.largest(scheduler.prefix_cache) == 512
    step = scheduler.next_step()
    assert step.prefill
    assert step.prefill[0].slot == Slot(0, 512)


def test_a_question_beside_one_that_runs_starts_from_a_copy_of_what_both_begin_with() -> None:
    scheduler = make()
    first = begin(scheduler, sequence(*SYSTEM, PHOTO, 10))
    second = begin(scheduler, sequence(*SYSTEM, PHOTO, 20))
    assert second.source == first.slot
    assert second.slot != first.slot
    assert (second.reused_units, second.reused_tokens) == (4, 103)


def test_a_second_turn_that_outgrows_its_segment_takes_the_room_behind_it() -> None:
    scheduler = make()
    first = run(scheduler, PHOTO, 10)
    second = run(scheduler, PHOTO, 10, 70, *range(300, 500))
    assert first.slot
    assert second.slot
    assert second.slot.start == first.slot.start
    assert second.slot.tokens >= second.reserved_tokens > first.slot.tokens


def test_the_newer_half_waits_again_in_its_order_when_memory_runs_out() -> None:
    scheduler = make()
    running = [begin(scheduler, sequence(n, n)) for n in range(4)]
    late = sequence(9)
    scheduler.add(late)
    running[3].new_ids = [70]
    assert scheduler.preempt_newer_half() == 2
    assert scheduler.running == running[:2]
    assert [*scheduler.waiting] == [*running[2:], late]
    assert running[3].slot is None
    assert running[3].length == 0
    assert running[3].all_units == (3, 3, 70)  # what it said is read again
    scheduler.next_step()
    assert scheduler.next_step().decode == tuple(running[:2])  # no more than they may run


def test_one_more_may_run_after_every_64_steps_that_went_well() -> None:
    scheduler = make()
    for n in range(4):
        begin(scheduler, sequence(n, n))
    scheduler.preempt_newer_half()
    allowed = []
    for _ in range(64 * 4):
        scheduler.on_good_step()
        allowed.append(scheduler.allowed)
    assert allowed == [2] * 63 + [3] * 64 + [4] * 129


def test_segments_never_overlap_and_holes_grow_together_again() -> None:
    rng = random.Random(3)
    space, taken = SlotAllocator(10_000), list[Slot]()
    for _ in range(2000):
        if taken and rng.random() < 0.5:
            space.give(taken.pop(rng.randrange(len(taken))))
        elif slot := space.take(rng.randrange(1, 1500)):
            taken.append(slot)
        elif taken and (longer := space.extend(taken[-1], taken[-1].tokens + rng.randrange(1, 200))):
            taken[-1] = longer
        ordered = sorted(taken)
        assert all(a.end <= b.start for a, b in itertools.pairwise(ordered))
        assert space.free + sum(slot.tokens for slot in taken) == 10_000
    space, moves = compact(taken, 10_000)
    assert [move.source for move in moves] == sorted(taken)
    for move in moves:
        space.give(move.target)
    assert space.take(10_000)


def test_a_size_is_rounded_up_by_no_more_than_an_eighth() -> None:
    assert all(n <= rounded(n) <= max(n * 1.125, n + 63) for n in range(1, 40_000))
