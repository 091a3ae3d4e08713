"""Motion for clips that are made of photographs: of the camera, and of the person before it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.training.pictures import Floats, Rng, Size

Matrices = npt.NDArray[np.float64]
"""``(frames, 3, 3)``: maps pixels of the output to pixels of the output at rest."""


def walk(rng: Rng, frames: int, values: int, smooth: float = 0.8) -> npt.NDArray[np.float64]:
    """Return a random walk whose speed is low-passed: ``(frames, values)``, steps of about 1, 0 at the first frame.

    Args:
        rng: Random numbers.
        frames: How many.
        values: How many walk side by side.
        smooth: 0 trembles, 0.95 glides.
    """
    speed = rng.standard_normal(values)
    places = np.zeros((frames, values))
    for index in range(1, frames):
        speed = smooth * speed + (1 - smooth**2) ** 0.5 * rng.standard_normal(values)
        places[index] = places[index - 1] + speed
    return places


def moves(rng: Rng, frames: int, size: Size, shift: float, zoom: float, turn: float, smooth: float = 0.8) -> Matrices:
    """Return shifts, zooms and turns about the middle.

    Args:
        rng: Random numbers.
        frames: How many.
        size: ``(h, w)`` of the output.
        shift: Typical step from frame to frame, as a share of the width.
        zoom: Typical step of the logarithm of the scale.
        turn: Typical step of the angle, degrees.
        smooth: See ``walk``.
    """
    path = walk(rng, frames, 4, smooth) * [shift * size[1], shift * size[1] * 0.6, zoom, np.deg2rad(turn)]
    x, y, scale, angle = path.T
    c, s = np.cos(angle) * np.exp(scale), np.sin(angle) * np.exp(scale)
    out = np.tile(np.eye(3), (frames, 1, 1))
    out[:, 0, 0], out[:, 0, 1], out[:, 1, 0], out[:, 1, 1] = c, -s, s, c
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    out[:, :2, 2] = middle - out[:, :2, :2] @ middle + np.stack([x, y], 1)
    return out


def camera_path(rng: Rng, frames: int, size: Size, strength: float = 1.0) -> Matrices:
    """Return how a camera moves: not at all, in a hand that trembles, or in a slow pan and zoom.

    See ``moves`` for ``size``; ``strength`` 1 is what cameras at a desk do.
    """
    kind = rng.random()
    if frames == 1 or not strength or kind < 0.4:  # on a stand
        return np.tile(np.eye(3), (frames, 1, 1))
    if kind < 0.7:
        return moves(rng, frames, size, 0.003 * strength, 0.001 * strength, 0.15 * strength, 0.3)
    speed = strength * rng.uniform(0.3, 2.0)
    return moves(rng, frames, size, 0.01 * speed, 0.006 * speed, 0.2 * speed, 0.92)


def person_path(rng: Rng, frames: int, size: Size, strength: float = 1.0) -> Matrices:
    """Return how a person moves as a whole: sways, leans in, leans back. See ``camera_path``."""
    speed = strength * rng.uniform(0, 1.6)
    if frames == 1 or not speed:
        return np.tile(np.eye(3), (frames, 1, 1))
    return moves(rng, frames, size, 0.009 * speed, 0.004 * speed, 0.6 * speed, 0.85)


def bends(rng: Rng, frames: int, size: Size, strength: float = 1.0) -> list[Floats | None]:
    """Return a smooth warp for each frame, ``(h, w, 2)`` pixels, or None: limbs and heads do not move as one plane."""
    if frames == 1 or not strength or rng.random() < 0.3:
        return [None] * frames
    rows, columns = 4, 5
    step = 0.004 * size[1] * strength * rng.uniform(0.3, 1.3)
    grids = walk(rng, frames, rows * columns * 2, 0.85).reshape(frames, rows, columns, 2) * step
    return [np.asarray(cv2.resize(g.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)) for g in grids]


def there_and_back(rng: Rng, available: int, frames: int) -> list[int]:
    """Return which frames to show of a clip of ``available``: consecutive ones, to and fro where it is too short."""
    if available == 1:
        return [0] * frames
    start, step = int(rng.integers(available)), 1 if rng.random() < 0.5 else -1
    if frames <= available:
        first = int(rng.integers(available - frames + 1))
        run = list(range(first, first + frames))
        return run if step == 1 else run[::-1]
    run = []
    for _ in range(frames):
        run.append(start)
        if not 0 <= start + step < available:
            step = -step
        start += step
    return run
