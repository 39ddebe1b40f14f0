"""``valley batch`` in one process: what goes in, what comes out, and how a file of records is continued."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.batches import OTHER, PICTURE, asking, batch, lasting, read_records, write_rows
from tests.conftest import ROOT
from valley_cli import errors

Captured = pytest.CaptureFixture[str]


def run(tmp_path: Path, rows: list[Any], capsys: Captured, *args: object) -> tuple[int, list[dict[str, Any]], str]:
    """(exit code, records on stdout, stderr)"""
    code = batch(write_rows(tmp_path / "in.jsonl", rows), *args)
    captured = capsys.readouterr()
    return code, read_records(captured.out), captured.err


def test_every_row_has_one_record_in_input_order(tmp_path: Path, capsys: Captured) -> None:
    code, records, err = run(tmp_path, asking(40), capsys)
    assert code == 0
    assert [record["id"] for record in records] == [f"q{n}" for n in range(40)]
    assert [record["index"] for record in records] == list(range(40))
    assert all(record["status"] == "ok" and record["usage"]["completion_tokens"] <= 4 for record in records)
    assert "40 rows" in err
    assert "none failed" in err


def test_a_record_tells_what_was_asked_and_what_came(tmp_path: Path, capsys: Captured) -> None:
    row = {"id": 7, "image": PICTURE, "prompt": "What is it?", "max_new_tokens": 3, "label": "x", "response": "gold"}
    code, (record,), _ = run(tmp_path, [row], capsys)
    assert code == 0
    assert set(record) == {
        *("id", "index", "key", "status", "response", "finish_reason", "usage", "timings", "model"),
        *("prompt", "sources", "label", "input"),
    }
    assert (record["id"], record["label"], record["input"]) == (7, "x", {"response": "gold"})
    assert (record["prompt"], record["sources"], record["model"]) == ("What is it?", [PICTURE], "valley-mini")
    assert set(record["usage"]) == {"prompt_tokens", "image_tokens", "completion_tokens"}
    assert record["timings"]["decode_media_s"] > 0


def test_all_ways_to_write_a_picture_give_the_same_answer(tmp_path: Path, capsys: Captured) -> None:
    data = "data:image/png;base64," + base64.b64encode(Path(PICTURE).read_bytes()).decode()
    text, n = "What is it?", {"max_new_tokens": 12}
    parts = [{"type": "image_url", "image_url": {"url": data}}, {"type": "text", "text": text}]
    (tmp_path / "near.png").write_bytes(Path(PICTURE).read_bytes())
    rows = [
        {"image": PICTURE, "prompt": text, **n},
        {"image": "near.png", "prompt": text, **n},
        {"images": [f"file://{PICTURE}"], "prompt": text, **n},
        {"image": data, "prompt": text, **n},
        {"messages": [{"role": "user", "content": text, "image": PICTURE}], **n},
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "old"}], **n},
        {"custom_id": "o", "method": "POST", "url": "/v1/chat/completions"}
        | {"body": {"max_completion_tokens": 12, "messages": [{"role": "user", "content": parts}]}},
    ]
    code, records, _ = run(tmp_path, rows, capsys)
    assert code == 0
    *ours, openai = records
    assert len({record["response"] for record in ours}) == 1
    body = openai["response"]["body"]
    assert openai["custom_id"] == "o"
    assert openai["error"] is None
    assert openai["response"]["status_code"] == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": ours[0]["response"]}
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("{", "RowError", "line 2: not JSON"),
        ("[1]", "RowError", "not a JSON object"),
        ('{"prompt": 5}', "RowError", "prompt is not a text"),
        ('{"id": []}', "RowError", "id is neither"),
        ("{}", "RowError", "neither a prompt nor a picture"),
        ('{"prompt": "x", "messages": []}', "RowError", "a prompt beside messages"),
        ('{"messages": [{"role": "cook"}]}', "UsageError", "role is"),
        ('{"prompt": "x", "temperature": "hot"}', "UsageError", "temperature: 'hot' is not a number"),
        ('{"prompt": "x", "top_p": 7}', "UsageError", "not between"),
        ('{"image": "gone.png"}', "SourceError", "gone.png: no such file"),
        ('{"image": "in.jsonl"}', "SourceError", "is text, not a picture"),
        ('{"image": "-"}', "SourceError", "standard input cannot be read here"),
        ('{"image": "http://127.0.0.1:9/a.png"}', "RefusedError", "127.0.0.1 is a loopback address"),
        ('{"prompt": "<image> what?"}', "PromptError", "placeholders"),
        (json.dumps({"prompt": "word " * 9000}), "PromptError", "context holds"),
        ('{"custom_id": "a", "body": {}}', "RowError", "no list of messages"),
        ('{"custom_id": "a", "url": "/v1/embeddings", "body": {}}', "RowError", "only POST"),
        ('{"custom_id": "a", "body": {"n": 2, "messages": []}}', "RowError", "n is not supported"),
        (b'{"prompt": "\xff"}', "RowError", "UTF-8"),
        ("[" * 100_000, "RowError", "not JSON"),
    ],
)
def test_a_faulty_row_is_an_error_record_between_answers(
    line: str | bytes, kind: str, words: str, tmp_path: Path, capsys: Captured
) -> None:
    before, after = asking(2)
    code, (first, wrong, last), err = run(tmp_path, [before, line, after], capsys)
    assert code == 3
    assert (first["status"], wrong["status"], last["status"]) == ("ok", "error", "ok")
    named = {"code": kind} if "custom_id" in wrong else {"type": kind, "code": vars(errors)[kind].code}
    assert {name: value for name, value in wrong["error"].items() if name != "message"} == named
    assert words in wrong["error"]["message"]
    assert words in err
    assert "1 failed" in err


def test_an_error_record_tells_what_was_asked_too(tmp_path: Path, capsys: Captured) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "gone.png"}}, {"type": "text", "text": "What?"}]
    rows = [
        {"image": "gone.png", "prompt": "What?"},
        {"messages": [{"role": "user", "content": "What?", "images": ["gone.png"]}]},
        {"custom_id": "a", "body": {"messages": [{"role": "user", "content": parts}]}},
        {"image": 7, "prompt": [], "messages": 5},
        {"custom_id": "b", "body": {"messages": ["x", {"content": [3, {"image_url": 4}]}]}},
    ]
    code, records, _ = run(tmp_path, rows, capsys)
    assert code == 3
    assert [(record.get("prompt"), record.get("sources")) for record in records] == [
        *(("What?", ["gone.png"]),) * 3,
        *((None, None),) * 2,
    ]


def test_a_second_row_with_the_same_id_is_an_error_record(tmp_path: Path, capsys: Captured) -> None:
    one, two = asking(2)
    code, records, _ = run(tmp_path, [one, two, one, {"prompt": "no id"}, {"prompt": "no id"}], capsys)
    assert code == 3
    assert [record["status"] for record in records] == ["ok", "ok", "error", "ok", "ok"]
    assert "q0 too" in records[2]["error"]["message"]
    assert len({record["key"] for record in records}) == 5


def test_options_of_a_row_are_its_own_and_those_of_the_command_stand_in(tmp_path: Path, capsys: Captured) -> None:
    rows = [{"image": PICTURE}, {"image": PICTURE, "prompt": "Mine"}, {"prompt": "Mine", "max_new_tokens": 2}]
    args = ("-p", "Yours", "--max-new-tokens", "5", "-s", "Be brief.")
    _, records, _ = run(tmp_path, rows, capsys, *args)
    assert [record["prompt"] for record in records] == ["Yours", "Mine", "Mine"]
    assert [record["usage"]["completion_tokens"] <= limit for record, limit in zip(records, (5, 5, 2), strict=True)]
    _, plain, _ = run(tmp_path, rows, capsys, *args[:4])
    assert records[0]["usage"]["prompt_tokens"] > plain[0]["usage"]["prompt_tokens"]


def test_rows_come_from_standard_input_with_paths_from_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    rows = b'\xef\xbb\xbf{"image": "examples/star.png", "prompt": "What?", "max_new_tokens": 2}\r\n\n   \n{}'
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows)))
    assert batch("-") == 3
    star, empty = read_records(capsys.readouterr().out)
    assert (star["status"], star["index"]) == ("ok", 0)
    assert (empty["status"], empty["index"]) == ("error", 1)
    assert "line 4" in empty["error"]["message"]


def test_a_file_that_is_one_object_over_several_lines_is_one_row(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "chat.json"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path.write_text(json.dumps({"messages": messages, "max_new_tokens": 2}, indent=2))
    assert batch(path) == 0
    (record,) = read_records(capsys.readouterr().out)
    assert record["prompt"] == "Hi"


def test_pictures_need_no_file_of_rows(tmp_path: Path, capsys: Captured) -> None:
    for name, source in (("b 10.png", OTHER), ("b 9.png", PICTURE)):
        (tmp_path / name).write_bytes(Path(source).read_bytes())
    assert batch("--images", tmp_path / "*.png", "-p", "What?", "--max-new-tokens", 2) == 0
    records = read_records(capsys.readouterr().out)
    assert [os.path.basename(record["id"]) for record in records] == ["b 9.png", "b 10.png"]
    assert all(record["prompt"] == "What?" and record["sources"] == [record["id"]] for record in records)


def test_limit_and_shards_cover_every_row_once(tmp_path: Path, capsys: Captured) -> None:
    rows = asking(11)
    parts = [run(tmp_path, rows, capsys, "--shard", f"{n}/3")[1] for n in (1, 2, 3)]
    assert sorted(record["index"] for part in parts for record in part) == list(range(11))
    _, first, _ = run(tmp_path, rows, capsys, "--limit", 2, "--shard", "2/3")
    assert [record["index"] for record in first] == [1, 4]


def test_fail_fast_ends_the_run_at_the_first_failed_row(tmp_path: Path, capsys: Captured) -> None:
    rows = [*asking(3), {"id": "bad", "image": "gone.png"}, *asking(900)[3:]]
    code, records, _ = run(tmp_path, rows, capsys, "--fail-fast", "--max-inflight", 2)
    assert code == 3
    assert "bad" in [record["id"] for record in records]
    assert len(records) < 50


def test_unordered_records_are_the_same_ones(tmp_path: Path, capsys: Captured) -> None:
    rows = [*asking(6, max_new_tokens=60, temperature=1.0), {"id": "quick", "image": "gone.png"}]
    _, records, _ = run(tmp_path, rows, capsys, "--unordered")
    assert records[0]["id"] == "quick"
    assert sorted(record["index"] for record in records) == list(range(7))


# continuing a file


def test_a_finished_file_is_left_as_it_is(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out.jsonl"
    assert run(tmp_path, asking(5), capsys, "-o", out)[0] == 0
    before = out.read_bytes(), out.stat().st_ino
    code, on_stdout, err = run(tmp_path, asking(5), capsys, "-o", out)
    assert (code, on_stdout) == (0, [])
    assert (out.read_bytes(), out.stat().st_ino) == before
    assert "5 more were finished before" in err


@pytest.mark.parametrize("kept", ["", "torn", "gap", "reversed", "blank lines"])
def test_a_continued_file_ends_as_an_uninterrupted_one(kept: str, tmp_path: Path, capsys: Captured) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    rows = [*asking(4), {"prompt": "no id", "max_new_tokens": 3}, "not json", *asking(8)[4:]]
    run(tmp_path, rows, capsys, "-o", whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    started = {
        "": [],
        "torn": [*lines[:3], lines[3][:40]],
        "gap": [lines[0], lines[6]],
        "reversed": lines[::-1],
        "blank lines": [lines[0], b"\n", lines[1]],
    }[kept]
    out.write_bytes(b"".join(started))
    (tmp_path / ".out.jsonl.tidy").write_text("left by a run that was killed at its very end")
    code, _, err = run(tmp_path, rows, capsys, "-o", out)
    assert code == 3
    assert lasting(read_records(out)) == lasting(read_records(whole))
    assert ("torn last line was dropped" in err) == (kept == "torn")
    assert set(os.listdir(tmp_path)) == {"in.jsonl", "out.jsonl", "whole.jsonl"}


def test_a_torn_first_line_of_ours_is_dropped_too(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out.jsonl"
    run(tmp_path, asking(1), capsys, "-o", out)
    line = out.read_bytes()
    for cut in (3, 30, len(line) - 1):
        out.write_bytes(line[:cut])
        assert run(tmp_path, asking(1), capsys, "-o", out)[0] == 0
        assert len(read_records(out)) == 1


def test_failed_rows_are_tried_again_unless_told_not_to(tmp_path: Path, capsys: Captured) -> None:
    out, rows = tmp_path / "out.jsonl", [*asking(2), {"id": "late", "image": "late.png", "max_new_tokens": 2}]
    assert run(tmp_path, rows, capsys, "-o", out)[0] == 3
    (tmp_path / "late.png").write_bytes(Path(PICTURE).read_bytes())
    assert run(tmp_path, rows, capsys, "-o", out, "--no-retry-failed")[0] == 3
    assert read_records(out)[2]["status"] == "error"
    assert run(tmp_path, rows, capsys, "-o", out)[0] == 0
    assert [(record["id"], record["status"]) for record in read_records(out)] == [
        *(("q0", "ok"), ("q1", "ok"), ("late", "ok"))
    ]


def test_lines_that_changed_moved_or_went_are_noticed(tmp_path: Path, capsys: Captured) -> None:
    out, rows = tmp_path / "out.jsonl", asking(6)
    run(tmp_path, rows, capsys, "-o", out)
    before = {record["id"]: record for record in read_records(out)}
    changed = {**rows[1], "prompt": "Something else?"}
    _, _, err = run(tmp_path, [rows[5], rows[0], changed, rows[2], rows[3]], capsys, "-o", out)
    records = read_records(out)
    assert [(record["id"], record["index"]) for record in records] == [
        *(("q5", 0), ("q0", 1), ("q1", 2), ("q2", 3), ("q3", 4))
    ]
    assert records[2]["prompt"] == "Something else?"
    assert records[0]["timings"] == before["q5"]["timings"]  # moved, not run again
    assert "2 old records were dropped" in err
    assert "1 row " in err


def test_other_settings_are_other_answers_and_that_is_said_first(tmp_path: Path, capsys: Captured) -> None:
    out, rows = tmp_path / "out.jsonl", [{"id": "a", "prompt": "Say something long."}]
    run(tmp_path, rows, capsys, "-o", out, "--max-new-tokens", 1)
    (before,) = read_records(out)
    _, _, err = run(tmp_path, rows, capsys, "-o", out, "--max-new-tokens", 9)
    assert "1 records of another model or of other settings" in err
    (record,) = read_records(out)
    assert record["usage"]["completion_tokens"] > 1
    assert record["key"].split("-")[0] != before["key"].split("-")[0]
    assert record["key"].split("-")[1] == before["key"].split("-")[1]


def test_a_smaller_part_of_the_rows_leaves_the_records_of_the_others(tmp_path: Path, capsys: Captured) -> None:
    out, rows = tmp_path / "out.jsonl", asking(9)
    run(tmp_path, rows, capsys, "-o", out, "--limit", 6)
    run(tmp_path, rows, capsys, "-o", out, "--limit", 2)
    assert len(read_records(out)) == 6
    run(tmp_path, rows, capsys, "-o", out, "--shard", "3/3")
    assert [record["index"] for record in read_records(out)] == [0, 1, 2, 3, 4, 5, 8]


FOREIGN = ["text\n", '{"id":5,"prompt":"a"}', '{"id":5,"prompt":"a"}\n', "\x00\x01", '{"id":"torn prompts', "[1]\n"]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_that_is_not_ours_is_never_touched(content: str, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(content)
    code, _, err = run(tmp_path, asking(1), capsys, "-o", out)
    assert code == 2
    assert "was not written by valley batch" in err
    assert out.read_text() == content


def test_the_input_is_never_the_output(tmp_path: Path, capsys: Captured) -> None:
    path = write_rows(tmp_path / "in.jsonl", asking(1))
    (tmp_path / "link").symlink_to(path)
    for name in (path, tmp_path / "link"):
        assert batch(path, "-o", name) == 2
        assert "is one of the inputs" in capsys.readouterr().err
    assert path.read_text() == json.dumps(asking(1)[0]) + "\n"


def test_outputs_that_cannot_be_written_say_so(tmp_path: Path, capsys: Captured) -> None:
    for name, words in ((tmp_path, "is a directory"), (tmp_path / "no" / "x", "no such file"), ("/dev/full", "space")):
        code, _, err = run(tmp_path, asking(1), capsys, "-o", name)
        assert code == 1
        assert words in err
    assert os.listdir(tmp_path) == ["in.jsonl"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "either a file of rows or --images"),
        (["a.jsonl", "--images", "*.png"], "either a file of rows or --images"),
        (["gone.jsonl"], "gone.jsonl: no such file"),
        (["."], "is a directory"),
        (["https://example.com/rows.jsonl"], "rows are read from files only"),
        (["a.jsonl", "--shard", "3/2"], "no part of a whole"),
        (["-", "-p", "-"], "read only once"),
    ],
)
def test_what_cannot_be_run_says_why(args: list[str], words: str, capsys: Captured) -> None:
    assert batch(*args) in (2, 4)
    assert words in capsys.readouterr().err


def test_a_list_of_rows_is_told_how_to_become_lines(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(asking(2), indent=1))
    assert batch(path) == 2
    assert "jq -c" in capsys.readouterr().err


def test_a_dry_run_checks_and_prices_every_row_and_answers_none(tmp_path: Path, capsys: Captured) -> None:
    rows = [{"image": PICTURE, "max_new_tokens": 9}, {"image": "gone.png"}, {"prompt": "word " * 9000}, *asking(3), "{"]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert batch(source, "-o", out, "--dry-run") == 3
    captured = capsys.readouterr()
    assert "7, 3 of them faulty" in captured.out
    for words in ("gone.png: no such file", "context holds 4096", "line 7: not JSON"):
        assert words in captured.err
    assert not out.exists()
    assert batch(source, "--dry-run", "--json", "-q") == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["failed"], len(found["errors"])) == (7, 3, 3)
    assert found["max_new_tokens"] == 9 + 3 * 4
    assert found["prompt_tokens"] > found["image_tokens"] > 0


def test_clips_are_rows_as_pictures_are(tmp_path: Path, capsys: Captured) -> None:
    clip = str(ROOT / "examples" / "moving.mp4")
    rows = [
        {"video": clip, "max_new_tokens": 2},
        {"video": clip, "frames": 2, "prompt": "What moves?", "max_new_tokens": 2, "label": 1},
        {"video": {"source": clip, "at": [0.5]}, "max_new_tokens": 2},
        {"video": PICTURE},
    ]
    code, records, _ = run(tmp_path, rows, capsys)
    assert code == 3
    assert [record["status"] for record in records] == ["ok", "ok", "ok", "error"]
    eight, two, one = (record["usage"]["image_tokens"] for record in records[:3])
    assert eight > two > one / 2 > 0
    assert two * 4 == eight
    assert records[0]["prompt"] == "Describe the given video."
    assert (records[1]["label"], "frames" in records[1]) == (1, False)


def test_in_quiet_only_errors_of_the_run_are_said(tmp_path: Path, capsys: Captured) -> None:
    _, _, err = run(tmp_path, [*asking(2), "{"], capsys, "-q")
    assert err == ""


def test_rows_through_a_pipe_with_a_name_find_pictures_as_those_of_standard_input_do(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ``valley batch <(make-rows)``: a relative picture lies in the folder one stands in."""
    shutil.copy(PICTURE, tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    reading, writing = os.pipe()
    os.write(writing, json.dumps({"image": "a.png", "max_new_tokens": 2}).encode() + b"\n")
    os.close(writing)
    try:
        assert batch(f"/dev/fd/{reading}") == 0
    finally:
        os.close(reading)
    (record,) = read_records(capsys.readouterr().out)
    assert record["status"] == "ok"
