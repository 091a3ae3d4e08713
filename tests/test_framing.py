"""Framer: calm, at any frame rate, and never beyond the picture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vidseg.framing import Framer
from vidseg.placement import WHOLE, Window

H, W = 160, 256


def person(x: float, y: float, width: float) -> np.ndarray:
    """Alpha of shoulders ``width`` wide about column ``x`` with the top of the head in row ``y``, to the lower edge."""
    rows, columns = np.mgrid[:H, :W].astype(np.float32)
    head = 0.2 * width - np.hypot(rows - y - 0.2 * width, columns - x)
    torso = np.minimum(width / 2 - np.abs(columns - x), rows - y - 0.45 * width)
    return np.clip(np.maximum(head, torso) + 0.5, 0, 1).astype(np.float32)


def run(framer: Framer, alphas, start: float = 0.0, fps: float = 30) -> list[Window]:
    return [framer(alpha, start + index / fps) for index, alpha in enumerate(alphas)]


def test_head_and_shoulders_are_framed():
    (*_, window) = run(Framer(), [person(60, 70, 50)] * 120)
    left, right, top = 60 - 25, 60 + 25, 70
    assert window.share < 0.6
    assert window.left * W < left - 10
    assert (window.left + window.share) * W > right + 10
    room_above = (top / H - window.top) / window.share
    assert 0.08 < room_above < 0.2
    middle = (window.left + window.share / 2) * W
    assert abs(middle - 60) < 4


def test_a_person_who_fills_the_picture_is_left_as_filmed():
    assert set(run(Framer(), [person(128, 30, 130)] * 60)) == {WHOLE}


def test_the_window_stays_in_the_picture_whatever_happens():
    rng = np.random.default_rng(0)
    framer = Framer()
    time = 0.0
    for _ in range(40):
        alpha = person(rng.uniform(-20, W + 20), rng.uniform(-30, 150), rng.uniform(4, 200))
        if rng.random() < 0.2:
            alpha = rng.random((H, W)).astype(np.float32)
        for _ in range(rng.integers(1, 40)):
            time += rng.choice([1 / 60, 1 / 30, 1 / 10, 0.7, 3.0], p=[0.3, 0.5, 0.1, 0.05, 0.05])
            left, top, share = framer(alpha, time)
            assert 0 < share <= 1
            assert 0 <= left <= 1 - share
            assert 0 <= top <= 1 - share


def test_small_movements_do_not_move_the_window():
    framer = Framer()
    run(framer, [person(90, 60, 50)] * 240)
    still = [
        framer(person(90 + 5 * np.sin(index / 7), 60 + 3 * np.sin(index / 5), 50), 8 + index / 30)
        for index in range(300)
    ]
    assert len(set(still)) == 1


def test_a_quick_look_aside_does_not_move_it_and_a_move_does():
    framer = Framer()
    before = run(framer, [person(90, 60, 50)] * 240)[-1]
    aside = run(framer, [person(130, 60, 50)] * 9, 8.0) + run(framer, [person(90, 60, 50)] * 60, 8.3)
    assert set(aside) == {before}
    after = run(framer, [person(150, 60, 50)] * 240, 10.3)[-1]
    assert (after.left - before.left) * W == pytest.approx(60, abs=4)


def test_it_moves_softly_and_does_not_overshoot():
    framer = Framer()
    run(framer, [person(70, 60, 50)] * 120)
    path = np.array([window.left for window in run(framer, [person(170, 60, 50)] * 150, 4.0)])
    speed = np.diff(path)
    assert speed.min() >= 0, "never back"
    assert path.max() <= path[-1] + 1e-9
    assert np.abs(np.diff(speed, prepend=0)).max() < 0.25 * speed.max(), "no jerk"
    assert speed.max() * 30 < 1.0, "less than a picture's width in a second"


def test_one_path_in_time_at_any_frame_rate():
    paths = {}
    for fps in (15, 30, 60):
        framer = Framer()
        run(framer, [person(70, 60, 50)] * (4 * fps), 0.0, fps)
        path = run(framer, [person(170, 60, 50)] * (3 * fps), 4.0, fps)
        paths[fps] = np.array(path)[:: fps // 15]
    # The wait in the dead zone ends with a frame: the slower one may be late by one of its frames.
    for fast, slow in itertools.pairwise((60, 30, 15)):
        late = np.abs(paths[fast][:-1] - paths[slow][1:]).max(), np.abs(paths[fast] - paths[slow]).max()
        assert min(late) < 0.03
    assert np.abs(paths[15][-1] - paths[60][-1]).max() < 0.005


def test_when_nobody_is_there_it_waits_and_then_shows_all():
    framer = Framer()
    framed = run(framer, [person(70, 60, 50)] * 240)[-1]
    gone = run(framer, [np.zeros((H, W), np.float32)] * 300, 8.0)
    assert set(gone[:55]) == {framed}
    assert gone[-1] == WHOLE


def test_a_speck_far_away_is_not_framed():
    alpha = person(70, 60, 50)
    alpha[10:14, 240:244] = 1
    (*_, window) = run(Framer(), [alpha] * 120)
    (*_, wanted) = run(Framer(), [person(70, 60, 50)] * 120)
    assert np.abs(np.array(window) - np.array(wanted)).max() < 0.05


def test_reset_and_clocks_that_jump():
    framer = Framer()
    run(framer, [person(70, 60, 50)] * 120)
    here = framer(person(70, 60, 50), 1e6)
    assert framer(person(70, 60, 50), 3.0) == here
    framer.reset()
    assert framer(person(70, 60, 50), 3.0) == WHOLE


@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_tiny_alphas(size, value):
    framer = Framer()
    for index in range(90):
        window = framer(np.full(size, value, np.float32), index / 30)
    assert window == WHOLE
