"""Studio: live frames of several visitors through one network, and out before the background that each has chosen."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple

from vidseg.backgrounds import Background
from vidseg.compositor import compose
from vidseg.errors import EngineError, SourceError, VidsegError
from vidseg.frame import Frame, Size
from vidseg.live.guard import Guard
from vidseg.segmenter import Matte, Segmenter
from vidseg.server.jpeg import JpegReader, JpegWriter
from vidseg.settling import settle
from vidseg.smoothing import Smoother

log = logging.getLogger(__name__)

_TIME_BASE = Fraction(1, 1_000_000)
_FAILURES = 30
"""Failures of the network in a row after which it is better to begin anew."""


class Shot(NamedTuple):
    """A live frame as it has come: a JPEG, or decoded."""

    visitor: int
    data: bytes | Frame


class Shown(NamedTuple):
    """What a visitor gets for a frame: the composite, of the kind that was sent; or no bytes and the reason.

    Attributes:
        fault: Whether what was sent is no frame, which its sender has to mend.
    """

    data: bytes | Frame
    reason: str = ""
    fault: bool = False


@dataclass(slots=True, eq=False)
class _Place:
    """What is kept of a visitor: in memory, until they leave."""

    background: Background
    jpegs: JpegReader
    write: JpegWriter = field(default_factory=JpegWriter)
    guard: Guard = field(default_factory=Guard)
    smoother: Smoother = field(default_factory=Smoother)
    size: Size = (0, 0)

    def read(self, data: bytes | Frame, now: int) -> Frame:
        """Return a frame at the time ``now``, by whichever way it has come.

        Raises:
            SourceError: It is no JPEG that is taken.
        """
        if isinstance(data, Frame):
            return replace(data, pts=now, time_base=_TIME_BASE)
        return self.jpegs(data, now, _TIME_BASE)


class Studio:
    """Finds the people in one frame of each visitor at a time, in one batch. Not thread-safe.

    Fails closed: what is returned for a frame was composited with the mask of that very frame, or is nothing. The mask
    has passed the guard; there is no way to ask for the room.

    Args:
        segmenter: One for all visitors; it must not remember streams (``stream=False``). Closed by ``close``.
        pixels: Of the largest frame.
    """

    def __init__(self, segmenter: Segmenter, pixels: int) -> None:
        self._segmenter, self._pixels = segmenter, pixels
        self._places: dict[int, _Place] = {}
        self._pool = ThreadPoolExecutor(2, "vidseg-compose")
        self._failures = 0

    def __len__(self) -> int:
        """Return how many visitors there are."""
        return len(self._places)

    def enter(self, visitor: int, background: Background) -> None:
        """Let a visitor in, or give one who is there another background, from their next frame on."""
        place = self._places.get(visitor)
        if place is None:
            self._places[visitor] = _Place(background, JpegReader(self._pixels))
        else:
            place.background.close()
            place.background = background

    def leave(self, visitor: int) -> None:
        """Forget a visitor."""
        place = self._places.pop(visitor, None)
        if place is not None:
            place.background.close()

    def close(self) -> None:
        """Forget all visitors, and release the network."""
        for visitor in list(self._places):
            self.leave(visitor)
        self._pool.shutdown()
        self._segmenter.close()

    def __call__(self, shots: Sequence[Shot]) -> list[Shown]:
        """Return what becomes of each of ``shots``, of which there is one a visitor at most.

        Raises:
            EngineError: The network has failed again and again.
        """
        shown: list[Shown | None] = [None] * len(shots)
        groups: dict[Size, list[tuple[int, Frame]]] = {}
        now = round(time.monotonic() / _TIME_BASE)
        for index, shot in enumerate(shots):
            place = self._places.get(shot.visitor)
            if place is None:
                shown[index] = Shown(b"", "the visitor has left")
                continue
            try:
                frame = place.read(shot.data, now)
            except SourceError as error:
                shown[index] = Shown(b"", str(error), True)
                continue
            groups.setdefault(frame.size, []).append((index, frame))
        for group in groups.values():
            for (index, _), done in zip(group, self._composed(shots, group), strict=True):
                shown[index] = done
        return [done or Shown(b"", "nothing was done") for done in shown]

    def _composed(self, shots: Sequence[Shot], group: list[tuple[int, Frame]]) -> list[Shown]:
        """Return what becomes of frames of one size."""
        frames = [frame for _, frame in group]
        try:
            mattes = self._segmenter(frames)
        except Exception as error:
            self._failures += 1
            log.warning("The network has failed: %s", error)
            if self._failures >= _FAILURES:
                raise EngineError(f"the network fails again and again: {error}") from error
            return [Shown(b"", "the network has failed") for _ in group]
        self._failures = 0
        places = [self._places[shots[index].visitor] for index, _ in group]
        jpegs = [isinstance(shots[index].data, bytes) for index, _ in group]
        if len(group) == 1:
            return [_made(places[0], frames[0], mattes[0], jpegs[0])]
        return list(self._pool.map(_made, places, frames, mattes, jpegs))


def _made(place: _Place, frame: Frame, matte: Matte, jpeg: bool) -> Shown:
    """Return what becomes of one frame with its mask."""
    try:
        if frame.size != place.size:  # the phone was turned
            place.guard.reset()
            place.smoother.reset()
            place.size = frame.size
        place.guard(matte.alpha, matte.guide)
        alpha = place.smoother(settle(matte.alpha), matte.guide, frame.time)
        shown = compose(frame, Matte(alpha, matte.guide), place.background)
        return Shown(place.write(shown) if jpeg else shown)
    except Exception as error:
        if not isinstance(error, VidsegError):
            log.error("A frame is not shown", exc_info=error)
        place.smoother.reset()
        return Shown(b"", str(error) if isinstance(error, VidsegError) else "the frame could not be made")
