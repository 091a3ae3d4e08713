"""A contact sheet of the worst cases: picture, truth, alpha and difference, with their names and scores."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.evaluation.report import Worst

_MARGIN, _LINE = 6, 20
_GROUND, _INK = 24, 230


def contact_sheet(worst: Sequence[Worst], width: int = 300) -> npt.NDArray[np.uint8]:
    """Return one strip a case, uint8 ``(h, w, 3)``; in the difference, red is too much person and blue too little.

    Raises:
        ValueError: There is no case.
    """
    if not worst:
        raise ValueError("a contact sheet needs at least one case")
    return np.concatenate([_strip(found, width) for found in worst])


def _strip(found: Worst, width: int) -> npt.NDArray[np.uint8]:
    height = max(1, min(round(found.rgb.shape[0] * width / found.rgb.shape[1]), 2 * width))
    error = found.alpha.astype(np.int16) - found.truth
    grey = (found.rgb @ np.asarray([0.3, 0.59, 0.11]) * 0.35)[..., None].repeat(3, 2)
    grey[..., 0] += np.maximum(error, 0)
    grey[..., 2] += np.maximum(-error, 0)
    difference = np.clip(grey, 0, 255).astype(np.uint8)
    panels = [found.rgb, found.truth[..., None].repeat(3, 2), found.alpha[..., None].repeat(3, 2), difference]
    strip = np.full((height + _LINE + 2 * _MARGIN, 4 * (width + _MARGIN) + _MARGIN, 3), _GROUND, np.uint8)
    for index, panel in enumerate(panels):
        left = _MARGIN + index * (width + _MARGIN)
        strip[_MARGIN : _MARGIN + height, left : left + width] = cv2.resize(
            panel, (width, height), interpolation=cv2.INTER_AREA
        )
    # OpenCV writes ASCII only.
    text = f"{found.set} | {found.model} | {found.case} | MAD {found.score:.1f}".encode("ascii", "replace").decode()
    place = (_MARGIN, height + _LINE + _MARGIN)
    cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (_INK,) * 3, 1, cv2.LINE_AA)
    return strip
