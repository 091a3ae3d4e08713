"""Which device a name means, who holds it, and what ``vidseg devices`` shows; real devices are listed in tests/vm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction

import av
import pytest

from vidseg import devices
from vidseg.cli import app
from vidseg.devices import CameraModes, Device, Holder, find_camera, holders
from vidseg.errors import DeviceUnavailableError

# A laptop: its camera, a second on USB, and a virtual one in between.
INSIDE = Device("/dev/video0", "Integrated Camera", lasting="/dev/v4l/by-id/inside", bus="usb-1", driver="uvcvideo")
VIRTUAL = Device("/dev/video2", "vidseg", "virtual", bus="platform:v4l2loopback-002", driver="v4l2 loopback")
OUTSIDE = Device("/dev/video4", "HD Pro Webcam C920", bus="usb-2", driver="uvcvideo")


@pytest.fixture
def machine(monkeypatch):
    """A fake of a machine's devices: none of them can be plugged in here."""
    found = [INSIDE, VIRTUAL, OUTSIDE]
    monkeypatch.setattr(devices, "list_devices", lambda details=True: list(found))
    return found


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("", INSIDE),
        ("default", INSIDE),
        ("0", INSIDE),
        ("4", OUTSIDE),
        ("2", VIRTUAL),
        ("/dev/video4", OUTSIDE),
        ("c920", OUTSIDE),
        ("Integrated Camera", INSIDE),
        ("vidseg", VIRTUAL),
    ],
)
def test_what_a_name_means(machine, name, device):
    assert find_camera(name) == device


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("1", r"there is no camera /dev/video1: choose one of /dev/video0 \(Integrated Camera\), /dev/video4 \(HD Pro"),
        ("/dev/video1", "there is no camera /dev/video1"),
        ("/dev/null", "/dev/null is no camera"),
        ("c930", "there is no camera c930"),
        ("cam", r"cam fits several cameras, Integrated Camera \(/dev/video0\), HD Pro Webcam C920"),
    ],
)
def test_a_name_that_means_none_or_several(machine, name, words):
    with pytest.raises(DeviceUnavailableError, match=words) as caught:
        find_camera(name)
    assert "\n" not in str(caught.value)


def test_zero_is_the_first_camera_where_there_is_no_number_0(machine):
    machine[:] = [Device("/dev/video0", "vidseg", "virtual"), OUTSIDE]
    assert find_camera("0") == OUTSIDE
    machine[:] = [OUTSIDE]
    assert find_camera("0") == OUTSIDE
    machine[:] = []
    with pytest.raises(DeviceUnavailableError, match=r"there is no camera /dev/video0: plug one in"):
        find_camera("0")


def test_the_same_camera_is_found_under_another_number(machine):
    moved = Device("/dev/video7", INSIDE.name, lasting=INSIDE.lasting, bus="usb-9", driver="uvcvideo")
    taken = Device("/dev/video0", "Another", bus="usb-3", driver="uvcvideo")
    machine[:] = [taken, moved]
    assert find_camera("/dev/video0", known=INSIDE) == moved
    machine[:] = [taken]
    assert find_camera("/dev/video0", known=INSIDE) == taken  # it is gone: the name counts again


def test_a_camera_without_a_lasting_name_in_another_socket(machine):
    moved = Device("/dev/video9", OUTSIDE.name, bus="usb-7", driver="uvcvideo")
    machine[:] = [INSIDE, moved]
    assert find_camera("4", known=OUTSIDE) == moved
    machine[:] = [INSIDE, moved, Device("/dev/video11", OUTSIDE.name, bus="usb-8", driver="uvcvideo")]
    with pytest.raises(DeviceUnavailableError, match="there is no camera /dev/video4"):
        find_camera("4", known=OUTSIDE)


def test_a_lasting_path(machine, tmp_path):
    link = tmp_path / "usb-Maker_Cam_123-video-index0"
    link.symlink_to("/dev/video4")
    assert find_camera(str(link)) == OUTSIDE


def test_who_holds_a_device(tmp_path):
    # Any file will do: the kernel keeps the same list of it.
    file = tmp_path / "device"
    file.touch()
    code = "import sys; file = open(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(file)], **pipes) as process, file.open():
        assert process.stdout.readline() == b"held\n"
        (holder,) = holders(str(file))  # not this process
        process.stdin.close()
    assert holder.pid == process.pid
    assert str(holder) == f"{holder.command} (process {process.pid})"
    assert holders(str(file)) == ()


