"""Demand: whether somebody reads a virtual camera of v4l2loopback, so that the camera can rest while nobody does."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import select
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from vidseg.devices import holders
from vidseg.errors import DeviceUnavailableError

log = logging.getLogger(__name__)

ATTACK = 0.5
"""Seconds that somebody has to read before it counts: applications open every camera for a moment to see what it is."""
RELEASE = 5.0
"""Seconds after the last reader in which the camera stays on: some probe every 3 s, and a call may change hands."""

# v4l2loopback.h of v4l2loopback 0.13: V4L2_EVENT_PRIVATE_START + 0x08E00000 + 1. Its data is one u32, whether somebody
# streams; v4l2_event and v4l2_event_subscription are those of linux/videodev2.h for 64 bits.
CLIENT_USAGE = 0x08000000 + 0x08E00000 + 1
_SEND_INITIAL = 1
_SUBSCRIPTION = struct.Struct("=3I20x")
_EVENT = struct.Struct("=I4xI60x2I16xI32x4x")
_SUBSCRIBE = 1 << 30 | _SUBSCRIPTION.size << 16 | ord("V") << 8 | 90
_DEQUEUE = 2 << 30 | _EVENT.size << 16 | ord("V") << 8 | 89
# linux/inotify.h
_IN_CLOSE, _IN_OPEN, _IN_IGNORED, _IN_OVERFLOW = 0x18, 0x20, 0x8000, 0x4000
_INOTIFY_EVENT = struct.Struct("=i3I")


SYSFS = Path("/sys/class/video4linux")


class Debounce:
    """Turns "is somebody reading?" into "is the camera wanted?". Pure logic; seconds are those of any one clock.

    It is wanted when somebody has read for ``attack`` seconds without a break, and until ``release`` seconds after the
    last such reader, or as long as it takes to see whether one who came in that time stays. Shorter ones neither turn
    it on nor keep it on, however often they come.
    """

    def __init__(self, attack: float = ATTACK, release: float = RELEASE) -> None:
        self._attack, self._release = attack, release
        self._since: float | None = None
        self._until = float("-inf")

    def update(self, reading: bool, now: float) -> None:
        """Tell it what has been seen."""
        if self._lasting(now):
            self._until = now + self._release
        if not reading:
            self._since = None
        elif self._since is None:
            self._since = now

    def wanted(self, now: float) -> bool:
        """Whether the camera is wanted."""
        return self._lasting(now) or now < self._until or self._in_time()

    def due(self, now: float) -> float | None:
        """Return in how many seconds ``wanted`` may change although nothing new is seen; None if it cannot."""
        if self._lasting(now):
            return None
        times = [self._until] if now < self._until and not self._in_time() else []
        times += [] if self._since is None else [self._since + self._attack]
        return max(0.0, min(times) - now) if times else None

    def _in_time(self) -> bool:
        return self._since is not None and self._since < self._until

    def _lasting(self, now: float) -> bool:
        return self._since is not None and now - self._since >= self._attack


class Probe(Protocol):
    """One way to see whether somebody reads a device."""

    how: str
    """In words."""
    fd: int | None
    """Readable, or with something urgent, when there is news; None: ask every ``PERIOD``."""

    def reading(self) -> bool:
        """Whether somebody reads now; takes what news there is."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


PERIOD = 0.5
"""Seconds between two looks of a probe that has to ask."""


class EventProbe:
    """v4l2loopback from 0.13 on says itself who streams (V4L2_EVENT_PRI_CLIENT_USAGE).

    Who only has the device open does not count. Where the state at the beginning is not sent, it is taken from that.

    Raises:
        OSError: The module does not have it.
    """

    how = "the driver tells"

    def __init__(self, path: str) -> None:
        self.fd: int | None = None
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _SUBSCRIBE, _SUBSCRIPTION.pack(CLIENT_USAGE, 0, _SEND_INITIAL))
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self._reading = bool(holders(path))

    def reading(self) -> bool:
        assert self.fd is not None
        with suppress(OSError):  # ENOENT: no more
            while True:
                event = bytearray(_EVENT.size)
                fcntl.ioctl(self.fd, _DEQUEUE, event, True)
                kind, count, *_ = _EVENT.unpack(event)
                if kind == CLIENT_USAGE:
                    self._reading = count > 0
        return self._reading

    def close(self) -> None:
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)


class CountProbe:
    """Builds of v4l2loopback that count their readers in sysfs (``active_readers``).

    Raises:
        OSError: This one does not.
    """

    how = "the driver counts"
    fd: int | None = None

    def __init__(self, path: str) -> None:
        name = os.path.basename(os.path.realpath(path))
        self._path = SYSFS / name / "active_readers"
        self.reading()

    def reading(self) -> bool:
        try:
            return int(self._path.read_text("ascii")) > 0
        except ValueError as error:
            raise OSError(errno.EINVAL, "no number") from error

    def close(self) -> None:
        pass


