"""Compiles, outside the virtual machine, what its tests run: see tests/test_vm.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from vidseg.sources.v4l2 import halve, unpack
from vidseg.v4l2 import PixelFormat

for fourcc, size in {"YUYV": 2, "NV12": 2, "YU12": 2}.items():
    data = np.frombuffer(bytes(64 * 64 * size), np.uint8)  # read-only, as a driver's buffers are: another overload
    unpack(data, PixelFormat(fourcc, (64, 64), 64 * (2 if fourcc == "YUYV" else 1), 0))
halve(np.zeros((64, 32), np.uint8))

# The whole, as y4m on standard output: the background alone at first, until a person stands before it.
sample = Path(__file__).parents[2] / "vidseg" / "demo" / "sample.mp4"
arguments = ["--camera", str(sample), "--size", "320x180", "--fps", "15", "--bg", "#1e90ff", "--out", "-"]
with subprocess.Popen([sys.executable, "-m", "vidseg", "webcam", *arguments], stdout=subprocess.PIPE) as running:
    assert running.stdout is not None
    running.stdout.readline()
    for _ in range(15 * 120):
        running.stdout.readline()
        picture = np.frombuffer(running.stdout.read(320 * 180 * 3 // 2), np.uint8)
        if not len(picture) or picture[: 320 * 180].std() > 5:
            break
    running.terminate()
