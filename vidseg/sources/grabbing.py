"""Screens, and the cameras of macOS and Windows: whatever FFmpeg grabs."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, cast

import av
from av.packet import Packet

from vidseg.devices import Device
from vidseg.errors import DeviceUnavailableError, SourceError
from vidseg.sources import Source
from vidseg.sources.camera import CameraMode
from vidseg.sources.newest import NewestSource
from vidseg.sources.pyav import PyAVSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.video.stream import VideoStream

_SYSTEMS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
_SCREENS = {"linux": "x11grab", "darwin": "avfoundation", "win32": "gdigrab"}
# What FFmpeg calls our pixel formats: AVFoundation and V4L2, and DirectShow, where JPEG is a codec.
_FORMATS = {"yuyv": "yuyv422", "nv12": "nv12"}


def open_screen(display: str, wanted: CameraMode) -> Source:
    """Open a screen; all of it, whatever size is wished.

    Args:
        display: On X11 ``:0.0``, or ``:0.0+100,50`` to begin there; "" for the one of the session. Elsewhere the number
            of the screen.
        wanted: Only its ``fps`` counts.

    Raises:
        DeviceUnavailableError: There is no such screen, or it may not be seen.
    """
    system = _SCREENS.get(sys.platform, "x11grab")
    options = {"framerate": str(wanted.fps or Fraction(30))}
    if system == "x11grab":
        place = display or os.environ.get("DISPLAY", "")
        mend = "is an X server running there that this user may see?"
        if not place:
            raise DeviceUnavailableError("there is no screen: DISPLAY is not set; name one as screen::0", url="screen")
    elif system == "avfoundation":
        place, mend = f"Capture screen {display or 0}", "allow this program to record the screen in System Settings"
    else:
        place, mend = "desktop", "is somebody logged in?"
    name = f"screen {place}"
    try:
        return NewestSource(PyAVSource(name, partial(_grab, place, system, options)))
    except (SourceError, ValueError) as error:
        raise DeviceUnavailableError(f"{name} cannot be opened: {mend}", url=name) from error


def open_device(device: Device, wanted: CameraMode) -> Source:
    """Open a camera through FFmpeg, in the nearest mode it takes: neither system says beforehand what there is.

    Raises:
        SourceError: It takes none.
    """
    system = _SYSTEMS[sys.platform]
    name = f"video={device.path}" if system == "dshow" else device.path
    reasons: dict[str, None] = {}
    for options in _attempts(system, wanted):
        try:
            return NewestSource(_Camera(device.name, partial(_grab, name, system, options)))
        except (SourceError, ValueError) as error:
            reasons[str(error)] = None
    raise SourceError(f"{next(iter(reasons))} (FFmpeg, {system})", url=device.path)


class _Camera(PyAVSource):
    """What a camera gives, in memory of its own.

    FFmpeg's V4L2 packets lie in the driver's memory. Closing takes it away, and a raw frame that is freed after that
    ends the process.
    """

    def _demux(self) -> Iterator[Packet[VideoStream]]:
        for packet in super()._demux():
            if not packet.size:
                yield packet
                continue
            own = cast("Packet[VideoStream]", Packet(bytes(packet)))
            own.pts, own.dts, own.duration, own.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
            yield own


def _grab(name: str, system: str, options: dict[str, str], _: str) -> InputContainer:
    return av.open(name, "r", format=system, options=options, timeout=(10, None))


def _attempts(system: str, wanted: CameraMode) -> list[dict[str, str]]:
    """Return options from what is wished down to what the device likes best."""
    height, width = wanted.size or (720, 1280)
    mode = {"video_size": f"{width}x{height}", "framerate": str(wanted.fps or Fraction(30))}
    size = {"video_size": mode["video_size"]}
    packing: list[dict[str, str]] = [{}]
    if wanted.pixel_format == "mjpeg" or (wanted.pixel_format == "auto" and system == "dshow"):
        packing.insert(0, {"input_format" if system == "v4l2" else "vcodec": "mjpeg"})
    elif wanted.pixel_format in _FORMATS:
        packing.insert(0, {"pixel_format": _FORMATS[wanted.pixel_format]})
    elif system == "avfoundation":
        packing.insert(0, {"pixel_format": "nv12"})
    # AVFoundation takes no "mjpeg": the system decodes it itself.
    packing = [p for p in packing if not (system == "avfoundation" and "vcodec" in p)]
    buffer = {"rtbufsize": "64M"} if system == "dshow" else {}
    return [{**step, **pack, **buffer} for step in (mode, size, {}) for pack in packing]
