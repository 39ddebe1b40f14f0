"""A guarded download of one URL to memory or a file. Imports requests, so import this module inside functions only.

download ── attempt, back off, attempt ...      connection errors and 5xx only; one deadline around all
  └─ _walk ── hop, redirect, hop ...            by hand: requests would follow first and read redirect bodies whole
       └─ _open ── PinnedAdapter                checks the address it connects to
            └─ _body                            counted after decompression
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.utils import get_auth_from_url

from valley_cli import __version__
from valley_cli.api import Media, MediaLimits
from valley_cli.errors import RefusedError, SourceError
from valley_cli.media.fetch.pinned import Deadline, ForbiddenError, PinnedAdapter, UnreachableError
from valley_cli.media.fetch.read import Cancelled, Progress, cannot_keep, max_bytes, timeout_s, too_large
from valley_cli.text import printable, printable_url, sniff

_CHUNK = 64 * 1024
_MAX_RETRY_AFTER_S = 5.0
_REDIRECTS = (301, 302, 303, 307, 308)
_PROXY_ERRORS = (
    requests.exceptions.ProxyError,
    requests.exceptions.InvalidProxyURL,
    requests.exceptions.InvalidSchema,  # SOCKS without its library
)
_HEADERS = {"User-Agent": f"valley-cli/{__version__}", "Accept": "image/*,video/*,*/*;q=0.5"}


class _AgainError(Exception):
    """The attempt failed in a way that may pass; ``error`` is what to say if it does not."""

    def __init__(self, error: SourceError, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s


@dataclass(frozen=True)
class _Job:
    media: Media
    limits: MediaLimits
    deadline: Deadline
    on_progress: Progress | None
    into: BinaryIO

    def fail(self, reason: str, hint: str | None = None) -> SourceError:
        return SourceError(self.media.name, reason, hint)

    def refuse(self, reason: str, hint: str | None = None) -> RefusedError:
        return RefusedError(self.media.name, reason, hint)


@dataclass(frozen=True)
class _Hop:
    """Where to go next. ``typed``: a person typed this host, so private addresses, proxies and .netrc are fine."""

    url: str
    typed: bool
    redirected: bool = False


def download(
    media: Media,
    url: str,
    limits: MediaLimits,
    into: BinaryIO,
    on_progress: Progress | None,
    cancelled: Cancelled | None,
) -> None:
    """Write the body of ``url`` to ``into``, from its beginning.

    Raises ``RefusedError`` for a guard, ``SourceError`` for everything else.
    """
    with Deadline(timeout_s(media, limits), cancelled) as deadline:
        job = _Job(media, limits, deadline, on_progress, into)
        for attempt in range(limits.retries + 1):
            try:
                _walk(job, _Hop(url, media.typed))
                return
            except _AgainError as again:
                after_s = again.after_s or 0.0
                if attempt == limits.retries or after_s > _MAX_RETRY_AFTER_S:
                    raise again.error from None
                deadline.sleep(max(after_s, min(limits.backoff_s * 2**attempt, _MAX_RETRY_AFTER_S)))
            if deadline.over:
                raise _time_is_up(job)
    raise AssertionError("limits.retries is negative")


def _walk(job: _Job, hop: _Hop) -> None:
    for _ in range(job.limits.max_redirects + 1):
        here = _normal(job, hop)
        with _open(job, hop, here) as response, _errors_explained(job, here):
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not location:
                _check_status(job, response)
                _body(job, response)
                return
        target = _target(job, here, location)
        hop = _Hop(target, hop.typed and _same_door(here, target), redirected=True)
    raise job.refuse(
        f"redirected more than {job.limits.max_redirects} times",
        "type the final address, or raise VALLEY_MAX_REDIRECTS",
    )


def _target(job: _Job, here: str, location: str) -> str:
    """The absolute address of a Location header (which http.client reads as Latin-1)."""
    location = location.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        return urljoin(here, location)
    except ValueError:
        raise job.fail(f"redirects to {printable_url(location)}, which is no address") from None


def _normal(job: _Job, hop: _Hop) -> str:
    """``hop.url`` as it will be requested; http and https only."""
    shown = printable_url(hop.url)
    try:
        if urlsplit(hop.url).scheme.lower() not in ("http", "https"):
            if hop.redirected:
                raise job.refuse(f"redirects to {shown}, and only http and https are followed")
            raise job.refuse("only http:// and https:// addresses are fetched")
        return _normalised(hop.url)
    except (requests.RequestException, UnicodeError, ValueError):
        raise job.fail(f"redirects to {shown}, which is no address" if hop.redirected else "not an address") from None


def _same_door(here: str, there: str) -> bool:
    """True if a redirect stays with the host and port (or only moves from http to https)."""
    try:
        doors = [_door(here), _door(_normalised(there))]
    except (requests.RequestException, UnicodeError, ValueError):
        return False
    (_, host, port), (scheme, new_host, new_port) = doors
    upgraded = port == 80 and (scheme, new_port) == ("https", 443)
    return host == new_host and (doors[0] == doors[1] or upgraded)


def _normalised(url: str) -> str:
    """Quoted and with an ASCII host, as requests will send it: what is compared is what is asked for."""
    request = requests.PreparedRequest()
    request.prepare_url(url, None)
    return request.url or ""


def _door(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


@contextlib.contextmanager
def _open(job: _Job, hop: _Hop, url: str) -> Iterator[requests.Response]:
    """The response's head; redirects are not followed. Environment (proxies, .netrc) only for typed hosts."""
    session = requests.Session()
    session.trust_env = hop.typed
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    connect_s = job.limits.connect_timeout_s
    adapter = PinnedAdapter(job.deadline, guarded=not hop.typed, connect_timeout_s=connect_s)
    try:
        with _errors_explained(job, url, hop):
            user, password = (part.encode("utf-8", "replace") for part in get_auth_from_url(url))
            auth = (user, password) if user or password else None  # else .netrc would win over the address
            request = session.prepare_request(requests.Request("GET", url, headers=_HEADERS, auth=auth))
            settings = session.merge_environment_settings(url, {}, True, None, None)
            timeout = (connect_s, job.deadline.remaining_s() + 1)  # the deadline comes first
            response = adapter.send(request, timeout=timeout, **settings)  # type: ignore[arg-type]
        with contextlib.closing(response):
            yield response
    finally:
        adapter.close()


