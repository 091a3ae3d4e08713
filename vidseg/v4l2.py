"""Video4Linux2 as the kernel speaks it: what a device is, its formats, sizes and rates, and its mapped buffers.

Pure Python over ``ioctl``, from the kernel's ``linux/videodev2.h`` and its "Linux Media Infrastructure userspace API".
Nothing here blocks: a device is opened with ``O_NONBLOCK`` and waited for with ``poll``, beside a second descriptor
that wakes the one who waits. The structures are those of 64-bit Linux, little-endian.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

from vidseg.frame import Color, Matrix, Size

CAPTURE, OUTPUT = 1, 2
"""V4L2_BUF_TYPE_VIDEO_CAPTURE, V4L2_BUF_TYPE_VIDEO_OUTPUT."""
CAP_CAPTURE, CAP_OUTPUT, CAP_CAPTURE_MPLANE = 0x1, 0x2, 0x1000
CAP_STREAMING, CAP_DEVICE_CAPS = 0x04000000, 0x80000000

_MMAP = 1
_ANY_FIELD = 0
_EXTENDED = 0xFEEDCAFE  # V4L2_PIX_FMT_PRIV_MAGIC: the fields after `priv` count
_FLAG_ERROR, _CLOCK, _MONOTONIC = 0x40, 0xE000, 0x2000
_DISCRETE = 1

_CAPABILITY = struct.Struct("=16s32s32s3I12x")
_FMTDESC = struct.Struct("=3I32s2I12x")
_FRMSIZE = struct.Struct("=9I8x")
_FRMIVAL = struct.Struct("=11I8x")
_FORMAT = struct.Struct("=I4x12I152x")
_PARM = struct.Struct("=6I180x")
_REQBUFS = struct.Struct("=4I4x")
_BUFFER = struct.Struct("=5I4x2q16x3I4xI12x")
_INT = struct.Struct("=i")


def _code(number: int, layout: struct.Struct, read: bool = True, write: bool = True) -> int:
    """Return the request number as ``_IOC`` of ``asm-generic/ioctl.h`` makes it."""
    return (2 * read + write) << 30 | layout.size << 16 | ord("V") << 8 | number


QUERYCAP = _code(0, _CAPABILITY, write=False)
ENUM_FMT = _code(2, _FMTDESC)
G_FMT, S_FMT = _code(4, _FORMAT), _code(5, _FORMAT)
REQBUFS, QUERYBUF = _code(8, _REQBUFS), _code(9, _BUFFER)
QBUF, DQBUF = _code(15, _BUFFER), _code(17, _BUFFER)
STREAMON, STREAMOFF = _code(18, _INT, read=False), _code(19, _INT, read=False)
G_PARM, S_PARM = _code(21, _PARM), _code(22, _PARM)
ENUM_FRAMESIZES, ENUM_FRAMEINTERVALS = _code(74, _FRMSIZE), _code(75, _FRMIVAL)


def supported() -> bool:
    """Whether this is a system whose structures are known here."""
    return sys.platform == "linux" and struct.calcsize("P") == 8 and sys.byteorder == "little"


def fourcc(text: str) -> int:
    """Return the number of a pixel format's four characters."""
    return int.from_bytes(text.ljust(4).encode("ascii"), "little")


def fourcc_name(number: int) -> str:
    """Return the four characters of a pixel format, without the blanks that fill up ``Y8  ``."""
    return (number & 0x7FFFFFFF).to_bytes(4, "little").decode("latin-1").rstrip()


@dataclass(frozen=True, slots=True)
class Capability:
    """What a device says of itself (VIDIOC_QUERYCAP); ``flags`` are those of this very node."""

    driver: str
    card: str
    bus: str
    flags: int

    @property
    def captures(self) -> bool:
        """Whether pictures can be read from it by mapped buffers."""
        return self.flags & (CAP_CAPTURE | CAP_STREAMING) == CAP_CAPTURE | CAP_STREAMING

    @property
    def loopback(self) -> bool:
        """Whether it is a virtual camera of v4l2loopback."""
        return self.driver.startswith("v4l2 loopback")


