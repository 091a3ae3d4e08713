"""Where a live run goes: ``open_live_sink`` finds the adapter for a name."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

from vidseg.devices import LOOPBACK_MEND, list_devices
from vidseg.errors import DeviceUnavailableError, SinkError, redacted
from vidseg.frame import StreamInfo
from vidseg.sinks import OutputOptions, Sink

OBS_MEND = (
    "install OBS Studio (obsproject.com), start its virtual camera once and stop it again, "
    "then pip install 'vidseg[virtualcam]'"
)
"""What makes a virtual camera on Windows and macOS."""


def open_live_sink(name: str, info: StreamInfo, *, on_key: Callable[[str], None] | None = None) -> Sink:
    """Open one output of a live run.

    Whoever looks at a preview or reads standard output may go: ``write`` then raises ``OutputClosedError``. What is
    sent to a server or to a virtual camera can be opened again after an error. A recording is whole after ``commit``,
    and what is there before can be played, too: it is called ``NAME.partial.SUFFIX`` until then.

    Args:
        name: ``virtual`` (the first virtual camera that is free), ``/dev/videoN``, ``preview``, ``rtmp://…``,
            ``rtsp://…``, ``srt://…``, ``udp://…``, a file to record to, ``-`` (y4m on standard output) or ``-:raw``.
        info: Of all frames that will be written.
        on_key: Called on another thread with each character typed into the preview.

    Raises:
        DeviceUnavailableError: There is no such device, or it is busy.
        MissingDependencyError: It needs a package that is not installed.
        SinkError: It cannot be opened.
    """
    if name == "preview":
        from vidseg.sinks.preview import PreviewSink

        return PreviewSink(info, on_key)
    if name == "virtual":
        return _virtual(info)
    if name.startswith("/dev/video") or name.startswith("/dev/v4l/"):
        from vidseg.sinks.v4l2loopback import V4L2LoopbackSink

        return V4L2LoopbackSink(name, info)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name) and not name.startswith("file://"):
        from vidseg.sinks.push import PushSink

        return PushSink(name, info)
    from vidseg.sinks.raw import RawSink, is_raw

    if is_raw(name):
        return RawSink(name, info)
    if not os.path.splitext(name)[1]:
        known = "virtual, preview, /dev/videoN, rtmp://…, rtsp://…, srt://…, a recording (talk.mkv), - or -:raw"
        raise SinkError(f"{redacted(name)} is no output: choose {known}", url=name)
    from vidseg.sinks.pyav import PyAVSink

    return PyAVSink(name.removeprefix("file://"), info, OutputOptions(audio=False, live=True))


def _virtual(info: StreamInfo) -> Sink:
    """Open the first virtual camera that nobody else feeds.

    Raises:
        DeviceUnavailableError: There is none, with the mend; or one reason a line.
    """
    if sys.platform != "linux":
        from vidseg.sinks.virtualcam import VirtualCameraSink

        return VirtualCameraSink("virtual", info)
    from vidseg.sinks.v4l2loopback import V4L2LoopbackSink

    reasons = []
    for device in list_devices(details=False):
        if device.kind != "virtual":
            continue
        try:
            return V4L2LoopbackSink(device.path, info)
        except DeviceUnavailableError as error:
            reasons.append(str(error))
    if not reasons:
        raise DeviceUnavailableError(f"there is no virtual camera: {LOOPBACK_MEND}", url="virtual")
    if len(reasons) == 1:
        raise DeviceUnavailableError(reasons[0], url="virtual")
    raise DeviceUnavailableError("\n".join(["no virtual camera can be used:", *reasons]), url="virtual")
