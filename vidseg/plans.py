"""Plans: compiled networks in the user's cache folder, each under a name that carries all that makes it invalid."""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from vidseg.errors import EngineBuildError, EngineError
from vidseg.frame import Size

log = logging.getLogger(__name__)

_MAGIC = b"vidseg plan 1\n"
_POLL = 0.1
"""Seconds between two looks at a lock that another process holds."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a plan depends on: it is of no use where one of them differs.

    Attributes:
        model: Name of the model, for a person; ``sha256`` is what counts.
        sha256: Of the ONNX file that it is made from.
        runtime: Library and version: ``tensorrt 11.4.0.106``.
        device: Name and compute capability of the GPU: ``NVIDIA H200, 9.0``.
        driver: Version of its driver.
        precision: ``fp32``, ``fp16``, ``int8``.
        size: ``(h, w)`` of the network's input.
        batch: It takes 1 to so many pictures at once.
        recipe: Counts the changes of how plans are made.
    """

    model: str
    sha256: str
    runtime: str
    device: str
    driver: str
    precision: str
    size: Size
    batch: int
    recipe: int

    @property
    def name(self) -> str:
        """Of its file, without suffix: for a person what it is, then the digest of everything."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:20]
        model = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in self.model)[:40]
        return f"{model}-{self.precision}-{self.size[1]}x{self.size[0]}-{digest}"

    @property
    def machine(self) -> str:
        """Name of what its timings were taken on: they hold for every network there."""
        text = json.dumps([self.runtime, self.device, self.driver])
        return f"timings-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One plan of the cache; ``bytes`` long, and of no use where ``damage`` says why."""

    path: Path
    bytes: int
    facts: Facts | None
    damage: str = ""
    refused: str = ""


def default_folder() -> Path:
    """Return where plans lie: ``VIDSEG_CACHE`` if it is set, else the system's folder for what can be made again.

    XDG Base Directory Specification 0.8 on Linux, Apple's and Microsoft's own folders elsewhere.
    """
    if given := os.environ.get("VIDSEG_CACHE"):
        return Path(given).absolute() / "plans"
    if sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        wanted = Path(os.environ.get("XDG_CACHE_HOME") or ".")
        folder = wanted if wanted.is_absolute() else Path.home() / ".cache"
    return folder / "vidseg" / "plans"


