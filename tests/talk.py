"""A chat over lines in the test's own process, with a real engine or a small one of the test's."""

from __future__ import annotations

import io
from pathlib import Path

from tests.conftest import ROOT
from valley_cli.api import Engine, MediaLimits
from valley_cli.chat.attach import Attacher
from valley_cli.chat.lines import converse
from valley_cli.chat.opening import Opening
from valley_cli.chat.session import Session
from valley_cli.chat.store import Autosave
from valley_cli.engine import open_engine
from valley_cli.settings import Settings, load_settings
from valley_cli.terminal.render import Renderer, StatusLine

EXAMPLES = ROOT / "examples"
STAR, SHAPES, RING = (str(EXAMPLES / f"{name}.png") for name in ("star", "shapes", "ring"))
MOVING = str(EXAMPLES / "moving.mp4")


class Talk:
    """What is said on stdout and stderr is kept; ``saved`` is where the conversation saves itself."""

    def __init__(self, engine: Engine, saved: Path, *, as_json: bool = False, **options: object) -> None:
        settings = load_settings(options, environ={})
        self.out, self.err = io.StringIO(), io.StringIO()
        status = StatusLine(self.err)
        self.session = Session(
            settings=settings,
            opening=Opening(lambda: engine),
            renderer=Renderer(self.out, status, as_json, err=self.err),
            attacher=Attacher(MediaLimits(), status.stage, lambda note: self.session.tell(note)),
            autosave=Autosave(saved),
            reopen=reopen,
        )

    def say(self, *lines: str) -> str:
        """Send ``lines``; the answers to them."""
        before = len(self.out.getvalue())
        converse(self.session, io.BytesIO("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")))
        return self.out.getvalue()[before:].rstrip("\n")

    def told(self, *lines: str) -> str:
        """Send ``lines``; what stderr says to them."""
        before = len(self.err.getvalue())
        self.say(*lines)
        return self.err.getvalue()[before:]

    @property
    def questions(self) -> list[str]:
        return [exchange.question for exchange in self.session.conversation.exchanges]


def reopen(settings: Settings) -> Opening:
    """Another engine, for /model."""
    return Opening(lambda: open_engine(settings.engine_options()))