@contextlib.contextmanager
def _errors_explained(job: _Job, url: str, hop: _Hop | None = None) -> Iterator[None]:
    """Turn what requests and urllib3 raise into our errors. Their texts hold whole URLs, so they are not quoted."""
    host = urlsplit(url).hostname or "the server"
    lead = "redirects, but " if hop is not None and hop.redirected else ""
    try:
        yield
    except SourceError:
        raise
    except ForbiddenError as error:
        raise _forbidden(job, error, hop) from None
    except Exception as error:
        if job.deadline.over:
            raise _time_is_up(job) from None
        if isinstance(error, UnreachableError):
            failure = job.fail(f"{lead}could not connect to {error}", _connect_hint(hop))
            if not error.again:
                raise failure from None
            raise _AgainError(failure) from None
        if isinstance(error, requests.exceptions.SSLError):
            raise job.fail(f"{lead}{host} cannot be trusted: {_tls_reason(error)}") from None
        if isinstance(error, _PROXY_ERRORS):
            raise job.fail("the proxy failed", "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY") from None
        if isinstance(error, requests.exceptions.ContentDecodingError | urllib3.exceptions.DecodeError):
            raise job.fail("the server's compression is broken") from None
        if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError | OSError):
            raise _AgainError(job.fail(f"{lead}the connection to {host} broke before all was there")) from None
        if hop is not None and isinstance(error, ValueError):  # a password that no header can hold
            raise job.fail("cannot be requested as it is written") from None
        raise


def _tls_reason(error: BaseException | None) -> str:
    """What OpenSSL says about a certificate; its words name the host at most."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return printable(f"its certificate is not valid ({error.verify_message.rstrip('.')})")
        error = error.__cause__ or error.__context__
    return "the encrypted connection failed"


def _connect_hint(hop: _Hop | None) -> str:
    if hop is not None and hop.redirected and not hop.typed:
        return f"proxies are used for typed addresses only; type the final one: {printable_url(hop.url)}"
    return "check the address and your connection"


def _forbidden(job: _Job, error: ForbiddenError, hop: _Hop | None) -> RefusedError:
    if hop is not None and hop.redirected:
        if job.media.typed:
            return job.refuse(
                f"redirects, but {error}", f"if you trust it, type that address: {printable_url(hop.url)}"
            )
        return job.refuse(f"redirects, but {error}")
    return job.refuse(str(error), "only an address typed by a person may lead there")


def _time_is_up(job: _Job) -> SourceError:
    if job.deadline.was_cancelled:
        return job.fail("reading was stopped")
    limit = timeout_s(job.media, job.limits)
    variable = "VALLEY_VIDEO_TIMEOUT" if job.media.kind == "video" else "VALLEY_IMAGE_TIMEOUT"
    return job.refuse(f"took longer than {limit:g} s", f"download it first and give the file, or raise {variable}")


def _check_status(job: _Job, response: requests.Response) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    if status >= 500:
        after = response.headers.get("Retry-After", "").strip()
        error = job.fail(f"the server failed (HTTP {status})", "try again later")
        raise _AgainError(error, float(after) if after.isascii() and after.isdigit() and len(after) < 10 else None)
    if status in (404, 410):
        raise job.fail(f"the server has nothing at this address (HTTP {status})", "check the address")
    if status in (401, 403, 407):
        raise job.fail(f"the server does not give it to us (HTTP {status})", "open it in a browser and save it")
    if status == 429:
        raise job.fail("the server asks for fewer requests (HTTP 429)", "try again later")
    raise job.fail(f"the server did not send it (HTTP {status})")


def _body(job: _Job, response: requests.Response) -> None:
    limit = max_bytes(job.media, job.limits)
    declared = response.headers.get("Content-Length", "")
    total = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 20 else 0
    if total > limit:
        raise too_large(job.media, limit, total)
    if response.headers.get("Content-Encoding"):
        total = 0  # counts compressed bytes
    done = 0
    _keep(job, None)
    for chunk in response.iter_content(_CHUNK):
        if not done and sniff(chunk) == "html":
            what = "clip" if job.media.kind == "video" else "picture"
            raise job.fail(f"this is a web page, not a {what}", f"open the page and copy the address of the {what}")
        done += len(chunk)
        if done > limit:
            raise too_large(job.media, limit)
        _keep(job, chunk)
        if job.on_progress is not None:
            job.on_progress(done, total)
    if job.deadline.over:  # a body without a length ends like this when the deadline cuts it
        raise _time_is_up(job)
    if not done:
        raise job.fail("the server sent nothing")


def _keep(job: _Job, chunk: bytes | None) -> None:
    """Add ``chunk`` to what is there; None: begin again with nothing."""
    try:
        if chunk is None:
            job.into.seek(0)
            job.into.truncate()
        else:
            job.into.write(chunk)
    except OSError as error:
        raise cannot_keep(job.media, error) from None
