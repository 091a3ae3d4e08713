"""What the network is punished for."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def boundary_weight(alpha: Tensor, gain: float = 3.0) -> Tensor:
    """Return weights ``(N, 1, H, W)``: ``1 + gain`` within two pixels of the boundary of ``alpha``, else 1."""
    grown = F.max_pool2d(alpha, 5, 1, 2)
    shrunk = -F.max_pool2d(-alpha, 5, 1, 2)
    return 1.0 + gain * (grown - shrunk)


def dice_loss(pha: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Return one minus the soft Dice coefficient of each picture's *background and foreground*, averaged.

    Both classes count, so that an empty room has a gradient too (Milletari et al. 2016, arXiv:1606.04797).
    """
    losses = []
    for predicted, true in ((pha, alpha), (1 - pha, 1 - alpha)):
        overlap = (weight * predicted * true).sum((1, 2, 3))
        total = (weight * (predicted + true)).sum((1, 2, 3))
        losses.append(1 - (2 * overlap + 50) / (total + 50))
    return (losses[0] + losses[1]).mean() / 2


def matting_loss(logits: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Return binary cross-entropy + L1 (both heavier at the boundary) + Dice.

    Args:
        logits: ``(N, 1, H, W)``, float32.
        alpha: The truth, same shape, in [0, 1].
        weight: Same shape; 0 where the truth is not known.
    """
    pha = logits.sigmoid()
    focus = weight * boundary_weight(alpha)
    focus = focus / focus.mean().clamp_min(1e-6)
    entropy = (focus * F.binary_cross_entropy_with_logits(logits, alpha, reduction="none")).mean()
    absolute = (focus * (pha - alpha).abs()).mean()
    return entropy + absolute + 0.5 * dice_loss(pha, alpha, weight)
