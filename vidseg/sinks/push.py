"""Live streams to a server: RTMP, RTSP, SRT and UDP, H.264 with as little delay as they allow."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame

from vidseg.color import to_color
from vidseg.errors import DeviceUnavailableError, SinkError, redacted
from vidseg.frame import Color, Frame, StreamInfo
from vidseg.sinks.i420 import even
from vidseg.sources.network import speaks
from vidseg.sources.pyav import scheme

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

FORMATS = {
    "rtmp": "flv",
    "rtmps": "flv",
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "srt": "mpegts",
    "udp": "mpegts",
}
"""FFmpeg's muxer for each scheme."""
SILENCE = 5.0
"""Seconds without an answer after which a server is lost."""
_OPTIONS = {
    "rtmp": {"flvflags": "no_duration_filesize", "rtmp_live": "live"},
    "rtmps": {"flvflags": "no_duration_filesize", "rtmp_live": "live"},
    "rtsp": {"rtsp_transport": "tcp"},
    "rtsps": {"rtsp_transport": "tcp"},
    "udp": {"pkt_size": "1316"},
}
_GOP = 2  # seconds until somebody who tunes in sees a picture
_BITS = 0.1  # a pixel, at most: 2.8 Mbit/s for 720p30
_TIME_BASE = Fraction(1, 90_000)


