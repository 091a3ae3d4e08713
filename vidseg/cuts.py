"""Scene cuts: whether two pictures that follow each other show the same scene."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

SAME = 0.6
"""Least correlation of two pictures of one shot. On real clips at 160x256, frames in a row have .74 and more (.93
without graphics that fly in), after a pan by a sixteenth of the width .55 to .88, and after a cut to another room .42
and less."""
FLAT = 16.0
"""Variance in grey levels squared below which a picture shows nothing that could correlate."""


def is_cut(before: npt.NDArray[np.uint8], now: npt.NDArray[np.uint8]) -> bool:
    """Return whether ``now`` shows another scene than ``before``, two small luma pictures, uint8 ``(h, w)``.

    Large patches are correlated, so that neither a change of exposure nor a pan is a cut. The smoother's question is
    another one: it asks which pixels have moved, and in a pan most of them have.
    """
    if before.shape != now.shape:
        return True
    first, second = _patches(before), _patches(now)
    first -= first.mean()
    second -= second.mean()
    one, other, both = (float((a * b).mean()) + FLAT for a, b in ((first, first), (second, second), (first, second)))
    return both < SAME * math.sqrt(one * other)


def _patches(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the means of squares, about ten by sixteen of them."""
    height, width = picture.shape
    side = max(min(height, width) // 10, 1)
    rows, columns = height // side, width // side
    squares = picture[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return np.asarray(squares.mean((1, 3)), np.float64)
