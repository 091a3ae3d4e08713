"""What moved between two small pictures, and a mask carried along with it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vidseg import kernels
from vidseg.exposure import match_exposure
from vidseg.frame import Alpha

Luma = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_THRESHOLD = 3.0
"""Grey levels, in the mean of 3x3 small pixels, above which something has changed; twice the noise comes on top."""
_NOISE_CAP = 1.5
"""Most grey levels of change that count as noise."""
_CARRIED, _PER_CONTRAST = 3.0, 0.1
"""Grey levels more that a carried pixel may differ, and how much more per grey level of contrast around it: between
two samplings of a sharp edge there is always a difference."""
_SMALLEST = 16
"""Pictures with a side below this are smaller than what the flow looks at."""
_SQUARE = np.ones((3, 3), np.uint8)


class Change(NamedTuple):
    """How a picture differs from one before.

    Attributes:
        moved: float32 ``(h, w)``, grey levels by which 3x3 pixels differ, the exposure's change taken out.
        threshold: Above this it is not noise.
        exposure: What was taken out, see ``match_exposure``.
    """

    moved: Floats
    threshold: float
    exposure: tuple[np.float32, np.float32]

    @property
    def where(self) -> npt.NDArray[np.bool_]:
        """Where something changed."""
        return np.asarray(self.moved > self.threshold)


def change(now: Luma, before: Floats) -> Change:
    """Return how ``now`` (uint8) differs from ``before`` (float32), two planes of small pictures of one size."""
    gain, offset = match_exposure(now, before)
    exposure = np.float32(gain), np.float32(offset)
    moved = kernels.movement(now, before, *exposure)
    # What the calmest third of the picture stays below is noise as long as two thirds do not move: 0.43 sigma.
    calm = moved[::8, ::8].ravel()
    noise = min(float(np.partition(calm, len(calm) // 3)[len(calm) // 3]) / 0.43, _NOISE_CAP)
    return Change(moved, _THRESHOLD + 2 * noise, exposure)


def perimeter(alpha: Alpha) -> float:
    """Return about how many pixels the outline of the people in ``alpha`` is long."""
    return float(np.count_nonzero(cv2.morphologyEx((alpha > 0.5).view(np.uint8), cv2.MORPH_GRADIENT, _SQUARE))) / 2


class Flow:
    """Dense optical flow between two small pictures of one stream, and what it carries along. Not thread-safe.

    DIS (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016), from the new picture to the old
    one, so that each new pixel knows where it was.

    Args:
        finest: It is computed at ``1 / 2 ** finest`` of the pictures' size.
    """

    def __init__(self, finest: int = 2) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setFinestScale(finest)
        self._grid = np.zeros((0, 0, 2), np.float32)

    def source(self, before: Luma, now: Luma) -> Floats | None:
        """Return where in ``before`` each pixel of ``now`` was, ``(h, w, 2)``: x and y. None if too small."""
        height, width = now.shape
        if min(height, width) < _SMALLEST:
            return None
        if self._grid.shape[:2] != now.shape:
            rows, columns = np.mgrid[:height, :width].astype(np.float32)
            self._grid = np.stack([columns, rows], axis=2)
        source: Floats = self._flow.calc(now, before, None)  # type: ignore[call-overload]
        source += self._grid
        return source

    def carry(self, labels: Luma, before: Luma, now: Luma) -> Luma:
        """Return the ``labels`` of ``before`` where they are in ``now``, and 0 where the flow brings another picture.

        All are uint8 ``(h, w)``.
        """
        source = self.source(before, now)
        if source is None:
            return labels.copy()
        carried, brought = (
            np.asarray(cv2.remap(plane, source, None, how, borderMode=cv2.BORDER_REPLICATE), np.uint8)  # type: ignore[call-overload]
            for plane, how in ((labels, cv2.INTER_NEAREST), (before, cv2.INTER_LINEAR))
        )
        carried[differs(now, brought.astype(np.float32), change(now, before.astype(np.float32)))] = 0
        return carried


def differs(now: Luma, brought: Floats, changed: Change) -> npt.NDArray[np.bool_]:
    """Return where ``brought``, a picture carried to ``now``, does not look like it.

    Args:
        now: uint8 ``(h, w)``.
        brought: float32.
        changed: Between the two without carrying: tells noise and exposure.
    """
    moved = kernels.movement(now, brought, *changed.exposure)
    bound = cv2.morphologyEx(now, cv2.MORPH_GRADIENT, _SQUARE) * np.float32(_PER_CONTRAST)
    bound += np.float32(changed.threshold + _CARRIED)
    return np.asarray(moved > bound)


class Carrier:
    """Carries an alpha from one picture to a later one of the same scene.

    Fails closed: alpha is kept where what the flow brings to a pixel looks like what is there, or where nothing has
    changed at all. The rest, such as what a moving hand has just uncovered, becomes room, unless it is a patch with
    nothing but sure person around it (a mouth that opens).
    """

    def __init__(self) -> None:
        self._flow = Flow()

    def __call__(self, alpha: Alpha, before: Luma, now: Luma, changed: Change) -> tuple[Alpha, float]:
        """Return the alpha of ``now`` and how much alpha, in pixels, became room for want of support.

        Args:
            alpha: Of ``before``, float32 ``(h, w)``; not changed.
            before: Its luma, uint8 ``(h, w)``.
            now: Luma of the new picture.
            changed: Of ``now`` against ``before``.
        """
        source = self._flow.source(before, now)
        if source is None:
            return np.where(changed.where, np.float32(0), alpha), float(alpha[changed.where].sum())
        carried, brought = (
            np.asarray(cv2.remap(plane, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))  # type: ignore[call-overload]
            for plane in (alpha, before)
        )
        doubtful = differs(now, brought.astype(np.float32), changed) & (carried > 0)
        still = doubtful & ~changed.where
        carried[still] = alpha[still]
        doubtful ^= still
        if not doubtful.any():
            return carried, 0.0
        doubtful &= ~_enclosed(doubtful, carried)
        lost = float(carried[doubtful].sum())
        carried[doubtful] = 0
        return carried, lost


def _enclosed(doubtful: npt.NDArray[np.bool_], alpha: Alpha) -> npt.NDArray[np.bool_]:
    """Return the patches of ``doubtful`` that touch nothing but sure person."""
    count, labels = cv2.connectedComponents(doubtful.view(np.uint8), connectivity=8)
    unsure = cv2.dilate((alpha < 0.9).view(np.uint8), _SQUARE).view(bool)
    inside = np.ones(count, bool)
    inside[labels[unsure]] = False
    return np.asarray(inside[labels] & doubtful)
