"""Maps as pictures: over the picture they belong to, side by side, and as layers for a page."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.explaining.explanation import Explanation
from vidseg.frame import Alpha, FullAlpha, Size

Rgb = npt.NDArray[np.uint8]
_GROUND, _INK = (24, 24, 27), (235, 235, 235)
_BAR, _GAP = 26, 4
FOR, AGAINST = (255, 140, 26), (64, 128, 255)
"""Orange and blue: also those who do not tell red from green tell these apart."""


def colours(values: Alpha, name: str) -> npt.NDArray[np.uint8]:
    """Return a map as RGBA ``(h, w, 4)``, the more opaque the more it says.

    Args:
        values: ``(h, w)`` in [0, 1], or in [-1, 1] for ``evidence``.
        name: Of the map: ``evidence`` has two colours, the others one scale from dark to bright.
    """
    strength = np.clip(np.abs(values), 0, 1)
    if name == "evidence":
        rgb = np.where((values > 0)[..., None], np.array(FOR, np.uint8), np.array(AGAINST, np.uint8))
        alpha = 0.85 * strength**0.7
    else:
        level = np.rint(strength * 255).astype(np.uint8)
        rgb = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[..., ::-1]
        # Confidence is high nearly everywhere, and the picture is to be seen through it.
        alpha = np.full_like(strength, 0.55) if name == "confidence" else 0.9 * strength**0.5
    return np.dstack([rgb, np.rint(alpha * 255).astype(np.uint8)])


def outline(alpha: FullAlpha, size: Size) -> npt.NDArray[np.uint8]:
    """Return the line at which ``alpha`` is one half as RGBA ``(h, w, 4)``: white, with a dark rim to be seen on white.

    Args:
        alpha: uint8, of any size.
        size: ``(h, w)``.
    """
    large = cv2.resize(alpha, size[::-1], interpolation=cv2.INTER_LINEAR)
    lines, _ = cv2.findContours((large > 127).view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thick = max(1, round(min(size) / 500))
    rim, line = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    cv2.drawContours(rim, lines, -1, 255, 3 * thick, cv2.LINE_AA)
    cv2.drawContours(line, lines, -1, 255, thick, cv2.LINE_AA)
    return np.dstack([line, line, line, np.maximum(rim // 2, line)])


def laid_over(rgb: Rgb, layer: npt.NDArray[np.uint8]) -> Rgb:
    """Return ``layer``, RGBA of any size, over ``rgb``."""
    height, width = rgb.shape[:2]
    large = cv2.resize(layer, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    share = large[..., 3:] / 255
    return np.asarray(np.rint(rgb * (1 - share) + large[..., :3] * share), np.uint8)


def _grey(rgb: Rgb) -> Rgb:
    """Return a picture without its colours, darker: colours are the map's."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.repeat((grey * 0.6).astype(np.uint8)[..., None], 3, 2)


def sheet(shown: Explanation, width: int = 640) -> Rgb:
    """Return four panels: the alpha's outline, confidence, uncertainty, and what the decision hangs on.

    Args:
        shown: What is drawn.
        width: Of a panel; height and width of the sheet are even, as videos want it.
    """
    height = max(2, round(shown.rgb.shape[0] * width / shown.rgb.shape[1] / 2) * 2)
    small = np.asarray(cv2.resize(shown.rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    line, grey = outline(shown.written, (height, width)), _grey(small)
    dimmed = np.where(
        cv2.resize(shown.written, (width, height))[..., None] > 127, small, (small * 0.45).astype(np.uint8)
    )
    panels = [(f"alpha, {100 * shown.numbers['person']:.0f} % person", laid_over(dimmed, line))]
    for name, values in shown.maps.items():
        if name in ("confidence", "uncertainty", "evidence"):
            panels.append((shown.caption(name), laid_over(laid_over(grey, colours(values, name)), line)))
    rows = []
    for first in (0, 2):
        parts = [_titled(title, panel) for title, panel in panels[first : first + 2]]
        rows.append(np.hstack([parts[0], np.full((parts[0].shape[0], _GAP, 3), _GROUND, np.uint8), parts[1]]))
    return np.vstack(rows)


def _titled(title: str, panel: Rgb) -> Rgb:
    bar = np.full((_BAR, panel.shape[1], 3), _GROUND, np.uint8)
    # OpenCV writes ASCII only.
    text = title.encode("ascii", "replace").decode()
    scale = min(0.5, 0.5 * panel.shape[1] / max(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0] + 12, 1))
    cv2.putText(bar, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)
    return np.vstack([bar, panel])
