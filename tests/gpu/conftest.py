"""What needs an NVIDIA GPU: ``pytest tests/gpu`` on a machine that has one runs all of it, TensorRT included.

``VIDSEG_REQUIRE_GPU=1`` and ``VIDSEG_REQUIRE_TENSORRT=1`` turn the skips of other machines into failures.
"""

from __future__ import annotations

import os

import pytest


def lacking() -> str:
    """Return why no GPU can be used here; empty if one can."""
    try:
        import torch

        from vidseg.errors import EngineError
        from vidseg.gpu.device import probe
    except ImportError as error:
        return f"{error.name} is not installed"
    try:
        probe("cuda:0")
    except EngineError as error:
        return str(error)
    return "" if torch.cuda.is_available() else "PyTorch sees no GPU"


@pytest.fixture(scope="session")
def gpu():
    """Skip, or fail where a GPU was promised."""
    if reason := lacking():
        (pytest.fail if os.environ.get("VIDSEG_REQUIRE_GPU") == "1" else pytest.skip)(reason)
    return "cuda:0"


@pytest.fixture
def device(gpu):
    import torch

    return torch.device(gpu)


@pytest.fixture(autouse=True)
def needs_a_gpu(gpu):
    """Everything in this folder does."""
