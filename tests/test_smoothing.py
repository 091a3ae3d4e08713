from __future__ import annotations

import numpy as np
import pytest

from vidseg.smoothing import Smoother

H, W = 96, 160


def _room(seed: int = 0) -> np.ndarray:
    """A still picture with some structure."""
    rows, columns = np.mgrid[:H, :W]
    return (110 + 40 * np.sin(rows / 7) * np.cos(columns / 11)).astype(np.float32)


def _guide(picture: np.ndarray, rng: np.random.Generator, noise: float = 2.0) -> np.ndarray:
    return np.clip(np.rint(picture + rng.normal(0, noise, picture.shape)), 0, 255).astype(np.uint8)


def _disc(row: float, column: float, radius: float = 14) -> np.ndarray:
    """Alpha of a disc with an edge two pixels soft."""
    rows, columns = np.mgrid[:H, :W]
    return np.clip((radius - np.hypot(rows - row, columns - column)) / 2 + 0.5, 0, 1).astype(np.float32)


def test_first_alpha_is_taken_as_it_is_and_nothing_is_changed() -> None:
    alpha, guide = _disc(40, 40), _room().astype(np.uint8)
    kept = alpha.copy()
    smoother = Smoother()
    first = smoother(alpha, guide, 0.0)
    np.testing.assert_array_equal(first, kept)
    first[...] = 7  # the caller owns it
    second = smoother(alpha, guide, 0.04)
    assert second.dtype == np.float32
    np.testing.assert_allclose(second, kept, atol=1e-6)
    np.testing.assert_array_equal(alpha, kept)


def test_flicker_of_a_still_picture_is_killed() -> None:
    rng, smoother = np.random.default_rng(1), Smoother()
    room, disc = _room(), _disc(48, 80, 30)
    raw, smooth = [], []
    for index in range(150):
        alpha = np.clip(disc * 0.8 + 0.1 + rng.normal(0, 0.06, disc.shape), 0, 1).astype(np.float32)
        raw.append(alpha)
        smooth.append(smoother(alpha, _guide(room, rng), index / 30))
    ratio = np.var(smooth[30:], axis=0).mean() / np.var(raw[30:], axis=0).mean()
    assert ratio < 0.2
    np.testing.assert_allclose(np.mean(smooth[30:], axis=0).mean(), np.mean(raw[30:], axis=0).mean(), atol=0.002)


@pytest.mark.parametrize("speed", [6.0, 1.5, 0.5])
@pytest.mark.parametrize("contrast", [90.0, 25.0])
def test_no_ghost_behind_a_moving_disc(speed: float, contrast: float) -> None:
    rng, smoother = np.random.default_rng(2), Smoother()
    room = _room()
    for index in range(60):
        column = 20 + speed * index
        if column > W - 20:
            break
        disc = _disc(48, column)
        smooth = smoother(disc, _guide(room + contrast * disc, rng), index / 30)
        # Where it was and is not any more; a pixel of softness is not a ghost.
        trail = (_disc(48, column, 16) == 0) & (np.abs(np.mgrid[:H, :W][0] - 48) < 16)
        assert smooth[trail].sum() < 0.01 * disc.sum()
        assert (smooth[trail] > 0.1).sum() < 0.01 * disc.sum()
    hole = disc == 1
    assert (1 - smooth[hole]).sum() < 0.01 * disc.sum()


def test_a_disc_that_leaves_the_picture_is_gone_at_once() -> None:
    rng, smoother = np.random.default_rng(3), Smoother()
    room = _room()
    for index in range(20):
        smoother(_disc(48, 80), _guide(room + 60 * _disc(48, 80), rng), index / 30)
    after = smoother(np.zeros((H, W), np.float32), _guide(room, rng), 20 / 30)
    assert after.sum() < 0.01 * _disc(48, 80).sum()


