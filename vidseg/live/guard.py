"""Guard: says of each new mask whether it can be of the people in its picture, so that a broken one shows nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidseg.errors import MaskError
from vidseg.frame import Alpha

SATURATED = 0.985
"""Share of the picture from which on a mask leaves no room: a face right before the lens has 90 %, a network that
answers ones everywhere has 100 %. Of a hand on the lens the background is shown, which hides nothing from anybody."""
MOVED, MOVED_PIXELS = 16, 4
"""A mask that is equal to an earlier one, bit for bit, is that of another picture if so many pixels under it have changed
by more than so many grey levels. The noise of a camera has less than 6 on pixels that are means of 25, and a network
that looks at another picture answers with other numbers, if only in the last digit."""
CHANGED = 6
"""Grey levels that count as a change which could explain that a pixel is a person's now."""
JUMP = 0.2
"""Share of the picture that may become a person's between two masks without any change in it. Networks do take a chair
for a person of a sudden, which is 5 to 10 %; the torso of somebody who leans in moves the pixels it covers."""
NOBODY = 0.05
"""With less of the picture than this a mask is of nobody: whoever is found next, though they sat there all the time,
is no jump."""
_STEP = 2
"""Every so-manieth row and column is looked at for jumps: areas need no detail."""

Picture = npt.NDArray[np.uint8]


class Guard:
    """Refuses masks that are no numbers, leave no room, stand still while the picture moves, or jump. Not thread-safe.

    A mask is compared with the last one that was accepted and with its picture: what was room, has not changed and is
    a person now, is unexplained. That is not forgotten with time: as long as the room looks the same, a mask that takes
    it for a person is refused; where people move, the picture changes, and the guard has nothing to say.

    Looks at the network's own words, before settling and smoothing, which would hide what it looks for.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the masks before: another camera, model or choice of people."""
        self._heard: tuple[tuple[Alpha, Picture], ...] = ()  # the last mask, and the last that was accepted
        self._accepted: tuple[npt.NDArray[np.bool_], Picture] | None = None
        self._changed: npt.NDArray[np.bool_] | None = None

    def __call__(self, alpha: Alpha, guide: Picture) -> None:
        """Return if a mask may be used.

        Args:
            alpha: float32 ``(h, w)`` as the network gave it. Kept, so it must not be changed afterwards.
            guide: uint8 ``(h, w)``, luma of the very picture that it is of. Kept, too.

        Raises:
            MaskError: It may not; the text says why.
        """
        # A comparison with NaN is false, and one NaN makes the mean one.
        if not 0 <= float(alpha.mean()) <= 1:
            raise MaskError("the mask holds what is no number")
        self._check_frozen(alpha, guide)
        people = alpha[::_STEP, ::_STEP] > 0.5
        if people.mean() >= SATURATED:
            raise MaskError("the mask takes all of the picture for people")
        picture = guide[::_STEP, ::_STEP]
        if self._accepted is not None and self._accepted[0].shape == people.shape:
            before, seen = self._accepted
            changed = np.maximum(picture, seen) - np.minimum(picture, seen) > CHANGED
            if self._changed is not None:
                changed |= self._changed
            if before.mean() >= NOBODY and (people & ~before & ~changed).mean() > JUMP:
                self._changed = changed
                raise MaskError("the mask grew by what has not changed in the picture")
        self._accepted, self._changed = (people, picture), None
        self._heard = self._heard[:1] * 2

    def _check_frozen(self, alpha: Alpha, guide: Picture) -> None:
        """Raise if the mask is an old one again though the picture has changed since that was new."""
        for number, (before, seen) in enumerate(self._heard):
            if not np.array_equal(alpha, before):
                continue
            # The picture that it was new with stays: slow movements add up.
            self._heard = self._heard[number], *self._heard[1:]
            moved = np.maximum(guide, seen) - np.minimum(guide, seen) > MOVED
            if np.count_nonzero(moved & (alpha > 0.02)) >= MOVED_PIXELS:
                raise MaskError("the mask stands still while the picture moves")
            return
        self._heard = (alpha, guide), *self._heard[1:]
