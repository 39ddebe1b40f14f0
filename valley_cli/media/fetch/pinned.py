"""Connections that go to the address that was checked, and that end when time is up.

    Deadline     shuts down every socket it was shown when its time is over or the caller cancels
    PinnedAdapter   a requests adapter whose connections resolve once, check all answers, connect to one of them

The host name stays the connection's name: the Host header, TLS SNI and the certificate check are untouched.
Imports requests, so import this module inside functions only.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from valley_cli.media.fetch.address import SocketAddress, refusal, resolve

_POLL_S = 0.05  # how soon a cancelled read ends
_TRIED_PER_FAMILY = 2  # of many addresses, so many of IPv4 and of IPv6 share the connect time


class UnreachableError(Exception):
    """No connection; ``again``: a second try may do better. The text is the reason."""

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


class ForbiddenError(Exception):
    """The host has an address that this URL may not lead to. The text is the reason."""


class Deadline:
    """``timeout_s`` for everything done inside the ``with`` block, blocking reads included.

    ``cancelled`` is called from another thread, about 20 times a second.
    """

    def __init__(self, timeout_s: float, cancelled: Callable[[], bool] | None = None) -> None:
        self._end = time.monotonic() + timeout_s
        self._cancelled = cancelled or (lambda: False)
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._over = threading.Event()
        self.was_cancelled = False
        self._thread = threading.Thread(target=self._run, name="valley-deadline", daemon=True)

    @property
    def over(self) -> bool:
        """True once the time is up or the caller cancelled; sockets are shut down by then or soon."""
        return self._over.is_set() or self.remaining_s() <= 0

    def remaining_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())

    def sleep(self, seconds: float) -> None:
        """Wait, but not past the end."""
        self._over.wait(min(seconds, self.remaining_s()))

    def watch(self, sock: socket.socket) -> None:
        """Shut ``sock`` down at the end, whoever owns or wraps it by then."""
        twin = sock.dup()  # TLS detaches the original; shutdown acts on the connection, not on the descriptor
        with self._lock:
            self._sockets.append(twin)
            if self._over.is_set():
                self._shut_down()

    def __enter__(self) -> Deadline:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._left.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def _run(self) -> None:
        while not self._left.wait(min(_POLL_S, self.remaining_s())):
            self.was_cancelled = self._cancelled()
            if self.was_cancelled or self.remaining_s() <= 0:
                with self._lock:
                    self._over.set()
                    self._shut_down()
                return

    def _shut_down(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class PinnedAdapter(HTTPAdapter):
    """One request's door to the network. ``guarded``: refuse every address that is not public."""

    def __init__(
        self,
        deadline: Deadline,
        *,
        guarded: bool,
        connect_timeout_s: float,
        resolver: Callable[[str, int, float], list[SocketAddress]] = resolve,
    ) -> None:
        self._deadline = deadline
        self._guarded = guarded
        self._connect_timeout_s = connect_timeout_s
        self._resolver = resolver
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Called by requests."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pools(self.connect)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Called by requests; the connection to a proxy ends at the deadline too."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _pools(self.connect)
        return manager

    def connect(self, host: str, port: int) -> socket.socket:
        """A connected socket, watched by the deadline. Raises ``UnreachableError`` or ``ForbiddenError``."""
        addresses = self._checked(host, port)
        families = sorted({family for family, _ in addresses}, key=[family for family, _ in addresses].index)
        tried = [a for family in families for a in [b for b in addresses if b[0] == family][:_TRIED_PER_FAMILY]]
        share_s = min(self._connect_timeout_s, self._deadline.remaining_s()) / len(tried)
        reason = ""
        for family, address in tried:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(max(share_s, 0.001))
                sock.connect(address)
                self._deadline.watch(sock)
                return sock
            except OSError as error:
                sock.close()
                late = isinstance(error, TimeoutError)
                reason = "no answer" if late else (error.strerror or "no connection").lower()
        raise UnreachableError(f"{host}: {reason}")

    def _checked(self, host: str, port: int) -> list[SocketAddress]:
        try:
            limit_s = min(self._connect_timeout_s, self._deadline.remaining_s())
            addresses = self._resolver(host, port, limit_s)
        except TimeoutError:
            raise UnreachableError(f"{host}: looking up the name took too long") from None
        except socket.gaierror as error:
            raise UnreachableError(f"{host}: no such host", again=error.errno == socket.EAI_AGAIN) from None
        except (UnicodeError, ValueError, OverflowError):
            raise UnreachableError(f"{host}: not a host name", again=False) from None
        for _, address in addresses if self._guarded else ():
            if why := refusal(str(address[0])):
                literal = str(address[0]) == host.strip("[]")
                raise ForbiddenError(f"{host} is {why}" if literal else f"{host} is {address[0]}, {why}")
        if not addresses:
            raise UnreachableError(f"{host}: no such host", again=False)
        return addresses


def _pools(connect: Callable[[str, int], socket.socket]) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's own pools and connections, but for how a socket is made."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self.host, self.port)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self.host, self.port)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
