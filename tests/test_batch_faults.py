"""``valley batch`` among killed processes, full disks, closed pipes and broken servers: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.batches import OTHER, PICTURE, asking, batch, lasting, read_records, write_rows
from tests.commands import SCRIPT, Terminal, cold, environment, inside
from tests.conftest import ROOT, VALLEY25
from tests.forked import Child, Forkserver
from tests.servers import Handler, Server, drip, in_turn, send, short

Captured = pytest.CaptureFixture[str]
MODEL = ("-m", "valley-mini", "--device", "cpu")
LIMIT_S = 60


@pytest.fixture(scope="module")
def warm() -> Iterator[Forkserver]:
    with Forkserver() as server:
        yield server


def mixed_rows(count: int) -> list[Any]:
    """Pictures, texts, a few rows without id, and a few that fail."""
    rows: list[Any] = asking(count)
    for n in range(0, count, 3):
        rows[n] = {"id": f"p{n}", "image": (PICTURE, OTHER)[n % 2], "prompt": f"What is it, {n}?", "max_new_tokens": 6}
    for n in range(7, count, 29):
        rows[n] = {"prompt": f"No id {n}", "max_new_tokens": 2}
    for n in range(11, count, 53):
        rows[n] = {"id": f"gone{n}", "image": f"gone{n}.png"}
    return rows


def wait_for(met: Callable[[], bool]) -> None:
    """Poll until ``met``, for a minute at most."""
    end = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def n_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ended_within(child: Child, seconds: float) -> int:
    """The exit code of a child that must end soon."""
    begun = time.monotonic()
    code = child.wait()
    assert time.monotonic() - begun < seconds
    return code


def test_killed_at_random_moments_it_ends_as_if_it_never_was(warm: Forkserver, tmp_path: Path) -> None:
    rng, count = random.Random(6), 500
    source, whole, out = write_rows(tmp_path / "in.jsonl", mixed_rows(count)), tmp_path / "whole", tmp_path / "out"
    assert warm.run("batch", source, "-o", whole, *MODEL) == 3
    for _ in range(20):
        child, started = warm.start("batch", source, "-o", out, *MODEL), n_lines(out)
        wanted = rng.choice([0, 1, 2, 5, 10, 20])
        wait_for(lambda started=started, wanted=wanted: n_lines(out) >= started + wanted)  # type: ignore[misc]
        time.sleep(rng.random() * 0.1)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert warm.run("batch", source, "-o", out, *MODEL) == 3
    assert lasting(read_records(out)) == lasting(read_records(whole))
    assert [record["index"] for record in read_records(out)] == list(range(count))


def test_the_installed_command_continues_after_a_kill(tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "in.jsonl", asking(120)), tmp_path / "out"
    process = subprocess.Popen([SCRIPT, "batch", source, "-o", out, *MODEL], env=environment(), stderr=subprocess.PIPE)
    wait_for(lambda: n_lines(out) > 5)
    process.kill()
    process.communicate(timeout=LIMIT_S)
    assert 5 < n_lines(out) < 120
    assert cold("batch", str(source), "-o", str(out), *MODEL).returncode == 0
    assert [record["id"] for record in read_records(out)] == [f"q{n}" for n in range(120)]


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(a folder that holds ``size`` bytes, how to start a command that meets this limit)

    A file system of its own where that may be mounted, else a limit on the size of files.
    """
    folder = Path(tempfile.mkdtemp())
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = bool(shutil.which("mount")) and not subprocess.run(mounting, capture_output=True).returncode
    try:
        yield folder, {} if mounted else {"max_file_bytes": size}
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)
        shutil.rmtree(folder)


def test_a_full_disk_ends_the_run_with_whole_records_and_room_lets_it_go_on(warm: Forkserver, tmp_path: Path) -> None:
    source, whole, err = write_rows(tmp_path / "in.jsonl", asking(60)), tmp_path / "whole", tmp_path / "err"
    assert warm.run("batch", source, "-o", whole, *MODEL) == 0
    with small_disk(16 * 1024) as (folder, limits):
        out = folder / "out"
        assert warm.run("batch", source, "-o", out, *MODEL, stderr=err, **limits) == 1
        assert any(reason in err.read_text() for reason in ("no space left on device", "file too large"))
        assert "the same command goes on from there" in err.read_text()
        n_written = len(read_records(out))
        assert 5 < n_written < 60
        roomy = shutil.copy(out, tmp_path / "out")
    assert warm.run("batch", source, "-o", roomy, *MODEL) == 0
    assert lasting(read_records(Path(roomy))) == lasting(read_records(whole))


