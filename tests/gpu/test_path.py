"""``tests/test_gpu_path.py`` on a GPU: resize, settle, smooth, refine and composite held against the CPU's kernels."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch, which a GPU is used with, is not installed")

from tests.test_gpu_path import *  # noqa: E402, F403


@pytest.fixture
def device(gpu):
    return torch.device(gpu)
