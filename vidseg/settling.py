"""What a network half believes, decided by what lies around it: hysteresis, as edges are linked (Canny 1986)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.frame import Alpha

_TRACE, _SURE = 0.06, 0.65
"""A patch of alpha above the first is a person's only if the second is reached somewhere in it."""


def settle(alpha: Alpha) -> Alpha:
    """Return ``alpha`` without patches of fog in the room and without dents in a person.

    A patch that is nowhere surely a person is room; a dent that is nowhere surely room is person. Soft edges and all
    that hangs together with something sure stay as they are.

    Args:
        alpha: float32 ``(h, w)`` in [0, 1], at a network's size; it is not changed.
    """
    settled = np.where(_unsure(alpha), np.float32(0), alpha)
    settled[_unsure(1 - settled)] = 1
    return settled


def _unsure(alpha: Alpha) -> npt.NDArray[np.bool_]:
    """Return where patches of some alpha lie that is nowhere sure."""
    count, labels = cv2.connectedComponents((alpha > _TRACE).view(np.uint8))
    sure = np.zeros(count, bool)
    sure[labels[alpha > _SURE]] = True
    sure[0] = True
    return np.asarray(~sure[labels])
