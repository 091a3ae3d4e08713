"""Subject: who is kept, and that it stays the same person."""

from __future__ import annotations

import numpy as np
import pytest

from vidseg.subject import Subject

H, W = 160, 256
FPS = 30


def textured(seed: int) -> np.ndarray:
    """A picture with structure of all sizes, so that its movement can be seen."""
    rng = np.random.default_rng(seed)
    total = np.zeros((H, W))
    for cells in (8, 16, 32, 64):
        grid = rng.random((cells, cells)) - 0.5
        total += np.kron(grid, np.ones((-(-H // cells), -(-W // cells))))[:H, :W] * 16 / np.sqrt(cells)
    return total * 12


ROOM, CLOTH = 120 + textured(0), [textured(seed) for seed in (1, 2, 3, 4)]


def body(x: float, size: float, bottom: float = H) -> np.ndarray:
    """Alpha of a head and a torso about column ``x``, ``size`` high, whose edge is two pixels soft."""
    rows, columns = np.mgrid[:H, :W].astype(np.float32)
    head = 0.18 * size - np.hypot(rows - (bottom - 0.8 * size), columns - x)
    torso = np.minimum(0.32 * size - np.abs(columns - x), rows - (bottom - 0.62 * size))
    torso = np.minimum(torso, bottom - rows)
    return np.clip(np.maximum(head, torso) / 2 + 0.5, 0, 1).astype(np.float32)


class Scene:
    """People one before the other; the last is nearest to the camera."""

    def __init__(self) -> None:
        self.index = 0

    def __call__(self, subject: Subject, *people: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Return what is kept of the union, and which share of what is seen of each."""
        picture, alpha, seen = ROOM.copy(), np.zeros((H, W), np.float32), []
        for number, person in enumerate(people):
            x = round(float((person * np.arange(W)).sum() / max(person.sum(), 1)))
            look = 60 + 50 * number + np.roll(CLOTH[number], x, axis=1)
            picture = person * look + (1 - person) * picture
            alpha = np.maximum(alpha, person)
            seen = [part * (1 - person) for part in seen] + [person]
        kept = subject(alpha, np.clip(picture, 0, 255).astype(np.uint8), self.index / FPS)
        self.index += 1
        assert (kept <= alpha + 1e-6).all(), "nothing is added"
        return kept, [float((kept * part).sum() / max((alpha * part).sum(), 1e-6)) for part in seen]


@pytest.mark.parametrize("kept", ["all", "largest", "center"])
def test_somebody_alone_is_kept_to_the_last_bit(kept):
    subject, scene = Subject(kept), Scene()
    for index in range(20):
        person = body(60 + 5 * index, 120)
        alpha, _ = scene(subject, person)
        np.testing.assert_array_equal(alpha, person)


def test_largest_and_center_choose():
    near, far = body(60, 130), body(170, 70, 120)
    assert Scene()(Subject("largest"), far, near)[1] == [0.0, 1.0]
    assert Scene()(Subject("largest"), near, far)[1] == [1.0, 0.0]
    middle = body(135, 70, 120)
    assert Scene()(Subject("center"), middle, body(30, 130))[1] == [1.0, 0.0]
    assert Scene()(Subject("all"), near, far)[1] == [1.0, 1.0]


def test_the_soft_edge_goes_with_its_person():
    near, far = body(60, 130), body(190, 70, 120)
    kept, _ = Scene()(Subject("largest"), far, near)
    np.testing.assert_array_equal(kept, near)


@pytest.mark.parametrize("kept", ["largest", "center"])
def test_somebody_walks_past_behind(kept):
    subject, scene = Subject(kept), Scene()
    shown, lost = [], []
    for index in range(150):
        x = -40 + 336 * index / 149
        walker = body(x, 110, 150)
        _, (theirs, mine) = scene(subject, walker, body(128 + 2 * np.sin(index / 5), 120))
        visible = walker * (1 - body(128, 120)) if -30 < x < W + 30 else np.zeros(1)
        if visible.sum() > 100:
            shown.append(theirs)
        lost.append(1 - mine)
    assert max(lost) < 0.1, "the subject stays whole"
    assert np.mean(lost) < 0.02
    assert np.mean(shown) < 0.1, "and the walker is hardly seen"
    assert shown[-1] < 0.02
    assert lost[-1] == 0


def test_somebody_who_was_larger_for_a_moment_does_not_become_the_subject():
    subject, scene = Subject("largest"), Scene()
    for index in range(100):
        # Walks past before the camera's far side, larger than the subject, and goes again.
        walker = body(-60 + 300 * min(index, 60) / 60 if index < 61 else 400, 150)
        if index >= 61:
            walker = np.zeros_like(walker)
        scene(subject, body(128, 90, 140), walker)
    _, (mine,) = scene(subject, body(128, 90, 140))
    assert mine > 0.99


def test_somebody_who_stays_and_is_much_larger_takes_over():
    subject, scene = Subject("largest"), Scene()
    small, large = body(50, 70, 120), body(180, 130)
    for _ in range(30):
        scene(subject, small)
    shares = [scene(subject, small, large)[1] for _ in range(30 * 6)]
    assert shares[60] == [1.0, 0.0]
    assert shares[-1] == [0.0, 1.0]


def test_a_raised_hand_whose_arm_is_out_of_sight_is_kept():
    subject, scene = Subject("largest"), Scene()
    person = body(100, 110)
    rows, columns = np.mgrid[:H, :W].astype(np.float32)
    for index in range(40):
        up = 165 - 1.2 * index
        hand = np.clip((11 - np.hypot((rows - up) * 0.6, columns - 175)) / 2 + 0.5, 0, 1).astype(np.float32)
        _, (body_share, hand_share) = scene(subject, person, hand)
        assert body_share == 1
        assert hand_share == 1 or hand.sum() < 30


def test_two_who_touch_and_part_again():
    subject, scene = Subject("largest"), Scene()
    shares = []
    for index in range(120):
        towards = 45 * np.sin(np.pi * index / 119)
        shares.append(scene(subject, body(205 - towards, 100, 150), body(80 + towards / 2, 120))[1])
    assert min(mine for _, mine in shares) > 0.9
    assert max(theirs for theirs, _ in shares) < 0.05
    assert shares[-1] == [0.0, 1.0]


def test_a_subject_that_is_hidden_for_a_moment_comes_back():
    subject, scene = Subject("largest"), Scene()
    person = body(128, 80, 140)
    for _ in range(5):
        scene(subject, person)
    for index in range(45):  # a large back walks across, close to the camera: 1.5 s
        _, shares = scene(subject, person, body(-60 + 376 * index / 44, 200))
        assert shares[1] < 0.35
    for _ in range(5):
        _, shares = scene(subject, person)
    assert shares == [1.0]


def test_when_the_subject_has_left_another_is_chosen_after_a_while():
    subject, scene = Subject("largest"), Scene()
    small, large = body(40, 70, 120), body(180, 130)
    for _ in range(10):
        assert scene(subject, small, large)[1] == [0.0, 1.0]
    shares = [scene(subject, small)[1][0] for _ in range(90)]
    assert max(shares[:30]) == 0
    assert shares[-1] == 1


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 16)])
def test_tiny_sizes_and_empty_pictures(size):
    subject = Subject("largest")
    for index, value in enumerate((0.0, 1.0, 0.4, 1.0)):
        alpha = np.full(size, value, np.float32)
        np.testing.assert_array_equal(subject(alpha, np.zeros(size, np.uint8), index / 30), alpha)


def test_another_size_or_time_starts_anew():
    subject = Subject("largest")
    guide = np.clip(ROOM, 0, 255).astype(np.uint8)
    both = np.maximum(body(60, 130), body(190, 70, 120))
    first = subject(both, guide, 5.0)
    np.testing.assert_array_equal(subject(both[:, ::-1].copy(), guide, 1.0), first[:, ::-1])
    assert subject(np.ones((20, 30), np.float32), np.zeros((20, 30), np.uint8), 1.1).min() == 1


def test_mistakes_of_a_caller():
    with pytest.raises(ValueError, match="nearest"):
        Subject("nearest")
