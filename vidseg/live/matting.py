"""Matter: the small alpha of each frame of a live run, by inference only where something has changed."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.errors import VidsegError
from vidseg.frame import Alpha, Frame, Plane, Size
from vidseg.live.budget import Rung
from vidseg.motion import Carrier, Floats, Luma, change, perimeter
from vidseg.resize import shrink
from vidseg.segmenter import Planes, Segmenter
from vidseg.settling import settle
from vidseg.smoothing import Smoother

log = logging.getLogger(__name__)

Choose = Callable[[Alpha, Luma, float], Alpha]
"""Who is kept: ``(alpha, guide, time) -> alpha``; ``vidseg.subject.Subject`` is one."""

_FULL = Rung()
_OLDEST, _OLDEST_INSIDE = 1.0, 0.4
"""Seconds after which a mask is looked at anew though nothing has moved, and though only the inside of a person has."""
_SPECK = 4
"""Fewer changed pixels than this are noise: a single one that has really changed makes nine of them."""
_DEEP = np.ones((9, 9), np.uint8)
"""Closer to its outline than half of this, a person does not count as inside."""
_AGREED = 0.25
"""Pixels of alpha for each pixel of outline by which two masks may differ and still be the same."""
_SHORTEST = 16.0
"""Pixels of outline that even an empty picture is given in such comparisons."""
_ROUNDS = 4
"""Masks that must have agreed before one stands for the frames to come: the mean of several, not one's opinion."""
_ENOUGH = 1.0
"""Seconds of a picture that stands still after which the mean of its masks stands even if they never agree."""
_LOST = 0.3
"""Pixels of alpha for each pixel of outline that may be lost in carrying before the network is asked after all."""
_PAUSE = 7
"""Frames, at most, for which carrying is not tried again when it failed: 1, 3, then 7."""


class Seen(NamedTuple):
    """Where the people of one frame are. The arrays are read-only by rule: the next frame may share them.

    Attributes:
        alpha: float32 ``(h, w)`` in [0, 1], what is to be shown: settled, of the chosen subject, smoothed.
        guide: uint8 ``(h, w)``, the luma of this frame at that size, for ``refine``.
        how: By inference on this very frame; carried to it by motion; or ``still``: the picture is that of the last
            inference, and ``alpha`` is the same array as in the frame before.
        raw: Alpha before settling, choice and smoothing, for a guard: the network's own words for ``inferred``, and
            for ``still`` what it said last.
    """

    alpha: Alpha
    guide: Luma
    how: Literal["inferred", "carried", "still"]
    raw: Alpha


@dataclass(slots=True, eq=False)
class _Key:
    """The last inference: what the network saw, and what came of it."""

    frame_size: Size
    time: float
    luma: Luma
    planes: tuple[Floats, Floats, Floats]
    raw: Alpha
    settled: Alpha
    outline: float
    inside: npt.NDArray[np.bool_]


