"""Virtual cameras of v4l2loopback: written by vidseg, read by another program; and whether somebody reads them."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
from vm import CAMERA, FEED, VIRTUAL, wait_for

from vidseg.errors import DeviceUnavailableError
from vidseg.frame import Color, Frame, StreamInfo, allocate
from vidseg.live.demand import Demand, open_probe
from vidseg.sinks import Sink
from vidseg.sinks.i420 import to_i420
from vidseg.sinks.live import open_live_sink
from vidseg.sinks.v4l2loopback import V4L2LoopbackSink
from vidseg.v4l2 import VideoDevice

SIZE = (120, 160)
LIMITED, JPEG = Color("bt601", False), Color("bt601", True)


def stream(size: tuple[int, int] = SIZE, color: Color = LIMITED) -> StreamInfo:
    return StreamInfo(size, Fraction(15), Fraction(1, 15), color, live=True)


def picture(size: tuple[int, int] = SIZE, color: Color = LIMITED) -> Frame:
    planes = allocate(size)
    rng = np.random.default_rng(7)
    for plane in planes:
        plane[...] = rng.integers(30, 220, plane.shape)
    return Frame(planes, 0, Fraction(1, 15), color)


@contextmanager
def shown(sink: Sink, frame: Frame) -> Iterator[None]:
    """Write a frame over and over."""
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(0.05):
            sink.write(frame)

    sink.write(frame)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()


def read(path: str, frames: int = 2) -> bytes:
    """Return what the program ffmpeg reads from a camera, as it lies there."""
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "v4l2", "-i", path, "-frames:v", str(frames)]
    done = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@contextmanager
def held(path: str) -> Iterator[None]:
    """Another process that has a device open."""
    code = "import sys; file = open(sys.argv[1], 'rb', 0); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        yield
        child.communicate()


@pytest.mark.parametrize("color", [LIMITED, JPEG, Color("bt709")], ids=["601", "601 full", "709"])
@pytest.mark.parametrize("size", [SIZE, pytest.param((91, 121), marks=pytest.mark.further)], ids=["even", "odd"])
def test_another_program_reads_what_is_written(size, color):
    frame = picture(size, color)
    sink = open_live_sink(VIRTUAL, stream(size, color))
    with shown(sink, frame):
        got = read(VIRTUAL)
    sink.commit()
    assert got == 2 * to_i420(frame).tobytes()


@pytest.mark.further
def test_pyvirtualcam():
    """The adapter of Windows and macOS, with the library's backend for this system."""
    pytest.importorskip("pyvirtualcam", reason="needs the extra virtualcam")
    from vidseg.sinks.virtualcam import VirtualCameraSink

    frame = picture(color=JPEG)
    sink = VirtualCameraSink(VIRTUAL, stream(color=JPEG))
    assert sink.notes == (f"The virtual camera is called {VIRTUAL}",)
    with shown(sink, frame):
        got = read(VIRTUAL)
    sink.commit()
    sink.commit()
    assert got == 2 * to_i420(frame).tobytes()


@pytest.mark.further
def test_the_first_free_one_is_taken():
    first = open_live_sink("virtual", stream())
    assert repr(first) == f"V4L2LoopbackSink({VIRTUAL!r})"
    first.write(picture())
    second = open_live_sink("virtual", stream())
    assert repr(second) == f"V4L2LoopbackSink({FEED!r})"
    second.write(picture())
    with pytest.raises(DeviceUnavailableError, match="no virtual camera can be used") as caught:
        open_live_sink("virtual", stream())
    lines = str(caught.value).splitlines()
    assert [line.partition(" ")[0] for line in lines[1:]] == [VIRTUAL, FEED]
    assert all("is fed by another program already" in line for line in lines[1:])
    first.abort()
    second.abort()
    open_live_sink("virtual", stream()).abort()


@pytest.mark.further
def test_a_camera_is_no_virtual_one():
    with pytest.raises(DeviceUnavailableError, match=r"/dev/video0 is a camera \(vivid\), no virtual one"):
        V4L2LoopbackSink(CAMERA, stream())


def test_the_size_stays_while_somebody_has_it_open():
    sink = V4L2LoopbackSink(VIRTUAL, stream())
    sink.write(picture())
    with held(VIRTUAL):
        sink.commit()
        try:
            V4L2LoopbackSink(VIRTUAL, stream((96, 128))).commit()  # from 0.13 on it only stays for those who stream
        except DeviceUnavailableError as error:
            assert re.search(r"stays at 160x120 YU12.*: close python.*give --size 160x120", str(error))  # noqa: PT017
        V4L2LoopbackSink(VIRTUAL, stream()).commit()  # the same size again, as after a failure
    sink = V4L2LoopbackSink(VIRTUAL, stream((96, 128)))
    sink.commit()


def test_demand():
    """Who writes does not count, nor who looks for a moment; a reader does, until some time after it left."""
    sink = open_live_sink(VIRTUAL, stream())
    frame = picture()
    told: list[bool] = []
    with shown(sink, frame), Demand(VIRTUAL, told.append, attack=4, release=6) as watched:
        print("readers are seen by:", watched.how)
        for _ in range(3):
            with VideoDevice(VIRTUAL, write=False) as device:  # this process's own
                device.capability()
            subprocess.run(["v4l2-ctl", "-d", VIRTUAL, "-D"], check=True, capture_output=True, timeout=300)
            time.sleep(1)
        assert not watched.wanted
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "v4l2", "-i", VIRTUAL, "-f", "null", "-"]
        reader = subprocess.Popen(command)
        wait_for(lambda: watched.wanted, "demand")
        assert reader.poll() is None
        reader.terminate()
        reader.wait()
        wait_for(lambda: not watched.wanted, "the end of demand")
    assert told == [True, False]
    sink.commit()


@pytest.mark.further
def test_who_reads_before_is_seen():
    sink = open_live_sink(VIRTUAL, stream())
    with shown(sink, picture()):
        reader = subprocess.Popen(
            ["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "v4l2", "-i", VIRTUAL, "-f", "null", "-"]
        )
        wait_for(lambda: open_probe(VIRTUAL).reading(), "a reader")
        with Demand(VIRTUAL, attack=0.5) as watched:
            assert watched.wait(60)
        reader.terminate()
        reader.wait()
    sink.commit()
