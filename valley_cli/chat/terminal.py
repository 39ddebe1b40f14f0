"""A chat on a terminal: the line editor, what is shown while the model loads, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valley_cli.chat.editor import PROMPT, Editor
from valley_cli.chat.session import Session
from valley_cli.chat.slash import attempt
from valley_cli.chat.slash_media import show
from valley_cli.chat.stages import Stages, bar
from valley_cli.terminal.render import wants_colour

GREETING = "/help lists the commands; Ctrl-D leaves."
UNANSWERED = "(not answered; /regen asks again)"
LAST_WORDS = 300  # characters of the last answer shown when a conversation is taken up again


def converse(session: Session, stages: Stages, history: Path) -> int:
    """Read and answer until the user leaves; the exit code. Raises ValleyError if there is no engine to talk to."""
    editor = Editor(
        history,
        bar=lambda: bar(session, stages),
        attached=lambda: [item.name for item in session.conversation.attachments],
        on_shown=lambda: session.opening.start(),  # not before: imports would keep the line from being drawn
        colour=wants_colour(session.renderer.err, session.settings.no_color),
    )
    session.confirm, session.read_block, session.while_answering = editor.confirm, editor.read_block, keys_kept_back
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # the terminal is put right on the way out
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    session.opening.on_end = lambda: _opened(session, editor, stages)
    _recall(session)
    while True:
        draft, session.draft = session.draft, ""
        stages.refresh = editor.refresh
        try:
            line = editor.read(_prompt(session), draft, vi=session.settings.editing_mode == "vi")
        except EOFError:
            return 0
        finally:
            stages.refresh = None
        if not _attempt(session, line):
            return 0


@contextmanager
def keys_kept_back() -> Iterator[None]:
    """While an answer is printed, keys are not echoed into it; they wait for the next line. Ctrl-C works."""
    if sys.platform == "win32":
        yield
        return
    import termios

    try:
        before = termios.tcgetattr(sys.stdin)
    except termios.error:  # the terminal is gone
        yield
        return
    quiet = list(before)
    quiet[0] &= ~termios.ICRNL  # Enter stays what the line editor takes for Enter
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _attempt(session: Session, line: str) -> bool:
    """Whether the conversation goes on after ``line``; Ctrl-C ends only what it led to."""
    before = session.conversation
    try:
        goes_on = attempt(session, line)
    except KeyboardInterrupt:
        session.tell("(stopped)")
        goes_on = True
    now = session.conversation
    if goes_on and now is not before and now.last and not now.is_answered:
        session.tell(UNANSWERED)
    return goes_on


def _opened(session: Session, editor: Editor, stages: Stages) -> None:
    stages.current = None if session.opening.error else stages.current
    if session.opening.error:
        editor.fail(session.opening.error)
    else:
        editor.refresh()


def _prompt(session: Session) -> str:
    n = len(session.conversation.pending)
    return f"[{n} attached] {PROMPT}" if n else PROMPT


def _recall(session: Session) -> None:
    """Where a conversation that is taken up again had come to, or how to begin one; what is attached."""
    if session.renderer.quiet:
        return
    last = session.conversation.last
    if last is None:
        session.tell(GREETING)
    else:
        answer = last.answer if last.answer is not None else UNANSWERED
        shown = answer if len(answer) <= LAST_WORDS else f"... {answer[-LAST_WORDS:]}"
        session.tell(f"going on after {session.conversation.length_text}\n> {last.question}\n{shown}")
    show(session, session.conversation.pending)
