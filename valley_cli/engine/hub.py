"""From what a person typed after --model to a local folder that holds a whole checkpoint.

    name or org/name ─► snapshot in the Hugging Face cache, whole? ─ yes ─► Checkpoint (no network at all)
                                        └ no ─► listing ─► small files ─► weights (Range, kept when broken off) ─► ref
    folder ─► whole? ─► Checkpoint

Small files go through ``hf_hub_download``. Weights do not: huggingface_hub 2.x deletes an unfinished file, so a Ctrl-C
at 90% of 18 GB would cost all of it. They are read here into ``blobs/<etag>.incomplete``, checked against their
sha256, renamed to ``blobs/<etag>``, and ``hf_hub_download`` then only links them. ``refs/`` is written last: a
snapshot that a ref names is whole, and an interrupted update leaves the old one in use.

huggingface_hub is imported inside functions (it reads HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE when imported).
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import queue
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from valley_cli.engine.base import Stage
from valley_cli.engine.registry import ModelInfo, find, suggest
from valley_cli.errors import ModelError, UsageError

OnStage = Callable[[Stage], None]

SMALL_FILES = ("*.json", "*.jinja", "merges.txt")  # vocab.json and tokenizer.json are *.json; never *.py, never *.bin
INDEX = "model.safetensors.index.json"
TIMEOUT_S = 10.0  # to connect, and between two pieces of an answer
RETRY_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # between tries that brought nothing new
DOWNLOAD_THREADS = 4
CHUNK_BYTES = 1 << 20
REPORT_EVERY_S = 0.1
MAX_HEADER_BYTES = 100_000_000  # as the safetensors format allows
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
LIST_HINT = "`valley models list` shows the known names; a hub id (org/name) or a folder also does"


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config, tokenizer and weights. ``revision`` is the hub's commit, None for folders.

    ``info`` is None for models that the registry does not know: their limits come from their own config.
    """

    folder: Path
    info: ModelInfo | None
    name: str
    revision: str | None = None


class _NotFoundError(ModelError):
    """The hub has no such repository, or hides it from this token."""


class _UnreachableError(ModelError):
    """The hub did not answer, or not as a hub does."""


@dataclass(frozen=True)
class _Repo:
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

    def cached(self) -> tuple[Path, str] | None:
        """The snapshot folder of the revision (whole or not) and its commit, without network."""
        commit = self.revision or "main"
        ref = self.storage / "refs" / commit
        if not COMMIT.fullmatch(commit) and os.path.isfile(ref):
            commit = ref.read_text(errors="replace").strip()
        folder = self.storage / "snapshots" / commit
        return (folder, commit) if COMMIT.fullmatch(commit) and folder.is_dir() else None


@dataclass(frozen=True)
class _Shard:
    """A weights file on the hub and where its bytes go."""

    name: str
    url: str
    etag: str
    size: int
    blob: Path
    lock: Path

    @property
    def partial(self) -> Path:
        return self.blob.with_name(self.etag + ".incomplete")

    def bytes_here(self) -> int:
        """Bytes already on disk, by whichever process."""
        for path in (self.blob, self.partial):
            try:
                return min(path.stat().st_size, self.size)
            except OSError:
                continue
        return 0


