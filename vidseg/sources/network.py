"""Live streams from the network, with as little delay as they allow."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import av

from vidseg.errors import DeviceUnavailableError, SourceError, redacted
from vidseg.sinks.sender import speaks
from vidseg.sources import Source
from vidseg.sources.newest import NewestSource
from vidseg.sources.pyav import TIMEOUT, PyAVSource, scheme
from vidseg.sources.realtime import RealTimeSource

if TYPE_CHECKING:
    from av.container import InputContainer

SILENCE = 5.0
"""Seconds without a byte after which a stream is lost."""
# Half a second is enough to see what a stream is made of. What came in that time is decoded, too, and dropped: FFmpeg's
# "nobuffer" would throw away its key frame, and so show nothing before the next.
_OPTIONS = {"analyzeduration": "500000", "probesize": "1000000"}
_OF_SCHEME = {
    "rtsp": {"rtsp_transport": "tcp", "allowed_media_types": "video", "max_delay": "0"},
    "rtsps": {"rtsp_transport": "tcp", "allowed_media_types": "video", "max_delay": "0"},
    "rtmp": {"rtmp_live": "live"},
    "udp": {"overrun_nonfatal": "1"},
}
_SEGMENTED = (".m3u8", ".mpd")


def open_live(url: str, *, loop: bool = True) -> Source:
    """Open a stream at its newest frame; a file on a server is played in real time.

    Raises:
        SourceNotFoundError: The server has no such thing.
        SourceError: It does not answer within 15 seconds, or sends no video.
    """
    kind = scheme(url)
    if kind == "file":
        return RealTimeSource(url, loop=loop)
    if kind == "srt" and not speaks("srt"):
        return NewestSource(_ThroughProgram(url))
    if kind in ("http", "https"):
        if url.partition("?")[0].lower().endswith(_SEGMENTED):  # comes in bursts of seconds
            return NewestSource(RealTimeSource(url, loop=False, opened=_live))
        source = _live(url)
        if not source.info.duration:
            return NewestSource(source)
        source.close()
        return NewestSource(RealTimeSource(url, loop=loop), ends=not loop)
    return NewestSource(_live(url))


def _live(url: str) -> Source:
    return PyAVSource(url, _container)


def _container(url: str) -> InputContainer:
    options = {**_OPTIONS, **_OF_SCHEME.get(scheme(url), {})}
    return av.open(url, "r", options=options, metadata_errors="surrogateescape", timeout=(TIMEOUT, SILENCE))


class _ThroughProgram(PyAVSource):
    """A stream in a protocol that only the program ``ffmpeg`` speaks here: it hands on the packets as they are.

    Raises:
        DeviceUnavailableError: There is no such program.
        SourceError: It found no video.
    """

    def __init__(self, url: str) -> None:
        program = shutil.which("ffmpeg")
        if program is None:
            raise DeviceUnavailableError(
                f"{redacted(url)} cannot be opened: SRT needs the program ffmpeg, which is not installed", url=url
            )
        self._process = subprocess.Popen(
            [
                *(program, "-nostdin", "-loglevel", "error", "-analyzeduration", "500000"),
                *("-i", url, "-map", "0:v:0", "-c", "copy", "-flush_packets", "1", "-muxdelay", "0"),
                *("-f", "mpegts", "-"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            super().__init__(url, self._pipe)
        except SourceError as error:
            raise SourceError(f"{redacted(url)} does not answer, or sends no video", url=url) from error

    def _pipe(self, url: str) -> InputContainer:
        assert self._process.stdout is not None
        return av.open(self._process.stdout, "r", format="mpegts", options=_OPTIONS)

    def close(self) -> None:
        """End the program, and so whoever waits for it."""
        self._process.kill()
        self._process.wait()
        super().close()
        with suppress(ValueError, OSError):  # a thread still reads
            if self._process.stdout is not None:
                self._process.stdout.close()
