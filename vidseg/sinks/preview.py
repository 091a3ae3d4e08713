"""A window that shows what goes out; what is typed there is handed on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vidseg.errors import DeviceUnavailableError, MissingDependencyError, OutputClosedError, SinkError
from vidseg.frame import Color, Frame, StreamInfo
from vidseg.sinks.i420 import even, to_i420

_PATIENCE = 10.0  # seconds until the window has to stand
_SHOWN_AS = {("bt601", True): "jpeg", ("bt601", False): "bt601", ("bt709", False): "bt709"}
"""What SDL shows without a change: matrix and range, and SDL's word for it."""


class PreviewSink:
    """Shows frames in a window of its own process (``window``), newest first; Y'CbCr goes to the graphics card.

    Args:
        info: Of the frames that will be written.
        on_key: Called on a thread of this sink with each character that is typed, escape included, and with ``q``
            when the window is closed.

    Raises:
        MissingDependencyError: PySDL2 is not installed.
        DeviceUnavailableError: There is no screen.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, info: StreamInfo, on_key: Callable[[str], None] | None = None) -> None:
        if importlib.util.find_spec("sdl2") is None:
            raise MissingDependencyError("A preview window", "preview")
        self._info, self._on_key = info, on_key
        self._color: Color | None = None
        self._closed = False
        height, width = even(info.size)
        matrix = _SHOWN_AS.get((info.color.matrix, info.color.full_range))
        self._color = info.color if matrix else Color("bt601", False, 2, 2, 6, 1)
        window = str(Path(__file__).with_name("window.py"))
        self._process = subprocess.Popen(
            # -P: this folder is no place to look for libraries
            [sys.executable, "-P", window, str(width), str(height), matrix or "bt601"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._answered = threading.Event()
        self._problem = "it has ended at once"
        self._listener = threading.Thread(target=self._listen, name="vidseg-preview", daemon=True)
        self._listener.start()
        if not self._answered.wait(_PATIENCE):
            self._problem = f"it does not stand after {_PATIENCE:.0f} seconds"
        if self._problem:
            self._end()
            raise DeviceUnavailableError(
                f"no preview window can be opened: {self._problem}; leave out the preview, or run this where there is "
                "a screen",
                url="preview",
            )

    def write(self, frame: Frame) -> None:
        """Show one frame from now on.

        Raises:
            OutputClosedError: A person has closed the window.
        """
        if frame.size != self._info.size:
            raise ValueError(f"the frame has another size than the stream: {frame.size = }, {self._info.size = }")
        assert self._color is not None
        data = to_i420(frame, self._color).data
        pipe = self._process.stdin
        assert pipe is not None
        try:
            while len(data):
                data = data[pipe.write(data) or 0 :]
        except (OSError, ValueError) as error:
            self._listener.join(1.0)
            if self._closed:
                raise OutputClosedError("the preview was closed", url="preview") from error
            raise SinkError("the preview window has ended unexpectedly", url="preview") from error

    def interrupt(self) -> None:
        """Let a ``write`` that waits for the window give up."""
        self._closed = True
        self._process.kill()

    def commit(self) -> None:
        """Close the window."""
        self._end()

    def abort(self, keep_partial: bool = False) -> str | None:
        """Close the window."""
        self._end()
        return None

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._on_key = None
        with suppress(OSError):
            self._process.stdin.close()  # the window ends with its input
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if threading.current_thread() is not self._listener:
            self._listener.join()
        self._process.stdout.close()

    def _listen(self) -> None:
        lines = self._process.stdout
        assert lines is not None
        for raw in iter(lines.readline, b""):
            line = raw.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
            if not self._answered.is_set():
                self._problem = "" if line == "ok" else line.removeprefix("error: ")
                self._answered.set()
                continue
            key = line
            if line == "closed":
                self._closed, key = True, "q"
            if self._on_key is not None and key:
                self._on_key(key)
        self._answered.set()