def resolve_checkpoint(
    model: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    on_stage: OnStage | None = None,
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
        folder = Path(__file__).parent.parent / "assets" / info.embedded
        _require_whole(folder, f"the embedded model {info.name}", "install valley again, or choose a model with -m")
        return Checkpoint(folder, info, info.name)
    if info is None and not REPO_ID.fullmatch(model):
        raise ModelError(f"there is no model called {_printable(model)!r}", _suggestion(model))
    if revision is not None and (".." in revision or revision.startswith("/") or not revision.strip()):
        raise UsageError(f"{_printable(revision)!r} is not a revision", "give a branch, a tag or a commit")
    repos = _repos(model, info, revision, cache_dir, endpoint)
    name = info.name if info else model
    folder, commit = _from_hub(name, repos, offline or _offline_by_environment(), refresh, on_stage or _ignore)
    return Checkpoint(folder, info, name, commit)


def find_fault(folder: Path) -> str | None:
    """Say what keeps ``folder`` from being a whole checkpoint, or None. Reads names, sizes and headers only."""
    try:
        present = os.listdir(folder)
        names = weight_files(folder, present)
    except (ValueError, OSError) as error:
        return f"it cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
    if not os.path.isfile(folder / "config.json"):
        return "config.json is missing"
    if "tokenizer.json" not in present and not {"vocab.json", "merges.txt"} <= set(present):
        return "tokenizer.json (or vocab.json with merges.txt) is missing"
    if not names:
        return "there is no *.safetensors file"
    return next((fault for name in names if (fault := _shard_fault(folder / name))), None)


def weight_files(folder: Path, present: list[str]) -> list[str]:
    """Names of the safetensors files to load: those of the index, else model.safetensors, else all of ``present``.

    Raises:
        ValueError: the index cannot be understood, or names files outside the folder.
    """
    if INDEX in present:
        try:
            names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
        except FileNotFoundError:  # a link to a blob that is gone
            raise ValueError(f"{INDEX} is missing") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{INDEX} is damaged") from None
        if not all(isinstance(name, str) and name == Path(name).name for name in names):
            raise ValueError(f"{INDEX} names files outside the folder")
        return names
    if "model.safetensors" in present:
        return ["model.safetensors"]
    return sorted(name for name in present if name.endswith(".safetensors") and "/" not in name)


def _shard_fault(path: Path) -> str | None:
    """Say what is wrong with one safetensors file by its header and size, or None."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if size < 8 or header_bytes > min(MAX_HEADER_BYTES, size - 8):
                return f"{path.name} is damaged or not whole ({size:,} bytes)"
            tensors = json.loads(file.read(header_bytes))
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
        expected = 8 + header_bytes + max(ends, default=0)
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"{path.name} is damaged"
    return None if size == expected else f"{path.name} is not whole ({size:,} of {expected:,} bytes)"


def _is_folder(model: str, *, known: bool) -> bool:
    """True if ``model`` is written as a path, or is a folder here (registered short names win over such a folder)."""
    if model in (".", "..") or model.startswith(("./", "../", "/", "~")):
        return True
    return (not known or "/" in model) and os.path.isdir(model)


def _from_folder(model: str, revision: str | None) -> Checkpoint:
    folder = Path(os.path.expanduser(model))
    shown = _printable(str(folder))
    if revision is not None:
        raise UsageError(f"--revision does not apply to the folder {shown}", "leave it out, or give a hub id")
    if not os.path.isdir(folder):
        raise ModelError(f"there is no folder {shown}", LIST_HINT)
    _require_whole(folder, f"the folder {shown}", "give the folder that holds config.json and the *.safetensors files")
    return Checkpoint(folder, None, shown)


def _require_whole(folder: Path, what: str, hint: str) -> None:
    if fault := find_fault(folder):
        raise ModelError(f"{what} is not a checkpoint: {fault}", hint)


def _repos(
    model: str, info: ModelInfo | None, revision: str | None, cache_dir: Path | None, endpoint: str | None
) -> list[_Repo]:
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
        raise UsageError(f"HF_ENDPOINT is {_printable(base)!r}, which is no address", "unset it, or give https://HOST")
    return [_Repo(repo_id, base, cache, revision) for repo_id in ids]


def _offline_by_environment() -> bool:
    from huggingface_hub import constants

    return constants.is_offline_mode()


def _from_hub(name: str, repos: list[_Repo], offline: bool, refresh: bool, on_stage: OnStage) -> tuple[Path, str]:
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
            "run once without --offline and HF_HUB_OFFLINE to download it, or give a folder with -m",
        )
    missing: _NotFoundError | None = None
    for repo in repos:
        try:
            return _download(repo, on_stage)
        except _NotFoundError as error:
            missing = missing or error
        except _UnreachableError:
            if refresh or whole is None:
                raise
            on_stage(Stage("the hub does not answer: using the downloaded weights"))
            return whole
    assert missing is not None
    raise missing


def _download(repo: _Repo, on_stage: OnStage) -> tuple[Path, str]:
    """Bring the repository's snapshot into the cache; resumes what an earlier run left."""
    on_stage(Stage("asking the hub"))
    with _quiet(), _as_model_errors(repo):
        commit, names = _list_files(repo)
        folder = repo.storage / "snapshots" / commit
        for name in names:
            if "/" not in name and any(fnmatch(name, pattern) for pattern in SMALL_FILES):
                _discard_damaged(repo, folder / name, _json_fault)
                _fetch_through_cache(repo, commit, name)
        _refuse_other_families(repo, folder)
        weights = _wanted_weights(repo, folder, names)
        torn = [name for name in weights if _shard_fault(folder / name)]
        for name in torn:
            _discard_damaged(repo, folder / name, _shard_fault)
        shards = [_look_up(repo, commit, name) for name in torn]
        _require_disk_space(repo, shards)
        _fetch_all(shards, on_stage)
        for name in torn:
            _fetch_through_cache(repo, commit, name)
        _require_whole(folder, f"the repository {repo.id}", LIST_HINT)
        if repo.revision != commit:
            _write_ref(repo, commit)
    return folder, commit


def _list_files(repo: _Repo) -> tuple[str, list[str]]:
    """Commit and file names of the revision."""
    from huggingface_hub import HfApi

    try:
        listing = HfApi(endpoint=repo.endpoint).model_info(repo.id, revision=repo.revision, timeout=TIMEOUT_S)
        names = [sibling.rfilename for sibling in listing.siblings or []]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):  # a captive portal's page, say
        listing = None
    if listing is None or not COMMIT.fullmatch(listing.sha or ""):
        raise _UnreachableError(f"{repo.endpoint} does not answer as a Hugging Face hub does", "check HF_ENDPOINT")
    return str(listing.sha), names


