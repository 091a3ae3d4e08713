"""The network's small alpha made as large as the frame, as ``vidseg.refine``."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidseg.frame import Size
from vidseg.gpu.resize import enlarge, shrink
from vidseg.refine import HIGH, LOW, SMOOTHNESS


def refine(alpha: Tensor, luma: Tensor, guide: Tensor, depth: int = 8) -> Tensor:
    """Return ``alpha`` at the size of ``luma`` and led by it; see ``vidseg.refine.refine``.

    Args:
        alpha: float32 ``(N, h, w)`` in [0, 1]; NaN counts as 0.
        luma: ``(N, H, W)``, uint8 or uint16.
        guide: ``luma`` at alpha's size in 8 bits, float32 of whole numbers.
        depth: Bits of ``luma``.

    Returns:
        float32 ``(N, H, W)``, whole numbers from 0 to 255.
    """
    alpha = torch.where(alpha > 0, alpha, 0)
    low, high = float(LOW), float(HIGH)
    height, width = luma.shape[1:]
    if height < alpha.shape[1] or width < alpha.shape[2]:
        small = shrink(alpha.clamp(max=1), (height, width))
        return (((small - low) / (high - low)).clamp_(0, 1) * 255).round_()
    unit = 1 / (255 * 2 ** (depth - 8))
    lines = enlarge(_lines(alpha, luma, guide * (1 / 255), unit), (height, width))
    # Alpha at LOW becomes 0, at HIGH 255.
    steep = 255 / (high - low)
    full = torch.addcmul(lines[:, 1], lines[:, 0], luma.float(), value=unit)
    return full.mul_(steep).add_(0.5 - low * steep).clamp_(0, 255).floor_()


def _lines(alpha: Tensor, luma: Tensor, guide: Tensor, unit: float) -> Tensor:
    """Return slope and intercept ``(N, 2, h, w)`` of alpha over luma around each pixel, see ``kernels.edge_lines``."""
    window = alpha[:, None]
    most = F.max_pool2d(window, 3, 1, 1)[:, 0]
    least = -F.max_pool2d(-window, 3, 1, 1)[:, 0]
    texture = _texture(luma, (alpha.shape[1], alpha.shape[2]), unit)
    stacked = torch.stack([alpha, guide, alpha * guide, guide * guide, texture], 1)
    # At an edge it is the mean of those that are there.
    a, g, ag, gg, t = F.avg_pool2d(stacked, 3, 1, 1, count_include_pad=False).unbind(1)
    slope = (ag - a * g) / ((gg - g * g).clamp_(min=0) + t + float(SMOOTHNESS))
    flat = (most <= float(LOW)) | (least >= float(HIGH))
    slope = torch.where(flat, 0, slope)
    start = torch.where(flat, (least >= float(HIGH)).float(), alpha - slope * guide)
    return torch.stack([slope, start], 1)


def _texture(luma: Tensor, size: Size, unit: float) -> Tensor:
    """Return the variance of luma within each small pixel, of four by four samples."""
    rows, columns = (_places(large, small, luma.device) for large, small in zip(luma.shape[1:], size, strict=True))
    samples = luma[:, rows[:, None], columns].float() * unit
    cells = samples.view(len(luma), size[0], 4, size[1], 4)
    return (cells.square().mean((2, 4)) - cells.mean((2, 4)).square()).clamp_(min=0)


@lru_cache(maxsize=64)
def _places(large: int, small: int, device: torch.device) -> Tensor:
    """Return four samples of each small pixel, int64 ``(4 * small,)``."""
    parts = (np.arange(4, dtype=np.float32) + np.float32(0.5)) * np.float32(0.25)
    at = (np.arange(small, dtype=np.float32)[:, None] + parts) * np.float32(large / small)
    return torch.from_numpy(at.astype(np.int64).reshape(-1)).to(device)
