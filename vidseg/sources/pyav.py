"""Video files and network streams through FFmpeg (PyAV)."""

from __future__ import annotations

import math
import os
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self, cast

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from vidseg.errors import SourceError, SourceNotFoundError, redacted
from vidseg.frame import Color, Frame, Mastering, Matrix, Plane, Size, StreamInfo, chroma_size
from vidseg.resize import halve

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.format import VideoFormat
    from av.video.stream import VideoStream

    from vidseg.sources import Lent

TIMEOUT = 15.0
"""Seconds that a network stream may be silent."""

LIVE = {"rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "rtp", "srt", "udp"}
"""Schemes whose frames come in real time."""
# Formats whose header says how long the stream is; others are estimates from a bit rate or the file's own end.
_ANNOUNCED = ("mov,mp4", "matroska", "avi", "flv", "asf")
_TOO_MANY_ERRORS = 100  # in a row, from the demuxer; a damaged file recovers sooner or never
# Codecs of which every packet is one picture that is shown, unless it was coded in fields.
_ONE_TO_ONE = {"h264", "hevc", "mjpeg", "prores", "ffv1"}
# Side data of pictures that no encoder here takes.
_LEFT_OUT = {
    "A53_CC": "closed captions",
    "DOVI_METADATA": "Dolby Vision hints",
    "DYNAMIC_HDR_PLUS": "HDR10+ hints",
}
_MATRICES: dict[int, Matrix] = {
    1: "bt709",
    4: "bt601",  # FCC: differs from BT.601 in the third decimal
    5: "bt601",
    6: "bt601",
    7: "bt709",  # SMPTE 240M: differs from BT.709 in the third decimal
    9: "bt2020",
    10: "bt2020",
}
_FAR = {"nv12": 8, "p010le": 10}
"""Formats in which pictures may stay on a GPU, with their depth."""
_AS_IS = {"yuv420p": 8, "yuvj420p": 8, "yuva420p": 8, "yuv420p10le": 10, "yuva420p10le": 10}
"""Formats whose first three planes are a ``Frame``'s, with their depth."""


def scheme(url: str) -> str:
    """Return the URL scheme in lower case, or "" for the name of a file."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", url)
    return match[1].lower() if match else ""


def ffmpeg_name(url: str) -> str:
    """Return ``url`` such that FFmpeg does not take ``talk: part 1.mp4`` for a protocol."""
    return url if scheme(url) else f"file:{os.path.abspath(url)}"


def open_container(url: str, device: str | None = None, stay: bool = False) -> InputContainer:
    """Open a file or URL for reading; metadata that is not UTF-8 survives as surrogates.

    Args:
        url: See ``PyAVSource``.
        device: ``cuda:1``: the GPU decodes what it can.
        stay: Whether its pictures stay there, or come down to the host's memory.
    """
    options, kind = {}, scheme(url)
    gpu = None
    if device:
        gpu = HWAccel("cuda", device.partition(":")[2] or "0", allow_software_fallback=True, is_hw_owned=stay)
    if kind in ("rtsp", "rtsps"):
        options["rtsp_transport"] = "tcp"
    return av.open(
        ffmpeg_name(url),
        "r",
        options=options,
        metadata_errors="surrogateescape",
        timeout=TIMEOUT if kind not in ("", "file") else None,
        hwaccel=gpu,
    )


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Return the streams that move, best first: cover pictures and thumbnails are left out."""
    wanted = [
        stream
        for stream in container.streams.video
        if not stream.disposition & (av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails)
    ]
    best = container.streams.best("video")
    return sorted(wanted, key=lambda stream: best is None or stream.index != best.index)


class PyAVSource:
    """Yields the frames of a video file or URL in 4:2:0, 8 or 10 bits, without a copy where the stream is that already.

    The planes are views of the decoder's memory and keep it alive. Never write into them: later frames may be
    predicted from them.

    Args:
        url: File or URL; in messages, what it is called.
        opened: Opens a camera or a live stream, whose frames are not to wait for those after them; None is a file.
        hwaccel: ``cuda:0`` lets that GPU decode; where it cannot, the CPU does, and ``notes`` say why.
        lent: Makes the planes of frames that stay there; see ``open_source``.

    Raises:
        SourceNotFoundError: There is nothing under that name.
        SourceError: It is not a video, or no frame of it can be decoded.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        opened: Callable[[str], InputContainer] | None = None,
        *,
        hwaccel: str | None = None,
        lent: Lent | None = None,
    ) -> None:
        self._url = os.fspath(url)
        self._live = opened is not None
        self._device, self._lent = hwaccel, lent
        self._corrupt = self._packets = 0
        self._truncated = False
        self._notes: dict[str, str] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._container: InputContainer | None = None
        self._reformatter = VideoReformatter()
        self._colors: dict[tuple[int, ...], Color] = {}
        self._neutral: Plane | None = None
        self._clock: _Clock | None = None
        if opened is None:
            _check_file(self._url)
        try:
            with _reading(self._url):
                self._container = self._accelerated(hwaccel) or (opened or open_container)(self._url)
                self._stream = self._choose()
                self._decoded = self._decode()
                first = next(self._decoded, None)
            if first is None:
                raise SourceError(f"{self._url} holds no frame that can be decoded", url=self._url)
            if lent is not None and hwaccel is not None and not _is_far(first):
                self._note("hwaccel", f"{self._name} is decoded by the CPU, {hwaccel} does not know its form")
            self._info = self._describe(first)
        except BaseException:
            self.close()
            raise
        self._first: VideoFrame | None = first

    @property
    def info(self) -> StreamInfo:
        """What the stream promises; ``color`` is that of the first frame."""
        return self._info

    @property
    def corrupt(self) -> int:
        """How many packets or frames could not be decoded so far."""
        return self._corrupt

    @property
    def truncated(self) -> bool:
        """Whether the stream ended clearly before its header says. Known once the iteration has ended."""
        return self._truncated

    @property
    def notes(self) -> tuple[str, ...]:
        """What was repaired, scaled or guessed, a sentence each."""
        notes = list(self._notes.values())
        repaired = self._clock.repaired if self._clock else 0
        if repaired:
            plural = "s were" if repaired > 1 else " was"
            notes.append(f"{repaired} timestamp{plural} missing or out of order in {self._name}: mended")
        return tuple(notes)

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._next()) is not None:
            yield frame

    def close(self) -> None:
        """Release the decoder. May be called again, and while another thread iterates."""
        self._closed = True
        # A thread that waits for a packet holds the lock; it releases everything itself when it comes back.
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
        return f"PyAVSource({redacted(self._url)!r})"

    def _next(self) -> Frame | None:
        frame = None
        with self._lock:
            if not self._closed:
                picture, self._first = self._first, None
                if picture is None:
                    with _reading(self._url):
                        picture = next(self._decoded, None)
                if picture is not None:
                    frame = self._frame(picture)
        if self._closed:
            with self._lock:
                self._release()
            return None
        return frame

    def _release(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            self._first = None
            # Decoder threads end when the last reference to their context goes: generator, stream, then container.
            self._decoded = iter(())
            self._stream = cast("VideoStream", None)
            container.close()

    def _accelerated(self, device: str | None) -> InputContainer | None:
        """Return the container opened for a GPU to decode; None if there is none, or it cannot."""
        if device is None:
            return None
        try:
            return open_container(self._url, device, self._lent is not None)
        except av.error.FileNotFoundError:
            raise
        except (av.error.FFmpegError, OSError, ValueError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._note("hwaccel", f"{self._name} is decoded by the CPU, {device} does not take it ({reason})")
            return None

    # -- opening -------------------------------------------------------------------------------------------------

    def _choose(self) -> VideoStream:
        container = cast("InputContainer", self._container)
        # FFmpeg draws any text file as a terminal would.
        if container.format.name == "tty":
            raise SourceError(f"{self._url} is not a video", url=self._url)
        streams = video_streams(container)
        if not streams:
            what = "sound but no video" if container.streams.audio else "no video"
            raise SourceError(f"{self._url} holds {what}", url=self._url)
        stream = streams[0]
        if stream.codec_context is None:
            raise SourceError(f"{self._url} is coded in a way that this FFmpeg cannot decode", url=self._url)
        for other in container.streams:
            if other.index != stream.index:
                other.discard = av.stream.Discard.all
        if len(streams) > 1:
            self._note("streams", f"{self._name} holds {len(streams)} video tracks: all but the best are left out")
        # Threads that decode whole frames hold back as many: latency.
        stream.thread_type = "SLICE" if self._live else "AUTO"
        if self._live:
            stream.codec_context.flags |= av.codec.context.Flags.low_delay
        return stream

    @property
    def _name(self) -> str:
        return os.path.basename(redacted(self._url)) or redacted(self._url)

    def _describe(self, frame: VideoFrame) -> StreamInfo:
        stream, container = self._stream, cast("InputContainer", self._container)
        time_base = _fraction(stream.time_base) or Fraction(1, 90000)
        fps = next(filter(None, map(_fraction, (stream.average_rate, stream.guessed_rate, stream.base_rate))), None)
        if frame.pts is None and frame.duration:  # an elementary stream: its demuxer's rate is made up
            fps = 1 / (frame.duration * time_base)
        duration = float(stream.duration * time_base) if stream.duration else (container.duration or 0) / 1e6
        self._clock = _Clock(time_base, fps)
        rotation, mirrored = self._orientation(frame)
        self._target, depth = _target(frame)
        if _stored(frame).name.startswith("yuva") or stream.metadata.get("alpha_mode", "0") != "0":
            self._note("alpha", f"The transparency of {self._name} is left out")
        for kind, what in _LEFT_OUT.items():
            if _side_data(frame, kind):
                self._note(kind, f"The {what} in the pictures of {self._name} are left out")
        return StreamInfo(
            size=(frame.height, frame.width),
            fps=fps,
            time_base=time_base,
            color=self._color(frame),
            depth=depth,
            subsampled=chroma_size((frame.height, frame.width)) != (frame.height, frame.width),
            rotation=rotation,
            mirrored=mirrored,
            sample_aspect=_fraction(stream.sample_aspect_ratio) or Fraction(1),
            mastering=_mastering(frame),
            frames=stream.frames,
            duration=max(duration, 0.0),
            live=self._live or scheme(self._url) in LIVE,
            name=self._name,
        )

    def _orientation(self, frame: VideoFrame) -> tuple[int, bool]:
        data = _side_data(frame, "DISPLAYMATRIX")
        if len(data) != 36:
            return 0, False
        matrix = struct.unpack("=9i", data)
        mirrored = matrix[0] * matrix[4] - matrix[1] * matrix[3] < 0
        # A mirrored matrix is a turn and then a change of sign of the first column (av_display_matrix_flip).
        a, c = (-matrix[0] if mirrored else matrix[0]), matrix[1]
        angle = -math.degrees(math.atan2(c, a)) % 360
        rotation = round(angle / 90) * 90 % 360
        if min(abs(angle - rotation), abs(angle - rotation - 360)) > 1:
            self._note("angle", f"{self._name} is to be shown turned by {angle:.0f} degrees: taken as {rotation}")
        return rotation, mirrored

    # -- decoding ------------------------------------------------------------------------------------------------

    def _demux(self) -> Iterator[Packet[VideoStream]]:
        container, errors = cast("InputContainer", self._container), 0
        packets = container.demux(self._stream)
        while not self._closed:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.BlockingIOError:  # a camera of macOS has no frame yet
                time.sleep(0.004)
                packets = container.demux(self._stream)
                continue
            except av.error.InvalidDataError:
                self._corrupt += 1
                errors += 1
                if errors > _TOO_MANY_ERRORS:
                    self._cut("it is damaged")
                    return
                packets = container.demux(self._stream)
                continue
            except (av.error.FFmpegError, OSError) as error:
                if not self._packets:
                    raise
                silent = isinstance(error, av.error.ExitError)
                reason = "no more answer" if silent else getattr(error, "strerror", None)
                self._cut(reason or str(error))
                return
            errors = 0
            yield packet

    def _cut(self, reason: str) -> None:
        self._truncated = True
        self._note("cut", f"Reading {self._name} ended early: {reason}")

    def _decode_packets(self) -> Iterator[VideoFrame]:
        stream = self._stream
        movie = cast("InputContainer", self._container).format.name.startswith("mov,mp4")
        one_to_one = stream.codec_context.name in _ONE_TO_ONE
        end: int | None = None
        flushed = False
        expected = got = 0
        for packet in self._demux():
            flushed = packet.size == 0
            if not flushed:
                self._packets += 1
                if packet.pts is not None:
                    end = max(end or packet.pts, packet.pts + (packet.duration or 0))
                if packet.is_corrupt:
                    self._corrupt += 1
                    if movie:  # cut off by the end of the file
                        continue
                expected += not packet.is_discard
            for picture in self._pictures(packet):
                got += 1
                one_to_one = one_to_one and not picture.interlaced_frame  # a packet may be a field
                yield picture
        if not flushed and not self._closed:
            for picture in self._pictures(None):
                got += 1
                yield picture
        if one_to_one:
            # Pictures whose references were damaged are withheld by the decoder without a word.
            self._corrupt = max(self._corrupt, expected - got)
        if self._is_short(stream, end):
            self._truncated = True

    def _pictures(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        try:
            frames = self._stream.decode(packet)
        except av.error.EOFError:
            return []
        except (av.error.FFmpegError, ValueError):
            self._corrupt += 1
            return []
        sound = [frame for frame in frames if not frame.is_corrupt and frame.width and frame.height]
        self._corrupt += len(frames) - len(sound)
        return sound

    def _decode(self) -> Iterator[VideoFrame]:
        """Yield pictures in order of presentation, deinterlaced."""
        deinterlacer: _Deinterlacer | None = None
        for picture in self._decode_packets():
            if deinterlacer is not None or picture.interlaced_frame:
                picture = self._brought(picture)
            if deinterlacer is None and picture.interlaced_frame:
                if picture.width < 6 or picture.height < 8:  # bwdif needs 3 x 4 chroma samples
                    self._note("interlaced", f"{self._name} is interlaced and too small to be deinterlaced")
                else:
                    deinterlacer = _Deinterlacer(picture, _fraction(self._stream.time_base) or Fraction(1, 90000))
                    self._note("interlaced", f"{self._name} is interlaced: deinterlaced (bwdif)")
            if deinterlacer is None:
                yield picture
                continue
            if not deinterlacer.fits(picture):
                yield from deinterlacer.flush()
                deinterlacer = _Deinterlacer(picture, _fraction(self._stream.time_base) or Fraction(1, 90000))
            yield from deinterlacer(picture)
        if deinterlacer is not None:
            yield from deinterlacer.flush()

    def _is_short(self, stream: VideoStream, end: int | None) -> bool:
        """Whether the stream gave clearly less than its header announced."""
        container = self._container
        if container is None or end is None or not container.format.name.startswith(_ANNOUNCED):
            return False
        time_base = _fraction(stream.time_base) or Fraction(1, 90000)
        if stream.duration:
            announced = ((stream.start_time or 0) + stream.duration) * time_base
        elif "DURATION" in stream.metadata:
            announced = _clock_text(stream.metadata["DURATION"])
        elif container.duration and len(container.streams) == 1:
            announced = Fraction(container.duration + (container.start_time or 0), 1_000_000)
        else:
            return False
        if stream.frames and self._packets >= stream.frames:
            return False
        fps = _fraction(stream.average_rate) or Fraction(25)
        return end * time_base + max(2 / fps, Fraction(1, 10)) < announced

    # -- frames --------------------------------------------------------------------------------------------------

    def _frame(self, picture: VideoFrame) -> Frame:
        info = self._info
        assert self._clock is not None
        pts = self._clock(picture.pts if picture.pts is not None else picture.dts)
        color = self._color(picture)
        size: Size = (picture.height, picture.width)
        if size != info.size:
            self._note(
                "size",
                f"{self._name} changes its size from {info.size[1]}x{info.size[0]} to {size[1]}x{size[0]}: "
                "scaled to the first",
            )
        return Frame(
            planes=self._planes(picture, color),
            pts=pts,
            time_base=info.time_base,
            color=color,
            depth=info.depth,
            duration=max(int(picture.duration or 0), 0),
        )

    def _brought(self, picture: VideoFrame) -> VideoFrame:
        """Return a picture in the host's memory."""
        if not _is_far(picture):
            return picture
        return self._reformatter.reformat(picture, format=_stored(picture).name, threads=1)

    def _far_planes(self, picture: VideoFrame) -> tuple[Plane, Plane, Plane] | None:
        """Return the planes of a picture that lies on the GPU, there; None if it has to come down."""
        height, width = self._info.size
        even = height % 2 == 0 and width % 2 == 0  # PyAV lends half of an odd size rounded down
        if (
            self._lent is None
            or not even
            or (picture.height, picture.width) != (height, width)
            or _FAR.get(_stored(picture).name) != self._info.depth
        ):
            return None
        try:
            return self._lent(picture.planes[0], picture.planes[1], self._info.depth)
        except (RuntimeError, NotImplementedError, BufferError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            self._note("lent", f"The pictures of {self._name} come down from {self._device} and go up again: {reason}")
            self._lent = None
            return None

    def _planes(self, picture: VideoFrame, color: Color) -> tuple[Plane, Plane, Plane]:
        if _is_far(picture):
            planes = self._far_planes(picture)
            if planes is not None:
                return planes
            picture = self._brought(picture)
        info, name = self._info, picture.format.name
        if (picture.height, picture.width) == info.size:
            if _AS_IS.get(name) == info.depth:
                y, u, v = (plane_view(picture, index, info.depth) for index in range(3))
                return y, u, v
            if name in ("yuv422p", "yuvj422p") and info.depth == 8:  # of most cameras' MJPEG
                y, u, v = (plane_view(picture, index, 8) for index in range(3))
                return y, halve(u), halve(v)
            if name == "gray" and info.depth == 8:
                return plane_view(picture, 0, 8), *self._neutral_chroma()
            if name in ("gray10le", "gray12le", "gray16le") and info.depth == 10:
                luma = plane_view(picture, 0, 16)
                return cast(Plane, luma >> (int(name[4:6]) - 10)), *self._neutral_chroma()
        picture = self._convert(picture, color)
        y, u, v = (plane_view(picture, index, info.depth) for index in range(3))
        return y, u, v

    def _convert(self, picture: VideoFrame, color: Color) -> VideoFrame:
        """Convert to 4:2:0 of the first frame's size; matrix and range stay, R'G'B' takes those of ``color``."""
        height, width = self._info.size
        code = 2 if color.full_range else 1
        rgb = picture.format.is_rgb
        matrix = {"bt709": 1, "bt601": 5, "bt2020": 9}[color.matrix]
        return self._reformatter.reformat(
            picture,
            width,
            height,
            self._target,
            src_colorspace=None if rgb else matrix,
            dst_colorspace=matrix,
            interpolation="BICUBIC",
            src_color_range=2 if rgb else code,
            dst_color_range=code,
            threads=1,
        )

    def _neutral_chroma(self) -> tuple[Plane, Plane]:
        if self._neutral is None:
            depth = self._info.depth
            dtype = np.uint8 if depth == 8 else np.uint16
            self._neutral = cast(Plane, np.full(chroma_size(self._info.size), 1 << (depth - 1), dtype))
        return self._neutral, self._neutral

    def _color(self, frame: VideoFrame) -> Color:
        key = (
            *(frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc, frame.height),
            frame.format.is_rgb,
            frame.format.name.startswith(("yuvj", "gray")),
        )
        color = self._colors.get(key)
        if color is None:
            color = self._colors[key] = self._make_color(frame)
        return color

    def _make_color(self, frame: VideoFrame) -> Color:
        color, code = color_of(frame), int(frame.colorspace)
        if code not in _MATRICES and not frame.format.is_rgb and not frame.format.name.startswith("gray"):
            words = {"bt709": "BT.709", "bt601": "BT.601", "bt2020": "BT.2020"}
            unsaid = code in (0, 2, 3)
            why = "does not say which matrix its colours use" if unsaid else f"uses the unusual matrix {code}"
            self._note("matrix", f"{self._name} {why}: taken for {words[color.matrix]}")
        return color

    def _note(self, key: str, text: str) -> None:
        self._notes.setdefault(key, text)


class _Clock:
    """Makes timestamps that strictly increase out of what a stream has, changing as few as it can."""

    def __init__(self, time_base: Fraction, fps: Fraction | None) -> None:
        self.repaired = 0
        self._step = 1 / ((fps or Fraction(25)) * time_base)
        self._jump = max(self._step * 10, 1 / time_base)
        self._last: int | None = None
        self._anchor, self._count, self._offset = 0, 0, 0

    def __call__(self, pts: int | None) -> int:
        last = self._last
        if pts is None:
            # Counted from the last true timestamp, so that rounding does not add up.
            self.repaired += 1
            self._count += 1
            pts = 0 if last is None else max(self._anchor + round(self._count * self._step), last + 1)
            if last is None:
                self._count = 0
        else:
            pts += self._offset
            if last is not None and pts <= last:
                self.repaired += 1
                fixed = last + 1
                if last - pts >= self._jump:  # the clock was set back (joined recordings): go on from here
                    fixed = last + max(1, round(self._step))
                    self._offset += fixed - pts
                pts = fixed
            self._anchor, self._count = pts, 0
        self._last = pts
        return pts


class _Deinterlacer:
    """One progressive picture for each interlaced one (bwdif); progressive pictures pass."""

    def __init__(self, picture: VideoFrame, time_base: Fraction) -> None:
        self._time_base = time_base
        self._shape = (picture.width, picture.height, picture.format.name)
        self._graph = graph = Graph()
        graph.threads = 1
        color = f":colorspace={int(picture.colorspace)}:range={int(picture.color_range)}"
        source = graph.add(
            "buffer",
            f"video_size={picture.width}x{picture.height}:pix_fmt={picture.format.name}:"
            f"time_base={time_base.numerator}/{time_base.denominator}:pixel_aspect=1/1{color}",
        )
        bwdif = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
        graph.link_nodes(source, bwdif, graph.add("buffersink"))
        graph.configure()

    def fits(self, picture: VideoFrame) -> bool:
        return self._shape == (picture.width, picture.height, picture.format.name)

    def __call__(self, picture: VideoFrame) -> Iterator[VideoFrame]:
        self._graph.vpush(picture)
        return self._pull()

    def flush(self) -> Iterator[VideoFrame]:
        self._graph.vpush(None)
        return self._pull()

    def _pull(self) -> Iterator[VideoFrame]:
        while True:
            try:
                picture = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            scale = (_fraction(picture.time_base) or self._time_base) / self._time_base
            if picture.pts is not None:
                picture.pts = round(picture.pts * scale)
            picture.duration = round((picture.duration or 0) * scale)
            yield picture


def color_of(frame: VideoFrame) -> Color:
    """Return what the numbers of a picture mean, by its tags or, where they say nothing, by its size and format."""
    code, range_code = int(frame.colorspace), int(frame.color_range)
    guess: Matrix = "bt709" if frame.height >= 720 else "bt601"
    color = Color(primaries=int(frame.color_primaries), transfer=int(frame.color_trc))
    if frame.format.is_rgb:
        # swscale makes limited-range Y'CbCr of it; the tags say so.
        return replace(color, matrix=guess, matrix_code=1 if guess == "bt709" else 6, range_code=1)
    if code in _MATRICES:
        guess = _MATRICES[code]
    elif color.primaries == 9:
        guess = "bt2020"
    full = range_code == 2 or (range_code == 0 and frame.format.name.startswith(("yuvj", "gray")))
    return replace(
        color,
        matrix=guess,
        full_range=full,
        matrix_code=code if code != 0 else 2,
        range_code=2 if full else range_code,
    )


def plane_view(picture: VideoFrame, index: int, depth: int) -> Plane:
    """Return a plane as an array without a copy; the array keeps the picture alive."""
    plane = picture.planes[index]
    dtype: Any = np.uint8 if depth == 8 else np.uint16
    stride = plane.line_size
    array = np.ndarray(
        (plane.height, plane.width), dtype, buffer=cast(Any, plane), strides=(abs(stride), np.dtype(dtype).itemsize)
    )
    # Stored bottom row first: rows must go down in memory for the kernels.
    return cast(Plane, np.ascontiguousarray(array[::-1]) if stride < 0 else array)


def _target(frame: VideoFrame) -> tuple[str, int]:
    """Return the 4:2:0 format that holds ``frame``, and its depth."""
    bits = max(component.bits for component in _stored(frame).components)
    return ("yuv420p10le", 10) if bits > 8 else ("yuv420p", 8)


def _is_far(frame: VideoFrame) -> bool:
    """Whether a picture lies on a GPU."""
    return frame.sw_format is not None


def _stored(frame: VideoFrame) -> VideoFormat:
    """Return how a picture lies in memory, wherever that is."""
    return frame.sw_format or frame.format


def _fraction(value: Any) -> Fraction | None:
    """Return one of PyAV's rationals as a Fraction; None for 0/1, 1/0 and nothing."""
    if value is None or not value.numerator or not value.denominator:
        return None
    return Fraction(value.numerator, value.denominator)


def _side_data(frame: VideoFrame, kind: str) -> bytes:
    for data in cast(Any, frame.side_data):
        try:
            if data.type.name == kind:
                return bytes(data)
        except ValueError:  # a kind that PyAV does not know
            continue
    return b""


def _mastering(frame: VideoFrame) -> Mastering | None:
    """Read AVMasteringDisplayMetadata and AVContentLightMetadata."""
    screen, light = _side_data(frame, "MASTERING_DISPLAY_METADATA"), _side_data(frame, "CONTENT_LIGHT_LEVEL")
    primaries: tuple[Fraction, ...] = ()
    luminance: tuple[Fraction, ...] = ()
    if len(screen) >= 88:
        numbers = struct.unpack_from("=22i", screen)
        pairs = [Fraction(n, d) if d else Fraction(0) for n, d in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
        primaries = tuple(pairs[:8]) if numbers[20] else ()
        luminance = tuple(pairs[8:]) if numbers[21] else ()
    content = struct.unpack_from("=2I", light) if len(light) >= 8 else ()
    return Mastering(primaries, luminance, content) if primaries or luminance or content else None


def _clock_text(text: str) -> Fraction:
    """Return the seconds of ``00:01:02.345000000``; 0 if it is something else."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text.strip("\0 "))
    return int(match[1]) * 3600 + int(match[2]) * 60 + Fraction(match[3]) if match else Fraction(0)


def _check_file(url: str) -> None:
    """Say clearly what is wrong with the name of a file before FFmpeg is asked."""
    if scheme(url):
        return
    if os.path.isdir(url):
        raise SourceError(f"{url} is a folder, not a video: name one file", url=url)
    if not os.path.exists(url):
        raise SourceNotFoundError(f"{url} does not exist: check the name", url=url)
    if not os.access(url, os.R_OK):
        raise SourceError(f"{url} may not be read: change its permissions", url=url)
    if os.path.isfile(url) and not os.path.getsize(url):
        raise SourceError(f"{url} is empty (0 bytes): choose another video", url=url)


def _lacks_index(path: str) -> bool:
    """Whether a file is an MP4 or MOV without its index (moov)."""
    kinds: list[bytes] = []
    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            position = 0
            while position + 8 <= length and len(kinds) < 64:
                file.seek(position)
                head = file.read(16)
                size, kind = struct.unpack_from(">I4s", head)
                if size == 1 and len(head) == 16:
                    size = struct.unpack_from(">Q", head, 8)[0]
                kinds.append(kind)
                if size < 8:
                    break
                position += size
    except OSError:
        return False
    known = bool(kinds) and kinds[0] in (b"ftyp", b"mdat", b"wide", b"free", b"skip")
    return known and b"moov" not in kinds and b"moof" not in kinds


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """Map FFmpeg's errors to one sentence."""
    try:
        yield
    except SourceError:
        raise
    except (av.error.FileNotFoundError, FileNotFoundError) as error:
        raise SourceNotFoundError(f"{url} does not exist: check the name", url=url) from error
    except av.error.HTTPNotFoundError as error:
        raise SourceNotFoundError(f"{url} does not exist (HTTP 404)", url=url) from error
    except av.error.ExitError as error:
        raise SourceError(f"{url} did not answer within {TIMEOUT:.0f} seconds", url=url) from error
    except av.error.EOFError as error:
        raise SourceError(f"{url} holds no frame that can be decoded", url=url) from error
    except av.error.InvalidDataError as error:
        if os.path.isfile(url) and _lacks_index(url):
            message = (
                f"{url} is cut off: its index (moov) is missing; "
                "copy or record it again, or mend it with a tool such as untrunc"
            )
        else:
            message = f"{url} is not a video, or it is damaged beyond reading"
        raise SourceError(message, url=url) from error
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{url} cannot be read: {reason}", url=url) from error
