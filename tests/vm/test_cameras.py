"""A real camera driver (vivid), read by ``open_camera``: formats, clocks, unplugging, and others who hold it."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from vm import BARS, CAMERA, FEED, VIRTUAL, wait_for

from tests.vm.feeding import Feed
from vidseg.errors import DeviceUnavailableError, SourceError
from vidseg.frame import chroma_size
from vidseg.sources.camera import Camera, CameraMode, open_camera
from vidseg.sources.v4l2 import V4L2Source
from vidseg.v4l2 import VideoDevice

SMALL = (360, 640)


def bars(frame):
    """Return the mean colour of each bar, on a row that no text covers."""
    y, u, v = (np.asarray(plane) for plane in frame.planes)
    height, width = frame.size
    row = int(height * 0.8)
    places = [int((i + 0.5) * width / 8) for i in range(8)]
    return [(int(y[row, x]), int(u[row // 2, x // 2]), int(v[row // 2, x // 2])) for x in places]


@pytest.mark.parametrize("packing", ["yuyv", "nv12"])
def test_a_format_of_the_camera(packing):
    with open_camera(CAMERA, CameraMode(SMALL, Fraction(15), packing)) as source:
        assert isinstance(source, V4L2Source)
        assert source.info.size == SMALL
        assert source.info.live
        assert source.info.fps == 15
        assert source.notes == (f"vivid (/dev/video0): 640x360 {packing.upper()} at 15 fps",)
        frames = list(itertools.islice(source, 5))
        now = time.monotonic()
    for frame in frames:
        assert frame.size == SMALL
        assert [plane.shape for plane in frame.planes[1:]] == [chroma_size(SMALL)] * 2
        assert frame.color == source.info.color
    times = [frame.time for frame in frames]
    assert times == sorted(set(times))
    assert all(now - 120 < at <= now for at in times), "not time.monotonic's clock"
    assert source.corrupt == 0
    assert (source.info.color.matrix, source.info.color.full_range) == ("bt601", False)
    seen = bars(frames[-1])
    print(packing, seen, frames[-1].color)
    assert np.abs(np.subtract(seen, BARS)).max() <= 2


def test_mjpeg_through_a_real_device():
    # vivid has no MJPEG: a second process feeds it into v4l2loopback, whose other end is a camera like any other.
    with Feed(FEED, "mjpeg", SMALL) as feed, open_camera(FEED, CameraMode(SMALL, None, "mjpeg")) as source:
        assert source.info.size == SMALL
        assert "MJPEG" in source.notes[0]
        assert source.info.color.full_range
        assert source.info.color.matrix == "bt601"
        frames = list(itertools.islice(source, 4))
        for frame in frames:
            for plane, value in zip(frame.planes, feed.color, strict=True):
                assert np.abs(plane.astype(int) - value).max() <= 2


@pytest.mark.further
def test_the_nearest_mode_is_taken_and_said():
    with open_camera(CAMERA, CameraMode((350, 600), Fraction(25))) as source:
        assert source.info.size == SMALL
        assert source.notes[0].endswith("the nearest to 600x350")
    with pytest.raises(DeviceUnavailableError, match="gives no MJPEG, only"):
        open_camera(CAMERA, CameraMode(pixel_format="mjpeg"))


@pytest.mark.further
def test_close_ends_the_wait_of_another_thread():
    source = open_camera(CAMERA, CameraMode(SMALL, Fraction(1)))
    ended = threading.Event()

    def read():
        for _ in source:
            pass
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.5)
    source.close()
    assert ended.wait(30)
    thread.join(30)
    assert not thread.is_alive()
    assert not any(CAMERA in os.readlink(f"/proc/self/fd/{fd}") for fd in _open_files())


def _open_files():
    for fd in os.listdir("/proc/self/fd"):
        if os.path.lexists(f"/proc/self/fd/{fd}"):
            yield fd


def test_unplugged_and_plugged_in_again(plug):
    camera = Camera(CAMERA, CameraMode(SMALL, Fraction(15)))
    source = camera()
    frames = iter(source)
    assert next(frames).size == SMALL
    plug.pull()
    with pytest.raises(DeviceUnavailableError, match=r"vivid was unplugged: plug it in"):
        for _ in itertools.islice(frames, 100):
            pass
    source.close()
    with pytest.raises(DeviceUnavailableError, match="there is no camera /dev/video0"):
        camera()
    plug.put()
    with camera() as again:
        assert next(iter(again)).size == SMALL


def test_unplugged_while_a_thread_waits(plug):
    source = open_camera(CAMERA, CameraMode(SMALL, Fraction(1)))
    caught: list[BaseException] = []

    def read():
        try:
            for _ in source:
                pass
        except SourceError as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.5)
    plug.pull()
    thread.join(30)
    assert not thread.is_alive()
    assert "unplugged" in str(caught[0])
    source.close()


@pytest.mark.further
def test_plugged_in_again_under_another_number(plug):
    camera = Camera("vivid", CameraMode(SMALL, Fraction(15)))
    camera().close()
    blocker = os.open(CAMERA, os.O_RDWR)  # whoever still holds the old number keeps it
    plug.pull()
    (plug.driver / "bind").write_text("vivid.0")
    os.close(blocker)
    wait_for(lambda: re.search("vivid", subprocess.getoutput("cat /sys/class/video4linux/*/name")), "the camera")
    with camera() as source:
        print(source, source.notes)
        assert next(iter(source)).size == SMALL
    plug.pull()
    plug.put()


def test_busy():
    with VideoDevice(CAMERA) as other:
        other.set_format("YUYV", SMALL)
        other.start()
        with pytest.raises(DeviceUnavailableError, match=r"vivid is in use by .*: close it there") as caught:
            open_camera(CAMERA, CameraMode(SMALL))
    assert "\n" not in str(caught.value)
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, CAMERA], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DeviceUnavailableError, match=rf"in use by python\S* \(process {holder.pid}\): close it"):
            open_camera(CAMERA, CameraMode(SMALL))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


_HOLD = """
import sys, time
from vidseg.v4l2 import VideoDevice
device = VideoDevice(sys.argv[1]); device.set_format("YUYV", (360, 640)); device.start()
print("held", flush=True); time.sleep(600)
"""


@pytest.mark.further
def test_a_virtual_camera_that_nobody_feeds():
    with pytest.raises(DeviceUnavailableError, match="vidseg shows nothing yet: start what feeds it"):
        open_camera(VIRTUAL)


@pytest.mark.further
def test_opening_again_and_again_leaves_nothing():
    before = sorted(_open_files())
    for _ in range(5):
        with open_camera(CAMERA, CameraMode(SMALL)) as source:
            next(iter(source))
    assert len(list(_open_files())) <= len(before)


@pytest.mark.further
def test_a_consumer_that_is_slow_gets_the_newest_frame():
    with open_camera(CAMERA, CameraMode(SMALL, Fraction(15))) as source:
        frames = iter(source)
        next(frames)
        time.sleep(2)
        asked = time.monotonic()
        assert next(frames).time > asked - 1
        assert source.dropped > 0
