"""The GPU's path held against the kernels of the CPU: here on tensors of the CPU, in ``tests/gpu`` on those of a GPU.

The same operations run on both; what a GPU adds are its own roundings, for which one step of each plane is allowed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.test_compositing import KINDS, SIZES, random_alpha, random_frame
from tests.test_settling import scene
from vidseg.color import black
from vidseg.compositing import composite, cutout
from vidseg.cuts import is_cut
from vidseg.refine import refine
from vidseg.resize import shrink
from vidseg.settling import settle
from vidseg.smoothing import Smoother

torch = pytest.importorskip("torch", reason="PyTorch, which a GPU is used with, is not installed")

from vidseg.gpu import compositing, resize, settling, smoothing  # noqa: E402
from vidseg.gpu import cuts as gpu_cuts  # noqa: E402
from vidseg.gpu import refine as gpu_refine  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def device():
    return torch.device("cpu")


def on(device, *arrays):
    return torch.from_numpy(np.stack(arrays)).to(device)


def farthest(tensor, expected):
    """Return the largest difference, as numbers of the steps of a plane."""
    return np.abs(tensor.cpu().numpy().astype(np.float64) - np.asarray(expected).astype(np.float64)).max()


def planes_on(device, *frames):
    return tuple(on(device, *(frame.planes[index] for frame in frames)) for index in range(3))


def disc(size, soft=20.0, at=0.5):
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(rows - size[0] * at, columns - size[1] * at) - 0.3 * min(size)
    return np.clip(0.5 - distance / soft, 0, 1).astype(np.float32)


@pytest.mark.parametrize("how", ["blend", "clean", "cutout"])
@pytest.mark.parametrize(("depth", "subsampled"), KINDS)
@pytest.mark.parametrize("size", [*SIZES, (720, 1280)])
def test_composite_is_the_cpus_within_one_step(device, size, depth, subsampled, how):
    fronts = [random_frame(size, depth, subsampled, seed) for seed in (1, 2)]
    back = random_frame(size, depth, subsampled, 9)
    patches = size[0] < 500
    alphas = [
        random_alpha(size, seed) if patches else np.rint(255 * disc(size, 30 * seed)).astype(np.uint8)
        for seed in (3, 4)
    ]
    if size == SIZES[-1]:
        alphas = [random_alpha(size, seed) for seed in (3, 4)]
    alpha = on(device, *alphas).float()
    edges = compositing.find_edges(alpha)
    crowded = edges.crowded.cpu().numpy()
    assert crowded.all() == (size == SIZES[-1])
    if crowded.all():
        edges = compositing.find_edges(alpha, coarser=True)
    got = compositing.blend(
        planes_on(device, *fronts),
        None if how == "cutout" else planes_on(device, back),
        alpha,
        edges,
        depth=depth,
        empty=black(fronts[0].color, depth),
        decontaminate=how == "clean",
    )
    for number, (front, full) in enumerate(zip(fronts, alphas, strict=True)):
        expected = (
            cutout(front, full) if how == "cutout" else composite(front, back, full, decontaminate=how == "clean")
        )
        for plane, truth in zip(got, expected.planes, strict=True):
            assert plane.dtype == (torch.uint8 if depth == 8 else torch.uint16)
            assert farthest(plane[number], truth) <= 1


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize(("depth", "subsampled"), KINDS)
def test_alpha_0_is_the_background_and_255_the_foreground_exactly(device, depth, subsampled, clean):
    front, back = random_frame((61, 90), depth, subsampled, 1), random_frame((61, 90), depth, subsampled, 2)
    for value, expected in ((0, back), (255, front)):
        alpha = torch.full((1, 61, 90), float(value), device=device)
        edges = compositing.find_edges(alpha)
        got = compositing.blend(
            planes_on(device, front), planes_on(device, back), alpha, edges, depth=depth, decontaminate=clean
        )
        for plane, truth in zip(got, expected.planes, strict=True):
            np.testing.assert_array_equal(plane[0].cpu().numpy(), truth)


def test_nothing_of_the_room_is_left_in_a_cutout(device):
    front = random_frame((90, 120), seed=5)
    alpha = np.zeros((90, 120), np.uint8)
    alpha[30:60, 40:80] = 255
    full = on(device, alpha).float()
    edges = compositing.find_edges(full)
    got = compositing.blend(planes_on(device, front), None, full, edges, empty=black(front.color))
    for plane, sample in zip(got, black(front.color), strict=True):
        far = plane[0].cpu().numpy()
        far = far[:20] if far.shape == alpha.shape else far[:10]
        assert (far == sample).all()


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("size", [(720, 1280), (1080, 1920), (361, 641), (100, 300), (160, 256)])
def test_small_planes_are_the_cpus_within_one_step(device, size, depth):
    frame = random_frame(size, depth, seed=4)
    got = resize.shrink(on(device, frame.planes[0]), (160, 256))
    assert farthest(got[0], shrink(frame.planes[0], (160, 256))) <= 1


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("size", [(720, 1280), (361, 641), (50, 70)])
def test_refined_alpha_is_the_cpus_within_one_step(device, size, depth):
    frame = random_frame(size, depth, seed=6)
    luma = frame.planes[0]
    luma[...] = (luma >> 3) + np.rint(disc(size) * 2 ** (depth - 1)).astype(luma.dtype)
    alpha = np.clip(disc((160, 256), 8) + np.random.default_rng(1).normal(0, 0.02, (160, 256)), 0, 1).astype(np.float32)
    guide = (shrink(luma, (160, 256)) >> (depth - 8)).astype(np.uint8)
    got = gpu_refine.refine(on(device, alpha), on(device, luma), on(device, guide).float(), depth)
    assert farthest(got[0], refine(alpha, frame, guide)) <= 1


def test_not_a_number_is_room(device):
    frame = random_frame((90, 120), seed=6)
    alpha = np.full((32, 48), np.nan, np.float32)
    full = gpu_refine.refine(on(device, alpha), on(device, frame.planes[0]), torch.zeros((1, 32, 48), device=device))
    assert full.max() == 0


@pytest.mark.parametrize("seed", range(4))
def test_settled_alpha_is_the_cpus(device, seed):
    rng = np.random.default_rng(seed)
    fog = torch.from_numpy(rng.random((1, 1, 20, 32), np.float32))
    fog = torch.nn.functional.interpolate(fog, (160, 256), mode="bicubic").clamp(0, 1).numpy()[0, 0]
    alphas = [fog, np.clip(6 * fog - 2.5, 0, 1), disc((160, 256)), 1 - np.clip(6 * fog - 2.5, 0, 1)]
    got, final = settling.settle(on(device, *alphas))
    assert final.all()
    assert farthest(got, [settle(alpha) for alpha in alphas]) < 1e-6


def test_a_labyrinth_is_told_from_what_is_settled(device):
    """A way with more turns than rounds: one does not know until it has been walked."""
    way = np.zeros((96, 160), np.float32)
    for row in range(4, 92, 4):
        way[row, 4:156] = 0.4
        way[row : row + 4, 155 if row % 8 else 4] = 0.4
    way[4:8, 4:8] = 1
    got, final = settling.settle(on(device, way, scene()))
    assert final.tolist() == [False, True]
    assert farthest(got[1], settle(scene())) < 1e-6
    got, final = settling.settle(on(device, way, scene()), rounds=60)
    assert final.tolist() == [True, True]
    assert farthest(got[0], settle(way)) < 1e-6


def clip(frames, size=(96, 160), seed=0):
    """Yield ``(alpha, guide, time)`` of a room with noise in which a disc moves, the light changes and a cut comes."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for index in range(frames):
        room = 110 + 40 * np.sin(rows / 7) * np.cos(columns / 11)
        if index >= 3 * frames // 4:
            room = 90 + 60 * np.cos(rows / 3 + columns / 19)
        light = 1 + 0.1 * np.sin(index / 5)
        alpha = disc(size, 4, 0.4 + 0.004 * max(index - 10, 0)) * 0.9 + 0.05
        picture = light * (room + alpha * 60) + rng.normal(0, 2, size)
        alpha = np.clip(alpha + rng.normal(0, 0.03, size), 0, 1).astype(np.float32)
        yield alpha, np.clip(np.rint(picture), 0, 255).astype(np.uint8), index / 30 if index < 20 else index / 15