class Matter:
    """Finds the people in the consecutive frames of one live stream. Not thread-safe.

    Each frame's alpha comes about in the cheapest of three ways that is honest:

    * *still*: the small picture is that of the last inference but for noise, exposure and what moves well inside a
      person: the mask stands. It is looked at anew about every second, and no mask stands before several in a row
      have agreed.
    * *carried*: where the rung allows it, the mask of the last inference is carried along by optical flow. What the
      flow cannot account for is room; if that is much, the network is asked after all.
    * *inferred*.

    Use::

        smoother = Smoother(settings.smoothing, patience=5 * settings.smoothing)
        matter = Matter(segmenter, smoother, Subject(settings.subject))
        …for each frame:  seen = matter(frame, budget_rung);  full = refine(seen.alpha, frame, seen.guide)
        …after a rejected mask, a gap, another camera:  matter.reset()

    An error of the engine leaves nothing behind that a later frame could be shown with.

    Args:
        segmenter: Finds people; it belongs to the caller, who closes it after this.
        smoother: Steadies the alpha; None for none.
        choose: Who of several people is kept; None for all.
    """

    def __init__(self, segmenter: Segmenter, smoother: Smoother | None = None, choose: Choose | None = None) -> None:
        self._segmenter, self._smoother, self._choose = segmenter, smoother, choose
        self._carrier = Carrier()
        self._key: _Key | None = None
        self._last: Seen | None = None
        self._time = self._clock = 0.0
        self._since = 0  # frames since the last inference
        self._pause = self._paused = 0  # frames without carrying, and those of them that are left
        self._agreed = 0
        self._moved = -math.inf  # when something last did
        self._open: dict[tuple[Size, float], bool] = {}
        self._opening: threading.Thread | None = None

    def reset(self) -> None:
        """Forget everything seen: the next frame is the first of another picture."""
        self._key = self._last = None
        self._agreed = 0
        self._segmenter.reset()
        if self._smoother is not None:
            self._smoother.reset()

    def steady(self, smoother: Smoother | None) -> None:
        """Smooth with another smoother from the next frame on."""
        self._smoother, self._last, self._agreed, self._moved = smoother, None, 0, self._time

    def choose(self, choose: Choose | None) -> None:
        """Keep others from the next frame on."""
        self._choose, self._last, self._agreed, self._moved = choose, None, 0, self._time

    def close(self) -> None:
        """Wait for an engine that is being opened. May be called again."""
        if self._opening is not None:
            self._opening.join()

    def __call__(self, frame: Frame, rung: Rung = _FULL) -> Seen:
        """Return where the people of ``frame`` are.

        Args:
            frame: Read-only. Its time is in seconds of a clock that goes on with the stream.
            rung: How much may be spent.

        Raises:
            EngineError: The engine failed, or gave numbers that are no alpha. It is as after ``reset`` then.
        """
        try:
            return self._look(frame, rung)
        except BaseException:
            self.reset()
            raise

    def _look(self, frame: Frame, rung: Rung) -> Seen:
        step, self._time = frame.time - self._time, frame.time
        key = self._key
        if key is not None and (key.frame_size != frame.size or not 0 <= frame.time - key.time <= 2 * _OLDEST):
            self.reset()
            key, step = None, 0.0
        if key is None:
            self._moved = frame.time
            return self._infer(frame, self._segmenter.shrink(frame), rung, step)
        self._since += 1
        size = key.luma.shape[0], key.luma.shape[1]
        y = shrink(frame.planes[0], size)  # type: ignore[type-var]
        luma = _bytes(y, frame.depth)
        changed = change(luma, key.planes[0])
        moving = changed.where
        outside = bool(np.count_nonzero(moving & ~key.inside) >= _SPECK)
        if not outside and self._last is not None and self._is_sure(frame.time):
            oldest = _OLDEST if np.count_nonzero(moving) < _SPECK else _OLDEST_INSIDE
            if frame.time - key.time < oldest:
                outside = self._recoloured(frame, key)
                if not outside:
                    self._last = Seen(self._last.alpha, luma, "still", key.raw)
                    return self._last
        if outside:
            self._agreed, self._moved = 0, frame.time
        if self._since < rung.every and self._paused > 0:
            self._paused -= 1
        elif self._since < rung.every:
            settled, lost = self._carrier(key.settled, key.luma, luma, changed)
            if lost <= _LOST * key.outline:
                self._pause = 0
                return self._finish(settled, luma, "carried", settled, step)[0]
            self._pause = self._paused = min(2 * self._pause + 1, _PAUSE)
        u, v = (shrink(plane, size) for plane in frame.planes[1:])  # type: ignore[type-var]
        return self._infer(frame, (y, u, v), rung, step)

    def _is_sure(self, time: float) -> bool:
        """Return whether the last mask may stand for a picture that has not changed."""
        return self._agreed >= _ROUNDS or time - self._moved > _ENOUGH

    def _recoloured(self, frame: Frame, key: _Key) -> bool:
        """Return whether chroma has changed outside of a person: red before green of one brightness."""
        for plane, before in zip(frame.planes[1:], key.planes[1:], strict=True):
            size = before.shape[0], before.shape[1]
            now = _bytes(shrink(plane, size), frame.depth)  # type: ignore[type-var]
            if np.count_nonzero(change(now, before).where & ~key.inside) >= _SPECK:
                return True
        return False

    def _infer(self, frame: Frame, planes: Planes, rung: Rung, step: float) -> Seen:
        raw = self._segmenter.look(frame, planes, self._scale(frame.size, rung.scale))
        settled = settle(raw)
        luma, u, v = (_bytes(plane, frame.depth) for plane in planes)
        seen, chosen = self._finish(settled, luma, "inferred", raw, step)
        outline = max(perimeter(settled), _SHORTEST)
        if float(np.abs(seen.alpha - chosen).sum()) > _AGREED * outline:
            if self._agreed:  # what stood is wrong, or the light has changed it: it takes a while to tell
                self._moved = frame.time
            self._agreed = 0
        else:
            self._agreed += 1
        inside = cv2.erode((seen.alpha > 0.95).view(np.uint8), _DEEP).view(bool)
        floats = luma.astype(np.float32), u.astype(np.float32), v.astype(np.float32)
        self._key = _Key(frame.size, frame.time, luma, floats, raw, settled, outline, inside)
        self._since = 0
        return seen

    def _finish(
        self, settled: Alpha, luma: Luma, how: Literal["inferred", "carried"], raw: Alpha, step: float
    ) -> tuple[Seen, Alpha]:
        """Return what is shown of a settled alpha, and that before it was smoothed."""
        self._clock += step
        chosen = settled if self._choose is None else self._choose(settled, luma, self._time)
        alpha = chosen if self._smoother is None else self._smoother(chosen, luma, self._clock)
        self._last = Seen(alpha, luma, how, raw)
        return self._last, chosen

    def _scale(self, size: Size, scale: float) -> float:
        """Return ``scale`` as soon as its engine is open, which a thread sees to; until then, and if not, 1."""
        if scale == 1 or self._open.get((size, scale)):
            return scale
        if (size, scale) not in self._open and (self._opening is None or not self._opening.is_alive()):
            self._opening = threading.Thread(
                target=self._prepare, args=(size, scale), name="vidseg-engine", daemon=True
            )
            self._opening.start()
        return 1.0

    def _prepare(self, size: Size, scale: float) -> None:
        try:
            self._segmenter.prepare(size, scale)
        except VidsegError as error:
            log.warning("the network does not open at %.0f %% of its size: %s", 100 * scale, error)
            self._open[size, scale] = False
        else:
            self._open[size, scale] = True


def _bytes(plane: Plane, depth: int) -> Luma:
    """Return samples of ``depth`` bits in 8."""
    return plane.astype(np.uint8) if depth == 8 else (plane >> (depth - 8)).astype(np.uint8)
