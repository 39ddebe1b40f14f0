"""/save, /load, /edit and /copy: what goes out of the conversation and comes into it."""

from __future__ import annotations

import base64
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from valley_cli.chat.attach import sources_of_file, split_words
from valley_cli.chat.session import Session
from valley_cli.chat.store import read_json, save_as
from valley_cli.errors import UsageError, ValleyError
from valley_cli.sources.transcript import write_transcript
from valley_cli.terminal.render import is_terminal, say
from valley_cli.text import printable

COPY_TIMEOUT_S = 5
OSC52_LIMIT_BYTES = 74_994  # what xterm takes; others take more


def save(session: Session, rest: str) -> None:
    """/save [--force] FILE. Files that this chat did not write or read are overwritten only when that is asked for."""
    words = split_words(rest)
    force = "--force" in words
    words = [word for word in words if word != "--force"]
    if len(words) != 1:
        raise UsageError("/save needs the name of one file", "/save chat.json")
    path = os.path.expanduser(words[0])
    shown, own = printable(words[0]), os.path.realpath(path) in session.own_files
    if not (force or own) and os.path.isfile(path) and session.confirm:
        if not session.confirm(f"{shown} exists. Overwrite it?"):
            session.tell("not saved")
            return
        force = True
    save_as(path, write_transcript(session.transcript()), may_replace=force or own)
    session.own_files.add(os.path.realpath(path))
    session.tell(f"saved {shown}")


def load(session: Session, rest: str) -> None:
    """/load FILE. Raises SourceError or UsageError; then the conversation is what it was."""
    words = split_words(rest)
    if len(words) != 1:
        raise UsageError("/load needs the name of one file", "/load chat.json")
    path = os.path.expanduser(words[0])
    open_source = sources_of_file(path, session.attacher.limits, typed=False)
    transcript = session.take_up(read_json(path), printable(words[0]), open_source)
    session.start_anew(session.conversation)  # the one so far stays as it was saved
    session.own_files.add(os.path.realpath(path))
    session.tell(f"going on after {session.conversation.length_text}")
    if transcript.model and transcript.model != session.model:
        name = printable(transcript.model)
        session.tell(f"it was held with {name}; /model {name} changes to it")


def edit(session: Session, rest: str) -> None:
    """/edit [TEXT]: what is saved in the editor is asked; nothing, if it is left empty."""
    if session.read_block is None:
        raise UsageError("/edit needs a terminal")
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="valley-") as folder:
        path = Path(folder, "message.md")
        path.write_text(rest, encoding="utf-8")
        try:
            code = subprocess.run([*shlex.split(editor), str(path)]).returncode
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or "cannot be run").lower()
            raise UsageError(
                f"the editor {printable(editor)}: {reason}", "set EDITOR, for example EDITOR=nano"
            ) from None
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    if code:
        raise ValleyError(f"{printable(editor)} ended with {code}; nothing is asked")
    if text:
        session.tell(f"> {text}")
        session.ask(text)


def copy(session: Session, rest: str) -> None:
    """/copy: by the desktop's or tmux's own tool, or by the terminal's escape code (OSC 52), which works over ssh."""
    last = next((e.answer for e in reversed(session.conversation.exchanges) if e.answer is not None), None)
    if last is None:
        raise UsageError("nothing was answered yet")
    data = last.rstrip("\n").encode()
    if tool := clipboard_tool():
        try:
            subprocess.run(
                tool,
                input=data,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=COPY_TIMEOUT_S,
                check=True,
            )
            session.tell(f"copied ({len(last)} characters, by {tool[0]})")
            return
        except (OSError, subprocess.SubprocessError):
            pass  # a desktop that is gone: the terminal may still do it
    if not is_terminal(session.renderer.err) or len(data) > OSC52_LIMIT_BYTES:
        raise ValleyError("there is no clipboard to copy to", "/save writes the conversation to a file")
    say(session.renderer.err, f"\x1b]52;c;{base64.b64encode(data).decode()}\x07")
    session.tell(f"copied ({len(last)} characters, if this terminal allows it)")


def clipboard_tool() -> list[str] | None:
    """The command that takes the clipboard's text on its standard input; None where there is none."""
    tools: list[tuple[bool, list[str]]] = [
        (sys.platform == "darwin", ["pbcopy"]),
        (bool(os.environ.get("WAYLAND_DISPLAY")), ["wl-copy"]),
        (bool(os.environ.get("DISPLAY")), ["xclip", "-selection", "clipboard"]),
        (bool(os.environ.get("DISPLAY")), ["xsel", "--clipboard", "--input"]),
        (bool(os.environ.get("TMUX")), ["tmux", "load-buffer", "-w", "-"]),
        (sys.platform == "win32" or "WSL_DISTRO_NAME" in os.environ, ["clip.exe"]),
    ]
    return next((command for there, command in tools if there and shutil.which(command[0])), None)
