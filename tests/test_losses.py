"""Losses: by hand, against other people's pyramids, and that their gradients point to the truth."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs vidseg[train]: torch is not installed")

from vidseg.training.losses import (  # noqa: E402
    boundary_weight,
    class_boundary_weight,
    class_dice_loss,
    dice_loss,
    laplacian_loss,
    loss_of,
    matting_loss,
    temporal_loss,
)
from vidseg.training.recipe import parse_loss  # noqa: E402


def square():
    alpha = torch.zeros(2, 1, 1, 16, 16)
    alpha[0, ..., 4:12, 4:12] = 1  # and an empty room
    return alpha


def value(name, logits, alpha, weight=None):
    weight = torch.ones_like(alpha) if weight is None else weight
    total, terms = loss_of({name: 2.0}, logits, alpha, weight)
    assert total.item() == pytest.approx(2 * terms[name].item())
    return terms[name].item()


def logit(share):
    return math.log(share / (1 - share))


# --- values -----------------------------------------------------------------------------------------------------


def test_pixelwise_losses_by_hand():
    alpha = torch.tensor([1.0, 0.0, 0.5, 0.0]).view(1, 1, 1, 1, 4)
    logits = torch.full_like(alpha, logit(0.75))
    entropies = [-math.log(0.75), -math.log(0.25), -0.5 * math.log(0.75 * 0.25), -math.log(0.25)]
    assert value("bce", logits, alpha) == pytest.approx(sum(entropies) / 4, rel=1e-5)
    assert value("l1", logits, alpha) == pytest.approx((0.25 + 0.75 + 0.25 + 0.75) / 4, rel=1e-5)
    assert value("mse", logits, alpha) == pytest.approx((0.0625 + 0.5625 + 0.0625 + 0.5625) / 4, rel=1e-5)
    weight = torch.tensor([1.0, 1.0, 0.0, 0.0]).view_as(alpha)
    assert value("l1", logits, alpha, weight) == pytest.approx((0.25 + 0.75) / 2, rel=1e-5)


def test_the_boundary_counts_fourfold():
    alpha = torch.zeros(1, 1, 1, 10)
    alpha[..., 5:] = 1
    assert boundary_weight(alpha).flatten().tolist() == [1, 1, 1, 4, 4, 4, 4, 1, 1, 1]
    logits = torch.zeros(1, 1, 1, 1, 10)
    logits[..., 4] = logit(0.9)  # wrong by 0.9 at the boundary, by 0.5 elsewhere
    total, _ = loss_of({"l1": 1.0, "boundary": 3.0}, logits, alpha[None], torch.ones_like(logits))
    assert total.item() == pytest.approx((4 * 0.9 + 3 * 4 * 0.5 + 6 * 0.5) / 22, rel=1e-5)


def test_the_boundary_between_classes():
    truth = torch.tensor([[0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 255, 255.0]]).view(1, 1, 1, 12)
    assert class_boundary_weight(truth).flatten().tolist() == [1, 1, 1, 4, 4, 4, 4, 1, 1, 1, 1, 1]


def test_dice_by_hand():
    alpha, weight = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]), torch.ones(1, 1, 2, 2)
    half = torch.full_like(alpha, 0.5)
    # Foreground: overlap 0.5 of 2 + 1; background: overlap 1.5 of 2 + 3; both with 50 for smoothness.
    assert dice_loss(half, alpha, weight).item() == pytest.approx(((1 - 51 / 53) + (1 - 53 / 55)) / 2, rel=1e-4)
    weight[..., 0, 1] = 0
    assert dice_loss(half, alpha, weight).item() == pytest.approx(((1 - 51 / 52.5) + (1 - 52 / 53.5)) / 2, rel=1e-4)


def test_the_default_is_what_the_shipped_networks_were_trained_with():
    alpha, weight = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]), torch.ones(1, 1, 2, 2)
    dice = ((1 - 51 / 53) + (1 - 53 / 55)) / 2
    # All four pixels are at the boundary, so that their weights are equal.
    expected = math.log(2) + 0.5 + 0.5 * dice
    assert matting_loss(torch.zeros_like(alpha), alpha, weight).item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_by_hand():
    logits = torch.zeros(1, 1, 3, 1, 4)
    logits[0, 0, 2] = math.log(2)  # shares 1/4, 1/4, 1/2
    truth = torch.tensor([2.0, 0.0, 255.0, 1.0]).view(1, 1, 1, 1, 4)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(1, 1, 1, 1, 4)
    assert value("ce", logits, truth, weight) == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-5)


def test_dice_of_classes_by_hand():
    logits = torch.zeros(1, 2, 1, 2)
    truth = torch.tensor([0.0, 255.0]).view(1, 1, 1, 2)
    weight = (truth != 255).float()
    # One known pixel, half of it for each class: overlap 0.5 of 0.5 + 1 for class 0, nothing of 0.5 + 0 for class 1.
    expected = ((1 - 51 / 51.5) + (1 - 50 / 50.5)) / 2
    assert class_dice_loss(logits, truth, weight).item() == pytest.approx(expected, rel=1e-4)


def test_the_laplacian_pyramid_is_that_of_opencv():
    pha, alpha = np.random.default_rng(0).uniform(0, 1, (2, 64, 64)).astype(np.float32)
    rest, expected = pha - alpha, 0.0
    for level in range(2):
        smaller = cv2.pyrDown(rest)
        band = (rest - cv2.pyrUp(smaller))[:-2, :-2]  # at the far edges OpenCV repeats where we mirror
        expected += 2**level * np.abs(band).mean() / 2
        rest = smaller
    found = laplacian_loss(
        torch.from_numpy(pha)[None, None], torch.from_numpy(alpha)[None, None], torch.ones(1), levels=2
    )
    assert found.item() == pytest.approx(expected, rel=0.02)


def test_the_laplacian_sees_edges_only():
    alpha = square()[:, 0]
    assert laplacian_loss(alpha * 0.5 + 0.25, alpha * 0.5, torch.ones_like(alpha)).item() == pytest.approx(0, abs=1e-6)
    assert laplacian_loss(1 - alpha, alpha, torch.zeros_like(alpha)).item() == 0


def test_coherence_by_hand():
    pha = torch.tensor([0.2, 0.6, 0.6]).view(1, 3, 1, 1, 1)
    alpha = torch.tensor([0.0, 0.1, 1.0]).view(1, 3, 1, 1, 1)
    one = torch.ones_like(pha)
    assert temporal_loss(pha, alpha, one).item() == pytest.approx((0.3**2 + 0.9**2) / 2, rel=1e-5)
    one[:, 2] = 0
    assert temporal_loss(pha, alpha, one).item() == pytest.approx(0.3**2 / 2, rel=1e-5)
    assert temporal_loss(pha[:, :1], alpha[:, :1], one[:, :1]).item() == 0
    # Wrong, but steady where the truth is steady:
    assert temporal_loss(torch.full_like(pha, 0.4), torch.zeros_like(pha), torch.ones_like(pha)).item() == 0


# --- gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["bce", "l1", "mse", "dice", "laplacian=1,bce=0.1", "bce=1,l1=1,dice=0.5,boundary=3"])
def test_the_gradient_points_to_the_truth(text):
    alpha = square()
    weight = torch.ones_like(alpha)
    weight[..., 8] = 0
    logits = torch.zeros_like(alpha).requires_grad_()
    loss_of(parse_loss(text), logits, alpha, weight)[0].backward()
    assert (logits.grad[(alpha == 1) & (weight == 1)] < 0).all()
    if "laplacian" not in text:  # which is content with what is far from an edge
        assert (logits.grad[(alpha == 0) & (weight == 1)] > 0).all()
    assert (logits.grad[weight == 0] == 0).all()


@pytest.mark.parametrize("text", ["ce", "dice", "ce=1,dice=0.5,boundary=2"])
def test_the_gradient_points_to_the_class(text):
    truth = torch.randint(0, 3, (2, 1, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    truth[..., 3] = 255
    logits = torch.zeros(2, 1, 3, 8, 8).requires_grad_()
    loss_of(parse_loss(text, several=True), logits, truth, torch.ones_like(truth))[0].backward()
    for k in range(3):
        gradient = logits.grad[:, :, k : k + 1]
        assert (gradient[truth == k] < 0).all()
        assert (gradient[(truth != k) & (truth != 255)] > 0).all()
        assert (gradient[truth == 255] == 0).all()


@pytest.mark.parametrize(
    "text", ["bce", "l1", "mse", "dice", "laplacian", "temporal", "bce=1,l1=1,dice=0.5,boundary=3"]
)
def test_the_truth_costs_nothing(text):
    alpha = square().view(1, 2, 1, 16, 16)
    total, _ = loss_of(
        {**parse_loss("bce"), **dict.fromkeys(parse_loss(f"bce,{text}"), 1.0)},
        60 * (alpha - 0.5),
        alpha,
        torch.ones_like(alpha),
    )
    assert total.item() == pytest.approx(0, abs=1e-6)


# --- names ------------------------------------------------------------------------------------------------------


def test_names_and_weights():
    assert parse_loss("bce, l1=0.5,boundary=3") == {"bce": 1, "l1": 0.5, "boundary": 3}


@pytest.mark.parametrize(
    ("text", "several", "said"),
    [
        ("hinge", False, "'hinge'"),
        ("ce", False, "for an alpha is one of bce"),
        ("bce", True, "for classes is one of ce"),
        ("bce=much", False, "'bce=much'"),
        ("bce=-1", False, "not negative"),
        ("bce=nan", False, "not negative"),
        ("boundary=3", False, "nothing of a still"),
        ("temporal", False, "nothing of a still"),
        ("bce=0", False, "nothing of a still"),
    ],
)
def test_wrong_names_and_weights(text, several, said):
    with pytest.raises(ValueError, match=said):
        parse_loss(text, several)


def test_a_loss_for_other_logits():
    with pytest.raises(ValueError, match="bce"):
        loss_of({"bce": 1.0}, torch.zeros(1, 1, 3, 4, 4), torch.zeros(1, 1, 1, 4, 4), torch.ones(1, 1, 1, 4, 4))
