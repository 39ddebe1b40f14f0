"""The input line on a terminal: prompt_toolkit with our keys, history, completion and a bar below."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER, EditingMode
from prompt_toolkit.filters import has_focus, is_searching
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.output.color_depth import ColorDepth

from valley_cli.chat.complete import complete
from valley_cli.chat.slash import is_open_block
from valley_cli.chat.store import make_private

PROMPT, CONTINUED = "> ", ". "


class Editor:
    """Reads one message at a time. What it shows goes to stderr, so that stdout holds answers only.

    ``bar`` is the line below; ``attached`` the names that Tab offers for /detach. Both are asked again and again.
    ``on_shown`` is called whenever the line has been drawn.
    """

    def __init__(
        self,
        history: Path,
        *,
        bar: Callable[[], str],
        attached: Callable[[], list[str]],
        on_shown: Callable[[], None],
        colour: bool = True,
    ) -> None:
        self._block = False  # a message of several lines without marks is being read
        self._session: PromptSession[str] = PromptSession(
            history=open_history(history),
            completer=_Completer(attached),
            complete_while_typing=False,
            complete_in_thread=False,
            multiline=True,  # our own keys say when a message ends
            key_bindings=self._keys(),
            enable_open_in_editor=True,
            enable_suspend=True,
            prompt_continuation=CONTINUED,
            bottom_toolbar=(lambda: bar() or None),
            output=create_output(sys.stderr),
            color_depth=None if colour else ColorDepth.DEPTH_1_BIT,
            reserve_space_for_menu=4,
        )
        self._session.app.after_render += lambda app: on_shown()

    def read(self, prompt: str, draft: str, *, vi: bool) -> str:
        """The next message. Raises EOFError when the user leaves."""
        self._session.editing_mode = EditingMode.VI if vi else EditingMode.EMACS
        return self._session.prompt(prompt, default=draft)

    def read_block(self) -> str:
        """A message of several lines, ended with Alt-Enter or Ctrl-D."""
        self._block = True
        try:
            return self._session.prompt(CONTINUED, default="").strip()
        except EOFError:
            return ""
        finally:
            self._block = False

    def confirm(self, question: str) -> bool:
        """Yes or no; no, if anything else is typed."""
        try:
            answer: str = PromptSession[str](output=create_output(sys.stderr)).prompt(f"{question} [y/N] ")
        except (EOFError, KeyboardInterrupt):
            return False
        return answer.strip().lower() in ("y", "yes")

    def refresh(self) -> None:
        """Draw the bar again; from any thread."""
        self._session.app.invalidate()

    def fail(self, error: BaseException) -> None:
        """End the reading with ``error``; from any thread."""
        app = self._session.app
        if app.loop is not None and app.is_running:
            app.loop.call_soon_threadsafe(lambda: app.exit(exception=error) if app.is_running else None)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        typing = has_focus(DEFAULT_BUFFER) & ~is_searching

        @keys.add("enter", filter=typing)
        def _enter(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if self._block or is_open_block(buffer.text):
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter", filter=typing)
        @keys.add("escape", "c-j", filter=typing)
        def _alt_enter(event: KeyPressEvent) -> None:
            if self._block:
                event.current_buffer.validate_and_handle()
            else:
                event.current_buffer.insert_text("\n")

        @keys.add("c-c", filter=typing)
        def _interrupt(event: KeyPressEvent) -> None:
            if event.current_buffer.text:
                event.current_buffer.reset()
            else:
                event.app.exit(exception=EOFError)

        @keys.add("c-d", filter=typing)
        def _end(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if self._block:
                buffer.validate_and_handle()
            elif buffer.text:
                buffer.delete()
            else:
                event.app.exit(exception=EOFError)

        return keys


class _Completer(Completer):
    def __init__(self, attached: Callable[[], list[str]]) -> None:
        self._attached = attached

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        for text, n_replaced in complete(document.text_before_cursor, self._attached()):
            yield Completion(text, start_position=-n_replaced)


class _PatientHistory(FileHistory):
    """A history that goes on in memory when its file cannot be written."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)

    def load_history_strings(self) -> Iterable[str]:
        try:
            yield from super().load_history_strings()
        except OSError:
            return


def open_history(path: Path) -> History:
    """The history in ``path``, readable by this user only; one in memory where that cannot be."""
    try:
        make_private(path.parent)
        path.touch(mode=0o600)
        return _PatientHistory(str(path))
    except OSError:
        return InMemoryHistory()
