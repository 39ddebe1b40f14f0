"""What huggingface_hub, its HTTP library and the disk say, in our words: a ModelError and what to type next."""

from __future__ import annotations

import errno
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from valley_cli.engine.hub.registry import MODELS, suggest
from valley_cli.engine.hub.snapshot import Repo
from valley_cli.errors import ModelError, option
from valley_cli.text import printable

LIST_HINT = "known names: " + ", ".join(info.name for info in MODELS) + "; a hub id (org/name) or a folder also does"


class NotFoundError(ModelError):
    """The hub has no such repository, or hides it from this token."""


class UnreachableError(ModelError):
    """The hub did not answer, or not as a hub does."""


@contextmanager
def as_model_errors(repo: Repo) -> Iterator[None]:
    """Turn everything huggingface_hub, its HTTP library (httpx or httpx2) and the disk raise into a ModelError."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        raise _explain(repo, error) from error


@contextmanager
def quiet() -> Iterator[None]:
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


def _explain(repo: Repo, error: Exception) -> ModelError:
    """What ``error`` means for the person who wants ``repo``, and what to type next."""
    from huggingface_hub import errors, get_token

    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(
            f"{repo.id} has no revision {printable(repo.revision or '')!r}", f"leave out {option('revision')}"
        )
    chain = _causes(error)
    status = next((link.response.status_code for link in chain if isinstance(link, errors.HfHubHTTPError)), 0)
    token = "the token in HF_TOKEN does not open it" if get_token() else "no token is set"
    if isinstance(error, errors.GatedRepoError):
        hint = f"accept its terms at {repo.endpoint}/{repo.id}, then set HF_TOKEN to a token of that account"
        return ModelError(f"{repo.id} is gated, and {token}", hint)
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 404):
        private = f", or it is private and {token}" if status == 401 else ""
        return NotFoundError(f"there is no {repo.id} at {repo.endpoint}{private}", suggestion(repo.id))
    if status in (401, 403):
        return ModelError(f"{repo.endpoint} refuses {repo.id} ({status}), and {token}", "set HF_TOKEN to a valid token")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(f"the disk under {repo.cache} is full", "make room (what was downloaded is kept), run again")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ModelError(f"the cache {repo.cache} cannot be written", "set HF_HOME to a folder of yours")
    cause = re.sub(r"^\[Errno -?\d+\] ", "", printable(str(chain[-1]))) or type(chain[-1]).__name__
    reason = f"it answers {status}" if status else cause
    return UnreachableError(
        f"{repo.id} could not be downloaded from {repo.endpoint}: {reason}",
        "check the network and run again (what was downloaded is kept); set HF_ENDPOINT to use a mirror, "
        f"or give a folder with {option('model')}",
    )


def _causes(error: BaseException) -> list[BaseException]:
    """``error`` and what it was raised from, outermost first."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def suggestion(model: str) -> str:
    """The hint after a name that leads nowhere."""
    near = suggest(model)
    return f"did you mean {' or '.join(near)}? {LIST_HINT}" if near else LIST_HINT
