"""``vidseg devices`` and the other ways to open a camera, on real devices."""

from __future__ import annotations

import gc
import itertools
import json
import os
from fractions import Fraction

import pytest
from vm import CAMERA, FEED, VIRTUAL

from tests.vm.feeding import Feed
from vidseg.cli import app
from vidseg.devices import find_camera, holders, list_devices
from vidseg.frame import Frame, StreamInfo, allocate
from vidseg.sinks.v4l2loopback import V4L2LoopbackSink
from vidseg.sources.camera import CameraMode
from vidseg.v4l2 import CAP_OUTPUT, OUTPUT, VideoDevice

SMALL = (360, 640)


def test_devices_are_listed(capsys):
    with VideoDevice(CAMERA):
        assert app.run(["devices", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (camera,) = said["cameras"]
    assert (camera["path"], camera["name"], camera["driver"]) == (CAMERA, "vivid", "vivid")
    rates = {tuple(m["size"]): m["fps"] for m in camera["modes"] if m["pixel_format"] == "YUYV"}
    assert rates[SMALL] == ["40", "30", "25", "15", "25/2", "10", "5", "4", "2", "1"]
    assert os.getpid() in {holder["pid"] for holder in camera["holders"]}
    assert [device["path"] for device in said["virtual_cameras"]] == [VIRTUAL, FEED]
    assert [device["name"] for device in said["virtual_cameras"]] == ["vidseg", "feed"]
    assert app.run(["devices"]) == 0
    print(capsys.readouterr().out)


def test_a_virtual_camera_has_modes_while_it_is_fed():
    with Feed(FEED, "yuyv", SMALL):
        device = next(device for device in list_devices() if device.path == FEED)
        assert device.kind == "virtual"
        assert ("YUYV", SMALL) in {(mode.pixel_format, mode.size) for mode in device.modes}
        assert [holder.command.startswith("python") for holder in device.holders] == [True]
    assert holders(FEED) == ()


@pytest.mark.further
@pytest.mark.parametrize("way", ["ffmpeg", "opencv"])
def test_the_other_ways_to_open_it(way):
    from vidseg.sources.grabbing import open_device
    from vidseg.sources.opencv import open_opencv

    opens = {"ffmpeg": open_device, "opencv": open_opencv}[way]
    with opens(find_camera(CAMERA), CameraMode(SMALL, None, "yuyv")) as source:
        assert source.info.size == SMALL
        frames = list(itertools.islice(source, 3))
    assert all(frame.size == SMALL and frame.planes[0].std() > 20 for frame in frames)
    del frames, source
    gc.collect()  # what was a frame may outlive its camera


def test_a_virtual_camera_is_fed_again_and_again():
    info = StreamInfo(SMALL, Fraction(15), Fraction(1, 15))
    frame = Frame(allocate(SMALL), 0, info.time_base)
    for _ in range(2):
        sink = V4L2LoopbackSink(VIRTUAL, info)
        sink.write(frame)
        sink.commit()
    # Another program, which only writes, as ffmpeg does: the driver of Debian 12 then forgets what it is.
    with VideoDevice(VIRTUAL) as other:
        form = other.set_format("YUYV", SMALL, OUTPUT)
        os.write(other.fd, bytes(form.length))
    with VideoDevice(VIRTUAL, write=False) as left:
        print(f"{left.capability().flags:#x}")
    sink = V4L2LoopbackSink(VIRTUAL, info)
    sink.write(frame)
    sink.commit()
    with VideoDevice(VIRTUAL, write=False) as left:
        assert left.capability().flags & CAP_OUTPUT
