"""Entry point: runs the app and is the only place that turns a ValleyError into text and an exit code."""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from valley_cli.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, ValleyError


def main(args: list[str] | None = None) -> None:
    """Run ``valley`` with ``args`` (default: the process's own) and exit."""
    settle_streams()
    greeted = greet(sys.argv[1:] if args is None else args)
    code: int | str | None = 0
    try:
        from valley_cli.app import build_app

        build_app()(args=args, prog_name="valley")
    except SystemExit as stop:  # how the app ends, well or not
        code = stop.code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except ValleyError as error:
        code = report(error)
    except Exception as error:
        code = report_bug(error)
    if code in (
        EXIT_INTERRUPTED,
        EXIT_TERMINATED,
    ):  # at once: the engine's thread may be in the middle of something long
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        tell("\r\x1b[2K" if greeted else "")
        flush()
        os._exit(code)
    flush()
    atexit.register(gc.freeze)  # all memory goes with the process: looking through it first costs 0.4 s after torch
    sys.exit(code)


def settle_streams() -> None:
    """Give closed streams an end that takes nothing, so that no file opened later gets their number.

    Text that a stream's encoding lacks is replaced, never a reason to stop.
    """
    for number, (name, flags) in enumerate((("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))):
        stream = getattr(sys, name)
        if stream is None:  # closed: an answer on stdout then fails, as it should; words on stderr vanish
            nowhere = os.open(os.devnull, flags)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            if number:
                setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        elif number and isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def greet(args: Sequence[str]) -> bool:
    """Show on a terminal, within 50 ms, that something is going on; the command's own words need 100 ms of imports.

    The cursor goes back, so that whatever is printed next stands over it. False where nothing was shown.
    """
    silent = {"-h", "--help", "-q", "--quiet"}.intersection(args) or not args or args[0].startswith("-")
    shown = not silent and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    tell("starting ...\r" if shown else "")
    return shown


def report(error: ValleyError) -> int:
    """Print the message and what to type next to stderr; the exit code."""
    from valley_cli.settings import as_flags

    tell(as_flags(f"valley: {error.message}\n" + (f"  {error.hint}\n" if error.hint else "")))
    return error.exit_code


def report_bug(error: Exception) -> int:
    """An error nobody foresaw: one line, and how to see the rest."""
    from valley_cli.text import printable

    tell(f"valley: unexpected {type(error).__name__}: {printable(str(error))}\n")
    tell("  run the same command with --debug for the traceback\n")
    return 1


def tell(text: str) -> None:
    """Write to stderr, if it can be written to."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def flush() -> None:
    """Send what is buffered; what cannot be sent is dropped, or Python would complain about it at its end."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


if __name__ == "__main__":
    main()
