"""Cameras and what stands in for one: ``open_camera`` finds the adapter for a name."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from vidseg.devices import Device, find_camera
from vidseg.errors import DeviceUnavailableError, SourceError, SourceNotFoundError
from vidseg.frame import Size
from vidseg.sources import Source

Packing = Literal["auto", "mjpeg", "yuyv", "nv12"]
_SCREEN = re.compile(r"screen(?::(?P<display>.*))?", re.IGNORECASE)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{2,5}")


@dataclass(frozen=True, slots=True)
class CameraMode:
    """What is wished of a camera; what it has none of is replaced by the nearest, and said.

    Attributes:
        size: ``(height, width)``; None is 1280x720 if that comes at full rate.
        fps: Frames a second; None is 30.
        pixel_format: ``mjpeg``, ``yuyv`` (and other packed 4:2:2), ``nv12``, or ``auto`` for the cheapest that is fast
            enough.
    """

    size: Size | None = None
    fps: Fraction | None = None
    pixel_format: Packing = "auto"

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 2:
            raise ValueError(f"size {self.size[1]}x{self.size[0]} is not a picture: it has to be 2x2 or more")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"fps {self.fps} is not between 0 and 1000")
        if self.pixel_format not in get_args(Packing):
            raise ValueError(f"pixel_format {self.pixel_format!r} is none of {', '.join(get_args(Packing))}")


class Camera:
    """Opens a camera, and the same one again when it comes back under another number.

    Args:
        name: ``default`` or "" for the first camera; a number, a name or a part of one, ``/dev/videoN``, a lasting path
            (``/dev/v4l/by-id/…``); a URL (rtsp, rtmp, srt, http, udp); ``screen`` or ``screen::0.0+100,50``; or a video
            or picture, which is played in real time.
        wanted: The mode to come near to; for cameras only.
        loop: Whether a file starts again at its end.
    """

    def __init__(self, name: str, wanted: CameraMode | None = None, *, loop: bool = True) -> None:
        self.name = name
        self._wanted = wanted or CameraMode()
        self._loop = loop
        self._known: Device | None = None

    def __call__(self) -> Source:
        """Open it.

        Raises:
            DeviceUnavailableError: It is absent, busy or may not be used; one reason a line if several ways were tried.
            SourceNotFoundError: There is no such file.
            SourceError: It gives nothing that can be read here.
        """
        name = self.name
        if screen := _SCREEN.fullmatch(name):
            from vidseg.sources.grabbing import open_screen

            return open_screen(screen["display"] or "", self._wanted)
        if _URL.match(name):
            from vidseg.sources.network import open_live

            return open_live(name, loop=self._loop)
        if _is_file(name):
            from vidseg.sources.realtime import RealTimeSource

            return RealTimeSource(name, loop=self._loop)
        try:
            device = find_camera(name, self._known)
        except DeviceUnavailableError as error:
            if self._known is None and not name.startswith("/dev/") and (os.sep in name or _SUFFIX.search(name)):
                raise SourceNotFoundError(f"{name} is neither a camera nor a file: check the name", url=name) from error
            raise
        source = _open(device, self._wanted)
        self._known = device
        return source

    def peek(self) -> Size | None:
        """Return the ``(height, width)`` that it will give, without switching it on; None if that cannot be known.

        Asking a V4L2 device for its modes lights no lamp.
        """
        if sys.platform != "linux" or _SCREEN.fullmatch(self.name) or _URL.match(self.name) or _is_file(self.name):
            return None
        from vidseg.sources.v4l2 import choose_mode
        from vidseg.v4l2 import VideoDevice

        try:
            with VideoDevice(find_camera(self.name, self._known).path) as device:
                chosen = choose_mode(device.modes(), self._wanted)
        except (DeviceUnavailableError, OSError):
            return None
        return chosen[1] if chosen is not None else None


def open_camera(name: str, wanted: CameraMode | None = None, *, loop: bool = True) -> Source:
    """Open a camera, or what stands in for one, once; see ``Camera``."""
    return Camera(name, wanted, loop=loop)()


def _is_file(name: str) -> bool:
    from vidseg.sources.pictures import is_pictures

    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return is_pictures(name) and not name.startswith("/dev/")
    return not stat.S_ISCHR(mode)


def _open(device: Device, wanted: CameraMode) -> Source:
    """Open a device by the ways that this system has, best first."""
    reasons: list[str] = []
    for way in _ways(device, wanted):
        try:
            return way()
        except DeviceUnavailableError:
            raise  # absent, busy, forbidden: the same by every way
        except (SourceError, ImportError) as error:
            reasons.append(str(error))
    if len(reasons) == 1:
        raise DeviceUnavailableError(reasons[0], url=device.path)
    raise DeviceUnavailableError("\n".join([f"{device.name} cannot be opened:", *reasons]), url=device.path)


def _ways(device: Device, wanted: CameraMode) -> Sequence[Callable[[], Source]]:
    def straight() -> Source:
        from vidseg.sources.v4l2 import V4L2Source

        return V4L2Source(device.path, wanted, device.name)

    def by_ffmpeg() -> Source:
        from vidseg.sources.grabbing import open_device

        return open_device(device, wanted)

    def by_opencv() -> Source:
        from vidseg.sources.opencv import open_opencv

        return open_opencv(device, wanted)

    if sys.platform != "linux":
        return by_ffmpeg, by_opencv
    from vidseg import v4l2

    return (straight, by_opencv) if v4l2.supported() else (by_ffmpeg, by_opencv)
