"""Events to people and programs: the answer on stdout, everything else on stderr.

Each stream is looked at on its own: a terminal gets live status lines and text without control characters,
a pipe gets plain text.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from valley_cli.api import Cost, Done, Engine, Event, Stage, TextDelta, ThinkDelta, Timings, Usage
from valley_cli.errors import ValleyError
from valley_cli.settings import as_flags
from valley_cli.text import printable

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
DIM, RESET = "\x1b[2m", "\x1b[0m"
CLEAR_LINE = "\r\x1b[2K"


def is_terminal(stream: TextIO) -> bool:
    """A terminal that understands cursor moves."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def wants_colour(stream: TextIO, no_color: bool) -> bool:
    """NO_COLOR and FORCE_COLOR (no-color.org, force-color.org) before what the stream is."""
    if no_color or os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream)


def safe_text(text: str) -> str:
    """Model text for a terminal: newlines and tabs stay, other control characters and bidi overrides go."""
    return _UNSAFE.sub("", text)


def say(stream: TextIO, text: str) -> None:
    """Write to stderr at once. A full disk or a closed pipe there must not cost the answer."""
    with suppress(OSError):
        stream.write(text)
        stream.flush()


class StatusLine:
    """One line on stderr that says what is going on, only on a terminal; gone as soon as there is an answer.

    ``verbose``: where there is no terminal, each stage is named once on a line of its own.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False, verbose: bool = False) -> None:
        self._stream = stream
        self._live = is_terminal(stream) and not quiet
        self._plain = verbose and not self._live
        self._shown = ""
        self._named: set[str] = set()
        self._lock = threading.Lock()
        if is_terminal(stream):
            say(stream, CLEAR_LINE)  # what __main__ wrote there

    def stage(self, stage: Stage) -> None:
        """Show a stage: ``loading weights 41%``, ``reading pictures 2/9``."""
        with self._lock:
            if self._live:
                self._show(stage_text(stage))
            elif self._plain and stage.name not in self._named:
                say(self._stream, f"valley: {stage.name} ...\n")
                self._named.add(stage.name)

    def show(self, text: str) -> None:
        """Show any other line, where there is a terminal."""
        with self._lock:
            if self._live:
                self._show(text)

    def _show(self, text: str) -> None:
        if text != self._shown:  # cut so that the terminal's own ^C still fits on the line
            say(self._stream, f"{CLEAR_LINE}{text[: _columns(self._stream) - 3]}")
            self._shown = text

    def clear(self) -> None:
        """Take the line away."""
        with self._lock:
            if self._shown:
                say(self._stream, CLEAR_LINE)
            self._shown = ""

    def close(self) -> None:
        """Take the line away for good: an engine that is still loading shows nothing any more."""
        self.clear()
        with self._lock:
            self._live = self._plain = False


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def stage_text(stage: Stage) -> str:
    """What a stage is called on the status line."""
    if not stage.total:
        return f"{stage.name} ..."
    if stage.unit == "bytes":
        gigabytes = f" of {stage.total / 1e9:.1f} GB" if stage.total >= 1e9 else ""
        return f"{stage.name} {100 * stage.done // stage.total}%{gigabytes}"
    return f"{stage.name} {stage.done + 1}/{stage.total}" if stage.total > 1 else f"{stage.name} ..."


@dataclass
class Reply:
    """One answer as it grows; ``done`` is None when it was cut off."""

    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    held: str = ""  # newlines at the end of the text, not printed before more text comes
    in_text: bool = False  # a line of text is open where the answer goes
    in_thinking: bool = False  # a line of thinking is open on stderr
    done: Done | None = None


@dataclass
class Renderer:
    """Where an answer goes and in which form. ``out`` is stdout or the file given with ``-o``."""

    out: TextIO
    status: StatusLine
    as_json: bool = False
    stats: bool = False
    quiet: bool = False
    no_color: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)  # what else ``--json`` tells
    err: TextIO = field(default_factory=lambda: sys.stderr)

    def write(self, text: str) -> None:
        """Send ``text`` to the answer's place at once. Raises ValleyError with the name of the place."""
        try:
            self.out.write(text)
            self.out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            name = "standard output" if self.out is sys.stdout else printable(str(self.out.name))
            reason = (error.strerror or "cannot be written").lower()
            raise ValleyError(f"{name}: {reason}", "the answer is not whole; give -o another place") from None

    def write_json(self, found: Mapping[str, Any]) -> None:
        """One object on a line; in ASCII where the stream cannot hold more."""
        only_ascii = not (self.out.encoding or "utf-8").lower().startswith("utf")
        self.write(json.dumps(found, ensure_ascii=only_ascii) + "\n")

    def show(self, events: Iterable[Event], reply: Reply) -> Reply:
        """Print the events as they come, collecting them in ``reply``, which is right even if this is interrupted.

        Whatever breaks off the answer is raised with the line ended; Ctrl-C leaves that to ``finish``.
        """
        try:
            for event in events:
                self._show(event, reply)
        except KeyboardInterrupt:
            raise
        except BaseException:
            with suppress(OSError, ValleyError):  # where the answer goes may be what broke
                self.end_line(reply)
            raise
        return reply

    def _show(self, event: Event, reply: Reply) -> None:
        if isinstance(event, Stage):
            if not reply.in_text and not reply.in_thinking:
                self.status.stage(event)
            return
        self.status.clear()
        if isinstance(event, TextDelta):
            self._text(event.text, reply)
        elif isinstance(event, ThinkDelta):
            self._thinking(event.text, reply)
        else:
            reply.done = event

    def _text(self, text: str, reply: Reply) -> None:
        """Newlines at the end wait for what follows: the answer ends in exactly one."""
        reply.text.append(text)
        if self.as_json:
            return
        self._end_thinking(reply)
        whole = reply.held + text
        body = whole.rstrip("\n")
        reply.held = whole[len(body) :]
        reply.in_text = reply.in_text or bool(body)
        self.write(safe_text(body) if self.out.isatty() else body)

    def _thinking(self, text: str, reply: Reply) -> None:
        reply.thinking.append(text)
        if not self.as_json and not self.quiet:
            shown = safe_text(text) if self.err.isatty() else text
            say(self.err, f"{DIM}{shown}{RESET}" if wants_colour(self.err, self.no_color) else shown)
            reply.in_thinking = True

    def _end_thinking(self, reply: Reply) -> None:
        if reply.in_thinking:
            say(self.err, "\n")
        reply.in_thinking = False

    def end_line(self, reply: Reply) -> None:
        """What comes next on the screen starts on a line of its own."""
        self._end_thinking(reply)
        if not self.as_json and (reply.in_text or reply.done):
            self.write("\n")
        reply.in_text = False

    def finish(self, reply: Reply, sources: list[str], engine: Engine) -> None:
        """End the answer: its last newline or its JSON object, then the statistics."""
        self.status.clear()
        self.end_line(reply)
        if self.as_json:
            self.write_json(record(reply, sources, engine) | dict(self.extra))
        if self.stats and reply.done:
            say(self.err, stats_line(reply.done) + "\n")


