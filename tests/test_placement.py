"""Placement: mirrored, cropped, scaled and moved, by value; at rest nothing is touched."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from vidseg.frame import Frame, allocate, chroma_size
from vidseg.placement import WHOLE, Window, crop, mirror, place

SIZES = [(72, 128), (71, 127), (8, 9), (2, 2), (1, 1), (1, 7)]


def picture(size, depth: int = 8, subsampled: bool = True, seed: int = 0) -> tuple[Frame, np.ndarray]:
    rng = np.random.default_rng(seed)
    planes = allocate(size, depth, subsampled)
    for plane in planes:
        plane[...] = rng.integers(0, 2**depth, plane.shape)
    return Frame(planes, 7, Fraction(1, 30), depth=depth), rng.integers(0, 256, size).astype(np.uint8)


def ramps(size=(144, 256), depth: int = 8) -> tuple[Frame, np.ndarray]:
    """Planes that grow to the right, to the bottom, and both: bilinear interpolation leaves them straight."""
    planes = allocate(size, depth)
    for index, plane in enumerate(planes):
        rows, columns = ((np.arange(n) + 0.5) / n for n in plane.shape)
        value = (columns[None, :], rows[:, None], (columns[None, :] + rows[:, None]) / 2)[index]
        plane[...] = np.rint(200 * value * 2 ** (depth - 8)) + np.zeros(plane.shape)
    alpha = np.rint(255 * (np.arange(size[1]) + 0.5) / size[1]).astype(np.uint8)
    return Frame(planes, 0, Fraction(1, 30), depth=depth), np.repeat(alpha[None], size[0], 0)


def kept(frame: Frame, alpha: np.ndarray) -> list[np.ndarray]:
    return [plane.copy() for plane in (*frame.planes, alpha)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("subsampled", [True, False])
def test_mirrored_twice_is_as_before(size, depth, subsampled):
    frame, alpha = picture(size, depth, subsampled)
    before = kept(frame, alpha)
    once, turned = mirror(frame, alpha)
    for plane, other in zip((*once.planes, turned), before, strict=True):
        np.testing.assert_array_equal(plane, other[:, ::-1])
    twice = kept(*mirror(once, turned))
    for plane, other, same in zip(twice, before, kept(frame, alpha), strict=True):
        np.testing.assert_array_equal(plane, other)
        np.testing.assert_array_equal(same, other)
    assert (once.pts, once.time_base, once.depth, once.size) == (7, frame.time_base, depth, size)


def test_at_rest_nothing_is_done():
    frame, alpha = picture((72, 128))
    for result in (crop(frame, alpha, WHOLE), place(frame, alpha, 1.0, (0.0, 0.0)), place(frame, alpha, 1, (0, 0))):
        assert result[0] is frame
        assert result[1] is alpha


@pytest.mark.parametrize("depth", [8, 10])
def test_crop_shows_what_is_in_the_window(depth):
    frame, alpha = ramps(depth=depth)
    for window in (Window(0.25, 0.5, 0.5), Window(0.0, 0.0, 0.731), Window(0.2718, 0.1, 0.6543)):
        done, full = crop(frame, alpha, window)
        assert done.size == frame.size
        for index, plane in enumerate(done.planes):
            rows, columns = ((np.arange(n) + 0.5) / n for n in plane.shape)
            x, y = window.left + window.share * columns, window.top + window.share * rows
            value = (x[None, :], y[:, None], (x[None, :] + y[:, None]) / 2)[index]
            wanted = np.broadcast_to(200 * value * 2 ** (depth - 8), plane.shape)
            inside = np.s_[2:-2, 2:-2]  # at the edge of the picture the outermost sample goes on
            assert np.abs(plane.astype(float) - wanted)[inside].max() <= 1.01
        wanted = 255 * (window.left + window.share * (np.arange(alpha.shape[1]) + 0.5) / alpha.shape[1])
        assert np.abs(full - wanted[None])[:, 2:-2].max() <= 1.01


def test_crop_moves_by_less_than_a_sample():
    frame, alpha = picture((144, 256))
    frame.planes[0][...] = np.where(np.arange(256) < 128, 0, 200)
    means = [crop(frame, alpha, Window(0.1 + n / 4096, 0.1, 0.8))[0].planes[0].mean() for n in range(33)]
    # An edge that moves to the left by n / 4096 of the picture, in a window of 0.8 of it; 0.78 is a whole sample.
    np.testing.assert_allclose(np.array(means) - means[0], 200 * np.arange(33) / 4096 / 0.8, atol=0.12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subsampled", [True, False])
def test_crop_of_any_size_shows_only_samples_of_the_picture(size, subsampled):
    frame, alpha = picture(size, 8, subsampled)
    flat = replace(frame, planes=tuple(np.full_like(plane, 77) for plane in frame.planes))
    for window in (Window(0.3, 0.3, 0.7), Window(0.0, 0.55, 0.45), Window(0.999, 0.999, 0.001)):
        done, _ = crop(flat, alpha, window)
        for plane in done.planes:
            assert (plane == 77).all()


def test_crop_of_padded_rows():
    frame, alpha = picture((72, 128))
    wide = tuple(np.pad(plane, ((0, 0), (0, 32)), constant_values=255)[:, : plane.shape[1]] for plane in frame.planes)
    window = Window(0.2, 0.1, 0.5)
    for plane, other in zip(
        crop(frame, alpha, window)[0].planes, crop(replace(frame, planes=wide), alpha, window)[0].planes, strict=True
    ):
        np.testing.assert_array_equal(plane, other)


@pytest.mark.parametrize("window", [Window(-0.1, 0, 0.5), Window(0.6, 0, 0.5), Window(0, 0.6, 0.5), Window(0, 0, 0)])
def test_windows_beyond_the_picture_are_mistakes(window):
    with pytest.raises(ValueError, match="window"):
        crop(*picture((72, 128)), window)


@pytest.mark.parametrize("subsampled", [True, False])
def test_a_move_without_scale_is_exact(subsampled):
    frame, alpha = picture((72, 128), 8, subsampled)
    done, full = place(frame, alpha, 1, (16 / 128, -8 / 72))
    np.testing.assert_array_equal(full[:-8, 16:], alpha[8:, :-16])
    assert (full[-8:] == 0).all()
    assert (full[:, :16] == 0).all()
    for plane, other in zip(done.planes, frame.planes, strict=True):
        step = 72 // plane.shape[0]
        np.testing.assert_array_equal(plane[: -8 // step, 16 // step :], other[8 // step :, : -16 // step])


@pytest.mark.parametrize("scale", [0.2, 0.5, 0.75, 1.0, 1.3, 2.5])
@pytest.mark.parametrize("position", [(0.0, 0.0), (0.2, -0.1), (-0.6, 0.3)])
def test_the_person_is_where_it_was_put(scale, position):
    height, width = 180, 320
    rows, columns = np.mgrid[:height, :width]
    # A disc whose middle is half-way up.
    alpha = np.clip((40 - np.hypot(rows + 0.5 - 90, columns + 0.5 - 160)) * 255, 0, 255).astype(np.uint8)
    frame, _ = picture((height, width))
    done, full = place(frame, alpha, scale, position)
    assert done.size == frame.size
    middle = 160 + position[0] * width, height - 90 * scale + position[1] * height
    wanted = 40 * scale - np.hypot(rows + 0.5 - middle[1], columns + 0.5 - middle[0])
    certain = np.abs(wanted) > 2.5
    assert ((full > 127) == (wanted > 0))[certain].all()
    assert (full[wanted > 1 + 2 * scale] == 255).all()


def test_scaling_keeps_luma_and_chroma_together():
    frame, alpha = ramps()
    for scale in (0.4, 0.7, 1.6):
        done, full = place(frame, alpha, scale, (0.1, 0.0))
        luma, blue = done.planes[0], done.planes[2]
        seen = full[::2, ::2] > 0
        # Of the ramps, luma is columns and Cr the mean of columns and rows: in the middle row they tell the same.
        row = int(144 - 72 * scale) // 2
        if 0 < row < 72:
            both = np.abs(luma[2 * row, ::2].astype(float) / 2 + 50 - blue[row])[seen[row]]
            assert both.max() < 4


def test_nobody_is_left_when_moved_out_of_the_picture():
    frame, alpha = picture((72, 128))
    for position in ((1.0, 0.0), (0.0, -1.0), (-1.0, 1.0)):
        _, full = place(frame, alpha, 0.9, position)
        assert (full == 0).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [0.3, 0.9, 1.7])
def test_places_any_size_and_depth(size, scale):
    for depth, subsampled in ((8, True), (10, False)):
        frame, alpha = picture(size, depth, subsampled)
        before = kept(frame, alpha)
        done, full = place(frame, alpha, scale, (0.25, 0.1))
        assert full.shape == size
        assert [plane.shape for plane in done.planes] == [size, *[chroma_size(size, subsampled)] * 2]
        for same, other in zip(kept(frame, alpha), before, strict=True):
            np.testing.assert_array_equal(same, other)


def test_mistakes_of_a_caller():
    frame, alpha = picture((72, 128))
    for scale, position in ((0.0, (0, 0)), (-1.0, (0, 0)), (1.0, (np.nan, 0))):
        with pytest.raises(ValueError, match="scale"):
            place(frame, alpha, scale, position)
