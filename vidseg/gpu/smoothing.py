"""Smoother: steadies the alphas of several streams in time, as ``vidseg.smoothing``."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidseg.exposure import GAINS, OFFSET, PRIOR
from vidseg.frame import Size
from vidseg.smoothing import CUT_SHARE, HASTE, NOISE_CAP

THRESHOLD = 3.0
"""That of ``vidseg.smoothing.Smoother``."""


class Steadied(NamedTuple):
    """What is remembered of each stream, float32 ``(N, h, w)``.

    Attributes:
        alpha: The last one, steadied: what is shown.
        reference: The picture that it belongs to.
        ages: Seconds for which a pixel has stood still.
    """

    alpha: Tensor
    reference: Tensor
    ages: Tensor


def nothing(streams: int, size: Size, device: torch.device) -> Steadied:
    """Return what is remembered before the first picture."""
    alpha, reference, ages = torch.zeros((3, streams, *size), device=device)
    return Steadied(alpha, reference, ages)


def clock(step: float | None, time_constant: float) -> tuple[float, float, float]:
    """Return what ``steady`` has to know of the time since the picture before; None is no such picture."""
    fresh = step is None or step < 0 or time_constant == 0
    return (0.0, 0.0, 1.0) if fresh else (step or 0.0, math.exp(-(step or 0.0) / time_constant), 0.0)


def steady(alpha: Tensor, guide: Tensor, before: Steadied, clocks: Tensor, patience: float = 0.0) -> Steadied:
    """Return what ``vidseg.smoothing.Smoother`` makes of one alpha of each stream; not-a-number counts as 0.

    Args:
        alpha: float32 ``(N, h, w)``, as the network gave them.
        guide: float32 ``(N, h, w)``, luma of the same pictures, whole numbers.
        before: What it returned for the pictures before.
        clocks: float32 ``(N, 3)``, a row of ``clock`` for each.
        patience: See there.
    """
    step, decay, fresh = (column[:, None, None] for column in clocks.unbind(1))
    value = torch.where(alpha > 0, alpha, 0).clamp_(max=1)
    gain, shift = _match_exposure(guide, before.reference)
    moved = _movement(guide, before.reference, gain, shift)
    noise = (1.5 * _median(moved[:, ::8, ::8].flatten(1))).clamp_(max=NOISE_CAP)[:, None, None]
    most = F.max_pool2d(moved[:, None], 3, 1, 1)[:, 0]
    still = (2 - most / (THRESHOLD + 2 * noise)).clamp_(0, 1)
    kept = torch.where(step > 0, torch.maximum(before.ages / (before.ages + step), decay), 1)
    hurry = HASTE * (1 - kept)
    kept = kept * still
    error = before.alpha - value
    shown = value + error * kept / (1 + hurry * error.abs())
    reference = guide + (gain * before.reference + shift - guide) * kept
    ages = ((before.ages + step) * still).clamp_(max=patience)
    again = (still.mean((1, 2), keepdim=True) < 1 - CUT_SHARE) | (fresh > 0)
    return Steadied(torch.where(again, value, shown), torch.where(again, guide, reference), torch.where(again, 0, ages))


def _movement(guide: Tensor, reference: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """See ``kernels.movement``."""
    difference = guide - gain * reference - shift
    return F.avg_pool2d(F.pad(difference[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[:, 0].abs()


def _match_exposure(now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return gain and offset ``(N, 1, 1)``, see ``vidseg.exposure.match_exposure``."""
    x, y = before[:, ::8, ::8].flatten(1), now[:, ::8, ::8].flatten(1)
    gain, offset = torch.ones_like(x[:, 0]), _median(y - x)
    for _ in range(3):
        error = (y - gain[:, None] * x - offset[:, None]).abs()
        kept = (error <= 2 + 2 * _median(error)[:, None]).float()
        count = kept.sum(1)
        mean_x, mean_y = (x * kept).sum(1) / count, (y * kept).sum(1) / count
        near_x, near_y = (x - mean_x[:, None]) * kept, (y - mean_y[:, None]) * kept
        spread = (near_x * near_x).sum(1) / count + PRIOR
        gain = (((near_x * near_y).sum(1) / count + PRIOR) / spread).clamp(*GAINS)
        offset = mean_y - gain * mean_x
    at = gain * 128 + offset - 128
    offset = offset + at.clamp(-2 * OFFSET, 2 * OFFSET) - at
    return gain[:, None, None], offset[:, None, None]


def _median(values: Tensor) -> Tensor:
    """Return the median of each row ``(N, n)``, the mean of the middle two."""
    ordered = values.sort(1).values
    half = values.shape[1] // 2
    return (ordered[:, half] + ordered[:, half - 1 + values.shape[1] % 2]) / 2
