"""What `vidseg process` costs beside a plain transcode and beside the loop of every tutorial, in one run.

    python benchmarks/process.py [--clip talk.mp4] [--seconds 30] [--rounds 2] [--tutorial] [--memory]

Each program runs as a process of its own, in turn; CPU time is the operating system's (user + system, all threads).
All read the same 1080p30 H.264 file and write H.264 with x264 veryfast crf 23. Needs a POSIX system.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

TRANSCODE = """
import sys, av
with av.open(sys.argv[1]) as source, av.open(sys.argv[2], "w") as sink:
    stream = source.streams.video[0]
    stream.thread_type = "AUTO"
    out = sink.add_stream("libx264", rate=stream.average_rate, options={"preset": "veryfast", "crf": "23"})
    out.width, out.height, out.pix_fmt, out.time_base = stream.width, stream.height, "yuv420p", stream.time_base
    out.codec_context.thread_type = "AUTO"
    for frame in source.decode(stream):
        frame.pict_type = av.video.frame.PictureType.NONE
        sink.mux(out.encode(frame))
    sink.mux(out.encode(None))
"""

TUTORIAL = """
import sys, cv2, numpy as np
from vidseg.engine import open_engine
source = cv2.VideoCapture(sys.argv[1])
w, h = int(source.get(3)), int(source.get(4))
engine = open_engine("unet-s", "auto", size=(160, 256))
background = cv2.resize(cv2.imread(sys.argv[3]), (w, h)).astype(np.float32)
sink = cv2.VideoWriter(sys.argv[2], cv2.VideoWriter_fourcc(*"mp4v"), source.get(5), (w, h))
while True:
    ok, frame = source.read()
    if not ok:
        break
    small = cv2.resize(frame, (256, 160), interpolation=cv2.INTER_AREA)[..., ::-1].astype(np.float32) / 127.5 - 1
    alphas, _ = engine.infer(np.ascontiguousarray(small.transpose(2, 0, 1)[None]))
    alpha = cv2.resize(alphas[0], (w, h))[..., None]
    sink.write((frame * alpha + background * (1 - alpha)).astype(np.uint8))
sink.release()
"""


def make_clip(path: Path, source: Path, seconds: float) -> None:
    """Write a 1080p30 clip from ``source``, played forth and back, with a little sensor noise."""
    with av.open(str(source)) as container:
        frames = [f.to_ndarray(format="bgr24") for f, _ in zip(container.decode(video=0), range(120), strict=False)]
    height, width = frames[0].shape[:2]
    crop = min(width, height * 16 // 9), min(height, width * 9 // 16)
    x, y = (width - crop[0]) // 2, (height - crop[1]) // 2
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)] or [0]
    noise = [np.random.default_rng(i).normal(0, 2, (1080, 1920, 1)).astype(np.int8) for i in range(4)]
    with av.open(str(path), "w") as sink:
        out = sink.add_stream("libx264", rate=Fraction(30), options={"preset": "veryfast", "crf": "18"})
        out.width, out.height, out.pix_fmt = 1920, 1080, "yuv420p"
        for i in range(round(seconds * 30)):
            picture = frames[order[i % len(order)]][y : y + crop[1], x : x + crop[0]]
            big = cv2.resize(picture, (1920, 1080), interpolation=cv2.INTER_CUBIC)
            big = np.clip(big.astype(np.int16) + noise[i % 4], 0, 255).astype(np.uint8)
            sink.mux(out.encode(av.VideoFrame.from_ndarray(big, format="bgr24")))
        sink.mux(out.encode(None))


def measure(command: list[str]) -> dict[str, float]:
    """Run a command; return its CPU and wall seconds and peak memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(errors.decode())
    return {
        "cpu": usage.ru_utime + usage.ru_stime,
        "wall": time.perf_counter() - start,
        "memory": usage.ru_maxrss / 1024,
    }


def machine() -> str:
    """Return one line about this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="a video to make the 1080p clip from; the demo's sample by default")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tutorial", action="store_true", help="measure the tutorial loop too")
    parser.add_argument("--memory", action="store_true", help="compare peak memory with a clip of 120 seconds")
    args = parser.parse_args()
    import vidseg

    sample = args.clip or Path(vidseg.__file__).parent / "demo" / "sample.mp4"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip, beach = folder / "clip.mp4", folder / "beach.png"
        make_clip(clip, sample, args.seconds)
        ramp = np.linspace(0, 255, 1920 * 1080 * 3).reshape(1080, 1920, 3).astype(np.uint8)
        cv2.imwrite(str(beach), ramp)

        def process(source: Path) -> list[str]:
            line = ["process", str(source), str(folder / "out.mp4"), "--bg", str(beach), "--overwrite", "--quiet"]
            return [sys.executable, "-m", "vidseg", *line]

        def script(text: str) -> list[str]:
            return [sys.executable, "-c", textwrap.dedent(text), str(clip), str(folder / "plain.mp4"), str(beach)]

        programs: dict[str, Callable[[], list[str]]] = {
            "plain transcode": lambda: script(TRANSCODE),
            "vidseg process": lambda: process(clip),
        }
        if args.tutorial:
            programs["tutorial loop"] = lambda: script(TUTORIAL)
        measure(process(clip))  # warm: numba's cache, the page cache
        results: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
        for _ in range(args.rounds):
            for name, command in programs.items():
                results[name].append(measure(command()))
        frames = round(args.seconds * 30)
        print(f"{machine()}\n{frames} frames of 1080p30, median of {args.rounds} runs in turn\n")
        print("| program | CPU s | × transcode | wall s | × transcode | frames/s | peak MB |")
        print("|---|---|---|---|---|---|---|")
        plain = results["plain transcode"]
        for name, runs in results.items():
            row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            ratio = {
                key: statistics.median(run[key] / other[key] for run, other in zip(runs, plain, strict=True))
                for key in ("cpu", "wall")
            }
            print(
                f"| {name} | {row['cpu']:.1f} | {ratio['cpu']:.2f} | {row['wall']:.1f} | {ratio['wall']:.2f} "
                f"| {frames / row['wall']:.1f} | {row['memory']:.0f} |"
            )
        if args.memory:
            make_clip(folder / "long.mp4", sample, 120)
            peak = measure(process(folder / "long.mp4"))["memory"]
            print(f"\npeak memory of `vidseg process` with 120 s of video: {peak:.0f} MB")


if __name__ == "__main__":
    main()
