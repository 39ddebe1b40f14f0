"""A small Hugging Face hub on a loopback port: real HTTP, the calls that huggingface_hub makes, faults on demand.

    with HubServer({"org/name": folder}) as hub:
        resolve_checkpoint("org/name", endpoint=hub.endpoint, cache_dir=...)

As on the real hub, a ``*.safetensors`` file is answered with X-Linked-Size and X-Linked-Etag (its sha256) and a
redirect to another host (here: ``localhost`` instead of ``127.0.0.1``), which serves ranges and must see no token.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>.+))?")
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
CDN = re.compile(r"/cdn/(?P<repo>[^/]+/[^/]+)/(?P<name>.+)")


@dataclass(frozen=True)
class Seen:
    """One request as the server saw it."""

    method: str
    path: str
    range: str | None
    token: str | None


class HubServer:
    """Serves ``repos`` (id -> folder). Change the faults between calls.

    ``breaks[file]``: for each coming answer, the number of body bytes after which the connection is cut.
    ``refusals[pattern]``: status and X-Error-Code for paths in which the pattern is found.
    ``ranges``: False answers every range with the whole file. ``corrupt``: files whose bytes arrive as zeros.
    ``claimed_bytes``: sizes told of weights files instead of the true ones.
    ``stall_after``: longer weights answers stop after so many bytes until the server ends.
    """

    def __init__(self, repos: dict[str, Path]) -> None:
        self.repos = repos
        self.seen: list[Seen] = []
        self.breaks: dict[str, list[int]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.ranges = True
        self.corrupt: set[str] = set()
        self.claimed_bytes: dict[str, int] = {}
        self.stall_after: int | None = None
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        hub = self

        class Bound(_Handler):
            server_state = hub

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._http.daemon_threads = True
        self.port = self._http.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self.connections):  # kept-alive ones would still be answered
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def commit(self, repo: str) -> str:
        """The commit of the repository: a hash of its files."""
        folder = self.repos[repo]
        digest = hashlib.sha1(repo.encode())
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def bodies(self, name: str) -> list[Seen]:
        """The GET requests that asked the file host for the weights file ``name``."""
        return [
            seen
            for seen in self.seen
            if seen.method == "GET" and seen.path.endswith(f"/{name}") and CDN.match(seen.path)
        ]

    def files_fetched(self) -> set[str]:
        """Names of all files that were asked for by GET."""
        found = (RESOLVE.fullmatch(seen.path) for seen in self.seen if seen.method == "GET")
        return {match["name"] for match in found if match}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: HubServer

    def setup(self) -> None:
        super().setup()
        self.server_state.connections.add(self.connection)

    def finish(self) -> None:
        self.server_state.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Keep stderr clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server_state, unquote(urlsplit(self.path).path)
        hub.seen.append(Seen(self.command, path, self.headers.get("Range"), self.headers.get("Authorization")))
        refusal = next((refusal for pattern, refusal in hub.refusals.items() if re.search(pattern, path)), None)
        if refusal:
            return self._send(refusal[0], {"X-Error-Code": refusal[1]} if refusal[1] else {})
        match = API.fullmatch(path) or CDN.fullmatch(path) or RESOLVE.fullmatch(path)
        if match is None or match["repo"] not in hub.repos:
            status = 404 if self.headers.get("Authorization") else 401  # so the real hub hides private repositories
            return self._send(status, {"X-Error-Code": "RepoNotFound"})
        commit = hub.commit(match["repo"])
        if match.groupdict().get("revision") not in (None, "main", "v1", commit):
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        if "name" in match.groupdict():
            return self._send_file(match["repo"], match["name"], commit, on_cdn=path.startswith("/cdn/"))
        folder = hub.repos[match["repo"]]
        files = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        listing = {"id": match["repo"], "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        return self._send(200, {"Content-Type": "application/json"}, json.dumps(listing).encode())

    def _send_file(self, repo: str, name: str, commit: str, *, on_cdn: bool) -> None:
        hub, path = self.server_state, self.server_state.repos[repo] / name
        if not path.is_file():
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        body = path.read_bytes()
        if name.endswith(".safetensors") and not on_cdn:
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            linked = {
                "X-Linked-Size": str(hub.claimed_bytes.get(name, len(body))),
                "X-Linked-Etag": etag,
                "X-Repo-Commit": commit,
            }
            return self._send(302, {**linked, "Location": f"http://localhost:{hub.port}/cdn/{repo}/{name}"})
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if name in hub.corrupt:
            body = bytes(len(body))
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if start is None or not hub.ranges:
            return self._send(200, headers, body, name)
        first = int(start[1])
        if first >= len(body):
            return self._send(416, {"Content-Range": f"bytes */{len(body)}"})
        return self._send(
            206, {**headers, "Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}"}, body[first:], name
        )

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"", name: str = "") -> None:
        hub = self.server_state
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD" or not body:
            return
        cuts = hub.breaks.get(name)
        if cuts:
            self.wfile.write(body[: cuts.pop(0)])
            self.close_connection = True
        elif hub.stall_after is not None and len(body) > hub.stall_after and name.endswith(".safetensors"):
            self.wfile.write(body[: hub.stall_after])
            self.wfile.flush()
            hub.closing.wait()
            self.close_connection = True
        else:
            self.wfile.write(body)
