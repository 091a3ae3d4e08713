"""I420: how virtual cameras and windows take a frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidseg.color import to_color
from vidseg.frame import Color, Frame, Size, allocate

READ_AS = Color("bt601", False, 2, 2, 6, 1)
"""What programs that open a virtual camera take I420 for, however it is tagged: BT.601, limited range."""


def even(size: Size) -> Size:
    """Return the largest size within ``size`` of which chroma is exactly a half."""
    return size[0] // 2 * 2, size[1] // 2 * 2


def to_i420(frame: Frame, color: Color = READ_AS) -> npt.NDArray[np.uint8]:
    """Return Y', Cb and Cr of an 8-bit picture one after the other, without padding.

    An odd last row or column is left out. Frames of that color and of planes that lie back to back, as ``allocate``
    makes them, are not copied.

    Returns:
        uint8 ``(h * w * 3 / 2,)``; perhaps a view of the frame.
    """
    frame = to_color(frame, color)
    size = even(frame.size)
    owner = frame.planes[0].base
    if size == frame.size and isinstance(owner, np.ndarray) and owner.ndim == 1 and owner.dtype == np.uint8:
        at = owner.ctypes.data
        for plane in frame.planes:
            if not plane.flags.c_contiguous or plane.ctypes.data != at:
                break
            at += plane.nbytes
        else:
            return owner[: at - owner.ctypes.data]
    planes = allocate(size)
    for plane, given in zip(planes, frame.planes, strict=True):
        plane[...] = given[: plane.shape[0], : plane.shape[1]]
    return np.asarray(planes[0].base, np.uint8)
