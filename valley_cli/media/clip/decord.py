"""Frames of a clip with decord, the library of the published code, where it can be trusted.

Runs in the decoding child only: decord can hang and crash. What it gives is compared with what the packets say. It
also decodes ahead of whoever reads slowly, until all of the clip is in memory, so it is given small clips alone. PyAV
gives the same bytes of every clip that decord decodes rightly (tests/test_video_kinds.py), and does the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from valley_cli.media.clip.libav import AvDecoder
from valley_cli.media.clip.types import Complaints, Index, Pixels

KINDS = ("mp4", "mov", "mkv", "webm", "flv")  # AVI gives no times, MPEG-TS hangs
CODECS_NOT_KNOWN = ("av1", "libdav1d", "libaom-av1", "vvc", "apv", "gif")
MAX_PIXELS = 100e6  # of all frames of the clip: 300 MB, should they all be in memory
SAME_S = 0.002
RETRIES_AT_END = "128"  # more, and some files keep it busy for ever


@dataclass
class DecordDecoder:
    """decord on one open clip, with the frame times that PyAV found."""

    reader: Any
    index: Index
    complaints: Complaints
    name: str = "decord"

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, int, Pixels]]:
        """See ``Decoder.frames``. Raises whatever decord does."""
        for index in wanted:
            pixels_HWC = self.reader[index].asnumpy()
            w, h = self.index.size_wh
            if pixels_HWC.shape != (h, w, 3):
                raise ValueError(f"decord gave frames of {pixels_HWC.shape}")
            if self.complaints.heard():
                raise ValueError("decord patched up damage")
            yield index, index, Pixels((w, h), pixels_HWC.tobytes())
        self.reader.seek(0)  # or it goes on decoding what nobody wants


def open_decord(path: str, checked: AvDecoder) -> DecordDecoder | None:
    """None where decord is missing, is known to fail or to give wrong frames, or sees other times than PyAV."""
    packets, index = checked.packets, checked.index
    if checked.kind not in KINDS or index.codec in CODECS_NOT_KNOWN or index.notes:
        return None
    if packets.counted or packets.discards or packets.leading or packets.pts[0] < 0:
        return None
    if len(index.times_s) * index.size_wh[0] * index.size_wh[1] > MAX_PIXELS:
        return None
    os.environ["DECORD_EOF_RETRY_MAX"] = RETRIES_AT_END
    try:
        import decord

        reader = decord.VideoReader(path, num_threads=1)  # with more it often fails near the end
        if len(reader) != len(index.times_s):
            return None
        starts = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    except Exception:  # ImportError, DECORDError, and what ctypes makes of a broken library
        return None
    offset = float(starts[0])
    same = all(abs(float(at) - offset - time_s) < SAME_S for at, time_s in zip(starts, index.times_s, strict=True))
    return DecordDecoder(reader, index, checked.complaints) if same and offset >= 0 else None
