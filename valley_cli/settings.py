"""Every option's value and where it came from: defaults < config.toml < VALLEY_* variables < flags."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from valley_cli.api import EngineOptions, Flavour, Media, MediaLimits, Message, Request, Sampling
from valley_cli.errors import UsageError, worded

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
Group = Literal["answer", "engine", "screen"]
T = TypeVar("T")
Filled = TypeVar("Filled", Sampling, Request, MediaLimits, EngineOptions)


@dataclass(frozen=True)
class Option:
    """What is declared of an option, beside its name, type and default."""

    help: str = ""
    group: Group | None = None  # the commands that have the flag; None: no flag, config.toml and variables only
    short: str = ""  # the flag's second name, such as -m
    negatable: bool = False  # there is a --no- flag too
    range: tuple[float, float] | None = None  # lowest and highest allowed
    row: bool = False  # a batch's row, a saved conversation and /set may set it, and it is a part of a row's hash
    slash: bool = False  # /set may set it, but no row and no saved conversation
    hashed: bool = False  # it shapes answers, so it is a part of a row's hash, though a row may not set it
    rank: int = 0  # in help, lower ones come first in their group; equal ones stand as they are declared


def option(
    default: T,
    help: str = "",
    *,
    group: Group | None = None,
    short: str = "",
    negatable: bool = False,
    range: tuple[float, float] | None = None,
    row: bool = False,
    slash: bool = False,
    hashed: bool = False,
    rank: int = 0,
) -> T:
    """A field of ``Settings`` with this default; the other arguments are ``Option``'s."""
    declared = Option(help, group, short, negatable, range, row, slash, hashed, rank)
    return field(default=default, metadata={"option": declared})


