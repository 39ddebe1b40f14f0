"""What reaches a stream depends on the stream: a terminal, a pipe, JSON."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterator

import pytest

from tests.answers import Told
from valley_cli.api import (
    About,
    Done,
    Event,
    OnStage,
    Request,
    Stage,
    TextDelta,
    ThinkDelta,
    Timings,
    Usage,
    unheard,
)
from valley_cli.errors import ValleyError
from valley_cli.terminal.render import Renderer, Reply, StatusLine, safe_text, stage_text

DONE = Done("stop", Usage(20, 4, 3), Timings(0.1, 0.2, 0.3, 0.4, 50.0, 2_000_000_000), "tiny")


class Fake:
    """An engine that has a name and no answers of its own."""

    about = About("tiny")

    def submit(self, request: Request) -> Told:
        return Told([DONE])

    def price(self, request: Request) -> None:
        return None

    def load(self, on_stage: OnStage = unheard) -> None:
        pass

    def close(self) -> None:
        pass


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def render(*events: Event, out: io.StringIO | None = None, **options: bool) -> tuple[str, str]:
    """What ends up on stdout and stderr."""
    out, err = out or io.StringIO(), io.StringIO()
    renderer = Renderer(out, StatusLine(err), err=err, **options)  # type: ignore[arg-type]
    renderer.finish(renderer.show([*events, DONE], Reply()), ["a.png"], Fake())
    return out.getvalue(), err.getvalue()


def test_an_answer_ends_in_exactly_one_newline() -> None:
    for events in (("Red.",), ("Red.\n", "\n"), ("Red", ".\n\n")):
        assert render(*map(TextDelta, events)) == ("Red.\n", "")
    assert render(TextDelta("a\n"), TextDelta("b"))[0] == "a\nb\n"
    assert render()[0] == "\n"


def test_a_terminal_never_gets_control_characters() -> None:
    nasty = TextDelta("a\x1b[31mb\x07\x9bc\u202ed\te\nf")
    assert render(nasty, out=Screen())[0] == "a[31mbcd\te\nf\n"
    assert safe_text("plain 谷 🙂") == "plain 谷 🙂"


def test_thinking_is_kept_off_stdout() -> None:
    out, err = render(ThinkDelta("hmm"), TextDelta("Red."))
    assert (out, err) == ("Red.\n", "hmm\n")
    assert render(ThinkDelta("hmm"), TextDelta("Red."), quiet=True) == ("Red.\n", "")


def test_a_line_of_thinking_is_ended_before_anything_else_is_said() -> None:
    out, err = render(ThinkDelta("hmm"), stats=True)
    assert out == "\n"
    assert err.startswith("hmm\nfirst token")


def test_a_dumb_terminal_gets_no_control_characters_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert render(TextDelta("a\x1b]0;x\x07b"), out=Screen())[0] == "a]0;xb\n"


class Full(io.StringIO):
    """A stream that takes nothing more."""

    name = "answer.txt"

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_and_stderr_is_never_a_reason_to_stop() -> None:
    with pytest.raises(ValleyError, match=r"answer\.txt: no space left on device"):
        render(TextDelta("Red."), out=Full())
    out = io.StringIO()
    renderer = Renderer(out, StatusLine(Full(), verbose=True), stats=True, err=Full())
    renderer.status.stage(Stage("loading weights"))
    renderer.finish(renderer.show([ThinkDelta("hmm"), TextDelta("Red."), DONE], Reply()), ["a.png"], Fake())
    assert out.getvalue() == "Red.\n"


def test_json_is_whole_where_the_stream_holds_ascii_only() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii", errors="replace") as out:
        Renderer(out, StatusLine(io.StringIO())).write_json({"response": "谷 🙂"})
        assert json.loads(raw.getvalue()) == {"response": "谷 🙂"}


def test_json_is_one_object_on_one_line() -> None:
    out, err = render(ThinkDelta("hmm"), TextDelta("谷\n\n"), as_json=True)
    found = json.loads(out)
    assert out.count("\n") == 1
    assert err == ""
    assert found["response"] == "谷\n\n"
    assert found["thinking"] == "hmm"
    assert found["usage"] == {"prompt_tokens": 20, "image_tokens": 4, "completion_tokens": 3, "cached_tokens": 0}


def test_an_interrupted_answer_keeps_what_was_said() -> None:
    out = io.StringIO()
    renderer = Renderer(out, StatusLine(io.StringIO()), err=io.StringIO(), as_json=True)
    answer = Reply()

    def events() -> Iterator[Event]:
        yield TextDelta("half an ans")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        renderer.show(events(), answer)
    renderer.finish(answer, ["a.png"], Fake())
    found = json.loads(out.getvalue())
    assert (found["response"], found["finish_reason"]) == ("half an ans", "cancelled")


def test_the_status_line_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen, pipe, verbose = Screen(), io.StringIO(), io.StringIO()
    for stream, options in ((screen, {}), (pipe, {}), (verbose, {"verbose": True})):
        line = StatusLine(stream, **options)  # type: ignore[arg-type]
        for done in (10, 41):
            line.stage(Stage("loading weights", done, 100, "bytes"))
        line.close()
        line.stage(Stage("loading weights", 99, 100, "bytes"))  # a thread that goes on after the end
    wipe = "\r\x1b[2K"
    assert screen.getvalue() == f"{wipe}{wipe}loading weights 10%{wipe}loading weights 41%{wipe}"
    assert pipe.getvalue() == ""
    assert verbose.getvalue() == "valley: loading weights ...\n"


def test_stages_are_named_with_what_is_known() -> None:
    assert stage_text(Stage("loading weights", 41, 100, "bytes")) == "loading weights 41%"
    assert stage_text(Stage("reading pictures", 1, 9, "pictures")) == "reading pictures 2/9"
    assert stage_text(Stage("asking the hub")) == "asking the hub ..."
