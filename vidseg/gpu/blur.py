"""The room itself, out of focus, as ``vidseg.backgrounds.BlurBackground``."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidseg.backgrounds import lens_disc
from vidseg.frame import Size
from vidseg.gpu.compositing import Planes
from vidseg.gpu.resize import enlarge, shrink


def blur(planes: Planes, alpha: Tensor, radius: float, grey: tuple[float, float, float], depth: int = 8) -> Planes:
    """Return the room of each frame, blurred; the numbers and their reasons are those of ``BlurBackground``.

    Args:
        planes: ``(N, H, W)``, of any sampling; they are not changed.
        alpha: float32 ``(N, H, W)``, whole numbers from 0 to 255.
        radius: Of the lens's disc as a share of the shorter side; more than 0.
        grey: What a room that is not seen at all looks like.
        depth: Bits of the planes.

    Returns:
        float32 planes of the same sizes, whole numbers.
    """
    frame = alpha.shape[1:]
    shorter = min(frame)
    pixels = max(1.0, radius * shorter)
    factor = max(2.0, shorter / 320, pixels / 2.2)
    size = 4 * math.ceil(frame[0] / factor / 4), 4 * math.ceil(frame[1] / factor / 4)
    small = _room(planes, alpha, size, pixels / factor, max(1, round(0.006 * shorter / factor)), grey, depth)
    y, u, v = (_resized(plane, like.shape[1:]) for plane, like in zip(small, planes, strict=True))
    return y, u, v


def _room(
    planes: Planes,
    alpha: Tensor,
    size: Size,
    radius: float,
    reach: int,
    grey: tuple[float, float, float],
    depth: int,
) -> list[Tensor]:
    people = F.max_pool2d(shrink_whole(alpha, size)[:, None], 2 * reach + 1, 1, reach)[:, 0]
    free = (1 - people * (64 / 255)).clamp_(0, 1)
    room = [shrink(plane, size) for plane in planes]
    weight = ((room[0] * (1 / (2**depth - 1))).square() + 0.2) * free
    disc = _disc(radius, alpha.device)
    gauss = _gauss(max(radius, 0.5), alpha.device)
    # A disc that sees only few pixels of the room makes way for the wider look, little by little.
    trusted = (_near(free, disc) * 5).clamp_(0, 1)
    near_weight = trusted / (_near(weight, disc) + 1e-6)
    wide_weight, total = _wide(weight, gauss), weight.mean((1, 2), keepdim=True)
    little = 0.004
    blurred = []
    for plane, blank in zip(room, grey, strict=True):
        weighted = plane * weight
        whole = torch.where(total > 1e-6, weighted.mean((1, 2), keepdim=True) / total.clamp(min=1e-6), blank)
        wide = enlarge(((_wide(weighted, gauss) + little * whole) / (wide_weight + little))[:, None], size)[:, 0]
        blurred.append((_near(weighted, disc) * near_weight + wide * (1 - trusted) + 0.5).floor_())
    return blurred


def shrink_whole(alpha: Tensor, size: Size) -> Tensor:
    """Return ``alpha`` at ``size``, rounded to whole numbers."""
    return (shrink(alpha, size) + 0.5).floor_()


def _near(plane: Tensor, disc: Tensor) -> Tensor:
    return F.conv2d(plane[:, None], disc[None, None], padding=disc.shape[0] // 2)[:, 0]


def _wide(plane: Tensor, gauss: Tensor) -> Tensor:
    reach = len(gauss) // 2
    few = F.pad(F.avg_pool2d(plane, 4)[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(few, gauss[None, None, :, None]), gauss[None, None, None])[:, 0]


@lru_cache(maxsize=16)
def _disc(radius: float, device: torch.device) -> Tensor:
    return torch.from_numpy(lens_disc(radius)).to(device)


@lru_cache(maxsize=16)
def _gauss(sigma: float, device: torch.device) -> Tensor:
    """Return the kernel that OpenCV takes for floats: as wide as four sigmas to either side."""
    side = round(sigma * 8 + 1) | 1
    at = np.arange(side) - (side - 1) / 2
    kernel = np.exp(-(at**2) / (2 * sigma**2))
    return torch.from_numpy((kernel / kernel.sum()).astype(np.float32)).to(device)


def _resized(plane: Tensor, size: torch.Size) -> Tensor:
    height, width = size
    if height <= plane.shape[1] and width <= plane.shape[2]:
        return shrink_whole(plane, (height, width))
    return enlarge(plane[:, None], (height, width))[:, 0].round_()