class OpenProbe:
    """Counts who has the device open: the kernel tells each open and close (inotify), of whatever process.

    What this process has open itself does not count. That somebody has it open need not mean that they look at it.

    Raises:
        OSError: There is no inotify, or no watch left.
    """

    how = "who has it open"

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int | None = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            self._watch()
        except BaseException:
            self.close()
            raise

    def reading(self) -> bool:
        assert self.fd is not None
        for mask in self._news(self.fd):
            if mask & (_IN_IGNORED | _IN_OVERFLOW):  # the device was removed, or too much happened at once
                self._watch()
                break
            self._opened += bool(mask & _IN_OPEN) - bool(mask & _IN_CLOSE)
        others = self._opened - self._own()
        # A process counts once in the first look, however often it had the device open then.
        if others < 0 or (others == 0 and self._guessed):
            self._look()
            others = self._opened - self._own()
        return others > 0

    def close(self) -> None:
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)

    def _watch(self) -> None:
        name = os.fsencode(self._path)
        self._checked(self._libc.inotify_add_watch(self.fd, name, _IN_OPEN | _IN_CLOSE))
        self._look()

    def _look(self) -> None:
        found = len(holders(self._path))
        self._opened, self._guessed = found + self._own(), found > 0

    def _news(self, fd: int) -> list[int]:
        found = []
        with suppress(BlockingIOError):
            while data := os.read(fd, 65536):
                at = 0
                while at < len(data):
                    _, mask, _, length = _INOTIFY_EVENT.unpack_from(data, at)
                    found.append(mask)
                    at += _INOTIFY_EVENT.size + length
        return found

    def _own(self) -> int:
        count = 0
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                count += os.readlink(f"/proc/self/fd/{name}") == self._path
        return count

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


class HolderProbe:
    """Looks through all processes for one that has the device open: where nothing better is."""

    how = "looking for who has it open"
    fd: int | None = None

    def __init__(self, path: str) -> None:
        self._path = path

    def reading(self) -> bool:
        return bool(holders(self._path))

    def close(self) -> None:
        pass


def open_probe(path: str) -> Probe:
    """Return the best way that works for a device.

    Raises:
        DeviceUnavailableError: It does not exist or may not be opened.
    """
    if not os.path.exists(path):
        raise DeviceUnavailableError(f"{path} does not exist", url=path)
    kinds: tuple[type[EventProbe] | type[CountProbe] | type[OpenProbe], ...] = (EventProbe, CountProbe, OpenProbe)
    for kind in kinds:
        try:
            return kind(path)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise DeviceUnavailableError(f"{path} may not be opened by this user", url=path) from error
    return HolderProbe(path)


class Demand:
    """Watches one virtual camera on a thread of its own.

    Args:
        path: As ``/dev/video10``.
        changed: Called on that thread when ``wanted`` changes.
        probe: How to see readers; None takes the best that works.
        attack, release: See ``Debounce``.

    Raises:
        DeviceUnavailableError: There is no such device.
    """

    def __init__(
        self,
        path: str,
        changed: Callable[[bool], None] | None = None,
        *,
        probe: Probe | None = None,
        attack: float = ATTACK,
        release: float = RELEASE,
    ) -> None:
        self._probe = probe or open_probe(path)
        self._debounce = Debounce(attack, release)
        self._changed = changed
        self._condition = threading.Condition()
        self._wanted = self._reading = False
        self._awake, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="vidseg-demand", daemon=True)
        self._thread.start()

    @property
    def how(self) -> str:
        """How readers are seen, in words."""
        return self._probe.how

    @property
    def reading(self) -> bool:
        """Whether somebody reads at this moment."""
        return self._reading

    @property
    def wanted(self) -> bool:
        """Whether the camera should be on."""
        return self._wanted

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the camera is wanted, this is closed, or so many seconds are over; returns ``wanted``."""
        with self._condition:
            self._condition.wait_for(lambda: self._wanted or self._closed, timeout)
            return self._wanted

    def close(self) -> None:
        """End watching. May be called again."""
        with self._condition:
            if self._closed:
                return
            self._closed = True
            self._condition.notify_all()
        os.write(self._wake, b"x")
        self._thread.join()
        self._probe.close()
        os.close(self._awake)
        os.close(self._wake)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._awake, select.POLLIN)
        if self._probe.fd is not None:
            poll.register(self._probe.fd, select.POLLIN | select.POLLPRI)
        lost = False
        while not self._closed:
            now = time.monotonic()
            try:
                self._reading = self._probe.reading()
                lost = False
            except OSError as error:
                if not lost:
                    log.warning("It cannot be seen any more whether the virtual camera is read: %s", error)
                # The camera stays on rather than that somebody waits for a picture in vain.
                lost = self._reading = True
            self._debounce.update(self._reading, now)
            wanted = self._debounce.wanted(now)
            if wanted != self._wanted:
                with self._condition:
                    self._wanted = wanted
                    self._condition.notify_all()
                if self._changed is not None:
                    self._changed(wanted)
            due = self._debounce.due(now)
            if lost or self._probe.fd is None:
                due = PERIOD if due is None else min(due, PERIOD)
            events = poll.poll(None if due is None else 1000 * due + 1)
            if any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, event in events):
                time.sleep(PERIOD)  # the device has gone; it would be told again and again
