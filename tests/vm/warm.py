"""Compiles, outside the virtual machine, what its tests run: see tests/test_vm.py."""

from __future__ import annotations

import numpy as np

from vidseg.sources.v4l2 import halve, unpack
from vidseg.v4l2 import PixelFormat

for fourcc, size in {"YUYV": 2, "NV12": 2, "YU12": 2}.items():
    unpack(np.zeros(64 * 64 * size, np.uint8), PixelFormat(fourcc, (64, 64), 64 * (2 if fourcc == "YUYV" else 1), 0))
halve(np.zeros((64, 32), np.uint8))
