"""What training pictures are in memory: ``Picture`` and ``Clip``, small and uint8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Rng = np.random.Generator
Size = tuple[int, int]
"""``(height, width)``."""
Kind = Literal["person", "cutout", "room", "thing", "hard"]
"""What an entry of a data set shows.

``person``: people before their own background. ``cutout``: people whose background is no use (RGBA, a plain wall).
``room``: a room with nobody in it. ``thing``: anything else with nobody in it; with an alpha it is an object to lay
before or beside people. ``hard``: a picture without people in which a network saw somebody.
"""

LONG_SIDE = 400
"""Pictures are kept at this size: twice what the network sees, enough for crops."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One photograph.

    Attributes:
        rgb: ``(h, w, 3)`` uint8.
        alpha: ``(h, w)`` uint8, 255 = person; for class training the number of the class, 255 = unknown.
        ignore: ``(h, w)`` uint8, 255 where the truth is not known, or None: it is known everywhere.
        person: Who is in it, as far as known: sampling is even over persons, not over frames.
        own_background: Whether what is behind the person may be shown.
    """

    rgb: Array
    alpha: Array
    ignore: Array | None
    person: str
    own_background: bool


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Consecutive frames of one shot, all of one size; a photograph is a clip of one frame."""

    frames: tuple[Picture, ...]

    @property
    def person(self) -> str:
        """Who is in it."""
        return self.frames[0].person

    @property
    def own_background(self) -> bool:
        """Whether what is behind the person may be shown."""
        return self.frames[0].own_background


def shrunk(image: Array, long_side: int = LONG_SIDE) -> Array:
    """Return ``image`` with its longer side at ``long_side``, by area averages; a smaller one is left as it is."""
    scale = long_side / max(image.shape[:2])
    if scale >= 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def shrunk_classes(classes: Array, long_side: int = LONG_SIDE) -> Array:
    """Return a picture of class numbers at the size that ``shrunk`` gives its photograph; numbers are never mixed."""
    height, width = classes.shape
    scale = long_side / max(height, width)
    if scale >= 1:
        return classes
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.asarray(cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
