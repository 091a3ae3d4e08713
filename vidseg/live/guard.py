"""Guard: says of each new mask whether it can be of the people in its picture, so that a broken one shows nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidseg.errors import MaskError
from vidseg.frame import Alpha

SATURATED, NEARLY = 0.985, 0.75
"""Share of the picture from which on a mask leaves no room, and how much of it the mask before must have had. A face
that comes up to the lens gets there over 90 %, step by step; a network that answers ones everywhere does so at once."""
MOVED, MOVED_PIXELS = 16, 4
"""A mask that equals an earlier one, bit for bit, is that of another picture if so many pixels under it have changed by
more than so many grey levels. The noise of a camera has less than 6 on pixels that are means of 25, and a network that
looks at another picture answers with other numbers, if only in the last digit."""
CHANGED = 6
"""Grey levels that count as a change which could explain that a pixel is a person's now."""
JUMP = 0.12
"""Share of the picture that may become a person's between two masks without any change in it. On five clips, also
leant in to four times the size within a quarter of a second and with lights switched off and on, it was 0.025."""
NOBODY = 0.05
"""With less of the picture than this a mask is of nobody, and the one before it stays what masks are compared with: a
network that has lost its people finds them again, or takes the room for them."""
_STEP = 2
"""Every so-manieth row and column is looked at for areas, which need no detail."""

Picture = npt.NDArray[np.uint8]


class Guard:
    """Refuses masks that are no numbers, leave no room, stand still while the picture moves, or jump. Not thread-safe.

    A mask is compared with the last one of people that was accepted, and with its picture: what was room, has not
    changed and is a person now, is unexplained. That is not forgotten with time: as long as the room looks the same, a
    mask that takes it for a person is refused; where people move, the picture changes, and the guard has nothing to
    say.

    Looks at the network's own words, before settling and smoothing, which would hide what it looks for. What it cannot
    know is a mask that is wrong from the first one on, and one that is wrong in a small part.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the masks before: another model, say."""
        self._heard: tuple[tuple[Alpha, Picture], ...] = ()  # the last mask, and the last of people that was accepted
        self._accepted: tuple[npt.NDArray[np.bool_], Picture] | None = None  # the latter, for areas
        self._changed: npt.NDArray[np.bool_] | None = None  # since then

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
            raise MaskError("the mask holds what is no number between 0 and 1")
        self._check_frozen(alpha, guide)
        people, picture = alpha[::_STEP, ::_STEP] > 0.5, guide[::_STEP, ::_STEP]
        area, before = float(people.mean()), 0.0
        if self._accepted is not None and self._accepted[0].shape == people.shape:
            before = float(self._accepted[0].mean())
            self._check_jump(people, picture, *self._accepted)
        if area >= SATURATED and before < NEARLY:
            raise MaskError("the mask takes all of the picture for people")
        if area >= NOBODY:
            self._accepted, self._changed = (people, picture), None
            self._heard = self._heard[:1] * 2

    def _check_frozen(self, alpha: Alpha, guide: Picture) -> None:
        """Raise if the mask is an old one again though the picture has changed since that was new."""
        for number, (before, seen) in enumerate(self._heard):
            # One value in 256 tells almost all masks apart.
            if not (np.array_equal(alpha[::16, ::16], before[::16, ::16]) and np.array_equal(alpha, before)):
                continue
            # The picture that it was new with stays: slow movements add up.
            self._heard = self._heard[number], *self._heard[1:]
            if np.count_nonzero((_change(guide, seen) > MOVED) & (alpha > 0.02)) >= MOVED_PIXELS:
                raise MaskError("the mask stands still while the picture moves")
            return
        self._heard = (alpha, guide), *self._heard[1:]

    def _check_jump(
        self,
        people: npt.NDArray[np.bool_],
        picture: Picture,
        people_before: npt.NDArray[np.bool_],
        picture_before: Picture,
    ) -> None:
        """Raise if much of what was room has become people without having changed."""
        changed = _change(picture, picture_before) > CHANGED
        if self._changed is not None:
            changed |= self._changed
        self._changed = changed
        if (people & ~people_before & ~changed).mean() > JUMP:
            raise MaskError("the mask grew by what has not changed in the picture")


def _change(one: Picture, other: Picture) -> Picture:
    """Return by how much each pixel differs."""
    return np.maximum(one, other) - np.minimum(one, other)
