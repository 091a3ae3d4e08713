"""Config: what a TOML file in the user's configuration folder says of a live run, and what it is started with."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from vidseg.errors import ConfigError
from vidseg.frame import Size
from vidseg.live.settings import Settings

OnFailure = Literal["background", "hold", "stop"]
Sync = Literal["strict", "fast"]
PixelFormat = Literal["auto", "mjpeg", "yuyv", "nv12"]

_PRESETS = "preset"
_TEXTS, _NUMBERS, _FLAGS = ("camera", "runtime"), ("max_cpu", "target_fps"), ("loop", "preview", "always_on")
_CHOICES: dict[str, tuple[str, ...]] = {
    "pixel_format": get_args(PixelFormat),
    "on_failure": get_args(OnFailure),
    "sync": get_args(Sync),
}
_LARGEST = 16384
"""Pixels a side, beyond what any camera gives."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a live run is started with and keeps until it ends; the words are those of ``vidseg webcam``.

    Attributes:
        camera: ``default``, a number, a name or a part of one, ``/dev/videoN``, a URL, ``screen``, or a file, which is
            played in real time.
        size: ``WIDTHxHEIGHT``, or empty for what the camera likes best.
        fps: Frames a second, a number or ``30000/1001``; None for what the camera likes best.
        pixel_format: What the camera is to send.
        loop: Whether a file starts again at its end.
        out: Outputs; none is the first virtual camera, else the preview.
        preview: Whether a window shows the result as well.
        on_failure: What is shown while there is no mask to be trusted; never the room.
        sync: ``strict`` composites each frame with its own mask; ``fast`` may carry the last one forward.
        max_cpu: Cores that may be used, on average; None for as many as it takes.
        target_fps: Frames a second to be kept when the machine is short; None for the camera's.
        always_on: Whether the camera stays open while nobody looks at the virtual camera.
        runtime: What computes the network.
        threads: For the network; None chooses.

    Raises:
        TypeError: A value has another type.
        ValueError: A value is out of its range.
    """

    camera: str = "default"
    size: str = ""
    fps: str | float | None = None
    pixel_format: PixelFormat = "auto"
    loop: bool = True
    out: tuple[str, ...] = ()
    preview: bool = False
    on_failure: OnFailure = "background"
    sync: Sync = "strict"
    max_cpu: float | None = None
    target_fps: float | None = None
    always_on: bool = False
    runtime: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in _TEXTS:
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{name} is {text!r}; it must be text")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        for name in _NUMBERS:
            number = getattr(self, name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
                raise TypeError(f"{name} is {number!r}; it must be a number")
            if number is not None and not 0 < number <= 1000:
                raise ValueError(f"{name} is {number!r}; it must be more than 0")
        if self.threads is not None and (type(self.threads) is not int or not 1 <= self.threads <= 1024):
            raise ValueError(f"threads is {self.threads!r}; it must be a whole number from 1 to 1024")
        if not isinstance(self.out, tuple) or not all(isinstance(o, str) and o.strip() for o in self.out):
            raise TypeError(f"out is {self.out!r}; it must be a list of names")
        self.wanted_size()
        self.wanted_fps()

    def wanted_size(self) -> Size | None:
        """Return ``(height, width)``, or None.

        Raises:
            ValueError: It is none.
        """
        if self.size == "":
            return None
        match = re.fullmatch(r"\s*(\d{1,6})\s*[xX×]\s*(\d{1,6})\s*", self.size) if isinstance(self.size, str) else None
        if match is None:
            raise ValueError(f"size is {self.size!r}; write WIDTHxHEIGHT, as in 1280x720")
        width, height = int(match[1]), int(match[2])
        if not (2 <= width <= _LARGEST and 2 <= height <= _LARGEST) or width % 2 or height % 2:
            raise ValueError(f"size is {self.size!r}; both sides must be even, and from 2 to {_LARGEST}")
        return height, width

    def wanted_fps(self) -> Fraction | None:
        """Return the rate, or None.

        Raises:
            ValueError: It is none.
        """
        if self.fps is None:
            return None
        try:
            rate = Fraction(str(self.fps))
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if isinstance(self.fps, bool) or not 1 <= rate <= 1000:
            raise ValueError(f"fps is {self.fps!r}; it must be from 1 to 1000, as in 30 or 30000/1001")
        return rate.limit_denominator(1001)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Start:
        """Return the defaults with ``values`` laid over them.

        Raises:
            TypeError, ValueError: As the class itself.
        """
        laid = dict(values)
        if isinstance(laid.get("out"), list):
            laid["out"] = tuple(laid["out"])
        return cls(**laid)


SETTINGS = tuple(field.name for field in fields(Settings))
STARTS = tuple(field.name for field in fields(Start))


@dataclass(frozen=True, slots=True)
class Config:
    """What one file says, checked, its paths made absolute. What it does not say is not in it.

    Attributes:
        path: Of the file, whether it exists or not.
        values: Of ``Settings`` and ``Start``, by name.
        presets: Of ``Settings``, by the preset's name.
    """

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The part that can change while a session runs."""
        return {name: value for name, value in self.values.items() if name in SETTINGS}

    @property
    def start(self) -> dict[str, Any]:
        """The part that a session is started with."""
        return {name: value for name, value in self.values.items() if name in STARTS}

    def preset(self, name: str) -> Mapping[str, Any]:
        """Return the values of one preset.

        Raises:
            ConfigError: There is none of that name.
        """
        if name not in self.presets:
            there = f"there are {', '.join(self.presets)}" if self.presets else "it has none"
            raise ConfigError(f"{self.path}: there is no preset {name!r}; {there}", path=str(self.path))
        return self.presets[name]


