"""What the work between network and encoder costs: milliseconds of one core for each frame.

    python benchmarks/kernels.py [--rounds 60]

Medians of CPU time of the one thread that computes, so a busy machine does not count. The picture is drawn: a person
with a soft edge and hair before a busy room, about 2 % of whose pixels are soft, and an alpha at a network's size.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from vidseg.backgrounds import BlurBackground
from vidseg.color import network_affine, rgb_from_planes
from vidseg.compositing import composite, cutout
from vidseg.frame import Color, Frame, Size, allocate
from vidseg.kernels import to_network
from vidseg.refine import refine
from vidseg.resize import shrink, shrink_planes
from vidseg.smoothing import Smoother

NETWORK = (160, 256)


def draw(size: Size, depth: int) -> tuple[Frame, Frame, np.ndarray]:
    """Return a frame, a background for it and the frame's alpha, float32 ``(H, W)``."""
    rng = np.random.default_rng(0)
    height, width = size
    rows, columns = np.mgrid[:height, :width] / height
    columns = columns - width / height / 2
    angle = np.arctan2(rows - 0.42, columns)
    hair = 0.012 * np.sin(41 * angle) + 0.008 * np.sin(113 * angle + 1)
    head = np.hypot(rows - 0.42, columns) - 0.22 - np.where(rows < 0.45, hair, 0)
    body = np.hypot((rows - 1.05) / 1.1, columns * 0.9) - 0.38
    alpha = np.clip(0.5 - np.minimum(head, body) * height / 6, 0, 1).astype(np.float32)
    frames = []
    for seed in range(2):
        planes = allocate(size, depth)
        for plane in planes:
            coarse = np.random.default_rng(seed).integers(40, 200, (plane.shape[0] // 30 + 1, plane.shape[1] // 30 + 1))
            room = np.kron(coarse, np.ones((30, 30)))[: plane.shape[0], : plane.shape[1]]
            step = -(-height // plane.shape[0])
            part = alpha[::step, ::step]
            seen = part * (150 if seed == 0 else room) + (1 - part) * room + rng.normal(0, 2, plane.shape)
            plane[...] = np.clip(seen, 16, 235) * 2 ** (depth - 8)
        frames.append(Frame(planes, 0, Fraction(1, 30), Color("bt709"), depth))
    return frames[0], frames[1], alpha


def median(work: Callable[[], object], rounds: int) -> float:
    """Return the median milliseconds of this thread's CPU time."""
    work()
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    columns = {"1080p 8 bit": ((1080, 1920), 8), "1080p 10 bit": ((1080, 1920), 10), "720p 8 bit": ((720, 1280), 8)}
    table: dict[str, list[float]] = {}
    soft = []
    times = itertools.count(0, 1 / 30)
    smoother, blur, weak = Smoother(), BlurBackground(50), BlurBackground(5)
    for size, depth in columns.values():
        frame, background, truth = draw(size, depth)
        small = shrink(truth, NETWORK)
        alpha = refine(small, frame)
        soft.append(100 * float(((alpha > 0) & (alpha < 255)).mean()))
        fog = np.clip(alpha, 1, 254)
        y, u, v = shrink_planes(frame, NETWORK)
        guide = (y >> (depth - 8)).astype(np.uint8)
        affine = network_affine(frame.color, depth, (0.5,) * 3, (0.5,) * 3)
        work: dict[str, Callable[[], object]] = {
            "shrink three planes": lambda f=frame: shrink_planes(f, NETWORK),
            "network's input": lambda p=(y, u, v), a=affine: to_network(*p, *a),
            "refine (its own guide)": lambda s=small, f=frame: refine(s, f),
            "refine (guide at hand)": lambda s=small, f=frame, g=guide: refine(s, f, g),
            "composite": lambda f=frame, b=background, a=alpha: composite(f, b, a, decontaminate=False),
            "decontaminate + composite": lambda f=frame, b=background, a=alpha: composite(f, b, a),
            "cutout": lambda f=frame, a=alpha: cutout(f, a),
            "all three, as the pipeline does": lambda s=small, f=frame, b=background, g=guide: composite(
                f, b, refine(s, f, g)
            ),
            "composite, all of it soft": lambda f=frame, b=background, a=fog: composite(f, b, a),
            "smooth": lambda s=small, g=guide, t=times: smoother(s, g, next(t)),
            "blur": lambda f=frame, a=alpha: blur.render(f, a),
            "blur:5": lambda f=frame, a=alpha: weak.render(f, a),
            "planes to R'G'B'": lambda f=frame, d=depth: rgb_from_planes(f.planes, f.color, d, bits=8 * (1 + (d > 8))),
        }
        for name, part in work.items():
            table.setdefault(name, []).append(median(part, rounds))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'ms a frame, one core':36}" + "".join(f"{name:>14}" for name in columns))
    for name, values in table.items():
        print(f"{name:36}" + "".join(f"{value:14.2f}" for value in values))
    print(f"{'soft pixels, %':36}" + "".join(f"{value:14.1f}" for value in soft))


if __name__ == "__main__":
    main()
