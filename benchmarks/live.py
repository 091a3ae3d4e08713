"""What `vidseg webcam` costs while it runs, beside the loop of every tutorial, in one run.

    python benchmarks/live.py [--seconds 20] [--rounds 2] [--feed mjpeg] [--size 1280x720]

A file on a RAM disk is played in real time at 30 frames a second instead of a camera, MJPEG as most webcams send it,
or raw YUYV, decoding included; the result goes to /dev/null. Each program runs as a process of its own, in turn, and
its CPU time is the operating system's (all threads) between the third second and the last. The tutorial's loop reads
by OpenCV, runs the same network, blends in float RGB and converts to I420, as pyvirtualcam does. Needs Linux.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from process import machine

WARM = 3.0
"""Seconds at the start that are not counted."""
SWITCHES = 10

TUTORIAL = """
import sys, time, cv2, numpy as np
from vidseg.engine import open_engine
engine = open_engine("unet-s", "auto", size=(160, 256))
background = None
out = open("/dev/null", "wb")
due = time.monotonic()
count = 0
while True:
    source = cv2.VideoCapture(sys.argv[1])
    while True:
        ok, frame = source.read()
        if not ok:
            break
        h, w = frame.shape[:2]
        if background is None:
            background = cv2.resize(cv2.imread(sys.argv[2]), (w, h)).astype(np.float32)
        small = cv2.resize(frame, (256, 160), interpolation=cv2.INTER_AREA)[..., ::-1].astype(np.float32) / 127.5 - 1
        alphas, _ = engine.infer(np.ascontiguousarray(small.transpose(2, 0, 1)[None]))
        alpha = cv2.resize(alphas[0], (w, h))[..., None]
        blended = (frame * alpha + background * (1 - alpha)).astype(np.uint8)
        out.write(cv2.cvtColor(blended, cv2.COLOR_BGR2YUV_I420))
        count += 1
        print(count, flush=True)
        due = max(due + 1 / 30, time.monotonic() - 1)
        time.sleep(max(0, due - time.monotonic()))
"""


def make_feed(path: Path, sample: Path, size: tuple[int, int], feed: str, seconds: float = 4) -> None:
    """Write what a camera would send: the sample, forth and back, with a little sensor noise."""
    height, width = size
    with av.open(str(sample)) as container:
        frames = [f.to_ndarray(format="bgr24") for f, _ in zip(container.decode(video=0), range(120), strict=False)]
    high, wide = frames[0].shape[:2]
    crop = min(wide, high * 16 // 9), min(high, wide * 9 // 16)
    x, y = (wide - crop[0]) // 2, (high - crop[1]) // 2
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    noise = [np.random.default_rng(i).normal(0, 2, (height, width, 1)).astype(np.int8) for i in range(4)]
    with av.open(str(path), "w") as sink:
        out = sink.add_stream("mjpeg" if feed == "mjpeg" else "rawvideo", rate=Fraction(30))
        out.width, out.height, out.pix_fmt = width, height, "yuvj422p" if feed == "mjpeg" else "yuyv422"
        if feed == "mjpeg":
            out.codec_context.qmin = out.codec_context.qmax = 4
        for i in range(round(seconds * 30)):
            picture = frames[order[i % len(order)]][y : y + crop[1], x : x + crop[0]]
            big = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
            big = np.clip(big.astype(np.int16) + noise[i % 4], 0, 255).astype(np.uint8)
            sink.mux(out.encode(av.VideoFrame.from_ndarray(big, format="bgr24").reformat(format=out.pix_fmt)))
        sink.mux(out.encode(None))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, all its threads (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> float:
    """Return the most memory that a process has had, in MB."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def ask(request: dict[str, object]) -> dict[str, object]:
    """Ask the one session that runs."""
    from vidseg.live.control import ask

    return ask(request)


def webcam(feed: Path, background: str, *more: str) -> list[str]:
    """Return the command."""
    line = ["webcam", "--camera", str(feed), "--bg", background, "--out", "-:raw", "--always-on", "--quiet", *more]
    return [sys.executable, "-m", "vidseg", *line]


def run_webcam(command: list[str], seconds: float) -> dict[str, float]:
    """Run for so long; return what it has cost."""
    with open(os.devnull, "wb") as null, subprocess.Popen(command, stdout=null) as process:
        try:
            _await_session(process)
            time.sleep(WARM)
            before, start = cpu_seconds(process.pid), time.monotonic()
            frames = ask({"do": "status"})["status"]["frames"]
            time.sleep(seconds)
            cores = (cpu_seconds(process.pid) - before) / (time.monotonic() - start)
            elapsed = time.monotonic() - start
            status = ask({"do": "status"})["status"]
            memory = peak_memory(process.pid)
        finally:
            process.terminate()
    return {
        "cores": cores,
        "fps": (status["frames"] - frames) / elapsed,
        "p50": status["latency"]["total"]["p50"],
        "p99": status["latency"]["total"]["p99"],
        "memory": memory,
    }


