"""Encodes raw video from standard input and sends it to a server. ``push`` runs it as a process of its own.

Apart, since PyAV opens and writes an output without any limit of time: a server that stops to answer would stop its
process. It imports nothing of vidseg.

Standard input: a line of JSON (``url``, ``width``, ``height``, ``fps``, ``tags``), then for each picture eight bytes,
its time in 1/90000 s, and I420. Standard output: ``ok`` when the server has answered, and ``error: WHY``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from typing import Any, BinaryIO, cast

import av
import av.error
import numpy as np

FORMATS = {"rtmp": "flv", "rtmps": "flv", "rtsp": "rtsp", "rtsps": "rtsp", "srt": "mpegts", "udp": "mpegts"}
"""FFmpeg's muxer for each scheme."""
OPTIONS = {"flv": {"flvflags": "no_duration_filesize"}, "rtsp": {"rtsp_transport": "tcp"}}
_GOP = 2  # seconds until somebody who tunes in sees a picture
_BITS = 0.1  # a pixel, at most: 2.8 Mbit/s for 720p30
_TIME_BASE = Fraction(1, 90_000)


def say(text: str) -> None:
    """Write a line for who started this."""
    sys.stdout.write(" ".join(text.split()) + "\n")
    sys.stdout.flush()


class Program:
    """The program ``ffmpeg``, which speaks SRT; the FFmpeg inside of PyAV's wheels does not."""

    def __init__(self, url: str) -> None:
        program = shutil.which("ffmpeg")
        if program is None:
            raise OSError("SRT needs the program ffmpeg, which is not installed")
        self._process = subprocess.Popen(
            [
                *(program, "-nostdin", "-loglevel", "error", "-fpsprobesize", "0", "-f", "nut", "-i", "-"),
                *("-c", "copy", "-flush_packets", "1", "-muxdelay", "0", "-f", "mpegts", url),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin is not None
        self.input = self._process.stdin

    def end(self) -> str:
        """Close its input, wait for it, and return what it said last."""
        assert self._process.stderr is not None
        with suppress(OSError):
            self.input.close()
        said = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        return said[-1] if self._process.wait() and said else ""


def main(source: BinaryIO) -> None:
    """Send until the input ends.

    Raises:
        av.error.FFmpegError, OSError: As the network has it.
    """
    told = json.loads(source.readline())
    scheme = told["url"].partition("://")[0].lower()
    width, height, fps = told["width"], told["height"], Fraction(told["fps"])
    program = Program(told["url"]) if scheme == "srt" and not speaks(scheme) else None
    target: Any = program.input if program else told["url"]
    if scheme == "udp" and "pkt_size=" not in target:
        target += f"{'&' if '?' in target else '?'}pkt_size=1316"  # whole packets of MPEG-TS
    form = "nut" if program else FORMATS[scheme]  # it tells all in its header, so that nothing has to be guessed
    try:
        container = av.open(target, "w", format=form, options=OPTIONS.get(form, {}))
        stream = container.add_stream("libx264", rate=fps)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = stream.time_base = _TIME_BASE
        context.gop_size = round(_GOP * fps)
        context.thread_count = 2
        for name, value in told["tags"].items():
            setattr(context, name, value)
        most = str(round(_BITS * width * height * float(fps)))
        # Frames go out as they come: nothing is looked at in advance, and none waits for another.
        context.options = {"preset": "superfast", "tune": "zerolatency", "crf": "23", "maxrate": most, "bufsize": most}
        container.start_encoding()
        say("ok")
        with container:
            while picture := _picture(source, width, height):
                for name, value in told["tags"].items():
                    setattr(picture, name, value)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except (av.error.FFmpegError, OSError):
        if program and (why := program.end()):  # it knows more than that its pipe is closed
            raise OSError(why) from None
        raise
    if program and (why := program.end()):
        raise OSError(why)


def _picture(source: BinaryIO, width: int, height: int) -> av.VideoFrame | None:
    """Return the next picture, or None at the end."""
    picture = av.VideoFrame(width, height, "yuv420p")
    time = source.read(8)
    for plane in picture.planes:
        data = source.read(plane.width * plane.height)
        if len(data) < plane.width * plane.height:
            return None
        rows = np.ndarray((plane.height, plane.line_size), np.uint8, buffer=cast(Any, plane))
        rows[:, : plane.width] = np.frombuffer(data, np.uint8).reshape(plane.height, plane.width)
    picture.pts, picture.time_base = struct.unpack("=q", time)[0], _TIME_BASE
    return picture


def speaks(protocol: str) -> bool:
    """Whether the FFmpeg that PyAV carries knows a protocol; its wheels have no SRT."""
    try:
        av.open(f"{protocol}://", timeout=1).close()
    except av.error.ProtocolNotFoundError:
        return False
    except (av.error.FFmpegError, OSError, ValueError):
        return True
    return True


if __name__ == "__main__":
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this ends it, in order
    status = 0
    try:
        with open(0, "rb", buffering=1 << 16, closefd=False) as pictures:
            main(pictures)
    except (av.error.FFmpegError, OSError) as error:
        status = 1
        with suppress(OSError):
            say(f"error: {getattr(error, 'strerror', None) or error}")
    os._exit(status)
