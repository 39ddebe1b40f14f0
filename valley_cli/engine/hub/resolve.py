"""From what a person typed after --model to a local folder that holds a whole checkpoint.

    name or org/name ─► snapshot in the Hugging Face cache, whole? ─ yes ─► Checkpoint (no network at all)
                                        └ no ─► listing ─► small files ─► weights (Range, kept when broken off) ─► ref
    folder ─► whole? ─► Checkpoint

``snapshot`` knows the cache and what whole means, ``download`` fetches, ``hub_errors`` explains. huggingface_hub is
imported inside functions (it reads HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE when imported).
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from valley_cli.api import OnStage, Stage, unheard
from valley_cli.engine.hub.download import download
from valley_cli.engine.hub.errors import LIST_HINT, NotFoundError, UnreachableError, suggestion
from valley_cli.engine.hub.registry import ModelInfo, find
from valley_cli.engine.hub.snapshot import COMMIT, Repo, find_fault, require_whole
from valley_cli.errors import ModelError, UsageError, option
from valley_cli.text import printable

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config, tokenizer and weights. ``revision`` is the hub's commit, None for folders.

    ``info`` is None for models that the registry does not know: their limits come from their own config.
    """

    folder: Path
    info: ModelInfo | None
    name: str
    revision: str | None = None


def resolve_checkpoint(
    model: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    on_stage: OnStage = unheard,
    refresh: bool = False,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
) -> Checkpoint:
    """Find, and if needed download, the checkpoint that ``model`` names: a registered name, ``org/name`` or a folder.

    A whole snapshot in the cache is used without asking the hub, so that a cut network never stops a downloaded
    model. The hub is asked if something is missing, if ``revision`` is a branch or tag (the cached one serves if the
    hub does not answer), or if ``refresh`` asks for the newest. ``cache_dir`` and ``endpoint`` default to HF_HOME's
    and HF_ENDPOINT's. ``on_stage`` is called on the caller's thread, with bytes.

    Raises:
        ModelError: there is no such model, or it cannot be had; the hint says what to type next.
        UsageError: a revision was asked of a folder, or it or HF_ENDPOINT is malformed.
    """
    info = find(model)
    if _is_folder(model, known=info is not None):
        return _from_folder(model, revision)
    if info is not None and info.embedded:
        folder = Path(__file__).parents[2] / "assets" / info.embedded
        require_whole(
            folder, f"the embedded model {info.name}", f"install valley again, or choose another {option('model')}"
        )
        return Checkpoint(folder, info, info.name)
    if info is None and not REPO_ID.fullmatch(model):
        raise ModelError(f"there is no model called {printable(model)!r}", suggestion(model))
    if revision is not None and (".." in revision or revision.startswith("/") or not revision.strip()):
        raise UsageError(f"{printable(revision)!r} is not a revision", "give a branch, a tag or a commit")
    repos = _repos(model, info, revision, cache_dir, endpoint)
    name = info.name if info else model
    folder, commit = _from_hub(name, repos, offline or _offline_by_environment(), refresh, on_stage)
    return Checkpoint(folder, info, name, commit)


def _is_folder(model: str, *, known: bool) -> bool:
    """True if ``model`` is written as a path, or is a folder here (registered short names win over such a folder)."""
    if model in (".", "..") or model.startswith(("./", "../", "/", "~")):
        return True
    return (not known or "/" in model) and os.path.isdir(model)


def _from_folder(model: str, revision: str | None) -> Checkpoint:
    folder = Path(os.path.expanduser(model))
    shown = printable(str(folder))
    if revision is not None:
        raise UsageError(f"{option('revision')} does not apply to the folder {shown}", "leave it out, or give a hub id")
    if not os.path.isdir(folder):
        raise ModelError(f"there is no folder {shown}", LIST_HINT)
    require_whole(folder, f"the folder {shown}", "give the folder that holds config.json and the *.safetensors files")
    return Checkpoint(folder, None, shown)


def _repos(
    model: str, info: ModelInfo | None, revision: str | None, cache_dir: Path | None, endpoint: str | None
) -> list[Repo]:
    """The repositories to try: the one that was typed, then the registry's in its order."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # it costs a request of its own before the first one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated HF_* variables are announced on import
        from huggingface_hub import constants
    ids = list(info.repo_ids) if info else [model]
    ids.sort(key=lambda repo_id: repo_id.lower() != model.strip().lower())
    cache = cache_dir or Path(constants.HF_HUB_CACHE)
    base = (endpoint or constants.ENDPOINT).rstrip("/")
    if not re.fullmatch(r"https?://[\w.-]+(:\d+)?(/.*)?", base):
        raise UsageError(f"HF_ENDPOINT is {printable(base)!r}, which is no address", "unset it, or give https://HOST")
    return [Repo(repo_id, base, cache, revision) for repo_id in ids]


def _offline_by_environment() -> bool:
    from huggingface_hub import constants

    return constants.is_offline_mode()


def _from_hub(name: str, repos: list[Repo], offline: bool, refresh: bool, on_stage: OnStage) -> tuple[Path, str]:
    """The snapshot folder and commit of the first repository that can be had."""
    cached = [found for repo in repos if (found := repo.cached())]
    whole = next((found for found in cached if find_fault(found[0]) is None), None)
    fixed = repos[0].revision is None or COMMIT.fullmatch(repos[0].revision) is not None
    if whole and (offline or (fixed and not refresh)):
        return whole
    if offline:
        state = f"not whole in the cache ({find_fault(cached[0][0])})" if cached else "not in the cache"
        raise ModelError(
            f"{name} is {state} under {repos[0].cache}, and valley is offline",
            f"run once without {option('offline')} and HF_HUB_OFFLINE to download it, "
            f"or give a folder with {option('model')}",
        )
    missing: NotFoundError | None = None
    for repo in repos:
        try:
            return download(repo, on_stage)
        except NotFoundError as error:
            missing = missing or error
        except UnreachableError:
            if refresh or whole is None:
                raise
            on_stage(Stage("the hub does not answer: using the downloaded weights"))
            return whole
    assert missing is not None
    raise missing


def _ignore(stage: Stage) -> None:
    """Report nothing."""
