"""Every option's value and where it came from: defaults < config.toml < VALLEY_* variables < flags."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from valley_cli.api import EngineOptions, Media, MediaLimits, Message, Request, Sampling
from valley_cli.errors import UsageError

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Settings:
    """All options shared by commands, and the guards on media. Field names are the keys of config.toml."""

    model: str = "auto"
    system: str | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    min_pixels: int | None = None
    max_pixels: int | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    revision: str | None = None
    offline: bool = False
    think: bool = False
    flavour: Literal["hf", "github"] = "hf"
    exact: bool = False
    json: bool = False
    stats: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    no_color: bool = False
    preview: bool = False
    editing_mode: Literal["emacs", "vi"] = "emacs"
    max_image_bytes: int = MediaLimits.max_image_bytes
    max_image_pixels: int = MediaLimits.max_image_pixels
    max_redirects: int = MediaLimits.max_redirects
    connect_timeout: float = MediaLimits.connect_timeout_s
    image_timeout: float = MediaLimits.image_timeout_s
    max_video_bytes: int = MediaLimits.max_video_bytes
    video_timeout: float = MediaLimits.video_timeout_s
    clip_timeout: float = MediaLimits.clip_timeout_s
    max_clip_pixels: int = MediaLimits.max_clip_pixels
    retries: int = MediaLimits.retries
    origins: Mapping[str, str] = field(default_factory=dict)

    def sampling(self) -> Sampling:
        return Sampling(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop=self.stop,
        )

    def request(self, messages: tuple[Message, ...], images: tuple[Media, ...] = ()) -> Request:
        """``messages`` and ``images``, to be answered as the settings say; ``system`` is the caller's to place."""
        return Request(
            messages=messages,
            images=images,
            sampling=self.sampling(),
            think=self.think,
            flavour=self.flavour,
            exact=self.exact,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
        )

    def engine_options(self) -> EngineOptions:
        limits = MediaLimits(
            max_image_bytes=self.max_image_bytes,
            max_image_pixels=self.max_image_pixels,
            max_redirects=self.max_redirects,
            connect_timeout_s=self.connect_timeout,
            image_timeout_s=self.image_timeout,
            max_video_bytes=self.max_video_bytes,
            video_timeout_s=self.video_timeout,
            clip_timeout_s=self.clip_timeout,
            max_clip_pixels=self.max_clip_pixels,
            retries=self.retries,
        )
        return EngineOptions(
            model=self.model,
            device=self.device,
            dtype=self.dtype,
            revision=self.revision,
            offline=self.offline,
            limits=limits,
        )


TYPES = {entry.name: str(entry.type) for entry in fields(Settings) if entry.name != "origins"}
# name: (lowest, highest) allowed; a bound that is not itself allowed is nudged by the smallest step
RANGES: Mapping[str, tuple[float, float]] = {
    "max_new_tokens": (1, 1_000_000),
    "temperature": (0.0, 100.0),
    "top_p": (1e-6, 1.0),
    "top_k": (0, 1_000_000),
    "repetition_penalty": (1e-3, 100.0),
    "seed": (0, 2**63 - 1),
    "min_pixels": (1, 2**40),
    "max_pixels": (28 * 28, 2**40),
    "max_image_bytes": (1, 2**40),
    "max_image_pixels": (1, 2**40),
    "max_redirects": (0, 20),
    "connect_timeout": (0.001, 3600.0),
    "image_timeout": (0.001, 86400.0),
    "max_video_bytes": (1, 2**50),
    "video_timeout": (0.001, 86400.0),
    "clip_timeout": (0.001, 86400.0),
    "max_clip_pixels": (28 * 28, 2**40),
    "retries": (0, 20),
}
# what a row of a batch or a saved conversation may set for its answers
ANSWER_KEYS = (
    *("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop"),
    *("min_pixels", "max_pixels", "think", "flavour", "exact"),
)
CHOICES: Mapping[str, tuple[str, ...]] = {
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "flavour": ("hf", "github"),
    "editing_mode": ("emacs", "vi"),
}


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
    if name in RANGES:
        low, high = RANGES[name]
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
