"""Output: hands each picture to every sink, each on a thread of its own, so that none waits for another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from vidseg.errors import OutputClosedError, SinkError, VidsegError
from vidseg.frame import Frame, StreamInfo
from vidseg.live.intake import Backoff, Clock
from vidseg.pipeline import Channel, Timings
from vidseg.sinks import Sink

log = logging.getLogger(__name__)

TIME_BASE = Fraction(1, 90_000)


class Outlet(NamedTuple):
    """One output of a live run.

    Attributes:
        name: For a person.
        open: Opens it; called again after it failed, if ``again``.
        again: Whether it makes sense to try again: for a virtual camera or a server, not for a pipe or a file.
    """

    name: str
    open: Callable[[StreamInfo], Sink]
    again: bool = True


@dataclass(frozen=True, slots=True)
class _Shown:
    frame: Frame
    captured: float | None
    arrived: float
    made: float


class Output:
    """All outlets of a session. Frames are written in order, each outlet at its own speed; what is too old is dropped.

    Args:
        outlets: At least one.
        info: Of all frames that are shown.
        clock: Seconds.
        timings: Gets of the first outlet ``write``, ``added`` (from when a frame was decoded until it was written) and
            ``total`` (from the camera's time).

    Raises:
        VidsegError: One cannot be opened; the others are closed then.
        ValueError: There is none.
    """

    def __init__(
        self,
        outlets: Sequence[Outlet],
        info: StreamInfo,
        clock: Clock = time.monotonic,
        timings: Timings | None = None,
    ) -> None:
        if not outlets:
            raise ValueError("a live run needs at least one output")
        self.info, self._clock = info, clock
        self._began = clock()
        self._pts = -1
        self._lock = threading.Lock()
        self.last = -1.0
        """When the last picture was shown, on the clock; -1 before the first."""
        self.shown = 0
        self.failed: Exception | None = None
        """Why nothing can be shown any more; an ``OutputClosedError`` is an end in order."""
        self._lanes: list[_Lane] = []
        try:
            for outlet in outlets:
                first = timings if not self._lanes else None
                self._lanes.append(_Lane(outlet, info, clock, first, self._lost))
        except BaseException:
            for lane in self._lanes:
                lane.sink_abort()
            raise
        for lane in self._lanes:
            lane.start()

    def show(
        self, frame: Frame, captured: float | None = None, arrived: float = 0.0, *, unless_since: float | None = None
    ) -> bool:
        """Show one picture from now on.

        Args:
            frame: Of the kind of ``info``; it gets another time.
            captured: When the camera took it, on the clock; None for what no camera took.
            arrived: When it was decoded.
            unless_since: Do nothing if something was shown after this moment.

        Returns:
            Whether it is shown.
        """
        with self._lock:
            if unless_since is not None and self.last > unless_since:
                return False
            now = self._clock()
            self._pts = max(self._pts + 1, round((now - self._began) / TIME_BASE))
            shown = _Shown(replace(frame, pts=self._pts, time_base=TIME_BASE, duration=0), captured, arrived, now)
            self.last = now
            self.shown += 1
            for lane in self._lanes:
                lane.frames.put(shown)
            return True

    @property
    def dropped(self) -> int:
        """Pictures that the first outlet was too slow for."""
        return self._lanes[0].frames.dropped

    def states(self) -> dict[str, str]:
        """Return how each outlet is: ``open``, or why it is not."""
        return {lane.outlet.name: lane.state for lane in self._lanes}

    def notes(self) -> tuple[str, ...]:
        """Return what the sinks have to say."""
        return tuple(dict.fromkeys(note for lane in self._lanes for note in lane.notes()))

    def close(self, seconds: float = 5.0) -> list[Exception]:
        """Write what waits, finish every outlet, and return what failed in that."""
        for lane in self._lanes:
            lane.frames.close()
        until = time.monotonic() + seconds
        return [error for lane in self._lanes if (error := lane.finish(until)) is not None]

    def _lost(self, error: Exception) -> None:
        if all(lane.dead for lane in self._lanes):
            self.failed = error


class _Lane:
    """One outlet, and the thread that writes to it."""

    def __init__(
        self,
        outlet: Outlet,
        info: StreamInfo,
        clock: Clock,
        timings: Timings | None,
        lost: Callable[[Exception], None],
    ) -> None:
        self.outlet, self._info, self._clock, self._timings, self._lost = outlet, info, clock, timings, lost
        self.frames: Channel[_Shown] = Channel(1, "drop")
        self.state = "open"
        self.dead = False
        self._backoff = Backoff(0.5, 8.0)
        self._again_at = 0.0
        self._sink: Sink | None = outlet.open(info)
        self._thread = threading.Thread(target=self._run, name="vidseg-output", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notes(self) -> tuple[str, ...]:
        sink = self._sink
        return () if sink is None else sink.notes

    def finish(self, until: float) -> Exception | None:
        """Wait for the thread and finish the sink; returns what failed."""
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():  # whoever reads has stopped reading; the thread is left to itself
            return SinkError(f"{self.outlet.name} takes no more pictures and could not be finished")
        sink, self._sink = self._sink, None
        if sink is None:
            return None
        try:
            sink.commit()
        except Exception as error:
            _aborted(sink)
            return error
        return None

    def sink_abort(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            _aborted(sink)

    def _run(self) -> None:
        for shown in self.frames:
            sink = self._sink if self._sink is not None else self._reopened()
            if sink is None:
                continue
            try:
                sink.write(shown.frame)
            except Exception as error:
                self._fail(error)
            else:
                if self._timings is not None and shown.captured is not None:
                    now = self._clock()
                    self._timings.add("write", now - shown.made)
                    self._timings.add("added", now - shown.arrived)
                    self._timings.add("total", now - shown.captured)

    def _fail(self, error: Exception) -> None:
        gone = isinstance(error, OutputClosedError)
        if self.state == "open" and not gone:
            log.warning("%s has failed: %s", self.outlet.name, error)
        if not isinstance(error, VidsegError | OSError):
            log.error("It failed in a way that is not known", exc_info=error)
        self.sink_abort()
        self.state = str(error)
        if gone or not self.outlet.again:
            self.dead = True
            self._lost(error)
        self._again_at = time.monotonic() + self._backoff()

    def _reopened(self) -> Sink | None:
        """Return the sink, opened again, if it is time for that and succeeds."""
        if self.dead or time.monotonic() < self._again_at:
            return None
        try:
            self._sink = self.outlet.open(self._info)
        except Exception as error:
            self._fail(error)
            return None
        log.warning("%s works again", self.outlet.name)
        self.state = "open"
        return self._sink


def _aborted(sink: Sink) -> None:
    """End a sink early, come what may."""
    try:
        sink.abort(keep_partial=True)
    except Exception:
        log.exception("An output could not be ended in order")
