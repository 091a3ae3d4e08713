"""The numbers and structures of ``linux/videodev2.h``; the devices themselves are asked inside tests/vm."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("Video4Linux2 is Linux's", allow_module_level=True)

from vidseg import v4l2

# As a C compiler prints them on x86_64 and arm64 from the header of Linux 6.1.
REQUESTS = {
    "QUERYCAP": 0x80685600,
    "ENUM_FMT": 0xC0405602,
    "G_FMT": 0xC0D05604,
    "S_FMT": 0xC0D05605,
    "REQBUFS": 0xC0145608,
    "QUERYBUF": 0xC0585609,
    "QBUF": 0xC058560F,
    "DQBUF": 0xC0585611,
    "STREAMON": 0x40045612,
    "STREAMOFF": 0x40045613,
    "G_PARM": 0xC0CC5615,
    "S_PARM": 0xC0CC5616,
    "ENUM_FRAMESIZES": 0xC02C564A,
    "ENUM_FRAMEINTERVALS": 0xC034564B,
}


@pytest.mark.parametrize(("name", "number"), REQUESTS.items())
def test_requests(name, number):
    assert getattr(v4l2, name) == number


def test_requests_as_this_system_s_compiler_has_them(tmp_path):
    compiler = shutil.which("cc")
    if compiler is None or not os.path.exists("/usr/include/linux/videodev2.h"):
        pytest.skip("needs a C compiler and the kernel's headers")
    lines = "".join(f'printf("{name} %lu\\n", (unsigned long)VIDIOC_{name});' for name in REQUESTS)
    source = tmp_path / "numbers.c"
    source.write_text(f"#include <linux/videodev2.h>\n#include <stdio.h>\nint main() {{ {lines} }}\n")
    subprocess.run([compiler, "-o", str(tmp_path / "numbers"), str(source)], check=True)
    said = subprocess.run([str(tmp_path / "numbers")], check=True, capture_output=True, text=True).stdout
    assert {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", said)} == REQUESTS


def test_four_characters():
    assert v4l2.fourcc("YUYV") == 0x56595559
    for name in ("MJPG", "NV12", "Y8"):
        assert v4l2.fourcc_name(v4l2.fourcc(name)) == name
    assert v4l2.fourcc_name(v4l2.fourcc("RGB3") | 1 << 31) == "RGB3"  # V4L2_PIX_FMT_FLAG_BE


def test_what_is_no_device(tmp_path):
    with pytest.raises(FileNotFoundError):
        v4l2.VideoDevice("/dev/video97")
    before = len(os.listdir("/proc/self/fd"))
    with v4l2.VideoDevice(os.devnull) as device, pytest.raises(OSError, match="ioctl") as caught:
        device.capability()
    assert caught.value.errno in (errno.ENOTTY, errno.EINVAL)
    device.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_capabilities():
    camera = v4l2.Capability("uvcvideo", "Cam", "usb-1", v4l2.CAP_CAPTURE | v4l2.CAP_STREAMING)
    assert camera.captures
    assert not camera.loopback
    assert not v4l2.Capability("uvcvideo", "Cam", "usb-1", 0x00800000 | v4l2.CAP_STREAMING).captures  # metadata
    assert v4l2.Capability("v4l2 loopback", "vidseg", "platform:v4l2loopback-010", v4l2.CAP_OUTPUT).loopback
