"""The GStreamer element: installed by the command, run by the system's GStreamer in its own Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import vidseg.demo
from vidseg.integrations import gst_plugin
from vidseg.testing import SyntheticSource, room_share

ROOT = Path(__file__).parent.parent
SIZE = 96, 160
SYSTEM = "/usr/bin/python3"


def command(*arguments):
    line = [sys.executable, "-m", "vidseg", "gst", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(line, capture_output=True, text=True, timeout=180, env=environment)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return the environment of a person who has installed the element."""
    inspect = shutil.which("gst-inspect-1.0")
    loader = inspect and subprocess.run([inspect, "python"], capture_output=True, timeout=60).returncode == 0
    if not loader:
        pytest.skip("GStreamer, or its loader of elements written in Python, is not installed")
    there = subprocess.run([SYSTEM, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True)
    if there.stdout.strip() != str(tuple(sys.version_info[:2])):
        pytest.skip(f"GStreamer's Python is {there.stdout.strip()}, and this one is not")
    folder = tmp_path_factory.mktemp("home")
    mine = {"HOME": str(folder), "GST_REGISTRY": str(folder / "registry.bin")}
    mine |= {name: value for name in ("NUMBA_CACHE_DIR",) if (value := os.environ.get(name))}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in mine.items():
            patch.setenv(name, value)
        done = command("install", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["element"] == "works"
        yield folder
        assert command("uninstall", "--quiet").returncode == 0
    assert not list(folder.glob("**/gst_vidseg.py"))


def launch(line):
    return subprocess.run(["gst-launch-1.0", "-q", *line.split()], capture_output=True, text=True, timeout=180)


def test_the_element_is_there_with_its_properties(home):
    shown = subprocess.run(["gst-inspect-1.0", "vidseg"], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0
    for word in ("background", "blur", "model", "subject", "I420, (string)NV12"):
        assert word in shown.stdout


@pytest.mark.parametrize("form", ["I420", "NV12"])
def test_an_empty_room_becomes_the_background(home, form, tmp_path):
    # An odd half and a width that GStreamer pads.
    height, width = 90, 150
    out = tmp_path / "out.yuv"
    done = launch(
        f"videotestsrc num-buffers=3 pattern=red ! video/x-raw,format={form},width={width},height={height} "
        f"! vidseg background=#00ff00 ! filesink location={out}"
    )
    assert done.returncode == 0, done.stderr
    # Rows of GStreamer's video are multiples of four bytes long.
    stride, small = 152, 76
    frames = np.fromfile(out, np.uint8).reshape(3, -1)
    assert frames.shape[1] == stride * height + 2 * small * (height // 2)
    for frame in frames:
        luma = frame[: stride * height].reshape(height, stride)[:, :width]
        chroma = frame[stride * height :]
        if form == "I420":
            u, v = chroma.reshape(2, height // 2, small)[:, :, : width // 2]
        else:
            u, v = chroma.reshape(height // 2, stride)[:, :width].reshape(height // 2, width // 2, 2).transpose(2, 0, 1)
        # Green in BT.601 of limited range.
        for plane, sample in ((luma, 145), (u, 54), (v, 34)):
            np.testing.assert_allclose(plane.astype(int), sample, atol=1)


def test_a_picture_behind_whoever_is_before_a_camera(home, tmp_path):
    """The line of the documentation, with a test picture as the camera and a file as the virtual one."""
    beach = np.full((90, 160, 3), (200, 120, 40), np.uint8)
    beach[:, 80:] = 30, 90, 220
    cv2.imwrite(str(tmp_path / "beach.png"), beach)
    out = tmp_path / "out.y4m"
    done = launch(
        "videotestsrc num-buffers=3 pattern=red ! video/x-raw,format=YUY2,width=160,height=90,framerate=30/1 "
        f"! videoconvert ! vidseg background={tmp_path}/beach.png subject=largest ! videoconvert ! y4menc "
        f"! filesink location={out}"
    )
    assert done.returncode == 0, done.stderr
    with av.open(str(out)) as container:
        shown = [frame.to_ndarray(format="bgr24").astype(int) for frame in container.decode(video=0)]
    assert len(shown) == 3
    for frame in shown:
        assert np.abs(frame - beach)[:, np.r_[0:78, 82:160]].max() <= 4  # what 8 bits of limited range lose


def test_a_clip_of_a_person_keeps_the_person(home, tmp_path):
    with av.open(str(Path(vidseg.demo.__file__).parent / "sample.mp4")) as container:
        container.seek(2_000_000)
        picture = next(container.decode(video=0))
    rgb = picture.reformat(320, 180, "rgb24").to_ndarray()
    path, out = tmp_path / "clip.avi", tmp_path / "out.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", 25, options={"q": "2"})
        stream.width, stream.height, stream.pix_fmt = rgb.shape[1], rgb.shape[0], "yuvj420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format="yuvj420p")))
        container.mux(stream.encode(None))
    done = launch(
        f"filesrc location={path} ! avidemux ! jpegdec ! videoconvert ! vidseg background=#00ff00 "
        f"! jpegenc quality=95 ! avimux ! filesink location={out}"
    )
    assert done.returncode == 0, done.stderr
    with av.open(str(out)) as container:
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(shown) == 4
    with vidseg.Segmenter(stream=False) as segmenter:
        alpha = segmenter(rgb)
    # Two pixels from the edge, where chroma of half the size and blocks of JPEG mix what is on both sides.
    inside, outside = (cv2.erode((alpha == value).astype(np.uint8), np.ones((5, 5))) > 0 for value in (255, 0))
    assert min(inside.mean(), outside.mean()) > 0.1
    for frame in shown:
        assert np.abs(frame[inside] - rgb[inside]).mean() < 6
        assert np.abs(frame[outside] - (0, 255, 0)).mean() < 6


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ("background=no-such.jpg", "no-such.jpg does not exist"),
        ("background=transparent", "cannot be transparent"),
        ("model=no-such", "no model 'no-such'"),
        ("subject=smallest", "subject is 'smallest'"),
    ],
)
def test_what_cannot_be_is_an_error_of_the_pipeline(home, settings, text):
    done = launch(f"videotestsrc num-buffers=2 ! vidseg {settings} ! fakesink")
    assert done.returncode != 0
    assert text in done.stderr + done.stdout


SCRIPT = """
import json, sys
exec(open(sys.argv[1]).read().split("from vidseg")[0])  # the folders
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp
Gst.init(None)
import numpy as np
from vidseg.integrations import veil
from vidseg.segmenter import Segmenter
from vidseg.sinks.i420 import READ_AS
from vidseg.testing import FaultyEngine, SyntheticSource, person_share, room_share
from vidseg.convert import alike, to_frame

height, width = 96, 160
camera, engine, rows = SyntheticSource(0, (height, width)), FaultyEngine(), []
veil.Veil._opened = lambda self, frame: Segmenter(engine=engine)
pipeline = Gst.parse_launch(
    "appsrc name=in format=time caps=video/x-raw,format=I420,width=160,height=96,framerate=30/1,colorimetry=bt601 "
    "! vidseg name=vidseg background=#00ff00 ! appsink name=out sync=false"
)
source, sink, element = (pipeline.get_by_name(name) for name in ("in", "out", "vidseg"))
pipeline.set_state(Gst.State.PLAYING)
array = np.zeros((height * 3 // 2, width), np.uint8)
faults = ["", "raise", "nan", "inverted", "ones", ""]
for index in range(60):
    engine.fault = faults[index // 10]
    if index == 55:
        element.set_property("background", "#ffffff")
    given = alike(camera.draw(index), array, "i420")
    buffer = Gst.Buffer.new_wrapped(given.tobytes())
    buffer.pts = index * Gst.SECOND // 30
    assert source.push_buffer(buffer) == Gst.FlowReturn.OK
    sample = sink.try_pull_sample(60 * Gst.SECOND)
    got = sample.get_buffer()
    frame = to_frame(np.frombuffer(got.extract_dup(0, got.get_size()), np.uint8).reshape(array.shape), "i420")
    rows.append((room_share(frame), person_share(frame), got.pts, int(frame.planes[0][0, 0])))
veil.Veil._opened = None
pipeline.set_state(Gst.State.NULL)
print(json.dumps(rows))
"""


def test_a_network_that_fails_shows_nothing_of_the_room(home, tmp_path):
    assert room_share(SyntheticSource(0, SIZE).draw(0)) > 0.6  # what goes in
    script = tmp_path / "pipeline.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [SYSTEM, str(script), str(gst_plugin.plugin_path())], capture_output=True, text=True, timeout=240, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert max(room for room, *_ in rows) < 0.002
    assert [pts for _, _, pts, _ in rows] == [index * 10**9 // 30 for index in range(60)]
    assert min(person for _, person, *_ in rows[:10]) > 0.05
    assert max(person for _, person, *_ in rows[10:40]) < 0.001
    assert rows[-1][3] > 230 > rows[54][3]  # white after green


def test_without_a_loader_nothing_is_left_and_the_mend_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    done = command("install")
    assert done.returncode == 1
    assert "gstreamer1.0-python3-plugin-loader" in done.stderr
    assert not list(tmp_path.glob("**/*.py"))
    status = command("status")
    assert (status.returncode, status.stdout.count("not installed")) == (0, 2)