@pytest.mark.parametrize("start", [1.0, 0.2])
def test_one_curve_in_time_at_any_frame_rate(start: float) -> None:
    guide = _room().astype(np.uint8)
    curves = {}
    for fps in (15, 30, 60):
        smoother = Smoother()
        smoother(np.full((H, W), start, np.float32), guide, 0.0)
        curve = [float(smoother(np.zeros((H, W), np.float32), guide, i / fps)[5, 5]) for i in range(1, fps + 1)]
        curves[fps] = curve[fps // 15 - 1 :: fps // 15]
    np.testing.assert_allclose(curves[30], curves[15], atol=1e-5)
    np.testing.assert_allclose(curves[60], curves[15], atol=1e-5)
    assert curves[15][0] < start * np.exp(-1 / 15 / 0.12) + 1e-6
    assert curves[15][-1] < 0.001


def test_uneven_steps_follow_the_same_curve() -> None:
    guide = _room().astype(np.uint8)
    ends = []
    for times in ([0.5], [0.1, 0.11, 0.4, 0.5], list(np.linspace(0.001, 0.5, 200))):
        smoother = Smoother(0.3)
        smoother(np.ones((H, W), np.float32), guide, 0.0)
        for time in times:
            end = smoother(np.full((H, W), 0.25, np.float32), guide, float(time))
        ends.append(float(end[9, 9]))
    np.testing.assert_allclose(ends, ends[0], atol=1e-4)


@pytest.mark.parametrize("why", ["cut", "size", "back", "reset", "off"])
def test_starts_anew(why: str) -> None:
    rng = np.random.default_rng(4)
    smoother = Smoother(0.0 if why == "off" else 0.12)
    for index in range(5):
        smoother(np.ones((H, W), np.float32), _guide(_room(), rng), 10 + index / 30)
    guide, size = _guide(_room(), rng), (H, W)
    if why == "cut":
        guide = _guide(_room()[::-1, ::-1] * 0.5 + 20 * (np.mgrid[:H, :W][1] > 50), rng)
    elif why == "size":
        size = (W, H)
        guide = np.ascontiguousarray(guide.T)
    elif why == "reset":
        smoother.reset()
    alpha = rng.random(size, np.float32)
    np.testing.assert_array_equal(smoother(alpha, guide, 3.0 if why == "back" else 10.2), alpha)


def test_a_pixel_that_stands_still_is_averaged_over_all_that_time_up_to_the_patience() -> None:
    guide = _room().astype(np.uint8)
    for fps in (15, 30, 60):
        smoother, words = Smoother(0.05, patience=0.8), np.random.default_rng(0).random(fps * 4)
        for index, word in enumerate(words):
            value = float(smoother(np.full((H, W), word, np.float32), guide, index / fps)[5, 5])
        # The weights of an exponential mean over 0.8 s: its noise has this share of one word's.
        expected = np.sqrt(1 / 12 * (1 / (0.8 * fps)) / 2)
        assert abs(value - 0.5) < 4 * expected
    room = _room()
    smoother(np.zeros((H, W), np.float32), np.roll(room, 9, 1).astype(np.uint8), 4.0)
    assert smoother(np.ones((H, W), np.float32), room.astype(np.uint8), 4.03).mean() > 0.8, "what moves is young again"


def test_patience_holds_a_mask_that_breathes() -> None:
    guide, swings = _room().astype(np.uint8), {}
    for patience in (0.0, 0.6):
        smoother, values = Smoother(patience=patience), []
        for index in range(240):
            word = 0.6 + 0.2 * np.sin(2 * np.pi * index / 30)
            values.append(float(smoother(np.full((H, W), word, np.float32), guide, index / 30)[5, 5]))
        swings[patience] = np.ptp(values[120:])
    assert swings[0.0] > 0.3
    assert swings[0.6] < 0.12


@pytest.mark.parametrize(("gain", "offset"), [(1.12, 0.0), (0.88, 0.0), (1.0, -12.0), (1.1, -8.0)])
def test_a_change_of_gain_is_no_movement(gain: float, offset: float) -> None:
    rng, smoother = np.random.default_rng(5), Smoother()
    smoother(np.ones((H, W), np.float32), _guide(_room(), rng), 0.0)
    after = smoother(np.zeros((H, W), np.float32), _guide(_room() * gain + offset, rng), 0.001)
    assert after.min() > 0.9


def test_a_change_of_exposure_is_no_movement() -> None:
    rng, smoother = np.random.default_rng(5), Smoother()
    smoother(np.ones((H, W), np.float32), _guide(_room(), rng), 0.0)
    after = smoother(np.zeros((H, W), np.float32), _guide(_room() + 10, rng), 0.001)
    assert after.min() > 0.9


def test_not_a_number_is_background_and_does_not_stay() -> None:
    guide, smoother = _room().astype(np.uint8), Smoother()
    bad = np.ones((H, W), np.float32)
    bad[:10], bad[10:20], bad[20:30] = np.nan, np.inf, -np.inf
    first = smoother(bad, guide, 0.0)
    assert (first[:10] == 0).all()
    assert (first[10:20] == 1).all()
    assert (first[20:30] == 0).all()
    smoother(bad, guide, 0.1)
    assert smoother(np.ones((H, W), np.float32), guide, 5.0).min() > 0.99


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 5)])
def test_tiny_sizes(size: tuple[int, int]) -> None:
    smoother = Smoother()
    for index in range(3):
        alpha = smoother(np.full(size, 0.5, np.float32), np.full(size, 9, np.uint8), index / 30)
        np.testing.assert_allclose(alpha, np.full(size, 0.5), atol=1e-6)


def test_mistakes_of_a_caller() -> None:
    with pytest.raises(ValueError, match="-1"):
        Smoother(-1)
    with pytest.raises(ValueError, match="threshold"):
        Smoother(threshold=0)
    with pytest.raises(ValueError, match="one size"):
        Smoother()(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.uint8), 0.0)
