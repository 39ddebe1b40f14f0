"""A repository's snapshot into the Hugging Face cache: listing, small files, weights, and last the ref.

Small files go through ``hf_hub_download``. Weights do not: huggingface_hub 2.x deletes an unfinished file, so a Ctrl-C
at 90% of 18 GB would cost all of it. ``shards`` brings their blobs, and ``hf_hub_download`` then only links them.
``refs/`` is written last: a snapshot that a ref names is whole, and an interrupted update leaves the old one in use.
"""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

from valley_cli.api import OnStage, Stage
from valley_cli.engine.checkpoint.headers import indexed_files, read_header
from valley_cli.engine.hub.errors import LIST_HINT, UnreachableError, as_model_errors, quiet
from valley_cli.engine.hub.shards import TIMEOUT_S, Shard, fetch_all, look_up
from valley_cli.engine.hub.snapshot import COMMIT, Repo, reason, require_whole
from valley_cli.errors import ModelError, WeightsError, option
from valley_cli.text import printable

SMALL_FILES = ("*.json", "*.jinja", "merges.txt")  # vocab.json and tokenizer.json are *.json; never *.py, never *.bin


def download(repo: Repo, on_stage: OnStage) -> tuple[Path, str]:
    """Bring the repository's snapshot into the cache; resumes what an earlier run left."""
    on_stage(Stage("asking the hub"))
    with quiet(), as_model_errors(repo):
        commit, names = _list_files(repo)
        folder = repo.snapshot(commit)
        for name in names:
            if "/" not in name and any(fnmatch(name, pattern) for pattern in SMALL_FILES):
                repo.discard(folder / name, _is_damaged_json)
                _fetch_through_cache(repo, commit, name)
        _refuse_other_families(repo, folder)
        weights = _wanted_weights(repo, folder, names)
        torn = [name for name in weights if _is_damaged_shard(folder / name)]
        for name in torn:
            repo.discard(folder / name, _is_damaged_shard)
        shards = [look_up(repo, commit, name) for name in torn]
        _require_disk_space(repo, shards)
        fetch_all(shards, on_stage)
        for name in torn:
            _fetch_through_cache(repo, commit, name)
        require_whole(folder, f"the repository {repo.id}", LIST_HINT)
        if repo.revision != commit:
            repo.write_ref(commit)
    return folder, commit


def _list_files(repo: Repo) -> tuple[str, list[str]]:
    """Commit and file names of the revision."""
    from huggingface_hub import HfApi

    try:
        listing = HfApi(endpoint=repo.endpoint).model_info(repo.id, revision=repo.revision, timeout=TIMEOUT_S)
        names = [sibling.rfilename for sibling in listing.siblings or []]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):  # a captive portal's page, say
        listing = None
    if listing is None or not COMMIT.fullmatch(listing.sha or ""):
        raise UnreachableError(f"{repo.endpoint} does not answer as a Hugging Face hub does", "check HF_ENDPOINT")
    return str(listing.sha), names


def _fetch_through_cache(repo: Repo, commit: str, name: str) -> None:
    """Have huggingface_hub place ``name`` in the snapshot; only links it if its blob is there already."""
    from huggingface_hub import hf_hub_download

    hf_hub_download(
        repo.id, name, revision=commit, cache_dir=repo.cache, endpoint=repo.endpoint, etag_timeout=TIMEOUT_S
    )


def _refuse_other_families(repo: Repo, folder: Path) -> None:
    """Raise ModelError before gigabytes are fetched for a model that valley cannot run."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        kinds = [str(config.get("model_type")), *map(str, config.get("architectures") or [])]
    except FileNotFoundError:
        raise ModelError(f"the repository {repo.id} is not a model: config.json is missing", LIST_HINT) from None
    except (ValueError, AttributeError, TypeError):
        raise ModelError(f"the config.json of {repo.id} is damaged", LIST_HINT) from None
    if not any("valley" in kind.lower() for kind in kinds):
        raise ModelError(f"{repo.id} is a {printable(kinds[-1])} model; valley runs Valley models only", LIST_HINT)


def _wanted_weights(repo: Repo, folder: Path, names: list[str]) -> list[str]:
    """The files to fetch of ``names``: those of the index, else model.safetensors, else all safetensors files."""
    try:
        weights = indexed_files(folder)
    except ModelError as error:
        raise ModelError(f"the repository {repo.id}: {reason(folder, error)}", LIST_HINT) from None
    if weights is None:
        found = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
        weights = ["model.safetensors"] if "model.safetensors" in found else found
    absent = [name for name in weights if name not in names]
    if absent or not weights:
        what = f"its index names {absent[0]}, which it lacks" if absent else "it has no *.safetensors file"
        raise ModelError(
            f"the repository {repo.id} holds no whole weights: {what}", f"try another {option('revision')}"
        )
    return weights


def _is_damaged_json(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
    except ValueError:
        return True
    return False


def _is_damaged_shard(path: Path) -> bool:
    try:
        read_header(path)
    except WeightsError:
        return True
    return False


def _require_disk_space(repo: Repo, shards: list[Shard]) -> None:
    needed = sum(shard.size - shard.bytes_here() for shard in shards)
    free = shutil.disk_usage(repo.storage).free
    if needed > free:
        raise ModelError(
            f"the disk is too small for {repo.id}: {_size_text(needed)} more are needed in {repo.cache}, "
            f"{_size_text(free)} are free",
            "make room, or set HF_HOME to a folder on a larger disk",
        )


def _size_text(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 50_000_000 else f"{count / 1e6:.1f} MB"
