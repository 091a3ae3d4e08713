"""Pictures on standard output, for another program to go on with: y4m, or the bare samples."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from contextlib import suppress
from fractions import Fraction

import numpy as np

from vidseg.color import to_color
from vidseg.errors import OutputClosedError, SinkError
from vidseg.frame import Color, Frame, Plane, StreamInfo
from vidseg.sinks import Content, check_alpha

NAME = "standard output"
_MEND = "vidseg pipe --bg beach.jpg | ffmpeg -i - out.mp4"
_DEPTHS = (8, 9, 10, 12, 14, 16)
_ROOM = 1 << 20  # bytes that a pipe may hold: what any user may ask for (pipe(7))
_CATCH_UP = 1.0  # seconds of missing frames that are made up for; more is a pause


def is_raw(url: str) -> bool:
    """Return whether ``url`` is standard output: ``-`` (y4m) or ``-:raw``."""
    return url == "-" or url.startswith("-:")


class RawSink:
    """Writes frames into a pipe, at the constant rate that such streams have by definition.

    y4m (yuv4mpeg(5) of the mjpegtools, with FFmpeg's tags for range and for more than 8 bits), or with ``-:raw`` the
    planes alone, one after the other: FFmpeg's ``yuv420p``, ``yuv420p10le``, ``yuva420p`` and so on. Pictures are
    turned upright. A frame that comes late is written more often and one that comes early is left out, as soon as the
    stream would else be off by more than a frame. Neither form can say where chroma sits or which matrix it has; the
    tag is ``420jpeg``, which FFmpeg, too, writes when it does not know.

    Args:
        url: ``-`` or ``-:raw``.
        info: Of the frames that will be written.
        content: ``grey`` writes luma alone; ``transparent`` needs ``-:raw``.
        fd: What is written to. It stays open.

    Raises:
        SinkError: It is a terminal or closed, or the form cannot hold these frames.
    """

    def __init__(self, url: str, info: StreamInfo, content: Content = "opaque", *, fd: int = 1) -> None:
        if url not in ("-", "-:raw"):
            raise SinkError(f"{url} is no output: write - for y4m, or -:raw", url=url)
        self._y4m = url == "-"
        if content == "transparent" and self._y4m:
            raise SinkError("y4m has no transparency: write -:raw (yuva420p), or a .webm or .mov file", url=url)
        if info.depth not in _DEPTHS:
            raise SinkError(f"{NAME} cannot be written: no pixel format has {info.depth} bits", url=url)
        self._info, self._content = info, content
        self._fps = info.fps or Fraction(30)
        self._turns = info.rotation // 90
        self._start: Fraction | None = None
        self._slots = self._repeated = self._left_out = 0
        self._fd, self._own = _opened(fd)
        self._closed = self._interrupted = False

    @property
    def notes(self) -> tuple[str, ...]:
        """How often the rate had to be mended."""
        told = []
        if self._repeated:
            told.append(f"{self._repeated} frames were repeated to keep the rate of {NAME}")
        if self._left_out:
            told.append(f"{self._left_out} frames were left out to keep the rate of {NAME}")
        return tuple(told)

    def write(self, frame: Frame) -> None:
        """Write a frame, as often as its time asks for."""
        check_alpha(frame, self._content)
        if frame.size != self._info.size:
            raise ValueError(f"the frame has another size than the stream: {frame.size = }, {self._info.size = }")
        if self._closed:
            raise ValueError(f"{NAME} is closed already")
        first = self._start is None
        times = self._times(frame.pts * frame.time_base)
        if not times:
            return
        if frame.color.matrix == "rgb":
            frame = to_color(frame, Color("bt709" if frame.size[0] >= 720 else "bt601"))
        planes = self._upright(frame)
        parts = [np.ascontiguousarray(plane).reshape(-1).view(np.uint8).data for plane in planes]
        if first and self._y4m:
            self._send(self._header(frame, planes).encode("ascii"))
        for _ in range(times):
            if self._y4m:
                self._send(b"FRAME\n")
            for part in parts:
                self._send(part)

    def commit(self) -> None:
        """Leave it to the reader: everything has been written."""
        self._close()

    def abort(self, keep_partial: bool = False) -> str | None:
        """Stop writing; what the reader has got it keeps."""
        self._close()
        return None

    def interrupt(self) -> None:
        """Let a ``write`` that waits for the reader give up."""
        self._interrupted = True

    def _close(self) -> None:
        if self._own and not self._closed:
            os.close(self._fd)
        self._closed = True

    def _times(self, time: Fraction) -> int:
        """Return how often the frame of that time is to be written."""
        if self._start is None:
            self._start = time
        late = float((time - self._start) * self._fps) - self._slots
        times = 1
        if late < -1.1:
            times, self._left_out = 0, self._left_out + 1
        elif late > 1.1:
            times = round(late)
            if times > _CATCH_UP * self._fps:  # nobody has written for a while: go on from here
                self._start = time - self._slots / self._fps
                times = 1
            self._repeated += times - 1
        self._slots += times
        return times

    def _upright(self, frame: Frame) -> list[Plane]:
        planes: list[Plane] = list(frame.planes[: 1 if self._content == "grey" else 3])
        if frame.alpha is not None:
            top = (1 << frame.depth) - 1
            deep = (frame.alpha.astype(np.uint32) * top + 127) // 255
            planes.append(deep.astype(np.uint8) if frame.depth == 8 else deep.astype(np.uint16))
        planes = [np.rot90(plane, self._turns) for plane in planes]
        return [plane[:, ::-1] for plane in planes] if self._info.mirrored else planes

    def _header(self, frame: Frame, planes: list[Plane]) -> str:
        height, width = planes[0].shape
        chroma = "mono" if self._content == "grey" else "420" if planes[0].shape != planes[1].shape else "444"
        if (height, width) == (1, 1) and chroma == "444":
            chroma = "420"
        if frame.depth > 8:
            chroma += f"{frame.depth}" if chroma == "mono" else f"p{frame.depth}"
        elif chroma == "420":
            chroma = "420jpeg"
        aspect = 1 / self._info.sample_aspect if self._turns % 2 else self._info.sample_aspect
        spread = "FULL" if frame.color.full_range else "LIMITED"
        return (
            f"YUV4MPEG2 W{width} H{height} F{self._fps.numerator}:{self._fps.denominator} Ip "
            f"A{aspect.numerator}:{aspect.denominator} C{chroma} XYSCSS={chroma.upper()} XCOLORRANGE={spread}\n"
        )

    def _send(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while len(rest):
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                self._wait()
            except BrokenPipeError as error:
                raise OutputClosedError(f"{NAME} is read no more", url="-") from error
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                raise SinkError(
                    f"The disk is full: {NAME} could not be written"
                    if full
                    else f"{NAME} cannot be written: {error.strerror or error}",
                    url="-",
                ) from error

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not poll.poll(200):
            if self._interrupted:
                raise OutputClosedError(f"{NAME} is not read", url="-")


def _opened(fd: int) -> tuple[int, bool]:
    """Return what to write to, and whether it has to be closed.

    A pipe is opened again where that can be done: it then does not block, and whoever else writes to it keeps theirs.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        raise SinkError(f"{NAME} is closed: {_MEND}", url="-") from error
    if os.isatty(fd):
        raise SinkError(f"{NAME} is a terminal: {_MEND}", url="-")
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(fd, os.O_BINARY)
    elif stat.S_ISFIFO(mode):
        with suppress(OSError):
            again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with suppress(OSError, ImportError, AttributeError):
                import fcntl

                fcntl.fcntl(again, fcntl.F_SETPIPE_SZ, _ROOM)
            return again, True
    return fd, False
