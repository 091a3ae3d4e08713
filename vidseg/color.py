"""What the numbers in the planes mean: Y'CbCr to R'G'B' and back, exact by ITU-T H.273."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from vidseg import kernels
from vidseg.frame import Color, Frame, Plane, allocate

_LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
"""Weights of red and blue in luma: H.273 table 4, codes 5 and 6, 1, 9."""
_STRIP = 64  # rows converted at a time, so that a large picture needs no large floats


def rgb_matrix(color: Color, depth: int = 8) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return ``(matrix, offset)`` with ``rgb = matrix @ samples + offset``.

    ``samples`` are the numbers in the three planes, ``rgb`` is R'G'B' in the picture's own transfer: 0 is black and 1
    is white; samples outside the legal range give values outside 0…1. H.273, 8.3.

    Returns:
        float64 ``(3, 3)`` and ``(3,)``.
    """
    inverse, origin = ycbcr_matrix(color, depth)
    matrix = np.asarray(np.linalg.inv(inverse), np.float64)
    return matrix, -matrix @ origin


def ycbcr_matrix(color: Color, depth: int = 8) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return ``(matrix, offset)`` with ``samples = matrix @ rgb + offset``, the inverse of ``rgb_matrix``."""
    top, step = float(2**depth - 1), float(2 ** (depth - 8))
    luma_scale, luma_offset = (top, 0.0) if color.full_range else (219 * step, 16 * step)
    if color.matrix == "rgb":
        # The planes are G, B, R, all of them with the range of luma.
        return luma_scale * np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]), np.full(3, luma_offset)
    red, blue = _LUMA_WEIGHTS[color.matrix]
    luma = np.array([red, 1 - red - blue, blue])
    matrix = np.stack([luma, (np.eye(3)[2] - luma) / (2 * (1 - blue)), (np.eye(3)[0] - luma) / (2 * (1 - red))])
    chroma_scale = top if color.full_range else 224 * step
    scale = np.array([luma_scale, chroma_scale, chroma_scale])
    return scale[:, None] * matrix, np.array([luma_offset, 128 * step, 128 * step])


@lru_cache(maxsize=16)
def black(color: Color, depth: int = 8) -> tuple[int, int, int]:
    """Return the samples of black."""
    y, u, v = (int(sample) for sample in np.rint(ycbcr_matrix(color, depth)[1]))
    return y, u, v


@lru_cache(maxsize=16)
def network_affine(
    color: Color, depth: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[npt.NDArray[np.float32], ...]:
    """Return ``(matrix, offset, low, high)``, what ``kernels.to_network`` makes a network's input with.

    ``clip(matrix @ samples + offset, low, high)`` equals ``(clip(rgb, 0, 1) - mean) / std``: the clip stands after the
    normalisation, with its bounds normalised too, so that one affine does all.

    Returns:
        float32 ``(3, 3)``, ``(3,)``, ``(3,)``, ``(3,)``, read-only: they are kept for the next frame.
    """
    matrix, offset = rgb_matrix(color, depth)
    centre, scale = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    folded = matrix / scale[:, None], (offset - centre) / scale, -centre / scale, (1 - centre) / scale
    kept = tuple(np.ascontiguousarray(part, np.float32) for part in folded)
    for part in kept:
        part.flags.writeable = False
    return kept


def planes_from_rgb(
    rgb: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], color: Color, depth: int = 8, subsampled: bool = True
) -> tuple[Plane, Plane, Plane]:
    """Convert a picture to new planes.

    Chroma of 4:2:0 is the mean of its two by two pixels (of fewer at an odd edge), which sits it in their middle.

    Args:
        rgb: ``(h, w, 3)`` R'G'B' in the transfer of ``color``; uint8 or the whole range of uint16.
        color: Of the planes.
        depth: Of the planes.
        subsampled: Of the planes.
    """
    height, width = rgb.shape[:2]
    planes = allocate((height, width), depth, subsampled)
    matrix, offset = ycbcr_matrix(color, depth)
    scaled = (matrix / np.iinfo(rgb.dtype).max).astype(np.float32)
    top = 2**depth - 1
    for start in range(0, height, _STRIP):
        pixels = rgb[start : start + _STRIP].astype(np.float32)
        for plane, weights, zero in zip(planes, scaled, offset.astype(np.float32), strict=True):
            samples = pixels @ weights
            samples += zero
            at = start
            if plane is not planes[0] and plane.shape != planes[0].shape:
                samples, at = _halved(samples), start // 2
            np.rint(samples, out=samples)
            plane[at : at + len(samples)] = np.clip(samples, 0, top, out=samples)
    return planes


def rgb_from_planes(
    planes: tuple[Plane, Plane, Plane], color: Color, depth: int = 8, *, bits: int = 8
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Convert planes to a new picture, the inverse of ``planes_from_rgb``; chroma of 4:2:0 is interpolated.

    Args:
        planes: As in a ``Frame``; they are not changed.
        color: Of the planes.
        depth: Of the planes.
        bits: 8 for uint8, 16 for the whole range of uint16.

    Returns:
        R'G'B' ``(h, w, 3)`` in the transfer of ``color``.
    """
    height, width = planes[0].shape
    dtype = np.uint8 if bits == 8 else np.uint16
    rgb = np.empty((height, width, 3), dtype)
    matrix, offset = rgb_matrix(color, depth)
    top = np.iinfo(dtype).max
    affine = (matrix * top).astype(np.float32), (offset * top).astype(np.float32)
    y, u, v = (kernels.as_rows(plane) for plane in planes)
    step = 1 if planes[1].shape == planes[0].shape else 2
    kernels.to_rgb(*y, *u, *v, step, *affine, np.float32(top), rgb.reshape(height, 3 * width))
    return rgb