def default_path() -> Path:
    """Return where the configuration is looked for when nobody says.

    XDG Base Directory Specification 0.8 on Linux, Apple's and Microsoft's own folders elsewhere.
    """
    if sys.platform == "darwin":
        folder = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        folder = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    else:
        given = Path(os.environ.get("XDG_CONFIG_HOME") or ".")
        folder = given if given.is_absolute() else Path.home() / ".config"  # "relative paths … ignored", it says
    return folder / "vidseg" / "config.toml"


def read_config(path: Path | None = None) -> Config:
    """Read a file; the default one need not exist.

    Raises:
        ConfigError: It cannot be read, is no TOML, or holds something unknown; with the line.
    """
    wanted = path or default_path()
    wanted = wanted.absolute()
    try:
        text = wanted.read_bytes().decode("utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        if path is None:
            return Config(wanted)
        raise ConfigError(f"{wanted} does not exist; --save-config writes one", path=str(wanted)) from None
    except OSError as error:
        raise ConfigError(f"{wanted} cannot be read: {error.strerror}", path=str(wanted)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{wanted} is no text in UTF-8", path=str(wanted)) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{wanted} is no TOML: {_sentence(str(error))}", path=str(wanted)) from error
    presets = document.pop(_PRESETS, {})
    if not isinstance(presets, dict) or not all(isinstance(preset, dict) for preset in presets.values()):
        raise _wrong(wanted, text, (), _PRESETS, f"a preset is a table: write [{_PRESETS}.NAME]")
    return Config(
        wanted,
        _checked(wanted, text, (), document, (*SETTINGS, *STARTS)),
        {name: _checked(wanted, text, (_PRESETS, name), preset, SETTINGS) for name, preset in presets.items()},
    )


def _checked(
    path: Path, text: str, table: tuple[str, ...], values: Mapping[str, Any], known: Sequence[str]
) -> dict[str, Any]:
    """Return the values of one table, each checked by itself so that its line can be told."""
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name.replace("-", "_"), [*known, *([] if table else [_PRESETS])], 1)
            mend = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            if name in STARTS:
                mend = "it is not for presets, since a running session keeps it"
            raise _wrong(path, text, table, name, f"there is no setting {name!r}; {mend}")
        try:
            (Settings if name in SETTINGS else Start).from_dict({name: value})
        except (TypeError, ValueError) as error:
            raise _wrong(path, text, table, name, str(error)) from None
    return resolved(values, path.parent)


def _wrong(path: Path, text: str, table: tuple[str, ...], name: str, why: str) -> ConfigError:
    line = _line_of(text, table, name)
    return ConfigError(f"{path}{f', line {line}' if line else ''}: {why}", path=str(path))


