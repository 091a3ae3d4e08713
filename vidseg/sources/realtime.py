"""A file played in real time, as if it were a camera."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Self

from vidseg.frame import Frame, StreamInfo
from vidseg.sources import Source, open_source

TIME_BASE = Fraction(1, 1_000_000)
_FPS = Fraction(30)  # of pictures, which have none
_PATIENCE = 0.25  # seconds of frames that come too late before one of them is shown all the same


class RealTimeSource:
    """Yields each frame of a file when its time has come, over and over; a frame whose time has gone is dropped.

    ``Frame.time`` is the moment on ``time.monotonic``'s clock at which the frame was due, and goes on over the end of
    the file. A file that decodes slower than it plays, or a consumer that was away, makes it skip, as a camera would.

    Args:
        url: Whatever ``open_source`` takes.
        loop: Whether it starts again at its end.
        opened: Opens it, each time it starts.

    Raises:
        SourceNotFoundError: There is nothing under that name.
        SourceError: It is not a video or picture.
    """

    def __init__(self, url: str, *, loop: bool = True, opened: Callable[[str], Source] = open_source) -> None:
        self._url, self._loop, self._opened = url, loop, opened
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._source = source = opened(url)
        self._info = replace(source.info, fps=source.info.fps or _FPS, time_base=TIME_BASE, live=True, frames=0)
        self._corrupt = 0
        self._truncated = False
        self._notes: dict[str, None] = dict.fromkeys(source.notes)
        self._last_pts = -1
        self.dropped = 0

    @property
    def info(self) -> StreamInfo:
        """What the stream promises; ``duration`` is that of the file."""
        return self._info

    @property
    def corrupt(self) -> int:
        """How many packets or frames could not be decoded so far, in all rounds."""
        return self._corrupt + self._source.corrupt

    @property
    def truncated(self) -> bool:
        """Whether the file ended before it said it would."""
        return self._truncated or self._source.truncated

    @property
    def notes(self) -> tuple[str, ...]:
        """What was repaired, scaled or guessed, a sentence each."""
        return tuple(self._notes | dict.fromkeys(self._source.notes))

    def __iter__(self) -> Iterator[Frame]:
        begins = asked = time.monotonic()
        while not self._closed.is_set():
            first: Frame | None = None
            count = 0
            end = begins
            for frame in self._source:
                first, count = first or frame, count + 1
                due = begins + frame.time - first.time
                end = due + self._length(frame)
                if not self._wait(due):
                    return
                # A machine that is always late still shows some.
                if time.monotonic() > end and time.monotonic() < asked + _PATIENCE:
                    self.dropped += 1
                else:
                    yield self._at(frame, due)
                    asked = time.monotonic()
            if first is None or not self._loop:
                return
            # Whoever was away for longer than a round does not see the rounds that went by.
            begins = end if time.monotonic() < end + 1 else time.monotonic()
            if count == 1:  # a still: nothing to decode again
                yield from self._hold(first, begins)
                return
            self._again()

    def close(self) -> None:
        """End the iteration. May be called again, and while another thread waits for a frame."""
        self._closed.set()
        with self._lock:
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RealTimeSource({self._url!r})"

    def _hold(self, frame: Frame, begins: float) -> Iterator[Frame]:
        length, count = self._length(frame), 0
        while True:
            count = max(count, int((time.monotonic() - begins) / length))
            due = begins + count * length
            if not self._wait(due):
                return
            yield self._at(frame, due)
            count += 1

    def _again(self) -> None:
        old = self._source
        self._corrupt += old.corrupt
        self._truncated |= old.truncated
        self._notes |= dict.fromkeys(old.notes)
        old.close()
        new = self._opened(self._url)
        with self._lock:
            self._source = new
            if self._closed.is_set():
                new.close()

    def _length(self, frame: Frame) -> float:
        return float(frame.duration * frame.time_base) or float(1 / (self._info.fps or _FPS))

    def _wait(self, due: float) -> bool:
        """Wait for a moment; False if the source was closed."""
        return not self._closed.wait(max(due - time.monotonic(), 0))

    def _at(self, frame: Frame, due: float) -> Frame:
        self._last_pts = pts = max(round(due / TIME_BASE), self._last_pts + 1)
        duration = round(frame.duration * frame.time_base / TIME_BASE)
        return replace(frame, pts=pts, time_base=TIME_BASE, duration=duration)
