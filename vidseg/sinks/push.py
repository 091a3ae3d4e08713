"""Live streams to a server: RTMP, RTSP, SRT and UDP, H.264 with as little delay as they allow."""

from __future__ import annotations

import json
import re
import struct
from fractions import Fraction

from vidseg.errors import SinkError, redacted
from vidseg.frame import Color, Frame, StreamInfo
from vidseg.sinks.child import Child, ChildEnded
from vidseg.sinks.i420 import even, to_i420

SCHEMES = ("rtmp", "rtmps", "rtsp", "rtsps", "srt", "udp")
SILENCE = 5.0
"""Seconds without an answer after which a server is lost."""
_TIME_BASE = Fraction(1, 90_000)


class PushSink:
    """Sends frames to a server, without sound, by a process of its own (``sender``).

    It tries once: when the server is lost, ``write`` says why, and the sink can be opened again.

    Args:
        url: Of one of ``SCHEMES``.
        info: Of the frames that will be written.

    Raises:
        SinkError: The server does not answer or refuses, or SRT needs the program ffmpeg, which is not installed.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, url: str, info: StreamInfo) -> None:
        self._info, self._name, self._url = info, public(url), url
        if url.partition("://")[0].lower() not in SCHEMES:
            raise SinkError(f"{self._name} cannot be sent to: choose one of {', '.join(SCHEMES)}", url=self._name)
        color = info.color
        self._color = Color("bt601", False, 6, 6, 6, 1) if color.matrix == "rgb" else color
        self._start: Fraction | None = None
        self._last = -1
        height, width = even(info.size)
        # By the pipe, since everybody can read a command line, and there may be a key in it.
        told = {
            "url": url,
            "width": width,
            "height": height,
            "fps": str(info.fps or 30),
            "tags": {
                "color_range": 2 if self._color.full_range else 1,
                "colorspace": {"bt601": 6, "bt709": 1, "bt2020": 9}[self._color.matrix],
                "color_primaries": self._color.primaries,
                "color_trc": self._color.transfer,
            },
        }
        try:
            self._sender = Child("sender", [], begin=json.dumps(told).encode() + b"\n", patience=2 * SILENCE)
        except ChildEnded as error:
            raise self._lost(str(error)) from None

    def write(self, frame: Frame) -> None:
        """Send one frame; waits for the network, at most ``SILENCE`` seconds."""
        if frame.size != self._info.size:
            raise ValueError(f"the frame has another size than the stream: {frame.size = }, {self._info.size = }")
        time = frame.pts * frame.time_base
        self._start = time if self._start is None else self._start
        self._last = max(self._last + 1, round((time - self._start) / _TIME_BASE))
        try:
            self._sender.send(struct.pack("=q", self._last), to_i420(frame, self._color).data, patience=SILENCE)
        except ChildEnded as error:
            raise self._lost(str(error)) from None

    def commit(self) -> None:
        """Send what is left and take leave of the server."""
        if problem := self._sender.end(SILENCE):
            raise self._lost(problem)

    def abort(self, keep_partial: bool = False) -> str | None:
        """Leave the server."""
        self._sender.kill()
        self._sender.end(0.0)
        return None

    def interrupt(self) -> None:
        """Let a ``write`` that waits for the server give up."""
        self._sender.kill()

    def __repr__(self) -> str:
        return f"PushSink({self._name!r})"

    def _lost(self, reason: str) -> SinkError:
        return SinkError(f"{self._name} cannot be sent to: {reason.replace(self._url, self._name)}", url=self._name)


def public(url: str) -> str:
    """Return ``url`` as it may be shown: without user, password, query, and without the key that ends an RTMP path."""
    url = re.sub(r"[?#].*", "", redacted(url))
    return re.sub(r"(?<=[^/])/[^/]+/?$", "/…", url) if re.match(r"rtmps?://[^/]+/[^/]+/", url) else url
