"""Which frames of a clip are looked at. Plain arithmetic on the frames' times; nothing is opened."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from valley_cli.api import FrameSelection
from valley_cli.errors import UsageError, option

MAX_MOMENTS = 4096  # of one clip; no model's context holds more pictures
CLOSE_S = 0.0005  # times are typed in milliseconds: 0.567 means the frame at 0.56666


def uniform(n_frames: int, count: int) -> list[int]:
    """The published rule, ``np.linspace(0, n_frames - 1, count).astype(int)`` (spec valley2, 3.3), without numpy."""
    if count == 1:
        return [0]
    step = (n_frames - 1) / (count - 1)
    return [int(i * step) for i in range(count - 1)] + [n_frames - 1]


def select(times_s: Sequence[float], duration_s: float, wanted: FrameSelection) -> list[int]:
    """Indexes of the frames that ``wanted`` asks for, in its order; a frame is on the screen until the next one.

    ``times_s``: when each frame appears, not decreasing, the first at 0. Raises UsageError for moments outside the
    clip and for more than ``MAX_MOMENTS``.
    """
    check_selection(wanted)
    if wanted.at_s:
        return [_on_screen(times_s, _inside(at, duration_s, option("at"))) for at in wanted.at_s]
    start = _inside(wanted.start_s, duration_s, option("start")) if wanted.start_s is not None else 0.0
    end = duration_s if wanted.end_s is None else min(wanted.end_s, duration_s)
    if wanted.fps is not None:
        return _at_rate(times_s, start, end, wanted.fps, wanted.max_frames)
    first, last = _on_screen(times_s, start), _on_screen(times_s, end)
    count = wanted.frames if wanted.max_frames is None else min(wanted.frames, wanted.max_frames)
    return [first + index for index in uniform(last - first + 1, count)]


def check_selection(wanted: FrameSelection) -> None:
    """Raises UsageError for a selection that no clip can satisfy."""
    numbers = [wanted.start_s, wanted.end_s, wanted.fps, wanted.frame_rate, *wanted.at_s]
    if any(number is not None and not (math.isfinite(number) and number >= 0) for number in numbers):
        raise UsageError("times and rates of frames must be numbers from 0 up")
    if wanted.fps == 0 or wanted.frame_rate == 0:
        raise UsageError("a rate of 0 frames a second shows nothing", f"give {option('fps')} a number above 0")
    for name, count in (
        (option("frames"), wanted.frames),
        (option("max_frames"), wanted.max_frames),
        (option("at"), len(wanted.at_s)),
    ):
        if (count is not None and not (name == option("at") or count >= 1)) or (count or 0) > MAX_MOMENTS:
            raise UsageError(f"{name}: {count} is not between 1 and {MAX_MOMENTS}")
    if wanted.at_s and (wanted.fps, wanted.start_s, wanted.end_s) != (None, None, None):
        raise UsageError(
            f"{option('at')} names the moments itself",
            f"leave {option('fps')}, {option('start')} and {option('end')} out",
        )
    if wanted.end_s is not None and wanted.end_s < (wanted.start_s or 0.0):
        raise UsageError(f"the end ({wanted.end_s:g} s) comes before the start ({wanted.start_s or 0:g} s)")


def _at_rate(times_s: Sequence[float], start: float, end: float, fps: float, max_frames: int | None) -> list[int]:
    """Moments 1/fps apart from ``start`` on; if there are more than ``max_frames``, that many spread over them."""
    count = max(math.ceil((end - start) * fps - 1e-6), 1)
    if max_frames is not None and count > max_frames:
        return [_on_screen(times_s, start + index / fps) for index in uniform(count, max_frames)]
    if count > MAX_MOMENTS:
        hint = f"choose a lower {option('fps')}, or give {option('max_frames')}"
        raise UsageError(f"{fps:g} frames a second over {end - start:.1f} s are {count} frames", hint)
    return [_on_screen(times_s, start + index / fps) for index in range(count)]


def _inside(time_s: float, duration_s: float, option: str) -> float:
    if time_s > duration_s + CLOSE_S:
        raise UsageError(f"{option} {time_s:g} s lies behind the clip's end at {duration_s:.2f} s")
    return time_s


def _on_screen(times_s: Sequence[float], time_s: float) -> int:
    return max(bisect_right(times_s, time_s + CLOSE_S) - 1, 0)
