"""A camera of Linux, read without a detour: its buffers become the planes of 4:2:0."""

from __future__ import annotations

import errno
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Self, cast

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from vidseg import kernels
from vidseg.devices import FORMATS, PACKINGS, holders
from vidseg.errors import DeviceUnavailableError, SourceError
from vidseg.frame import Color, Frame, Plane, Size, StreamInfo, allocate, chroma_size
from vidseg.resize import halve
from vidseg.sources.camera import CameraMode
from vidseg.sources.pyav import plane_view
from vidseg.v4l2 import Mode, PixelFormat, Taken, VideoDevice

SILENCE = 10.0
"""Seconds without a picture after which a camera is given up: some take seconds to begin."""
TIME_BASE = Fraction(1, 1_000_000)
_JPEG = PACKINGS["mjpeg"]
# Bits by which luma, Cb and Cr are shifted in a 16- and a 32-bit word.
_PACKED = {"YUYV": (0, 8, 24), "YVYU": (0, 24, 8), "UYVY": (8, 0, 16), "VYUY": (8, 16, 0)}
_SEMIPLANAR = {"NV12": False, "NV21": True}
_PLANAR = {"YU12": False, "YV12": True}
_COST = {fourcc: cost for cost, group in enumerate(PACKINGS.values()) for fourcc in group}
_MEANT = {**PACKINGS, "auto": tuple(_COST)}


def choose_mode(modes: Sequence[Mode], wanted: CameraMode) -> tuple[str, Size, Fraction | None] | None:
    """Return the pixel format, size and rate that suit best; None if no format can be read here.

    What was asked for outweighs what was not; then a rate of 30 outweighs a size of 1280x720, and both the format:
    4:2:0 before 4:2:2 before JPEG, which has to be decoded. A USB 2 camera gives 720p at 10 frames a second raw and
    at 30 as JPEG.
    """
    size, fps = wanted.size or (720, 1280), wanted.fps or Fraction(30)
    best: tuple[float, str, Size, Fraction | None] | None = None
    for mode in modes:
        if mode.fourcc not in _MEANT[wanted.pixel_format]:
            continue
        height, width = near = mode.nearest(size)
        # Octaves of area, of shape and of a rate that falls short.
        apart = abs(math.log2(height * width / (size[0] * size[1])))
        apart += abs(math.log2(width * size[0] / (height * size[1]))) / 2
        rate = choose_rate(mode.rates, fps)
        slow = max(math.log2(fps / rate), 0.0) if rate else 0.0
        score = apart * (8 if wanted.size else 1) + slow * (4 if wanted.fps else 2) + _COST[mode.fourcc] / 50
        score += 10 * (mode.fourcc in PACKINGS["grey"])
        if best is None or score < best[0] - 1e-9:
            best = (score, mode.fourcc, near, rate)
    return best[1:] if best else None


def choose_rate(rates: Sequence[Fraction], wanted: Fraction) -> Fraction | None:
    """Return the slowest rate that is enough (29.97 is for 30), else the fastest; None if none is said."""
    enough = [rate for rate in rates if rate >= wanted * Fraction(99, 100)]
    return min(enough) if enough else max(rates, default=None)


