"""Entry point: runs the app and is the only place that turns a ValleyError into text and an exit code."""

from __future__ import annotations

import os
import sys

from valley_cli.errors import EXIT_INTERRUPTED, ValleyError


def main(args: list[str] | None = None) -> None:
    """Run ``valley`` with ``args`` (default: the process's own) and exit."""
    from valley_cli.app import build_app

    code: int | str | None = 0
    try:
        build_app()(args=args, prog_name="valley")
    except SystemExit as stop:  # how the app ends, well or not
        code = stop.code
    except ValleyError as error:
        if _debugging():
            raise
        code = report(error)
    except BrokenPipeError:  # whoever read our output has gone: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except Exception as error:
        if _debugging():
            raise
        code = report_bug(error)
    if code == EXIT_INTERRUPTED:  # the engine's thread may be in the middle of something long
        flush()
        os._exit(EXIT_INTERRUPTED)
    sys.exit(code)


def report(error: ValleyError) -> int:
    """Print the message and what to type next to stderr; the exit code."""
    sys.stderr.write(f"valley: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"  {error.hint}\n")
    return error.exit_code


def report_bug(error: Exception) -> int:
    """An error nobody foresaw: one line, and how to see the rest."""
    from valley_cli.text import printable

    sys.stderr.write(f"valley: unexpected {type(error).__name__}: {printable(str(error))}\n")
    sys.stderr.write("  run the same command with --debug for the traceback\n")
    return 1


def flush() -> None:
    """Send what is buffered; a closed pipe is no error here."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            continue


def _debugging() -> bool:
    return "--debug" in sys.argv or os.environ.get("VALLEY_DEBUG", "") not in ("", "0", "false")


if __name__ == "__main__":
    main()