def test_a_disk_too_full_to_put_the_file_in_order_loses_nothing(warm: Forkserver, tmp_path: Path) -> None:
    rows, whole, err = asking(30), tmp_path / "whole", tmp_path / "err"
    source = write_rows(tmp_path / "in.jsonl", rows)
    assert warm.run("batch", source, "-o", whole, *MODEL) == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    with small_disk(len(whole.read_bytes()) // 4096 * 4096 + 8192) as (folder, limits):
        out = folder / "out"
        out.write_bytes(b"".join(reversed(lines)))
        if "max_file_bytes" in limits:
            limits["max_file_bytes"] = len(whole.read_bytes()) // 2
        assert warm.run("batch", source, "-o", out, *MODEL, stderr=err, **limits) == 1
        assert "every row is in it all the same" in err.read_text()
        assert out.read_bytes() == b"".join(reversed(lines))
        assert os.listdir(folder) == ["out"]


def test_a_reader_that_has_enough_ends_the_run_quietly(warm: Forkserver, tmp_path: Path) -> None:
    source, err, pipe = write_rows(tmp_path / "in.jsonl", asking(400)), tmp_path / "err", tmp_path / "pipe"
    os.mkfifo(pipe)
    child = warm.start("batch", source, *MODEL, stdout=pipe, stderr=err)
    with pipe.open("rb") as reader:
        assert reader.readline().startswith(b'{"id":"q0"')
    assert ended_within(child, 10) == 0
    assert "rror" not in err.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_once_it_writes_what_is_done_and_can_be_continued(
    number: int, code: int, warm: Forkserver, tmp_path: Path
) -> None:
    out, err, rows = tmp_path / "out", tmp_path / "err", asking(150)
    source = write_rows(tmp_path / "in.jsonl", rows)
    child = warm.start("batch", source, "-o", out, *MODEL, stderr=err)
    wait_for(lambda: n_lines(out) > 10)
    os.kill(child.pid, number)
    assert ended_within(child, 5) == code
    assert "stopped; what was done is written" in err.read_text()
    indices = [record["index"] for record in read_records(out)]
    assert indices == sorted(indices)
    assert 10 < len(indices) < 150
    assert warm.run("batch", source, "-o", out, *MODEL) == 0
    assert [record["index"] for record in read_records(out)] == list(range(150))


def test_stopped_it_leaves_no_page_behind(warm: Forkserver, tmp_path: Path) -> None:
    source, out, page = write_rows(tmp_path / "in.jsonl", asking(150)), tmp_path / "out", tmp_path / "page.html"
    child = warm.start("batch", source, "-o", out, "--report", page, *MODEL)
    wait_for(lambda: n_lines(out) > 3)
    os.kill(child.pid, signal.SIGINT)
    assert child.wait() == 130
    assert not page.exists()


def test_weights_that_cannot_be_used_end_the_run_and_are_no_fault_of_the_rows(tmp_path: Path, capsys: Captured) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(VALLEY25, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b"model.norm.weight", b"model.form.weight"))
    assert inside("batch", str(write_rows(tmp_path / "in.jsonl", asking(30))), "-m", str(model), "-o", str(out)) == 5
    assert "model.norm.weight" in capsys.readouterr().err
    assert not out.exists()


def test_a_row_that_the_chat_template_refuses_costs_that_row_only(tmp_path: Path, capsys: Captured) -> None:
    model = Path(shutil.copytree(VALLEY25, tmp_path / "model"))
    template = model / "chat_template.jinja"
    picky = "{% if m.content == 'No' %}{{ raise_exception('no') }}{% elif m.content == 'Add' %}{{ 1 + 'a' }}{% endif %}"
    template.write_text("{% for m in messages %}" + picky + "{{ m.content }}{% endfor %}")
    rows = write_rows(tmp_path / "in.jsonl", [{"prompt": text, "max_new_tokens": 2} for text in ("Hi", "No", "Add")])
    assert inside("batch", str(rows), "-m", str(model), "--device", "cpu") == 3
    records = read_records(capsys.readouterr().out)
    assert [record["status"] for record in records] == ["ok", "error", "error"]
    assert {record["error"]["type"] for record in records[1:]} == {"PromptError"}
    assert "chat template fails: no" in records[1]["error"]["message"]
    template.write_text("{% if %}")
    assert inside("batch", str(rows), "-m", str(model), "--device", "cpu") == 5
    assert "cannot be parsed" in capsys.readouterr().err


