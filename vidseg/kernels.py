"""The loops over pixels, compiled by Numba; everything else is for ``resize``, ``refine`` and ``compositing`` to know.

Full-size planes come as ``(samples, stride)`` from ``as_rows``: one dimension, contiguous and read-only whatever the
padding, so that a kernel is compiled once for uint8 and once for uint16. No kernel writes to what it reads, none keeps
state, all release the GIL. Arithmetic is float32, for 8 to 16 lanes at once: Numba widens integers to 64 bits. Inner
loops run over ``len`` of one-dimensional slices, which LLVM turns into vectors and copies; ``out[y, x]`` and
``out[:] = row`` are ten times slower.
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
        for x in range(len(mixed)):
            mixed[x] = _ZERO
        for tap in range(row_weights.shape[1]):
            weight = row_weights[j, tap]
            if weight == _ZERO:
                continue
            start = (row_starts[j] + tap) * stride
            row = samples[start : start + width]
            for x in range(len(row)):
                mixed[x] += weight * np.float32(row[x])
        for i in range(out.shape[1]):
            start = column_starts[i]
            total = half
            for tap in range(column_weights.shape[1]):
                total += column_weights[i, tap] * mixed[start + tap]
            out[j, i] = total


@_compiled
def to_rgb(
    y: Samples,
    y_stride: int,
    u: Samples,
    u_stride: int,
    v: Samples,
    v_stride: int,
    step: int,
    matrix: Floats,
    offset: Floats,
    top: np.float32,
    out: Samples,
) -> None:
    """Fill ``out`` ``(h, 3 * w)`` with R, G, B beside each other: ``clip(matrix @ (y, u, v) + offset, 0, top)``.

    With ``step`` 2, ``u`` and ``v`` are half as large and interpolated, their samples sitting amid two by two pixels.
    """
    height, width = out.shape[0], out.shape[1] // 3
    chroma_height, chroma_width = (height + step - 1) // step, (width + step - 1) // step
    line, chroma = np.empty(chroma_width + 2, np.float32), np.empty((2, step * chroma_width), np.float32)
    left, middle, right = line[:-2], line[1:-1], line[2:]
    third, quarter = np.float32(0.75), np.float32(0.25)
    pixels = np.empty((3, width), np.float32)
    for j in range(height):
        near = j // step
        far = min(max(near + 2 * (j % 2) - 1, 0), chroma_height - 1)
        for which in range(2):
            plane, stride = (u, u_stride) if which == 0 else (v, v_stride)
            full = chroma[which]
            closer = plane[near * stride : near * stride + chroma_width]
            if step == 1:
                for x in range(len(full)):
                    full[x] = np.float32(closer[x])
                continue
            farther = plane[far * stride : far * stride + chroma_width]
            for x in range(len(middle)):
                middle[x] = third * np.float32(closer[x]) + quarter * np.float32(farther[x])
            line[0], line[-1] = line[1], line[-2]
            for x in range(len(middle)):
                full[2 * x] = third * middle[x] + quarter * left[x]
                full[2 * x + 1] = third * middle[x] + quarter * right[x]
        luma, blue, red = y[j * y_stride : j * y_stride + width], chroma[0], chroma[1]
        for channel in range(3):
            from_y, from_u, from_v = matrix[channel, 0], matrix[channel, 1], matrix[channel, 2]
            zero, target = offset[channel] + _HALF, pixels[channel]
            for x in range(len(target)):
                value = np.float32(luma[x]) * from_y + blue[x] * from_u + red[x] * from_v + zero
                target[x] = min(max(value, _HALF), top)
        row, reds, greens, blues = out[j], pixels[0], pixels[1], pixels[2]
        for x in range(len(reds)):
            row[3 * x], row[3 * x + 1], row[3 * x + 2] = reds[x], greens[x], blues[x]


@_compiled
def relight(
    rgb: Samples,
    out: npt.NDArray[np.uint16],
    decoded: Floats,
    weights: Floats,
    gains: Floats,
    matrix: Floats,
    later_weights: Floats,
    later_gains: Floats,
    brightest: Floats,
    encoded: npt.NDArray[np.uint16],
) -> None:
    """Fill ``out`` with ``rgb`` in another light, both ``(h, 3 * w)``.

    Light is ``decoded[sample]``; it is multiplied with the gain for its weighted sum, then with ``matrix``, then with
    the later gain for its new weighted sum (where those weights are all 0, for its largest part), and ``encoded``.
    Tables are entered with the fourth root of light: ``brightest`` tells what the last entry of each of the three is.
    Empty gains are left out.
    """
    height, width = out.shape[0], out.shape[1] // 3
    light, place = np.empty((3, width), np.float32), np.empty(width, np.float32)
    first, second, third = light[0], light[1], light[2]
    for j in range(height):
        samples, target = rgb[j], out[j]
        for x in range(len(place)):
            first[x], second[x] = decoded[samples[3 * x]], decoded[samples[3 * x + 1]]
            third[x] = decoded[samples[3 * x + 2]]
        for later in range(2):
            table, parts = (later_gains, later_weights) if later else (gains, weights)
            if later:
                for x in range(len(place)):
                    a, b, c = first[x], second[x], third[x]
                    first[x] = max(matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * c, _ZERO)
                    second[x] = max(matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * c, _ZERO)
                    third[x] = max(matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * c, _ZERO)
            if len(table) == 0:
                continue
            share, last = _ONE / brightest[later], np.float32(len(table) - 1)
            of_first, of_second, of_third = parts[0], parts[1], parts[2]
            largest = of_second == _ZERO
            for x in range(len(place)):
                a, b, c = first[x], second[x], third[x]
                bright = max(max(a, b), c) if largest else of_first * a + of_second * b + of_third * c
                place[x] = np.sqrt(np.sqrt(min(bright * share, _ONE))) * last + _HALF
            for x in range(len(place)):
                gain = table[np.int32(place[x])]
                first[x] *= gain
                second[x] *= gain
                third[x] *= gain
        share, last = _ONE / brightest[2], np.float32(len(encoded) - 1)
        for channel in range(3):
            values = light[channel]
            for x in range(len(place)):
                place[x] = np.sqrt(np.sqrt(min(values[x] * share, _ONE))) * last + _HALF
            for x in range(len(place)):
                target[3 * x + channel] = encoded[np.int32(place[x])]


@_compiled
def fit_line(
    now: Samples, before: Samples, prior: np.float32, least: np.float32, most: np.float32
) -> tuple[float, float]:
    """Return ``(gain, offset)`` with ``now = gain * before + offset`` for most of one pixel in 64.

    By least squares over those that the fit before explained, three times; the first fit is an offset by the median. A
    gain of 1 is thought likely, the more so the less the picture's variance is above ``prior``, and it stays from
    ``least`` to ``most``.
    """
    rows, columns = (now.shape[0] + 7) // 8, (now.shape[1] + 7) // 8
    x, y, error = np.empty(rows * columns, np.float32), np.empty(rows * columns, np.float32), np.empty(0, np.float32)
    for j in range(rows):
        for i in range(columns):
            x[j * columns + i], y[j * columns + i] = before[8 * j, 8 * i], now[8 * j, 8 * i]
    gain, offset = 1.0, float(np.median(y - x))
    for _ in range(3):
        error = np.abs(y - np.float32(gain) * x - np.float32(offset))
        bound = 2.0 + 2.0 * float(np.median(error))
        count, mean_x, mean_y = 0, 0.0, 0.0
        for k in range(len(error)):
            if error[k] <= bound:
                count, mean_x, mean_y = count + 1, mean_x + float(x[k]), mean_y + float(y[k])
        mean_x, mean_y = mean_x / count, mean_y / count
        together, spread = 0.0, 0.0
        for k in range(len(error)):
            if error[k] <= bound:
                apart = float(x[k]) - mean_x
                together += apart * (float(y[k]) - mean_y)
                spread += apart * apart
        gain = (together / count + float(prior)) / (spread / count + float(prior))
        gain = min(max(gain, float(least)), float(most))
        offset = mean_y - gain * mean_x
    return gain, offset


@_compiled
def movement(guide: npt.NDArray[np.uint8], reference: Floats, gain: np.float32, shift: np.float32) -> Floats:
    """Return float32 ``(h, w)``: how far ``guide`` lies from ``gain * reference + shift``, its mean over 3x3 pixels."""
    height, width = guide.shape
    out = np.empty((height, width), np.float32)
    sums = np.empty(width + 2, np.float32)
    left, middle, right = sums[:-2], sums[1:-1], sums[2:]
    ninth = np.float32(1 / 9)
    for j in range(height):
        middle[:] = -np.float32(3) * shift
        for row in (max(j - 1, 0), j, min(j + 1, height - 1)):
            now, then = guide[row], reference[row]
            for x in range(len(middle)):
                middle[x] += np.float32(now[x]) - gain * then[x]
        sums[0], sums[-1] = sums[1], sums[-2]
        target = out[j]
        for x in range(len(target)):
            target[x] = abs(left[x] + middle[x] + right[x]) * ninth
    return out


@_compiled
def steady(
    alpha: Floats,
    guide: npt.NDArray[np.uint8],
    before: Floats,
    reference: Floats,
    ages: Floats,
    moved: Floats,
    gain: np.float32,
    shift: np.float32,
    low: np.float32,
    step: np.float32,
    decay: np.float32,
    oldest: np.float32,
    haste: np.float32,
) -> tuple[Floats, Floats, Floats, np.float32]:
    """Return the next alpha, reference and ages, and the share of the picture that stands still.

    A pixel stands still where ``moved`` is below ``low`` in all of its 3x3, and not at all from twice that on; there,
    ``decay`` of what was before is kept: of ``gain * reference + shift`` so much, of alpha less by ``haste`` where it
    differs much. A pixel that has stood still for longer, ``ages`` seconds up to ``oldest``, keeps more: the mean of
    that time.
    """
    height, width = alpha.shape
    out, following = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    older = np.empty((height, width), np.float32)
    most = np.empty(width + 2, np.float32)
    left, middle, right = most[:-2], most[1:-1], most[2:]
    slope, total = _ONE / low, _ZERO
    for j in range(height):
        above, here, below = moved[max(j - 1, 0)], moved[j], moved[min(j + 1, height - 1)]
        for x in range(len(middle)):
            middle[x] = max(max(above[x], here[x]), below[x])
        most[0], most[-1] = most[1], most[-2]
        values, picture, old, old_picture = alpha[j], guide[j], before[j], reference[j]
        target, next_picture, age, next_age = out[j], following[j], ages[j], older[j]
        for x in range(len(target)):
            still = np.float32(2) - slope * max(max(left[x], middle[x]), right[x])
            still = min(max(still, _ZERO), _ONE)
            total += still
            # The solution of de/dt = -e / age, and of de/dt = -e / T for whoever is younger than T.
            kept = max(age[x] / (age[x] + step), decay) if step > _ZERO else _ONE
            hurry = haste * (_ONE - kept)
            kept *= still
            next_age[x] = min((age[x] + step) * still, oldest)
            value = min(values[x], _ONE) if values[x] > _ZERO else _ZERO
            error = old[x] - value
            target[x] = value + error * kept / (_ONE + hurry * abs(error))
            level = np.float32(picture[x])
            next_picture[x] = level + (gain * old_picture[x] + shift - level) * kept
    return out, following, older, total / np.float32(height * width)


@_compiled
def find_patches(alpha: Floats, empty: int, trace: np.float32) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return two uint8 ``(h, w)``: 1 where alpha is more than ``trace`` from ``empty`` (0 or 1), 255 from a half on."""
    there, likely = np.empty(alpha.shape, np.uint8), np.empty(alpha.shape, np.uint8)
    zero, sign = np.float32(empty), np.float32(1 - 2 * empty)
    for j in range(alpha.shape[0]):
        values, patch, middle = alpha[j], there[j], likely[j]
        for x in range(len(values)):
            part = (values[x] - zero) * sign
            patch[x] = part > trace
            middle[x] = 255 if part > _HALF else 0
    return there, likely


