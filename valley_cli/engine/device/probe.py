"""What this machine has: CUDA, memory. torch is imported only where there may be a CUDA card to ask about."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

SMALL_BYTES = 2_000_000_000  # below this, a CPU computes in float32 whatever the checkpoint's dtype


def may_have_cuda() -> bool:
    """A cheap look for an NVIDIA driver, which saves the two seconds of importing torch where there is none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists() or shutil.which("nvidia-smi") is not None


def cuda_free_bytes(index: int = 0) -> int:
    """Free memory of a CUDA device in bytes, 0 where there is none."""
    if not may_have_cuda():
        return 0
    import torch

    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return 0
    return torch.cuda.mem_get_info(index)[0]


def usable_cores() -> int:
    """Processors that this process may run on: in a container fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def host_free_bytes() -> int:
    """Memory a process can still take, in bytes: what there is and what it is allowed; 0 where nothing says."""
    known = (_system_free_bytes(), _group_free_bytes(), _limit_free_bytes())
    return min((n_bytes for n_bytes in known if n_bytes is not None), default=0)


def _system_free_bytes() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return None
    except OSError:
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return None


def _group_free_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What is left to this process's control group, a container for instance; its page cache can be had as well."""
    try:
        _, _, name = Path("/proc/self/cgroup").read_text().strip().splitlines()[-1].split(":", 2)
        group = root / name.lstrip("/")
        group = group if (group / "memory.max").exists() else root
        most, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or no limit: "max"
        return None
    return max(most - used + int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0)), 0)


def _limit_free_bytes() -> int | None:
    """What ``ulimit -v`` leaves."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return max(limit - pages * resource.getpagesize(), 0)
    except (ImportError, OSError, ValueError):
        return None


def runs_on_cuda(device: str) -> bool:
    """Whether ``device`` (``auto`` included) means a CUDA card that is there."""
    return device.startswith("cuda") or (device == "auto" and cuda_free_bytes() > 0)


def available_bytes(device: str) -> int:
    """Free memory in bytes where ``device`` says."""
    return cuda_free_bytes(card_index(device)) if runs_on_cuda(device) else host_free_bytes()


def card_index(device: str) -> int:
    """Which CUDA card ``device`` means: that of ``cuda:N``, otherwise the first."""
    _, _, index = device.partition(":")
    return int(index) if index.isdigit() else 0


def default_dtype(on_cuda: bool, stored: str, weight_bytes: int) -> str:
    """``auto``: the checkpoint's own half precision on CUDA; on a CPU float32 for small models, else bfloat16."""
    if on_cuda:
        return "float16" if stored == "float16" else "bfloat16"
    return "float32" if weight_bytes < SMALL_BYTES else "bfloat16"


def value_bytes(device: str, dtype: str, stored: str, weight_bytes: int) -> int:
    """Bytes of one weight or cached value under ``device`` and ``dtype``."""
    if dtype == "auto":
        dtype = default_dtype(runs_on_cuda(device), stored, weight_bytes)
    return 4 if dtype == "float32" else 2


def read_bandwidth(device: str, n_bytes: int = 1_000_000_000) -> float:
    """Bytes per second at which ``device`` reads a large float32 array once, best of five."""
    import torch

    where = "cuda" if device == "auto" and runs_on_cuda(device) else "cpu" if device == "auto" else device
    values = torch.ones(n_bytes // 4, device=where)
    best = 0.0
    for _ in range(6):  # the first one warms up
        start = time.perf_counter()
        values.sum().item()
        best = max(best, n_bytes / (time.perf_counter() - start))
    return best