@pytest.mark.parametrize(("platform", "system"), [("darwin", "avfoundation"), ("win32", "dshow")])
def test_other_systems(monkeypatch, platform, system):
    class Told:  # a fake of what PyAV says there
        def __init__(self, name, description, *kinds):
            self.name, self.description, self.media_types = name, description, list(kinds)

    told = [
        Told("0", "FaceTime HD Camera", "video"),
        Told("1", "OBS Virtual Camera", "video"),
        Told("2", "Capture screen 0", "video"),
        Told("0", "MacBook Microphone", "audio"),
    ]
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "enumerate_input_devices", lambda name: told if name == system else [])
    found = devices.list_devices()
    assert [(device.name, device.kind) for device in found] == [
        ("FaceTime HD Camera", "camera"),
        ("OBS Virtual Camera", "virtual"),
    ]
    assert found[0].path == ("0" if platform == "darwin" else "FaceTime HD Camera")
    assert find_camera("facetime").name == "FaceTime HD Camera"


def test_a_system_that_is_not_known(monkeypatch):
    monkeypatch.setattr(sys, "platform", "plan9")
    with pytest.raises(DeviceUnavailableError, match="name one by its path"):
        devices.list_devices()


# -- vidseg devices ----------------------------------------------------------------------------------------------


@pytest.fixture
def shown(machine):
    rates = tuple(map(Fraction, (30, 15)))
    modes = (
        CameraModes("MJPEG", (720, 1280), rates),
        CameraModes("MJPEG", (1080, 1920), (Fraction(30000, 1001),)),
        CameraModes("YUYV", (480, 640), ()),
        CameraModes("NV12", (1080, 1920), rates, scales=True),
        CameraModes("H264", (1080, 1920), rates, readable=False),
    )
    machine[:] = [
        Device(
            "/dev/video0",
            "Cam\x1b[31m",
            lasting="/dev/v4l/by-id/cam",
            modes=modes,
            holders=(Holder(12, "zoom"), Holder(13, "obs")),
        ),
        Device("/dev/video1", "Locked", problem="it may not be opened by this user"),
    ]
    return machine


def test_devices_as_a_person_reads_them(shown, capsys):
    assert app.run(["devices"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Cameras",
        r"  /dev/video0  Cam\x1b[31m",
        "      /dev/v4l/by-id/cam",
        "      MJPEG  1920x1080 at 29.97, 1280x720 at 30",
        "      YUYV   640x480",
        "      NV12   up to 1920x1080 at 30",
        "      and 1 pixel format that is not read here",
        "      in use by zoom (process 12), obs (process 13)",
        "  /dev/video1  Locked",
        "      it may not be opened by this user",
        "Virtual cameras",
        "  none: install v4l2loopback (apt install v4l2loopback-dkms), then "
        "sudo modprobe v4l2loopback exclusive_caps=1 card_label='vidseg'",
    ]
    assert app.run(["devices", "-v"]) == 0
    assert "      H264   1920x1080 at 30\n" in capsys.readouterr().out


def test_devices_as_a_program_reads_them(shown, capsys):
    assert app.run(["devices", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["virtual_cameras"] == []
    first, second = said["cameras"]
    assert first["path"] == "/dev/video0"
    assert first["modes"][1] == {
        "pixel_format": "MJPEG",
        "size": [1080, 1920],
        "fps": ["30000/1001"],
        "scales": False,
        "readable": True,
    }
    assert first["holders"] == [{"pid": 12, "command": "zoom"}, {"pid": 13, "command": "obs"}]
    assert second["problem"] == "it may not be opened by this user"


def test_no_devices(machine, capsys):
    machine[:] = []
    assert app.run(["devices"]) == 0
    assert "none: plug one in; a video can stand in for it" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="asks the real system, which is Linux's here")
def test_this_machine_can_be_asked(capsys):
    assert app.run(["devices", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    nodes = [name for name in os.listdir("/dev") if name.startswith("video")]
    assert len(said["cameras"]) + len(said["virtual_cameras"]) <= len(nodes)
