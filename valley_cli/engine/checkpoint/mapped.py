"""A checkpoint's tensors as views of its files: they take memory while they are looked at and can be let go of again.

The next tensors are asked for ahead, so that the disk reads while the processor or the device takes what is there.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from valley_cli.api import OnStage, Stage, unheard
from valley_cli.engine.checkpoint.headers import TensorInfo

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
AHEAD_BYTES = 256_000_000  # asked of the disk before they are needed
PIECE_BYTES = 16_000_000  # brought in between two reports


@dataclass(frozen=True)
class _Place:
    """Where a tensor is: the how-manieth in the order of use, its file and its bytes there."""

    index: int
    file: Path
    start: int
    end: int


class MappedTensors:
    """Views of ``tensors`` in the order of ``names``, which should be the order of use. ``on_stage`` hears of every
    byte once: when its tensor is let go of or brought in. ``kept_bytes``: of the views that are still looked at."""

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        names: Sequence[str],
        on_stage: OnStage = unheard,
    ) -> None:
        self._on_stage = on_stage
        self._files: dict[Path, mmap.mmap] = {}
        self._places: dict[int, _Place] = {}  # by address, of what is neither let go of nor brought in
        self._order = [tensors[name] for name in names]
        self._asked = 0  # of the order
        self._done, self._total = 0, sum(info.n_bytes for info in self._order)
        self.kept_bytes = self._total
        self.views = {name: self._view(index, tensors[name]) for index, name in enumerate(names)}
        self._ask_ahead(0)

    def _view(self, index: int, info: TensorInfo) -> Tensor:
        if info.file not in self._files:
            self._files[info.file] = _map(info.file)
        pages, dtype = self._files[info.file], DTYPES[info.dtype]
        if not info.n_values:
            return torch.empty(info.shape, dtype=dtype)
        if info.start % dtype.itemsize:  # no view can begin there
            aligned = bytearray(pages[info.start : info.start + info.n_bytes])
            return torch.frombuffer(aligned, dtype=dtype).view(info.shape)
        view = torch.frombuffer(pages, dtype=dtype, count=info.n_values, offset=info.start).view(info.shape)
        self._places[view.data_ptr()] = _Place(index, info.file, info.start, info.start + info.n_bytes)
        return view

    def release(self, tensors: Iterable[Tensor]) -> None:
        """These were copied: their pages need no memory any more. What is no view of a file is passed over."""
        for tensor in tensors:
            place = self._places.pop(tensor.data_ptr(), None)
            if place is None:
                continue
            self._ask_ahead(place.index)
            start = -(-place.start // mmap.PAGESIZE) * mmap.PAGESIZE  # pages shared with neighbours stay
            length = (place.end - start) // mmap.PAGESIZE * mmap.PAGESIZE
            if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
                self._files[place.file].madvise(mmap.MADV_DONTNEED, start, length)
            self.kept_bytes -= place.end - place.start
            self._advance(place.end - place.start)
        _trim()

    def read_the_rest(self) -> None:
        """Read all that was not let go of, so that nothing waits for the disk later."""
        for place in sorted(self._places.values(), key=lambda place: place.index):
            self._ask_ahead(place.index)
            pages = torch.frombuffer(self._files[place.file], dtype=torch.uint8)
            for start in range(place.start, place.end, PIECE_BYTES):
                end = min(start + PIECE_BYTES, place.end)
                pages[start : end : mmap.PAGESIZE].sum()
                self._advance(end - start)
        self._places.clear()

    def _ask_ahead(self, index: int) -> None:
        """Ask the disk for what comes after the tensor ``index``."""
        wanted, self._asked = 0, max(self._asked, index)
        for number in range(index, len(self._order)):
            info = self._order[number]
            if number >= self._asked:
                self._asked = number + 1
                _will_need(self._files[info.file], info.start, info.n_bytes)
            if (wanted := wanted + info.n_bytes) > AHEAD_BYTES:
                return

    def _advance(self, n_bytes: int) -> None:
        self._done += n_bytes
        self._on_stage(Stage("loading weights", self._done, self._total, "bytes"))


def _map(file: Path) -> mmap.mmap:
    try:
        with file.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError(f"no room to map {file.name}") from None
        raise


def _trim() -> None:
    """Give back what copying left between the copies: 4 % of a model otherwise. glibc only."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _will_need(pages: mmap.mmap, start: int, length: int) -> None:
    if hasattr(mmap, "MADV_WILLNEED"):
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        pages.madvise(mmap.MADV_WILLNEED, first, start + length - first)
