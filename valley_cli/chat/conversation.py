"""A conversation as a value: every change gives a new one, so that a turn that fails leaves the old one as it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from valley_cli.api import Media, Message
from valley_cli.errors import UsageError


@dataclass(frozen=True)
class Attachment:
    """A picture or clip of the conversation.

    ``source`` is what was named: it goes into files. ``held`` is the same with its bytes, read once, so that no later
    turn depends on the file or the address; None where it could not be read, and then the model does not see it.
    """

    source: Media
    held: Media | None

    @property
    def name(self) -> str:
        return self.source.name


@dataclass(frozen=True)
class Exchange:
    """A question with what was attached to it, and its answer; None: not answered yet, or nothing was said."""

    question: str
    attachments: tuple[Attachment, ...] = ()
    answer: str | None = None


@dataclass(frozen=True)
class Conversation:
    """Only the last exchange may be without an answer. ``pending``: attached to the question that comes next."""

    system: str | None = None
    exchanges: tuple[Exchange, ...] = ()
    pending: tuple[Attachment, ...] = ()

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """Everything attached, in the order in which the model sees it."""
        return (*(item for exchange in self.exchanges for item in exchange.attachments), *self.pending)

    @property
    def length_text(self) -> str:
        """``1 question``, ``3 questions``"""
        n = len(self.exchanges)
        return f"{n} question{'' if n == 1 else 's'}"

    @property
    def last(self) -> Exchange | None:
        return self.exchanges[-1] if self.exchanges else None

    @property
    def is_answered(self) -> bool:
        """Whether there is a last exchange and it has its answer."""
        return self.last is not None and self.last.answer is not None

    def attached(self, more: Iterable[Attachment]) -> Conversation:
        """``more`` goes with the next question."""
        return replace(self, pending=(*self.pending, *more))

    def asked(self, question: str) -> Conversation:
        """With a question more; it takes the place of one that got no answer, and what was attached to that."""
        base = self if self.is_answered or self.last is None else self.undone()
        exchange = Exchange(question, _pictures_first(base.pending))
        return replace(base, exchanges=(*base.exchanges, exchange), pending=())

    def answered(self, answer: str | None) -> Conversation:
        """The last question with this answer."""
        *earlier, last = self.exchanges
        return replace(self, exchanges=(*earlier, replace(last, answer=answer)))

    def undone(self) -> Conversation:
        """Without the last question and its answer; what was attached to it goes with the next question."""
        *earlier, last = self.exchanges
        return replace(self, exchanges=tuple(earlier), pending=(*last.attachments, *self.pending))

    def cleared(self) -> Conversation:
        """Nothing but the system prompt."""
        return Conversation(self.system)

    def without(self, items: Iterable[Attachment]) -> Conversation:
        """Without ``items``, wherever they are attached."""
        gone = list(items)

        def kept(attachments: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
            return tuple(item for item in attachments if not any(item is other for other in gone))

        exchanges = tuple(replace(exchange, attachments=kept(exchange.attachments)) for exchange in self.exchanges)
        return replace(self, exchanges=exchanges, pending=kept(self.pending))

    def to_send(self) -> tuple[Message, ...]:
        """The messages for the engine, with the bytes of what is attached."""
        return self._messages([item.held for item in self.attachments])

    def to_save(self) -> tuple[Message, ...]:
        """The messages for a file, with the names of what is attached."""
        return self._messages([item.source for item in self.attachments])

    def _messages(self, handles: list[Media | None]) -> tuple[Message, ...]:
        rest = iter(handles)
        messages = [Message("system", self.system)] if self.system is not None else []
        for exchange in self.exchanges:
            media = tuple(handle for _, handle in zip(exchange.attachments, rest, strict=False) if handle)
            messages.append(Message("user", exchange.question, media))
            if exchange.answer is not None:
                messages.append(Message("assistant", exchange.answer, places=()))  # the model writes text only
        return tuple(messages)


def from_messages(messages: Iterable[Message], attachments: Iterable[Attachment]) -> Conversation:
    """The conversation that ``messages`` are; ``attachments`` belong to their media, one each, in order.

    Raises UsageError for messages that do not take turns.
    """
    rest, system, exchanges = iter(attachments), None, list[Exchange]()
    for index, message in enumerate(messages):
        items = tuple(next(rest) for _ in message.media)
        answers = message.role == "assistant" and exchanges and exchanges[-1].answer is None and not items
        if message.role == "system" and index == 0 and not items:
            system = message.content
        elif message.role == "user" and (not exchanges or exchanges[-1].answer is not None):
            exchanges.append(Exchange(message.content, items))
        elif answers:
            exchanges[-1] = replace(exchanges[-1], answer=message.content)
        else:
            raise UsageError(
                f"messages[{index}] is the {message.role}'s, out of turn",
                "user and assistant take turns, the user first; pictures belong to the user's messages",
            )
    return Conversation(system, tuple(exchanges))


def _pictures_first(items: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
    """The order in which files name them, so that a loaded conversation is the one that was saved."""
    return tuple(sorted(items, key=lambda item: item.source.kind == "video"))
