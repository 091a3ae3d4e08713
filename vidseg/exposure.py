"""Exposure: what a camera's automatics did between two pictures, apart from what moved in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidseg import kernels

GAINS = 0.75, 1.0 / 0.75
"""Least and most by which an automatic exposure multiplies a picture within a second or so."""
OFFSET = 16.0
"""Most grey levels that it adds."""
PRIOR = 100.0
"""Variance in grey levels squared below which a picture tells little of a gain."""

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def match_exposure(now: Samples, before: Samples) -> tuple[float, float]:
    """Return ``(gain, offset)`` with ``now = gain * before + offset`` where nothing moved.

    A line through one pixel in 64, see ``kernels.fit_line``. As long as less than half of the picture moves, what moves
    has no part in it.

    Args:
        now: uint8 or float32 ``(h, w)``, luma or chroma of a small picture.
        before: Of the same size.
    """
    gain, offset = kernels.fit_line(now, before, np.float32(PRIOR), *(np.float32(gain) for gain in GAINS))
    at = gain * 128 + offset - 128  # of a middle grey: the offset at black says nothing by itself
    offset += min(max(at, -2 * OFFSET), 2 * OFFSET) - at
    return gain, offset
