"""Option types shared by the commands. None means "not given": the settings decide."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from valley_cli.errors import SourceError, UsageError
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
Output = Annotated[str | None, typer.Option("--output", "-o", help="Write the answer to this file.")]
Force = Annotated[bool, typer.Option("--force", help="Let -o overwrite a file.")]
Quiet = Annotated[bool | None, typer.Option("--quiet", "-q", help="Only the answer and errors.", show_default=False)]
Verbose = Annotated[
    bool | None, typer.Option("--verbose", "-v", help="Name the stages in a pipe too.", show_default=False)
]
Debug = Annotated[bool | None, typer.Option("--debug", help="Show the traceback of an error.", show_default=False)]
NoColor = Annotated[bool | None, typer.Option("--no-color", help="No colours.", show_default=False)]


def read_text(value: str, what: str) -> str:
    """``@FILE`` and ``-`` replaced by what they hold (UTF-8, one final newline dropped); anything else is itself.

    Raises SourceError for files that cannot be read, UsageError for a terminal on stdin.
    """
    if value == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(
                f"{what} - reads standard input, which is a keyboard here", f"pipe the text in: {what} - < FILE"
            )
        data = sys.stdin.buffer.read()
    elif value.startswith("@") and len(value) > 1:
        try:
            data = Path(value[1:]).expanduser().read_bytes()
        except OSError as error:
            raise SourceError(printable(value[1:]), (error.strerror or "cannot be read").lower()) from None
    else:
        return value
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(printable(value), "not UTF-8 text", f"give {what} a text file") from None
    return text.removesuffix("\n").removesuffix("\r")
