"""A virtual camera of Linux, by v4l2loopback: frames are handed to the kernel as they are."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

from vidseg.devices import LOOPBACK_MEND, holders
from vidseg.errors import DeviceUnavailableError
from vidseg.frame import Frame, StreamInfo
from vidseg.sinks.i420 import even, to_i420
from vidseg.v4l2 import CAP_CAPTURE, CAP_OUTPUT, OUTPUT, VideoDevice

_FORMAT = "YU12"


class V4L2LoopbackSink:
    """Feeds ``/dev/videoN`` of v4l2loopback. A write never waits: a reader that is slow misses frames.

    The device takes YU12 (I420), and programs read that as BT.601, limited range: other frames are converted on their
    planes. The size stays for as long as anybody has the device open, also after this sink is closed.

    Args:
        path: As ``/dev/video10``, or a link to it.
        info: Of the frames that will be written.

    Raises:
        DeviceUnavailableError: It does not exist, is a camera, is fed by another program, is held at another size or
            may not be used.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, path: str, info: StreamInfo) -> None:
        self._path, self._info = path, info
        self._size = even(info.size)
        with self._using():
            self._device = VideoDevice(path)
        try:
            with self._using():
                self._open(info.fps or Fraction(30))
        except BaseException:
            self._device.close()
            raise

    @property
    def path(self) -> str:
        """Of the device."""
        return self._path

    def write(self, frame: Frame) -> None:
        """Show one frame from now on."""
        if frame.size != self._info.size:
            raise ValueError(f"the frame has another size than the stream: {frame.size = }, {self._info.size = }")
        with self._using():
            os.write(self._device.fd, to_i420(frame).data)

    def commit(self) -> None:
        """Leave the device. Programs that read it go on with what they make of a camera without pictures."""
        self._device.close()

    def abort(self, keep_partial: bool = False) -> str | None:
        """Leave the device."""
        self._device.close()
        return None

    def __repr__(self) -> str:
        return f"V4L2LoopbackSink({self._path!r})"

    def _open(self, fps: Fraction) -> None:
        capability = self._device.capability()
        if capability.loopback and not capability.flags & (CAP_CAPTURE | CAP_OUTPUT):
            self._device.claim()  # left by a writer that its driver did not know
            self._device.close()
            self._device = VideoDevice(self._path)
            capability = self._device.capability()
        if not capability.flags & CAP_OUTPUT:
            if not capability.loopback:
                raise self._unavailable(f"is a camera ({capability.card}), no virtual one: {LOOPBACK_MEND}")
            raise self._unavailable(f"is fed by another program already{self._held()}")
        form = self._device.set_format(_FORMAT, self._size, OUTPUT)
        if (form.fourcc, form.size) != (_FORMAT, self._size):
            height, width = form.size
            raise self._unavailable(
                f"stays at {width}x{height} {form.fourcc} while another program has it open{self._held()}; "
                f"or give --size {width}x{height}"
            )
        self._device.set_fps(fps, OUTPUT)
        self._device.claim()

    def _held(self) -> str:
        """Return who has the device open, and what to do about it."""
        who = " and ".join(map(str, holders(self._path)))
        return f": close {who}" if who else ""

    def _unavailable(self, reason: str) -> DeviceUnavailableError:
        return DeviceUnavailableError(f"{self._path} {reason}", url=self._path)

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Map the kernel's errors to one sentence."""
        try:
            yield
        except DeviceUnavailableError:
            raise
        except OSError as error:
            number = error.errno
            if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
                raise self._unavailable(f"does not exist: {LOOPBACK_MEND}") from error
            if number in (errno.EACCES, errno.EPERM):
                mend = "sudo usermod -aG video $USER, and log in again"
                raise self._unavailable(f"may not be used by this user: {mend}") from error
            if number in (errno.EBUSY, errno.EINVAL):
                raise self._unavailable(f"is in use by another program{self._held()}") from error
            if number == errno.ENOTTY:
                raise self._unavailable(f"is no video device: {LOOPBACK_MEND}") from error
            raise self._unavailable(f"cannot be written: {error.strerror or error}") from error
