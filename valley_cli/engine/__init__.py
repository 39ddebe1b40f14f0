"""The one door to the engines: ``open_engine``. The chosen engine is imported inside."""

from __future__ import annotations

from valley_cli.api import Engine, EngineOptions, OnStage, unheard
from valley_cli.errors import UsageError, option


def open_engine(options: EngineOptions, on_stage: OnStage = unheard) -> Engine:
    """An engine for ``options.model``; the model itself is loaded when it is first needed, or at ``Engine.load``.
    ``on_stage`` hears of a download.

    Raises ModelError for models that cannot be found, UsageError for engines that do not exist.
    """
    if options.engine != "local":
        raise UsageError(f"unknown engine {options.engine!r}", f"give {option('engine')} local")
    from valley_cli.engine.local import open_local

    return open_local(options, on_stage)
