"""Augmentation: the truth follows the picture exactly, frames of a clip are treated alike, motion is smooth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs vidseg[train]: torch is not installed")
pytest.importorskip("torchvision", reason="training needs vidseg[train]: torchvision is not installed")

from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from vidseg.training import motion  # noqa: E402
from vidseg.training.augment import (  # noqa: E402
    STRENGTHS,
    Blur,
    Framing,
    Jpeg,
    Letterbox,
    Light,
    LowLight,
    Noise,
    Occlude,
    Policy,
    draw_thing,
    warp,
)

SIZE = (48, 64)
PIXELS = [Light, Blur, LowLight, Noise, Jpeg]
COVERS = [Letterbox, Occlude]


def rng(seed=0):
    return np.random.default_rng(seed)


def marked(frames=1, size=SIZE):
    """Return a picture whose person is white on dark blue, and the person's alpha."""
    alpha = np.zeros(size, np.uint8)
    alpha[12:, 20:40] = 255
    rgb = np.where(alpha[..., None] > 0, 255, np.array([0, 0, 60])).astype(np.uint8)
    image = torch.from_numpy(np.stack([rgb] * frames)).permute(0, 3, 1, 2)
    return tv_tensors.Video(image), tv_tensors.Mask(torch.from_numpy(np.stack([alpha] * frames)))


def agreement(image, mask):
    """Return how often the person is where the mask says so."""
    return ((image.float().mean(-3) > 140) == (mask > 127)).float().mean().item()


# --- the truth follows the picture ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_framing_moves_truth_with_the_picture(seed):
    image, mask = Framing((40, 56), rotation=15, generator=rng(seed))(*marked(size=(96, 128)))
    assert image.shape == (1, 3, 40, 56)
    assert mask.shape == (1, 40, 56)
    red, alpha = image[0, 0].int(), mask[0].int()  # red is 255 in the person and 0 elsewhere, as is alpha
    assert (red - alpha).abs().max() <= 1


def test_framing_does_not_mix_class_numbers():
    image, mask = marked()
    numbers = tv_tensors.Mask(torch.where(mask > 0, 7, 2).to(torch.uint8))
    for seed in range(8):
        _, out = Framing((40, 56), nearest=True, generator=rng(seed))(image, numbers)
        assert set(out.unique().tolist()) <= {2, 7}


def test_framing_shows_people():
    shares = []
    for seed in range(60):
        _, mask = Framing((40, 56), generator=rng(seed))(*marked(size=(96, 128)))
        shares.append((mask > 127).float().mean().item())
    assert np.mean(np.asarray(shares) > 0.02) > 0.8


@pytest.mark.parametrize("scale", [0.7, 1.0, 3.5])
@pytest.mark.parametrize("bent", [False, True])
def test_warp_takes_colours_and_alpha_alike(scale, bent):
    image, mask = marked(size=(96, 128))
    matrix = np.array([[scale, 0.1, 2], [-0.1, scale, 3.0]])
    bend = rng(1).uniform(-2, 2, (*SIZE, 2)).astype(np.float32) if bent else None
    rgb = image[0].permute(1, 2, 0).numpy()
    red = np.ascontiguousarray(rgb[..., 0])
    out = warp(np.ascontiguousarray(rgb), matrix, SIZE, bend=bend)
    assert (out[..., 0] == warp(red, matrix, SIZE, bend=bend)).all()
    assert (out[..., 0] == warp(mask[0].numpy(), matrix, SIZE, bend=bend)).all()


def test_a_bend_moves_by_so_many_pixels():
    image = np.zeros(SIZE, np.uint8)
    image[20, 30] = 200
    bend = np.broadcast_to(np.float32([3, -4]), (*SIZE, 2))
    out = warp(image, np.eye(3)[:2], SIZE, bend=np.ascontiguousarray(bend))
    assert np.argwhere(out == 200).tolist() == [[24, 27]]