def _fetch_through_cache(repo: _Repo, commit: str, name: str) -> None:
    """Have huggingface_hub place ``name`` in the snapshot; only links it if its blob is there already."""
    from huggingface_hub import hf_hub_download

    hf_hub_download(
        repo.id, name, revision=commit, cache_dir=repo.cache, endpoint=repo.endpoint, etag_timeout=TIMEOUT_S
    )


def _refuse_other_families(repo: _Repo, folder: Path) -> None:
    """Raise ModelError before gigabytes are fetched for a model that valley cannot run."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        kinds = [str(config.get("model_type")), *map(str, config.get("architectures") or [])]
    except FileNotFoundError:
        raise ModelError(f"the repository {repo.id} is not a model: config.json is missing", LIST_HINT) from None
    except (ValueError, AttributeError, TypeError):
        raise ModelError(f"the config.json of {repo.id} is damaged", LIST_HINT) from None
    if not any("valley" in kind.lower() for kind in kinds):
        raise ModelError(f"{repo.id} is a {_printable(kinds[-1])} model; valley runs Valley models only", LIST_HINT)


def _wanted_weights(repo: _Repo, folder: Path, names: list[str]) -> list[str]:
    try:
        weights = weight_files(folder, names)
    except ValueError as error:
        raise ModelError(f"the repository {repo.id}: {error}", LIST_HINT) from None
    absent = [name for name in weights if name not in names]
    if absent or not weights:
        what = f"its index names {absent[0]}, which it lacks" if absent else "it has no *.safetensors file"
        raise ModelError(f"the repository {repo.id} holds no whole weights: {what}", "try another --revision")
    return weights


def _look_up(repo: _Repo, commit: str, name: str) -> _Shard:
    """Ask for size and etag; the etag of a large file is its sha256."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo.id, name, revision=commit, endpoint=repo.endpoint)
    found = get_hf_file_metadata(url, timeout=TIMEOUT_S, endpoint=repo.endpoint)
    if not found.etag or found.size is None or found.etag != Path(found.etag).name:
        raise _UnreachableError(f"{repo.endpoint} gives no size and etag for {name}", "check HF_ENDPOINT")
    lock = repo.cache / ".locks" / repo.key / f"{found.etag}.lock"
    return _Shard(name, url, found.etag, found.size, repo.storage / "blobs" / found.etag, lock)


