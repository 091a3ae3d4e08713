"""Measures of an alpha: worked out by hand, and beside slow ones that do what their definitions say."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from vidseg.evaluation import metrics


def alpha(*rows):
    return np.asarray(rows, np.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def soft(rng, size=(23, 31)):
    """Return a blob with soft edges, holes and islands."""
    noise = cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), 2.5)
    return np.clip(noise / noise.std() * 0.6 + 0.5, 0, 1).astype(np.float32)


# --- masks ------------------------------------------------------------------------------------------------------


def test_masks_by_hand():
    # Hits 2, false alarms 1, misses 1, of 6 pixels.
    measures = metrics.mask_measures(alpha((1, 0.6, 0.51), (0.5, 0, 0)), alpha((1, 1, 0), (1, 0.2, 0)))
    assert measures == pytest.approx({"accuracy": 4 / 6, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "iou": 0.5})


def test_what_is_not_known_does_not_count():
    known = np.array([[True, True, False], [False, True, True]])
    measures = metrics.mask_measures(alpha((1, 0.6, 0.51), (0.5, 0, 0)), alpha((1, 1, 0), (1, 0.2, 0)), known)
    assert set(measures.values()) == {1.0}


@pytest.mark.parametrize(("mask", "truth", "iou"), [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0)])
def test_masks_of_nobody(mask, truth, iou):
    measures = metrics.mask_measures(np.full((4, 4), mask, np.float32), np.full((4, 4), truth, np.float32))
    assert measures["iou"] == measures["f1"] == measures["precision"] == measures["recall"] == iou


def square(left, size=(100, 100)):
    mask = np.zeros(size, np.float32)
    mask[20:60, left : left + 40] = 1
    return mask


def test_boundaries_within_the_tolerance_are_one():
    # 0.008 of the diagonal of 100 x 100 is 1.13 pixels, rounded up 2.
    assert metrics.boundary_f(square(30), square(28)) == 1.0
    assert metrics.boundary_f(square(30), square(27)) < 1.0


def test_boundary_f_by_hand():
    # A vertical edge of 100 pixels; the truth has a second one far off: precision 1, recall one half.
    mask, truth = np.zeros((2, 100, 100), np.float32)
    mask[:, 50:] = 1
    truth[:, 50:] = 1
    truth[:, :10] = 1
    assert metrics.boundary_f(mask, truth) == pytest.approx(2 / 3)


def slow_boundary_f(mask, truth, reach):
    """Do what Perazzi et al. say, pixel by pixel."""

    def edge(seg):
        height, width = seg.shape
        return {
            (y, x)
            for y in range(height)
            for x in range(width)
            for b, a in ((y, x + 1), (y + 1, x), (y + 1, x + 1))
            if b < height and a < width and seg[y, x] != seg[b, a]
        }

    def near(some, others):
        return sum(any((y - b) ** 2 + (x - a) ** 2 <= reach**2 for b, a in others) for y, x in some) / len(some)

    found, wanted = edge(mask), edge(truth)
    precision, recall = near(found, wanted), near(wanted, found)
    return 2 * precision * recall / (precision + recall)


def test_boundary_f_beside_a_slow_one(rng):
    a, b = soft(rng), soft(rng)
    expected = slow_boundary_f(a > 0.5, b > 0.5, math.ceil(0.008 * math.hypot(*a.shape)))
    assert metrics.boundary_f(a, b) == pytest.approx(expected)
    assert 0 < expected < 1


def test_boundaries_of_nobody_and_of_what_is_not_known():
    nobody = np.zeros((100, 100), np.float32)
    assert metrics.boundary_f(nobody, nobody) == 1.0
    assert metrics.boundary_f(square(30), nobody) == metrics.boundary_f(nobody, square(30)) == 0.0
    known = np.ones((100, 100), bool)
    known[:, 50:] = False
    wide = square(30)
    wide[20:60, 60:90] = 1  # differs only where nothing is known
    assert metrics.boundary_f(wide, square(30)) < 1.0
    assert metrics.boundary_f(wide, square(30), known) == 1.0


# --- mattes -----------------------------------------------------------------------------------------------------


def test_mad_and_mse_by_hand():
    a, b = alpha((0.5, 1), (0, 0.25)), alpha((0, 1), (0, 0))
    assert metrics.mad(a, b) == pytest.approx(187.5)  # (0.5 + 0.25) / 4
    assert metrics.mse(a, b) == pytest.approx(78.125)  # (0.25 + 0.0625) / 4
    known = np.array([[False, True], [True, True]])
    assert metrics.mad(a, b, known) == pytest.approx(250 / 3)
    assert metrics.mad(a, b, np.zeros((2, 2), bool)) == 0.0


def slow_grad(pred, true, sigma=1.4):
    """Do what RobustVideoMatting's evaluation says, one pixel and one tap after the other."""

    def gauss(x):
        return math.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    half = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 1e-2)))
    steps = range(-half, half + 1)
    kernel = np.array([[gauss(i) * -j * gauss(j) / sigma**2 for j in steps] for i in steps])
    kernel /= math.sqrt((kernel**2).sum())

    def length(image):
        image = (image - image.min()) / (image.max() - image.min())
        height, width = image.shape
        out = np.zeros(image.shape)
        for y in range(height):
            for x in range(width):
                part = np.array(
                    [
                        [image[min(max(y + i, 0), height - 1), min(max(x + j, 0), width - 1)] for j in steps]
                        for i in steps
                    ]
                )
                out[y, x] = math.hypot((part * kernel).sum(), (part * kernel.T).sum())
        return out

    return ((length(true.astype(np.float64)) - length(pred.astype(np.float64))) ** 2).sum() / 1000


