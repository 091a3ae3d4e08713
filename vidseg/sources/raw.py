"""Pictures on standard input: y4m, or bare samples of a size and format that are told."""

from __future__ import annotations

import os
import re
import select
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import av

from vidseg.errors import SourceError
from vidseg.frame import Size
from vidseg.sources.pyav import PyAVSource

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

NAME = "standard input"
_MEND = "ffmpeg -i talk.mp4 -f yuv4mpegpipe - | vidseg pipe --bg beach.jpg | ffmpeg -i - out.mp4"
_MAGIC, _FRAME = b"YUV4MPEG2", b"FRAME"
_LONGEST = 4096  # bytes of a header; FFmpeg's own stop at 128
_BLOCK = 1 << 20
# Chroma of y4m that FFmpeg reads: yuv4mpeg(5) of the mjpegtools, and FFmpeg's own for more bits.
_CHROMA = re.compile(r"420(jpeg|mpeg2|paldv)?|41[01]|422|444(alpha)?|mono|(420|422|444)p(9|1[0246])|mono(9|1[0246])")


@dataclass(frozen=True, slots=True)
class RawFormat:
    """What bare samples are; ``-:raw:1280x720:30:yuv420p`` in the name of a source.

    Attributes:
        size: ``(height, width)``.
        fps: Frames a second.
        pixel_format: In FFmpeg's words: ``yuv420p``, ``nv12``, ``yuyv422``, ``rgb24`` …
    """

    size: Size
    fps: Fraction = Fraction(30)
    pixel_format: str = "yuv420p"

    def __str__(self) -> str:
        return f"-:raw:{self.size[1]}x{self.size[0]}:{self.fps}:{self.pixel_format}"

    @classmethod
    def from_name(cls, name: str) -> RawFormat:
        """Return what the name of a source says.

        Raises:
            ValueError: It says it in another form.
        """
        match = re.fullmatch(r"-:raw:(\d{1,5})x(\d{1,5})(?::(\d+(?:/\d+|\.\d+)?))?(?::([a-z0-9_]+))?", name)
        if match is None or not int(match[1]) or not int(match[2]) or not Fraction(match[3] or 30):
            raise ValueError(f"{name} is no raw input: write -:raw:WIDTHxHEIGHT:FPS:FORMAT, as -:raw:1280x720:30:nv12")
        return cls((int(match[2]), int(match[1])), Fraction(match[3] or 30), match[4] or "yuv420p")


def is_raw(url: str) -> bool:
    """Return whether ``url`` is standard input: ``-``, or ``-:raw:…``."""
    return url == "-" or url.startswith("-:")


class RawSource(PyAVSource):
    """Yields the frames of y4m or raw video that another program writes into a pipe.

    What a ``Frame`` cannot hold is made 4:2:0 of 8 or 10 bits, what is interlaced is deinterlaced, as with files.

    Args:
        name: ``-`` is y4m; else see ``RawFormat``.
        fd: What is read.

    Raises:
        SourceError: Nothing comes, or something else.
        ValueError: ``name`` is none.
    """

    def __init__(self, name: str = "-", fd: int = 0) -> None:
        form = None if name == "-" else RawFormat.from_name(name)
        self._pipe = _Pipe(fd)
        self._packet = 0  # bytes of a frame
        super().__init__(NAME, lambda url: _open(self._pipe, form))
        self._info = replace(self._info, live=False)  # nothing is dropped: who writes waits

    @property
    def truncated(self) -> bool:
        """Whether it ended within a frame. Known once the iteration has ended."""
        return super().truncated or self._pipe.left_over(self._packet)

    def close(self) -> None:
        """End the wait for a frame. Standard input itself stays open."""
        self._pipe.closed = True
        super().close()

    def _demux(self) -> Iterator[Packet[VideoStream]]:
        for packet in super()._demux():
            self._packet = self._packet or packet.size
            yield packet


