"""``tests/test_gpu_compositor.py`` on a GPU: whole frames, and what happens when one fails."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch, which a GPU is used with, is not installed")

from tests.test_gpu_compositor import *  # noqa: E402, F403


@pytest.fixture
def device(gpu):
    return torch.device(gpu)
