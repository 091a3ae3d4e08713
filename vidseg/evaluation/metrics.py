"""Measures of an alpha against its truth: of masks, of mattes, of their steadiness in time, of empty rooms.

Alphas are float32 ``(h, w)`` in [0, 1]. ``known`` is bool ``(h, w)``: False where the truth is not known and nothing
counts; None is known everywhere. Matting measures have the definitions and scales of the evaluation of
RobustVideoMatting (Lin et al., "Robust High-Resolution Video Matting with Temporal Guidance", WACV 2022,
arXiv:2108.11515), so that numbers can be held against that paper's.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.frame import Alpha

Mask = npt.NDArray[np.bool_]
Rgb = npt.NDArray[np.uint8]

PERSON = 0.5
"""A pixel is a person's where alpha is more than this."""
TOLERANCE = 0.008
"""How far apart two boundaries may lie and still be one, as a share of the picture's diagonal (DAVIS)."""
SEEN = 0.005
"""Somebody is seen in a picture when more than this share of its pixels is a person's."""


# --- masks ------------------------------------------------------------------------------------------------------


def mask_measures(alpha: Alpha, truth: Alpha, known: Mask | None = None) -> dict[str, float]:
    """Return ``accuracy``, ``precision``, ``recall``, ``f1`` and ``iou`` of the masks at ``PERSON``, all in [0, 1].

    With hits H, false alarms F, misses M and n pixels: accuracy ``1 - (F + M) / n``, precision ``H / (H + F)``, recall
    ``H / (H + M)``, F1 ``2 H / (2 H + F + M)``, IoU ``H / (H + F + M)``. What would be 0 / 0 is 1 if both masks are
    empty, else 0.
    """
    mask, true = alpha > PERSON, truth > PERSON
    if known is not None:
        mask, true = mask[known], true[known]
    hits = float(np.count_nonzero(mask & true))
    alarms, misses = float(np.count_nonzero(mask)) - hits, float(np.count_nonzero(true)) - hits
    nobody = 1.0 if hits + alarms + misses == 0 else 0.0

    def share(part: float, whole: float) -> float:
        return part / whole if whole else nobody

    return {
        "accuracy": 1 - (alarms + misses) / max(mask.size, 1),
        "precision": share(hits, hits + alarms),
        "recall": share(hits, hits + misses),
        "f1": share(2 * hits, 2 * hits + alarms + misses),
        "iou": share(hits, hits + alarms + misses),
    }


def boundary_f(alpha: Alpha, truth: Alpha, known: Mask | None = None) -> float:
    """Return the boundary measure F of the masks at ``PERSON``, in [0, 1].

    The harmonic mean of the share of the mask's boundary that lies within ``TOLERANCE`` of the picture's diagonal
    (rounded up to pixels) from the true boundary, and of the share of the true one that lies so near the mask's
    (Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016). Two
    masks without boundary agree: 1. Boundaries so near to unknown pixels do not count.
    """
    reach = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    disc = _disc(reach)
    edge, true_edge = _boundary(alpha > PERSON), _boundary(truth > PERSON)
    if known is not None and not known.all():
        clear = cv2.dilate((~known).view(np.uint8), disc) == 0
        edge, true_edge = edge & clear, true_edge & clear
    found, wanted = np.count_nonzero(edge), np.count_nonzero(true_edge)
    if not (found and wanted):
        return float(found == wanted)
    precision = np.count_nonzero(edge & (cv2.dilate(true_edge.view(np.uint8), disc) > 0)) / found
    recall = np.count_nonzero(true_edge & (cv2.dilate(edge.view(np.uint8), disc) > 0)) / wanted
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _boundary(mask: Mask) -> Mask:
    """Return the pixels of ``mask`` that differ from the next to the right, below, or both."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


@lru_cache(maxsize=8)
def _disc(radius: int) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius, np.uint8)


# --- mattes -----------------------------------------------------------------------------------------------------


def mad(alpha: Alpha, truth: Alpha, known: Mask | None = None) -> float:
    """Return the mean absolute difference times 1000."""
    return 1e3 * _mean(np.abs(alpha - truth), known)


def mse(alpha: Alpha, truth: Alpha, known: Mask | None = None) -> float:
    """Return the mean squared difference times 1000."""
    return 1e3 * _mean((alpha - truth) ** 2, known)


def grad(alpha: Alpha, truth: Alpha, known: Mask | None = None) -> float:
    """Return the gradient error: the summed squared difference of gradient lengths over 1000.

    Gradients are taken with derivatives of a Gaussian of sigma 1.4 whose kernels have the norm 1, on alphas that were
    stretched to 0 … 1 (Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting", CVPR 2009, in
    the form of RobustVideoMatting). It grows with the size of the picture: compare at one size only.
    """
    error = (_gradient(_stretched(alpha)) - _gradient(_stretched(truth))) ** 2
    return _sum(error, known) / 1e3


def _stretched(alpha: Alpha) -> Alpha:
    """Return ``alpha`` with its least value at 0 and its greatest at 1; 0 where it is constant."""
    low, high = float(alpha.min()), float(alpha.max())
    return np.asarray((alpha - low) / (high - low), np.float32) if high > low else np.zeros_like(alpha)


def _gradient(alpha: Alpha) -> Alpha:
    """Return the length of the gradient in each pixel."""
    smooth, slope = _gaussian(1.4)
    across = cv2.sepFilter2D(alpha, cv2.CV_32F, slope, smooth, borderType=cv2.BORDER_REPLICATE)
    down = cv2.sepFilter2D(alpha, cv2.CV_32F, smooth, slope, borderType=cv2.BORDER_REPLICATE)
    return np.hypot(across, down)


@lru_cache(maxsize=1)
def _gaussian(sigma: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a Gaussian and its derivative, cut where it falls below 0.01; their outer product has the norm 1."""
    half = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 0.01)))
    x = np.arange(-half, half + 1, dtype=np.float64)
    smooth = np.exp(-(x**2) / (2 * sigma**2))
    slope = -x * smooth
    return smooth / np.linalg.norm(smooth), slope / np.linalg.norm(slope)