class V4L2Source:
    """Yields the newest frame of a V4L2 camera whenever it is asked; what came in between is dropped and counted.

    ``Frame.time`` is when the driver captured it, on ``time.monotonic``'s clock. Raw planes are copied out of the
    driver's buffers; those of a JPEG are the decoder's, its 4:2:2 chroma halved. ``close`` from another thread ends the
    wait for a frame at once: no call here blocks in the driver.

    Args:
        path: As ``/dev/video0``.
        wanted: The mode to come near to.
        name: What to call the camera in messages.

    Raises:
        DeviceUnavailableError: It is busy, gone or may not be used, or has not the pixel format that was asked for.
        SourceError: It has no pixel format that can be read here; others may.
    """

    truncated = False

    def __init__(self, path: str, wanted: CameraMode, name: str = "") -> None:
        self._path, self._name = path, name or path
        self._corrupt = self._dropped = 0
        self._closed = False
        self._lock = threading.Lock()
        self._awake, self._wake = socket.socketpair()
        self._device: VideoDevice | None = None
        self._decoder: VideoCodecContext | None = None
        self._reformatter: VideoReformatter | None = None
        self._neutral: Plane | None = None
        self._last_pts, self._last_sequence = -1, -1
        self._ends = False  # whether this camera's JPEGs have an end
        try:
            with _using(self._name, path):
                self._device = device = VideoDevice(path)
                self._format, fps = self._negotiate(device, wanted)
                device.start()
            self._info = self._describe(self._format, fps)
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> StreamInfo:
        """What the stream promises; ``fps`` is what the driver promised, in the dark it may be less."""
        return self._info

    @property
    def corrupt(self) -> int:
        """How many pictures could not be decoded so far."""
        return self._corrupt

    @property
    def dropped(self) -> int:
        """How many pictures came while nobody asked."""
        return self._dropped

    @property
    def notes(self) -> tuple[str, ...]:
        """The mode, in a sentence."""
        return (self._note,)

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._next()) is not None:
            yield frame

    def close(self) -> None:
        """Stop the camera and release it. May be called again, and while another thread waits for a frame."""
        self._closed = True
        try:
            self._wake.send(b"x")
        except OSError:  # closed already
            return
        # A thread that waits for a frame holds the lock; it has been woken, and releases everything itself.
        if self._lock.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"V4L2Source({self._path!r})"

    def _release(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.close()
        self._decoder = None
        self._awake.close()
        self._wake.close()

    # -- opening -------------------------------------------------------------------------------------------------

    def _negotiate(self, device: VideoDevice, wanted: CameraMode) -> tuple[PixelFormat, Fraction | None]:
        capability = device.capability()
        if not capability.captures:
            if capability.loopback:
                raise DeviceUnavailableError(f"{self._name} shows nothing yet: start what feeds it", url=self._path)
            raise SourceError(f"{self._name} gives no pictures by mapped buffers", url=self._path)
        modes = device.modes()
        if not modes:  # it has the one format that is set, or tells nothing
            now = device.format()
            modes = (Mode(now.fourcc, now.size, now.size),)
        chosen = choose_mode(modes, wanted)
        if chosen is None:
            there = ", ".join(dict.fromkeys(FORMATS.get(mode.fourcc, mode.fourcc) for mode in modes))
            if wanted.pixel_format != "auto":
                what = f"no {wanted.pixel_format.upper()}, only {there}: choose --pixel-format auto"
                raise DeviceUnavailableError(f"{self._name} gives {what}", url=self._path)
            raise SourceError(f"{self._name} gives {there}, none of which is read here", url=self._path)
        name, size, rate = chosen
        form = device.set_format(name, size)
        if form.fourcc not in _COST:
            raise SourceError(f"{self._name} gives {form.fourcc} although {name} was chosen", url=self._path)
        fps = device.set_fps(rate or wanted.fps or Fraction(30))
        self._note = _sentence(f"{self._name} ({self._path})", form, fps, wanted)
        return form, fps

    def _describe(self, form: PixelFormat, fps: Fraction | None) -> StreamInfo:
        color = form.color
        if form.fourcc in _JPEG:  # JFIF is BT.601 and full range, whatever the driver says
            color = Color("bt601", True, color.primaries, color.transfer, 5, 2)
            decoder = av.CodecContext.create("mjpeg", "r")
            assert isinstance(decoder, VideoCodecContext)
            decoder.thread_count = 1  # threads here are pictures in flight: latency
            self._decoder = decoder
        return StreamInfo(
            size=form.size,
            fps=fps,
            time_base=TIME_BASE,
            color=color,
            subsampled=chroma_size(form.size) != form.size,
            live=True,
            name=self._name,
        )

    # -- frames --------------------------------------------------------------------------------------------------

    def _next(self) -> Frame | None:
        frame = None
        with self._lock:
            if not self._closed and self._device is not None:
                with _using(self._name, self._path):
                    frame = self._wait(self._device)
            if self._closed:
                self._release()
                return None
        return frame

    def _wait(self, device: VideoDevice) -> Frame | None:
        until, promised = time.monotonic() + SILENCE, False
        while not self._closed:
            left = until - time.monotonic()
            if left <= 0:
                raise SourceError(f"{self._name} gave no picture for {SILENCE:.0f} seconds: plug it in again")
            taken = self._newest(device)
            if taken is None:
                if promised:  # a driver that says it has a frame, and has none, shall not keep a core busy
                    time.sleep(0.002)
                promised = device.wait(left, self._awake.fileno())
                continue
            promised = False
            try:
                frame = self._frame(taken)
            finally:
                taken.data.release()
                device.give(taken.index)
            if frame is not None:
                return frame
            self._corrupt += 1
        return None

    def _newest(self, device: VideoDevice) -> Taken | None:
        newest: Taken | None = None
        while (taken := device.take()) is not None:
            if newest is not None:
                newest.data.release()
                device.give(newest.index)
            newest = taken
        if newest is not None:
            if 0 <= self._last_sequence < newest.sequence:
                self._dropped += newest.sequence - self._last_sequence - 1
            self._last_sequence = newest.sequence
        return newest

    def _frame(self, taken: Taken) -> Frame | None:
        """Return the picture in a buffer, or None if it is damaged."""
        if taken.broken or not len(taken.data):
            return None
        color = self._info.color
        if self._decoder is not None:
            planes = self._decoded(self._decoder, taken.data)
        elif len(taken.data) < _least(self._format):
            planes = None
        else:
            planes = unpack(np.frombuffer(taken.data, np.uint8), self._format)
        if planes is None:
            return None
        now = time.monotonic()
        captured = taken.time if taken.time is not None and now - 1 < taken.time <= now else now
        self._last_pts = pts = max(round(captured / TIME_BASE), self._last_pts + 1)
        return Frame(planes, pts, TIME_BASE, color)

    def _decoded(self, decoder: VideoCodecContext, data: memoryview) -> tuple[Plane, Plane, Plane] | None:
        if bytes(data[:2]) != b"\xff\xd8":
            return None
        # The decoder fills up a picture whose end is missing with grey, and does not say so.
        ends = b"\xff\xd9" in bytes(data[-4096:])
        if self._ends and not ends:
            return None
        self._ends = ends
        try:
            pictures = decoder.decode(av.Packet(bytes(data)))
        except (av.error.FFmpegError, ValueError):
            return None
        if not pictures or pictures[0].is_corrupt:
            return None
        picture = pictures[0]
        if (picture.height, picture.width) != self._info.size:
            raise SourceError(
                f"{self._name} changed its size to {picture.width}x{picture.height}: it has to be opened again"
            )
        return self._subsampled(picture)

    def _subsampled(self, picture: VideoFrame) -> tuple[Plane, Plane, Plane]:
        kind = picture.format.name.replace("yuvj", "yuv")
        if kind in ("yuv420p", "yuv422p"):
            y, u, v = (plane_view(picture, index, 8) for index in range(3))
            if kind == "yuv420p":
                return y, u, v
            return y, halve(u), halve(v)
        if kind == "gray":
            return plane_view(picture, 0, 8), *self._grey()
        if self._reformatter is None:
            self._reformatter = VideoReformatter()
        small = self._reformatter.reformat(picture, format="yuvj420p", interpolation="AREA", threads=1)
        y, u, v = (plane_view(small, index, 8) for index in range(3))
        return y, u, v

    def _grey(self) -> tuple[Plane, Plane]:
        if self._neutral is None:
            self._neutral = np.full(chroma_size(self._info.size), 128, np.uint8)
        return self._neutral, self._neutral


def unpack(data: npt.NDArray[np.uint8], form: PixelFormat) -> tuple[Plane, Plane, Plane]:
    """Return new 4:2:0 planes of a raw picture.

    Args:
        data: Its bytes, as the driver has them; they are not kept.
        form: How they lie there.
    """
    height, width = form.size
    y, u, v = cast("tuple[npt.NDArray[np.uint8], ...]", allocate(form.size))
    if form.fourcc in _PACKED:
        luma, first, second = _PACKED[form.fourcc]
        stride = max(form.stride, 4 * u.shape[1])
        row = _aligned(data, stride, 4, 4 * u.shape[1])
        kernels.unpack_luma(row.view(np.uint16), len(row) // height // 2, np.uint16(luma), y)
        shifts = np.uint32(first), np.uint32(second)
        kernels.unpack_chroma(row.view(np.uint32), len(row) // height // 4, height, *shifts, u, v)
        return y, u, v
    stride = max(form.stride, width)
    y[...] = _plane(data, stride, y.shape)
    rest = data[stride * height :]
    if form.fourcc in _SEMIPLANAR:
        if _SEMIPLANAR[form.fourcc]:
            u, v = v, u
        rows = u.shape[0]
        pairs = _aligned(rest[: stride * rows], stride, 2, 2 * u.shape[1])
        kernels.split_chroma(pairs.view(np.uint16), len(pairs) // rows // 2, u, v)
        return (y, v, u) if _SEMIPLANAR[form.fourcc] else (y, u, v)
    if form.fourcc in _PLANAR:
        if _PLANAR[form.fourcc]:
            u, v = v, u
        half = (stride + 1) // 2
        u[...] = _plane(rest, half, u.shape)
        v[...] = _plane(rest[half * u.shape[0] :], half, v.shape)
        return (y, v, u) if _PLANAR[form.fourcc] else (y, u, v)
    u[...] = v[...] = 128
    return y, u, v


def _least(form: PixelFormat) -> int:
    """Return how many bytes a whole raw picture has."""
    height, width = form.size
    rows = (height + 1) // 2
    if form.fourcc in _PACKED:
        return max(form.stride, 2 * width) * height
    stride = max(form.stride, width)
    return stride * height + {"GREY": 0}.get(form.fourcc, 2 * ((stride + 1) // 2) * rows)


def _plane(data: npt.NDArray[np.uint8], stride: int, shape: Size) -> npt.NDArray[np.uint8]:
    """Return a view of ``shape`` whose rows are ``stride`` bytes apart; the last row may be cut short after its end."""
    return np.lib.stride_tricks.as_strided(data, shape, (stride, 1), writeable=False)


def _aligned(data: npt.NDArray[np.uint8], stride: int, word: int, width: int) -> npt.NDArray[np.uint8]:
    """Return whole rows as one run of bytes that can be looked at in words; copied only where they cannot."""
    rows = len(data) // stride
    if stride % word == 0:
        return data[: rows * stride]
    return np.ascontiguousarray(_plane(data, stride, (rows, width))).reshape(-1)


def _sentence(name: str, form: PixelFormat, fps: Fraction | None, wanted: CameraMode) -> str:
    height, width = form.size
    text = f"{name}: {width}x{height} {FORMATS.get(form.fourcc, form.fourcc)}"
    text += f" at {float(fps):.4g} fps" if fps else ""
    asked = []
    if wanted.size is not None and wanted.size != form.size:
        asked.append(f"{wanted.size[1]}x{wanted.size[0]}")
    if wanted.fps is not None and fps is not None and abs(fps - wanted.fps) > wanted.fps / 50:
        asked.append(f"{float(wanted.fps):.4g} fps")
    return f"{text}, the nearest to {' and '.join(asked)}" if asked else text


@contextmanager
def _using(name: str, path: str) -> Iterator[None]:
    """Map the kernel's errors to one sentence."""
    try:
        yield
    except SourceError:
        raise
    except OSError as error:
        raise unavailable(error, name, path) from error


def unavailable(error: OSError, name: str, path: str) -> DeviceUnavailableError:
    """Return what to say of the kernel's error, with the mend."""
    code = error.errno
    if code in (errno.EACCES, errno.EPERM):
        reason = "may not be used by this user: sudo usermod -aG video $USER, and log in again"
    elif code == errno.EBUSY:
        who = " and ".join(map(str, holders(path))) or "another program"
        reason = f"is in use by {who}: close it there"
    elif code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        gone = "was unplugged" if os.path.exists(path) or code == errno.ENODEV else "does not exist"
        reason = f"{gone}: plug it in, or see 'vidseg devices'"
    elif code == errno.ENOSPC:
        reason = "finds its USB bus full: choose --pixel-format mjpeg or a smaller --size, or another socket"
    elif code in (errno.EIO, errno.EPROTO, errno.ETIMEDOUT):
        reason = f"does not answer ({error.strerror}): plug it in again"
    else:
        reason = f"cannot be read: {error.strerror or error}"
    return DeviceUnavailableError(f"{name} {reason}", url=path)