def _require_disk_space(repo: _Repo, shards: list[_Shard]) -> None:
    needed = sum(shard.size - shard.bytes_here() for shard in shards)
    free = shutil.disk_usage(repo.storage).free
    if needed > free:
        raise ModelError(
            f"the disk is too small for {repo.id}: {_size_text(needed)} more are needed in {repo.cache}, "
            f"{_size_text(free)} are free",
            "make room, or set HF_HOME to a folder on a larger disk",
        )


def _fetch_all(shards: list[_Shard], on_stage: OnStage) -> None:
    """Fetch the shards on a few threads and report from this one; Ctrl-C leaves the threads to end by themselves."""
    todo: queue.SimpleQueue[_Shard] = queue.SimpleQueue()
    for shard in shards:
        todo.put(shard)
    stop = threading.Event()
    errors: list[Exception] = []

    def work() -> None:
        while not stop.is_set():
            try:
                _fetch(todo.get_nowait(), stop)
            except queue.Empty:
                return
            except Exception as error:  # re-raised below, on the caller's thread
                errors.append(error)
                stop.set()

    threads = [threading.Thread(target=work, daemon=True) for _ in shards[:DOWNLOAD_THREADS]]
    total = sum(shard.size for shard in shards)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                on_stage(Stage("downloading weights", sum(shard.bytes_here() for shard in shards), total, "bytes"))
                thread.join(REPORT_EVERY_S)
    finally:
        stop.set()
    if errors:
        raise errors[0]
    if shards:
        on_stage(Stage("downloading weights", total, total, "bytes"))


def _fetch(shard: _Shard, stop: threading.Event) -> None:
    """Fetch one shard, going on where an earlier try or run stopped, and put it in its place once it is right."""
    from huggingface_hub.utils import WeakFileLock

    shard.lock.parent.mkdir(parents=True, exist_ok=True)
    shard.blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(shard.lock):
        if shard.blob.exists():  # another process brought it meanwhile
            return
        with shard.partial.open("ab") as out:
            _fill(shard, out, stop)
        if stop.is_set():
            return
        with shard.partial.open("rb") as file:
            whole = len(shard.etag) != 64 or hashlib.file_digest(file, "sha256").hexdigest() == shard.etag
        if not whole or shard.partial.stat().st_size != shard.size:
            shard.partial.unlink()
            raise ModelError(f"{shard.name} arrived damaged (its sha256 differs)", "run the same command again")
        os.replace(shard.partial, shard.blob)


def _fill(shard: _Shard, out: BinaryIO, stop: threading.Event) -> None:
    """Append to ``out`` until it is as long as the shard; gives up after tries that brought nothing."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    if out.tell() > shard.size:
        _restart(out)
    fruitless = 0
    while (have := out.tell()) < shard.size and not stop.is_set():
        failure: Exception = OSError(f"{shard.name} ended early")
        try:
            _read_on(shard, out, stop)
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status == 416:
                _restart(out)
            elif status not in (408, 429) and status < 500:
                raise
            failure = error
        except HTTPError as error:
            failure = error
        if out.tell() >= shard.size:
            return
        fruitless = 0 if out.tell() > have else fruitless + 1
        if fruitless > len(RETRY_PAUSES_S):
            raise failure
        stop.wait(RETRY_PAUSES_S[max(fruitless - 1, 0)])


def _restart(out: BinaryIO) -> None:
    out.seek(0)
    out.truncate()


def _read_on(shard: _Shard, out: BinaryIO, stop: threading.Event) -> None:
    """One request for the rest of the shard. The token stays with the hub: redirects elsewhere drop it."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    have = out.tell()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with get_session().stream("GET", shard.url, headers=headers, follow_redirects=True, timeout=TIMEOUT_S) as answer:
        hf_raise_for_status(answer)
        if have and answer.status_code != 206:  # the server sends the whole file again
            _restart(out)
        for chunk in answer.iter_bytes(CHUNK_BYTES):
            if stop.is_set():
                return
            out.write(chunk)
            out.flush()