def record(reply: Reply, sources: list[str], engine: Engine) -> dict[str, Any]:
    """The object that ``--json`` prints (an interrupted answer has finish_reason ``cancelled``)."""
    done = reply.done or Done("cancelled", Usage(), Timings(), engine.about.name)
    timings = {name: round(value, 6) for name, value in asdict(done.timings).items()}
    found: dict[str, Any] = {
        "model": done.model,
        "response": "".join(reply.text),
        "thinking": "".join(reply.thinking) or None,
        "finish_reason": done.finish_reason,
        "usage": asdict(done.usage),
        "timings": timings,
        "sources": sources,
    }
    if done.notes:
        found["notes"] = list(done.notes)
    return found | ({"notice": notice} if (notice := engine.about.notice) else {})


def error_record(error: ValleyError, sources: list[str]) -> dict[str, Any]:
    """What stands in an answer's place under ``--json`` when one of several could not be had."""
    said = {"type": type(error).__name__, "code": error.code, "message": as_flags(error.message)}
    return {"sources": sources, "error": said}


def stats_line(done: Done) -> str:
    """One line of figures for ``--stats``."""
    usage, timings = done.usage, done.timings
    return (
        f"first token {timings.ttft_s:.2f} s (loading {timings.load_s:.2f} s, pictures {timings.media_s:.2f} s) · "
        f"{usage.completion_tokens} tokens at {timings.tokens_per_s:.1f} tokens/s · "
        f"prompt {usage.prompt_tokens} tokens ({usage.image_tokens} image, {usage.cached_tokens} cached) · "
        f"memory {size_text(timings.memory_bytes)}"
    )


def size_text(n_bytes: int) -> str:
    """``1.5 GB``, ``12 MB``"""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def cost_record(cost: Cost) -> dict[str, Any]:
    """The object that ``--dry-run --json`` prints."""
    return asdict(cost) | {"fits": cost.fits}


def cost_table(cost: Cost) -> str:
    """What ``--dry-run`` prints: a line a picture, its name last as it may be of any width, then the totals."""
    rows = [("pixels", "tiles", "patches", "tokens", "picture")]
    for picture in cost.pictures:
        size, grid = (f"{w}x{h}" for w, h in (picture.size_wh, picture.grid_hw[::-1]))
        rows.append((size, str(picture.tiles or "-"), grid, str(picture.tokens), picture.name))
    lines = [f"{size:>11}{tiles:>7}{grid:>9}{tokens:>8}  {name}" for size, tiles, grid, tokens, name in rows]
    totals: Mapping[str, str] = {
        "model": cost.model,
        "prompt": f"{cost.prompt_tokens} tokens ({cost.image_tokens} for pictures)",
        "answer": f"up to {cost.max_new_tokens} tokens; the context holds {cost.context_tokens}",
        "memory": f"{size_text(cost.weight_bytes)} weights + {size_text(cost.kv_bytes)} cache, "
        f"{size_text(cost.available_bytes)} free",
        "fits": "yes" if cost.fits else "no",
    }
    return "\n".join(lines + [f"{name:<8}{text}" for name, text in totals.items()])
