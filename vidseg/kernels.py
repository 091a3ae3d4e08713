"""The loops over pixels, compiled by Numba; everything else is for ``resize``, ``refine`` and ``compositing`` to know.

Full-size planes come as ``(samples, stride)`` from ``as_rows``: one dimension, contiguous and read-only whatever the
padding, so that a kernel is compiled once for uint8 and once for uint16. No kernel writes to what it reads, none keeps
state, all release the GIL. Arithmetic is float32, for 8 to 16 lanes at once: Numba widens integers to 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from vidseg.frame import Plane

F = TypeVar("F", bound=Callable[..., Any])
Floats = npt.NDArray[np.float32]
Samples = npt.NDArray[Any]

_ZERO, _HALF, _ONE, _TOP = np.float32(0), np.float32(0.5), np.float32(1), np.float32(255)


def _compiled(function: F) -> F:
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract", "reassoc", "nsz", "arcp"},
    }
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written: compile anew in each process.
        return cast(F, numba.njit(**options)(function))


def as_rows(plane: Samples) -> tuple[Samples, int]:
    """Return ``(samples, stride)``: a read-only view with row ``y`` at ``samples[y * stride:]``.

    Only a plane whose samples do not lie side by side is copied.
    """
    height, width = plane.shape
    if plane.flags.c_contiguous and plane.flags.aligned:
        samples = plane.reshape(-1)
        stride = width
    else:
        pitch, step = plane.strides
        if step != plane.itemsize or pitch < width * step or pitch % step or not plane.flags.aligned:
            return as_rows(np.ascontiguousarray(plane))
        stride = pitch // step
        # Ends with the last sample of the last row, so it never reaches past the buffer.
        samples = np.lib.stride_tricks.as_strided(plane, ((height - 1) * stride + width,), (step,), writeable=False)
    samples.flags.writeable = False
    return samples, stride


@_compiled
def to_network(
    y: Plane, u: Plane, v: Plane, matrix: Floats, offset: Floats, low: Floats, high: Floats
) -> npt.NDArray[np.float32]:
    """Return a network's input, float32 ``(3, h, w)``: ``clip(matrix @ (y, u, v) + offset, low, high)``.

    ``y``, ``u``, ``v`` are small planes of one size, the rest is ``color.network_affine(...)``.
    """
    height, width = y.shape
    out = np.empty((3, height, width), np.float32)
    for channel in range(3):
        from_y, from_u, from_v = matrix[channel, 0], matrix[channel, 1], matrix[channel, 2]
        zero, least, most = offset[channel], low[channel], high[channel]
        for row in range(height):
            for x in range(width):
                value = np.float32(y[row, x]) * from_y + np.float32(u[row, x]) * from_u
                value += np.float32(v[row, x]) * from_v + zero
                out[channel, row, x] = min(max(value, least), most)
    return out


@_compiled
def resample(
    samples: Samples,
    stride: int,
    row_starts: npt.NDArray[np.int64],
    row_weights: Floats,
    column_starts: npt.NDArray[np.int64],
    column_weights: Floats,
    width: int,
    half: np.float32,
    out: Samples,
) -> None:
    """Fill ``out`` with weighted sums of rows, then of columns; ``half`` is what rounds (0.5 for integers)."""
    mixed = np.empty(width, np.float32)
    for j in range(out.shape[0]):
        mixed[:] = _ZERO
        for tap in range(row_weights.shape[1]):
            weight = row_weights[j, tap]
            if weight == _ZERO:
                continue
            start = (row_starts[j] + tap) * stride
            row = samples[start : start + width]
            for x in range(width):
                mixed[x] += weight * np.float32(row[x])
        for i in range(out.shape[1]):
            start = column_starts[i]
            total = half
            for tap in range(column_weights.shape[1]):
                total += column_weights[i, tap] * mixed[start + tap]
            out[j, i] = total
