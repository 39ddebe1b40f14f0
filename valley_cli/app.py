"""The command table and the group that imports a command only when it is run."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from valley_cli import __version__
from valley_cli.errors import UsageError

COMMANDS = {
    "describe": "Say what is in one or more pictures.",
    "chat": "Talk about pictures.",
    "video": "Say what happens in a clip.",
    "batch": "Answer many requests: JSON lines in and out.",
    "bench": "Measure a model on this machine.",
}


class LazyGroup(TyperGroup):
    """Lists ``COMMANDS`` without importing them: root help stays cheap."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        if name is None:
            return None, None, rest
        check_working_folder()
        module = import_module(f"valley_cli.commands.{name}")
        command = typer.main.get_command(module.app)
        command.name = name
        return name, command, rest


def build_app() -> Any:
    """The root command."""
    app = typer.Typer(
        cls=LazyGroup,
        rich_markup_mode=None,
        add_completion=True,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    return typer.main.get_command(app)


def check_working_folder() -> None:
    """Raises UsageError where it was deleted: torch would end the process there, without naming the reason."""
    try:
        os.getcwd()
    except OSError:
        raise UsageError("the working folder is gone", "cd to another one and run the command again") from None


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        sys.stdout.write(f"valley {__version__}\n")
        raise typer.Exit


def root(
    version: bool = typer.Option(False, "--version", callback=show_version, is_eager=True, help="Show the version."),
) -> None:
    """Ask ByteDance's Valley vision-language models about pictures, on your own machine."""
