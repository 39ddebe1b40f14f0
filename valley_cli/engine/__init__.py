"""The one door to the engines: ``open_engine``. The chosen engine is imported inside."""

from __future__ import annotations

from valley_cli.engine.base import Engine, EngineOptions
from valley_cli.errors import UsageError


def open_engine(options: EngineOptions, *, start: bool = False) -> Engine:
    """An engine for ``options.model``; the model itself is loaded when it is first needed, with ``start`` from now on.

    Raises ModelError for models that cannot be found, UsageError for engines that do not exist.
    """
    if options.engine != "local":
        raise UsageError(f"unknown engine {options.engine!r}", "give --engine local")
    from valley_cli.engine.local import open_local

    engine = open_local(options)
    if start:
        engine.start()
    return engine
