"""A checkpoint's safetensors files by their headers: which there are, which tensors they hold, whether they are whole.

Standard library only, and no tensor is read. Messages begin with the folder.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from valley_cli.errors import ModelError, WeightsError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000  # as the safetensors format allows
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
AGAIN = "download the checkpoint again"


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is: file, dtype as safetensors spells it, shape, first byte in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.n_values * DTYPE_BYTES.get(self.dtype, 4)


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
        tensors = {
            name: TensorInfo(file, e["dtype"], tuple(e["shape"]), 8 + length + e["data_offsets"][0])
            for name, e in header.items()
        }
        if any(e["data_offsets"][1] != tensors[n].start - 8 - length + tensors[n].n_bytes for n, e in header.items()):
            raise ValueError("a tensor is not as long as its shape says")
    except FileNotFoundError:
        raise _fault(file, "is missing") from None
    except OSError as error:
        raise _fault(file, f"cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise _fault(file, "is damaged") from None
    if size != whole:
        raise _fault(file, f"is not whole ({size:,} of {whole:,} bytes)")
    return tensors


def _fault(file: Path, what: str) -> WeightsError:
    return WeightsError(f"{file.parent}: {file.name} {what}", AGAIN)
