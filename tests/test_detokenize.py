"""Streaming text: whole characters, no part of a stop string, thinking apart from the answer."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from valley_cli.api import TextDelta, ThinkDelta
from valley_cli.engine.schedule.detokenize import Detokenizer, ThinkSplitter


def stream(pieces: list[bytes], **options: object) -> tuple[list[str], Detokenizer]:
    """What ``push`` and ``finish`` return for tokens that stand for ``pieces``."""
    detokenizer = Detokenizer(lambda index: pieces[index], **options)  # type: ignore[arg-type]
    shown = [detokenizer.push(index) for index in range(len(pieces))]
    return [*shown, detokenizer.finish()], detokenizer


def test_a_character_split_over_tokens_is_shown_whole() -> None:
    pieces = [bytes([byte]) for byte in "a谷🙂é".encode()]
    shown, _ = stream(pieces)
    assert "".join(shown) == "a谷🙂é"
    assert all("\ufffd" not in part for part in shown)


def test_broken_utf8_equals_decoding_the_whole() -> None:
    rng = random.Random(3)
    for _ in range(500):
        data = bytes(rng.choice([0x41, 0xC3, 0xA9, 0xE8, 0xB0, 0xB7, 0xF0, 0x9F, 0x99, 0x82, 0xFF]) for _ in range(12))
        cuts = sorted(rng.sample(range(13), 4))
        pieces = [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)])]
        assert "".join(stream(pieces)[0]) == data.decode("utf-8", errors="replace")


def test_a_stop_string_over_several_tokens_never_shows() -> None:
    shown, detokenizer = stream([b"Yes", b". E", b"N", b"D of", b" more"], stop=("END",))
    assert "".join(shown) == "Yes. "
    assert detokenizer.stopped
    assert not any("E" in part for part in shown)


def test_what_only_looked_like_a_stop_string_is_shown() -> None:
    shown, detokenizer = stream([b"a E", b"N", b"X b E", b"N"], stop=("END", "ENDE"))
    assert "".join(shown) == "a ENX b EN"
    assert not detokenizer.stopped


def test_the_earliest_of_several_stop_strings_counts() -> None:
    assert "".join(stream([b"one two three"], stop=("three", "two"))[0]) == "one "


def test_hidden_tokens_give_no_text() -> None:
    assert "".join(stream([b"a", b"<|im_end|>", b"b"], hidden={1})[0]) == "ab"


THOUGHT = "<think>\nIt is <vcues_1>red</vcues_1>, I think.\n</think>\n\n<answer>A < b\nline</answer>"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 200])
def test_thinking_and_answer_are_told_apart_however_the_text_is_cut(size: int) -> None:
    splitter = ThinkSplitter()
    chunks = [THOUGHT[at : at + size] for at in range(0, len(THOUGHT), size)]
    events = [event for chunk in chunks for event in splitter.push(chunk)] + splitter.push("", final=True)
    thinking = "".join(event.text for event in events if isinstance(event, ThinkDelta))
    answer = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert thinking == "It is <vcues_1>red</vcues_1>, I think."
    assert answer == "A < b\nline"


def test_text_without_tags_is_all_answer() -> None:
    splitter = ThinkSplitter()
    events = splitter.push("plain < text <thi") + splitter.push("", final=True)
    assert "".join(event.text for event in events) == "plain < text <thi"
    assert all(isinstance(event, TextDelta) for event in events)


def test_a_thought_cut_off_stays_a_thought() -> None:
    splitter = ThinkSplitter()
    events = splitter.push("<think>because") + splitter.push("", final=True)
    assert events == [ThinkDelta("because")]


def split(chunks: list[str]) -> tuple[str, str]:
    """(thinking, answer) of a text that comes in pieces."""
    splitter = ThinkSplitter()
    events = [event for chunk in chunks for event in splitter.push(chunk)] + splitter.push("", final=True)
    thinking = "".join(event.text for event in events if isinstance(event, ThinkDelta))
    return thinking, "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("Write <answer>x</answer> around it.", "", "Write <answer>x</answer> around it."),
        ("A <think> tag </think> here", "", "A <think> tag </think> here"),
        ("<think>Use <answer> and <think>.</think> Say </think>.", "Use <answer> and <think>.", " Say </think>."),
        ("<think>a</think>b <answer>c</answer>", "a", "b <answer>c</answer>"),
        (" \n<think>a</think> \n <answer>b</answer> \n", "a", "b"),
        ("<answer>b</answer>", "", "b"),
        ("<answer>End it with </answer>, so: </answer>", "", "End it with </answer>, so: "),
        ("<answer>b</answer> c", "", "b</answer> c"),
        ("<answer><answer>b", "", "<answer>b"),
        ("<think>a</think></answer>", "a", "</answer>"),
        ("\n\nb\n", "", "\n\nb\n"),
        ("<think>\n\n</think>\n\n b", "", " b"),
    ],
)
def test_a_tag_is_one_in_its_place_only(text: str, thinking: str, answer: str) -> None:
    for size in (1, 3, len(text)):
        assert split([text[at : at + size] for at in range(0, len(text), size)]) == (thinking, answer)


def by_expressions(text: str) -> tuple[str, str]:
    """(thinking, answer) of a whole text."""
    thinking, rest = "", text
    opened = re.fullmatch(r"\s*<think>\n*(.*)", text, re.DOTALL)
    if opened:
        thinking, end, rest = opened[1].partition("</think>")
        thinking = thinking.rstrip("\n") if end else thinking
    answered = re.fullmatch(r"\s*<answer>\n*(.*?)(\n*</answer>\s*)?", rest, re.DOTALL)
    if answered:
        return thinking, answered[1]
    return thinking, rest.lstrip("\n") if opened else rest


def test_however_tags_are_strewn_only_those_in_their_places_are_missing() -> None:
    rng = random.Random(7)
    pieces = ["<think>", "</think>", "<answer>", "</answer>", "\n", " ", "a", "<", "</", "<ans", "think>", "b\n\n"]
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randrange(9)))
        cuts = sorted(rng.choices(range(len(text) + 1), k=3))
        chunks = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
        assert split(chunks) == by_expressions(text), chunks


def test_nothing_is_held_back_that_cannot_become_a_tag() -> None:
    for before, piece in (("", "Plain\n"), ("<think>", "Hm <"), ("<think>x</think>", "So."), ("<answer>", "a </an b")):
        splitter = ThinkSplitter()
        splitter.push(before)
        shown = "".join(event.text for event in splitter.push(piece))
        assert shown == piece.removesuffix("<")
