"""The whole of ``vidseg webcam``: a real camera in, a real virtual camera out, which another program reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from vm import CAMERA, FEED, VIRTUAL, wait_for

from vidseg.devices import holders
from vidseg.v4l2 import VideoDevice

SMALL = (180, 320)
BLUE = (121, 194, 70)
"""#1e90ff in BT.601, limited range, within what rounding and the reader's conversion do to it."""
SAMPLE = Path(__file__).parents[2] / "vidseg" / "demo" / "sample.mp4"


@contextmanager
def webcam(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``vidseg webcam`` into the virtual camera; it has to end well when it is told to."""
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "vidseg",
        "webcam",
        "--size",
        "320x180",
        "--fps",
        "15",
        "--bg",
        "#1e90ff",
    ]
    with tempfile.TemporaryFile() as said:
        running = subprocess.Popen([*command, "--out", VIRTUAL, *arguments], stderr=said)
        try:
            yield running
            assert running.poll() is None, "it ended by itself"
            running.send_signal(signal.SIGTERM)
            assert running.wait(300) in (0, 128 + signal.SIGTERM)
        finally:
            print(f"status before it was killed: {running.poll()}")
            running.kill()
            running.wait()
            said.seek(0)
            print(said.read().decode(errors="replace"))


def read(frames: int, seconds: float = 600) -> np.ndarray:
    """Return frames of the virtual camera as the program ffmpeg reads them: ``(n, h * 3 / 2, w)``, I420."""
    command = [
        *("ffmpeg", "-nostdin", "-loglevel", "error", "-f", "v4l2", "-i", VIRTUAL, "-frames:v", str(frames)),
        *("-f", "rawvideo", "-pix_fmt", "yuv420p", "-"),
    ]
    done = subprocess.run(command, capture_output=True, timeout=seconds)
    assert done.returncode == 0, done.stderr.decode()
    height, width = SMALL
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, height * 3 // 2, width)
    assert len(pictures) == frames
    return pictures


def background(picture: np.ndarray) -> np.ndarray:
    """Return where a picture shows nothing but the background, ``(h / 2, w / 2)``."""
    height, width = SMALL
    chroma = picture[height:].reshape(2, height // 2, width // 2).astype(int)
    planes = (picture[:height:2, ::2].astype(int), chroma[0], chroma[1])
    return np.all([np.abs(plane - value) <= 6 for plane, value in zip(planes, BLUE, strict=True)], axis=0)


def is_fed(path: str) -> bool:
    """Whether somebody writes into a virtual camera."""
    with VideoDevice(path, write=False) as device:
        return device.capability().captures


def wait_for_the_virtual_camera(running: subprocess.Popen[bytes]) -> None:
    wait_for(lambda: is_fed(VIRTUAL) or running.poll() is not None, "the virtual camera", 900)
    assert running.poll() is None, "it ended by itself"


def keep(name: str, picture: np.ndarray) -> None:
    """Leave a picture beside the report, to be looked at."""
    shown = cv2.cvtColor(picture, cv2.COLOR_YUV2BGR_I420)
    cv2.imwrite(str(Path(os.environ.get("OUT", tempfile.gettempdir())) / f"{name}.png"), shown)


@pytest.mark.parametrize("packing", ["yuyv", "nv12"])
def test_nothing_of_an_empty_room(packing):
    with webcam("--camera", CAMERA, "--pixel-format", packing, "--always-on") as running:
        wait_for_the_virtual_camera(running)
        pictures = read(8)
    keep(f"empty-{packing}", pictures[-1])
    shares = [background(picture).mean() for picture in pictures]
    print(packing, shares)
    assert min(shares) > 0.98  # vivid shows bars and text, and nobody


def test_a_person_before_another_background():
    feed = subprocess.Popen(
        [
            *("ffmpeg", "-nostdin", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i", str(SAMPLE)),
            *("-vf", "scale=320:180,fps=15", "-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj422p", "-f", "v4l2", FEED),
        ]
    )
    try:
        wait_for(lambda: is_fed(FEED), "the feed", 300)
        with webcam("--camera", FEED, "--pixel-format", "mjpeg", "--always-on") as running:
            wait_for_the_virtual_camera(running)
            wait_for(lambda: background(read(1)[0]).mean() < 0.9, "the person", 300)
            pictures = read(8)
    finally:
        feed.kill()
        feed.wait()
    keep("person", pictures[-1])
    shares = [background(picture).mean() for picture in pictures]
    print(shares)
    assert all(0.2 < share < 0.9 for share in shares)


def test_on_demand_with_two_readers():
    def reads() -> bool:
        return bool(holders(CAMERA))

    with webcam("--camera", CAMERA, "--on-demand") as running:
        wait_for_the_virtual_camera(running)
        wait_for(lambda: not reads(), "the camera to be closed", 300)
        readers = [_reader(), _reader()]
        try:
            wait_for(reads, "the camera to be opened", 300)
            readers[0].kill()
            readers[0].wait()
            time.sleep(10)
            assert reads(), "one reader is left"
        finally:
            for reader in readers:
                reader.kill()
                reader.wait()
        wait_for(lambda: not reads(), "the camera to be closed again", 300)


def _reader() -> subprocess.Popen[bytes]:
    command = ["v4l2-ctl", "-d", VIRTUAL, "--stream-mmap", "--stream-to=/dev/null"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_unplugged_while_somebody_looks(plug):
    # The second run in this machine: the first has left the virtual camera as it found it.
    with webcam("--camera", CAMERA, "--always-on") as running:
        wait_for_the_virtual_camera(running)
        wait_for(lambda: holders(CAMERA), "the camera to be opened", 300)
        read(2)
        plug.pull()
        without = read(5)  # it goes on
        keep("unplugged", without[-1])
        assert running.poll() is None
        assert min(map(background_share, without)) > 0.5  # with the background, perhaps with a card on it
        plug.put()
        wait_for(lambda: holders(CAMERA), "the camera to be opened again", 300)
        assert min(map(background_share, read(5))) > 0.5


def background_share(picture: np.ndarray) -> float:
    return float(background(picture).mean())
