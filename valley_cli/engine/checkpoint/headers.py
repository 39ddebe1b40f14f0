"""A checkpoint's safetensors files by their headers: which there are, which tensors they hold, whether they are whole.

Standard library only, and no tensor is read. Messages begin with the folder.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valley_cli.errors import ModelError, WeightsError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_AXES = 8
MAX_HEADER_BYTES = 100_000_000  # as the safetensors format allows
# what can be computed with; the format has more: float8 and smaller, unsigned and complex numbers
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
AGAIN = "download the checkpoint again"


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is: file, dtype as safetensors spells it (any), shape, first byte in the file, bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    n_bytes: int

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)


def tensor_index(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of the checkpoint: of the shards an index names, else of model.safetensors, else of all files.

    Raises ModelError if files are missing, WeightsError if one is damaged or not whole.
    """
    names = indexed_files(folder)
    if names is None:
        names = sorted(file.name for file in folder.glob("*.safetensors"))
        names = [SINGLE] if SINGLE in names else names
    if missing := [name for name in names if not (folder / name).is_file()]:
        verb = "is" if len(missing) == 1 else "are"
        raise ModelError(f"{folder}: {', '.join(missing)} {verb} missing", AGAIN)
    if not names:
        raise ModelError(f"{folder}: there is no *.safetensors file", "download the weights, or give another folder")
    tensors: dict[str, TensorInfo] = {}
    for name in names:
        tensors |= read_header(folder / name)
    return tensors


def indexed_files(folder: Path) -> list[str] | None:
    """Names of the shards that the folder's index names, None where there is no index.

    Raises ModelError if the index cannot be understood, or names files outside the folder.
    """
    if not os.path.lexists(folder / INDEX):
        return None
    try:
        names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except FileNotFoundError:  # a link to a blob that is gone
        raise ModelError(f"{folder}: {INDEX} is missing", AGAIN) from None
    except OSError as error:
        raise ModelError(f"{folder}: {INDEX} cannot be read ({error.strerror})", AGAIN) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{folder}: {INDEX} is damaged", AGAIN) from None
    if not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise ModelError(f"{folder}: {INDEX} names files outside the folder", AGAIN)
    return names


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one file: 8 bytes of length, then the header as JSON, then the data.

    Raises WeightsError if the file is missing or damaged, or its size is not what the header says.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise _fault(file, f"is damaged or not whole ({size:,} bytes)")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        whole = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {name: _read_entry(file, 8 + length, entry) for name, entry in header.items()}
    except FileNotFoundError:
        raise _fault(file, "is missing") from None
    except OSError as error:
        raise _fault(file, f"cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise _fault(file, "is damaged") from None
    if size != whole:
        raise _fault(file, f"is not whole ({size:,} of {whole:,} bytes)")
    return tensors


def _read_entry(file: Path, data_start: int, entry: dict[str, Any]) -> TensorInfo:
    """A tensor of a header. Raises ValueError if it is not as long as its shape says, where its dtype is known."""
    start, end = entry["data_offsets"]
    numbers = (start, end, *entry["shape"])
    if not isinstance(entry["dtype"], str) or len(numbers) > MAX_AXES + 2 or not all(map(_is_size, numbers)):
        raise ValueError("a tensor's type, shape or place is none")
    info = TensorInfo(file, entry["dtype"], tuple(entry["shape"]), data_start + start, end - start)
    known = info.dtype in DTYPE_BYTES
    if info.n_bytes < 0 or (known and info.n_bytes != info.n_values * DTYPE_BYTES[info.dtype]):
        raise ValueError(f"{info.n_bytes} bytes for {info.n_values} values of type {info.dtype}")
    return info


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _fault(file: Path, what: str) -> WeightsError:
    return WeightsError(f"{file.parent}: {file.name} {what}", AGAIN)