@dataclass(frozen=True)
class Settings:
    """All options shared by commands, and the guards on media. Each is declared here and nowhere else: the flag, the
    key of config.toml, the VALLEY_* variable, the keys of rows and /set, and the checks of values come of its field.

    A value reaches the engine through the field of the same name (``connect_timeout``: ``connect_timeout_s``) of
    ``Sampling``, ``Request``, ``MediaLimits`` or ``EngineOptions``. The choices of an option are those of its Literal.
    """

    model: str = option("auto", "A name, a hub id or a folder.", group="answer", short="-m")
    system: str | None = option(None, "System prompt; @FILE reads it.", group="answer", short="-s", hashed=True)
    max_new_tokens: int | None = option(
        None, "Longest answer, in tokens.", group="answer", range=(1, 1_000_000), row=True
    )
    temperature: float = option(0.0, "0 takes the likeliest token.", group="answer", range=(0.0, 100.0), row=True)
    top_p: float = option(
        1.0, "Sample from the likeliest tokens of this total mass.", group="answer", range=(1e-6, 1.0), row=True
    )
    top_k: int = option(
        0, "Sample from this many likeliest tokens; 0: all.", group="answer", range=(0, 1_000_000), row=True
    )
    repetition_penalty: float = option(
        1.0, "Above 1: tokens already seen become less likely.", group="answer", range=(1e-3, 100.0), row=True
    )
    seed: int | None = option(None, "Makes sampling repeatable.", group="answer", range=(0, 2**63 - 1), row=True)
    stop: tuple[str, ...] = option((), "End the answer before this text; repeatable.", group="answer", row=True)
    min_pixels: int | None = option(
        None, "Scale smaller pictures up to this many pixels.", group="answer", range=(1, 2**40), row=True
    )
    max_pixels: int | None = option(
        None, "Scale larger pictures down to this many pixels.", group="answer", range=(28 * 28, 2**40), row=True
    )
    device: str = option("auto", "cpu, cuda or cuda:N.", group="engine")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "float32, bfloat16 or float16.", group="engine", hashed=True
    )
    revision: str | None = option(None, "Branch, tag or commit on the hub.", group="engine", hashed=True)
    offline: bool = option(False, "Use downloaded models only.", group="engine")
    think: bool = option(False, "Let Valley2.5 think first (on stderr).", group="answer", negatable=True, row=True)
    flavour: Flavour = option("hf", "Published code to follow: hf or github.", group="answer", row=True)
    exact: bool = option(False, "Nothing but what the published code does.", group="answer", row=True)
    json: bool = option(False, "One JSON object instead of text.", group="screen")
    stats: bool = option(False, "Times, tokens and memory on stderr.", group="screen", slash=True)
    quiet: bool = option(False, "Only the answer and errors.", group="screen", short="-q")
    verbose: bool = option(False, "Name the stages in a pipe too.", group="screen", short="-v")
    log: bool = option(False, "Log what the engine does, with times.", group="screen", short="-vv")
    debug: bool = option(False, "Show the traceback of an error.", group="screen", rank=1)
    no_color: bool = option(False, "No colours.", group="screen")
    preview: bool = option(False, "Show what is looked at in the terminal.", group="screen", slash=True, rank=-1)
    editing_mode: Literal["emacs", "vi"] = option("emacs", slash=True)
    max_image_bytes: int = option(MediaLimits.max_image_bytes, range=(1, 2**40))
    max_image_pixels: int = option(MediaLimits.max_image_pixels, range=(1, 2**40))
    max_redirects: int = option(MediaLimits.max_redirects, range=(0, 20))
    connect_timeout: float = option(MediaLimits.connect_timeout_s, range=(0.001, 3600.0))
    image_timeout: float = option(MediaLimits.image_timeout_s, range=(0.001, 86400.0))
    max_video_bytes: int = option(MediaLimits.max_video_bytes, range=(1, 2**50))
    video_timeout: float = option(MediaLimits.video_timeout_s, range=(0.001, 86400.0))
    clip_timeout: float = option(MediaLimits.clip_timeout_s, range=(0.001, 86400.0))
    max_clip_pixels: int = option(MediaLimits.max_clip_pixels, range=(28 * 28, 2**40))
    retries: int = option(MediaLimits.retries, range=(0, 20))
    origins: Mapping[str, str] = field(default_factory=dict)

    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return self._fill(Sampling)

    def request(self, messages: tuple[Message, ...], images: tuple[Media, ...] = ()) -> Request:
        """``messages`` and ``images``, to be answered as the settings say; ``system`` is the caller's to place."""
        return self._fill(Request, messages=messages, images=images, sampling=self.sampling())

    def engine_options(self) -> EngineOptions:
        """What to run and where, with the guards on media."""
        return self._fill(EngineOptions, limits=self._fill(MediaLimits))

    def _fill(self, kind: type[Filled], **given: Any) -> Filled:
        """A ``kind`` of what is ``given`` and of the options that have a field there: its name, or that and ``_s``."""
        names = {entry.name: entry.name.removesuffix("_s") for entry in fields(kind)}
        return kind(**{name: getattr(self, key) for name, key in names.items() if key in OPTIONS} | given)


def _choices(kind: Any) -> tuple[str, ...]:
    """What the Literal in a type allows; nothing for types without one."""
    parts = get_args(kind)
    return parts if get_origin(kind) is Literal else tuple(choice for part in parts for choice in _choices(part))


# by name, in the order in which they are declared
OPTIONS: Mapping[str, Option] = {
    entry.name: entry.metadata["option"] for entry in fields(Settings) if "option" in entry.metadata
}
TYPES = {entry.name: str(entry.type) for entry in fields(Settings) if entry.name in OPTIONS}
CHOICES = {name: found for name, kind in get_type_hints(Settings).items() if (found := _choices(kind))}
# what a row of a batch or a saved conversation may set for its answers
ANSWER_KEYS = tuple(name for name, declared in OPTIONS.items() if declared.row)
# what /set may set in a chat
CHAT_KEYS = tuple(name for name, declared in OPTIONS.items() if declared.row or declared.slash)
# what makes another answer of the same row
HASHED_KEYS = tuple(name for name, declared in OPTIONS.items() if declared.row or declared.hashed)