def test_stopped_while_its_sources_hang_it_ends_at_once(warm: Forkserver, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Server({"/slow": drip()}) as server:
        args = ["--images", PICTURE, "--images", server.url("/slow"), "--images", OTHER, "--max-new-tokens", "2"]
        child = warm.start("batch", *args, "-o", out, "--unordered", *MODEL)
        wait_for(lambda: n_lines(out) == 2)
        os.kill(child.pid, signal.SIGINT)
        assert ended_within(child, 3) == 130
    assert sorted(record["index"] for record in read_records(out)) == [0, 2]


def test_rows_done_behind_one_that_hangs_are_written_when_it_is_stopped(warm: Forkserver, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Server({"/slow": drip(), "/next": drip()}) as server:
        names = server.url("/slow"), PICTURE, server.url("/next")
        args = [word for name in names for word in ("--images", name)]
        child = warm.start("batch", *args, "--max-new-tokens", 2, "--max-inflight", 2, "-o", out, *MODEL)
        wait_for(lambda: len(server.seen) == 2)  # the picture's row is done, and waits for the one before it
        assert n_lines(out) == 0
        os.kill(child.pid, signal.SIGINT)
        assert child.wait() == 130
    assert [record["index"] for record in read_records(out)] == [1]


def test_stopped_twice_it_ends_at_once_even_where_nobody_takes_its_output(warm: Forkserver, tmp_path: Path) -> None:
    rows = [{"id": n, "prompt": "Hi", "max_new_tokens": 1, "ballast": "x" * 70_000} for n in range(8)]
    source, pipe = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    child = warm.start("batch", source, *MODEL, stdout=pipe)
    wait_for(lambda: _blocked(child.pid))
    os.kill(child.pid, signal.SIGINT)
    time.sleep(0.5)
    os.kill(child.pid, signal.SIGINT)
    assert ended_within(child, 2) == 130
    os.close(reader)


def _blocked(pid: int) -> bool:
    """Whether the main thread of ``pid`` waits for a pipe to be read."""
    return "pipe_write" in Path(f"/proc/{pid}/wchan").read_text()


def test_an_output_that_may_not_be_read_is_refused(warm: Forkserver) -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    source, out, err = write_rows(folder / "in.jsonl", asking(1)), folder / "out", folder / "err"
    out.touch(mode=0o222)
    nobody = 65534 if os.getuid() == 0 else None  # root may read everything
    assert warm.run("batch", source, "-o", out, *MODEL, stderr=err, user=nobody) == 1
    assert "permission denied" in err.read_text()
    shutil.rmtree(folder)


def test_two_runs_never_write_to_one_file(warm: Forkserver, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    with Server({"/slow": drip()}) as server:
        first = warm.start("batch", "--images", server.url("/slow"), "-o", out, *MODEL)
        wait_for(lambda: bool(server.seen))
        source = write_rows(tmp_path / "in.jsonl", asking(1))
        assert batch(source, "-o", out) == 1
        assert "is being written by another run" in capsys.readouterr().err
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert batch(source, "-o", out) == 0  # a lock goes with its process


# sources that misbehave


def drop(handler: Handler) -> None:
    """Hang up without an answer."""
    handler.connection.close()


def served(server: Server, tmp_path: Path, capsys: Captured, *names: str, args: tuple[str, ...] = ()) -> Any:
    """Records of one row for each of the addresses."""
    rows = [{"id": name, "image": server.url(f"/{name}"), "prompt": "What?", "max_new_tokens": 2} for name in names]
    code = batch(write_rows(tmp_path / "in.jsonl", rows), "--allow-private", *args)
    return code, read_records(capsys.readouterr().out)


def test_a_source_that_hangs_costs_its_own_row_only(tmp_path: Path, capsys: Captured) -> None:
    with Server({"/slow": drip(), "/slower": drip(in_headers=True), "/a": send(Path(PICTURE).read_bytes())}) as server:
        begun = time.monotonic()
        code, records = served(server, tmp_path, capsys, "slow", "a", "slower", args=("--row-timeout", "4"))
    assert code == 3
    assert [record["status"] for record in records] == ["error", "ok", "error"]
    assert records[0]["error"] == {"type": "TimedOutError", "code": "timed_out", "message": "took longer than 4 s"}
    assert time.monotonic() - begun < 40


def test_a_server_that_drops_connections_costs_the_rows_it_never_answers(tmp_path: Path, capsys: Captured) -> None:
    picture = Path(PICTURE).read_bytes()
    routes = {"/never": drop, "/short": short(picture), "/then": in_turn(drop, short(picture), send(picture))}
    with Server(routes) as server:
        code, records = served(server, tmp_path, capsys, "never", "then", "short")
    assert code == 3
    assert [record["status"] for record in records] == ["error", "ok", "error"]
    assert "the connection to 127.0.0.1 broke" in records[0]["error"]["message"]


def test_an_address_in_many_rows_is_fetched_once(tmp_path: Path, capsys: Captured) -> None:
    with Server({"/a": send(Path(PICTURE).read_bytes())}) as server:
        rows = [{"image": server.url("/a"), "prompt": f"What is it, {n}?", "max_new_tokens": 2} for n in range(30)]
        assert batch(write_rows(tmp_path / "in.jsonl", rows), "--allow-private") == 0
        assert len(server.seen) == 1
    assert len({record["index"] for record in read_records(capsys.readouterr().out)}) == 30


def test_a_tenth_of_the_lines_malformed_costs_that_tenth(tmp_path: Path, capsys: Captured) -> None:
    rng, rows = random.Random(1), list[Any](asking(200, max_new_tokens=2))
    broken = sorted(rng.sample(range(200), 20))
    for n in broken:
        text = f'{{"id": "b{n}", "prompt": "What?"}}'
        rows[n] = rng.choice([text[: rng.randrange(1, len(text))], text.replace(":", "", 1), "null", '"text"', "\x00"])
    assert batch(write_rows(tmp_path / "in.jsonl", rows)) == 3
    records = read_records(capsys.readouterr().out)
    assert [record["index"] for record in records] == list(range(200))
    assert [record["index"] for record in records if record["status"] == "error"] == broken


# the installed command


def test_its_answers_go_through_a_pipe_and_head_ends_it_quietly(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", asking(300))
    line = f'"{SCRIPT}" batch "{rows}" {" ".join(MODEL)} | head -3; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=environment(), timeout=LIMIT_S)
    *records, status = done.stdout.decode().splitlines()
    assert [record["id"] for record in read_records("\n".join(records))] == ["q0", "q1", "q2"]
    assert status == "0"
    assert b"rror" not in done.stderr


def test_it_ends_at_a_failed_row_though_its_input_goes_on(tmp_path: Path) -> None:
    command: list[str | Path] = [SCRIPT, "batch", "-", "--fail-fast", "-q", *MODEL]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(b"no row\n")
    process.stdin.flush()  # and no end of it
    assert process.wait(LIMIT_S) == 3
    out, err = process.communicate()
    assert (len(read_records(out)), err) == (1, b"")


def test_a_row_cannot_take_the_lines_of_those_behind_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdin")
    named = ["/dev/stdin", "file:///dev/stdin", "/dev/fd/0", "link", "/dev/fd"]
    rows = [{"id": n, "image": source} for n, source in enumerate(named)] + [{"id": "clip", "video": "/dev/stdin"}]
    command: list[str | Path] = [SCRIPT, "batch", "-", *MODEL]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert process.stdin
    assert process.stdout
    for row in rows:
        process.stdin.write(json.dumps(row).encode() + b"\n")
    process.stdin.flush()
    refused = [json.loads(process.stdout.readline()) for _ in rows]  # before there is any more to take
    assert [record["error"]["type"] for record in refused] == ["RefusedError"] * len(rows)
    assert all("is an open stream" in record["error"]["message"] for record in refused)
    out, _ = process.communicate(json.dumps(asking(1)[0]).encode(), LIMIT_S)
    assert [(record["id"], record["status"]) for record in read_records(out)] == [("q0", "ok")]


def test_on_a_terminal_it_counts_and_ctrl_c_leaves_a_clean_screen(tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", asking(5000)), tmp_path / "out"
    terminal = Terminal("batch", str(rows), "-o", str(out), *MODEL)
    terminal.read_until(b"rows/s")
    terminal.read_until(b"left")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.finish() == 130
    assert b"/5,000" in terminal.screen
    *_, stopped, rates, _, end = terminal.screen.decode().replace("\r\n", "\n").split("\n")
    assert "stopped; what was done is written" in stopped
    assert "rows/s" in rates
    assert "\n" not in end


def test_the_example_rows_can_be_run(capsys: Captured) -> None:
    assert batch(ROOT / "examples" / "prompts.jsonl") == 3
    records = read_records(capsys.readouterr().out)
    assert [record["status"] for record in records] == ["ok", "ok", "ok", "ok", "error"]