@_compiled
def fade(
    alpha: Floats,
    empty: int,
    sure: np.float32,
    labels: npt.NDArray[np.int32],
    count: int,
    reach: npt.NDArray[np.uint8],
) -> Floats:
    """Return ``alpha`` that is ``empty`` (0 or 1) in patches without a value more than ``sure`` away from it.

    Elsewhere so much is left of what differs from ``empty`` as ``reach`` is of 255.
    """
    found = np.zeros(count, np.float32)
    found[0] = _ONE  # no patch
    out = np.empty(alpha.shape, np.float32)
    zero, sign, share = np.float32(empty), np.float32(1 - 2 * empty), _ONE / _TOP
    for j in range(alpha.shape[0]):
        values, patch = alpha[j], labels[j]
        for x in range(len(values)):
            if (values[x] - zero) * sign > sure:
                found[patch[x]] = _ONE
    for j in range(alpha.shape[0]):
        values, patch, near, target = alpha[j], labels[j], reach[j], out[j]
        for x in range(len(values)):
            kept = found[patch[x]] * np.float32(near[x]) * share
            target[x] = values[x] if kept >= _ONE else zero + (values[x] - zero) * kept
    return out


@_compiled
def edge_lines(
    alpha: Floats,
    guide: Floats,
    luma: Samples,
    stride: int,
    scale_down: np.float32,
    scale_across: np.float32,
    unit: np.float32,
    smoothness: np.float32,
    low: np.float32,
    high: np.float32,
) -> Floats:
    """Return ``lines`` float32 ``(2, h, w)`` with ``alpha = lines[0] * guide + lines[1]`` around each pixel.

    The slope is the guided filter's, over three by three pixels; the intercept leads the line through the pixel's own
    alpha. ``guide`` is ``unit * luma`` shrunk by the two scales; the variance it lost in that is sampled from ``luma``
    and counted in, else fine texture would be drawn into alpha. Where a window is wholly below ``low`` or above
    ``high`` the line is exactly 0 or 1. NaN counts as 0.
    """
    height, width = alpha.shape
    lines = np.zeros((2, height, width), np.float32)
    least, most = np.empty(width, np.float32), np.empty(width, np.float32)
    texture = np.empty((height, width), np.float32)
    for j in range(height):
        for i in range(width):
            texture[j, i] = -_ONE
    quarter, sixteenth = np.float32(0.25), np.float32(1 / 16)
    for j in range(height):
        top, bottom = max(j - 1, 0), min(j + 2, height)
        for i in range(width):
            least[i], most[i] = _ONE, _ZERO
        for row in range(top, bottom):
            values = alpha[row]
            for i in range(len(values)):
                a = values[i] if values[i] > _ZERO else _ZERO
                least[i], most[i] = min(least[i], a), max(most[i], a)
        for i in range(width):
            left, right = max(i - 1, 0), min(i + 1, width - 1)
            if max(most[left], most[i], most[right]) <= low:
                continue
            if min(least[left], least[i], least[right]) >= high:
                lines[1, j, i] = _ONE
                continue
            sum_a, sum_g, sum_ag, sum_gg, sum_t = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
            for row in range(top, bottom):
                for column in range(left, right + 1):
                    a = alpha[row, column] if alpha[row, column] > _ZERO else _ZERO
                    g = guide[row, column]
                    sum_a += a
                    sum_g += g
                    sum_ag += a * g
                    sum_gg += g * g
                    if texture[row, column] < _ZERO:
                        total, squares = _ZERO, _ZERO
                        for down in range(4):
                            y = int((np.float32(row) + (np.float32(down) + _HALF) * quarter) * scale_down)
                            for across in range(4):
                                x = int((np.float32(column) + (np.float32(across) + _HALF) * quarter) * scale_across)
                                sample = unit * np.float32(luma[y * stride + x])
                                total += sample
                                squares += sample * sample
                        total *= sixteenth
                        texture[row, column] = max(squares * sixteenth - total * total, _ZERO)
                    sum_t += texture[row, column]
            share = _ONE / np.float32((bottom - top) * (right + 1 - left))
            mean_g = sum_g * share
            spread = max(sum_gg * share - mean_g * mean_g, _ZERO) + sum_t * share
            slope = (sum_ag * share - sum_a * share * mean_g) / (spread + smoothness)
            lines[0, j, i] = slope
            lines[1, j, i] = (alpha[j, i] if alpha[j, i] > _ZERO else _ZERO) - slope * guide[j, i]
    return lines


