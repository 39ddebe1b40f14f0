"""A local HTTP server that misbehaves on purpose: real sockets, for tests of downloads.

    with Server({"/a.png": send(png), "/gone": send(b"", status=404)}) as server:
        server.url("/a.png")  # http://127.0.0.1:PORT/a.png
        server.seen           # the requests that came, in order

A route is a function of the request's handler; the functions below make the usual ones. ``Server(routes, host)``
listens elsewhere, for example on 127.0.0.2.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

Route = Callable[["Handler"], None]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    """Looks its path up in the server's routes; a proxy request is looked up by its whole address."""

    server: _Listener
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer and close."""
        self.close_connection = True
        self.server.seen.append(Seen(self.path, dict(self.headers)))
        route = self.server.routes.get(self.path.partition("?")[0], send(b"no such route", status=404))
        with contextlib.suppress(OSError):  # clients leave early here: that is what is tested
            route(self)

    def head(self, status: int = 200, **headers: str) -> None:
        """Status line and headers; underscores in names become dashes."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    routes: dict[str, Route]
    seen: list[Seen]
    stopping: threading.Event

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: broken TLS handshakes and clients that leave are part of the tests."""


class Server:
    """Runs in a thread for the length of a ``with`` block. ``tls``: a context with the server's certificate."""

    def __init__(self, routes: dict[str, Route], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._listener = _Listener((host, 0), Handler)
        self._listener.routes, self._listener.seen, self._listener.stopping = routes, [], threading.Event()
        self._scheme = "https" if tls else "http"
        if tls:
            self._listener.socket = tls.wrap_socket(
                self._listener.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)
        self.host, self.port = host, int(self._listener.server_address[1])
        self.routes, self.seen = routes, self._listener.seen

    def url(self, path: str = "/", host: str | None = None, user: str = "") -> str:
        """The address of ``path``; ``user`` is ``name:password@``."""
        return f"{self._scheme}://{user}{host or self.host}:{self.port}{path}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.stopping.set()
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()


def send(body: bytes, status: int = 200, **headers: str) -> Route:
    """A whole, honest answer."""

    def route(handler: Handler) -> None:
        handler.head(status, Content_Length=str(len(body)), **headers)
        handler.wfile.write(body)

    return route


def in_turn(*routes: Route) -> Route:
    """Another answer at each request; the last one stays."""
    coming = itertools.chain(routes, itertools.repeat(routes[-1]))
    return lambda handler: next(coming)(handler)


def redirect(target: str, status: int = 302, body: bytes = b"") -> Route:
    """A redirect to ``target``."""
    return send(body, status, Location=target)


def short(body: bytes, missing: int = 100) -> Route:
    """Closes ``missing`` bytes before the announced end."""

    def route(handler: Handler) -> None:
        handler.head(Content_Length=str(len(body) + missing))
        handler.wfile.write(body)

    return route


def endless(block: bytes = b"\xff\xd8\xff" + b"x" * 65533) -> Route:
    """A body without a length that does not end."""

    def route(handler: Handler) -> None:
        handler.head()
        while not handler.server.stopping.is_set():
            handler.wfile.write(block)

    return route


def drip(pause_s: float = 0.05, in_headers: bool = False) -> Route:
    """One byte at a time, for ever; ``in_headers``: the headers themselves never end."""

    def route(handler: Handler) -> None:
        if in_headers:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        else:
            handler.head(Content_Length="1000000")
        while not handler.server.stopping.wait(pause_s):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    return route


def gzip_bomb(megabytes: int = 200) -> Route:
    """A few hundred kilobytes that unpack to ``megabytes``."""
    body = gzip.compress(b"\0" * (megabytes * 1_000_000), 1)
    return send(body, Content_Encoding="gzip", Content_Type="image/png")
