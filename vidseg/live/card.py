"""The card that is shown where there is neither a picture of people nor a background: a plain page with a line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidseg.color import planes_from_rgb
from vidseg.frame import Frame

_PAPER, _INK = (38, 42, 48), (214, 218, 224)


def draw_card(text: str, like: Frame) -> Frame:
    """Return a card that says ``text`` in the middle, of the kind and time of ``like``."""
    height, width = like.size
    image = Image.new("RGB", (width, height), _PAPER)
    if min(height, width) >= 32:  # smaller ones cannot be read
        font = ImageFont.load_default(max(8, min(height // 12, int(1.6 * width / max(len(text), 1)))))
        ImageDraw.Draw(image).text((width / 2, height / 2), text, _INK, font, anchor="mm", align="center")
    planes = planes_from_rgb(np.asarray(image), like.color, like.depth, like.subsampled)
    return replace(like, planes=planes, alpha=None)
