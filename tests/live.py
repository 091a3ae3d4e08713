"""A stage for live sessions in tests: a synthetic camera in lockstep, a fake clock, an oracle as the output."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

from vidseg.live.output import Outlet
from vidseg.live.session import LiveOptions, LiveSession
from vidseg.live.settings import Settings
from vidseg.segmenter import Segmenter
from vidseg.testing import FakeClock, FaultyCamera, FaultyEngine, person_share, room_share

SIZE = 90, 160
GENEROUS = 60.0
"""Seconds after which what a test waits for will not come."""


class OracleSink:
    """Looks at every frame and keeps numbers only."""

    notes = ()

    def __init__(self, fail_at=(), error=None):
        self.count = self.people = 0
        self.worst = 0.0
        self.last = None
        self.pts = []
        self.state = "open"
        self._fail_at, self._error = set(fail_at), error or OSError("injected")

    def write(self, frame):
        self.count += 1
        if self.count in self._fail_at:
            raise self._error
        self.worst = max(self.worst, room_share(frame))
        self.people += person_share(frame) > 0.02
        assert not self.pts or frame.pts > self.pts[-1]
        self.pts[:] = [frame.pts]
        self.last = frame

    def commit(self):
        self.state = "committed"

    def abort(self, keep_partial=False):
        self.state = "aborted"


@dataclass
class Stage:
    """What a session runs on. Time is fake and goes on by one frame whenever the camera gives one."""

    engine: FaultyEngine = field(default_factory=FaultyEngine)
    size: tuple[int, int] = SIZE
    faults: dict[int, str] = field(default_factory=dict)
    clock: FakeClock = field(default_factory=FakeClock)
    sink: OracleSink = field(default_factory=OracleSink)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    open_errors: list[Exception] = field(default_factory=list)
    index: int = 0
    session: LiveSession | None = None
    on_frame: object = None
    cameras: list[FaultyCamera] = field(default_factory=list)
    wanted: object = staticmethod(lambda: True)
    _seen: int = 0

    def people_again(self):
        """Whether another frame was composited since this was last true; repeated pictures do not count."""
        frames = self.session.status().frames
        if frames <= self._seen or not self.sink.people:
            return False
        self._seen = frames
        return True

    def passing(self, condition):
        """Return the condition, with time that goes on while it is asked although no camera gives frames."""

        def asked():
            self.clock.advance(0.02)
            return condition()

        return asked

    def pace(self):
        """Let a frame's time pass, and wait until the last one was taken."""
        self.clock.advance(1 / 30)
        self.index += 1
        if self.on_frame is not None:
            self.on_frame(self.index)
        until = time.monotonic() + 0.1
        while len(self.session._intake.frames) and time.monotonic() < until:
            time.sleep(0.0002)

    def open_camera(self):
        if self.open_errors:
            self.clock.advance(0.5)
            raise self.open_errors.pop(0)
        size = self.sizes.pop(0) if self.sizes else self.size
        camera = FaultyCamera(
            size, clock=self.clock, pace=self.pace, first=self.index, faults=self.faults,
            idle=lambda: self.clock.advance(0.05),
        )  # fmt: skip
        self.cameras.append(camera)
        return camera

    def make(self, settings=None, outlets=None, segmenter=None, **options):
        options.setdefault("size", self.size)
        self.session = LiveSession(
            self.open_camera,
            outlets or [Outlet("oracle", lambda info: self.sink)],
            settings or Settings(background="#00ff00"),
            LiveOptions(**options),
            open_segmenter=segmenter or (lambda settings: Segmenter(engine=self.engine)),
            clock=self.clock,
            wanted=lambda: self.wanted(),
        )
        return self.session


@contextmanager
def running(session, progress=None):
    """Run a session on a thread of its own; at the end of the block it is stopped, and what it raised is raised."""
    result = []

    def run():
        try:
            result.append(session.run(progress))
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run, name="test-session")
    thread.start()
    try:
        yield result
    finally:
        session.stop()
        thread.join(GENEROUS)
        assert not thread.is_alive(), "the session does not end"
    if result and isinstance(result[0], BaseException):
        raise result[0]


def wait_for(condition, what="it", seconds=GENEROUS):
    """Wait until something is so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen"
        time.sleep(0.002)


def no_thread_is_left(before):
    left = [t for t in set(threading.enumerate()) - before if t.name.startswith("vidseg")]
    for thread in left:
        thread.join(5)
    return not [t for t in left if t.is_alive()]
