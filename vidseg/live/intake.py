"""Intake: keeps a camera open while it is wanted, opens it again whatever happens to it, and has its newest frame."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from vidseg.errors import VidsegError
from vidseg.frame import Frame, StreamInfo
from vidseg.pipeline import Channel, Timings
from vidseg.sources import Source

log = logging.getLogger(__name__)

TIME_BASE = Fraction(1, 1_000_000)
STALL = 2.0
"""Seconds without a frame after which a camera that gave some is opened anew."""
FIRST = 10.0
"""The same before its first frame: some take seconds to begin."""
RETRY = 0.25, 1.0
"""Seconds until the first and between later tries to open a lost camera, which is back within two of its return."""
_NEAR = 1.0
"""Seconds by which a frame's own time may differ from now; what is farther off is another clock's."""

State = Literal["off", "opening", "on", "lost"]
Clock = Callable[[], float]


class Backoff:
    """Seconds to wait before the next try: each failure doubles them.

    Args:
        first: After the first failure.
        most: At most.
    """

    def __init__(self, first: float, most: float) -> None:
        self._first, self._most = first, most
        self._next = first

    def __call__(self) -> float:
        """Return how long to wait now, after another failure."""
        wait, self._next = self._next, min(2 * self._next, self._most)
        return wait

    def reset(self) -> None:
        """It worked: begin again."""
        self._next = self._first


@dataclass(frozen=True, slots=True)
class Taken:
    """A frame as it came from the camera.

    Attributes:
        frame: Its time is on the session's clock, and strictly increases.
        info: Of the camera it came from; the same object until that is opened anew.
        arrived: When it was decoded and here, on the same clock.
    """

    frame: Frame
    info: StreamInfo
    arrived: float


class Intake:
    """One thread that opens the camera, reads it, and tries again with backoff when it is lost.

    A camera that comes back is read again within a second and the time that it takes to open. Between ``want(False)``
    and ``want(True)`` it is closed.

    Args:
        open_camera: Opens it; a ``VidsegError`` or ``OSError`` is a reason to try again.
        clock: Seconds; of ``time.monotonic`` unless this is a test.
        timings: Gets ``capture``: from a frame's own time until it was decoded.
    """

    def __init__(
        self, open_camera: Callable[[], Source], clock: Clock = time.monotonic, timings: Timings | None = None
    ) -> None:
        self._open, self._clock, self._timings = open_camera, clock, timings or Timings()
        self.frames: Channel[Taken] = Channel(1, "drop")
        self.state: State = "off"
        self.reason = ""
        self.info: StreamInfo | None = None
        self.notes: tuple[str, ...] = ()
        self.error: Exception | None = None
        self.openings = 0
        self._source: Source | None = None
        self._quiet_since = 0.0
        self._began = False  # whether the present camera has given a frame
        self._last = 0.0
        self._wanted = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="vidseg-camera", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def want(self, wanted: bool) -> None:
        """Open the camera, or close it. Returns at once."""
        with self._changed:
            if wanted == self._wanted:
                return
            self._wanted = wanted
            self._changed.notify_all()
            source = None if wanted else self._source
        if source is not None:
            source.close()

    def wait(self, seconds: float) -> bool:
        """Wait until the camera was opened for the first time, or could not be; False if neither happened."""
        with self._changed:
            return self._changed.wait_for(lambda: self.info is not None or self.error is not None, seconds)

    def watch(self) -> None:
        """Close a camera that has stalled, so that it is opened anew. To be called now and then."""
        with self._changed:
            source = self._source
            if source is None or self._clock() - self._quiet_since < (STALL if self._began else FIRST):
                return
            self._quiet_since = self._clock()  # not again at once
            self.reason = "it gave no picture for 2 seconds" if self._began else "it gives no picture"
            self.state = "lost"
        log.warning("The camera is opened anew: %s", self.reason)
        source.close()

    def forgive(self) -> None:
        """Begin to count silence from now on: the clock has jumped."""
        self._quiet_since = self._clock()

    def close(self, seconds: float = 5.0) -> bool:
        """End the thread and close the camera; False if it still blocks after ``seconds``, and is left to itself."""
        with self._changed:
            self._closed, self._wanted = True, False
            self._changed.notify_all()
            source = self._source
        self.frames.close(discard=True)
        if source is not None:
            source.close()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        backoff = Backoff(*RETRY)
        while True:
            with self._changed:
                if not self._wanted:
                    self.state, self.reason = "off", ""
                self._changed.wait_for(lambda: self._wanted or self._closed)
                if self._closed:
                    return
                if self.state == "off":
                    self.state = "opening"
            try:
                self._read(backoff)
            except (VidsegError, OSError) as error:
                self._lose(error)
            except Exception as error:  # whatever an adapter did not map; the session goes on without a camera
                log.exception("The camera failed in a way that is not known")
                self._lose(error)
            with self._changed:
                if self._wanted:
                    self._changed.wait_for(lambda: not self._wanted, backoff())

    def _lose(self, error: Exception) -> None:
        with self._changed:
            if not self._wanted:
                return
            if self.state != "lost":
                log.warning("The camera is gone, and is tried again: %s", error)
            self.state, self.reason, self.error = "lost", self.reason or str(error), error
            self._changed.notify_all()

    def _read(self, backoff: Backoff) -> None:
        source = self._open()
        try:
            with self._changed:
                if not self._wanted:
                    return
                self._source, self._began, self._quiet_since = source, False, self._clock()
                info = self.info = source.info
                self.notes = source.notes
                self.openings += 1
                self._changed.notify_all()
            for frame in source:
                if not self._wanted:
                    return
                now = self._clock()
                if not self._began:
                    self._began, self.error = True, None
                    self.state, self.reason = "on", ""
                    backoff.reset()
                self._quiet_since = now
                if not self.frames.put(Taken(self._stamped(frame, now), info, now)):
                    return
            if self.state != "lost":
                self.state, self.reason = "lost", "it has ended"
        finally:
            with self._changed:
                self._source = None
            source.close()

    def _stamped(self, frame: Frame, now: float) -> Frame:
        """Return the frame with a time of this session's clock that is later than the last one's."""
        at = frame.time if 0 <= now - frame.time <= _NEAR else now
        self._timings.add("capture", now - at)
        # After a jump back of the clock it goes on from there: an hour of equal times would be worse than one gap.
        if self._last < at or at < self._last - _NEAR:
            self._last = at
        else:
            self._last += float(TIME_BASE)
        return replace(frame, pts=round(self._last / TIME_BASE), time_base=TIME_BASE)
