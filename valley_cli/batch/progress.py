"""How far the run is, on stderr: one line that is redrawn on a terminal, a plain line every 30 s elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TextIO

from valley_cli.api import Stage
from valley_cli.batch.records import Finished
from valley_cli.terminal.render import StatusLine, is_terminal, say

REDRAW_S, PLAIN_S = 0.1, 30.0
SHOWN_ERRORS = 5
_BAR = 20
_RATE_AFTER_S, _RATE_OVER_S = 0.5, 60.0  # the rate behind the ETA follows this much of the past


@dataclass
class Tally:
    """What has become of the rows so far; seconds are added up over rows that ran side by side."""

    done: int = 0  # in this run, failed ones included
    failed: int = 0
    before: int = 0  # finished by earlier runs, of which ...
    failed_before: int = 0  # ... so many failed, and are not tried again
    prompt_tokens: int = 0
    image_tokens: int = 0
    new_tokens: int = 0
    fetch_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    generate_s: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.begun

    @property
    def all_failed(self) -> int:
        return self.failed + self.failed_before

    def add(self, finished: Finished) -> None:
        """Count one row."""
        self.done += 1
        self.failed += finished.failed
        if finished.done is None:
            return
        usage, timings = finished.done.usage, finished.done.timings
        self.prompt_tokens += usage.prompt_tokens
        self.image_tokens += usage.image_tokens
        self.new_tokens += usage.completion_tokens
        self.fetch_s += timings.fetch_s
        self.decode_s += timings.decode_media_s
        self.encode_s += timings.encode_s
        before_prompt = timings.load_s + timings.media_s + timings.wait_s + timings.encode_s
        self.generate_s += timings.decode_s + max(timings.ttft_s - before_prompt, 0.0)

    def summary(self) -> str:
        """Two lines for the end of a run."""
        rows = f"{self.done:,} {'row' if self.done == 1 else 'rows'} in {duration(self.wall_s)}"
        if self.before:
            rows += f" ({self.before:,} more were finished before)"
        failed = f"{self.all_failed:,} failed" if self.all_failed else "none failed"
        rates = f"{self.done / self.wall_s:.1f} rows/s, {self.new_tokens / self.wall_s:,.0f} tokens/s"
        parts = ("fetch", self.fetch_s), ("decode", self.decode_s), ("encode", self.encode_s)
        where = ", ".join(f"{name} {duration(spent)}" for name, spent in (*parts, ("generate", self.generate_s)))
        return f"{rows}, {failed} · {rates}\nadded up over rows that ran side by side: {where}"


class Progress:
    """Shows a ``Tally`` of ``total`` rows (None: nobody knows). ``quiet``: errors only."""

    def __init__(self, stream: TextIO, tally: Tally, *, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        self._live = is_terminal(stream) and not quiet
        self.status = StatusLine(stream, quiet=quiet)
        self._tally = tally
        self._next_at = time.monotonic() + (0.0 if self._live else PLAIN_S)
        self._n_complaints = 0
        self._past: list[tuple[float, int]] = []  # times and rows done, of the last while
        self.total: int | None = None

    def stage(self, stage: Stage) -> None:
        """What the engine is doing; shown until there are rows to count."""
        if not self._tally.done:
            self.status.stage(stage)

    def tick(self) -> None:
        """Draw the line again if it is time."""
        now = time.monotonic()
        if self._quiet or now < self._next_at or (self._live and not self._tally.done):
            return
        self._next_at = now + (REDRAW_S if self._live else PLAIN_S)
        if self._live:
            self.status.show(self.line(now))
        else:
            say(self._stream, f"valley: {self.line(now)}\n")

    def clear(self) -> None:
        """Take the line away: something else is to be written."""
        self.status.clear()

    def note(self, text: str) -> None:
        """A line that stays, unless quiet."""
        if text and not self._quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """A line that stays, in any case."""
        self.clear()
        say(self._stream, f"{text}\n")

    def complain(self, complaint: str) -> None:
        """Name the first few rows that failed; the output has them all."""
        self._n_complaints += 1
        if self._n_complaints <= SHOWN_ERRORS:
            self.note(f"valley: {complaint}")
        elif self._n_complaints == SHOWN_ERRORS + 1:
            self.note("valley: more rows failed; their records say why")

    def line(self, now: float) -> str:
        """``[#####-----] 412/1,000 41% · 12.3 rows/s · 3 failed · 0:48 left``"""
        tally = self._tally
        if not self._past or now - self._past[-1][0] >= 1.0:
            self._past.append((now, tally.done))
        self._past = [(at, n) for at, n in self._past if now - at <= _RATE_OVER_S]
        since, n_then = self._past[0]  # the first rows waited for the model to load: they say nothing about the others
        rate = (tally.done - n_then) / (now - since) if now - since > _RATE_AFTER_S else 0.0
        finished = tally.done + tally.before
        failed = f" · {tally.all_failed:,} failed" if tally.all_failed else ""
        speed = f" · {rate:.1f} rows/s" if rate else ""
        if not self.total:
            return f"{finished:,} rows{speed}{failed}"
        share = min(finished / self.total, 1.0)
        bar = "#" * round(_BAR * share) + "-" * (_BAR - round(_BAR * share))
        left = f" · {duration(max(self.total - finished, 0) / rate)} left" if rate else ""
        return f"[{bar}] {finished:,}/{self.total:,} {share:.0%}{speed}{failed}{left}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``2:05``, ``3:00:00``"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
