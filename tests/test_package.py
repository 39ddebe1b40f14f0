"""What is built from the tree does the main job where nothing else of the tree is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

from tests.commands import environment
from tests.conftest import ROOT

BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "valley_cli")
LIMIT_S = 300


def run(command: Sequence[str | Path], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment(), timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_that_is_made_of_the_sdist_describes_a_picture(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, source], tmp_path)
    assert len([*tmp_path.glob("valley_cli-*.tar.gz")]) == 1
    (wheel,) = tmp_path.glob("valley_cli-*.whl")

    fresh = tmp_path / "fresh"
    venv.create(fresh, with_pip=True)
    run([fresh / "bin" / "pip", "install", "-q", "--no-deps", "--no-index", wheel], tmp_path)
    (packages,) = (fresh / "lib").glob("python*/site-packages")
    # the libraries of this environment; a path that a .pth file names has its own .pth files left alone, and so this
    # environment's valley, which may be the tree itself, is not found
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    script = fresh / "bin" / "valley"
    said = run([fresh / "bin" / "python", "-c", "import valley_cli; print(valley_cli.__file__)"], tmp_path)
    assert Path(said.strip()).is_relative_to(fresh)
    assert "red circle" in run([script, "describe", ROOT / "examples" / "shapes.png"], tmp_path)
