from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

# So that `import tests.media` works however pytest is started.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# A job in the background of a shell, as CI may be, starts with SIGINT ignored, and hands that on to what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread():
    """Let PyTorch compute on one: pictures are small, and threads wait for one another on a machine with other work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