def _line_of(text: str, table: tuple[str, ...], name: str) -> int | None:
    """Return the number of the line on which ``name`` stands in ``table``; None if it is written in some other way."""
    current: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if header := re.fullmatch(r"\[+([^\[\]]*)\]+\s*(#.*)?", stripped):
            current = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            if (*table, name) == current[: len(table) + 1]:
                return number
        elif current == table and re.match(rf"[\"']?{re.escape(name)}[\"']?\s*[=.]", stripped):
            return number
    return None


def _sentence(text: str) -> str:
    """Return ``Invalid value (at line 3, column 5)`` as ``invalid value at line 3, column 5``."""
    return re.sub(r"\((at .*)\)$", r"\1", text[:1].lower() + text[1:])


def resolved(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return ``values`` with the paths in them made absolute.

    Args:
        values: Of ``Settings`` and ``Start``, by name.
        folder: What relative paths begin at: that of the file, or the one a person is in.
    """
    found = dict(values)
    for name in ("background", "model", "camera"):
        if name in found:
            found[name] = _resolved(name, found[name], folder)
    if "out" in found:
        found["out"] = tuple(_resolved("out", out, folder) for out in found["out"])
    return found


def _resolved(name: str, text: str, folder: Path) -> str:
    """Return the absolute path that ``text`` means, or ``text`` if it is a word, a colour, a URL or a device."""
    word = text.strip()
    if re.match(r"#|-|\w+://|(blur|screen)(:|$)|(preview|virtual|none|transparent|\d+)$", word, re.IGNORECASE):
        return text
    path = folder / Path(word).expanduser()
    # Colours, models and outputs that are no files have names without a dot or slash; a camera's may hold anything.
    path_like = r"(~|\.{0,2})[/\\]|[A-Za-z]:[/\\]" if name == "camera" else r".*[./\\]"
    return os.path.abspath(path) if re.match(path_like, word) or path.is_file() else text


def save_config(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``values`` as the part of the file that is no preset; comments and presets in it stay.

    Args:
        path: The file; it need not exist.
        values: Of ``Settings`` and ``Start``, by name; None is left out.

    Raises:
        ConfigError: It cannot be written; the old file then stands as it was.
    """
    kept = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    kept = {name: value for name, value in kept.items() if value is not None}
    try:
        old = path.read_text("utf-8") if path.exists() else ""
        lines = old.splitlines()
        tables = next((i for i, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
        comments = [line for line in lines[:tables] if line.lstrip().startswith("#")]
        parts = ["\n".join([*comments, *(f"{name} = {_toml(value)}" for name, value in kept.items())])]
        if tables < len(lines):
            parts.append("\n".join(lines[tables:]))
        text = "\n\n".join(parts) + "\n"
        presets = tomllib.loads(old).get(_PRESETS, {})
        if tomllib.loads(text) != {**kept, **({_PRESETS: presets} if presets else {})}:
            raise ConfigError(f"{path} holds more than can be kept; write to another file", path=str(path))
        write_whole(path, text)
    except (OSError, ValueError) as error:  # ValueError: no TOML, no UTF-8
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path} cannot be written: {why}", path=str(path)) from error


def _toml(value: Any) -> str:
    """Return one value as TOML 1.0 has it: JSON's strings, numbers, booleans and lists are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_whole(path: Path, text: str) -> None:
    """Write a file for the user's eyes only, at once: whoever reads it sees the old or the new one.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = Path(os.path.realpath(path))  # a link into somebody's dotfiles stays a link
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


class ConfigWatch:
    """Tells when a file has changed; asked now and then, it costs one ``stat``.

    Args:
        config: As it was read.
        read: For tests.
    """

    def __init__(self, config: Config, read: Callable[[Path], Config] = read_config) -> None:
        self._config, self._read = config, read
        self._taken = self._seen = self._stamp()

    def changes(self) -> dict[str, Any]:
        """Return those settings that the file has and did not have so before.

        A setting that vanished changes nothing: an editor may have emptied the file before it writes.

        Raises:
            ConfigError: The file has become wrong; said once for each time it changes.
        """
        before, self._seen = self._seen, self._stamp()
        if self._seen in (self._taken, None) or self._seen != before:
            return {}  # nothing new, gone for a moment, or still being written
        self._taken = self._seen
        old, self._config = self._config, self._read(self._config.path)
        return {name: value for name, value in self._config.settings.items() if old.settings.get(name) != value}

    @property
    def config(self) -> Config:
        """As it was read last."""
        return self._config

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._config.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
