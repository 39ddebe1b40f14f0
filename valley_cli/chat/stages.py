"""What is going on, where it can be seen: on the status line, or below the input line while somebody types."""

from __future__ import annotations

import threading
from collections.abc import Callable

from valley_cli.api import Stage
from valley_cli.chat.session import Session
from valley_cli.terminal.render import StatusLine, stage_text


class Stages:
    """Where stages are shown: on the status line, or below the input line while somebody types.

    ``current`` is what goes on in the background: the model on its way.
    """

    def __init__(self, status: StatusLine) -> None:
        self.status = status
        self.refresh: Callable[[], None] | None = None  # set while somebody types
        self.current: Stage | None = None

    def __call__(self, stage: Stage) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.current = None if stage.total and stage.done >= stage.total else stage
        if self.refresh:
            self.refresh()
        else:
            self.status.stage(stage)


def bar(session: Session, stages: Stages) -> str:
    """The line below the input: what is loading; then the model, and how full its context is."""
    engine = session.opening.engine
    if stages.current and not session.has_answered:
        return stage_text(stages.current)
    if engine is None:
        return "starting ..."
    used = session.done.usage if session.done else None
    context = f" · {used.prompt_tokens + used.completion_tokens} of {session.context_tokens} tokens" if used else ""
    return f"{engine.about.name}{context}"