def test_grad_beside_a_slow_one(rng):
    a, b = soft(rng, (14, 17)), 0.8 * soft(rng, (14, 17))
    assert metrics.grad(a, b) == pytest.approx(slow_grad(a, b), rel=1e-4)
    assert metrics.grad(a, a) == 0.0


def test_grad_of_nobody_is_the_gradient_of_what_was_seen():
    nobody, edge = np.zeros((30, 30), np.float32), np.zeros((30, 30), np.float32)
    edge[:, 15:] = 1
    # Far from an edge the gradient is 0; the nine columns at it hold the sums of the derivative's taps.
    _, slope = metrics._gaussian(1.4)
    smooth = np.abs(metrics._gaussian(1.4)[0]).sum()
    columns = np.cumsum(slope)[:-1] * smooth
    assert metrics.grad(edge, nobody) == pytest.approx(30 * (columns**2).sum() / 1e3, rel=1e-5)
    assert metrics.grad(nobody, nobody) == 0.0


def slow_conn(pred, true):
    """Do what Rhemann et al. say: flood fill the largest piece at each level."""

    def largest(mask):
        best, left = set(), {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
        for start in sorted(left):
            if start not in left:
                continue
            piece, todo = set(), [start]
            while todo:
                at = todo.pop()
                if at in left:
                    left.remove(at)
                    piece.add(at)
                    y, x = at
                    todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            if len(piece) > len(best):
                best = piece
        return best

    total = 0.0
    pieces = [largest((pred >= k / 10) & (true >= k / 10)) for k in range(1, 11)]
    for y in range(true.shape[0]):
        for x in range(true.shape[1]):
            level = next((k / 10 for k, piece in enumerate(pieces) if (y, x) not in piece), 1.0)
            loose = [a - level if a - level >= 0.15 else 0.0 for a in (float(pred[y, x]), float(true[y, x]))]
            total += abs(loose[0] - loose[1])
    return total / 1000


def test_conn_beside_a_slow_one(rng):
    a, b = soft(rng), soft(rng)
    assert metrics.conn(a, b) == pytest.approx(slow_conn(a, b), rel=1e-5)
    assert metrics.conn(a, b) > 0
    assert metrics.conn(a, a) == 0.0


def test_conn_by_hand():
    truth = alpha((1, 1, 0, 0), (1, 1, 0, 0))
    island = alpha((1, 1, 0, 0), (1, 1, 0, 0.7))  # 0.7 that hangs together with nothing
    assert metrics.conn(island, truth) == pytest.approx(0.7 / 1000)
    faint = alpha((1, 1, 0, 0), (1, 1, 0, 0.1))  # below 0.15 nobody sees it
    assert metrics.conn(faint, truth) == 0.0
    known = np.ones((2, 4), bool)
    known[1, 3] = False
    assert metrics.conn(island, truth, known) == 0.0


# --- time -------------------------------------------------------------------------------------------------------


def test_dtssd_by_hand():
    # The change is off by 0.3 in one of four pixels: sqrt(0.09 / 4) x 100.
    before, now = alpha((0, 0), (1, 1)), alpha((0.3, 0.5), (1, 1))
    truth_before, truth = alpha((0, 0), (1, 0)), alpha((0, 0.5), (1, 0))
    assert metrics.dtssd(now, before, truth, truth_before) == pytest.approx(15.0)
    assert metrics.dtssd(now, before, truth, truth_before, np.array([[False, True], [True, True]])) == 0.0


def test_flicker_counts_only_where_nothing_happens():
    rgb = np.full((2, 2, 3), 100, np.uint8)
    moved = rgb.copy()
    moved[0, 0] += 9
    moved[0, 1] += 8
    truth_before, truth = alpha((0, 0), (0, 1)), alpha((0, 0), (0.5, 1))
    still = metrics.unchanged(moved, rgb, truth, truth_before)
    assert still.tolist() == [[False, True], [False, True]]
    assert metrics.flicker(alpha((1, 0.2), (1, 0.9)), alpha((0, 0), (0, 1)), still) == pytest.approx(150)
    assert metrics.flicker(truth, truth, np.zeros((2, 2), bool)) is None


# --- nobody -----------------------------------------------------------------------------------------------------


def test_somebody_is_seen_from_half_a_percent_on():
    empty = np.zeros((100, 100), np.float32)
    empty.ravel()[:50] = 0.9
    empty.ravel()[50:5000] = 0.5
    assert not metrics.sees_somebody(empty)
    empty.ravel()[50] = 0.9
    assert metrics.sees_somebody(empty)