@_compiled
def draw_lines(
    lines: Floats,
    luma: Samples,
    stride: int,
    unit: np.float32,
    rows: npt.NDArray[np.int64],
    row_parts: Floats,
    columns: npt.NDArray[np.int64],
    column_parts: Floats,
    low: np.float32,
    high: np.float32,
    out: npt.NDArray[np.uint8],
) -> None:
    """Fill ``out`` with the alpha that ``lines``, interpolated, give for each sample of ``luma``.

    ``rows[y]`` is the line above sample row ``y`` and ``row_parts[y]`` how far it lies to the next, likewise
    ``columns``. Alpha at ``low`` becomes 0, at ``high`` 255. Where the four lines around are flat nothing is computed.
    """
    height, width = out.shape
    last_row, last_column = lines.shape[1] - 1, lines.shape[2] - 1
    across = np.empty((4, width), np.float32)
    gain = _TOP / (high - low)
    shift = _HALF - low * gain
    top = 0
    while top < height:
        j = rows[top]
        below = min(j + 1, last_row)
        bottom = top + 1
        while bottom < height and rows[bottom] == j:
            bottom += 1
        start = 0
        while start < width:
            # A run of cells that are all 0, all 255 or all to be computed.
            kind = -1
            stop = start
            while stop < width:
                i = columns[stop]
                beside = min(i + 1, last_column)
                this = 0
                if (
                    lines[0, j, i] == _ZERO
                    and lines[0, j, beside] == _ZERO
                    and lines[0, below, i] == _ZERO
                    and lines[0, below, beside] == _ZERO
                ):
                    least = min(lines[1, j, i], lines[1, j, beside], lines[1, below, i], lines[1, below, beside])
                    most = max(lines[1, j, i], lines[1, j, beside], lines[1, below, i], lines[1, below, beside])
                    if most <= low:
                        this = 1
                    elif least >= high:
                        this = 2
                if kind == -1:
                    kind = this
                elif kind != this:
                    break
                stop += 1
                while stop < width and columns[stop] == i:
                    stop += 1
            if kind > 0:
                value = np.uint8(0 if kind == 1 else 255)
                for y in range(top, bottom):
                    target = out[y, start:stop]
                    for x in range(len(target)):
                        target[x] = value
            else:
                slopes, slopes_below = across[0, start:stop], across[1, start:stop]
                starts, starts_below = across[2, start:stop], across[3, start:stop]
                for x in range(len(slopes)):
                    i = columns[start + x]
                    beside = min(i + 1, last_column)
                    part = column_parts[start + x]
                    slopes[x] = lines[0, j, i] + part * (lines[0, j, beside] - lines[0, j, i])
                    slopes_below[x] = lines[0, below, i] + part * (lines[0, below, beside] - lines[0, below, i])
                    starts[x] = lines[1, j, i] + part * (lines[1, j, beside] - lines[1, j, i])
                    starts_below[x] = lines[1, below, i] + part * (lines[1, below, beside] - lines[1, below, i])
                for y in range(top, bottom):
                    part = row_parts[y]
                    samples = luma[y * stride + start : y * stride + stop]
                    target = out[y, start:stop]
                    for x in range(len(target)):
                        slope = slopes[x] + part * (slopes_below[x] - slopes[x])
                        alpha = starts[x] + part * (starts_below[x] - starts[x])
                        alpha += slope * unit * np.float32(samples[x])
                        target[x] = np.uint8(min(max(alpha * gain + shift, _ZERO), _TOP))
            start = stop
        top = bottom