def _discard_damaged(repo: _Repo, path: Path, find: Callable[[Path], str | None]) -> None:
    """Remove a damaged file from the snapshot, with the blob behind it, so that it is fetched anew."""
    if not path.is_file() or find(path) is None:  # asked again: another process may just have put it there
        return
    blob = path.resolve()
    path.unlink(missing_ok=True)
    if repo.cache.resolve() in blob.parents:
        blob.unlink(missing_ok=True)


def _json_fault(path: Path) -> str | None:
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
    except ValueError:
        return f"{path.name} is damaged"
    return None


def _write_ref(repo: _Repo, commit: str) -> None:
    ref = repo.storage / "refs" / (repo.revision or "main")
    ref.parent.mkdir(parents=True, exist_ok=True)
    draft = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
    draft.write_text(commit)
    os.replace(draft, ref)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub's warnings and bars off stderr: what matters becomes a ModelError or a Stage."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    verbosity, had_bars = hub_logging.get_verbosity(), not are_progress_bars_disabled()
    hub_logging.set_verbosity(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            disable_progress_bars()
            yield
    finally:
        hub_logging.set_verbosity(verbosity)
        if had_bars:
            enable_progress_bars()


@contextmanager
def _as_model_errors(repo: _Repo) -> Iterator[None]:
    """Turn everything huggingface_hub, its HTTP library (httpx or httpx2) and the disk raise into a ModelError."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        raise _explain(repo, error) from error


def _explain(repo: _Repo, error: Exception) -> ModelError:
    """What ``error`` means for the person who wants ``repo``, and what to type next."""
    from huggingface_hub import errors, get_token

    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{repo.id} has no revision {_printable(repo.revision or '')!r}", "leave out --revision")
    chain = _causes(error)
    status = next((link.response.status_code for link in chain if isinstance(link, errors.HfHubHTTPError)), 0)
    token = "the token in HF_TOKEN does not open it" if get_token() else "no token is set"
    if isinstance(error, errors.GatedRepoError):
        hint = f"accept its terms at {repo.endpoint}/{repo.id}, then set HF_TOKEN to a token of that account"
        return ModelError(f"{repo.id} is gated, and {token}", hint)
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 404):
        private = f", or it is private and {token}" if status == 401 else ""
        return _NotFoundError(f"there is no {repo.id} at {repo.endpoint}{private}", _suggestion(repo.id))
    if status in (401, 403):
        return ModelError(f"{repo.endpoint} refuses {repo.id} ({status}), and {token}", "set HF_TOKEN to a valid token")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(f"the disk under {repo.cache} is full", "make room (what was downloaded is kept), run again")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ModelError(f"the cache {repo.cache} cannot be written", "set HF_HOME to a folder of yours")
    cause = re.sub(r"^\[Errno -?\d+\] ", "", _printable(str(chain[-1]))) or type(chain[-1]).__name__
    reason = f"it answers {status}" if status else cause
    return _UnreachableError(
        f"{repo.id} could not be downloaded from {repo.endpoint}: {reason}",
        "check the network and run again (what was downloaded is kept); set HF_ENDPOINT to use a mirror, "
        "or give a folder with -m",
    )


def _causes(error: BaseException) -> list[BaseException]:
    """``error`` and what it was raised from, outermost first."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def _suggestion(model: str) -> str:
    near = suggest(model)
    return f"did you mean {' or '.join(near)}? {LIST_HINT}" if near else LIST_HINT


def _size_text(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 50_000_000 else f"{count / 1e6:.1f} MB"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _ignore(stage: Stage) -> None:
    """Report nothing."""
