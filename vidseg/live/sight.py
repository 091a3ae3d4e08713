"""Sight: a network with its guard, which finds the people in live frames and is opened anew when it fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from vidseg.errors import EngineError, MaskError
from vidseg.frame import Frame
from vidseg.live.budget import Rung
from vidseg.live.guard import Guard
from vidseg.live.intake import Backoff, Clock
from vidseg.live.matting import Matter, Seen
from vidseg.live.settings import Settings
from vidseg.segmenter import Segmenter
from vidseg.smoothing import Smoother
from vidseg.subject import Subject

log = logging.getLogger(__name__)

_PATIENCE = 0.5
"""Seconds of refused masks after which the network is opened anew."""
_CALM = 5.0
"""Seconds for which it has to work before earlier failures are forgotten."""


class Sight:
    """Frame in, mask out, or an error and no mask. Not thread-safe, but for ``warm``, which may come before the rest.

    An engine that raises is closed and opened anew, with backoff; so is one whose masks are refused for half a second.

    Args:
        open_segmenter: Opens the network.
        clock: Seconds.
    """

    def __init__(self, open_segmenter: Callable[[], Segmenter], clock: Clock = time.monotonic) -> None:
        self._open, self._clock = open_segmenter, clock
        self._guard = Guard()
        self._segmenter: Segmenter | None = None
        self._matter: Matter | None = None
        self._settings: Settings | None = None
        self._warmed: Seen | None = None  # what the guard has not heard yet
        self._backoff = Backoff(0.25, 5.0)
        self._again_at = 0.0
        self._refused_since: float | None = None
        self._said = ""
        self.model = ""
        """What computes, or last did; empty before the first network is open."""
        self._runtime = ""
        self.refused = 0
        """Masks that the guard refused."""
        self.failures = 0
        """Times that the engine failed."""
        self.failing: Exception | None = None
        """Why the last frame has no mask, or None if it has one."""

    @property
    def is_open(self) -> bool:
        """Whether there is a network."""
        return self._matter is not None

    @property
    def runtime(self) -> str:
        """What the model runs on, or last did: a faster one may take over while the network is open."""
        segmenter = self._segmenter
        if segmenter is not None:
            self._runtime = segmenter.runtime or self._runtime
        return self._runtime

    def warm(self, frame: Frame) -> None:
        """Open the network now and let a frame through it, so that the next one is quick.

        Raises:
            VidsegError: It does not work.
        """
        segmenter = self._open()
        try:
            matter = Matter(segmenter)
            warmed = matter(frame)
            matter.reset()
        except BaseException:
            segmenter.close()
            raise
        self._segmenter, self._matter, self._settings, self._warmed = segmenter, matter, None, warmed
        self.model, self._runtime = segmenter.model, segmenter.runtime

    def forget(self) -> None:
        """The next frame is the first of another picture: the camera was away. The guard still knows the room."""
        if self._matter is not None:
            self._matter.reset()

    def __call__(self, frame: Frame, rung: Rung, settings: Settings) -> Seen:
        """Return where the people of ``frame`` are.

        Raises:
            MaskError: The mask may not be used.
            EngineError: There is none.
        """
        if self._matter is None and self._clock() < self._again_at:
            raise EngineError(f"the network is not open: {self.failing}") from self.failing
        try:
            seen = self._look(frame, rung, settings)
        except MaskError as error:
            self._refuse(error)
            raise
        except Exception as error:
            self.failures += 1
            self._say(error)
            self._close_engine()
            raise
        self._refused_since = self.failing = None
        if self._said and self._clock() - self._again_at > _CALM:
            self._said = ""
            self._backoff.reset()
        return seen

    def _look(self, frame: Frame, rung: Rung, settings: Settings) -> Seen:
        if self._matter is None:
            self.warm(frame)
        matter = self._matter
        assert matter is not None
        self._tune(matter, settings)
        warmed, self._warmed = self._warmed, None
        if warmed is not None:
            # It is not shown; but a network that repeats it later is to be found out.
            with suppress(MaskError):
                self._guard(warmed.raw, warmed.guide)
        seen = matter(frame, rung)
        if seen.how == "inferred":
            self._guard(seen.raw, seen.guide)
        return seen

    def _tune(self, matter: Matter, settings: Settings) -> None:
        """Use other settings from this frame on."""
        before, self._settings = self._settings, settings
        if before is None or before.smoothing != settings.smoothing:
            matter.steady(Smoother(settings.smoothing, patience=5 * settings.smoothing))
        if before is None or before.subject != settings.subject:
            matter.choose(None if settings.subject == "all" else Subject(settings.subject))

    def _refuse(self, error: MaskError) -> None:
        self.refused += 1
        self._say(error)
        assert self._matter is not None
        self._matter.reset()
        now = self._clock()
        if self._refused_since is None or now < self._refused_since:
            self._refused_since = now
        if now - self._refused_since > _PATIENCE:
            self._refused_since = None
            self._close_engine()

    def _say(self, error: Exception) -> None:
        """Log one line when the failure is another one than before."""
        self.failing = error
        if str(error) != self._said:
            self._said = str(error)
            log.warning("There is no mask, and nothing of the room is shown: %s", error)

    def _close_engine(self) -> None:
        """Close the engine, to be opened anew by a later frame."""
        self.close()
        self._again_at = self._clock() + self._backoff()

    def close(self) -> None:
        """Release the network. May be called again."""
        matter, self._matter = self._matter, None
        segmenter, self._segmenter = self._segmenter, None
        if matter is not None:
            matter.close()
        if segmenter is not None:
            segmenter.close()