@pytest.mark.parametrize("kind", PIXELS)
def test_light_and_camera_leave_masks_alone(kind):
    image, mask = marked()
    out, same = kind(generator=rng(3))(image, mask)
    assert same is mask
    assert out.shape == image.shape
    assert out.dtype == torch.uint8
    assert type(out) is tv_tensors.Video
    assert not torch.equal(out, image)


@pytest.mark.parametrize("seed", range(6))
def test_bars_are_known_to_be_nobody(seed):
    image, mask = marked()
    full, ignore = (tv_tensors.Mask(torch.full_like(mask, 255)) for _ in range(2))
    out, alpha, unknown = Letterbox(generator=rng(seed))(image, full, ignore)
    bars = alpha[0] == 0
    assert 0.05 < bars.float().mean() < 0.5
    assert torch.equal(bars, unknown[0] == 0)
    assert len(out[0, :, bars].unique(dim=1).T) == 1  # one colour
    inside = ~bars
    assert torch.equal(out[0, :, inside], image[0, :, inside])


@pytest.mark.parametrize("seed", range(6))
def test_what_is_before_a_person_is_no_person(seed):
    image = tv_tensors.Image(torch.full((3, *SIZE), 90, dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.full(SIZE, 255, dtype=torch.uint8))
    out, alpha = Occlude(generator=rng(seed))(image, mask)
    changed = (out != image).any(0)
    assert (alpha[changed] < 255).all()
    covered = alpha == 0
    assert 0 < covered.float().mean() < 0.6
    assert torch.equal(out[:, alpha == 255], image[:, alpha == 255])


def test_class_numbers_are_unknown_under_what_covers_them():
    image, mask = marked()
    numbers = tv_tensors.Mask(torch.full_like(mask, 3))
    for kind in COVERS:
        _, out = kind(fill=255, generator=rng(2))(image, numbers)
        assert set(out.unique().tolist()) == {3, 255}


def test_cut_out_things_are_used():
    thing = np.zeros((20, 20, 4), np.uint8)
    thing[4:16, 4:16] = (10, 250, 10, 255)
    greens = 0
    for seed in range(20):
        image, _ = Occlude((thing,), generator=rng(seed))(*marked())
        greens += bool(((image[0, 1] > 200) & (image[0, 0] < 60)).any())
    assert 5 < greens < 20


def test_drawn_things_have_a_shape():
    shares = [(draw_thing(rng(seed))[..., 3] > 127).mean() for seed in range(12)]
    assert all(0.08 < share < 0.8 for share in shares)
    assert len(set(shares)) > 3


# --- clips ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Light, Blur, LowLight, Jpeg, Letterbox, Occlude, Framing])
def test_all_frames_of_a_clip_are_treated_alike(kind):
    image, mask = marked(4)
    transform = Framing(SIZE, generator=rng(5)) if kind is Framing else kind(generator=rng(5))
    out, alpha = transform(image, mask)
    assert not torch.equal(out, image)
    assert all(torch.equal(out[0], frame) for frame in out)
    assert all(torch.equal(alpha[0], frame) for frame in alpha)


def test_noise_differs_from_frame_to_frame():
    image = tv_tensors.Video(torch.full((3, 3, *SIZE), 120, dtype=torch.uint8))
    out = Noise(generator=rng(1))(image).float()
    assert not torch.equal(out[0], out[1])
    assert torch.allclose(out.std((1, 2, 3)), out.std().expand(3), rtol=0.1)
    assert out.mean().item() == pytest.approx(120, abs=0.5)
    assert np.corrcoef(out[0].flatten(), out[1].flatten())[0, 1] < 0.1


def test_low_light_keeps_its_share():
    image = tv_tensors.Video(torch.full((1, 3, *SIZE), 200, dtype=torch.uint8))
    levels = {int(LowLight(generator=rng(seed))(image)[0, 0, 0, 0]) for seed in range(20)}
    assert 40 <= min(levels) < max(levels) <= 120


# --- as torchvision's own --------------------------------------------------------------------------------------------


def test_they_compose_with_torchvisions_own():
    chain = v2.Compose([v2.RandomHorizontalFlip(1.0), Light(), Letterbox(), v2.RandomVerticalFlip(1.0), Jpeg()])
    image, mask = tv_tensors.Image(marked()[0][0]), tv_tensors.Mask(marked()[1][0])
    out, alpha = chain(image, mask)
    assert isinstance(out, tv_tensors.Image)
    assert isinstance(alpha, tv_tensors.Mask)
    assert out.shape == image.shape
    assert alpha.shape == mask.shape


def test_without_a_generator_they_follow_pytorchs_seed():
    image, _ = marked()

    def made(seed):
        torch.manual_seed(seed)
        return Policy().transform()(image)

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))


