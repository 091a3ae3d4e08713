"""Virtual cameras by pyvirtualcam: OBS on Windows and macOS. Linux has ``v4l2loopback``, which needs no library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from vidseg.errors import DeviceUnavailableError, MissingDependencyError
from vidseg.frame import Frame, StreamInfo
from vidseg.sinks.i420 import even, to_i420


def _library() -> Any:
    """Return pyvirtualcam, an extra.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import pyvirtualcam
    except ImportError as error:
        raise MissingDependencyError("A virtual camera", "virtualcam") from error
    return pyvirtualcam


class VirtualCameraSink:
    """Feeds a virtual camera of this system with I420, which programs read as BT.601, limited range.

    Args:
        name: ``virtual`` for the first there is, or what its driver calls it.
        info: Of the frames that will be written.

    Raises:
        MissingDependencyError: pyvirtualcam is not installed.
        DeviceUnavailableError: There is no virtual camera, or it is busy; one reason a line.
    """

    def __init__(self, name: str, info: StreamInfo) -> None:
        library = _library()
        self._name, self._info = name, info
        height, width = even(info.size)
        with self._using():
            self._camera = library.Camera(
                width=width,
                height=height,
                fps=float(info.fps or Fraction(30)),
                fmt=library.PixelFormat.I420,
                device=None if name == "virtual" else name,
            )
        self._open = True

    @property
    def notes(self) -> tuple[str, ...]:
        """What the camera is called in other programs."""
        return (f"The virtual camera is called {self._camera.device}",)

    def write(self, frame: Frame) -> None:
        """Show one frame from now on."""
        if frame.size != self._info.size:
            raise ValueError(f"the frame has another size than the stream: {frame.size = }, {self._info.size = }")
        with self._using():
            self._camera.send(to_i420(frame))

    def commit(self) -> None:
        """Leave the camera, which then shows what its driver shows of itself."""
        if self._open:
            self._open = False
            self._camera.close()

    def abort(self, keep_partial: bool = False) -> str | None:
        """Leave the camera."""
        self.commit()
        return None

    @contextmanager
    def _using(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError) as error:
            from vidseg.sinks.live import OBS_MEND

            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise DeviceUnavailableError("\n".join([f"no virtual camera can be used: {OBS_MEND}", *lines])) from error
