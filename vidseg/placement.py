"""Where the person is in the picture: mirrored, cropped out, made smaller or larger, and moved. On planes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vidseg import kernels
from vidseg.frame import Frame, FullAlpha, allocate
from vidseg.resize import shrink

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


class Window(NamedTuple):
    """A part of a picture, of the picture's shape, in shares of its width and height.

    Attributes:
        left: Of its left edge, 0 to ``1 - share``.
        top: Of its upper edge, 0 to ``1 - share``.
        share: Of its width in the width, which is that of its height in the height; above 0, at most 1.
    """

    left: float = 0.0
    top: float = 0.0
    share: float = 1.0


WHOLE = Window()

_AREAS_BELOW = 0.6
"""A person is made smaller than this by areas: interpolation would leave samples out."""


def mirror(frame: Frame, alpha: FullAlpha) -> tuple[Frame, FullAlpha]:
    """Return both mirrored, left to right, in new arrays.

    To be done before the background is rendered: the blurred room has to turn with its person, and any other
    background knows nothing of the frame and stays as it is.

    Args:
        frame: Not changed.
        alpha: uint8 ``(H, W)``, not changed.
    """
    return _reshaped(frame, alpha, lambda plane, out: cv2.flip(plane, 1, dst=out))


def crop(frame: Frame, alpha: FullAlpha, window: Window) -> tuple[Frame, FullAlpha]:
    """Return what is in ``window``, enlarged to the size of ``frame``; the whole is returned as it is.

    Bilinear, and at any fraction of a sample, so that a window that moves slowly does not stutter. To be done before
    the background is rendered, as with ``mirror``.

    Args:
        frame: Not changed.
        alpha: uint8 ``(H, W)``, not changed.
        window: As from ``framing.Framer``.

    Raises:
        ValueError: The window reaches beyond the picture.
    """
    if window == WHOLE:
        return frame, alpha
    least, most = min(window.left, window.top), max(window.left, window.top) + window.share
    if not (least >= -1e-6 and window.share > 0 and most <= 1 + 1e-6):
        raise ValueError(f"a window must lie in the picture: {window}")

    def enlarged(plane: Samples, out: Samples) -> None:
        height, width = plane.shape
        down, across = window.share * height / out.shape[0], window.share * width / out.shape[1]
        _resample(plane, window.top * height, down, window.left * width, across, out)

    return _reshaped(frame, alpha, enlarged)


def place(frame: Frame, alpha: FullAlpha, scale: float, position: tuple[float, float]) -> tuple[Frame, FullAlpha]:
    """Return the person scaled about the middle of the lower edge, and then moved; beside the picture alpha is 0.

    To be done after the background was rendered, which stays. At scale 1 and position (0, 0) nothing is done and the
    arguments are returned.

    Args:
        frame: Not changed.
        alpha: uint8 ``(H, W)``, not changed.
        scale: Of the person; 1 is as filmed.
        position: By which share of the width to the right and of the height down.

    Returns:
        A frame and alpha of the same size; samples under alpha 0 mean nothing, but are none from outside ``frame``.

    Raises:
        ValueError: ``scale`` is not above 0, or a number is not finite.
    """
    if scale == 1 and position == (0, 0):
        return frame, alpha
    if not (0 < scale < np.inf and np.isfinite(position).all()):
        raise ValueError(f"the scale must be above 0 and the position finite: {scale = }, {position = }")
    height, width = frame.size
    # In pairs of samples, so that chroma of 4:2:0 goes along; a scale is off by less than a sample in the picture.
    tall, wide = (max(2, 2 * round(length * scale / 2)) for length in (height, width))
    if scale == 1:
        tall, wide = height, width
    left = 2 * round((width - wide) / 4 + position[0] * width / 2)
    # The lower edge of a scaled person stays at that of the picture, also where its height is odd.
    top = 2 * round((height - tall) / 2 + position[1] * height / 2)

    def moved(plane: Samples, out: Samples) -> None:
        step = 1 if out.shape == (height, width) else 2
        size = -(-tall // step), -(-wide // step)
        at = top // step, left // step
        out[...] = plane[-1, 0] if out is not placed_alpha else 0
        rows = max(at[0], 0), min(at[0] + size[0], out.shape[0])
        columns = max(at[1], 0), min(at[1] + size[1], out.shape[1])
        if rows[0] >= rows[1] or columns[0] >= columns[1]:
            return
        part = out[rows[0] : rows[1], columns[0] : columns[1]]
        if size == plane.shape:
            part[...] = plane[rows[0] - at[0] : rows[1] - at[0], columns[0] - at[1] : columns[1] - at[1]]
        elif scale < _AREAS_BELOW:
            whole = shrink(plane, size)  # type: ignore[type-var]
            part[...] = whole[rows[0] - at[0] : rows[1] - at[0], columns[0] - at[1] : columns[1] - at[1]]
        else:
            down, across = plane.shape[0] / size[0], plane.shape[1] / size[1]
            filled = np.empty(part.shape, part.dtype)
            _resample(plane, (rows[0] - at[0]) * down, down, (columns[0] - at[1]) * across, across, filled)
            part[...] = filled

    placed_alpha = np.empty_like(alpha)
    return _reshaped(frame, alpha, moved, placed_alpha)


def _reshaped(
    frame: Frame, alpha: FullAlpha, fill: Callable[[Samples, Samples], object], into: FullAlpha | None = None
) -> tuple[Frame, FullAlpha]:
    """Return new planes and a new alpha, each filled from the old one."""
    planes = allocate(frame.size, frame.depth, frame.subsampled)
    out = np.empty(alpha.shape, np.uint8) if into is None else into
    for plane, target in zip((*frame.planes, alpha), (*planes, out), strict=True):
        fill(plane, target)
    return replace(frame, planes=planes, alpha=None), out


def _resample(plane: Samples, top: float, down: float, left: float, across: float, out: Samples) -> None:
    """Fill ``out`` from ``plane``: its edge lies at ``(top, left)`` there, its samples are ``(down, across)`` apart."""
    rows, row_parts = _between(plane.shape[0], out.shape[0], top, down)
    columns, column_parts = _between(plane.shape[1], out.shape[1], left, across)
    samples, stride = kernels.as_rows(plane)
    kernels.interpolate(samples, stride, plane.shape[1], rows, row_parts, columns.astype(np.int32), column_parts, out)


@lru_cache(maxsize=16)
def _between(
    length: int, wanted: int, start: float, step: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return for each of ``wanted`` samples the one of ``length`` before it and the part of the way to the next."""
    at = np.clip(start + step * (np.arange(wanted) + 0.5) - 0.5, 0, length - 1)
    before = np.minimum(np.floor(at), max(length - 2, 0)).astype(np.int64)
    return before, (at - before).astype(np.float32)
