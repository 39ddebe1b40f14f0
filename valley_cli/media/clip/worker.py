"""The decoding child: a clip's frames on stdout, decoded where a hang or a crash costs nothing but this process.

stdin   one line of JSON (the job), then "go" once the frames are wanted; its end is the end of this process
stdout  {"plan": ...}, then {"frame": index, ...} and its pixels for every frame, {"done": ...}; or {"error": ...}
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

from valley_cli.api import FrameSelection
from valley_cli.errors import UsageError
from valley_cli.libraries import misfit
from valley_cli.media.clip.select import select
from valley_cli.media.clip.types import ANIMATED, ClipError, Complaints, Decoder, library_path, send

PR_SET_PDEATHSIG = 1
INSTALL = "install the decoder: pip install av"


def main() -> None:
    """Serve one job."""
    die_with_parent()
    out = os.fdopen(os.dup(1), "wb")
    with tempfile.TemporaryFile() as printed:  # what libraries print goes there
        os.dup2(printed.fileno(), 2)
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=follow_parent, args=(lines,), daemon=True).start()
    try:
        serve(json.loads(lines.get()), lines, out, Complaints(2))
    except ClipError as error:
        send(out, {"error": error.reason, "hint": error.hint})
    except UsageError as error:
        send(out, {"error": error.message, "hint": error.hint, "usage": True})
    except MemoryError:
        send(out, {"error": "there is not enough memory to decode it", "hint": "take fewer frames"})
    except Exception as error:
        send(out, unforeseen(error))
    out.flush()
    os._exit(0)  # decord's threads may not want to end


def unforeseen(error: Exception) -> dict[str, Any]:
    """The last word about what nobody foresaw: of a library that does not fit, or of a damaged clip."""
    if found := misfit(error, "av") or misfit(error, "PIL"):
        return {"error": found.message, "hint": found.hint, "library": True}
    return {"error": f"could not be decoded ({type(error).__name__})", "hint": "copy or download it again"}


def die_with_parent() -> None:
    """Linux: be killed when the thread that started us ends, even in the middle of a decoder."""
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def follow_parent(lines: queue.SimpleQueue[str]) -> None:
    """Pass on what comes on stdin; end the process with it."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(1)


def serve(job: dict[str, Any], lines: queue.SimpleQueue[str], out: BinaryIO, complaints: Complaints) -> None:
    """Plan, wait for "go", send the frames."""
    decoder = open_decoder(job, complaints)
    index = decoder.index
    selection = FrameSelection(**job["selection"] | {"at_s": tuple(job["selection"]["at_s"])})
    picked = select(index.times_s, index.duration_s, selection)
    wanted = sorted(set(picked))
    size_wh = kept_size(index.size_wh, len(wanted), job["keep_pixels"])
    notes = list(index.notes)
    if size_wh != index.size_wh:
        notes.append(f"frames are scaled down to {size_wh[0]}x{size_wh[1]} to keep {len(wanted)} of them in memory")
    plan = {"codec": index.codec, "decoder": decoder.name, "size_wh": size_wh, "n_frames": len(index.times_s)}
    plan |= {"duration_s": index.duration_s, "moments": [(i, index.times_s[i]) for i in picked], "notes": notes}
    send(out, {"plan": plan})
    lines.get()
    send_frames(decoder, wanted, size_wh, lambda: open_decoder(job | {"decoder": "av"}, complaints), out)


def open_decoder(job: dict[str, Any], complaints: Complaints) -> Decoder:
    """Pillow for animated pictures; else decord where PyAV's look at the packets says that it can be trusted."""
    path, kind = library_path(job["fd"]), job["kind"]
    if kind in ANIMATED:
        from valley_cli.media.clip.pillow import open_pillow

        return open_pillow(path, kind, job["max_pixels"])
    try:
        from valley_cli.media.clip import libav
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise ClipError(f"is {kind.upper()}, which needs PyAV here", INSTALL) from None
    decoder = libav.open_av(path, kind, job["max_pixels"], complaints)
    if job["decoder"] == "auto":
        from valley_cli.media.clip.decord import open_decord

        return open_decord(library_path(job["fd"]), decoder) or decoder
    return decoder


def kept_size(size_wh: tuple[int, int], n_frames: int, keep_pixels: int) -> tuple[int, int]:
    """The size at which ``n_frames`` frames are kept: their own, or what ``keep_pixels`` in all leave of it."""
    w, h = size_wh
    if w * h * n_frames <= keep_pixels:
        return size_wh
    scale = (keep_pixels / (w * h * n_frames)) ** 0.5
    return max(int(w * scale), 1), max(int(h * scale), 1)


def send_frames(
    decoder: Decoder, wanted: list[int], size_wh: tuple[int, int], other: Callable[[], Decoder], out: BinaryIO
) -> None:
    """Every wanted frame in ascending order. Where decord fails, the ``other`` decoder goes on."""
    sent, replaced = 0, 0
    try:
        for index, came, pixels in decoder.frames(wanted):
            time_s = decoder.index.times_s[max(came, 0)]
            send(out, {"frame": index, "time_s": time_s}, pixels.resized(size_wh).as_ppm())
            sent += 1
            replaced += came != index
    except (ClipError, MemoryError):
        raise
    except Exception:
        if decoder.name != "decord":
            raise
        return send_frames(other(), wanted[sent:], size_wh, other, out)
    notes = (
        [f"{replaced} of the frames could not be decoded; the nearest that could stand for them"] if replaced else []
    )
    send(out, {"done": True, "decoder": decoder.name, "notes": notes})


if __name__ == "__main__":
    main()