def conn(alpha: Alpha, truth: Alpha, known: Mask | None = None) -> float:
    """Return the connectivity error: the summed difference of connectedness over 1000.

    A pixel hangs together with the person up to the last of the levels 0, 0.1 … 1 at which it lies in the largest
    piece (four neighbours) of the pixels that have that level in both alphas. Of what an alpha has above that level,
    all from 0.15 on counts as not connected (Rhemann et al. 2009, in the form of RobustVideoMatting). It grows with
    the size of the picture: compare at one size only.
    """
    level = np.ones(truth.shape, np.float32)
    undecided = np.ones(truth.shape, bool)
    shared = np.minimum(alpha, truth)
    for step in range(1, 11):
        _, labels, stats, _ = cv2.connectedComponentsWithStats((shared >= step / 10).view(np.uint8), connectivity=4)
        sizes = stats[1:, cv2.CC_STAT_AREA]
        lost = undecided if not len(sizes) else undecided & (labels != 1 + int(sizes.argmax()))
        level[lost] = (step - 1) / 10
        undecided = undecided & ~lost
    loose, true_loose = (np.where(a - level >= 0.15, a - level, 0) for a in (alpha, truth))
    return _sum(np.abs(loose - true_loose), known) / 1e3


# --- time -------------------------------------------------------------------------------------------------------


def dtssd(alpha: Alpha, before: Alpha, truth: Alpha, truth_before: Alpha, known: Mask | None = None) -> float:
    """Return the error of the change from the frame before: the root of its mean square, times 100.

    After Erofeev et al., "Perceptually Motivated Benchmark for Video Matting", BMVC 2015, in the scale of
    RobustVideoMatting.
    """
    error = ((alpha - before) - (truth - truth_before)) ** 2
    return 1e2 * math.sqrt(_mean(error, known))


def flicker(alpha: Alpha, before: Alpha, still: Mask) -> float | None:
    """Return the mean absolute change of alpha times 1000 where nothing happens; None if something does everywhere.

    Args:
        alpha: Of a frame.
        before: Of the frame before.
        still: Where it may not change, as ``unchanged`` finds.
    """
    return 1e3 * float(np.abs(alpha - before)[still].mean()) if still.any() else None


def unchanged(rgb: Rgb, rgb_before: Rgb, truth: Alpha, truth_before: Alpha, noise: int = 8) -> Mask:
    """Return where a picture stands still: its true alpha is the same and no channel differs by more than ``noise``.

    Args:
        rgb: uint8 ``(h, w, 3)``.
        rgb_before: Of the frame before.
        truth: Alpha of the person.
        truth_before: Of the frame before.
        noise: Grey levels that a camera's noise or a codec may add.
    """
    change = np.asarray(cv2.absdiff(rgb, rgb_before)).max(2)
    return np.asarray((change <= noise) & (np.abs(truth - truth_before) < 1 / 512))


# --- nobody -----------------------------------------------------------------------------------------------------


def sees_somebody(alpha: Alpha) -> bool:
    """Return whether more than ``SEEN`` of the pixels are taken for a person: false where nobody is."""
    return bool(np.count_nonzero(alpha > PERSON) > SEEN * alpha.size)


def _mean(error: Alpha, known: Mask | None) -> float:
    if known is not None:
        error = error[known]
    return float(error.mean(dtype=np.float64)) if error.size else 0.0


def _sum(error: Alpha, known: Mask | None) -> float:
    return float((error if known is None else error[known]).sum(dtype=np.float64))
