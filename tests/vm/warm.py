"""Compiles, outside the virtual machine, what its tests run: see tests/test_vm.py."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.vm.network import small_network
from vidseg.sources.v4l2 import halve, unpack
from vidseg.v4l2 import PixelFormat

for fourcc, size in {"YUYV": 2, "NV12": 2, "YU12": 2}.items():
    data = np.frombuffer(bytes(64 * 64 * size), np.uint8)  # read-only, as a driver's buffers are: another overload
    unpack(data, PixelFormat(fourcc, (64, 64), 64 * (2 if fourcc == "YUYV" else 1), 0))
halve(np.zeros((64, 32), np.uint8))

# A person before a camera that gives MJPEG, for here and for inside.
clip = Path(sys.argv[1]) / "clip.mjpeg"
sample = Path(__file__).parents[2] / "vidseg" / "demo" / "sample.mp4"
command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-i", str(sample), "-t", "2"]
command += ["-vf", "scale=320:180,fps=5", "-q:v", "3", "-pix_fmt", "yuvj422p", str(clip)]
subprocess.run(command, check=True, timeout=600)

# The whole, as raw pictures on standard output: the background alone at first, until the person stands before it; and
# some more, for what compares two.
with tempfile.TemporaryDirectory() as folder:
    arguments = [
        "--camera",
        str(clip),
        "--loop",
        "--size",
        "320x180",
        "--fps",
        "15",
        "--bg",
        "#1e90ff",
        "--out",
        "-:raw",
    ]
    arguments += ["--model", str(small_network(Path(folder))), "--runtime", "onnxruntime"]
    with subprocess.Popen([sys.executable, "-m", "vidseg", "webcam", *arguments], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        people = 0
        for _ in range(15 * 240):
            picture = np.frombuffer(running.stdout.read(320 * 180 * 3 // 2), np.uint8)
            people += len(picture) > 0 and picture[: 320 * 180].std() > 5
            if people == 10 or not len(picture):
                break
        running.terminate()