@pytest.mark.parametrize("patience", [0.0, 0.6])
def test_smoothing_follows_the_cpus(device, patience):
    """Two streams beside each other, the second one two frames late."""
    smoothers = [Smoother(patience=patience) for _ in range(2)]
    clips = [list(clip(44)), list(clip(42, seed=3))]
    state = smoothing.nothing(2, (96, 160), device)
    before = [None, None]
    for index in range(42):
        looks = [clips[0][index + 2], clips[1][index]]
        expected = [smoother(*look) for smoother, look in zip(smoothers, looks, strict=True)]
        clocks = [
            smoothing.clock(None if then is None else look[2] - then, 0.12)
            for look, then in zip(looks, before, strict=True)
        ]
        before = [look[2] for look in looks]
        alphas, guides, _ = zip(*looks, strict=True)
        state = smoothing.steady(
            on(device, *alphas), on(device, *guides).float(), state, torch.tensor(clocks, device=device), patience
        )
        # What is fitted to the exposure decides at a threshold which pixels count: one of them more or less is seen.
        assert farthest(state.alpha, expected) < 0.004


def test_a_state_that_is_no_number_is_never_shown(device):
    alpha, guide, _ = next(clip(1))
    state = smoothing.nothing(1, (96, 160), device)
    clocks = torch.tensor([smoothing.clock(None, 0.12)], device=device)
    wrong = np.where(alpha > 0.5, np.nan, alpha).astype(np.float32)
    state = smoothing.steady(on(device, wrong), on(device, guide).float(), state, clocks)
    assert farthest(state.alpha, [np.nan_to_num(wrong)]) == 0


