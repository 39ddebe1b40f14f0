"""The parts of ``valley batch`` on their own: lines, the pipeline, the index, the lock."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from valley_cli.batch.disk import lock
from valley_cli.batch.index import Index, Stored
from valley_cli.batch.lines import read_lines
from valley_cli.batch.pipeline import Pipeline
from valley_cli.batch.progress import duration
from valley_cli.batch.rows import RowReader
from valley_cli.errors import SourceError, UsageError
from valley_cli.settings import ANSWER_KEYS, HASHED_KEYS, TYPES, Settings, load_settings


def lines_of(data: bytes, **limits: int) -> list[tuple[int, int, bytes, bool]]:
    return [(line.index, line.number, line.raw, line.whole) for line in read_lines(io.BytesIO(data), "x", **limits)]


def test_blank_lines_count_as_lines_but_not_as_rows() -> None:
    assert lines_of(b"\xef\xbb\xbfa\r\n\n \t\nb") == [(0, 1, b"a", True), (1, 4, b"b", True)]
    assert lines_of(b"") == lines_of(b"\n\n") == []


def test_an_endless_line_is_cut_and_the_next_one_is_whole() -> None:
    (first, second) = lines_of(b"x" * 5000 + b"\nnext\n", max_bytes=2000)
    assert first[2:] == (b"x" * 1000, False)
    assert second == (1, 2, b"next", True)


def test_an_object_over_several_lines_is_one_row_and_broken_lines_stay_lines() -> None:
    assert [raw for _, _, raw, _ in lines_of(b'{\n "a": 1\n}\n')] == [b'{\n "a": 1\n}']
    assert [raw for _, _, raw, _ in lines_of(b'{\n{"a": 1}\n{"b": 2}')] == [b"{", b'{"a": 1}', b'{"b": 2}']
    with pytest.raises(UsageError, match="one JSON list"):
        lines_of(b"[\n{}\n]")


def test_a_file_that_breaks_while_it_is_read_says_after_which_line(tmp_path: Path) -> None:
    class Breaking(io.RawIOBase):
        def __init__(self) -> None:
            self.left = [b"one\n", b"two\n"]

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            if not self.left:
                raise OSError(5, "Input/output error")
            piece = self.left.pop(0)
            buffer[: len(piece)] = piece
            return len(piece)

    found = read_lines(io.BufferedReader(Breaking(), 4), "rows.jsonl")  # type: ignore[type-var]
    assert next(found).raw == b"one"
    with pytest.raises(SourceError, match=r"rows\.jsonl: input/output error after line [12]"):
        list(found)


def test_rows_are_read_no_further_ahead_than_the_window_allows() -> None:
    n_read, first_may_end = 0, threading.Event()

    def rows() -> Iterator[int]:
        nonlocal n_read
        while True:
            n_read += 1
            yield n_read

    def work(row: int) -> int:
        if row == 1:
            first_may_end.wait()
        return row

    pipeline = Pipeline(rows(), work, n_threads=4, window=20, ordered=True)
    taken: list[int] = []
    for found in pipeline.outcomes(0.01):
        if found is None:
            if n_read >= 20 and not first_may_end.is_set():
                time.sleep(0.1)  # for any thread that would go on
                assert (n_read, taken) == (20, [])
                first_may_end.set()
            continue
        taken.append(found)
        assert n_read <= len(taken) + 20
        if found == 200:
            pipeline.stop()
    assert taken[:200] == list(range(1, 201))


def test_rows_that_break_end_the_run_with_what_was_done() -> None:
    def rows() -> Iterator[int]:
        yield from range(5)
        time.sleep(0.1)
        raise SourceError("rows", "broke")

    pipeline = Pipeline(rows(), str, n_threads=3, window=10, ordered=True)
    taken: list[str | None] = []

    def take() -> None:
        taken.extend(pipeline.outcomes(0.01))

    with pytest.raises(SourceError, match="broke"):
        take()
    assert [found for found in taken if found] == list("01234")


def test_unordered_outcomes_do_not_wait_for_each_other() -> None:
    may_end = threading.Event()
    pipeline = Pipeline(
        iter(range(10)), lambda n: (n == 0 and may_end.wait(), n)[1], n_threads=2, window=3, ordered=False
    )
    taken: list[int] = []
    for found in pipeline.outcomes(0.01):
        if found is not None:
            taken.append(found)
        if len(taken) == 9:
            may_end.set()
    assert sorted(taken) == list(range(10))
    assert taken[-1] == 0


def test_the_index_knows_each_id_and_the_last_record_of_each_key() -> None:
    index = Index()
    assert index.is_new_id('"a"')
    assert not index.is_new_id('"a"')
    assert index.is_new_id('"\ud800"')
    key, other = "00000000-" + "1" * 32, "not one of ours"
    assert not index.put(key, Stored(0, 10, True, 0, None))
    assert index.put(key, Stored(20, 11, False, 3, None))
    index.put(other, Stored(10, 10, False, 9, None))
    assert index.find(key) == Stored(20, 11, False, 3, None)
    assert sorted(index.unseen()) == [3, 9]
    index.see(other, 1)
    assert [stored.at for stored in index.in_order()] == [10, 20]
    assert [stored.at for stored in index.in_order("at")] == [10, 20]
    assert list(index.unseen()) == [3]


def test_a_lock_keeps_a_second_one_out_until_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    first = os.open(path, os.O_RDWR | os.O_CREAT)
    second = os.open(path, os.O_RDWR)
    assert lock(first)
    assert not lock(second)
    os.close(first)
    assert lock(second)
    os.close(second)


def test_outputs_of_earlier_versions_are_continued() -> None:
    """The hashes are those that the first version wrote into its records."""
    assert RowReader(Settings(), "m").settings_hash == "f0ca8456"
    words = {"system": "x", "revision": "r", "dtype": "float16", "stop": ["a"], "model": "zz"}
    numbers = {"seed": 3, "max_pixels": 1000, "think": True, "temperature": 0.5, "offline": True}
    assert RowReader(load_settings(words | numbers, {}), "m", "p").settings_hash == "046695d5"


def test_whatever_shapes_an_answer_is_a_part_of_the_hash() -> None:
    assert set(HASHED_KEYS) == {"system", "dtype", "revision", *ANSWER_KEYS}
    samples = {
        "bool": True,
        "float": 0.5,
        "dtype": "float16",
        "flavour": "github",
        "stop": ["x"],
        "system": "x",
        "revision": "x",
    }
    found = {
        RowReader(load_settings({name: samples.get(name, samples.get(TYPES[name], 1000))}, {}), "m").settings_hash
        for name in HASHED_KEYS
    }
    assert len(found - {RowReader(Settings(), "m").settings_hash}) == len(HASHED_KEYS)


def test_durations_read_well() -> None:
    assert [duration(s) for s in (0.04, 59.94, 60, 125, 10_800)] == ["0.0 s", "59.9 s", "1:00", "2:05", "3:00:00"]
