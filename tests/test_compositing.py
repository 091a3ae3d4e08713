from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from vidseg.color import planes_from_rgb, rgb_from_planes
from vidseg.compositing import composite, cutout
from vidseg.frame import Color, Frame, allocate

SIZES = [(1, 1), (1, 2), (3, 5), (16, 16), (64, 90), (361, 641), (541, 701)]
"""The last has so many soft blocks that larger ones are used."""
KINDS = [(8, True), (8, False), (10, True), (16, False)]


def random_frame(size, depth=8, subsampled=True, seed=0, color=None):
    rng = np.random.default_rng(seed)
    planes = allocate(size, depth, subsampled)
    for plane in planes:
        plane[...] = rng.integers(0, 2**depth, plane.shape)
    return Frame(planes, 7, Fraction(1, 25), color or Color("bt709"), depth, 1)


def random_alpha(size, seed=3):
    """Rooms, persons and soft edges in patches, so that every kind of block is there."""
    rng = np.random.default_rng(seed)
    patches = rng.choice([0, 0, 255, 255, 300], ((size[0] + 10) // 11, (size[1] + 10) // 11))
    alpha = np.kron(patches, np.ones((11, 11), int))[: size[0], : size[1]]
    return np.where(alpha == 300, rng.integers(0, 256, size), alpha).astype(np.uint8)


def chroma_alpha(alpha):
    height, width = alpha.shape
    padded = np.pad(alpha, ((0, height % 2), (0, width % 2)), mode="edge").astype(int)
    total = padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def padded(plane, by=13):
    """The same samples in rows with padding, that may not be written."""
    room = np.full((plane.shape[0], plane.shape[1] + by), 77, plane.dtype)
    room[:, : plane.shape[1]] = plane
    room.flags.writeable = False
    return room[:, : plane.shape[1]]


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize(("depth", "subsampled"), KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_alpha_0_is_the_background_and_255_the_foreground_exactly(size, depth, subsampled, clean):
    front, back = random_frame(size, depth, subsampled, 1), random_frame(size, depth, subsampled, 2)
    nothing = composite(front, back, np.zeros(size, np.uint8), decontaminate=clean)
    everything = composite(front, back, np.full(size, 255, np.uint8), decontaminate=clean)
    for index in range(3):
        np.testing.assert_array_equal(nothing.planes[index], back.planes[index])
        np.testing.assert_array_equal(everything.planes[index], front.planes[index])
    alpha = random_alpha(size)
    mixed = composite(front, back, alpha, decontaminate=clean)
    for index in range(3):
        parts = chroma_alpha(alpha) if mixed.planes[index].shape != size else alpha
        np.testing.assert_array_equal(mixed.planes[index][parts == 0], back.planes[index][parts == 0])
        np.testing.assert_array_equal(mixed.planes[index][parts == 255], front.planes[index][parts == 255])


@pytest.mark.parametrize(("depth", "subsampled"), KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_blend_is_that_of_real_numbers(size, depth, subsampled):
    front, back = random_frame(size, depth, subsampled, 1), random_frame(size, depth, subsampled, 2)
    alpha = random_alpha(size)
    mixed = composite(front, back, alpha, decontaminate=False)
    for index in range(3):
        parts = chroma_alpha(alpha) if mixed.planes[index].shape != size else alpha
        part = parts.astype(np.float64) / 255
        expected = part * front.planes[index] + (1 - part) * back.planes[index]
        assert np.abs(mixed.planes[index] - expected).max() <= 0.51


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
def test_blend_of_planes_is_the_blend_of_rgb(matrix):
    size, color = (48, 52), Color(matrix, True)
    rng = np.random.default_rng(5)
    pictures = [rng.integers(60, 200, (*size, 3)).astype(np.uint8) for _ in range(2)]
    front, back = (Frame(planes_from_rgb(p, color, 16, False), 0, Fraction(1, 25), color, 16) for p in pictures)
    alpha = random_alpha(size)
    mixed = composite(front, back, alpha, decontaminate=False)
    part = alpha[..., None] / 255.0
    expected = part * pictures[0] + (1 - part) * pictures[1]
    assert np.abs(rgb_from_planes(mixed.planes, color, 16).astype(float) - expected).max() <= 1


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize(("depth", "subsampled"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (61, 90)])
def test_padding_and_read_only_planes_make_no_difference_and_inputs_stay(size, depth, subsampled, clean):
    front, back = random_frame(size, depth, subsampled, 1), random_frame(size, depth, subsampled, 2)
    alpha = random_alpha(size)
    before = [plane.copy() for plane in (*front.planes, *back.planes, alpha)]
    expected = composite(front, back, alpha, decontaminate=clean)
    strided = [
        replace(f, planes=tuple(padded(plane, 3 + i) for i, plane in enumerate(f.planes))) for f in (front, back)
    ]
    got = composite(*strided, padded(alpha), decontaminate=clean)
    turned = composite(
        replace(front, planes=tuple(np.asfortranarray(plane) for plane in front.planes)),
        replace(back, planes=tuple(plane[::-1][::-1] for plane in back.planes)),
        alpha[:, ::-1].copy()[:, ::-1],
        decontaminate=clean,
    )
    for index in range(3):
        np.testing.assert_array_equal(got.planes[index], expected.planes[index])
        np.testing.assert_array_equal(turned.planes[index], expected.planes[index])
    for plane, copy in zip((*front.planes, *back.planes, alpha), before, strict=True):
        np.testing.assert_array_equal(plane, copy)


def test_time_and_colour_are_the_foregrounds():
    front = random_frame((8, 8), color=Color("bt2020", primaries=9, transfer=16))
    mixed = composite(front, replace(random_frame((8, 8)), pts=99), np.full((8, 8), 128, np.uint8))
    assert (mixed.pts, mixed.time_base, mixed.duration, mixed.color) == (7, Fraction(1, 25), 1, front.color)
    assert mixed.alpha is None
    assert all(not np.shares_memory(ours, theirs) for ours, theirs in zip(mixed.planes, front.planes, strict=True))


@pytest.mark.parametrize(
    ("background", "alpha", "text"),
    [
        (random_frame((8, 10)), np.zeros((8, 8), np.uint8), "size"),
        (random_frame((8, 8), 10), np.zeros((8, 8), np.uint8), "depth"),
        (random_frame((8, 8), 8, False), np.zeros((8, 8), np.uint8), "subsampled"),
        (random_frame((8, 8)), np.zeros((8, 9), np.uint8), r"\(8, 9\)"),
        (random_frame((8, 8)), np.zeros((8, 8), np.float32), "float32"),
    ],
)
def test_mistakes_are_named(background, alpha, text):
    with pytest.raises(ValueError, match=text):
        composite(random_frame((8, 8)), background, alpha)


def scene(room, size=(270, 480), person=(150, 150, 150), softness=5.0):
    """A person with a soft edge and known colours: ``(frame, alpha 0…1, room picture)``."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(rows - size[0] / 2, columns - size[1] / 2) - size[0] / 4
    alpha = np.clip(0.5 - distance / (2 * softness), 0, 1)
    behind = np.broadcast_to(np.array(room, float), (*size, 3))
    seen = alpha[..., None] * np.array(person, float) + (1 - alpha[..., None]) * behind
    color = Color("bt709")
    return Frame(planes_from_rgb(np.rint(seen).astype(np.uint8), color), 0, Fraction(1, 30), color), alpha


@pytest.mark.parametrize("room", [(0, 177, 64), (250, 250, 250), (5, 5, 5), (200, 30, 30)])
@pytest.mark.parametrize("softness", [2.0, 5.0, 9.0])
def test_no_rim_of_the_old_room_remains(room, softness):
    frame, part = scene(room, softness=softness)
    alpha = np.rint(part * 255).astype(np.uint8)
    new = np.array([120.0, 120, 130])
    behind = np.broadcast_to(new.astype(np.uint8), (*frame.size, 3))
    background = replace(frame, planes=planes_from_rgb(behind, frame.color))
    truth = part[..., None] * 150 + (1 - part[..., None]) * new
    error = {
        clean: np.abs(
            rgb_from_planes(composite(frame, background, alpha, decontaminate=clean).planes, frame.color) - truth
        )
        for clean in (False, True)
    }
    assert error[False].max() > 20, "without cleaning there is a rim, or this shows nothing"
    assert error[True].max() < 8
    assert error[True].mean() < error[False].mean()


def test_cleaning_leaves_what_is_opaque_untouched_and_makes_no_blocks():
    frame, part = scene((0, 177, 64))
    alpha = np.rint(part * 255).astype(np.uint8)
    grey = replace(frame, planes=planes_from_rgb(np.full((*frame.size, 3), 150, np.uint8), frame.color))
    luma = composite(frame, grey, alpha).planes[0].astype(int)
    # Person and new background are the same grey: any edge that is seen is one that was made.
    assert np.abs(np.diff(luma, axis=0)).max() <= 3
    assert np.abs(np.diff(luma, axis=1)).max() <= 3


def test_a_few_hairs_get_the_colour_of_the_head():
    frame, part = scene((0, 177, 64))
    part = part.copy()
    part[60:68, 300:302] = 0.5
    seen = part[..., None] * 150 + (1 - part[..., None]) * np.array([0.0, 177, 64])
    frame = replace(frame, planes=planes_from_rgb(np.rint(seen).astype(np.uint8), frame.color, subsampled=False))
    grey = replace(
        frame, planes=planes_from_rgb(np.full((*frame.size, 3), 150, np.uint8), frame.color, subsampled=False)
    )
    out = rgb_from_planes(composite(frame, grey, np.rint(part * 255).astype(np.uint8)).planes, frame.color)
    assert np.abs(out[60:68, 300:302].astype(int) - 150).max() < 12


@pytest.mark.parametrize(("depth", "subsampled"), KINDS)
@pytest.mark.parametrize("value", [1, 128, 254])
def test_alpha_that_is_soft_everywhere_stays_near_the_plain_blend(depth, subsampled, value):
    size = (40, 50)
    front, back = random_frame(size, depth, subsampled, 1), random_frame(size, depth, subsampled, 2)
    for plane in (*front.planes, *back.planes):
        plane[...] = plane // 8 + 2 ** (depth - 2)
    alpha = np.full(size, value, np.uint8)
    clean, plain = composite(front, back, alpha), composite(front, back, alpha, decontaminate=False)
    for ours, theirs in zip(clean.planes, plain.planes, strict=True):
        assert np.abs(ours.astype(float) - theirs).max() < 2**depth / 8


@pytest.mark.parametrize("subsampled", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (270, 480)])
def test_cutout_holds_no_sample_of_the_room(size, subsampled):
    room = (0, 177, 64)
    frame, part = scene(room, size, softness=4.0)
    seen = rgb_from_planes(frame.planes, frame.color)
    frame = replace(frame, planes=planes_from_rgb(seen, frame.color, 8, subsampled))
    alpha = np.rint(part * 255).astype(np.uint8)
    out = cutout(frame, alpha)
    assert out.alpha is alpha
    assert out.planes[1].shape == frame.planes[1].shape
    rgb = rgb_from_planes(out.planes, out.color).astype(int)
    green = rgb[..., 1] - rgb[..., 0]
    assert green[alpha == 0].max(initial=0) < 20
    np.testing.assert_array_equal(out.planes[0][alpha == 255], frame.planes[0][alpha == 255])


def test_cutout_of_nobody_is_black():
    frame = random_frame((40, 40))
    out = cutout(frame, np.zeros((40, 40), np.uint8))
    assert [np.unique(plane).tolist() for plane in out.planes] == [[16], [128], [128]]
