"""Control: changes to a running session, from other processes by a local socket, from keys and from its configuration.

One request and one answer a connection, each a JSON object on one line::

    {"do": "change", "values": {"background": "/home/ada/office.jpg"}}
    {"do": "preset", "name": "office"}
    {"do": "status"}
    {"do": "stop"}

    {"ok": true, "settings": {…}, "status": {…}}
    {"ok": false, "error": "a sentence"}

The socket lies in a folder that only its owner may enter, and whoever connects must be that same user.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import re
import select
import socket
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vidseg.errors import ControlError, VidsegError
from vidseg.live.config import ConfigWatch
from vidseg.live.settings import Settings

REQUEST_BYTES = 1 << 16
REQUEST_SECONDS = 2.0
ANSWER_SECONDS = 60.0
"""A client waits so long: a model may have to be loaded."""
WATCH_SECONDS = 0.5
_NAME = 48
"""Letters of a session's name at most: a Unix socket's whole path may have 107 bytes on Linux and 103 on macOS."""


class Session(Protocol):
    """What is controlled: a ``LiveSession``."""

    @property
    def settings(self) -> Settings:
        """As they are now."""
        ...

    def change(self, settings: Settings) -> None:
        """Show something else from the next frame on; raises, and changes nothing, if that cannot be opened."""
        ...

    def status(self) -> Any:
        """Return how it goes, a dataclass."""
        ...

    def stop(self) -> None:
        """End the run."""
        ...


class Key(NamedTuple):
    """What a key of the preview does."""

    text: str
    change: Callable[[Settings], dict[str, Any]]


def _stronger(settings: Settings, step: float) -> dict[str, Any]:
    match = re.fullmatch(r"blur(?::([0-9.]+))?", settings.background.strip().lower())
    if match is None:
        return {"background": "blur"}
    return {"background": f"blur:{min(100.0, max(10.0, float(match[1] or 50) + step)):g}"}


def _moved(settings: Settings, right: float, down: float) -> dict[str, Any]:
    x, y = settings.position
    return {"position": (round(min(1, max(-1, x + right)), 3), round(min(1, max(-1, y + down)), 3))}


def _scaled(settings: Settings, factor: float) -> dict[str, Any]:
    return {"scale": round(min(4.0, max(0.1, settings.scale * factor)), 3)}


KEYS = {
    " ": Key("pause and resume", lambda now: {"paused": not now.paused}),
    "m": Key("mirror", lambda now: {"mirror": not now.mirror}),
    "b": Key("blur the room", lambda now: {"background": "blur"}),
    "]": Key("stronger blur", lambda now: _stronger(now, 10)),
    "[": Key("weaker blur", lambda now: _stronger(now, -10)),
    "+": Key("larger person", lambda now: _scaled(now, 1.05)),
    "-": Key("smaller person", lambda now: _scaled(now, 1 / 1.05)),
    "a": Key("move left", lambda now: _moved(now, -0.02, 0)),
    "d": Key("move right", lambda now: _moved(now, 0.02, 0)),
    "w": Key("move up", lambda now: _moved(now, 0, -0.02)),
    "s": Key("move down", lambda now: _moved(now, 0, 0.02)),
    "0": Key("back to the person's own place and size", lambda now: {"scale": 1.0, "position": (0.0, 0.0)}),
    "f": Key("automatic framing", lambda now: {"auto_frame": not now.auto_frame}),
    "p": Key("who stays: all, the largest, the one in the middle", lambda now: {"subject": _next(now.subject)}),
}
"""Keys of the preview. Further ones: 1 to 9 choose a preset, q and escape end the run, ? shows all this."""
_SUBJECTS = ("all", "largest", "center")
STOP_KEYS = ("q", "\x1b")
NUMBERS = tuple("123456789")


def _next(subject: str) -> str:
    return _SUBJECTS[(_SUBJECTS.index(subject) + 1) % len(_SUBJECTS)]


def keys_text(presets: Mapping[str, object]) -> str:
    """Return what the keys do, one a line."""
    lines = [f"{'space' if key == ' ' else key}: {what.text}" for key, what in KEYS.items()]
    lines += [f"{number}: preset {name}" for number, name in zip(NUMBERS, presets, strict=False)]
    return "\n".join([*lines, "q: end", "?: show this"])


class Control:
    """Carries changes to a session, one after the other, on a thread of its own.

    A change that fails leaves everything as it was and is said, by the answer or by ``note``. Where there can be no
    socket (another system, no folder for it), keys and the configuration still work, and ``note`` says why.

    Args:
        session: What is controlled.
        name: Of its socket, made from its output by ``session_name``; a second session of the name gets another.
        watch: On its configuration, or None.
        note: Takes a sentence for a person.
        folder: Where sockets lie; None is the user's own.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        watch: ConfigWatch | None = None,
        note: Callable[[str], None] = lambda text: None,
        folder: Path | None = None,
    ) -> None:
        self._session, self._watch, self._note = session, watch, note
        self._keys: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._awake, self._waker = socket.socketpair()
        self._closed = threading.Event()
        self.path: Path | None = None
        self._server: socket.socket | None = None
        try:
            self._server, self.path = _listen(folder or _folder(), name)
        except (OSError, ControlError) as error:
            note(f"'vidseg ctl' cannot reach this session: {error}")
        self._thread = threading.Thread(target=self._serve, name="vidseg-control")
        self._thread.start()

    def press(self, key: str) -> None:
        """Do what a key of the preview means. From any thread; returns at once."""
        self._keys.put(key)
        self._wake()

    def close(self) -> None:
        """End the thread and take the socket away. May be called again."""
        self._closed.set()
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join()
        if self._server is not None and self.path is not None:
            with suppress(OSError):  # somebody may have cleaned up the folder
                self.path.unlink()
            self._server.close()
        for end in (self._awake, self._waker):
            end.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wake(self) -> None:
        with suppress(OSError):  # closed
            self._waker.send(b"\0")

    def _serve(self) -> None:
        ends = [self._awake, *([self._server] if self._server is not None else [])]
        looked = time.monotonic()
        while not self._closed.is_set():
            ready, _, _ = select.select(ends, [], [], None if self._watch is None else WATCH_SECONDS)
            if self._awake in ready:
                self._awake.recv(64)
            while not self._keys.empty() and not self._closed.is_set():
                self._said(lambda: self._press(self._keys.get()))
            if self._server in ready:
                self._accept(self._server)
            if self._watch is not None and time.monotonic() - looked >= WATCH_SECONDS:
                looked = time.monotonic()
                self._said(self._reload)

    def _said(self, act: Callable[[], object]) -> None:
        """Do something nobody waits for; a failure is a line."""
        error = _failure(act)
        if error:
            self._note(error)

    def _change(self, values: Mapping[str, Any]) -> None:
        if values:
            self._session.change(Settings.from_dict(values, self._session.settings))

    def _reload(self) -> None:
        assert self._watch is not None
        if values := self._watch.changes():
            self._change(values)
            self._note(f"{self._watch.config.path} has changed: {', '.join(values)}")

    def _presets(self) -> Mapping[str, Mapping[str, Any]]:
        return self._watch.config.presets if self._watch is not None else {}

    def _press(self, key: str) -> None:
        names = list(self._presets())
        if key == "?":
            for line in keys_text(self._presets()).splitlines():
                self._note(line)
        elif key in STOP_KEYS:
            self._session.stop()
        elif key in KEYS:
            self._change(KEYS[key].change(self._session.settings))
        elif key in NUMBERS[: len(names)]:
            self._change(self._presets()[names[NUMBERS.index(key)]])

    def _accept(self, server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except OSError:  # gone again
            return
        with connection, suppress(OSError):  # a client that went away, or took too long, gets no answer
            if not _same_user(connection):
                return
            answer: dict[str, Any] = {}
            line = _read_line(connection, REQUEST_SECONDS)
            error = _failure(lambda: answer.update(self._answer(line)))
            answer = {"ok": False, "error": error} if error else {"ok": True, **answer}
            connection.settimeout(REQUEST_SECONDS)
            connection.sendall(json.dumps(answer, default=str).encode() + b"\n")
            if answer.get("stopping"):
                self._session.stop()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except ValueError:
            raise ControlError("the request is no JSON") from None
        if not isinstance(request, dict):
            raise ControlError("the request is no JSON object")
        stopping = False
        match request:
            case {"do": "change", "values": dict(values)}:
                self._change(values)
            case {"do": "preset", "name": str(name)}:
                if self._watch is None:
                    raise ControlError("this session has no configuration file, so it has no presets")
                self._change(self._watch.config.preset(name))
            case {"do": "status"}:
                pass
            case {"do": "stop"}:
                stopping = True
            case _:
                raise ControlError(f"there is no request {str(request)[:80]}; this session may be of another version")
        return {
            "settings": self._session.settings.to_dict(),
            "status": _plain(self._session.status()),
            "presets": list(self._presets()),
            "pid": os.getpid(),
            "stopping": stopping,
        }


def _plain(value: Any) -> Any:
    """Return a dataclass as a dictionary, anything else as it is."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _failure(act: Callable[[], object]) -> str:
    """Do something, and return what to say of its failure, or nothing."""
    try:
        act()
    except (VidsegError, TypeError, ValueError) as error:
        return str(error)
    except Exception as error:  # the call goes on, whatever a change has met with
        return f"this is a bug in vidseg ({type(error).__name__}: {error})"
    return ""


# --- the socket -------------------------------------------------------------------------------------------------


def session_name(out: str) -> str:
    """Return what a session that writes to ``out`` is called: ``video10``, ``preview``, ``rtmp-host-live``."""
    if out == "-" or out.startswith("-:"):
        return "stdout"
    last = out if "://" in out else Path(out).name
    last = re.sub(r"//[^/@]*@", "//", last)  # a password is no name
    return re.sub(r"[^A-Za-z0-9._]+", "-", last).strip("-.")[:_NAME] or "out"


def _folder() -> Path:
    """Return the folder of sockets, made if need be, that nobody but its owner can enter.

    Raises:
        ControlError: It belongs to somebody else, or others may enter it.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise ControlError("this system has no Unix sockets for Python")
    given = Path(os.environ.get("XDG_RUNTIME_DIR") or ".")
    if given.is_absolute() and given.is_dir():
        folder = given / "vidseg"
    else:  # the folder of temporary files may be everybody's, so the name carries the user
        folder = Path(tempfile.gettempdir(), f"vidseg-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise ControlError(f"{folder} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ControlError(f"{folder} is not a folder of your own that others cannot enter: remove it")
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other sessions out of the block, so that nobody's new socket is taken for a stale one."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _listen(folder: Path, name: str) -> tuple[socket.socket, Path]:
    """Return a listening socket and its path; what a crashed session left there is taken away first."""
    with _alone(folder):
        for number in range(1, 100):
            path = folder / f"{name}{f'-{number}' if number > 1 else ''}.sock"
            if path.is_socket() and _connects(path):
                continue
            path.unlink(missing_ok=True)
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                server.bind(str(path))
                path.chmod(0o600)
                server.listen(64)  # a client that finds the queue full is told so at once, and does not wait
                server.setblocking(False)
            except BaseException:
                server.close()
                path.unlink(missing_ok=True)
                raise
            return server, path
    raise ControlError(f"{folder} holds too many sessions named {name}")


def _connects(path: Path) -> bool:
    """Whether somebody listens at ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(REQUEST_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # a full queue: somebody is there, and busy
            return True
        return True


def _same_user(connection: socket.socket) -> bool:
    """Whether the other end is this very user (SO_PEERCRED of unix(7)); elsewhere the folder sees to it."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.getuid())


def _read_line(connection: socket.socket, seconds: float) -> bytes:
    """Return one line.

    Raises:
        OSError: It is too long, takes too long, or the other end goes away before the line ends.
    """
    until = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n"):
        connection.settimeout(max(0.001, until - time.monotonic()))
        chunk = connection.recv(4096)
        if not chunk or len(line) > REQUEST_BYTES:
            raise ConnectionError(f"no line of at most {REQUEST_BYTES} bytes came")
        line += chunk
    return line


# --- the client -------------------------------------------------------------------------------------------------


def sessions(folder: Path | None = None) -> dict[str, Path]:
    """Return the sockets of this user's running sessions, by name.

    Raises:
        ControlError: There can be none here.
    """
    there = {path.stem: path for path in (folder or _folder()).glob("*.sock")}
    return {name: there[name] for name in sorted(there) if _connects(there[name])}


def ask(request: Mapping[str, Any], name: str | None = None, folder: Path | None = None) -> dict[str, Any]:
    """Send one request to a running session and return its answer.

    Args:
        request: See above.
        name: Of the session, or its output; None if there is but one.
        folder: Where sockets lie; None is the user's own.

    Raises:
        ControlError: None runs, several do, it does not answer, or it refuses.
    """
    running = sessions(folder)
    wanted = session_name(name) if name is not None else None
    if not running:
        raise ControlError("no session is running: start one with 'vidseg webcam'")
    if wanted is None and len(running) > 1:
        raise ControlError(f"{len(running)} sessions are running: say --session with one of {', '.join(running)}")
    if wanted is not None and wanted not in running:
        raise ControlError(f"there is no session {name}: there is {', '.join(running)}")
    path = running[wanted] if wanted is not None else next(iter(running.values()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_read_line(connection, ANSWER_SECONDS))
        except TimeoutError:
            raise ControlError(f"session {path.stem} does not answer") from None
        except (OSError, ValueError) as error:
            raise ControlError(f"session {path.stem} has gone away: {error}") from error
    if not answer.get("ok"):
        raise ControlError(str(answer.get("error", "it was refused")))
    return {"session": path.stem, **answer}
