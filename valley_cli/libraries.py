"""A library that is here in a version this program does not know is told as that, never as a damaged file.

Standard library only.
"""

from __future__ import annotations

import re
import traceback
from importlib import metadata
from types import ModuleType

from valley_cli.errors import LibraryError
from valley_cli.text import printable

_OURS = __name__.partition(".")[0]
_DISTRIBUTIONS = {"PIL": "pillow"}  # where it is not the module's name
_SAID = 200  # characters of the library's own words
_ARGUMENTS = re.compile(r"keyword argument|positional argument|takes (?:no|at (?:most|least)|exactly) ")


def misfit(error: BaseException, module: str) -> LibraryError | None:
    """``error``, raised by a step that uses the library ``module``, if it says that a name or an argument which we use
    is not there; None for whatever else the library raises, about a damaged file for instance."""
    if not (isinstance(error, ImportError) or _lacks_a_name(error, module) or _lacks_an_argument(error)):
        return None
    name = _DISTRIBUTIONS.get(module, module)
    wanted = required(name)
    works = f", which works with {wanted}" if wanted else ""
    said = f"{name} {installed(name)} does not fit this valley{works} ({printable(str(error))[:_SAID]})"
    found = LibraryError(said, f"pip install '{wanted or name}'")
    found.__cause__ = error
    return found


def installed(name: str) -> str:
    """The version of a distribution that is installed, "(no version)" where nothing says."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(no version)"


def required(name: str) -> str | None:
    """What this program requires of a distribution, as ``av>=18,<20``; None where it runs without being installed."""
    try:
        lines = metadata.requires("valley-cli") or []
    except metadata.PackageNotFoundError:
        return None
    specifiers = (line.partition(";")[0].strip() for line in lines if "extra ==" not in line)
    return next((found for found in specifiers if re.match(rf"{re.escape(name)}\b(?![.-])", found, re.I)), None)


def _lacks_a_name(error: BaseException, module: str) -> bool:
    if not isinstance(error, AttributeError) or _frames_below_ours(error) > 0:
        return False
    owner = error.obj
    home = owner.__name__ if isinstance(owner, ModuleType) else getattr(owner, "__module__", type(owner).__module__)
    return str(home).partition(".")[0] == module


def _lacks_an_argument(error: BaseException) -> bool:
    """Compiled functions have a frame of their own, in which their arguments are looked at."""
    return isinstance(error, TypeError) and bool(_ARGUMENTS.search(str(error))) and _frames_below_ours(error) <= 1


def _frames_below_ours(error: BaseException) -> int:
    """Calls between our last frame and the place where ``error`` was raised."""
    homes = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [place for place, home in enumerate(homes) if home.partition(".")[0] == _OURS]
    return len(homes) - 1 - ours[-1] if ours else len(homes)
