"""Which network addresses a URL may lead to, and how a name becomes addresses. Standard library only."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from typing import Any

SocketAddress = tuple[socket.AddressFamily, tuple[Any, ...]]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REFUSED = [
    (ipaddress.ip_network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "an unspecified address"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),  # also the metadata services of clouds
        ("100.64.0.0/10", "a carrier's private address"),
        ("192.0.0.0/24", "a reserved address"),  # 192.0.0.192 is a metadata service
        ("168.63.129.16/32", "a cloud metadata address"),
        ("192.88.99.0/24", "a 6to4 address"),
        ("224.0.0.0/4", "a multicast address"),
        ("::/128", "an unspecified address"),
        ("::1/128", "a loopback address"),
        ("fe80::/10", "a link-local address"),
        ("fc00::/7", "a private address"),
        ("ff00::/8", "a multicast address"),
        ("2002::/16", "a 6to4 address"),
        ("2001::/32", "a Teredo address"),
    )
]
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")


def refusal(address: str) -> str | None:
    """Why an untrusted URL may not lead to the IP ``address`` ("a loopback address", ...), or None if it may.

    An IPv4 address inside an IPv6 one (mapped, NAT64) is judged by itself.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "not an IP address"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return refusal(str(ip.ipv4_mapped))
        if ip in _NAT64:
            return refusal(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    for network, kind in _REFUSED:
        if ip in network:
            return kind
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _GLOBAL_V6:
        return "a reserved address"
    return None if ip.is_global and not ip.is_multicast else "a private address"


def resolve(host: str, port: int, timeout_s: float) -> list[SocketAddress]:
    """All TCP addresses of ``host``, in the system's order.

    Raises ``TimeoutError`` after ``timeout_s`` (the system's own resolver may take minutes; it is left behind in
    its thread) and ``socket.gaierror`` or ``UnicodeError`` for a name that has none.
    """
    answers: queue.SimpleQueue[list[SocketAddress] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([(family, address) for family, _, _, _, address in found])
        except Exception as error:  # handed to the caller below
            answers.put(error)

    threading.Thread(target=look_up, name="valley-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(f"no address within {timeout_s:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
