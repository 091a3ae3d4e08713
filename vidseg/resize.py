"""Planes of other sizes: small pictures, which a network and the filters look at, and chroma of 4:2:0."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vidseg import kernels
from vidseg.frame import Frame, Plane, Size

P = TypeVar("P", npt.NDArray[np.uint8], npt.NDArray[np.uint16], npt.NDArray[np.float32])


def shrink_planes(frame: Frame, size: Size) -> tuple[Plane, Plane, Plane]:
    """Return the three planes of ``frame``, all resized to ``size``, of the frame's own dtype and depth."""
    y, u, v = frame.planes
    return shrink(y, size), shrink(u, size), shrink(v, size)  # type: ignore[type-var]


def shrink(plane: P, size: Size) -> P:
    """Return ``plane`` resized to ``size``: exact area averages where it gets smaller, bilinear where larger.

    Args:
        plane: ``(H, W)`` uint8, uint16 or float32; it is not changed.
        size: ``(h, w)`` of the new plane.
    """
    height, width = plane.shape
    if (height, width) == size:
        return plane.copy()
    samples, stride = kernels.as_rows(plane)
    out = np.empty(size, plane.dtype)
    half = np.float32(0 if plane.dtype == np.float32 else 0.5)
    kernels.resample(samples, stride, *taps(height, size[0]), *taps(width, size[1]), width, half, out)
    return out


def halve(chroma: Plane) -> Plane:
    """Return a chroma plane of 4:2:2 with the rounded mean of every two rows: that of 4:2:0, sited between them."""
    samples, stride = kernels.as_rows(chroma)
    out = np.empty(((chroma.shape[0] + 1) // 2, chroma.shape[1]), np.uint8)
    kernels.halve_rows(samples, stride, chroma.shape[0], out)
    return out


@lru_cache(maxsize=64)
def taps(length: int, wanted: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return for each of ``wanted`` places the first of ``length`` samples and the weights of it and those after it."""
    scale = length / wanted
    centre = (np.arange(wanted) + 0.5) * scale
    # A box as wide as the new pixel; where it grows, a tent of one old pixel to either side.
    reach = scale / 2 if scale >= 1 else 1.0
    first = np.floor(centre - reach + (0 if scale >= 1 else 0.5)).astype(np.int64)
    count = min(int(np.ceil(2 * reach)) + 1, length)
    starts = np.clip(first, 0, length - count)
    position = starts[:, None] + np.arange(count)
    if scale >= 1:
        left, right = (
            np.maximum(position, (centre - reach)[:, None]),
            np.minimum(position + 1, (centre + reach)[:, None]),
        )
        weights = np.maximum(right - left, 0)
    else:
        at = np.clip(centre - 0.5, 0, length - 1)
        weights = np.maximum(1 - np.abs(position - at[:, None]), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    if not weights[:, -1].any():
        weights = weights[:, :-1]
    return starts, np.ascontiguousarray(weights, np.float32)
