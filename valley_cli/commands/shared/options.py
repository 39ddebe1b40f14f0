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
from valley_cli.settings import load_settings
from valley_cli.text import printable

Model = Annotated[str | None, typer.Option("--model", "-m", help="A name, a hub id or a folder.", show_default="auto")]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="The question; @FILE reads it, - is stdin.")]
System = Annotated[str | None, typer.Option("--system", "-s", help="System prompt; @FILE reads it.")]
MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", help="Longest answer, in tokens.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="0 takes the likeliest token.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Sample from the likeliest tokens of this total mass.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Sample from this many likeliest tokens; 0: all.")]
RepetitionPenalty = Annotated[
    float | None, typer.Option("--repetition-penalty", help="Above 1: tokens already seen become less likely.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Makes sampling repeatable.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End the answer before this text; repeatable.")]
MinPixels = Annotated[int | None, typer.Option("--min-pixels", help="Scale smaller pictures up to this many pixels.")]
MaxPixels = Annotated[int | None, typer.Option("--max-pixels", help="Scale larger pictures down to this many pixels.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N.", show_default="auto")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.", show_default="auto")]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit on the hub.")]
Offline = Annotated[bool | None, typer.Option("--offline", help="Use downloaded models only.", show_default=False)]
Think = Annotated[
    bool | None, typer.Option("--think/--no-think", help="Let Valley2.5 think first (on stderr).", show_default=False)
]
Flavour = Annotated[
    str | None, typer.Option("--flavour", help="Published code to follow: hf or github.", show_default="hf")
]
Exact = Annotated[
    bool | None, typer.Option("--exact", help="Nothing but what the published code does.", show_default=False)
]
Json = Annotated[bool | None, typer.Option("--json", help="One JSON object instead of text.", show_default=False)]
Stats = Annotated[bool | None, typer.Option("--stats", help="Times, tokens and memory on stderr.", show_default=False)]
Preview = Annotated[
    bool | None, typer.Option("--preview", help="Show what is looked at in the terminal.", show_default=False)
]
Output = Annotated[str | None, typer.Option("--output", "-o", help="Write the answer to this file.")]
Force = Annotated[bool, typer.Option("--force", help="Let -o overwrite a file.")]
Quiet = Annotated[bool | None, typer.Option("--quiet", "-q", help="Only the answer and errors.", show_default=False)]
Verbose = Annotated[
    bool | None, typer.Option("--verbose", "-v", help="Name the stages in a pipe too.", show_default=False)
]
Debug = Annotated[bool | None, typer.Option("--debug", help="Show the traceback of an error.", show_default=False)]
NoColor = Annotated[bool | None, typer.Option("--no-color", help="No colours.", show_default=False)]

ENGINE: dict[str, Any] = {"device": Device, "dtype": Dtype, "revision": Revision, "offline": Offline}
ANSWER: dict[str, Any] = {
    "model": Model,
    "system": System,
    "max_new_tokens": MaxNewTokens,
    "temperature": Temperature,
    "top_p": TopP,
    "top_k": TopK,
    "repetition_penalty": RepetitionPenalty,
    "seed": Seed,
    "stop": Stop,
    "min_pixels": MinPixels,
    "max_pixels": MaxPixels,
    "think": Think,
    "flavour": Flavour,
    "exact": Exact,
    **ENGINE,
}
SCREEN: dict[str, Any] = {
    "preview": Preview,
    "json": Json,
    "stats": Stats,
    "quiet": Quiet,
    "verbose": Verbose,
    "no_color": NoColor,
    "debug": Debug,
}


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
