"""One module a runtime: each imports one inference library and makes an ``Engine`` of it.

An adapter has ``probe() -> str``, which says what it runs on, and ``open(spec, size, threads, precision) -> Engine``.
Its row in ``vidseg.engine._RUNTIMES`` is all that is needed besides.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from vidseg.frame import Size

MOST_THREADS = 4
"""Nothing else in the pipeline keeps up with more."""


def cpu_threads(threads: int | None) -> int:
    """Return how many pictures a CPU engine computes side by side, each on one thread.

    One thread a picture costs the least CPU time, which the encoder needs, and does not stall when it is busy: two
    threads on one picture were slower than one while the other core encoded.
    """
    if threads is not None:
        return threads
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return min(cores, MOST_THREADS)


def checked(src: npt.NDArray[np.float32], size: Size) -> npt.NDArray[np.float32]:
    """Return ``src`` in C order, if it is what an engine of ``size`` takes."""
    if src.ndim != 4 or src.shape[1:] != (3, *size):
        raise ValueError(f"this engine takes (N, 3, {size[0]}, {size[1]}): {src.shape = }")
    return np.ascontiguousarray(src, np.float32)
