"""Downloads end: within their limits, at the address that was checked, and with an error that says why."""

from __future__ import annotations

import base64
import contextlib
import gzip
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.servers import Handler, Route, Server, drip, endless, gzip_bomb, in_turn, redirect, send, short
from valley_cli.api import Media, MediaLimits
from valley_cli.errors import RefusedError, SourceError
from valley_cli.media.fetch.address import refusal
from valley_cli.media.fetch.pinned import Deadline, ForbiddenError, PinnedAdapter
from valley_cli.media.fetch.read import open_file, read_bytes
from valley_cli.sources.expand import expand_sources

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 400
QUICK = MediaLimits(retries=0, backoff_s=0.01, image_timeout_s=20.0)
SECRET = "s3cr3t"
NOT_PUBLIC = """
127.0.0.1 127.255.0.1 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 0.0.0.0 0.1.2.3
224.0.0.1 240.0.0.1 255.255.255.255 192.0.0.192 192.0.2.1 198.18.0.1 203.0.113.9 168.63.129.16 192.88.99.1 ::1 ::
fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 ff02::1 fec0::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1
64:ff9b::a00:1 64:ff9b:1::1 2002:7f00:1::1 2002:808:808::1 2001:0:1::1 2001:db8::1 ::127.0.0.1 100::1 nonsense
"""


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def silence(handler: Handler) -> None:
    handler.server.stopping.wait()


def fetch(url: str, limits: MediaLimits = QUICK, typed: bool = True) -> bytes:
    (media,) = expand_sources([url], typed=typed)
    return read_bytes(media, limits)


def fetched(route: Route, limits: MediaLimits = QUICK) -> bytes:
    with Server({"/a": route}) as server:
        return fetch(server.url("/a"), limits)


def error(route: Route, limits: MediaLimits = QUICK) -> SourceError:
    with pytest.raises(SourceError) as caught:
        fetched(route, limits)
    return caught.value


def refused(url: str, typed: bool = True) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        fetch(url, typed=typed)
    return caught.value


def test_a_picture_is_fetched_whatever_its_content_type() -> None:
    for content_type in ("image/jpeg", "text/html", "application/octet-stream"):
        assert fetched(send(JPEG, Content_Type=content_type)) == JPEG


