"""Backdrops: the words for a background that a visitor may send, none of which names a file; and a drawn gallery."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.backgrounds import Background, BlurBackground, Fit, PictureBackground, open_background
from vidseg.decoding import Picture
from vidseg.frame import Size

Rgb = npt.NDArray[np.uint8]

WEAKEST_BLUR = 10
"""Strength below which a room would be seen as it is."""
_SIZE = 720, 1280


def checked(text: str, *, transparent: bool = False) -> str:
    """Return a background's name, as it is used from here on.

    Args:
        text: ``blur:STRENGTH`` (10 to 100), ``#rrggbb``, ``gallery:NAME`` or ``upload:ID``.
        transparent: Whether ``transparent`` is one, too.

    Raises:
        ValueError: It is none of these. So names of files and addresses never reach what would open them.
    """
    word = text.strip().lower()
    if word == "blur":
        return "blur:50"
    if match := re.fullmatch(r"blur:(\d{1,3})", word):
        if WEAKEST_BLUR <= int(match[1]) <= 100:
            return f"blur:{int(match[1])}"
        raise ValueError(f"the blur must be from {WEAKEST_BLUR} to 100")
    if re.fullmatch(r"#[0-9a-f]{6}", word) or (transparent and word == "transparent"):
        return word
    if word.startswith("gallery:") and word[8:] in GALLERY:
        return word
    if re.fullmatch(r"upload:[\w-]{16,64}", text.strip()):
        return text.strip()
    known = f"blur:10 to blur:100, #rrggbb, upload:ID, gallery: with one of {', '.join(GALLERY)}"
    raise ValueError(f"there is no such background; there are {known}{', transparent' if transparent else ''}")


def open_backdrop(name: str, picture: Rgb | None = None, fit: Fit = "cover") -> Background:
    """Open what ``checked`` has returned.

    Args:
        name: That.
        picture: RGB ``(h, w, 3)`` of an upload.
        fit: As in ``open_background``.
    """
    if name.startswith("blur:"):
        return BlurBackground(float(name[5:]))
    if name.startswith("gallery:"):
        picture = draw(name[8:])
    if picture is not None:
        return PictureBackground(Picture(picture, None), fit)
    return open_background(name)


@lru_cache
def draw(name: str) -> Rgb:
    """Return a picture of the gallery, RGB ``(720, 1280, 3)``."""
    picture = GALLERY[name][1](_SIZE)
    picture.flags.writeable = False
    return picture


def _beach(size: Size) -> Rgb:
    from vidseg.demo.scenery import beach

    return beach(size)


def _studio(size: Size) -> Rgb:
    """Return a grey backdrop with a lamp on it."""
    x, y = _grid(size)
    light = np.exp(-(((x - 0.38) / 0.55) ** 2) - ((y - 0.35) / 0.6) ** 2)[..., None]
    return _dithered(np.array([0.17, 0.19, 0.22]) + light * np.array([0.50, 0.51, 0.52]))


def _dusk(size: Size) -> Rgb:
    """Return hills behind hills after sunset."""
    x, y = _grid(size)
    stops = [0.0, 0.35, 0.6, 0.75]
    colours = np.array([[0.13, 0.15, 0.34], [0.52, 0.32, 0.50], [0.95, 0.58, 0.42], [1.0, 0.82, 0.56]])
    picture = np.stack([np.interp(y, stops, channel) for channel in colours.T], -1)
    sun = np.exp(-(((x - 0.7) ** 2 + ((y - 0.66) * 0.6) ** 2) / 0.01))[..., None]
    picture += 0.25 * sun
    rng = np.random.default_rng(3)
    for layer in range(4):
        height = np.full_like(x, 0.62 + 0.09 * layer)
        for octave in range(1, 5):
            height = height + 0.045 / octave * np.sin(x * octave * (3 + layer) + rng.uniform(0, 6))
        shade = np.array([0.55, 0.36, 0.44]) * (0.75 - 0.2 * layer) + np.array([0.02, 0.03, 0.06])
        cover = np.clip((y - height) * 200, 0, 1)[..., None]
        picture = picture * (1 - cover) + shade * cover
    return _dithered(picture)


def _lights(size: Size) -> Rgb:
    """Return a city's lights at night, out of focus."""
    _, y = _grid(size)
    picture = np.array([0.05, 0.07, 0.14]) + (1 - y)[..., None] * np.array([0.02, 0.03, 0.08])
    glow = np.zeros((*size, 3), np.float32)
    rng = np.random.default_rng(11)
    warm = np.array([[1.0, 0.75, 0.4], [1.0, 0.5, 0.3], [0.9, 0.9, 1.0], [0.4, 0.7, 1.0], [1.0, 0.85, 0.6]], np.float32)
    for _ in range(120):
        across, down = int(rng.uniform(0, size[1])), int(size[0] * np.clip(rng.normal(0.55, 0.16), 0, 1))
        radius = int(size[0] * rng.uniform(0.012, 0.05))
        top, left = max(down - radius - 2, 0), max(across - radius - 2, 0)
        part = glow[top : down + radius + 2, left : across + radius + 2]
        disc = np.zeros(part.shape[:2], np.float32)
        cv2.circle(disc, (across - left, down - top), radius, 1.0, -1, cv2.LINE_AA)
        part += disc[..., None] * warm[rng.integers(len(warm))] * np.float32(rng.uniform(0.08, 0.4))
    return _dithered(1 - (1 - picture) * (1 - np.clip(cv2.GaussianBlur(glow, (0, 0), 2.5), 0, 0.95)))


def _paper(size: Size) -> Rgb:
    """Return large sheets of coloured paper."""
    x, y = _grid(size)
    picture = np.broadcast_to(np.array([0.96, 0.92, 0.85]), (*size, 3)).copy()
    sheets = [(0.18, 0.25, 0.34, "f2b8a0"), (0.86, 0.16, 0.27, "8fb8b0"), (0.78, 0.9, 0.42, "e0c070"),
              (0.1, 0.95, 0.3, "6f8fa8")]  # fmt: skip
    for across, down, radius, code in sheets:
        away = np.hypot((x - across) * size[1] / size[0], y - down)
        colour = np.frombuffer(bytes.fromhex(code), np.uint8) / 255
        shadow = np.clip((radius + 0.03 - away) / 0.05, 0, 1)[..., None] * 0.12
        cover = np.clip((radius - away) * size[0] / 1.5, 0, 1)[..., None]
        picture = picture * (1 - shadow) * (1 - cover) + colour * cover
    return _dithered(picture)


GALLERY: dict[str, tuple[str, Callable[[Size], Rgb]]] = {
    "beach": ("Beach", _beach),
    "dusk": ("Hills at dusk", _dusk),
    "lights": ("City lights", _lights),
    "studio": ("Studio", _studio),
    "paper": ("Paper", _paper),
}
"""Name, title and how it is drawn. Nobody's photographs."""


def _grid(size: Size) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return how far across and down each pixel is, 0 to 1, ``(h, w)``."""
    y, x = np.mgrid[: size[0], : size[1]]
    return x / (size[1] - 1), y / (size[0] - 1)


def _dithered(picture: npt.NDArray[Any]) -> Rgb:
    """Return colours of 0 to 1 in 8 bits; a little noise hides the steps."""
    noise = np.random.default_rng(0).normal(0, 0.004, picture.shape[:2])[..., None]
    return np.asarray(np.clip(picture + noise, 0, 1) * 255 + 0.5, np.uint8)
