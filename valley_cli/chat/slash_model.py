"""/set, /model and /think: how answers are made."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from valley_cli.api import Message, Request
from valley_cli.chat.session import Session
from valley_cli.errors import UsageError, ValleyError
from valley_cli.settings import CHAT_KEYS, FALSE, TRUE, Settings, override


def set_option(session: Session, rest: str) -> None:
    """/set, /set KEY, /set KEY VALUE; the value ``default`` takes a key back to what it is without any setting."""
    key, _, value = rest.partition(" ")
    key, value = key.replace("-", "_"), value.strip()
    if key and key not in CHAT_KEYS:
        raise UsageError(f"/set: there is no option {key}", f"the options are: {', '.join(CHAT_KEYS)}")
    if value and key == "think":
        think(session, value)
    elif value == "default":
        origins = {name: origin for name, origin in session.settings.origins.items() if name != key}
        session.settings = replace(session.settings, **{key: getattr(Settings(), key), "origins": origins})
    elif value:
        session.settings = override(session.settings, {key: value}, lambda name: f"/set {name}")
    session.renderer.stats = session.settings.stats
    session.tell("\n".join(f"{name} = {_shown(session.settings, name)}" for name in ([key] if key else CHAT_KEYS)))


def _shown(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    if value is None or value == ():
        return "(the model's own)" if name == "max_new_tokens" else "(none)"
    if isinstance(value, tuple):
        return ", ".join(map(repr, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def think(session: Session, rest: str) -> None:
    """/think on|off. Raises UsageError for a model that does not think."""
    if rest.lower() not in TRUE + FALSE:
        raise UsageError("/think takes on or off", f"it is {'on' if session.settings.think else 'off'}")
    wanted = rest.lower() in TRUE
    if wanted:
        try:
            session.engine().price(Request((Message("user", "?"),), think=True))
        except UsageError as error:
            raise UsageError(error.message, "/model valley2.5 thinks") from None
    session.settings = override(session.settings, {"think": wanted}, lambda name: "/think")


def model(session: Session, rest: str) -> None:
    """/model NAME: the conversation goes on with another model. Raises ModelError; then the old one stays."""
    if rest:
        settings = override(session.settings, {"model": rest}, lambda name: "/model")
        opening = session.reopen(settings)
        opening.result()
        with suppress(ValleyError):
            session.opening.result().close()
        session.opening, session.settings, session.has_answered = opening, settings, False
    session.tell(f"model: {session.engine().about.name}")
