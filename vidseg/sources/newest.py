"""The newest frame of a source that may block: it is read on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Self

from vidseg.errors import SourceError
from vidseg.frame import Frame, StreamInfo
from vidseg.sources import Source

TIME_BASE = Fraction(1, 1_000_000)
SILENCE = 10.0
"""Seconds without a frame after which a source is given up."""


class NewestSource:
    """Yields the newest frame that ``source`` has; what came in between is dropped and counted.

    Libraries wait for cameras and networks in ways that nothing can end. So that thread is not waited for: ``close``
    returns at once, and whatever still blocks is released when it comes back.

    ``Frame.time`` is on ``time.monotonic``'s clock: the source's own where that is near, else when the frame came.

    Args:
        source: Read to its end, and owned.
        ends: Whether its end is in order; that of a camera or a live stream is a loss, and raised.
    """

    def __init__(self, source: Source, *, ends: bool = False) -> None:
        self._source, self._ends = source, ends
        self._info = replace(source.info, time_base=TIME_BASE, live=True, frames=0, duration=0.0)
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._error: Exception | None = None
        self._ended = self._closed = False
        self._last_pts = -1
        self.dropped = 0
        # A daemon: a program may end while a driver still blocks it.
        self._thread = threading.Thread(target=self._read, name="vidseg-source", daemon=True)
        self._thread.start()

    @property
    def info(self) -> StreamInfo:
        """What the stream promises."""
        return self._info

    @property
    def corrupt(self) -> int:
        """How many packets or frames could not be decoded so far."""
        return self._source.corrupt

    @property
    def truncated(self) -> bool:
        """Whether the stream ended before it said it would."""
        return self._source.truncated

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the source."""
        return self._source.notes

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._next()) is not None:
            yield frame

    def close(self) -> None:
        """End the iteration and release the source, now or as soon as it lets go."""
        with self._changed:
            self._closed = True
            self._frame = None
            self._changed.notify_all()
        self._source.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(0.2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"NewestSource({self._source!r})"

    def _next(self) -> Frame | None:
        with self._changed:
            there = self._changed.wait_for(lambda: self._frame or self._ended or self._closed, SILENCE)
            frame, self._frame = self._frame, None
            if self._closed:
                return None
            if frame is not None:
                return frame
            name = self._info.name
            if not there:
                raise SourceError(f"{name} gave no picture for {SILENCE:.0f} seconds: is it still there?", url=name)
            if self._error is not None:
                raise self._error
        if not self._ends:
            reason = next((note for note in self.notes if " ended early" in note), f"{name} has ended")
            raise SourceError(reason, url=name)
        return None

    def _read(self) -> None:
        error: Exception | None = None
        try:
            for frame in self._source:
                stamped = self._stamped(frame)
                with self._changed:
                    if self._closed:
                        return
                    self.dropped += self._frame is not None
                    self._frame = stamped
                    self._changed.notify_all()
        except Exception as caught:
            error = caught
        finally:
            if self._closed:
                self._source.close()
            with self._changed:
                self._error, self._ended = error, True
                self._changed.notify_all()

    def _stamped(self, frame: Frame) -> Frame:
        now = time.monotonic()
        at = frame.time if now - 1 < frame.time <= now else now
        self._last_pts = pts = max(round(at / TIME_BASE), self._last_pts + 1)
        return replace(frame, pts=pts, time_base=TIME_BASE, duration=0)
