"""A chat that is going on: asks the engine, shows and keeps what it says. Knows nothing of keys and lines."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from valley_cli.api import Done, Engine, Request, answering
from valley_cli.chat.attach import Attacher
from valley_cli.chat.conversation import Conversation, from_messages
from valley_cli.chat.opening import Opening
from valley_cli.chat.room import check_room
from valley_cli.chat.store import Autosave
from valley_cli.errors import UsageError, ValleyError
from valley_cli.settings import ANSWER_KEYS, Settings, as_flags, override
from valley_cli.sources.transcript import OpenSource, Transcript, read_transcript, write_transcript
from valley_cli.terminal.render import Renderer, Reply, error_record, safe_text, say
from valley_cli.text import printable


@dataclass
class Session:
    """The state of a chat. ``draft`` is put on the next input line. ``reopen`` opens an engine for other settings.

    ``confirm`` asks a yes-or-no question and ``read_block`` reads a message of several lines; both are None where
    nobody sits at a keyboard. ``while_answering`` is entered around every answer.
    """

    settings: Settings
    opening: Opening
    renderer: Renderer
    attacher: Attacher
    autosave: Autosave
    reopen: Callable[[Settings], Opening]
    confirm: Callable[[str], bool] | None = None
    read_block: Callable[[], str] | None = None
    while_answering: Callable[[], AbstractContextManager[None]] = nullcontext
    conversation: Conversation = field(default_factory=Conversation)
    draft: str = ""
    done: Done | None = None  # how the last answer went
    context_tokens: int = 0
    has_answered: bool = False  # so the model is loaded
    over: bool = False  # the user wants to leave
    exit_code: int = 0
    own_files: set[str] = field(default_factory=set)  # what /save wrote and /load read: may be written again
    _noticed: str | None = None
    _unsaved: str | None = None  # why the last save failed, said once

    def tell(self, text: str) -> None:
        """Lines on stderr, without control characters: some of it comes out of files and models."""
        self.renderer.status.clear()
        say(self.renderer.err, f"{safe_text(as_flags(text))}\n")

    def report(self, error: Exception) -> None:
        """An error that does not end the chat."""
        if self.settings.debug:
            traceback.print_exception(error)
        known = error if isinstance(error, ValleyError) else _unexpected(error)
        self.exit_code = max(self.exit_code, known.exit_code)
        hint = f"\n  {known.hint}" if known.hint else ""
        self.tell(f"valley: {known.message}{hint}")
        if self.renderer.as_json:
            self.renderer.write_json(error_record(known, [item.name for item in self.conversation.attachments]))

    def engine(self) -> Engine:
        """The engine, once it is here; what a user must know about it is said once."""
        engine = self.opening.result()
        notice = engine.about.notice
        if notice and notice != self._noticed and not self.renderer.quiet:
            self.tell(notice)
        self._noticed = notice
        return engine

    def request(self, conversation: Conversation) -> Request:
        """What is sent for the conversation's last question."""
        return self.settings.request(conversation.to_send())

    def ask(self, question: str) -> None:
        """Ask, and keep the answer. A question that is not sent goes back to the input line."""
        self.draft = question
        with self.while_answering():
            self._send(self.conversation.asked(question))

    def regenerate(self) -> None:
        """Ask the last question again; its old answer stays until a new one comes. Raises UsageError without one."""
        if self.conversation.last is None:
            raise UsageError("nothing was asked yet")
        before = self.conversation
        try:
            with self.while_answering():
                self._send(before.answered(None))
        finally:
            if before.is_answered and not self.conversation.is_answered:
                self.conversation = before
                self.save()

    def _send(self, asked: Conversation) -> None:
        """Answer the last question of ``asked``; what was said is kept, however it ends.

        Raises ValleyError, KeyboardInterrupt.
        """
        engine = self.engine()
        cost, remark = check_room(engine, asked, self.request)
        self.context_tokens = cost.context_tokens if cost else engine.about.context_tokens or 0
        if remark:
            self.tell(f"({remark})")
        self.draft = ""
        self.conversation = asked
        self.save()
        reply = Reply()
        try:
            self._stream(engine, self.request(asked), reply)
        finally:
            if reply.text or reply.done:
                self.has_answered = True
                self.conversation = asked.answered("".join(reply.text))
                self.save()

    def _stream(self, engine: Engine, request: Request, reply: Reply) -> None:
        names = [item.name for item in self.conversation.attachments]
        with answering(engine, request) as events:
            try:
                self.renderer.show(events, reply)
            except KeyboardInterrupt:
                self.renderer.finish(reply, names, engine)
                raise
        self.done = reply.done
        self.renderer.finish(reply, names, engine)

    def start_anew(self, conversation: Conversation) -> None:
        """Go on with another conversation; the one so far stays as it was saved."""
        self.conversation = conversation
        self.autosave = self.autosave.another()
        self.own_files.clear()
        self.save()

    def transcript(self) -> Transcript:
        """The conversation for a file, with the options that were set for it."""
        given = [name for name in ANSWER_KEYS if name in self.settings.origins]
        options = {name: value for name in given if (value := getattr(self.settings, name)) is not None}
        return Transcript(self.conversation.to_save(), self.model, options)

    @property
    def model(self) -> str | None:
        """The name by which the model can be had again; None while ``auto`` has not chosen yet."""
        name, engine = self.settings.model, self.opening.engine
        if name == "auto":
            return engine.about.name if engine else None
        return os.path.abspath(name) if os.path.isdir(name) else name

    def save(self) -> None:
        """Save the conversation by itself; why that failed is said once, and is no reason to stop."""
        if not self.conversation.exchanges:
            return
        try:
            self.autosave.save(write_transcript(self.transcript()))
            self._unsaved = None
        except ValleyError as error:
            if error.message != self._unsaved:
                self.tell(f"valley: {error.message}")
            self._unsaved = error.message

    def take_up(self, found: object, name: str, open_source: OpenSource) -> Transcript:
        """Go on with the conversation in a parsed file. Pictures that are gone are named; the model does not see them.

        Options that were given as flags stay. Raises UsageError or SourceError; then nothing has changed.
        """
        try:
            transcript = read_transcript(found, open_source)
            held = [self.attacher.hold_if_there(item) for message in transcript.messages for item in message.media]
            conversation = from_messages(transcript.messages, [attachment for attachment, _ in held])
        except UsageError as error:
            raise error.placed(name) from None
        flags = {key for key, origin in self.settings.origins.items() if origin.startswith("--")}
        options = {key: value for key, value in transcript.options.items() if key not in flags}
        self.settings = override(self.settings, options, lambda key: f"{name}: {key}")
        self.conversation = conversation
        for _, gone in held:
            if gone:
                self.tell(f"valley: {gone.message}; the model does not see it any more")
        return transcript


def _unexpected(error: Exception) -> ValleyError:
    text = f"unexpected {type(error).__name__}: {printable(str(error))}"
    return ValleyError(text, "with --debug the traceback is shown")