@dataclass(frozen=True, slots=True)
class Mode:
    """Pictures that a device can give.

    Attributes:
        fourcc: Pixel format, as ``MJPG``.
        size: ``(height, width)``; the largest, if it gives any up to it.
        smallest: The same as ``size``, unless it scales.
        step: By which sizes between grow.
        rates: Frames a second, fastest first; where any rate between two is possible, those two. Empty: unsaid.
    """

    fourcc: str
    size: Size
    smallest: Size
    step: Size = (1, 1)
    rates: tuple[Fraction, ...] = ()

    def nearest(self, wanted: Size) -> Size:
        """Return the size nearest to ``wanted`` that it has."""
        height, width = (
            min(max(low + round((want - low) / step) * step, low), high)
            for want, low, high, step in zip(wanted, self.smallest, self.size, self.step, strict=True)
        )
        return height, width


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How pictures lie in a buffer (struct v4l2_pix_format).

    Attributes:
        fourcc: Pixel format.
        size: ``(height, width)``.
        stride: Bytes from one row of the first plane to the next; 0 if it is compressed.
        length: Bytes of the largest picture.
        colorspace, encoding, quantization, transfer: V4L2_COLORSPACE_*, V4L2_YCBCR_ENC_*, V4L2_QUANTIZATION_* and
            V4L2_XFER_FUNC_*.
    """

    fourcc: str
    size: Size
    stride: int
    length: int
    colorspace: int = 0
    encoding: int = 0
    quantization: int = 0
    transfer: int = 0

    @property
    def color(self) -> Color:
        """What the numbers mean, by the kernel's V4L2_MAP_YCBCR_ENC_DEFAULT and V4L2_MAP_QUANTIZATION_DEFAULT."""
        encoding = self.encoding or {3: 2, 12: 2, 2: 8, 10: 6}.get(self.colorspace, 1)
        matrices: dict[int, Matrix] = {2: "bt709", 4: "bt709", 6: "bt2020", 7: "bt2020", 8: "bt709"}
        matrix = matrices.get(encoding, "bt601")
        full = self.quantization == 1 or (self.quantization == 0 and self.colorspace == 7)
        return Color(
            matrix=matrix,
            full_range=full,
            primaries={3: 1, 8: 1, 7: 1, 1: 6, 10: 9}.get(self.colorspace, 2),
            transfer={1: 1, 2: 13, 7: 16}.get(self.transfer, 2),
            matrix_code={"bt601": 6, "bt709": 1, "bt2020": 9}[matrix],
            range_code=2 if full else 1,
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """A filled buffer: valid until it is given back.

    Attributes:
        index: What to give back.
        data: The bytes of the picture, in the driver's own memory.
        time: When it was captured, in seconds of ``time.monotonic``; None if the driver uses another clock.
        sequence: Counts the frames of the device: a gap is a frame that no buffer was free for.
        broken: The driver says that the picture is damaged.
    """

    index: int
    data: memoryview
    time: float | None
    sequence: int
    broken: bool


class VideoDevice:
    """One open V4L2 device. ``OSError`` is the kernel's own, from every method.

    Args:
        path: As ``/dev/video0``.
        write: Whether it is opened for more than questions; questions need no right to write.
    """

    def __init__(self, path: str, *, write: bool = True) -> None:
        self.path = path
        self.fd = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC)
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        self._streaming = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop and close. May be called again."""
        if self.fd < 0:
            return
        try:
            self.stop()
        finally:
            fd, self.fd = self.fd, -1
            os.close(fd)

    # -- questions -----------------------------------------------------------------------------------------------

    def capability(self) -> Capability:
        """Return what the device says of itself."""
        driver, card, bus, _, flags, own = self._ask(QUERYCAP, _CAPABILITY, b"", b"", b"", 0, 0, 0)
        return Capability(_text(driver), _text(card), _text(bus), own if flags & CAP_DEVICE_CAPS else flags)

    def formats(self, kind: int = CAPTURE) -> list[str]:
        """Return the pixel formats, in the driver's order."""
        entries = self._enumerate(ENUM_FMT, _FMTDESC, lambda index: (index, kind, 0, b"", 0, 0))
        return [fourcc_name(entry[4]) for entry in entries]

    def modes(self) -> tuple[Mode, ...]:
        """Return what it can give, in the driver's order: empty sizes and rates are not said by it."""
        return tuple(mode for name in self.formats() for mode in self._sizes(name))

    def _sizes(self, name: str) -> Iterator[Mode]:
        code = fourcc(name)
        for entry in self._enumerate(ENUM_FRAMESIZES, _FRMSIZE, lambda index: (index, code, *(0,) * 7)):
            if entry[2] == _DISCRETE:
                size = smallest = (entry[4], entry[3])
                step = (1, 1)
            else:
                low_w, high_w, step_w, low_h, high_h, step_h = entry[3:9]
                size, smallest, step = (high_h, high_w), (low_h, low_w), (max(step_h, 1), max(step_w, 1))
            yield Mode(name, size, smallest, step, self._rates(code, size))

    def _rates(self, code: int, size: Size) -> tuple[Fraction, ...]:
        rates: set[Fraction] = set()
        height, width = size
        for entry in self._enumerate(
            ENUM_FRAMEINTERVALS, _FRMIVAL, lambda index: (index, code, width, height, *(0,) * 7)
        ):
            intervals = [entry[5:7]] if entry[4] == _DISCRETE else [entry[5:7], entry[7:9]]
            rates.update(Fraction(below, above) for above, below in intervals if above and below)
        return tuple(sorted(rates, reverse=True))

    # -- format and rate -----------------------------------------------------------------------------------------

    def format(self, kind: int = CAPTURE) -> PixelFormat:
        """Return the format that is set."""
        return self._pixel_format(self._ask(G_FMT, _FORMAT, kind, *(0,) * 12))

    def set_format(self, name: str, size: Size, kind: int = CAPTURE) -> PixelFormat:
        """Ask for a format; returns what the driver made of it."""
        height, width = size
        pix = (width, height, fourcc(name), _ANY_FIELD, 0, 0, 0, _EXTENDED, 0, 0, 0, 0)
        return self._pixel_format(self._ask(S_FMT, _FORMAT, kind, *pix))

    def _pixel_format(self, values: tuple[int, ...]) -> PixelFormat:
        _, width, height, code, _, stride, length, space, priv, _, encoding, quantization, transfer = values
        if priv != _EXTENDED:  # an old driver: what follows `priv` is not set
            encoding = quantization = transfer = 0
        return PixelFormat(fourcc_name(code), (height, width), stride, length, space, encoding, quantization, transfer)

    def fps(self) -> Fraction | None:
        """Return the frame rate that is set, or None if the driver does not say."""
        try:
            values = self._ask(G_PARM, _PARM, CAPTURE, *(0,) * 5)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                return None
            raise
        return Fraction(values[4], values[3]) if values[3] and values[4] else None

    def set_fps(self, fps: Fraction, kind: int = CAPTURE) -> Fraction | None:
        """Ask for a frame rate; returns what the driver made of it."""
        try:
            values = self._ask(S_PARM, _PARM, kind, 0, 0, fps.denominator, fps.numerator, 0)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                return self.fps()
            raise
        return Fraction(values[4], values[3]) if values[3] and values[4] else None

    def claim(self) -> None:
        """Begin to feed a device of v4l2loopback, whose format is set, by ``write``.

        Version 0.12 does not take a program that only writes for a writer, and so does not notice that it has left:
        with ``exclusive_caps`` the device then takes no other, until its module is loaded again. One that was left like
        that comes back to life when it is claimed and closed. Later versions do all this by themselves, or refuse it.
        """
        with suppress(OSError):
            self._ask(STREAMON, _INT, OUTPUT)

    # -- frames --------------------------------------------------------------------------------------------------

    def start(self, buffers: int = 4) -> None:
        """Map buffers, hand them to the driver and begin to stream."""
        count = self._ask(REQBUFS, _REQBUFS, buffers, CAPTURE, _MMAP, 0)[0]
        if count < 2:
            raise OSError(errno.ENOMEM, "the driver has no buffers")
        for index in range(count):
            values = self._ask(QUERYBUF, _BUFFER, index, CAPTURE, *(0,) * 5, 0, _MMAP, 0, 0)
            # MAP_SHARED and PROT_READ: the driver fills it, nobody here writes.
            mapped = mmap.mmap(self.fd, values[10], mmap.MAP_SHARED, mmap.PROT_READ, offset=values[9])
            self._maps.append(mapped)
            self._views.append(memoryview(mapped))
            self.give(index)
        self._ask(STREAMON, _INT, CAPTURE)
        self._streaming = True

    def stop(self) -> None:
        """End streaming and give the buffers back. What was taken must no longer be used."""
        if self._streaming:
            self._streaming = False
            self._forgiving(STREAMOFF, _INT, CAPTURE)
        for view, mapped in zip(self._views, self._maps, strict=True):
            with suppress(BufferError):  # an array still looks at it: it goes with the array
                view.release()
                mapped.close()
        if self._maps:
            self._forgiving(REQBUFS, _REQBUFS, 0, CAPTURE, _MMAP, 0)
        self._views, self._maps = [], []

    def wait(self, timeout: float, wake: int) -> bool:
        """Wait for a frame, an error, ``timeout`` seconds, or something to read from the descriptor ``wake``.

        Returns:
            Whether it is worth to ``take``.
        """
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(wake, select.POLLIN)
        return any(fd == self.fd for fd, _ in poll.poll(max(timeout, 0) * 1000))

    def take(self) -> Taken | None:
        """Return the oldest filled buffer, or None if there is none yet."""
        try:
            values = self._ask(DQBUF, _BUFFER, 0, CAPTURE, *(0,) * 5, 0, _MMAP, 0, 0)
        except BlockingIOError:
            return None
        index, _, used, flags, _, seconds, microseconds, sequence, *_ = values
        monotonic = flags & _CLOCK == _MONOTONIC and (seconds or microseconds)
        return Taken(
            index=index,
            data=self._views[index][:used],
            time=seconds + microseconds / 1e6 if monotonic else None,
            sequence=sequence,
            broken=bool(flags & _FLAG_ERROR),
        )

    def give(self, index: int) -> None:
        """Hand a buffer to the driver to be filled (again)."""
        self._ask(QBUF, _BUFFER, index, CAPTURE, *(0,) * 5, 0, _MMAP, 0, 0)

    # -- ioctl ---------------------------------------------------------------------------------------------------

    def _ask(self, request: int, layout: struct.Struct, *values: int | bytes) -> tuple[Any, ...]:
        buffer = bytearray(layout.pack(*values))
        fcntl.ioctl(self.fd, request, buffer, True)
        return layout.unpack(buffer)

    def _forgiving(self, request: int, layout: struct.Struct, *values: int) -> None:
        """Ask; a device that is gone has nothing to stop."""
        try:
            self._ask(request, layout, *values)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EINVAL, errno.EIO, errno.ENOTTY):
                raise

    def _enumerate(
        self, request: int, layout: struct.Struct, question: Callable[[int], tuple[int | bytes, ...]]
    ) -> Iterator[tuple[Any, ...]]:
        for index in range(1000):  # a driver that never says EINVAL
            try:
                values = self._ask(request, layout, *question(index))
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOTTY):
                    return
                raise
            yield values
            if request != ENUM_FMT and values[2 if request == ENUM_FRAMESIZES else 4] != _DISCRETE:
                return  # a range is one entry


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()
