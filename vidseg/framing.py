"""Framer: a crop that keeps head and shoulders in the picture, moved as a calm camera operator would."""

from __future__ import annotations

import math

import numpy as np

from vidseg.frame import Alpha
from vidseg.placement import WHOLE, Window

_SHOULDERS = 2.2
"""How many times the width of the people's outline the window is wide: room for gestures to both sides."""
_HEADROOM = 0.14
"""Share of the window above the head."""
_LEAST = 0.45
"""Smallest share of the picture's width; a smaller window would show its own samples."""
_NEARLY_WHOLE = 0.93
"""Windows larger than this are the whole picture, which costs nothing."""
_ZONE, _ZONE_SHARE = 0.06, 0.12
"""By how much of the window the person may move, and by which share it may grow or shrink, before it follows."""
_CALM = 0.4
"""Seconds for which the person has to be outside of the zone: a nod is no reason to move."""
_PERIOD = 0.45
"""Time constant of the movement in seconds: 86 % of the way after four of them."""
_ALONE = 2.0
"""Seconds without anybody after which the whole picture is shown again."""
_SOMEBODY = 0.004
"""Share of the picture that somebody covers at least."""


class Framer:
    """Follows the people in the small alphas of one stream. Keeps state; not thread-safe. Costs about 0.05 ms a frame.

    The window moves only when the person has left a dead zone for a while; then it goes to where the person is, all of
    it (left, top and size at once) as a critically damped spring: it starts softly, never overshoots, and takes the
    same time at any frame rate, because each step is the spring's exact solution. It never reaches beyond the picture.

    Use, before the background is rendered::

        framer = Framer()
        …for each frame:  frame, full = placement.crop(frame, full, framer(seen.alpha, frame.time))

    While nobody has to be followed the window is ``placement.WHOLE`` and ``crop`` returns what it was given.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Show the whole picture again, at once."""
        self._window = np.array(WHOLE, np.float64)
        self._speed = np.zeros(3)
        self._goal = self._window.copy()
        self._time = math.nan
        self._outside = self._gone = 0.0

    def __call__(self, alpha: Alpha, time: float) -> Window:
        """Return what is to be shown.

        Args:
            alpha: float32 ``(h, w)``, of the people to be framed.
            time: Of its frame, in seconds.
        """
        step = time - self._time
        self._time = time
        if not 0 <= step <= 1:  # the first frame, a gap, another clock
            step = 0.0
        self._aim(_wanted(alpha), step)
        self._move(step)
        if np.abs(self._window - self._goal).max() < 2e-4 and np.abs(self._speed).max() < 2e-4:
            self._window, self._speed = self._goal.copy(), np.zeros(3)
        left, top, share = (float(number) for number in self._window)
        if share > 1 - 1e-9:
            return WHOLE
        # The three follow one curve between two windows in the picture, so this only takes rounding away.
        return Window(min(max(left, 0.0), 1 - share), min(max(top, 0.0), 1 - share), share)

    def _aim(self, wanted: Window | None, step: float) -> None:
        """Choose another goal if the person has left the dead zone for long enough."""
        if wanted is None:
            self._gone += step
            self._outside = 0.0
            if self._gone >= _ALONE:
                self._goal = np.array(WHOLE, np.float64)
            return
        self._gone = 0.0
        share = self._goal[2]
        middle = self._goal[:2] + share / 2 - np.array(wanted[:2]) - wanted.share / 2
        inside = np.abs(middle).max() <= _ZONE * share and abs(math.log(wanted.share / share)) <= _ZONE_SHARE
        self._outside = 0.0 if inside else self._outside + step
        if self._outside >= _CALM:
            self._goal = np.array(wanted, np.float64)
            self._outside = 0.0

    def _move(self, step: float) -> None:
        """Move as a critically damped spring does in ``step`` seconds."""
        away = self._window - self._goal
        pull = (self._speed + away / _PERIOD) * step
        decay = math.exp(-step / _PERIOD)
        self._window = self._goal + (away + pull) * decay
        self._speed = (self._speed - pull / _PERIOD) * decay


def _wanted(alpha: Alpha) -> Window | None:
    """Return the window that frames the people in ``alpha`` best, or None without people."""
    height, width = alpha.shape
    sure = alpha > 0.5
    if np.count_nonzero(sure) < _SOMEBODY * sure.size:
        return None
    columns = np.cumsum(sure.sum(0))
    # Between the first and the last few per cent: a speck far away, or a finger, frames nobody.
    first, last = (int(np.searchsorted(columns, part * columns[-1])) for part in (0.02, 0.98))
    left, right = first / width, (last + 1) / width
    rows = np.flatnonzero(sure[:, first : last + 1].sum(1) >= max(2, 0.01 * width))
    head = float(rows[0]) / height if len(rows) else 0.0
    share = min(max(_SHOULDERS * (right - left), _LEAST), 1.0)
    if share > _NEARLY_WHOLE:
        return WHOLE
    most = 1 - share
    return Window(min(max((left + right - share) / 2, 0.0), most), min(max(head - _HEADROOM * share, 0.0), most), share)
