from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from vidseg import kernels
from vidseg.color import network_affine, rgb_matrix
from vidseg.frame import Color, Frame, allocate
from vidseg.kernels import as_rows, to_network
from vidseg.refine import refine
from vidseg.resize import shrink, shrink_planes

SIZES = [(1, 1), (3, 5), (2, 300), (161, 257), (361, 641)]


def frame_of(luma, depth=8, subsampled=True):
    planes = allocate(luma.shape, depth, subsampled)
    planes[0][...] = luma
    for plane in planes[1:]:
        plane[...] = 2 ** (depth - 1)
    return Frame(planes, 0, Fraction(1, 30), Color(), depth)


def disc(size, radius=0.3, softness=1.0):
    """A disc's alpha, its edge ``softness`` pixels wide."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    distance = np.hypot(rows - size[0] / 2, columns - size[1] / 2) - radius * size[0]
    return np.clip(0.5 - distance / softness, 0, 1).astype(np.float32)


@pytest.mark.parametrize("depth", [8, 10, 16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("small", [(160, 256), (256, 160), (3, 4), (1, 1)])
def test_flat_alpha_gives_exactly_0_and_255(size, depth, small):
    luma = np.random.default_rng(0).integers(0, 2**depth, size)
    for value, expected in [(0, 0), (0.03, 0), (0.97, 255), (1, 255)]:
        full = refine(np.full(small, value, np.float32), frame_of(luma, depth))
        assert (full.shape, full.dtype) == (size, np.uint8)
        assert np.unique(full).tolist() == [expected]


def test_no_fog_and_no_holes_and_no_texture_drawn_into_alpha():
    small = disc((144, 256), softness=4)
    noise = np.random.default_rng(1).uniform(0, 0.03, small.shape).astype(np.float32)
    small = np.where(small < 0.5, np.maximum(small, noise), np.minimum(small, 1 - noise)).astype(np.float32)
    noisy, plain = np.random.default_rng(0).integers(0, 256, (1080, 1920)), np.full((1080, 1920), 100)
    full = refine(small, frame_of(noisy))
    assert np.abs(full.astype(int) - refine(small, frame_of(plain))).max() < 30
    assert full[disc((1080, 1920), radius=0.34) == 0].max() == 0
    assert full[disc((1080, 1920), radius=0.26) == 1].min() == 255


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("contrast", [-60, -20, 20, 60])
def test_edges_follow_the_luma_and_halve_the_error_of_bilinear(depth, contrast):
    truth = disc((540, 960), softness=1.5)
    luma = np.rint((110 + contrast * truth) * 2 ** (depth - 8))
    small = shrink(truth, (160, 256))
    full = refine(small, frame_of(luma, depth)) / 255
    bilinear = np.clip((shrink(small, (540, 960)) - 0.12) / 0.76, 0, 1)
    ours, theirs = np.abs(full - truth).mean(), np.abs(bilinear - truth).mean()
    assert ours < 0.5 * theirs


def test_a_flat_picture_changes_nothing():
    small = disc((160, 256), softness=4)
    full = refine(small, frame_of(np.full((480, 768), 90)))
    expected = np.clip((shrink(small, (480, 768)) - 0.12) / 0.76, 0, 1) * 255
    assert np.abs(full - expected).max() <= 1.5


def test_guide_that_is_at_hand_gives_the_same():
    luma = np.random.default_rng(0).integers(0, 256, (45, 80)).repeat(8, 0).repeat(8, 1)
    frame = frame_of(luma)
    small = disc((160, 256), softness=6)
    guide = shrink(frame.planes[0], small.shape)
    np.testing.assert_array_equal(refine(small, frame), refine(small, frame, guide))


def test_nan_is_the_room():
    luma = np.random.default_rng(0).integers(0, 256, (90, 160))
    for size in [(16, 24), (200, 300)]:
        assert refine(np.full(size, np.nan, np.float32), frame_of(luma)).max() == 0
    small = disc((32, 48), softness=3)
    small[:, :10] = np.nan
    assert refine(small, frame_of(luma))[:, :20].max() == 0


def test_inputs_stay_and_may_be_padded_and_read_only():
    luma = np.random.default_rng(0).integers(0, 256, (90, 161))
    frame = frame_of(luma)
    small = disc((32, 48), softness=3)
    expected = refine(small, frame)
    room = np.zeros((90, 200), np.uint8)
    room[:, 20:181] = luma
    room.flags.writeable = False
    padded = Frame((room[:, 20:181], *frame.planes[1:]), 0, Fraction(1, 30))
    small.flags.writeable = False
    before = small.copy()
    np.testing.assert_array_equal(refine(small, padded), expected)
    np.testing.assert_array_equal(refine(np.asfortranarray(small), padded), expected)
    np.testing.assert_array_equal(small, before)
    np.testing.assert_array_equal(room[:, 20:181], luma)


def reference_shrink(plane, size):
    """Exact area averages, the slow way: each sample is cut into as many as it needs."""
    (height, width), (tall, wide) = plane.shape, size
    fine = plane.astype(float).repeat(tall, 0).repeat(wide, 1)
    return fine.reshape(tall, height, wide, width).mean((1, 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    ("size", "small"), [((27, 50), (8, 12)), ((13, 12), (13, 5)), ((9, 9), (1, 1)), ((5, 7), (5, 7))]
)
def test_shrink_is_the_mean_of_the_area(dtype, size, small):
    plane = np.random.default_rng(0).integers(0, 256 if dtype == np.uint8 else 65536, size).astype(dtype)
    got = shrink(plane, small)
    assert (got.shape, got.dtype) == (small, dtype)
    assert np.abs(got - reference_shrink(plane, small)).max() <= 0.51


def test_shrink_grows_by_straight_lines():
    ramp = np.arange(0, 250, 10, dtype=np.float32)[None].repeat(3, 0)
    grown = shrink(ramp, (30, 100))
    assert np.all(grown[0] == grown[-1])
    assert (grown.min(), grown.max()) == (0, 240)
    np.testing.assert_allclose(np.diff(grown[0, 4:-4]), 2.5, atol=1e-3)


@pytest.mark.parametrize("subsampled", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_small_planes_are_of_one_size_and_make_a_networks_input(size, subsampled):
    rng = np.random.default_rng(0)
    planes = allocate(size, 10, subsampled)
    for plane in planes:
        plane[...] = rng.integers(0, 1024, plane.shape)
    small = shrink_planes(Frame(planes, 0, Fraction(1, 30), Color(), 10), (16, 24))
    assert [(plane.shape, plane.dtype) for plane in small] == [((16, 24), np.uint16)] * 3
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    src = to_network(*small, *network_affine(Color(), 10, mean, std))
    matrix, offset = rgb_matrix(Color(), 10)
    rgb = np.clip(np.stack(small, axis=-1) @ matrix.T + offset, 0, 1)
    assert (src.shape, src.dtype) == ((3, 16, 24), np.float32)
    np.testing.assert_allclose(src, ((rgb - mean) / std).transpose(2, 0, 1), atol=1e-4)


def test_rows_are_views_unless_samples_lie_apart():
    plane = np.arange(60, dtype=np.uint16).reshape(5, 12)
    for view in (plane, plane[:, 2:9], plane[1:4]):
        samples, stride = as_rows(view)
        assert np.shares_memory(samples, plane)
        assert not samples.flags.writeable
        for row in range(view.shape[0]):
            np.testing.assert_array_equal(samples[row * stride : row * stride + view.shape[1]], view[row])
    for view in (plane[:, ::2], plane[::-1], plane.T, np.broadcast_to(plane[0], (5, 12))):
        samples, stride = as_rows(view)
        np.testing.assert_array_equal(samples.reshape(-1, stride)[:, : view.shape[1]], view)
    assert plane.flags.writeable, "making a view read-only must not touch the plane"


def test_kernels_compile_where_nothing_can_be_cached(monkeypatch):
    njit = kernels.numba.njit

    def without_cache(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(kernels.numba, "njit", without_cache)
    assert kernels._compiled(lambda value: value + 1)(2) == 3