class PushSink:
    """Sends frames to a server, without sound.

    It tries once: when the server is lost, ``write`` says why, and the sink can be opened again.

    Args:
        url: ``rtmp://``, ``rtmps://``, ``rtsp://``, ``rtsps://``, ``srt://`` or ``udp://``.
        info: Of the frames that will be written.

    Raises:
        DeviceUnavailableError: SRT needs the program ffmpeg, which is not installed.
        SinkError: The server does not answer or refuses.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, url: str, info: StreamInfo) -> None:
        self._url, self._info = url, info
        self._shown = public(url)
        kind = scheme(url)
        if kind not in FORMATS:
            raise SinkError(f"{self._shown} cannot be sent to: choose one of {', '.join(FORMATS)}", url=self._shown)
        color = info.color
        self._color = Color("bt601") if color.matrix == "rgb" else color
        self._start: Fraction | None = None
        self._last = -1
        self._program: subprocess.Popen[bytes] | None = None
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        try:
            with self._sending():
                self._open(kind)
        except BaseException:
            self._close()
            raise

    def write(self, frame: Frame) -> None:
        """Encode and send one frame; waits for the network, at most ``SILENCE`` seconds."""
        if frame.size != self._info.size:
            raise ValueError(f"the frame has another size than the stream: {frame.size = }, {self._info.size = }")
        if self._container is None or self._stream is None:
            raise ValueError(f"{self._shown} is closed already")
        picture = self._picture(frame)
        with self._sending():
            self._container.mux(self._stream.encode(picture))

    def commit(self) -> None:
        """Send what is left and take leave of the server."""
        try:
            if self._container is not None and self._stream is not None:
                with self._sending():
                    self._container.mux(self._stream.encode(None))
        finally:
            self._close()

    def abort(self, keep_partial: bool = False) -> str | None:
        """Leave the server."""
        self._close()
        return None

    def interrupt(self) -> None:
        """End the program that sends, if there is one; FFmpeg itself gives up after ``SILENCE`` seconds."""
        if self._program is not None:
            self._program.kill()

    def __repr__(self) -> str:
        return f"PushSink({self._shown!r})"

    def _open(self, kind: str) -> None:
        target: Any = self._url
        options = dict(_OPTIONS.get(kind, {}))
        if kind == "srt" and not speaks(kind):
            target = self._through_program()
        elif kind in ("rtmp", "rtmps"):
            options["rw_timeout"] = str(round(SILENCE * 1e6))
        elif kind in ("rtsp", "rtsps"):
            options["timeout"] = str(round(SILENCE * 1e6))
        container = av.open(target, "w", format=FORMATS[kind], options=options, timeout=SILENCE)
        self._container = container
        fps = self._info.fps or Fraction(30)
        stream = container.add_stream("libx264", rate=fps)
        self._stream = stream
        context = stream.codec_context
        height, width = even(self._info.size)
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = stream.time_base = _TIME_BASE
        context.gop_size = round(_GOP * fps)
        context.thread_count = 2
        color = self._color
        for key, value in {
            "color_range": 2 if color.full_range else 1,
            "colorspace": {"bt601": 6, "bt709": 1, "bt2020": 9}[color.matrix],
            "color_primaries": color.primaries,
            "color_trc": color.transfer,
        }.items():
            setattr(context, key, value)
        most = round(_BITS * width * height * float(fps))
        context.options = {
            "preset": "superfast",
            "tune": "zerolatency",
            "crf": "23",
            "maxrate": str(most),
            "bufsize": str(most),
        }
        container.start_encoding()

    def _through_program(self) -> Any:
        """Return a pipe to the program ``ffmpeg``, which speaks SRT; PyAV's own FFmpeg often does not."""
        program = shutil.which("ffmpeg")
        if program is None:
            raise DeviceUnavailableError(
                f"{self._shown} cannot be sent to: SRT needs the program ffmpeg, which is not installed",
                url=self._shown,
            )
        self._program = subprocess.Popen(
            [
                *(program, "-nostdin", "-loglevel", "error", "-fflags", "nobuffer", "-f", "mpegts", "-i", "-"),
                *("-c", "copy", "-flush_packets", "1", "-muxdelay", "0", "-f", "mpegts", self._url),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        return self._program.stdin

    def _picture(self, frame: Frame) -> VideoFrame:
        frame = to_color(frame, self._color)
        height, width = even(frame.size)
        picture = VideoFrame(width, height, "yuv420p")
        for to, plane in zip(picture.planes, frame.planes, strict=True):
            view = np.ndarray((to.height, to.width), np.uint8, buffer=cast(Any, to), strides=(to.line_size, 1))
            view[...] = plane[: to.height, : to.width]
        time = frame.pts * frame.time_base
        self._start = time if self._start is None else self._start
        self._last = max(self._last + 1, round((time - self._start) / _TIME_BASE))
        picture.pts, picture.time_base = self._last, _TIME_BASE
        return picture

    def _close(self) -> None:
        container, self._container = self._container, None
        self._stream = None
        if container is not None:
            with suppress(Exception):  # it has been lost, and cannot be told so
                container.close()
        program, self._program = self._program, None
        if program is not None:
            assert program.stdin is not None
            assert program.stderr is not None
            with suppress(OSError):
                program.stdin.close()
            try:
                program.wait(2.0)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
            program.stderr.close()

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Map errors of FFmpeg and of the network to one sentence."""
        try:
            yield
        except SinkError:
            raise
        except (av.error.FFmpegError, OSError) as error:
            raise SinkError(f"{self._shown} cannot be sent to: {self._reason(error)}", url=self._shown) from error

    def _reason(self, error: Exception) -> str:
        if self._program is not None:  # it knows more than that its pipe is closed
            with suppress(subprocess.TimeoutExpired):
                self._program.wait(1.0)
            if self._program.poll() is not None and self._program.stderr is not None:
                said = self._program.stderr.read().decode("utf-8", "replace").strip().splitlines()
                if said:
                    return said[-1].replace(self._url, self._shown)
        if isinstance(error, av.error.ExitError | av.error.TimeoutError):
            return f"no answer for {SILENCE:.0f} seconds"
        return getattr(error, "strerror", None) or str(error)


def public(url: str) -> str:
    """Return ``url`` as it may be shown: without user, password, query, and without the key that ends an RTMP path."""
    url = re.sub(r"[?#].*", "", redacted(url))
    return re.sub(r"(?<=\w)/[^/]+/?$", "/…", url) if re.match(r"rtmps?://[^/]+/[^/]+/", url) else url
