"""A folder that should hold a checkpoint: where the Hugging Face cache keeps it, and whether it is whole.

No network, no huggingface_hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from valley_cli.engine.checkpoint.headers import tensor_index
from valley_cli.errors import ModelError

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Repo:
    """One hub repository and its place in the cache."""

    id: str
    endpoint: str
    cache: Path
    revision: str | None

    @property
    def key(self) -> str:
        return "models--" + self.id.replace("/", "--")

    @property
    def storage(self) -> Path:
        return self.cache / self.key

    def snapshot(self, commit: str) -> Path:
        return self.storage / "snapshots" / commit

    def cached(self) -> tuple[Path, str] | None:
        """The snapshot folder of the revision (whole or not) and its commit, without network."""
        commit = self.revision or "main"
        ref = self.storage / "refs" / commit
        if not COMMIT.fullmatch(commit) and os.path.isfile(ref):
            commit = ref.read_text(errors="replace").strip()
        folder = self.snapshot(commit)
        return (folder, commit) if COMMIT.fullmatch(commit) and folder.is_dir() else None

    def write_ref(self, commit: str) -> None:
        """Let the revision's ref name ``commit``, whose snapshot is whole."""
        ref = self.storage / "refs" / (self.revision or "main")
        ref.parent.mkdir(parents=True, exist_ok=True)
        draft = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        draft.write_text(commit)
        os.replace(draft, ref)

    def discard(self, path: Path, is_damaged: Callable[[Path], bool]) -> None:
        """Remove a damaged file from the snapshot, with the blob behind it, so that it is fetched anew."""
        if not path.is_file() or not is_damaged(path):  # asked here: another process may just have put it there
            return
        blob = path.resolve()
        path.unlink(missing_ok=True)
        if self.cache.resolve() in blob.parents:
            blob.unlink(missing_ok=True)


def find_fault(folder: Path) -> str | None:
    """Say what keeps ``folder`` from being a whole checkpoint, or None. Reads names, sizes and headers only."""
    try:
        present = os.listdir(folder)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if not os.path.isfile(folder / "config.json"):
        return "config.json is missing"
    if "tokenizer.json" not in present and not {"vocab.json", "merges.txt"} <= set(present):
        return "tokenizer.json (or vocab.json with merges.txt) is missing"
    try:
        tensor_index(folder)
    except ModelError as error:
        return reason(folder, error)
    return None


def reason(folder: Path, error: ModelError) -> str:
    """The text of an error of ``tensorfiles`` for where the folder is named already."""
    return error.message.removeprefix(f"{folder}: ")


def require_whole(folder: Path, what: str, hint: str) -> None:
    """Raise ModelError if ``folder``, called ``what``, is not a whole checkpoint."""
    if fault := find_fault(folder):
        raise ModelError(f"{what} is not a checkpoint: {fault}", hint)
