"""The network's small alpha made as large as the frame, its edges laid along the edges of the luma plane."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vidseg import kernels
from vidseg.frame import Alpha, Frame, FullAlpha
from vidseg.resize import shrink

SMOOTHNESS = np.float32(7e-4)
"""Variance of luma (white is 1) below which an edge of the picture is noise."""
LOW, HIGH = np.float32(0.12), np.float32(0.88)
"""Alpha that becomes exactly 0 and exactly 255: no fog in the room, no holes in a torso."""


def refine(alpha: Alpha, frame: Frame, guide: npt.NDArray[np.uint8] | None = None) -> FullAlpha:
    """Return ``alpha`` at the size of ``frame``, led by its luma.

    Around each small pixel alpha is a line over luma, which is found on the small pictures and drawn with the full-size
    luma: the fast guided filter (He and Sun, "Fast Guided Filter", 2015). Unlike there a line goes through its pixel's
    own alpha, so nothing gets softer than the network made it; that measured half the error of bilinear upsampling.

    Args:
        alpha: float32 ``(h, w)`` in [0, 1]; NaN counts as 0.
        frame: Its luma leads (green, for planes of R'G'B').
        guide: That luma at alpha's size, 8 bits, where it is at hand already.

    Returns:
        uint8 ``(H, W)``, new; 255 is foreground.
    """
    luma = frame.planes[0]
    (height, width), (small_height, small_width) = luma.shape, alpha.shape
    alpha = np.ascontiguousarray(alpha, np.float32)
    if height < small_height or width < small_width:
        small = shrink(np.nan_to_num(alpha, posinf=1), (height, width))
        steep = np.clip((small - LOW) / (HIGH - LOW), 0, 1)
        return np.asarray(np.rint(steep * 255), np.uint8)
    unit = np.float32(1 / (255 * 2 ** (frame.depth - 8)))
    small_luma = shrink(luma, alpha.shape) * unit if guide is None else guide * np.float32(1 / 255)  # type: ignore[type-var]
    rows = kernels.as_rows(luma)
    scales = np.float32(height / small_height), np.float32(width / small_width)
    small_luma = np.ascontiguousarray(small_luma, np.float32)
    lines = kernels.edge_lines(alpha, small_luma, *rows, *scales, unit, SMOOTHNESS, LOW, HIGH)
    out = np.empty((height, width), np.uint8)
    places = *_places(height, small_height), *_places(width, small_width)
    kernels.draw_lines(lines, *rows, unit, *places, LOW, HIGH, out)
    return out


@lru_cache(maxsize=16)
def _places(length: int, small: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return for each of ``length`` samples the small pixel before it and its distance from that in small pixels."""
    at = np.clip((np.arange(length) + 0.5) * (small / length) - 0.5, 0, small - 1)
    before = np.floor(at).astype(np.int64)
    return before, (at - before).astype(np.float32)