ROOM, PERSON, EDGE = np.uint8(0), np.uint8(1), np.uint8(2)
"""What a block of alpha is: all 0, all 255, or neither."""


@_compiled
def find_edges(alpha: Samples, stride: int, height: int, width: int, block: int) -> npt.NDArray[np.uint8]:
    """Return ROOM, PERSON or EDGE for each block of ``block`` by ``block`` pixels."""
    tall, wide = (height + block - 1) // block, (width + block - 1) // block
    kinds = np.empty((tall, wide), np.uint8)
    some, every = np.empty(wide * block, np.uint8), np.empty(wide * block, np.uint8)
    # Four at a time: a block is 4 pixels wide or a multiple of it.
    some_words, every_words = some.view(np.uint32), every.view(np.uint32)
    words = block // 4
    for j in range(tall):
        for x in range(len(some)):
            some[x], every[x] = 0, 255
        for y in range(j * block, min((j + 1) * block, height)):
            row = alpha[y * stride : y * stride + width]
            for x in range(len(row)):
                some[x] |= row[x]
                every[x] &= row[x]
        for i in range(wide):
            any_bits, all_bits = some_words[i * words], every_words[i * words]
            for word in range(i * words + 1, (i + 1) * words):
                any_bits |= some_words[word]
                all_bits &= every_words[word]
            kinds[j, i] = ROOM if any_bits == 0 else PERSON if all_bits == 0xFFFFFFFF else EDGE
    return kinds