class Plans:
    """The plans in one folder, which is its owner's alone. Any number of processes may use it at once.

    A plan is code that will be run: what another user could have written is not read.

    Args:
        folder: None is ``default_folder()``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def path(self, facts: Facts) -> Path:
        """Return where the plan for ``facts`` lies or would lie."""
        return self.folder / f"{facts.name}.plan"

    def writable(self) -> Plans:
        """Return these plans, or, if nothing can be written there, a folder for this process, which goes with it.

        Raises:
            EngineError: The folder is open to other users.
        """
        try:
            self._prepare()
            with tempfile.TemporaryFile(dir=self.folder):
                return self
        except OSError as error:
            folder = Path(tempfile.mkdtemp(prefix="vidseg-plans-"))  # 0700
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            log.warning(
                "%s cannot be written (%s): plans are not kept, and are built anew each time; set VIDSEG_CACHE to a "
                "folder that can",
                self.folder,
                error.strerror,
            )
            return Plans(folder)

    def read(self, facts: Facts) -> bytes | None:
        """Return the plan for ``facts``, or None if there is none that can be trusted; a damaged one is removed.

        Raises:
            EngineError: The folder is open to other users.
        """
        path = self.path(facts)
        try:
            found, plan = _unpacked(path)
            if found != facts:
                raise ValueError("it was made for something else")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s is not used: %s", path, _reason(error))
            with suppress(OSError):
                path.unlink()
            return None
        return plan

    def write(self, facts: Facts, plan: bytes) -> None:
        """Keep ``plan``: under its name stands nothing, or all of it.

        Raises:
            EngineBuildError: The folder cannot be written, or the disk is full.
            EngineError: The folder is open to other users.
        """
        header = {"facts": asdict(facts), "bytes": len(plan), "sha256": hashlib.sha256(plan).hexdigest()}
        self._write(self.path(facts), _MAGIC + json.dumps(header).encode() + b"\n" + plan)
        self._forget_refusal(facts)

    def remove(self, facts: Facts) -> None:
        """Remove one plan, if it is there."""
        with suppress(OSError):
            self.path(facts).unlink()

    def timings(self, facts: Facts) -> bytes:
        """Return what earlier builds on this machine measured; empty if there is nothing."""
        try:
            return _read_own(self.folder / facts.machine)
        except (OSError, ValueError):
            return b""

    def write_timings(self, facts: Facts, timings: bytes) -> None:
        """Keep what a build measured, or not: it only saves time."""
        try:
            self._write(self.folder / facts.machine, timings)
        except EngineError as error:
            log.info("%s", error)

    def refuse(self, facts: Facts, reason: str) -> None:
        """Remember that the plan for ``facts`` is of no use, so that not every start tries it again."""
        with suppress(EngineError):
            self._write(self._refusal_path(facts), reason.encode())

    def refusal(self, facts: Facts) -> str:
        """Return why the plan for ``facts`` is of no use; empty if nothing is known against it."""
        try:
            return _read_own(self._refusal_path(facts)).decode(errors="replace")
        except (OSError, ValueError):
            return ""

    def entries(self) -> list[Entry]:
        """Return all plans, by name, the damaged ones too."""
        entries = []
        for path in sorted(self.folder.glob("*.plan")):
            try:
                facts, plan = _unpacked(path)
                wrong = "" if f"{facts.name}.plan" == path.name else "it bears another plan's name"
                entries.append(Entry(path, len(plan), facts, wrong, self.refusal(facts)))
            except (OSError, ValueError) as error:
                with suppress(OSError):
                    entries.append(Entry(path, path.lstat().st_size, None, _reason(error)))
        return entries

    def clear(self) -> int:
        """Remove everything that is kept; returns how many plans there were.

        Raises:
            EngineError: Something cannot be removed.
        """
        count = 0
        for path in [
            path for kind in ("*.plan", "*.refused", "timings-*", ".*.part") for path in self.folder.glob(kind)
        ]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise EngineError(f"{path} cannot be removed: {error.strerror}", path=str(path)) from error
            count += path.suffix == ".plan"
        return count  # locks stay: whoever waits at a removed one would wait for another than who comes next

    @contextmanager
    def lock(self, facts: Facts, cancelled: threading.Event | None = None) -> Iterator[bool]:
        """Be the only one, in any process, who builds the plan for ``facts``; yields whether somebody else was first.

        The lock goes with its process, however that ends.

        Raises:
            EngineBuildError: ``cancelled`` was set while another process built, or the folder cannot be written.
        """
        waited = False
        try:
            self._prepare()
            descriptor = os.open(self.folder / f"{facts.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EngineBuildError(
                f"{self.folder} cannot be written: {error.strerror}", path=str(self.folder)
            ) from error
        with os.fdopen(descriptor, "r+b") as file:
            while not _locked(file):
                waited = True
                if cancelled is not None and cancelled.is_set():
                    raise EngineBuildError("the build was given up")
                time.sleep(_POLL)
            yield waited

    def _prepare(self) -> None:
        """Make the folder.

        Raises:
            OSError: It cannot be made.
            EngineError: Others could write there.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "getuid"):
            status = self.folder.stat()
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                raise EngineError(
                    f"{self.folder} can be written by other users, and plans are code: chmod 700 it, or set "
                    "VIDSEG_CACHE to a folder of your own",
                    path=str(self.folder),
                )

    def _write(self, path: Path, data: bytes) -> None:
        temporary = None
        try:
            self._prepare()
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{path.name}.", suffix=".part")  # 0600
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # a plan of nothing but zeros after a power cut would only be found out later
            os.replace(temporary, path)
        except BaseException as error:
            if temporary is not None:
                with suppress(OSError):
                    os.unlink(temporary)
            if isinstance(error, OSError):
                raise EngineBuildError(
                    f"{path} cannot be written ({error.strerror}): make room for {len(data) / 1e6:.1f} MB, or set "
                    "VIDSEG_CACHE to another folder",
                    path=str(path),
                ) from error
            raise

    def _refusal_path(self, facts: Facts) -> Path:
        return self.folder / f"{facts.name}.refused"

    def _forget_refusal(self, facts: Facts) -> None:
        with suppress(OSError):
            self._refusal_path(facts).unlink()


def _unpacked(path: Path) -> tuple[Facts, bytes]:
    """Return what a file says it is for, and the plan in it, whole.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not what was written.
    """
    magic, _, rest = _read_own(path).partition(b"\n")
    line, _, plan = rest.partition(b"\n")
    if magic + b"\n" != _MAGIC:
        raise ValueError("it is no plan of this version of vidseg")
    try:
        header = json.loads(line)
        facts = Facts(**{**header["facts"], "size": tuple(header["facts"]["size"])})
        expected = header["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("it is damaged") from error
    if header.get("bytes") != len(plan) or hashlib.sha256(plan).hexdigest() != expected:
        raise ValueError("it is damaged, its checksum differs")
    return facts, plan


def _read_own(path: Path) -> bytes:
    """Return a file that nobody else could have written.

    Raises:
        OSError: It cannot be read.
        ValueError: It is another user's, or can be written by others.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        if hasattr(os, "getuid"):
            for status in (os.fstat(file.fileno()), path.parent.stat()):
                if status.st_uid not in (os.getuid(), 0) or status.st_mode & 0o022:
                    raise ValueError("others could have written it")
        return file.read()


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


if sys.platform == "win32":
    import msvcrt

    def _locked(file: IO[bytes]) -> bool:
        """Take the lock of an open file, if it is free."""
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _locked(file: IO[bytes]) -> bool:
        """Take the lock of an open file, if it is free."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
