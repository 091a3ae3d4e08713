"""The whole of ``vidseg webcam``: a real camera in, a real virtual camera out, which another program reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from vm import BARS, CAMERA, FEED, VIRTUAL, wait_for

from tests.vm.feeding import Feed
from vidseg.devices import holders
from vidseg.live.control import ask
from vidseg.v4l2 import VideoDevice

SIZE = (180, 320)
RATE = 5
"""Of the camera."""
OUT_RATE = 2
"""Of the virtual camera: half a second for a frame, so that a slow machine need not compute a smaller network."""
BLUE = "#1e90ff"
SHOWN = (121, 194, 70)
"""The same in BT.601, limited range."""


class Webcam:
    """``vidseg webcam`` into the virtual camera; it has to end well when it is told to.

    Args:
        network: Folder of the model.
        arguments: Further ones of the command line.
    """

    def __init__(self, network: Path, *arguments: str) -> None:
        command = [sys.executable, "-X", "faulthandler", "-m", "vidseg", "webcam", "--json"]
        # ONNX Runtime is ready in a fifth of the time that OpenVINO takes to compile.
        command += ["--model", str(network), "--runtime", "onnxruntime", "--size", f"{SIZE[1]}x{SIZE[0]}"]
        command += ["--fps", str(RATE), "--target-fps", str(OUT_RATE), "--bg", BLUE, "--out", VIRTUAL, *arguments]
        self._said, self._result = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
        self._process = subprocess.Popen(command, stdout=self._result, stderr=self._said)

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def status(self) -> dict[str, Any]:
        """Return what ``vidseg ctl status`` says."""
        return dict(ask({"do": "status"}, VIRTUAL)["status"])

    def wait_until(self, done: Any, what: str) -> None:
        """Wait for something while it runs."""
        wait_for(lambda: not self.alive() or done(), what, 900)
        assert self.alive(), f"it ended while it was waited for: {what}"

    def end(self) -> dict[str, Any]:
        """Ask it to end; returns its result."""
        assert self.alive(), "it ended by itself"
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(300)
        self._result.seek(0)
        result = json.loads(self._result.read())
        assert status == result["status"] == 128 + signal.SIGTERM
        return dict(result)

    def close(self) -> None:
        """Say what it said, and leave nothing."""
        print(f"status before it was killed: {self._process.poll()}")
        self._process.kill()
        self._process.wait()
        for file in (self._said, self._result):
            file.seek(0)
            print(file.read().decode(errors="replace"))
            file.close()


@contextmanager
def webcam(network: Path, *arguments: str) -> Iterator[Webcam]:
    running = Webcam(network, *arguments)
    try:
        running.wait_until(lambda: is_fed(VIRTUAL), "the virtual camera")
        yield running
    finally:
        running.close()


def is_fed(path: str) -> bool:
    """Whether somebody writes into a virtual camera."""
    with VideoDevice(path, write=False) as device:
        return device.capability().captures


def read(frames: int = 1) -> np.ndarray:
    """Return frames of the virtual camera as the program ffmpeg reads them: ``(n, h * 3 / 2, w)``, I420."""
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "v4l2", "-i", VIRTUAL, "-frames:v", str(frames)]
    done = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"], capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    height, width = SIZE
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, height * 3 // 2, width)
    assert len(pictures) == frames
    return pictures


def planes(picture: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return luma and chroma at half the size, as integers."""
    height, width = SIZE
    u, v = picture[height:].reshape(2, height // 2, width // 2).astype(int)
    return picture[:height:2, ::2].astype(int), u, v


def background(picture: np.ndarray) -> float:
    """Return how much of a picture shows nothing but the background."""
    near = [np.abs(plane - value) <= 6 for plane, value in zip(planes(picture), SHOWN, strict=True)]
    return float(np.all(near, axis=0).mean())


def shows_bars(picture: np.ndarray) -> bool:
    """Whether a picture shows vivid's bars, in their colours."""
    height, width = SIZE
    row, places = int(height * 0.4), [int((i + 0.5) * width / 16) for i in range(8)]
    seen = [[plane[row, x] for plane in planes(picture)] for x in places]
    return int(np.abs(np.subtract(seen, BARS)).max()) <= 3


def keep(name: str, picture: np.ndarray) -> None:
    """Leave a picture beside the report, to be looked at."""
    shown = cv2.cvtColor(picture, cv2.COLOR_YUV2BGR_I420)
    cv2.imwrite(str(Path(os.environ.get("OUT", tempfile.gettempdir())) / f"{name}.png"), shown)


def test_the_room_is_shown_only_when_it_is_asked_for(network):
    with webcam(network, "--camera", CAMERA, "--pixel-format", "yuyv", "--always-on") as running:
        running.wait_until(lambda: running.status()["frames"], "a composite")
        said = subprocess.check_output(["v4l2-ctl", "-d", VIRTUAL, "--get-fmt-video", "--get-parm"], text=True)
        assert f"{SIZE[1]}/{SIZE[0]}" in said
        assert "'YU12'" in said
        assert f"{OUT_RATE}.000 ({OUT_RATE}/1)" in said
        shares = [background(picture) for picture in read(8)]
        print(shares)
        assert min(shares) > 0.98  # vivid shows bars and text, and nobody

        ask({"do": "change", "values": {"background": "none"}}, VIRTUAL)
        running.wait_until(lambda: shows_bars(read()[0]), "the room")
        keep("room", read()[0])
        ask({"do": "change", "values": {"background": BLUE}}, VIRTUAL)
        running.wait_until(lambda: background(read()[0]) > 0.98, "the background")
        pictures = read(8)
        keep("empty", pictures[-1])
        assert min(map(background, pictures)) > 0.98
        result = running.end()
    assert result["frames"] > 0
    assert result["failures"] == 0
    assert not holders(CAMERA)


def test_unplugged_while_somebody_looks(network, plug):
    with webcam(network, "--camera", CAMERA, "--pixel-format", "nv12", "--always-on") as running:
        running.wait_until(lambda: running.status()["frames"], "a composite")
        assert min(map(background, read(3))) > 0.98
        plug.pull()
        running.wait_until(lambda: running.status()["camera"] == "lost", "the loss to be noticed")
        without = read(5)  # it goes on
        keep("unplugged", without[-1])
        assert min(map(background, without)) > 0.98
        before = running.status()["frames"]
        plug.put()
        running.wait_until(lambda: running.status()["frames"] > before, "the picture to return")
        assert min(map(background, read(5))) > 0.98
        assert running.end()["openings"] >= 2


def test_a_person_before_another_background(network):
    # vivid has no MJPEG and nobody in it: a second process feeds v4l2loopback, whose other end is a camera like any.
    clip = Path(os.environ["OUT"]) / "clip.mjpeg"
    with (
        Feed(FEED, "mjpeg", SIZE, clip),
        webcam(network, "--camera", FEED, "--pixel-format", "mjpeg", "--always-on", "--on-failure", "hold") as running,
    ):
        running.wait_until(lambda: background(read()[0]) < 0.9, "the person")
        pictures = read(8)
        keep("person", pictures[-1])
        shares = [background(picture) for picture in pictures]
        print(shares)
        assert all(0.3 < share < 0.8 for share in shares)
        running.end()


def test_on_demand_with_two_readers(network):
    def reads() -> bool:
        return bool(holders(CAMERA))

    with webcam(network, "--camera", CAMERA, "--on-demand") as running:
        running.wait_until(lambda: not reads(), "the camera to be closed")
        assert background(read()[0]) > 0.98  # it exists and shows the background
        running.wait_until(lambda: not reads(), "the camera to be closed")
        readers = [_reader(), _reader()]
        try:
            running.wait_until(reads, "the camera to be opened")
            readers[0].kill()
            readers[0].wait()
            time.sleep(10)  # twice as long as somebody who has left is waited for
            assert reads(), "one reader is left"
        finally:
            for reader in readers:
                reader.kill()
                reader.wait()
        running.wait_until(lambda: not reads(), "the camera to be closed again")
        assert not running.status()["wanted"]
        running.end()


def _reader() -> subprocess.Popen[bytes]:
    command = ["v4l2-ctl", "-d", VIRTUAL, "--stream-mmap", "--stream-to=/dev/null"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