def run_tutorial(feed: Path, background: str, seconds: float) -> dict[str, float]:
    """Run the tutorial's loop for so long; return what it has cost."""
    command = [sys.executable, "-c", textwrap.dedent(TUTORIAL), str(feed), background]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        seen = [0]

        def count() -> None:
            for line in process.stdout:
                seen[0] = int(line)

        reader = threading.Thread(target=count, daemon=True)
        reader.start()
        while not seen[0]:
            time.sleep(0.01)
        time.sleep(WARM)
        before, start, frames = cpu_seconds(process.pid), time.monotonic(), seen[0]
        time.sleep(seconds)
        elapsed = time.monotonic() - start
        cores, memory = (cpu_seconds(process.pid) - before) / elapsed, peak_memory(process.pid)
        fps = (seen[0] - frames) / elapsed
        process.terminate()
        reader.join()
    return {"cores": cores, "fps": fps, "memory": memory}


def run_reader(feed: Path, size: tuple[int, int]) -> dict[str, float]:
    """Read what comes out: when the first composite comes, and how many frames a switch of background takes.

    The background is a colour, so a frame with anything else in it is a composite; a corner tells which colour it is.
    """
    height, width = size
    colors = ["black", "white"]
    start = time.monotonic()
    with subprocess.Popen(webcam(feed, colors[0]), stdout=subprocess.PIPE, bufsize=0) as process:
        seen: list[tuple[float, int, bool]] = []  # when, luma of the corner, whether somebody is there

        def read() -> None:
            frame = np.empty(width * height * 3 // 2, np.uint8)
            while True:
                got = 0
                while got < frame.size:
                    part = process.stdout.readinto(memoryview(frame)[got:])
                    if not part:
                        return
                    got += part
                luma = frame[: width * height].reshape(height, width)
                seen.append(
                    (time.monotonic(), int(luma[2, 2]), bool((abs(luma[::8, ::8] - float(luma[2, 2])) > 20).any()))
                )

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        while not (seen and seen[-1][2]):
            time.sleep(0.005)
        first = next(when for when, _, somebody in seen if somebody) - start
        time.sleep(1)
        late = []
        for number in range(SWITCHES):
            old = seen[-1][1]
            ask({"do": "change", "values": {"background": colors[(number + 1) % 2]}})
            count = len(seen)
            while abs(seen[-1][1] - old) < 20:
                time.sleep(0.001)
            late.append(next(i for i, (_, luma, _) in enumerate(seen[count:]) if abs(luma - old) >= 20))
            time.sleep(0.3)
        process.terminate()
        reader.join()
    return {"first": first, "switch": max(late)}


def _await_session(process: subprocess.Popen[bytes]) -> None:
    from vidseg.errors import ControlError

    while process.poll() is None:
        try:
            if ask({"do": "status"})["status"]["frames"]:
                return
        except ControlError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"vidseg webcam ended with {process.returncode}")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--feed", choices=("mjpeg", "yuyv"), action="append")
    parser.add_argument("--size", choices=("1280x720", "1920x1080"), action="append")
    parser.add_argument("--no-tutorial", action="store_true")
    args = parser.parse_args()
    import vidseg

    sample = Path(vidseg.__file__).parent / "demo" / "sample.mp4"
    print(f"{machine()}\n{args.seconds:g} s of 30 frames a second, median of {args.rounds} runs in turn\n")
    print("| feed | program | frames/s | cores | × tutorial | delay p50, p99 ms | peak MB | first picture s | switch |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        os.environ["XDG_RUNTIME_DIR"] = name  # no other session is asked
        beach = Path(name) / "beach.png"
        cv2.imwrite(str(beach), np.linspace(0, 255, 1920 * 1080 * 3).reshape(1080, 1920, 3).astype(np.uint8))
        for size in args.size or ("1280x720", "1920x1080"):
            width, height = map(int, size.split("x"))
            for feed in args.feed or ("mjpeg", "yuyv"):
                clip = Path(name) / "feed.avi"
                make_feed(clip, sample, (height, width), feed)
                ours, theirs, started = [], [], []
                for _ in range(args.rounds):
                    ours.append(run_webcam(webcam(clip, str(beach)), args.seconds))
                    if not args.no_tutorial:
                        theirs.append(run_tutorial(clip, str(beach), args.seconds))
                    started.append(run_reader(clip, (height, width)))
                row = {key: statistics.median(run[key] for run in ours) for key in ours[0]}
                start = {key: statistics.median(run[key] for run in started) for key in started[0]}
                ratio = ""
                if theirs:
                    # By the frame: the loop may be too slow to see all of them.
                    per_frame = [
                        (run["cores"] / run["fps"]) / (loop["cores"] / loop["fps"])
                        for run, loop in zip(ours, theirs, strict=True)
                    ]
                    ratio = f"{statistics.median(per_frame):.2f}"
                print(
                    f"| {size} {feed} | vidseg webcam | {row['fps']:.1f} | {row['cores']:.2f} | {ratio} "
                    f"| {row['p50']:.1f}, {row['p99']:.1f} | {row['memory']:.0f} | {start['first']:.2f} "
                    f"| {start['switch']:.0f} |",
                    flush=True,
                )
                if theirs:
                    loop = {key: statistics.median(run[key] for run in theirs) for key in theirs[0]}
                    numbers = f"{loop['fps']:.1f} | {loop['cores']:.2f} | 1 | | {loop['memory']:.0f}"
                    print(f"| | tutorial loop | {numbers} | | |", flush=True)


if __name__ == "__main__":
    main()
