"""Planes of other sizes, as ``vidseg.resize``: two products of matrices."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidseg import resize
from vidseg.frame import Size


def shrink(planes: Tensor, size: Size) -> Tensor:
    """Return planes resized to ``size``, float32: whole numbers of whole ones, see ``vidseg.resize.shrink``.

    Args:
        planes: ``(N, H, W)`` uint8, uint16 or float32; they are not changed.
        size: ``(h, w)`` of the new planes.
    """
    height, width = planes.shape[1:]
    samples = planes.float()
    if (height, width) == size:
        return samples
    smaller = _weights(height, size[0], planes.device) @ samples @ _weights(width, size[1], planes.device).T
    return smaller if planes.dtype == torch.float32 else (smaller + 0.5).floor_()


def halve(alpha: Tensor) -> Tensor:
    """Return the alpha of 4:2:0 chroma, whole numbers: the rounded mean of two by two, see ``kernels.halve_alpha``.

    Args:
        alpha: float32 ``(N, H, W)``, whole numbers.
    """
    height, width = alpha.shape[1:]
    if height % 2 or width % 2:
        alpha = F.pad(alpha[:, None], (0, width % 2, 0, height % 2), mode="replicate")[:, 0]
    return (F.avg_pool2d(alpha, 2) + 0.5).floor_()


def enlarge(small: Tensor, size: Size) -> Tensor:
    """Return ``(N, c, h, w)`` interpolated to ``size``; beyond the middle of the outermost samples nothing changes."""
    return F.interpolate(small, size, mode="bilinear", align_corners=False)


@lru_cache(maxsize=64)
def _weights(length: int, wanted: int, device: torch.device) -> Tensor:
    """Return the matrix ``(wanted, length)`` that makes ``wanted`` samples of ``length``."""
    starts, weights = resize.taps(length, wanted)
    matrix = np.zeros((wanted, length), np.float32)
    np.put_along_axis(matrix, starts[:, None] + np.arange(weights.shape[1]), weights, axis=1)
    return torch.from_numpy(matrix).to(device)
