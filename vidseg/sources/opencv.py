"""Cameras by OpenCV, where nothing else opens them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Self

import cv2

from vidseg.devices import Device
from vidseg.errors import SourceError
from vidseg.frame import Color, Frame, StreamInfo, allocate
from vidseg.sources import Source
from vidseg.sources.camera import CameraMode
from vidseg.sources.newest import NewestSource

_SYSTEMS = {"linux": cv2.CAP_V4L2, "darwin": cv2.CAP_AVFOUNDATION, "win32": cv2.CAP_MSMF}
_CODES = {"mjpeg": "MJPG", "yuyv": "YUYV", "nv12": "NV12"}


def open_opencv(device: Device, wanted: CameraMode) -> Source:
    """Open a camera by OpenCV; it hands out B'G'R', so that each frame is converted once more.

    Raises:
        SourceError: OpenCV cannot read it.
    """
    return NewestSource(OpenCVSource(device, wanted))


class OpenCVSource:
    """Yields the frames of a camera in BT.601, limited range, 4:2:0 of an even size.

    ``read`` of OpenCV cannot be interrupted: it belongs into a ``NewestSource``.

    Raises:
        SourceError: OpenCV cannot open it, or it gives no picture.
    """

    corrupt = 0
    truncated = False

    def __init__(self, device: Device, wanted: CameraMode) -> None:
        self._name = device.name
        self._closed = False
        self._lock = threading.Lock()
        place = int(device.path) if device.path.isdecimal() else device.path
        self._capture = capture = cv2.VideoCapture(place, _SYSTEMS.get(sys.platform, cv2.CAP_ANY))
        height, width = wanted.size or (720, 1280)
        if wanted.pixel_format != "auto":
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*_CODES[wanted.pixel_format]))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        capture.set(cv2.CAP_PROP_FPS, float(wanted.fps or 30))
        there, picture = capture.read()
        if not there:
            capture.release()
            raise SourceError(f"{device.name} gives OpenCV no picture", url=device.path)
        fps = Fraction(capture.get(cv2.CAP_PROP_FPS) or 30).limit_denominator(1001)
        size = (picture.shape[0] & ~1, picture.shape[1] & ~1)
        self.info = StreamInfo(size, fps, 1 / fps, Color("bt601", False, 2, 2, 6, 1), live=True, name=device.name)
        self.notes = (f"{device.name}: {size[1]}x{size[0]} at {float(fps):.4g} fps, by OpenCV",)

    def __iter__(self) -> Iterator[Frame]:
        height, width = self.info.size
        index = 0
        while True:
            with self._lock:
                there, picture = (False, None) if self._closed else self._capture.read()
                if self._closed:
                    self._capture.release()
                    return
            if not there or picture is None:
                raise SourceError(f"{self._name} gives no more pictures: plug it in again", url=self._name)
            planes = allocate(self.info.size)
            flat = cv2.cvtColor(picture[:height, :width], cv2.COLOR_BGR2YUV_I420).reshape(-1)
            start = 0
            for plane in planes:
                plane.reshape(-1)[:] = flat[start : start + plane.size]
                start += plane.size
            yield Frame(planes, index, self.info.time_base, self.info.color, duration=1)
            index += 1

    def close(self) -> None:
        """Release the camera, now or when a thread that reads comes back."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._capture.release()
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
