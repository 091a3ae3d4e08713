"""settle: fog and dents go, edges and everything sure stay."""

from __future__ import annotations

import numpy as np

from vidseg.settling import settle


def scene():
    y, x = np.mgrid[:96, :160].astype(np.float32)
    distance = np.hypot(y - 60, x - 70)
    return np.clip((30 - distance) / 2 + 0.5, 0, 1).astype(np.float32)


def test_what_is_sure_stays_to_the_last_bit():
    alpha = scene()
    before = alpha.copy()
    np.testing.assert_array_equal(settle(alpha), before)
    np.testing.assert_array_equal(alpha, before)


def test_fog_in_the_room_goes_and_a_sure_hand_stays():
    alpha = scene()
    alpha[5:15, 130:150] = 0.5
    alpha[20:24, 20:24] = 0.9
    settled = settle(alpha)
    assert settled[5:15, 130:150].max() == 0
    assert (settled[20:24, 20:24] == np.float32(0.9)).all()


def test_fog_that_hangs_together_with_a_person_fades_and_what_is_likely_stays():
    alpha = scene()
    alpha[60, 99:150] = 0.4  # from the arm into the room
    alpha[68, 98:150] = 0.6
    settled = settle(alpha)
    np.testing.assert_array_equal(settled[60, :101], alpha[60, :101])
    assert settled[60, 110:].max() == 0
    assert (np.diff(settled[60, 99:115]) <= 0).all()
    assert (settled[68, 98:150] == np.float32(0.6)).all()
    np.testing.assert_allclose(settle(1 - alpha), 1 - settled, atol=1e-6)  # dents fade the same way


def test_a_dent_is_filled_and_a_hole_onto_the_room_stays():
    alpha = scene()
    alpha[55:60, 60:66] = 0.6
    alpha[62:66, 74:78] = 0.1
    settled = settle(alpha)
    assert (settled[55:60, 60:66] == 1).all()
    assert (settled[62:66, 74:78] == np.float32(0.1)).all()


def test_a_room_with_nothing_sure_is_empty_and_a_full_picture_stays_full():
    assert settle(np.full((96, 160), 0.5, np.float32)).max() == 0
    assert settle(np.ones((96, 160), np.float32)).min() == 1
    assert settle(np.zeros((1, 1), np.float32)).shape == (1, 1)