def _open(pipe: _Pipe, form: RawFormat | None) -> InputContainer:
    if form is None:
        _check(pipe.header())
        return av.open(pipe, "r", format="yuv4mpegpipe", buffer_size=_BLOCK)
    options = {
        "video_size": f"{form.size[1]}x{form.size[0]}",
        "framerate": str(form.fps),
        "pixel_format": form.pixel_format,
    }
    try:
        av.VideoFormat(form.pixel_format, 16, 16)
    except ValueError as error:
        text = f"{form.pixel_format} is no pixel format of FFmpeg: choose yuv420p, nv12, yuyv422, rgb24 …"
        raise SourceError(text, url=NAME) from error
    if not pipe.header():
        raise SourceError(f"nothing came on {NAME}: write {form.pixel_format} into it", url=NAME)
    return av.open(pipe, "r", format="rawvideo", options=options, buffer_size=_BLOCK)


def _check(header: bytes) -> None:
    """Say clearly what is wrong with the first line of a y4m before FFmpeg is asked.

    Raises:
        SourceError: It is not y4m, or of a kind that cannot be read.
    """
    if not header:
        raise SourceError(f"nothing came on {NAME}: {_MEND}", url=NAME)
    if not header.startswith(_MAGIC + b" ") or not header.endswith(b"\n"):
        raise SourceError(f"{NAME} is not y4m: {_MEND}", url=NAME)
    words = header.decode("latin-1").split()[1:]
    said = {word[0]: word[1:] for word in words if word[0] != "X"}
    if not said.get("W", "").strip("0").isdigit() or not said.get("H", "").strip("0").isdigit():
        raise SourceError(f"{NAME} is y4m without a size: it begins with {header[:60].decode('latin-1')!r}", url=NAME)
    chroma = said.get("C", "420")
    if not _CHROMA.fullmatch(chroma):
        raise SourceError(
            f"{NAME} is y4m with chroma {chroma}, which is not known here: give -pix_fmt yuv420p to what writes it",
            url=NAME,
        )
    if said.get("I", "p") == "m":
        raise SourceError(
            f"{NAME} is y4m of mixed fields and frames, which cannot be told apart: give -vf bwdif to what writes it",
            url=NAME,
        )


class _Pipe:
    """Standard input as a file of PyAV, that stops waiting when ``closed`` is set."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._begin = b""
        self._header = 0
        self._bare = self._ended = False
        self._total = 0
        self.closed = False
        try:
            mode = os.fstat(fd).st_mode
        except OSError as error:
            raise SourceError(f"{NAME} is closed: {_MEND}", url=NAME) from error
        if stat.S_ISCHR(mode) and os.isatty(fd):
            raise SourceError(f"{NAME} is a terminal: {_MEND}", url=NAME)
        self._poll = None
        if not stat.S_ISREG(mode) and hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
        if sys.platform == "win32":
            import msvcrt

            msvcrt.setmode(fd, os.O_BINARY)

    def header(self) -> bytes:
        """Return the first line, or the first bytes if there is none; they are read again later."""
        while b"\n" not in self._begin and len(self._begin) < _LONGEST:
            more = self._take(_LONGEST)
            if not more:
                break
            self._begin += more
            if not self._begin.startswith(_MAGIC[: len(self._begin)]):
                break
        line, end, after = self._begin.partition(b"\n")
        y4m = line.startswith(_MAGIC)
        self._header = len(line) + len(end) if y4m else 0
        while y4m and end and len(after) <= len(_FRAME):
            more = self._take(_LONGEST)
            if not more:
                break
            self._begin, after = self._begin + more, after + more
        self._bare = not y4m or after.startswith(_FRAME + b"\n")
        return (line + end)[:_LONGEST]

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        if self._begin:
            taken, self._begin = self._begin[:size], self._begin[size:]
        else:
            taken = self._take(size)
        self._total += len(taken)
        return taken

    def left_over(self, packet: int) -> bool:
        """Whether what was read is no whole number of frames, each of ``packet`` bytes."""
        if not packet or not self._bare or not self._ended:
            return False
        mark = len(_FRAME) + 1 if self._header else 0
        return (self._total - self._header) % (packet + mark) != 0

    def _take(self, size: int) -> bytes:
        while not self.closed:
            if self._poll is None or self._poll.poll(200):
                taken = os.read(self._fd, size)
                self._ended = not taken
                return taken
        return b""
