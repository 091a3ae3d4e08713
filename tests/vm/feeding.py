"""Another process that feeds a virtual camera: one colour or a clip, over and over."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Self

from vidseg.frame import Size

COLOR = (150, 90, 190)


class Feed:
    """Feeds ``path`` until it is stopped.

    Args:
        path: Of a v4l2loopback device.
        packing: ``mjpeg`` or ``yuyv``.
        size: ``(height, width)``.
        clip: An MJPEG file of that size, shown over and over; None is one picture of ``COLOR``.
    """

    color = COLOR

    def __init__(self, path: str, packing: str, size: Size, clip: Path | None = None) -> None:
        command = [sys.executable, str(Path(__file__)), path, packing, str(size[0]), str(size[1])]
        command += [str(clip)] if clip is not None else []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"feeding\n"

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def picture(packing: str, size: Size) -> bytes:
    """Return one picture of ``COLOR``."""
    height, width = size
    y, u, v = COLOR
    if packing == "yuyv":
        return bytes((y, u, y, v)) * (width // 2 * height)
    import av
    import numpy as np

    planes = av.VideoFrame(width, height, "yuvj422p")
    for plane, value in zip(planes.planes, COLOR, strict=True):
        plane.update(np.full(plane.buffer_size, value, np.uint8).tobytes())
    planes.pts = 0
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj422p"
    encoder.time_base = Fraction(1, 30)
    encoder.options = {"qmin": "2", "qmax": "2"}
    return bytes((encoder.encode(planes) + encoder.encode(None))[0])


def pictures(clip: str) -> list[bytes]:
    """Return the JPEGs of a file."""
    import av

    with av.open(clip, format="mjpeg") as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def main(path: str, packing: str, height: str, width: str, clip: str = "") -> None:
    from vidseg.v4l2 import OUTPUT, VideoDevice

    size = int(height), int(width)
    shown = pictures(clip) if clip else [picture(packing, size)]
    with VideoDevice(path) as device:
        device.set_format({"mjpeg": "MJPG", "yuyv": "YUYV"}[packing], size, OUTPUT)
        device.claim()
        said = False
        for data in itertools.cycle(shown):
            try:
                os.write(device.fd, data)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
            if not said:
                print("feeding", flush=True)
                said = True
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