def test_progress_ends_at_the_total() -> None:
    steps: list[tuple[int, int]] = []
    with Server({"/a": send(JPEG)}) as server:
        media = Media("a", url=server.url("/a"))
        read_bytes(media, QUICK, on_progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (len(JPEG), len(JPEG))
    assert steps == sorted(steps)
    assert len(steps) > 1


@pytest.mark.parametrize(
    ("status", "says"), [(404, "nothing at this address"), (403, "does not give"), (418, "HTTP 418")]
)
def test_client_errors_are_not_tried_again(status: int, says: str) -> None:
    with Server({"/a": send(JPEG, status)}) as server:
        with pytest.raises(SourceError, match=says):
            fetch(server.url("/a"), MediaLimits(backoff_s=0.01))
        assert len(server.seen) == 1


def test_server_errors_are_tried_again() -> None:
    again = MediaLimits(retries=2, backoff_s=0.01)
    assert fetched(in_turn(send(b"", 500), send(b"", 503), send(JPEG)), again) == JPEG
    assert "HTTP 500" in error(send(b"", 500), again).message
    assert fetched(in_turn(short(JPEG), send(JPEG)), again) == JPEG


def test_retry_after_is_waited_for_when_short() -> None:
    start = time.monotonic()
    wait = in_turn(send(b"", 503, Retry_After="1"), send(JPEG))
    assert fetched(wait, MediaLimits(retries=1, backoff_s=0.01)) == JPEG
    assert time.monotonic() - start >= 1
    start = time.monotonic()
    assert "HTTP 503" in error(send(b"", 503, Retry_After="3600"), MediaLimits(retries=5)).message
    assert time.monotonic() - start < 1


def test_web_pages_get_a_hint() -> None:
    page = error(send(b"<!DOCTYPE html><html>" + bytes(10), Content_Type="image/jpeg"))
    assert "web page, not a picture" in page.message
    assert "address of the picture" in (page.hint or "")


def test_a_body_that_ends_early_is_an_error() -> None:
    assert "broke before all was there" in error(short(JPEG)).message


def test_an_empty_body_is_an_error() -> None:
    assert "sent nothing" in error(send(b"")).message
    assert "sent nothing" in error(send(b"", 204)).message


@pytest.mark.parametrize(
    "route", [endless(), send(bytes(200_001)), send(gzip.compress(bytes(200_001)), Content_Encoding="gzip")]
)
def test_more_bytes_than_the_limit_are_refused(route: Route) -> None:
    limits = MediaLimits(max_image_bytes=200_000, image_timeout_s=20.0)
    assert isinstance(error(route, limits), RefusedError)


def test_a_gzip_bomb_is_refused_with_little_memory() -> None:
    route = gzip_bomb(megabytes=200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(error(route, MediaLimits(max_image_bytes=1_000_000)), RefusedError)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (100 << 10 if sys.platform == "linux" else 100 << 20)


def test_broken_compression_is_an_error() -> None:
    assert "compression" in error(send(b"not gzip", Content_Encoding="gzip")).message
    assert fetched(send(gzip.compress(JPEG), Content_Encoding="gzip")) == JPEG


@pytest.mark.parametrize("route", [drip(), drip(in_headers=True), endless(b"\xff\xd8\xff"), silence])
def test_slow_answers_end_at_the_total_limit(route: Route) -> None:
    start = time.monotonic()
    slow = error(route, MediaLimits(image_timeout_s=0.4, retries=3, backoff_s=0.01))
    assert isinstance(slow, RefusedError)
    assert "longer than 0.4 s" in slow.message
    assert time.monotonic() - start < 3


def test_cancelling_ends_a_blocked_read() -> None:
    stop = threading.Event()
    with Server({"/a": drip(in_headers=True)}) as server:
        threading.Timer(0.1, stop.set).start()
        start = time.monotonic()
        with pytest.raises(SourceError, match="stopped"):
            read_bytes(Media("a", url=server.url("/a")), MediaLimits(), cancelled=stop.is_set)
        assert time.monotonic() - start < 3


def test_a_server_that_is_not_there_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        with pytest.raises(SourceError, match="connection refused") as caught:
            fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/a")
    assert not isinstance(caught.value, RefusedError)
    with pytest.raises(SourceError, match=r"could not connect to pictures\.invalid"):
        fetch("http://pictures.invalid/a", MediaLimits(retries=0, connect_timeout_s=1.0))
    with pytest.raises(SourceError):
        fetch(f"http://{'x' * 80}.invalid/a")


def test_a_server_that_talks_no_http_is_an_error() -> None:
    def speak_smtp(handler: Handler) -> None:
        handler.wfile.write(b"220 ready\r\n" * 9)

    assert "broke" in error(speak_smtp).message


def test_three_redirects_are_followed_and_four_are_not() -> None:
    routes = {f"/{n}": redirect(f"/{n + 1}") for n in range(4)} | {"/4": send(JPEG), "/loop": redirect("/loop")}
    with Server(routes) as server:
        assert fetch(server.url("/1")) == JPEG
        assert "more than 3 times" in refused(server.url("/0")).message
        assert "more than 3 times" in refused(server.url("/loop")).message


def test_the_body_of_a_redirect_is_not_read() -> None:
    def long_redirect(handler: Handler) -> None:
        handler.head(302, Location="/b")
        endless()(handler)

    with Server({"/a": long_redirect, "/b": send(JPEG)}) as server:
        assert fetch(server.url("/a")) == JPEG


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://host/a", "data:image/png,x", "gopher://127.0.0.1/", "http://[::1"]
)
def test_redirects_to_other_schemes_are_refused(target: str) -> None:
    assert "redirects to" in error(redirect(target)).message


def test_a_typed_address_may_not_redirect_to_another_private_host_or_port() -> None:
    with Server({"/b": send(JPEG)}) as other, Server({"/b": send(JPEG)}, host="127.0.0.2") as second:
        targets = [
            other.url("/b"),
            second.url("/b"),
            other.url("/b", host="localhost"),
            "http://[::1]/",
            "http://169.254.169.254/",
        ]
        targets += ["http://2130706433/", "http://0x7f.1/", "http://[::ffff:127.0.0.1]/", "http://0/", "//127.0.0.2/"]
        with Server({f"/{n}": redirect(target) for n, target in enumerate(targets)}) as server:
            for n, target in enumerate(targets):
                failure = refused(server.url(f"/{n}"))
                assert "redirects, but" in failure.message, target
        assert not other.seen
        assert not second.seen


def test_a_redirect_that_leaves_and_comes_back_is_no_longer_typed() -> None:
    with Server({"/a": redirect("http://user@127.0.0.1/")}) as server:
        assert "loopback" in refused(server.url("/a")).message


def test_private_addresses_are_refused_for_urls_nobody_typed() -> None:
    with Server({"/a": send(JPEG)}) as server:
        for host in ("127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]", "0x7f000001"):
            assert "address" in refused(server.url("/a", host=host), typed=False).message
        assert not server.seen


@pytest.mark.parametrize(
    "address",
    NOT_PUBLIC.split(),
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert refusal(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_not_refused(address: str) -> None:
    assert refusal(address) is None


def test_a_name_with_one_private_answer_among_public_ones_is_refused() -> None:
    answers = [(socket.AF_INET, ("93.184.215.14", 80)), (socket.AF_INET, ("10.0.0.7", 80))]
    with Deadline(5) as deadline:
        adapter = PinnedAdapter(deadline, guarded=True, connect_timeout_s=1, resolver=lambda *_: list(answers))
        with pytest.raises(ForbiddenError, match=r"h\.invalid is 10\.0\.0\.7, a private address"):
            adapter.connect("h.invalid", 80)


def test_the_checked_address_is_the_one_connected_to_under_its_own_name() -> None:
    with Server({"/a": send(JPEG)}) as server, Deadline(5) as deadline:
        asked: list[str] = []

        def resolver(host: str, port: int, timeout_s: float) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
            asked.append(host)
            return [(socket.AF_INET, ("127.0.0.1", server.port))]

        adapter = PinnedAdapter(deadline, guarded=False, connect_timeout_s=1, resolver=resolver)
        request = requests.Request("GET", "http://pictures.invalid/a").prepare()
        assert adapter.send(request, timeout=5).content == JPEG
        assert asked == ["pictures.invalid"]
        assert server.seen[0].headers["Host"] == "pictures.invalid"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for localhost, in one file."""
    pem = tmp_path / "localhost.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    try:
        subprocess.run([*command.split(), "-keyout", pem, "-out", tmp_path / "c.pem"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl command here")
    pem.write_bytes(pem.read_bytes() + (tmp_path / "c.pem").read_bytes())
    return pem


def test_certificates_are_checked_for_the_host_name(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with Server({"/a": send(JPEG)}, tls=context) as server:
        with pytest.raises(SourceError, match="certificate"):
            fetch(server.url("/a", host="localhost"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert fetch(server.url("/a", host="localhost")) == JPEG
        assert names[-1] == "localhost"
        with pytest.raises(SourceError, match="certificate"):
            fetch(server.url("/a"))  # the certificate is not for 127.0.0.1


def test_a_tls_handshake_that_hangs_ends_at_the_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(RefusedError, match="longer than"):
            fetch(f"https://127.0.0.1:{silent.getsockname()[1]}/a", MediaLimits(image_timeout_s=0.3))
        assert time.monotonic() - start < 3


def test_proxies_are_used_for_typed_urls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server({"http://pictures.invalid/a": send(JPEG)}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        assert fetch("http://pictures.invalid/a") == JPEG
        quick = MediaLimits(retries=0, connect_timeout_s=1.0)
        with pytest.raises(SourceError, match="could not connect"):
            fetch("http://pictures.invalid/a", quick, typed=False)
        assert len(proxy.seen) == 1
        proxy.routes["http://pictures.invalid/a"] = drip(in_headers=True)
        with pytest.raises(RefusedError, match="longer than"):
            fetch("http://pictures.invalid/a", MediaLimits(image_timeout_s=0.3))


def test_netrc_and_url_credentials_reach_the_typed_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login user password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with Server({"/a": send(JPEG), "/r": redirect("/a")}) as server:
        fetch(server.url("/a"))
        fetch(server.url("/r", user="me:mine@"))
        sent = [seen.headers.get("Authorization", "") for seen in server.seen]
    assert all(value.startswith("Basic ") for value in sent)
    assert sent[0] != sent[1] == sent[2]


def test_credentials_in_any_script_are_sent_as_utf_8() -> None:
    with Server({"/a": send(JPEG)}) as server:
        fetch(server.url("/a", user="%E2%82%AC:图@"))
        assert base64.b64decode(server.seen[0].headers["Authorization"][6:]).decode() == "€:图"


def test_a_proxy_that_cannot_be_used_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("socks5://127.0.0.1:1", "http://", "http://127.0.0.1:1"):
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(SourceError):
            fetch("http://pictures.invalid/a", MediaLimits(retries=0, connect_timeout_s=1.0))


@pytest.fixture
def failures() -> list[SourceError]:
    """Every way to fail, at an address with credentials."""
    found: list[SourceError] = []
    routes = {
        "/404": send(b"", 404),
        "/500": send(b"", 500),
        "/short": short(JPEG),
        "/loop": redirect(f"/loop?token={SECRET}"),
        "/away": redirect(f"http://user:{SECRET}@127.0.0.2/?sig={SECRET}"),
        "/file": redirect(f"file://user:{SECRET}@host/?sig={SECRET}"),
        "/html": send(b"<html>"),
        "/gzip": send(b"x", Content_Encoding="gzip"),
        "/large": send(bytes(2000)),
        "/slow": drip(),
    }
    limits = MediaLimits(retries=0, image_timeout_s=0.5, max_image_bytes=1000)
    with Server(routes) as server:
        urls = [server.url(f"{path}?key={SECRET}", user=f"user:{SECRET}@") for path in routes]
        urls += [
            f"http://user:{SECRET}@127.0.0.1:1/?password={SECRET}",
            f"http://user:{SECRET}@h.invalid/?key={SECRET}",
        ]
        for typed in (True, False):
            for url in urls:
                with pytest.raises(SourceError) as caught:
                    fetch(url, limits, typed)
                found.append(caught.value)
    return found


def test_errors_never_hold_credentials(failures: list[SourceError]) -> None:
    for failure in failures:
        chain = f"{failure} {failure.hint} {failure.source} {failure.__cause__}"
        assert SECRET not in chain
        assert failure.__suppress_context__ or failure.__context__ is None or SECRET not in str(failure.__context__)


def test_files_are_read_and_guarded(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    assert read_bytes(Media("a", path=str(path)), QUICK) == JPEG
    with pytest.raises(RefusedError, match="limit"):
        read_bytes(Media("a", path=str(path)), MediaLimits(max_image_bytes=10))
    for missing, says in (
        (tmp_path, "is a folder"),
        (tmp_path / "no", "no such file"),
        ("/dev/zero", "not a regular file"),
    ):
        with pytest.raises(SourceError, match=says):
            read_bytes(Media("a", path=str(missing)), QUICK)
    with pytest.raises(SourceError):
        read_bytes(Media("a", path="a\0b"), QUICK)


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything, so be nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    path.chmod(0)
    with without_privileges(), pytest.raises(SourceError, match="permission denied"):
        read_bytes(Media("a", path=str(path)), QUICK)


def test_pipes_are_read_to_their_end_but_not_waited_for_without_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(RefusedError, match="nothing came"):
        read_bytes(Media("a", path=str(path)), MediaLimits(image_timeout_s=0.2))
    writer = threading.Thread(target=path.write_bytes, args=(JPEG,))
    writer.start()
    assert read_bytes(Media("a", path=str(path)), QUICK) == JPEG
    writer.join()
    with pytest.raises(RefusedError):
        read_bytes(Media("a", path=str(path), typed=False), QUICK)


def test_data_is_given_back_within_the_limit() -> None:
    assert read_bytes(Media("a", data=JPEG), QUICK) is JPEG
    with pytest.raises(RefusedError):
        read_bytes(Media("a", data=JPEG), MediaLimits(max_image_bytes=10))


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="no descriptors with names")
def test_what_is_open_is_no_file_unless_a_person_says_so(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, b"bytes")
    os.close(theirs)
    picture = tmp_path / "a.jpg"
    picture.write_bytes(JPEG)
    with picture.open("rb") as file:
        (tmp_path / "to stdin").symlink_to("/dev/stdin")
        (tmp_path / "to the link").symlink_to("to stdin")
        (tmp_path / "fds").symlink_to("/dev/fd")
        (tmp_path / "to shm").symlink_to("/dev/shm" if os.path.isdir("/dev/shm") else "/dev")
        (tmp_path / "to the file").symlink_to(f"/dev/fd/{file.fileno()}")
        opened: list[Path | str] = [tmp_path / name for name in ("to stdin", "to the link", "to the file")]
        opened += [tmp_path / "fds" / "0", tmp_path / "fds" / str(file.fileno())]
        opened += ["/dev/stdin", "/dev/../dev/./stdin", "//dev/stdin", "/dev/fd/0", f"/dev/fd/{ours}"]
        opened += [f"/dev/fd/{file.fileno()}"]
        if os.path.exists("/proc/self/fd"):
            opened += ["/proc/self/fd/0", f"/proc/{os.getpid()}/fd/{ours}", "/proc/self/root/dev/stdin"]
            opened += ["/proc/thread-self/fd/0", f"{tmp_path}/to shm/../stdin"]
        for path in opened:
            with pytest.raises(RefusedError, match="is an open stream"):
                read_bytes(Media("a", path=str(path), typed=False), QUICK)
            with (
                pytest.raises(RefusedError, match="is an open stream"),
                open_file(Media("a", "video", path=str(path), typed=False), QUICK),
            ):
                pass
    assert read_bytes(Media("a", path=f"/dev/fd/{ours}"), QUICK) == b"bytes"
    os.close(ours)


def test_links_to_files_are_files_for_everyone(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "link").symlink_to("a.jpg")
    (tmp_path / "round").symlink_to("round")
    assert read_bytes(Media("a", path=str(tmp_path / "link"), typed=False), QUICK) == JPEG
    with pytest.raises(SourceError):
        read_bytes(Media("a", path=str(tmp_path / "round"), typed=False), QUICK)


def test_links_that_lead_in_a_circle_are_no_stream(tmp_path: Path) -> None:
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    with pytest.raises(SourceError) as caught:
        read_bytes(Media("loop.png", path=str(loop), typed=False), MediaLimits())
    assert "stream" not in str(caught.value)
