"""What the commands share: option types and what is made of them, the texts of -p and -s, how a command ends early.

None means "not given": the settings decide."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from valley_cli.errors import SourceError, UsageError
from valley_cli.settings import OPTIONS, TYPES, Group, Settings, flag_name, load_settings
from valley_cli.text import printable

Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="The question; @FILE reads it, - is stdin.")]
Output = Annotated[str | None, typer.Option("--output", "-o", help="Write the answer to this file.")]
Force = Annotated[bool, typer.Option("--force", help="Let -o overwrite a file.")]


def _parameter(name: str) -> Any:
    """The type of the parameter that takes the option ``name`` on a command line."""
    declared, default, kind = OPTIONS[name], getattr(Settings, name), TYPES[name].removesuffix(" | None")
    types = {"bool": bool, "int": int, "float": float, "tuple[str, ...]": list[str]}
    flag = flag_name(name) + (f"/{flag_name(f'no_{name}')}" if declared.negatable else "")
    # Help shows defaults that are words: a switch is off by default, and what a number is then its help text says.
    shown = default if isinstance(default, str) else not isinstance(default, bool)
    names = filter(None, (flag, declared.short))
    return Annotated[types.get(kind, str) | None, typer.Option(*names, help=declared.help, show_default=shown)]


def _group(group: Group) -> dict[str, Any]:
    """The options of a group and the types of their parameters, in the order in which help shows them."""
    names = [name for name, declared in OPTIONS.items() if declared.group == group]
    return {name: _parameter(name) for name in sorted(names, key=lambda name: OPTIONS[name].rank)}


ENGINE = _group("engine")
ANSWER = _group("answer") | ENGINE
SCREEN = _group("screen")


def pick(*names: str) -> dict[str, Any]:
    """The shared options of these names."""
    return {name: (ANSWER | SCREEN)[name] for name in names}


def with_settings(shared: dict[str, Any]) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Add the options ``shared`` (name of a setting: type) to a command, which gets the merged ``Settings`` as its
    first argument, and ends with what it returns as exit code."""

    def decorate(body: Callable[..., int | None]) -> Callable[..., None]:
        own = [*inspect.signature(body, eval_str=True).parameters.values()][1:]

        def command(**values: Any) -> None:
            settings = load_settings({name: values.pop(name) for name in shared})
            if settings.log:
                start_log()
            with early_ends(settings.debug):
                code = body(settings, **values)
            if code:
                raise typer.Exit(code)

        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in shared.items()
        ]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + added
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__name__, command.__doc__ = body.__name__, body.__doc__
        return command

    return decorate


def start_log() -> None:
    """Send what valley's modules log to stderr, a line each."""
    import logging  # needed for that only

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(name)s: %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("valley_cli")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG)


def prompt_file(value: str | None) -> str | None:
    """The FILE of ``@FILE``; None for a text that is itself."""
    return os.path.expanduser(value[1:]) if value and value.startswith("@") and len(value) > 1 else None


def read_text(value: str, what: str) -> str:
    """``@FILE`` and ``-`` replaced by what they hold (UTF-8, one final newline dropped); anything else is itself.

    Raises SourceError for what cannot be read or holds nothing, UsageError for a terminal on stdin.
    """
    path = prompt_file(value)
    if path is None and value != "-":
        return _typed(value, what)
    name = printable(path or value)
    data = _read_file(path, name) if path else _read_stdin(what)
    try:
        text = data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SourceError(name, "not UTF-8 text", f"give {what} a text file") from None
    if not text:
        raise SourceError(name, f"holds no text for {what}")
    return text


def _typed(value: str, what: str) -> str:
    """``value`` itself; where the locale is not UTF-8, what its bytes say."""
    try:
        value.encode()
        return value
    except UnicodeEncodeError:
        pass
    try:
        return os.fsencode(value).decode()
    except UnicodeError:
        raise UsageError(f"{what}: not UTF-8 text") from None


def _read_file(path: str, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "cannot be read"
        raise SourceError(
            name, reason.lower(), "a text that begins with @ names a file; begin it with a space if it is none"
        ) from None


def _read_stdin(what: str) -> bytes:
    if sys.stdin is None:
        raise SourceError("-", "standard input cannot be read here")
    if sys.stdin.isatty():
        hint = f"pipe the text in: {what} - < FILE"
        raise UsageError(f"{what} - reads standard input, which is a keyboard here", hint)
    return sys.stdin.buffer.read()


@contextmanager
def early_ends(debug: bool) -> Iterator[None]:
    """How a command ends early: quietly when whoever read its answer has gone, with a traceback under ``--debug``."""
    try:
        yield
    except BrokenPipeError:
        raise typer.Exit from None
    except Exception:
        if debug:
            traceback.print_exc()
        raise
