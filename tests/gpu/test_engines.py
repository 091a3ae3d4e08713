"""Engines on a GPU: every runtime held against PyTorch in float32 on the CPU, and tensors that stay where they are."""

from __future__ import annotations

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch, which a GPU is used with, is not installed")

from tests.test_runtimes import *  # noqa: E402, F403
from tests.test_runtimes import SIZES, pictures  # noqa: E402
from vidseg.engine import list_runtimes, load_spec  # noqa: E402
from vidseg.gpu.device import opener  # noqa: E402
from vidseg.parity import TOLERANCE, compare  # noqa: E402
from vidseg.runtimes.replay import Replay  # noqa: E402
from vidseg.runtimes.torch import TorchEngine  # noqa: E402


def on_gpu(runtime, gpu):
    reasons = {name: detail for name, usable, detail in list_runtimes() if not usable}
    if runtime in reasons:
        told = os.environ.get(f"VIDSEG_REQUIRE_{'TENSORRT' if runtime == 'tensorrt' else 'GPU'}")
        (pytest.fail if told == "1" else pytest.skip)(reasons[runtime])
    return opener(gpu)(load_spec(), runtime, SIZES[0], None, "fp16")


@pytest.mark.parametrize("runtime", ["torch", "tensorrt"])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_tensors_give_what_arrays_give(gpu, runtime, count):
    engine = on_gpu(runtime, gpu)
    src = pictures(count, SIZES[0])
    expected, _ = engine.infer(src)
    got, _ = engine.infer_on_device(torch.from_numpy(src).to(gpu))
    assert got.device.type == "cuda"
    assert np.abs(got.cpu().numpy() - expected).max() < 1e-3
    reference, _ = TorchEngine(load_spec(), SIZES[0], None, "fp32", device="cpu").infer(src)
    assert compare(expected, reference).within(TOLERANCE[runtime, "fp16"])
    engine.close()


def test_launches_are_recorded_and_repeated(gpu):
    weight = torch.randn(64, 64, device=gpu)
    replay = Replay(lambda x: (x @ weight, x.sum(1)), torch.zeros(8, 64, device=gpu))
    assert replay.recorded
    for seed in range(3):
        x = torch.randn(8, 64, device=gpu, generator=torch.Generator(gpu).manual_seed(seed))
        product, total = replay(x)
        torch.testing.assert_close(product, x @ weight)
        torch.testing.assert_close(total, x.sum(1))


def test_every_step_of_the_path_can_be_recorded(gpu):
    """A step that asks the GPU for a number cannot, and is launched anew for every batch."""
    from tests.test_gpu_compositor import clip
    from vidseg.backgrounds import BlurBackground
    from vidseg.gpu.compositor import GpuCompositor
    from vidseg.segmenter import Segmenter

    compositor = GpuCompositor(BlurBackground(50), Segmenter(opener=opener(gpu)), device=gpu)
    compositor(list(clip(2)))
    assert compositor._replays
    assert all(replay.recorded for replay in compositor._replays.values())
