"""A window that shows what goes out; what is typed there is handed on."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from vidseg.errors import DeviceUnavailableError, MissingDependencyError, OutputClosedError, SinkError
from vidseg.frame import Frame, StreamInfo
from vidseg.sinks.child import Child, ChildEnded
from vidseg.sinks.i420 import READ_AS, even, to_i420

_SHOWN_AS = {("bt601", True): "jpeg", ("bt601", False): "bt601", ("bt709", False): "bt709"}
"""What SDL shows without a change: matrix and range, and SDL's word for it."""


class PreviewSink:
    """Shows frames in a window of its own process (``window``); Y'CbCr goes to the graphics card as it is.

    Args:
        info: Of the frames that will be written.
        on_key: Called on a thread of this sink with each character that is typed, escape included.

    Raises:
        MissingDependencyError: PySDL2 is not installed.
        DeviceUnavailableError: There is no screen.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, info: StreamInfo, on_key: Callable[[str], None] | None = None) -> None:
        if importlib.util.find_spec("sdl2") is None:
            raise MissingDependencyError("A preview window", "preview")
        self._info, self._on_key = info, on_key
        self._closed = False
        matrix = _SHOWN_AS.get((info.color.matrix, info.color.full_range))
        self._color = info.color if matrix else READ_AS
        height, width = even(info.size)
        try:
            self._window = Child("window", [str(width), str(height), matrix or "bt601"], heard=self._hear)
        except ChildEnded as error:
            raise DeviceUnavailableError(
                f"no preview window can be opened ({error}): leave out the preview, or run this where a screen is",
                url="preview",
            ) from None

    def write(self, frame: Frame) -> None:
        """Show one frame from now on.

        Raises:
            OutputClosedError: A person has closed the window.
        """
        if frame.size != self._info.size:
            raise ValueError(f"the frame has another size than the stream: {frame.size = }, {self._info.size = }")
        try:
            self._window.send(to_i420(frame, self._color).data)
        except ChildEnded as error:
            if self._closed:
                raise OutputClosedError("the preview was closed", url="preview") from None
            raise SinkError(f"the preview cannot be shown any more: {error}", url="preview") from None

    def interrupt(self) -> None:
        """Let a ``write`` that waits for the window give up."""
        self._closed = True
        self._window.kill()

    def commit(self) -> None:
        """Close the window."""
        self._window.end(2.0)

    def abort(self, keep_partial: bool = False) -> str | None:
        """Close the window."""
        self._window.end(2.0)
        return None

    def _hear(self, line: str) -> None:
        if line == "closed":
            self._closed = True
        elif self._on_key is not None:
            self._on_key(line)
