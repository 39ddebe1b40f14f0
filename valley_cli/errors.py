"""Every error a user can meet, the exit code it ends the program with, and its ``code``, a name for programs.

    ValleyError            1   failed           failed at run time
    ├── UsageError         2   usage            wrong arguments, or a request the model cannot take
    │   ├── PromptError    2   prompt           placeholders, roles or lengths that do not fit together
    │   └── RowError       2   row              a line of a prompts file that is no request
    ├── SourceError        4   source           a picture, clip or prompt file could not be read
    │   └── RefusedError   4   refused          ... because a guard (size, time, address) said no
    ├── ModelError         5   model            model, weights or tokenizer missing or not understood
    │   └── WeightsError   5   weights          tensors missing, unexpected or of the wrong shape
    ├── TimedOutError      1   timed_out        a request took longer than it may
    ├── EngineError        1   engine_broken    the engine broke and answers nobody any more
    ├── LibraryError       1   library          a library is installed in a version that does not fit
    └── DeviceError        6   device           no CUDA, or no room for the weights
        └── RoomError      6   out_of_memory    no memory left for this one request

A kind that a module defines for itself below these has the code of the class above it.

An error says what went wrong and why (``message``) and what to type next (``hint``). ``__main__`` is the
only place that turns one into text on stderr and an exit code.
"""

from __future__ import annotations

import copy
import copyreg
import re
from collections.abc import Callable
from typing import Any, Self

EXIT_FAILED_ROWS = 3  # a batch finished, with failed rows
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143  # 128 + SIGINT, SIGTERM


_OPTION = re.compile("\ue000([a-z_]+)\ue001")  # two characters of Unicode's private use


def option(name: str) -> str:
    """An option in a message or hint. Who says the error says it in his own words: ``--max-pixels``, ``max_pixels``."""
    return f"\ue000{name}\ue001"


def worded(text: str, name_of: Callable[[str], str]) -> str:
    """``text`` with every option in it said as ``name_of`` says it."""
    return _OPTION.sub(lambda found: name_of(found[1]), text)


class ValleyError(Exception):
    """Base of all errors shown to the user without a traceback.

    ``code`` names the kind of failure for programs. Options in ``message`` and ``hint`` are marked (``option``).
    """

    exit_code = 1
    code = "failed"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return worded(str(self.args[0]), str)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies are made of what the error holds: not every class takes its message as its argument."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self).copy()  # type: ignore[attr-defined]

    def placed(self, where: str) -> Self:
        """The same error, its message behind ``where``; its kind, code and hint stay."""
        twin = copy.copy(self)
        twin.message = f"{where}: {self.message}"
        twin.args = (twin.message,)
        return twin


class UsageError(ValleyError):
    """The arguments contradict each other or the model."""

    exit_code = 2
    code = "usage"


class PromptError(UsageError):
    """Messages, placeholders and pictures do not fit together."""

    code = "prompt"


class RowError(UsageError):
    """A line of a prompts file is not a request."""

    code = "row"


class SourceError(ValleyError):
    """A source could not be read; ``source`` is its printable name (no credentials, no control characters)."""

    exit_code = 4
    code = "source"

    def __init__(self, source: str, reason: str, hint: str | None = None) -> None:
        super().__init__(f"{source}: {reason}", hint)
        self.source = source
        self.reason = reason


class RefusedError(SourceError):
    """A guard refused the source; the hint names the option that moves the guard."""

    code = "refused"


class ModelError(ValleyError):
    """The model cannot be found or understood."""

    exit_code = 5
    code = "model"


class WeightsError(ModelError):
    """The checkpoint's tensors are not those the model needs."""

    code = "weights"


class TimedOutError(ValleyError):
    """A request took longer than its ``timeout_s``."""

    code = "timed_out"


class EngineError(ValleyError):
    """The engine broke, for a reason that nobody foresaw: it answers nobody any more."""

    code = "engine_broken"


class LibraryError(ValleyError):
    """A library is installed in a version that lacks what is used of it."""

    code = "library"


class DeviceError(ValleyError):
    """The device is missing or too small."""

    exit_code = 6
    code = "device"


class RoomError(DeviceError):
    """This request does not fit in memory; others may."""

    code = "out_of_memory"
