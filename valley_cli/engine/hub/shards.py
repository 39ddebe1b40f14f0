"""Weights files from the hub, with Range, so that what an earlier try or run brought is never fetched twice.

They are read into ``blobs/<etag>.incomplete``, checked against their sha256 and renamed to ``blobs/<etag>``.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from valley_cli.api import OnStage, Stage
from valley_cli.engine.hub.errors import UnreachableError
from valley_cli.engine.hub.snapshot import Repo
from valley_cli.errors import ModelError

TIMEOUT_S = 10.0  # to connect, and between two pieces of an answer
RETRY_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # between tries that brought nothing new
DOWNLOAD_THREADS = 4
CHUNK_BYTES = 1 << 20
REPORT_EVERY_S = 0.1


@dataclass(frozen=True)
class Shard:
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


def look_up(repo: Repo, commit: str, name: str) -> Shard:
    """Ask for size and etag; the etag of a large file is its sha256."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo.id, name, revision=commit, endpoint=repo.endpoint)
    found = get_hf_file_metadata(url, timeout=TIMEOUT_S, endpoint=repo.endpoint)
    if not found.etag or found.size is None or found.etag != Path(found.etag).name:
        raise UnreachableError(f"{repo.endpoint} gives no size and etag for {name}", "check HF_ENDPOINT")
    lock = repo.cache / ".locks" / repo.key / f"{found.etag}.lock"
    return Shard(name, url, found.etag, found.size, repo.storage / "blobs" / found.etag, lock)


def fetch_all(shards: list[Shard], on_stage: OnStage) -> None:
    """Fetch the shards on a few threads and report from this one; Ctrl-C leaves the threads to end by themselves."""
    todo: queue.SimpleQueue[Shard] = queue.SimpleQueue()
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


def _fetch(shard: Shard, stop: threading.Event) -> None:
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


def _fill(shard: Shard, out: BinaryIO, stop: threading.Event) -> None:
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


def _read_on(shard: Shard, out: BinaryIO, stop: threading.Event) -> None:
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
