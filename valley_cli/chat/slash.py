"""The / commands: what they are called, what they say in /help, and which function runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from valley_cli.chat import slash_files, slash_media, slash_model
from valley_cli.chat.attach import dropped_paths
from valley_cli.chat.session import Session
from valley_cli.errors import UsageError
from valley_cli.terminal.render import stats_line

BLOCK = '"""'


@dataclass(frozen=True)
class Command:
    """``run`` gets the session and the rest of the line."""

    usage: str
    summary: str
    run: Callable[[Session, str], None]


def handle(session: Session, line: str) -> None:
    """A line as typed: a command, dropped files, or something to ask.

    Raises ValleyError for what goes wrong, which does not end the conversation.
    """
    name, _, rest = line.strip().partition(" ")
    if name in COMMANDS and not line[:1].isspace():
        COMMANDS[name].run(session, rest.strip())
    elif words := dropped_paths(line):
        slash_media.attach(session, words)
    elif line.startswith("/") and re.fullmatch(r"/[a-z]+", name):
        raise UsageError(f"there is no command {name}", _did_you_mean(name))
    elif line.startswith("/") and "\n" not in line and " " not in line.strip():
        slash_media.attach(session, [line.strip()])  # a dropped file that is not there: say so
    elif text := unquoted(line):
        session.ask(text)


def attempt(session: Session, line: str) -> bool:
    """``handle``, with errors said; whether the conversation goes on. Raises what makes that impossible."""
    try:
        handle(session, line)
    except BrokenPipeError:
        raise
    except Exception as error:
        if session.opening.error:
            raise
        session.report(error)
    return not session.over


def unquoted(line: str) -> str:
    """What stands between the marks of a multi-line message; any other line as it is."""
    text = line.strip()
    if text.startswith(BLOCK):
        text = text.removeprefix(BLOCK).removesuffix(BLOCK)
    return text.strip()


def is_open_block(text: str) -> bool:
    """Whether a multi-line message has begun and not ended."""
    text = text.strip()
    return text.startswith(BLOCK) and not (text.endswith(BLOCK) and len(text) >= 2 * len(BLOCK))


def _did_you_mean(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return (f"did you mean {near[0]}? " if near else "") + "/help lists them; a space in front makes it a question"


def _help(session: Session, rest: str) -> None:
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [f"{command.usage:<{width}}  {command.summary}" for command in COMMANDS.values()]
    session.tell("\n".join([*lines, "", *HELP_KEYS]))


HELP_KEYS = (
    'A path or address dropped on the line is attached. """ begins and ends a message of several lines.',
    "Ctrl-C stops an answer; at an empty line it leaves, as Ctrl-D does.",
)


def _system(session: Session, rest: str) -> None:
    if rest:
        system = None if rest == "-" else unquoted(rest)
        session.conversation = replace(session.conversation, system=system)
        session.save()
    shown = session.conversation.system
    session.tell(f"system prompt: {shown}" if shown is not None else "system prompt: the model's own")


def _clear(session: Session, rest: str) -> None:
    before = session.conversation
    session.start_anew(before.cleared())
    session.tell(f"a new conversation ({before.length_text} and what was attached are kept in the saved one)")


def _undo(session: Session, rest: str) -> None:
    last = session.conversation.last
    if last is None:
        raise UsageError("there is nothing to take back")
    session.conversation = session.conversation.undone()
    session.save()
    session.tell(f"taken back: {last.question}")
    if last.attachments:
        names = ", ".join(item.name for item in last.attachments)
        session.tell(f"{names}: goes with the next question; /detach lets go of it")


def _regen(session: Session, rest: str) -> None:
    session.regenerate()


def _paste(session: Session, rest: str) -> None:
    if session.read_block is None:
        raise UsageError('/paste needs a terminal; here a line of """ begins and ends a message of several lines')
    if text := session.read_block():
        session.ask(text)


def _history(session: Session, rest: str) -> None:
    conversation, lines = session.conversation, []
    if conversation.system is not None:
        lines.append(f"[system] {conversation.system}")
    for exchange in conversation.exchanges:
        lines += [slash_media.label(item) for item in exchange.attachments]
        answer = exchange.answer if exchange.answer is not None else "(not answered; /regen asks again)"
        lines += [f"> {exchange.question}", answer.rstrip("\n")]
    lines += [f"{slash_media.label(item)} (goes with the next question)" for item in conversation.pending]
    session.tell("\n".join(lines) or "nothing was said yet")


def _stats(session: Session, rest: str) -> None:
    if session.done is None:
        raise UsageError("nothing was answered yet")
    session.tell(stats_line(session.done))


def _quit(session: Session, rest: str) -> None:
    session.over = True


COMMANDS = {
    command.usage.split()[0]: command
    for command in (
        Command("/image SRC...", "attach pictures to the next question", slash_media.image),
        Command(
            "/video SRC... [OPTIONS]",
            "attach clips: --frames N, --fps F, --start T, --end T, --at T",
            slash_media.video,
        ),
        Command("/detach [NAME...|all]", "let go of what waits for the next question, or of NAME", slash_media.detach),
        Command("/paste", "a message of several lines, until Alt-Enter or Ctrl-D", _paste),
        Command("/edit [TEXT]", "write a message in $EDITOR", slash_files.edit),
        Command("/system [TEXT|-]", "set, drop or show the system prompt", _system),
        Command(
            "/set [KEY [VALUE]]", "set or show an option, for example /set temperature 0.7", slash_model.set_option
        ),
        Command("/model [NAME]", "change or show the model", slash_model.model),
        Command("/think on|off", "let the model think first", slash_model.think),
        Command("/regen", "ask the last question again", _regen),
        Command("/undo", "take back the last question and its answer", _undo),
        Command("/clear", "begin a new conversation", _clear),
        Command("/history", "show the conversation", _history),
        Command("/stats", "times and tokens of the last answer", _stats),
        Command("/copy", "copy the last answer to the clipboard", slash_files.copy),
        Command(
            "/save [--force] FILE", "save the conversation as JSON, which `valley batch` can replay", slash_files.save
        ),
        Command("/load FILE", "go on with a saved conversation", slash_files.load),
        Command("/help", "this list", _help),
        Command("/quit", "leave", _quit),
    )
}