def test_plain_tensors_are_pictures_and_floats_are_refused():
    assert LowLight(generator=rng())(torch.full((3, *SIZE), 200, dtype=torch.uint8)).max() < 130
    with pytest.raises(TypeError, match="uint8"):
        Light()(torch.zeros(3, *SIZE))


def test_how_often():
    image, _ = marked()
    done = [Jpeg(0.3, generator=rng(seed))(image) is not image for seed in range(300)]
    assert 0.2 < np.mean(done) < 0.4


def test_the_policy_none_does_nothing():
    image, mask = marked()
    out, same = STRENGTHS["none"].transform(rng())(image, mask)
    assert torch.equal(out, image)
    assert torch.equal(same, mask)


def test_strengths_change_more_and_more():
    def change(name):
        total = 0.0
        for seed in range(40):
            image, _ = marked()
            total += (STRENGTHS[name].transform(rng(seed))(image).float() - image.float()).abs().mean().item()
        return total

    assert 0 == change("none") < change("gentle") < change("standard") < change("strong")


# --- motion ----------------------------------------------------------------------------------------------------------


def test_a_walk_starts_at_rest_and_is_smooth():
    path = motion.walk(rng(1), 200, 3, smooth=0.9)
    assert path.shape == (200, 3)
    assert not path[0].any()
    speed = np.diff(path, axis=0)
    assert speed.std() == pytest.approx(1, rel=0.3)
    assert np.diff(speed, axis=0).std() < 0.6 * speed.std()


def test_moves_are_turns_about_the_middle():
    path = motion.moves(rng(2), 5, SIZE, shift=0.0, zoom=0.1, turn=5)
    middle = np.array([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2, 1])
    assert np.allclose(path @ middle, middle)
    assert np.allclose(path[0], np.eye(3))
    assert not np.allclose(path[4], np.eye(3))


def test_cameras_stand_tremble_and_pan():
    paths = np.stack([motion.camera_path(rng(seed), 6, SIZE) for seed in range(100)])
    still = np.isclose(paths, np.eye(3)).all((1, 2, 3))
    assert 0.25 < still.mean() < 0.55
    steps = np.abs(np.diff(paths[~still, :, 0, 2], axis=1)).mean(1)
    assert steps.max() < 0.1 * SIZE[1]


def test_no_motion_in_a_still_and_at_strength_0():
    for frames, strength in ((1, 1.0), (4, 0.0)):
        for path in (motion.camera_path, motion.person_path):
            assert (path(rng(1), frames, SIZE, strength) == np.eye(3)).all()
        assert motion.bends(rng(1), frames, SIZE, strength) == [None] * frames


def test_bends_are_smooth_and_grow_from_nothing():
    bends = next(b for seed in range(9) if (b := motion.bends(rng(seed), 5, SIZE))[0] is not None)
    assert bends[0].shape == (*SIZE, 2)
    assert not bends[0].any()
    assert bends[4].any()
    assert np.abs(cv2.Laplacian(bends[4][..., 0], cv2.CV_32F)).max() < 0.2


@pytest.mark.parametrize(("available", "frames"), [(1, 3), (4, 4), (4, 7), (2, 5), (9, 4), (4, 1)])
def test_frames_of_a_clip_follow_one_another(available, frames):
    for seed in range(20):
        shown = motion.there_and_back(rng(seed), available, frames)
        assert len(shown) == frames
        assert set(shown) <= set(range(available))
        assert available == 1 or (np.abs(np.diff(shown)) == 1).all()
