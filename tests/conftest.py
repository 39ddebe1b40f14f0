"""Where the golden references are, and tools that several test files need."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUBSET = ROOT / "tests" / "data" / "golden"
SHARED = ROOT.parent / "shared" / "golden"
GOLDEN = SHARED if SHARED.is_dir() else SUBSET
VALLEY2 = SUBSET / "valley2-tiny" / "checkpoint"
VALLEY25 = SUBSET / "valley2.5-tiny" / "checkpoint"
IMAGES = SUBSET / "images"

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts what runs behind it so; commands inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is imported, by whichever test


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own settings or cache, and no VALLEY_* variable leaks in."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("VALLEY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HF_HOME", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the engine runs tiny models: two threads would mostly wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def talkative(tmp_path: Path) -> str:
    """A checkpoint that does not stop by itself."""
    folder = tmp_path / "talkative"
    shutil.copytree(VALLEY25, folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 927}')
    return str(folder)
