"""What the network is punished for: losses by name and weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidseg.training.recipe import ALPHA_LOSSES, CLASS_LOSSES

IGNORED = 255
"""The class of pixels whose class is not known."""


def boundary_weight(alpha: Tensor, gain: float = 3.0) -> Tensor:
    """Return weights ``(N, 1, H, W)``: ``1 + gain`` within two pixels of the boundary of ``alpha``, else 1."""
    grown = F.max_pool2d(alpha, 5, 1, 2)
    shrunk = -F.max_pool2d(-alpha, 5, 1, 2)
    return 1.0 + gain * (grown - shrunk)


def class_boundary_weight(truth: Tensor, gain: float = 3.0) -> Tensor:
    """Return weights ``(N, 1, H, W)``: ``1 + gain`` within two pixels of another known class, else 1."""
    known = truth != IGNORED
    most = F.max_pool2d(torch.where(known, truth.float(), -1.0), 5, 1, 2)
    least = -F.max_pool2d(-torch.where(known, truth.float(), 256.0), 5, 1, 2)
    return 1.0 + gain * (most > least).float()


def dice_loss(pha: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Return one minus the soft Dice coefficient of each picture's *background and foreground*, averaged.

    Both classes count, so that an empty room has a gradient too (Milletari et al. 2016, arXiv:1606.04797).
    """
    return (_undice(pha, alpha, weight) + _undice(1 - pha, 1 - alpha, weight)).mean() / 2


def class_dice_loss(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Return one minus the soft Dice coefficient, averaged over pictures and classes.

    Args:
        logits: ``(N, K, H, W)``.
        truth: Class numbers ``(N, 1, H, W)``.
        weight: ``(N, 1, H, W)``, 0 where the class is not known.
    """
    shares = logits.softmax(1)
    classes = torch.arange(logits.shape[1], device=logits.device)[None, :, None, None]
    return torch.stack(
        [
            _undice(shares[:, k : k + 1], (truth == classes[:, k : k + 1]).float(), weight)
            for k in range(logits.shape[1])
        ]
    ).mean()


def _undice(predicted: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    overlap = (weight * predicted * true).sum((1, 2, 3))
    total = (weight * (predicted + true)).sum((1, 2, 3))
    return 1 - (2 * overlap + 50) / (total + 50)


def laplacian_loss(pha: Tensor, alpha: Tensor, weight: Tensor, levels: int = 5) -> Tensor:
    """Return the L1 distance of the Laplacian pyramids, level ``i`` (finest 0) times ``2 ** i / levels``.

    As in matting since Hou & Liu 2019 (arXiv:1909.09725), in the form of RobustVideoMatting: without the smallest,
    blurred picture, so that it is about edges only. Pictures that cannot be halved ``levels`` times have fewer levels.

    Args:
        pha: The alpha, ``(N, 1, H, W)``.
        alpha: The truth, same shape.
        weight: Same shape. Where it is 0, ``pha`` is taken for true.
        levels: How many.
    """
    # A pyramid is linear: that of the difference is the difference of the two.
    rest = weight * (pha - alpha)
    total = torch.zeros((), device=pha.device)
    for level in range(levels):
        if min(rest.shape[-2:]) < 4 or rest.shape[-2] % 2 or rest.shape[-1] % 2:
            break
        smaller = _blurred(rest)[..., ::2, ::2]
        total = total + 2**level * (rest - _enlarged(smaller)).abs().mean()
        rest = smaller
    return total / levels


def _blurred(x: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=x.device, dtype=x.dtype) / 16
    x = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel.view(1, 1, 1, 5))
    return F.conv2d(x, kernel.view(1, 1, 5, 1))


def _enlarged(x: Tensor) -> Tensor:
    spread = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    spread[..., ::2, ::2] = 4 * x
    return _blurred(spread)


def temporal_loss(pha: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Return the mean squared error of the change from frame to frame, as RobustVideoMatting (which weighs it by 5).

    All are ``(N, T, 1, H, W)``; a change counts where both of its frames are known. Stills have none: 0.
    """
    if pha.shape[1] < 2:
        return torch.zeros((), device=pha.device)
    known = torch.minimum(weight[:, 1:], weight[:, :-1])
    change, true = pha[:, 1:] - pha[:, :-1], alpha[:, 1:] - alpha[:, :-1]
    return (known * (change - true) ** 2).mean()


def loss_of(
    terms: Mapping[str, float], logits: Tensor, alpha: Tensor, weight: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of ``terms`` and each of them, not yet weighted.

    Args:
        terms: Weight by name, as ``vidseg.training.recipe.parse_loss`` reads them. ``boundary`` is none of the sum: it
            is by how much errors of ``bce``, ``mse``, ``l1`` and ``ce`` count more at boundaries.
        logits: ``(N, T, 1, H, W)``, or ``(N, T, K, H, W)`` of K classes, float32.
        alpha: The truth ``(N, T, 1, H, W)``: alpha in [0, 1], or class numbers, 255 not known.
        weight: ``(N, T, 1, H, W)``; 0 where the truth is not known.

    Raises:
        ValueError: A name is not that of a loss for such logits.
    """
    whole = logits, alpha, weight
    logits, alpha, weight = (x.flatten(0, 1) for x in whole)
    several = logits.shape[1] > 1
    if unknown := set(terms) - set(CLASS_LOSSES if several else ALPHA_LOSSES):
        raise ValueError(f"not a loss for {'classes' if several else 'an alpha'}: {', '.join(sorted(unknown))}")
    if several:
        weight = weight * (alpha != IGNORED)
    gain = terms.get("boundary", 0.0)
    focus = weight
    if gain:
        focus = weight * (class_boundary_weight(alpha, gain) if several else boundary_weight(alpha, gain))
    focus = focus / focus.mean().clamp_min(1e-6)
    pha = logits.sigmoid()

    def term(name: str) -> Tensor:
        if name == "bce":
            return (focus * F.binary_cross_entropy_with_logits(logits, alpha, reduction="none")).mean()
        if name == "l1":
            return (focus * (pha - alpha).abs()).mean()
        if name == "mse":
            return (focus * (pha - alpha) ** 2).mean()
        if name == "laplacian":
            return laplacian_loss(pha, alpha, weight)
        if name == "temporal":
            return temporal_loss(whole[0].sigmoid(), whole[1], whole[2])
        if name == "ce":
            truth = alpha[:, 0].long()
            return (focus[:, 0] * F.cross_entropy(logits, truth, ignore_index=IGNORED, reduction="none")).mean()
        return class_dice_loss(logits, alpha, weight) if several else dice_loss(pha, alpha, weight)

    values = {name: term(name) for name, share in terms.items() if share and name != "boundary"}
    total = sum((terms[name] * value for name, value in values.items()), torch.zeros((), device=logits.device))
    return total, {name: value.detach() for name, value in values.items()}


def matting_loss(logits: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Return binary cross-entropy + L1 (both heavier at the boundary) + Dice: what our networks are trained with.

    Args:
        logits: ``(N, 1, H, W)``, float32.
        alpha: The truth, same shape, in [0, 1].
        weight: Same shape; 0 where the truth is not known.
    """
    terms = {"bce": 1.0, "l1": 1.0, "dice": 0.5, "boundary": 3.0}
    return loss_of(terms, logits[:, None], alpha[:, None], weight[:, None])[0]