def test_cuts_are_the_cpus(device):
    looks = [guide for _, guide, _ in clip(40)]
    last = np.zeros_like(looks[0])
    for guide in looks:
        got = gpu_cuts.is_cut(on(device, last, guide).float(), on(device, guide, guide).float())
        assert got.tolist() == [is_cut(last, guide), False]
        last = guide


def test_inputs_stay_as_they_are(device):
    front, back = random_frame((64, 90), seed=1), random_frame((64, 90), seed=2)
    tensors = [*planes_on(device, front), *planes_on(device, back), on(device, random_alpha((64, 90))).float()]
    kept = [tensor.clone() for tensor in tensors]
    compositing.blend(tuple(tensors[:3]), tuple(tensors[3:6]), tensors[6], compositing.find_edges(tensors[6]))
    small = on(device, disc((32, 48)))
    again = small.clone()
    settling.settle(small)
    gpu_refine.refine(small, tensors[0], small * 0)
    for tensor, copy in zip([*tensors, small], [*kept, again], strict=True):
        assert torch.equal(tensor, copy)


def test_frames_are_views_of_any_stride(device):
    """NV12 of a decoder: chroma lies in pairs, rows are padded."""
    front, back = random_frame((64, 90), seed=1), random_frame((64, 90), seed=2)
    alpha = on(device, random_alpha((64, 90))).float()
    edges = compositing.find_edges(alpha)
    y, u, v = planes_on(device, front)
    pairs = torch.stack([u, v], -1)
    wide = torch.nn.functional.pad(y, (0, 38))[:, :, :90]
    expected = compositing.blend((y, u, v), planes_on(device, back), alpha, edges)
    got = compositing.blend((wide, pairs[..., 0], pairs[..., 1]), planes_on(device, back), alpha, edges)
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)
    assert replace(front, pts=1).size == (64, 90)
