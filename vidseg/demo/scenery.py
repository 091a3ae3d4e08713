"""A beach drawn by arithmetic, so that the demo has a background that is nobody's photograph."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.frame import Size

_Image = npt.NDArray[Any]  # float32, (h, w) or (h, w, 3)
_SUN = np.array([1.0, 0.93, 0.78], np.float32)


def beach(size: Size = (960, 1280), seed: int = 5) -> npt.NDArray[np.uint8]:
    """Return a summer beach as a camera with an open lens sees it behind a person.

    Args:
        size: Of the picture.
        seed: Of clouds, waves and lights.

    Returns:
        sRGB ``(h, w, 3)``.
    """
    height, width = size
    rng = np.random.default_rng(seed)
    horizon, shore = 0.5, 0.79  # fractions of the height
    y, x = np.meshgrid(
        np.linspace(0, 1, height, dtype=np.float32), np.linspace(0, 1, width, dtype=np.float32), indexing="ij"
    )
    picture = _sky(x, y, horizon, rng)
    sea = _sea(x, y, horizon, rng)
    wave = shore + 0.012 * np.sin(5.2 * x + 0.8) + 0.006 * np.sin(13 * x + 2.1) + 0.09 * (x - 0.5) ** 2
    sand = _sand(x, y, wave, rng)
    picture = _over(picture, sea, _step(y, horizon, 0.0015))
    picture = _over(picture, sand, _step(y, wave, 0.004))
    foam = np.exp(-(((y - wave + 0.004) / 0.007) ** 2)) + 0.55 * np.exp(
        -(((y - wave + 0.045 + 0.01 * np.sin(9 * x)) / 0.006) ** 2)
    )
    foam *= 0.55 + 0.45 * _clouds(size, rng, 22, stretch=3)
    picture = _over(picture, np.array([0.97, 0.99, 1.0], np.float32), np.clip(foam, 0, 1) * 0.85)
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), width / 420))
    picture = _glints(picture, horizon, shore, rng)
    warmth = np.exp(-(((x - 0.86) / 0.5) ** 2) - ((y - 0.02) / 0.6) ** 2)[..., None] * _SUN
    picture = 1 - (1 - picture) * (1 - 0.22 * warmth)
    vignette = 1 - 0.16 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)[..., None] * 2
    noise = rng.normal(0, 0.004, (height, width, 1))  # hides the steps of 8 bits in the sky
    return np.asarray(np.clip(picture * vignette + noise, 0, 1) * 255 + 0.5, np.uint8)


def _sky(x: _Image, y: _Image, horizon: float, rng: np.random.Generator) -> _Image:
    """Return blue that pales towards the horizon, with clouds that grow smaller there."""
    up = np.clip(1 - y / horizon, 0, 1)
    sky = _blend(up**0.75, [(0.0, (0.80, 0.91, 0.96)), (0.35, (0.53, 0.78, 0.95)), (1.0, (0.16, 0.46, 0.80))])
    size = y.shape[0], y.shape[1]
    clouds = _clouds(size, rng, 3, stretch=2.4)
    puffs = np.clip((clouds - 0.59 + 0.06 * np.exp(-(((up - 0.22) / 0.16) ** 2))) * 5, 0, 1) * np.clip(up * 8, 0, 1)
    shade = 1.02 - 0.25 * np.clip(clouds - 0.62, 0, 0.3)
    return _over(sky, shade[..., None] * np.array([1.0, 0.995, 0.985], np.float32), puffs * 0.9)


def _sea(x: _Image, y: _Image, horizon: float, rng: np.random.Generator) -> _Image:
    """Return water from deep blue at the horizon to turquoise at the shore, rippled in perspective."""
    near = np.clip((y - horizon) / (0.8 - horizon), 0, 1)
    water = _blend(
        near,
        [(0.0, (0.10, 0.38, 0.58)), (0.25, (0.05, 0.52, 0.68)), (0.7, (0.22, 0.74, 0.76)), (1.0, (0.62, 0.89, 0.83))],
    )
    depth = 1 / (near + 0.05)
    ripples = np.zeros_like(y)
    for strength, speed in ((1.0, 9.0), (0.7, 17.0), (0.5, 31.0)):
        slope, phase = rng.normal(0, 1.2), rng.uniform(0, 2 * np.pi)
        bend = np.sin((x - 0.5) * depth * speed * 0.31 + phase) * 1.3
        ripples += strength * np.sin(depth * speed + (x - 0.5) * depth * slope + bend + phase)
    return np.asarray(water * (1 + 0.045 * ripples * (0.3 + near))[..., None], np.float32)


def _sand(x: _Image, y: _Image, wave: _Image, rng: np.random.Generator) -> _Image:
    """Return sand, dark where the last wave wetted it."""
    away = np.clip((y - wave) / 0.2, 0, 1)
    sand = _blend(away**0.6, [(0.0, (0.62, 0.53, 0.42)), (0.35, (0.83, 0.73, 0.58)), (1.0, (0.95, 0.87, 0.73))])
    grain = _clouds((y.shape[0], y.shape[1]), rng, 40, stretch=2) - 0.5
    return np.asarray(sand * (1 + 0.10 * grain)[..., None], np.float32)


def _glints(picture: _Image, horizon: float, shore: float, rng: np.random.Generator) -> _Image:
    """Add sparks of sun on the water, which an open lens draws as soft discs."""
    height, width = picture.shape[:2]
    light: _Image = np.zeros((height, width), np.float32)
    for _ in range(380):
        nearness = rng.random() ** 1.5
        down = horizon + 0.008 + (shore - horizon - 0.10) * nearness
        across = 0.78 + rng.normal(0, 0.045 + 0.05 * nearness)
        radius = width / 640 * (0.4 + 1.7 * nearness * rng.random())
        centre, axes = (int(across * width * 16), int(down * height * 16)), (int(radius * 26), int(radius * 15))
        cv2.ellipse(light, centre, axes, 0, 0, 360, rng.uniform(0.15, 0.75), -1, cv2.LINE_AA, 4)
    light = np.asarray(cv2.GaussianBlur(light, (0, 0), width / 800))[..., None]
    return np.asarray(1 - (1 - np.clip(picture, 0, 1)) * (1 - np.clip(light, 0, 0.9) * _SUN), np.float32)


def _clouds(size: Size, rng: np.random.Generator, cells: int, stretch: float = 1.0) -> _Image:
    """Return smooth noise in 0…1: octaves of random grids, each half as strong and twice as fine (Perlin 1985)."""
    height, width = size
    total: _Image = np.zeros(size, np.float32)
    weight = 0.0
    for octave in range(6):
        rows = max(2, int(cells * stretch * height / width * 2**octave))
        grid = rng.random((min(rows, height), min(cells * 2**octave, width)), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.5**octave
        weight += 0.5**octave
    return total / np.float32(weight)


def _blend(at: _Image, stops: list[tuple[float, tuple[float, float, float]]]) -> _Image:
    """Return the colours of a gradient at ``at``, ``(h, w, 3)``."""
    places, colours = zip(*stops, strict=True)
    return np.stack([np.interp(at, places, channel) for channel in zip(*colours, strict=True)], axis=-1).astype(
        np.float32
    )


def _step(at: _Image, edge: _Image | float, width: float) -> _Image:
    """Return 0 before ``edge`` and 1 after it, smooth over ``width``."""
    t = np.clip((at - edge) / width + 0.5, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _over(below: _Image, above: _Image, alpha: _Image) -> _Image:
    """Return ``above`` over ``below``."""
    return np.asarray(below + (above - below) * alpha[..., None], np.float32)