@_compiled
def spread_edges(kinds: npt.NDArray[np.uint8], reach: int) -> npt.NDArray[np.uint8]:
    """Return ``kinds`` with EDGE also within ``reach`` blocks of EDGE."""
    tall, wide = kinds.shape
    across, out = kinds.copy(), kinds.copy()
    for j in range(tall):
        for i in range(wide):
            if kinds[j, i] == EDGE:
                for near in range(max(i - reach, 0), min(i + reach + 1, wide)):
                    across[j, near] = EDGE
    for j in range(tall):
        for near in range(max(j - reach, 0), min(j + reach + 1, tall)):
            for i in range(wide):
                if across[near, i] == EDGE:
                    out[j, i] = EDGE
    return out


@_compiled
def halve_alpha(
    alpha: Samples, stride: int, height: int, width: int, kinds: npt.NDArray[np.uint8], block: int
) -> npt.NDArray[np.uint8]:
    """Return the alpha of 4:2:0 chroma, the rounded mean of two by two; blocks that are not EDGE are left undefined.

    The mean sits half a luma pixel to the right of chroma that is sited left, as MPEG's is: not seen on soft edges.
    """
    out = np.empty(((height + 1) // 2, (width + 1) // 2), np.uint8)
    for j in range(kinds.shape[0]):
        start = 0
        while start < kinds.shape[1]:
            stop = start + 1
            while stop < kinds.shape[1] and kinds[j, stop] == kinds[j, start]:
                stop += 1
            left, right = start * block, min(stop * block, width)
            if kinds[j, start] == EDGE:
                for y in range(j * block, min((j + 1) * block, height), 2):
                    other = min(y + 1, height - 1)
                    above = alpha[y * stride + left : y * stride + right]
                    below = alpha[other * stride + left : other * stride + right]
                    target = out[y // 2, left // 2 : right // 2]
                    for x in range(len(target)):
                        total = np.int32(above[2 * x]) + np.int32(above[2 * x + 1])
                        total += np.int32(below[2 * x]) + np.int32(below[2 * x + 1])
                        target[x] = (total + 2) >> 2
                    if right % 2:
                        out[y // 2, right // 2] = (np.int32(above[-1]) + np.int32(below[-1]) + 1) >> 1
            start = stop
    return out


@_compiled
def blend(
    front: Samples,
    front_stride: int,
    back: Samples,
    back_stride: int,
    alpha: Samples,
    alpha_stride: int,
    kinds: npt.NDArray[np.uint8],
    block: int,
    out: Samples,
) -> None:
    """Fill the plane ``out`` with ``alpha * front + (1 - alpha) * back``, rounded; ``block`` counts its own samples."""
    height, width = out.shape
    share = _ONE / _TOP
    for j in range(kinds.shape[0]):
        start = 0
        while start < kinds.shape[1]:
            kind = kinds[j, start]
            stop = start + 1
            while stop < kinds.shape[1] and kinds[j, stop] == kind:
                stop += 1
            left, right = start * block, min(stop * block, width)
            for y in range(j * block, min((j + 1) * block, height)):
                over = front[y * front_stride + left : y * front_stride + right]
                under = back[y * back_stride + left : y * back_stride + right]
                target = out[y, left:right]
                if kind == ROOM:
                    for x in range(len(target)):
                        target[x] = under[x]
                elif kind == PERSON:
                    for x in range(len(target)):
                        target[x] = over[x]
                else:
                    parts = alpha[y * alpha_stride + left : y * alpha_stride + right]
                    for x in range(len(target)):
                        low = np.float32(under[x])
                        part = np.float32(parts[x]) * share
                        target[x] = np.uint16(low + part * (np.float32(over[x]) - low) + _HALF)
            start = stop


@_compiled
def estimate_colours(
    plane: Samples,
    stride: int,
    height: int,
    width: int,
    alpha: Samples,
    alpha_stride: int,
    kinds: npt.NDArray[np.uint8],
    wanted: npt.NDArray[np.uint8],
    near: npt.NDArray[np.uint8],
    block: int,
    reach: int,
    far: int,
    trust: np.float32,
    top: np.float32,
    empty: np.float32,
) -> Floats:
    """Return float32 ``(tall, wide, 2)``: one sample of the person and of the room, around each block.

    The pair that explains best, by least squares, the samples within ``reach`` blocks as ``alpha`` of one and the rest
    of the other. Drawn, as if by ``trust`` blocks more, to the mean of the sure person within ``far`` pairs of blocks,
    which decides where there is nothing but a few hairs; a person without sure pixels has the sample ``empty`` or,
    where that is negative, the mean of all. Computed where ``wanted`` is EDGE; ``near`` is EDGE within ``reach`` of it.
    """
    tall, wide = kinds.shape
    # By block: alpha * alpha, alpha * rest, rest * rest, alpha * sample, rest * sample, sure, sure * sample.
    sums = np.empty((tall, wide, 8), np.float32)
    coarse = np.zeros(((tall + 1) // 2, (wide + 1) // 2, 2), np.float32)
    coarse_across = np.empty(coarse.shape, np.float32)
    out = np.zeros((tall, wide, 2), np.float32)
    share = _ONE / _TOP
    two = np.float32(2)
    for j in range(tall):
        for i in range(wide):
            # Of the person far from any edge one block in four is enough.
            if near[j, i] != EDGE and (kinds[j, i] != PERSON or (i | j) & 1):
                continue
            left, right = i * block, min((i + 1) * block, width)
            bottom = min((j + 1) * block, height)
            # Every second row is enough for a mean.
            into = sums[j, i]
            for which in range(8):
                into[which] = _ZERO
            if kinds[j, i] == EDGE:
                aa, ab, bb, a_sample, b_sample, sure, sure_sample = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
                for y in range(j * block, bottom, 2):
                    samples = plane[y * stride + left : y * stride + right]
                    parts = alpha[y * alpha_stride + left : y * alpha_stride + right]
                    for x in range(len(samples)):
                        sample, part = np.float32(samples[x]), np.float32(parts[x]) * share
                        rest, weight = _ONE - part, part * part
                        aa += weight
                        ab += part * rest
                        bb += rest * rest
                        a_sample += part * sample
                        b_sample += rest * sample
                        weight *= weight * weight
                        sure += weight
                        sure_sample += weight * sample
                into[0], into[1], into[2] = two * aa, two * ab, two * bb
                into[3], into[4] = two * a_sample, two * b_sample
                into[5], into[6] = two * sure, two * sure_sample
            else:
                value, count = _ZERO, _ZERO
                for y in range(j * block, bottom, 2):
                    samples = plane[y * stride + left : y * stride + right]
                    for x in range(len(samples)):
                        value += np.float32(samples[x])
                    count += two * np.float32(len(samples))
                value *= two
                if kinds[j, i] == PERSON:
                    into[0], into[3], into[5], into[6] = count, value, count, value
                else:
                    into[2], into[4] = count, value
            coarse[j // 2, i // 2, 0] += into[5]
            coarse[j // 2, i // 2, 1] += into[6]
    # Sums from the left, in float64: their differences are to be 0 where there is nothing.
    so_far = np.empty(coarse.shape[1] + 1, np.float64)
    so_far[0] = 0
    for j in range(coarse.shape[0]):
        for which in range(2):
            for i in range(coarse.shape[1]):
                so_far[i + 1] = so_far[i] + coarse[j, i, which]
            for i in range(coarse.shape[1]):
                coarse_across[j, i, which] = so_far[min(i + far + 1, coarse.shape[1])] - so_far[max(i - far, 0)]
    area = np.float32(block * block)
    # Sums of a row's blocks to both sides, made once for all the rows that want them.
    beside, held = np.empty((tall, wide, 8), np.float32), np.zeros((tall, wide), np.uint8)
    total = np.empty(8, np.float32)
    for j in range(tall):
        for i in range(wide):
            if wanted[j, i] != EDGE:
                continue
            for which in range(8):
                total[which] = _ZERO
            for other_j in range(max(j - reach, 0), min(j + reach + 1, tall)):
                row = beside[other_j, i]
                if held[other_j, i] == 0:
                    held[other_j, i] = 1
                    for which in range(8):
                        row[which] = _ZERO
                    for other_i in range(max(i - reach, 0), min(i + reach + 1, wide)):
                        summands = sums[other_j, other_i]
                        for which in range(8):
                            row[which] += summands[which]
                for which in range(8):
                    total[which] += row[which]
            sure, sure_sample = _ZERO, _ZERO
            for other in range(max(j // 2 - far, 0), min(j // 2 + far + 1, coarse.shape[0])):
                sure += coarse_across[other, i // 2, 0]
                sure_sample += coarse_across[other, i // 2, 1]
            mean = (total[3] + total[4]) / (total[0] + two * total[1] + total[2])
            hint = area * np.float32(1e-3)
            person = (sure_sample + hint * (mean if empty < _ZERO else empty)) / (sure + hint)
            room = (total[4] + hint * mean) / (total[1] + total[2] + hint)
            weight = area * trust
            aa, bb = total[0] + weight, total[2] + hint
            a_sample, b_sample = total[3] + weight * person, total[4] + hint * room
            scale = _ONE / (aa * bb - total[1] * total[1])
            person = (a_sample * bb - b_sample * total[1]) * scale
            room = (b_sample * aa - a_sample * total[1]) * scale
            out[j, i, 0], out[j, i, 1] = min(max(person, _ZERO), top), min(max(room, _ZERO), top)
    return out


@_compiled
def blend_clean(
    front: Samples,
    front_stride: int,
    back: Samples,
    back_stride: int,
    alpha: Samples,
    alpha_stride: int,
    kinds: npt.NDArray[np.uint8],
    block: int,
    colours: Floats,
    top: np.float32,
    empty: np.float32,
    out: Samples,
) -> None:
    """Fill the plane ``out`` as ``blend`` does, with the room's colour taken out of ``front`` in EDGE blocks.

    There ``front`` becomes ``person + alpha * (front - alpha * person - (1 - alpha) * room)``, ``person`` and ``room``
    being ``colours`` interpolated between blocks. Unless ``empty`` is negative that is the result: nothing is blended
    and ROOM becomes ``empty``.
    Forte and Pitié, "Approximate Fast Foreground Colour Estimation", ICIP 2021.
    """
    height, width = out.shape
    tall, wide = kinds.shape
    share = _ONE / _TOP
    cut = empty >= _ZERO
    across = np.empty((6, width), np.float32)
    for j in range(tall):
        start = 0
        while start < wide:
            kind = kinds[j, start]
            stop = start + 1
            while stop < wide and kinds[j, stop] == kind:
                stop += 1
            left, right = start * block, min(stop * block, width)
            if kind == EDGE:
                for row in range(3):
                    at = min(max(j + row - 1, 0), tall - 1)
                    for i in range(start, stop):
                        before, after = max(i - 1, 0), min(i + 1, wide - 1)
                        for x in range(i * block, min((i + 1) * block, width)):
                            part = (np.float32(x - i * block) + _HALF) / np.float32(block) - _HALF
                            other = before if part < _ZERO else after
                            part = abs(part)
                            for which in range(2):
                                here = colours[at, i, which]
                                across[2 * row + which, x] = here + part * (colours[at, other, which] - here)
            for y in range(j * block, min((j + 1) * block, height)):
                over = front[y * front_stride + left : y * front_stride + right]
                under = back[y * back_stride + left : y * back_stride + right]
                target = out[y, left:right]
                if kind == ROOM and cut:
                    for x in range(len(target)):
                        target[x] = np.uint16(empty)
                elif kind == ROOM:
                    for x in range(len(target)):
                        target[x] = under[x]
                elif kind == PERSON:
                    for x in range(len(target)):
                        target[x] = over[x]
                else:
                    down = (np.float32(y - j * block) + _HALF) / np.float32(block) - _HALF
                    far = 0 if down < _ZERO else 4
                    down = abs(down)
                    parts = alpha[y * alpha_stride + left : y * alpha_stride + right]
                    far_person, far_room = across[far, left:right], across[far + 1, left:right]
                    persons, rooms = across[2, left:right], across[3, left:right]
                    for x in range(len(target)):
                        part = np.float32(parts[x]) * share
                        person = persons[x] + down * (far_person[x] - persons[x])
                        room = rooms[x] + down * (far_room[x] - rooms[x])
                        person += part * (np.float32(over[x]) - room - part * (person - room))
                        person = min(max(person, _ZERO), top)
                        low = person if cut else np.float32(under[x])
                        target[x] = np.uint16(low + part * (person - low) + _HALF)
            start = stop


@_compiled
def unpack_luma(words: npt.NDArray[np.uint16], stride: int, shift: np.uint16, y: npt.NDArray[np.uint8]) -> None:
    """Fill ``y`` from packed 4:2:2 (YUYV: ``shift`` 0, UYVY: 8), whose rows are ``stride`` 16-bit words apart."""
    for row in range(y.shape[0]):
        packed = words[row * stride : row * stride + y.shape[1]]
        out = y[row]
        for x in range(len(out)):
            out[x] = np.uint8(packed[x] >> shift)


@_compiled
def unpack_chroma(
    pairs: npt.NDArray[np.uint32],
    stride: int,
    height: int,
    shift_u: np.uint32,
    shift_v: np.uint32,
    u: npt.NDArray[np.uint8],
    v: npt.NDArray[np.uint8],
) -> None:
    """Fill 4:2:0 ``u`` and ``v`` from packed 4:2:2, the rounded mean of every two rows.

    ``pairs`` are 32-bit words, two pixels each, little-endian (YUYV: shifts 8 and 24; UYVY: 0 and 16). The mean sits
    between the two rows, where 4:2:0 has its chroma.
    """
    byte, one = np.uint32(255), np.uint32(1)
    for row in range(u.shape[0]):
        below = min(2 * row + 1, height - 1) * stride
        top = pairs[2 * row * stride : 2 * row * stride + u.shape[1]]
        low = pairs[below : below + u.shape[1]]
        out_u, out_v = u[row], v[row]
        for x in range(len(out_u)):
            p, q = top[x], low[x]
            out_u[x] = (((p >> shift_u) & byte) + ((q >> shift_u) & byte) + one) >> one
            out_v[x] = (((p >> shift_v) & byte) + ((q >> shift_v) & byte) + one) >> one


@_compiled
def split_chroma(
    words: npt.NDArray[np.uint16], stride: int, u: npt.NDArray[np.uint8], v: npt.NDArray[np.uint8]
) -> None:
    """Fill ``u`` and ``v`` from the second plane of NV12, taken as little-endian 16-bit words."""
    for row in range(u.shape[0]):
        packed = words[row * stride : row * stride + u.shape[1]]
        out_u, out_v = u[row], v[row]
        for x in range(len(out_u)):
            pair = packed[x]
            out_u[x] = np.uint8(pair)
            out_v[x] = np.uint8(pair >> np.uint16(8))


@_compiled
def halve_rows(samples: npt.NDArray[np.uint8], stride: int, height: int, out: npt.NDArray[np.uint8]) -> None:
    """Fill ``out`` with the rounded mean of every two of ``height`` rows: chroma of 4:2:2 becomes that of 4:2:0."""
    one = np.uint16(1)
    for row in range(out.shape[0]):
        below = min(2 * row + 1, height - 1) * stride
        top = samples[2 * row * stride : 2 * row * stride + out.shape[1]]
        low = samples[below : below + out.shape[1]]
        target = out[row]
        for x in range(len(target)):
            target[x] = (np.uint16(top[x]) + np.uint16(low[x]) + one) >> one


@_compiled
def recolour(
    y: Samples,
    y_stride: int,
    u: Samples,
    u_stride: int,
    v: Samples,
    v_stride: int,
    matrix: Floats,
    offset: Floats,
    out_y: npt.NDArray[np.uint8],
    out_u: npt.NDArray[np.uint8],
    out_v: npt.NDArray[np.uint8],
) -> None:
    """Fill 4:2:0 planes with ``matrix @ (y, u, v) + offset``, rounded; chroma must not depend on luma.

    Luma takes the chroma sample of its own two by two pixels: what is lost by that is below a step of 8 bits wherever
    chroma changes by less than ten steps from one sample to the next.
    """
    height, width = out_y.shape
    wide = np.empty(2 * out_u.shape[1], np.float32)
    for row in range(out_u.shape[0]):
        blue, red = (
            u[row * u_stride : row * u_stride + out_u.shape[1]],
            v[row * v_stride : row * v_stride + out_v.shape[1]],
        )
        target_u, target_v = out_u[row], out_v[row]
        for x in range(len(target_u)):
            b, r = np.float32(blue[x]), np.float32(red[x])
            target_u[x] = np.uint8(min(max(matrix[1, 1] * b + matrix[1, 2] * r + offset[1], _ZERO), _TOP) + _HALF)
            target_v[x] = np.uint8(min(max(matrix[2, 1] * b + matrix[2, 2] * r + offset[2], _ZERO), _TOP) + _HALF)
        even, odd = wide[0::2], wide[1::2]
        for x in range(len(blue)):
            shift = matrix[0, 1] * np.float32(blue[x]) + matrix[0, 2] * np.float32(red[x]) + offset[0]
            even[x] = shift
            odd[x] = shift
        gain, shifts = matrix[0, 0], wide[:width]
        for line in range(2 * row, min(2 * row + 2, height)):
            luma, target = y[line * y_stride : line * y_stride + width], out_y[line]
            for x in range(len(target)):
                target[x] = np.uint8(min(max(gain * np.float32(luma[x]) + shifts[x], _ZERO), _TOP) + _HALF)


@_compiled
def interpolate(
    samples: Samples,
    stride: int,
    width: int,
    rows: npt.NDArray[np.int64],
    row_parts: Floats,
    columns: npt.NDArray[np.int32],
    column_parts: Floats,
    out: Samples,
) -> None:
    """Fill the plane ``out`` by bilinear interpolation.

    Sample ``(y, x)`` lies ``row_parts[y]`` below row ``rows[y]``, and ``column_parts[x]`` to the right of column
    ``columns[x]``. Where a part is 0 the next row or column need not exist. ``rows`` does not decrease.
    """
    line, sides = np.zeros(width + 1, np.float32), np.empty((2, out.shape[1]), np.float32)
    held = np.full(2, -1, np.int64)
    for j in range(out.shape[0]):
        for which in range(2):
            row = rows[j] + which
            if held[row % 2] == row or (which == 1 and row_parts[j] == _ZERO):
                continue
            held[row % 2] = row
            source, target = samples[row * stride : row * stride + width], sides[row % 2]
            for x in range(len(source)):
                line[x] = np.float32(source[x])
            for x in range(len(target)):
                left = line[columns[x]]
                target[x] = left + column_parts[x] * (line[columns[x] + 1] - left)
        part = row_parts[j]
        above, below, target = sides[rows[j] % 2], sides[(rows[j] + 1) % 2], out[j]
        if part == _ZERO:
            for x in range(len(target)):
                target[x] = np.uint16(above[x] + _HALF)
        else:
            for x in range(len(target)):
                target[x] = np.uint16(above[x] + part * (below[x] - above[x]) + _HALF)
