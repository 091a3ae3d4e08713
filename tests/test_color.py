from __future__ import annotations

import numpy as np
import pytest

from vidseg.color import black, network_affine, planes_from_rgb, rgb_from_planes, rgb_matrix, ycbcr_matrix
from vidseg.frame import RGB, Color, allocate

MATRICES = ["bt601", "bt709", "bt2020", "rgb"]
WEIGHTS = {"bt601": (0.299, 0.587, 0.114), "bt709": (0.2126, 0.7152, 0.0722), "bt2020": (0.2627, 0.6780, 0.0593)}


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
def test_samples_are_those_of_h273(matrix, full_range, depth):
    # Written out as the equations stand in H.273, for one colour.
    red, green, blue = 0.8, 0.3, 0.1
    kr, kg, kb = WEIGHTS[matrix]
    luma = kr * red + kg * green + kb * blue
    cb, cr = 0.5 * (blue - luma) / (1 - kb), 0.5 * (red - luma) / (1 - kr)
    if full_range:
        expected = [
            (2**depth - 1) * luma,
            (2**depth - 1) * cb + 2 ** (depth - 1),
            (2**depth - 1) * cr + 2 ** (depth - 1),
        ]
    else:
        step = 2 ** (depth - 8)
        expected = [step * (219 * luma + 16), step * (224 * cb + 128), step * (224 * cr + 128)]
    to_samples, zero = ycbcr_matrix(Color(matrix, full_range), depth)
    np.testing.assert_allclose(to_samples @ [red, green, blue] + zero, expected, atol=1e-9)
    to_rgb, offset = rgb_matrix(Color(matrix, full_range), depth)
    np.testing.assert_allclose(to_rgb @ expected + offset, [red, green, blue], atol=1e-12)


def test_well_known_samples():
    assert black(Color("bt709")) == (16, 128, 128)
    assert black(Color("bt709", True), 10) == (0, 512, 512)
    assert black(RGB) == (0, 0, 0)
    red = planes_from_rgb(np.array([[[255, 0, 0]]], np.uint8), Color("bt601"), subsampled=False)
    assert [int(plane[0, 0]) for plane in red] == [81, 90, 240]
    green, blue, red_plane = planes_from_rgb(np.array([[[1, 2, 3]]], np.uint8), RGB, subsampled=False)
    assert (red_plane[0, 0], green[0, 0], blue[0, 0]) == (1, 2, 3)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 66), (131, 77)])
@pytest.mark.parametrize("subsampled", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_there_and_back(matrix, subsampled, size):
    color = Color(matrix, full_range=True)
    ramp = (
        np.linspace(0.2, 0.8, size[0])[:, None, None]
        * np.array([0.9, 1.0, 0.8])
        * np.linspace(0.7, 1, size[1])[:, None]
    )
    rgb = np.rint(ramp * 65535).astype(np.uint16)
    planes = planes_from_rgb(rgb, color, 16, subsampled)
    assert planes[1].shape == (((size[0] + 1) // 2, (size[1] + 1) // 2) if subsampled else size)
    back = rgb_from_planes(planes, color, 16, bits=16)
    assert back.dtype == np.uint16
    step = 65535 * 0.6 / min(size[0], 64)  # what half a pixel of a ramp may move
    tolerance = step if subsampled and max(size) > 1 else 2
    assert np.abs(back.astype(int) - rgb).max() <= tolerance
    as_bytes = (rgb >> 8).astype(np.uint8)
    returned = rgb_from_planes(planes_from_rgb(as_bytes, color, 8, False), color, 8)
    assert np.abs(returned.astype(int) - as_bytes).max() <= 2


def test_chroma_is_the_mean_of_its_pixels_also_at_odd_edges():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (5, 7, 3), np.uint8)
    whole = planes_from_rgb(rgb, Color("bt709", True), 16, subsampled=False)
    half = planes_from_rgb(rgb, Color("bt709", True), 16, subsampled=True)
    assert abs(int(half[1][1, 1]) - whole[1][2:4, 2:4].mean()) <= 1
    assert abs(int(half[1][1, 3]) - whole[1][2:4, 6].mean()) <= 1
    assert abs(int(half[2][2, 3]) - whole[2][4, 6].mean()) <= 1


def test_grey_stays_grey_at_every_matrix_and_range():
    for matrix in MATRICES:
        for full_range in (False, True):
            for depth in (8, 10):
                color = Color(matrix, full_range)
                grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
                back = rgb_from_planes(planes_from_rgb(grey, color, depth), color, depth) if matrix == "rgb" else None
                whole = rgb_from_planes(planes_from_rgb(grey, color, depth, False), color, depth)
                assert np.abs(whole.astype(int) - grey).max() <= 1
                assert back is None or back.shape == grey.shape


def test_network_affine_clips_before_it_normalises():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    color = Color("bt709")
    matrix, offset, low, high = network_affine(color, 8, mean, std)
    assert {part.dtype for part in (matrix, offset, low, high)} == {np.dtype(np.float32)}
    samples = np.random.default_rng(1).integers(0, 256, (1000, 3)).astype(np.float64)
    to_rgb, zero = rgb_matrix(color, 8)
    expected = (np.clip(samples @ to_rgb.T + zero, 0, 1) - mean) / std
    got = np.clip(samples.astype(np.float32) @ matrix.T + offset, low, high)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_inputs_may_be_strided_and_read_only_and_stay_unchanged():
    rgb = np.random.default_rng(2).integers(0, 256, (9, 20, 3), np.uint8)[:, 3:14]
    rgb.flags.writeable = False
    before = rgb.copy()
    planes = planes_from_rgb(rgb, Color("bt601"))
    padded = []
    for plane in planes:
        room = np.zeros((plane.shape[0], plane.shape[1] + 13), plane.dtype)
        room[:, : plane.shape[1]] = plane
        room.flags.writeable = False
        padded.append(room[:, : plane.shape[1]])
    np.testing.assert_array_equal(
        rgb_from_planes(tuple(padded), Color("bt601")), rgb_from_planes(planes, Color("bt601"))
    )
    np.testing.assert_array_equal(rgb, before)


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 6)])
def test_chroma_is_interpolated_between_its_places(size, depth):
    rng = np.random.default_rng(0)
    planes = allocate(size, depth)
    for plane in planes:
        plane[...] = rng.integers(0, 2**depth, plane.shape)
    full = [planes[0].astype(float)]
    for plane in planes[1:]:
        rows, columns = ((np.arange(length) - 0.5) / 2 for length in size)
        wide = np.array([np.interp(columns, np.arange(plane.shape[1]), line) for line in plane])
        full.append(np.array([np.interp(rows, np.arange(plane.shape[0]), line) for line in wide.T]).T)
    matrix, offset = rgb_matrix(Color("bt709"), depth)
    expected = np.clip(np.stack(full, -1) @ matrix.T + offset, 0, 1) * 65535
    got = rgb_from_planes(planes, Color("bt709"), depth, bits=16)
    np.testing.assert_allclose(got, expected, atol=0.6)