def to_color(frame: Frame, color: Color) -> Frame:
    """Return ``frame`` as 8-bit 4:2:0 of ``color``'s matrix and range; the same object if it is that already.

    The transfer stays as it is: 8 bits of a PQ picture still are PQ.
    """
    if frame.depth == 8 and frame.subsampled and _means_the_same(frame.color, color):
        return frame
    if not frame.subsampled or frame.color.matrix == "rgb":
        rgb = rgb_from_planes(frame.planes, frame.color, frame.depth, bits=16)
        return replace(frame, planes=planes_from_rgb(rgb, color), depth=8, color=color)
    planes = frame.planes
    if frame.depth > 8:
        half, shift = np.uint32(1 << (frame.depth - 9)), frame.depth - 8
        y, u, v = (np.minimum((plane + half) >> shift, 255).astype(np.uint8) for plane in planes)
        planes = y, u, v
    if not _means_the_same(frame.color, color):
        y, u, v = (kernels.as_rows(plane) for plane in planes)
        planes = allocate(frame.size)
        kernels.recolour(*y, *u, *v, *_between(frame.color, color), *cast(Any, planes))
    return replace(frame, planes=planes, depth=8, color=color)


def _means_the_same(one: Color, other: Color) -> bool:
    return (one.matrix, one.full_range) == (other.matrix, other.full_range)


@lru_cache(16)
def _between(one: Color, other: Color) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return ``(matrix, offset)`` from samples of ``one`` to those of ``other``, float32 ``(3, 3)`` and ``(3,)``."""
    to_rgb, black_of_rgb = rgb_matrix(one)
    from_rgb, black_of_samples = ycbcr_matrix(other)
    return (from_rgb @ to_rgb).astype(np.float32), (from_rgb @ black_of_rgb + black_of_samples).astype(np.float32)


def _halved(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the means of two by two samples; an odd edge counts itself twice."""
    height, width = samples.shape
    if height % 2 or width % 2:
        samples = np.pad(samples, ((0, height % 2), (0, width % 2)), mode="edge")
    pairs = samples[0::2] + samples[1::2]
    return (pairs[:, 0::2] + pairs[:, 1::2]) * np.float32(0.25)
