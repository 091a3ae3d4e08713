"""Scene cuts, as ``vidseg.cuts``."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidseg.cuts import FLAT, SAME


def is_cut(before: Tensor, now: Tensor) -> Tensor:
    """Return whether each picture shows another scene than the one before, bool ``(N,)``; see ``vidseg.cuts.is_cut``.

    Args:
        before: float32 ``(N, h, w)``, small luma pictures.
        now: Those that follow them.
    """
    side = max(min(now.shape[1:]) // 10, 1)
    first, second = (F.avg_pool2d(picture, side).flatten(1) for picture in (before, now))
    first, second = (patches - patches.mean(1, keepdim=True) for patches in (first, second))
    one, other, both = ((a * b).mean(1) + FLAT for a, b in ((first, first), (second, second), (first, second)))
    return both < SAME * (one * other).sqrt()
