"""Every error a user can meet, and the exit code it ends the program with.

    ValleyError            1   failed at run time
    ├── UsageError         2   wrong arguments, or a request the model cannot take
    │   ├── PromptError    2   placeholders, roles or lengths that do not fit together
    │   └── RowError       2   a line of a prompts file that is no request
    ├── SourceError        4   a picture, clip or prompt file could not be read
    │   └── RefusedError   4   ... because a guard (size, time, address) said no
    ├── ModelError         5   model, weights or tokenizer missing or not understood
    │   └── WeightsError   5   tensors missing, unexpected or of the wrong shape
    ├── TimedOutError      1   a request took longer than it may
    ├── EngineError        1   the engine broke and answers nobody any more
    ├── LibraryError       1   a library is installed in a version that does not fit
    └── DeviceError        6   no CUDA, or no room for the weights
        └── RoomError      6   no memory left for this one request

An error says what went wrong and why (``message``) and what to type next (``hint``). ``__main__`` is the
only place that turns one into text on stderr and an exit code.
"""

from __future__ import annotations

EXIT_FAILED_ROWS = 3  # a batch finished, with failed rows
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143  # 128 + SIGINT, SIGTERM


class ValleyError(Exception):
    """Base of all errors shown to the user without a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ValleyError):
    """The arguments contradict each other or the model."""

    exit_code = 2


class PromptError(UsageError):
    """Messages, placeholders and pictures do not fit together."""


class RowError(UsageError):
    """A line of a prompts file is not a request."""


class SourceError(ValleyError):
    """A source could not be read; ``source`` is its printable name (no credentials, no control characters)."""

    exit_code = 4

    def __init__(self, source: str, reason: str, hint: str | None = None) -> None:
        super().__init__(f"{source}: {reason}", hint)
        self.source = source
        self.reason = reason


class RefusedError(SourceError):
    """A guard refused the source; the hint names the option that moves the guard."""


class ModelError(ValleyError):
    """The model cannot be found or understood."""

    exit_code = 5


class WeightsError(ModelError):
    """The checkpoint's tensors are not those the model needs."""


class TimedOutError(ValleyError):
    """A request took longer than its ``timeout_s``."""


class EngineError(ValleyError):
    """The engine broke, for a reason that nobody foresaw: it answers nobody any more."""


class LibraryError(ValleyError):
    """A library is installed in a version that lacks what is used of it."""


class DeviceError(ValleyError):
    """The device is missing or too small."""

    exit_code = 6


class RoomError(DeviceError):
    """This request does not fit in memory; others may."""