def config_path(environ: Mapping[str, str]) -> Path:
    """``$XDG_CONFIG_HOME/valley/config.toml``; a relative $XDG_CONFIG_HOME does not count, as its standard says."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return Path(base, "valley", "config.toml")


def load_settings(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Merge the sources; flags that are None were not given. Raises UsageError that names the value's origin."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    path = config_path(environ)
    layers = (
        (_read_toml(path), lambda name: f"{path}: {name}"),
        (_from_environment(environ), lambda name: f"VALLEY_{name.upper()}"),
        ({name: value for name, value in flags.items() if value not in (None, [])}, flag_name),
    )
    for layer, origin in layers:
        for name, value in layer.items():
            values[name] = _convert(name, value, origin(name))
            origins[name] = origin(name)
    return _checked(Settings(**values, origins=origins))


def override(settings: Settings, values: Mapping[str, Any], origin: Callable[[str], str] = str) -> Settings:
    """``settings`` with ``values``, checked as those of a flag are; ``origin(name)`` is what errors call each."""
    converted = {name: _convert(name, value, origin(name)) for name, value in values.items()}
    origins = {**settings.origins, **{name: origin(name) for name in values}}
    return _checked(replace(settings, **converted, origins=origins))


def _checked(settings: Settings) -> Settings:
    if settings.min_pixels and settings.max_pixels and settings.min_pixels > settings.max_pixels:
        raise UsageError(f"min_pixels {settings.min_pixels} is larger than max_pixels {settings.max_pixels}")
    return settings


def as_flags(text: str) -> str:
    """A message or hint with its options said as flags."""
    return worded(text, flag_name)


def flag_name(name: str) -> str:
    """``top_p`` -> ``--top-p``"""
    return "--" + name.replace("_", "-")


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """VALLEY_* of options we have; others belong to somebody else, and empty ones are not set."""
    return {name: value for name in TYPES if (value := environ.get(f"VALLEY_{name.upper()}"))}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"{path}: {reason}", "mend the file, move it away, or set XDG_CONFIG_HOME") from None
    for name in values:
        if name not in TYPES:
            near = difflib.get_close_matches(name, TYPES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are: {', '.join(TYPES)}"
            raise UsageError(f"{path}: unknown key {name!r}", hint)
    return values


def _convert(name: str, value: Any, origin: str) -> Any:
    """``value`` as the field's type, within its range. Raises UsageError."""
    kind = TYPES[name].removesuffix(" | None")
    try:
        converted = _parse(kind, value)
    except (TypeError, ValueError):
        raise UsageError(f"{origin}: {value!r} is not {_article(kind)}") from None
    if name in CHOICES and converted not in CHOICES[name]:
        raise UsageError(f"{origin}: {value!r} is not one of {', '.join(CHOICES[name])}")
    if allowed := OPTIONS[name].range:
        low, high = allowed
        if not low <= converted <= high:
            raise UsageError(f"{origin}: {value!r} is not between {low} and {high}")
    return converted


def _parse(kind: str, value: Any) -> Any:
    if kind == "bool":
        text = str(value).strip().lower()
        if text not in TRUE + FALSE:
            raise ValueError(text)
        return text in TRUE
    if kind == "int":
        if isinstance(value, bool | float):
            raise ValueError(value)
        return int(value)
    if kind == "float":
        if isinstance(value, bool):
            raise ValueError(value)
        return float(value)
    if kind.startswith("tuple"):
        parts = [value] if isinstance(value, str) else list(value)
        if not all(isinstance(part, str) and part for part in parts):
            raise ValueError(value)
        for part in parts:
            part.encode()  # broken characters are a ValueError too
        return tuple(parts)
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _article(kind: str) -> str:
    names = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}
    return names.get(kind, "a text, or a list of texts, none empty")
