"""8 frames of a 10-minute 1080p clip, beside the same frames by plain PyAV: seek to the keyframe before, decode on.

    python -m benchmarks.video [--quick]

Both run in processes of their own, in turn, imports included; memory is the peak of all processes together. The clip is
made once and kept in the temporary folder: a minute's pictures (H.264, keyframes 250 frames apart at most), repeated.
The bar: no more CPU time than plain PyAV takes, though frames come from a child that is started and checked for it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.report import finish

SIZE_WH, RATE, N_FRAMES = (1920, 1080), 30, 8
MINUTES, QUICK_MINUTES, PART_S = 10, 2, 20


def make_clip(minutes: int) -> Path:
    """A clip of moving, detailed pictures, of ``minutes``."""
    path = Path(tempfile.gettempdir()) / f"valley-benchmark-{minutes}min-v1.mp4"
    if path.exists():
        return path
    part = path.with_suffix(".part")
    chance = np.random.default_rng(0)
    w, h = SIZE_WH
    coarse = chance.integers(0, 255, (h // 12, w // 12, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
    fine = chance.integers(0, 24, (h, w, 3), dtype=np.uint8)
    with av.open(str(part), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "23", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = w, h, "yuv420p"
        packets = []
        for number in range(PART_S * RATE):
            moved = np.roll(coarse, (number, 3 * number), (0, 1)) // 2 + fine
            packets += stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24"))
        packets += stream.encode(None)
        length = PART_S * RATE
        step = (packets[-1].time_base.denominator // packets[-1].time_base.numerator) // RATE
        times = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        for repeat in range(minutes * 60 // PART_S):
            for data, pts, dts, key in times:
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, packets[0].time_base
                packet.pts, packet.dts = pts + repeat * length * step, dts + repeat * length * step
                packet.is_keyframe = key
                out.mux(packet)
    part.rename(path)
    return path


def ours(path: str) -> int:
    """The product's own way; the number of frames."""
    from valley_cli.api import Media, MediaLimits
    from valley_cli.media.clip.clip import open_clip

    with open_clip(Media(path, "video", path=path), MediaLimits()) as clip:
        return len(clip.frames())


def plain(path: str) -> int:
    """What a script would do: exact frames by seeking to the keyframe before each and decoding on."""
    images = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        n_frames = stream.frames
        for index in np.linspace(0, n_frames - 1, N_FRAMES).astype(int):
            target = round(int(index) / (RATE * stream.time_base))
            container.seek(target, stream=stream)
            frame = next(frame for frame in container.decode(stream) if frame.pts >= target)
            images.append(frame.to_image())
    return len(images)


def run(name: str, path: Path) -> dict[str, float]:
    """Seconds and peak memory of one way in a process of its own."""
    begun = time.perf_counter()
    found = subprocess.run([sys.executable, "-m", "benchmarks.video", name, str(path)], capture_output=True, check=True)
    seconds = time.perf_counter() - begun
    return {"seconds": round(seconds, 2)} | json.loads(found.stdout.splitlines()[-1])


def child(name: str, path: str) -> None:
    """In that process."""
    assert {"ours": ours, "plain": plain}[name](path) == N_FRAMES
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    peaks_mb = [round(usage.ru_maxrss * 1024 / 1e6) for usage in usages]
    print(json.dumps({"cpu_s": round(cpu_s, 2), "peak_mb": sum(peaks_mb), "decoder_mb": peaks_mb[1]}))


def main() -> None:
    if len(sys.argv) == 3:
        child(sys.argv[1], sys.argv[2])
        return
    quick = "--quick" in sys.argv
    minutes = QUICK_MINUTES if quick else MINUTES
    path = make_clip(minutes)
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for _ in range(1 if quick else 3):
        for name, found in runs.items():
            found.append(run(name, path))
            one = found[-1]
            print(f"{name:6} {one['seconds']:6.2f} s, {one['cpu_s']:6.2f} CPU s, {one['peak_mb']:6.0f} MB")
    best = {name: min(found, key=lambda one: one["cpu_s"]) for name, found in runs.items()}
    ratio = best["ours"]["cpu_s"] / best["plain"]["cpu_s"]
    figures: dict[str, Any] = {"minutes": minutes, "file_mb": round(path.stat().st_size / 1e6), "best": best}
    figures |= {"cpu_ratio": round(ratio, 3), "runs": runs}
    finish("video", figures, {"cpu_ratio": "<= 1"}, ratio <= 1)


if __name__ == "__main__":
    main()
