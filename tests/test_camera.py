"""Cameras without a camera: modes, planes and errors by value, and what stands in for one, for real.

Real devices are read inside the virtual machine: tests/vm.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import shutil
import subprocess
import threading
import time
from fractions import Fraction

import numpy as np
import pytest

from tests import media, servers
from vidseg.errors import DeviceUnavailableError, SourceError, SourceNotFoundError, VidsegError
from vidseg.frame import Color, Frame, allocate
from vidseg.sources.camera import Camera, CameraMode, open_camera
from vidseg.sources.newest import NewestSource
from vidseg.sources.realtime import RealTimeSource
from vidseg.sources.v4l2 import choose_mode, choose_rate, halve, unavailable, unpack
from vidseg.testing import SyntheticSource
from vidseg.v4l2 import Mode, PixelFormat

F = Fraction


def leftovers():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vidseg")]


@pytest.fixture(autouse=True)
def _nothing_is_left():
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    yield
    until = time.monotonic() + 15
    while leftovers() and time.monotonic() < until:
        time.sleep(0.02)
    assert leftovers() == []
    if before:
        assert len(os.listdir("/proc/self/fd")) <= len(before) + 1


# -- modes -------------------------------------------------------------------------------------------------------


def discrete(fourcc, height, width, *rates):
    return Mode(fourcc, (height, width), (height, width), rates=tuple(map(F, rates)))


# What a USB 2 webcam (Logitech C920) says, shortened.
WEBCAM = (
    discrete("YUYV", 480, 640, 30, 15),
    discrete("YUYV", 720, 1280, 10, 5),
    discrete("YUYV", 1080, 1920, 5),
    discrete("MJPG", 480, 640, 30, 15),
    discrete("MJPG", 720, 1280, 60, 30, 15),
    discrete("MJPG", 1080, 1920, 30, 15),
    discrete("H264", 1080, 1920, 30),
)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (CameraMode(), ("MJPG", (720, 1280), 30)),
        (CameraMode(size=(480, 640)), ("YUYV", (480, 640), 30)),  # raw is as fast there, and needs no decoder
        (CameraMode(size=(1080, 1920)), ("MJPG", (1080, 1920), 30)),
        (CameraMode(fps=F(60)), ("MJPG", (720, 1280), 60)),
        (CameraMode(pixel_format="yuyv"), ("YUYV", (480, 640), 30)),
        (CameraMode(size=(720, 1280), pixel_format="yuyv"), ("YUYV", (720, 1280), 10)),
        (CameraMode(size=(2160, 3840)), ("MJPG", (1080, 1920), 30)),
        (CameraMode(size=(480, 640), fps=F(15)), ("YUYV", (480, 640), 15)),
        (CameraMode(pixel_format="nv12"), None),
    ],
)
def test_the_mode_that_suits_best(wanted, chosen):
    assert choose_mode(WEBCAM, wanted) == chosen


def test_a_mode_of_a_camera_that_scales():
    anything = Mode("NV12", (1080, 1920), (16, 32), (8, 16), (F(60), F(1)))
    assert choose_mode((anything,), CameraMode((362, 645), F(30))) == ("NV12", (360, 640), 60)
    assert anything.nearest((4000, 4000)) == (1080, 1920)
    assert anything.nearest((2, 2)) == (16, 32)


def test_grey_only_where_there_is_nothing_else():
    grey = discrete("GREY", 720, 1280, 60)
    assert choose_mode((grey, discrete("YUYV", 240, 320, 10)), CameraMode())[0] == "YUYV"
    assert choose_mode((grey,), CameraMode())[0] == "GREY"


def test_rates():
    ntsc = F(30000, 1001)
    assert choose_rate((F(60), ntsc, F(15)), F(30)) == ntsc
    assert choose_rate((F(15), F(10)), F(30)) == 15
    assert choose_rate((), F(30)) is None


@pytest.mark.parametrize("wrong", [{"size": (0, 640)}, {"fps": F(0)}, {"fps": F(-1)}, {"pixel_format": "h264"}])
def test_a_mode_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=r"size|fps|pixel_format"):
        CameraMode(**wrong)


# -- planes ------------------------------------------------------------------------------------------------------


def rows(rng, height, width, stride):
    """Return random rows of ``width`` bytes that lie ``stride`` apart, the rest 99, and the rows without the rest."""
    data = np.full((height, stride), 99, np.uint8)
    data[:, :width] = rng.integers(0, 256, (height, width), np.uint8)
    return data.reshape(-1), data[:, :width].astype(int)


@pytest.mark.parametrize("size", [(4, 6), (5, 8), (720, 1280)])
@pytest.mark.parametrize("padding", [0, 4, 2])
@pytest.mark.parametrize(
    ("fourcc", "order"), [("YUYV", (0, 1, 3)), ("YVYU", (0, 3, 1)), ("UYVY", (1, 0, 2)), ("VYUY", (1, 2, 0))]
)
def test_packed_pictures(fourcc, order, size, padding):
    height, width = size
    stride = 2 * width + padding
    data, packed = rows(np.random.default_rng(1), height, 2 * width, stride)
    kept = data.copy()
    y, u, v = unpack(data, PixelFormat(fourcc, size, stride, len(data)))
    assert (y == packed[:, order[0] :: 2]).all()
    below = np.minimum(np.arange(0, height, 2) + 1, height - 1)
    for plane, at in ((u, order[1]), (v, order[2])):
        both = packed[::2, at::4] + packed[below, at::4]
        assert (plane == (both + 1) // 2).all()
    assert (data == kept).all()


@pytest.mark.parametrize("size", [(4, 6), (5, 8), (6, 7)])
@pytest.mark.parametrize("padding", [1, 2, 8])
@pytest.mark.parametrize("fourcc", ["NV12", "NV21", "YU12", "YV12", "GREY"])
def test_pictures_in_planes(fourcc, size, padding):
    height, width = size
    stride = width + padding
    stride += stride % 2
    rng = np.random.default_rng(2)
    luma, expected = rows(rng, height, width, stride)
    tall, wide = (height + 1) // 2, (width + 1) // 2
    if fourcc in ("NV12", "NV21"):
        chroma, pairs = rows(rng, tall, 2 * wide, stride)
        first, second = pairs[:, ::2], pairs[:, 1::2]
    elif fourcc == "GREY":
        chroma, first = np.empty(0, np.uint8), np.full((tall, wide), 128)
        second = first
    else:
        one, first = rows(rng, tall, wide, stride // 2)
        two, second = rows(rng, tall, wide, stride // 2)
        chroma = np.concatenate([one, two])
    data = np.concatenate([luma, chroma])
    y, u, v = unpack(data, PixelFormat(fourcc, size, stride, len(data)))
    if fourcc in ("NV21", "YV12"):
        first, second = second, first
    assert (y == expected).all()
    assert (u == first).all()
    assert (v == second).all()
    assert not any(np.shares_memory(plane, data) for plane in (y, u, v))


def test_rows_of_chroma_are_halved_by_their_mean():
    chroma = np.array([[0, 255, 10], [1, 255, 13], [7, 8, 9]], np.uint8)
    assert halve(chroma).tolist() == [[1, 255, 12], [7, 8, 9]]


@pytest.mark.parametrize(
    ("values", "matrix", "full"),
    [
        ({"colorspace": 8}, "bt601", False),  # sRGB, as UVC cameras say
        ({"colorspace": 3}, "bt709", False),
        ({"colorspace": 1}, "bt601", False),
        ({"colorspace": 7}, "bt601", True),  # JPEG
        ({"colorspace": 10}, "bt2020", False),
        ({"colorspace": 8, "encoding": 2}, "bt709", False),
        ({"colorspace": 8, "quantization": 1}, "bt601", True),
        ({"colorspace": 7, "quantization": 2}, "bt601", False),
    ],
)
def test_colours_as_the_kernel_means_them(values, matrix, full):
    color = PixelFormat("YUYV", (2, 2), 4, 8, **values).color
    assert (color.matrix, color.full_range) == (matrix, full)


# -- what is said ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "sudo usermod -aG video"),
        (errno.EBUSY, "is in use by another program: close it there"),
        (errno.ENODEV, "was unplugged: plug it in"),
        (errno.ENOENT, "does not exist"),
        (errno.ENOSPC, "--pixel-format mjpeg"),
        (errno.EIO, "does not answer"),
        (errno.EINVAL, "cannot be read: Invalid argument"),
    ],
)
def test_every_error_of_a_device_is_one_sentence(code, words):
    error = unavailable(OSError(code, os.strerror(code)), "Cam", "/dev/video77")
    assert str(error).startswith("Cam ")
    assert words in str(error)
    assert "\n" not in str(error)
    assert isinstance(error, SourceError)
    assert isinstance(error, OSError)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("/dev/video97", DeviceUnavailableError, "there is no camera /dev/video97"),
        ("97", DeviceUnavailableError, "there is no camera /dev/video97"),
        ("no such thing", DeviceUnavailableError, "there is no camera no such thing"),
        ("talk.mp4", SourceNotFoundError, "talk.mp4 is neither a camera nor a file"),
        ("/no/such/talk", SourceNotFoundError, "neither a camera nor a file"),
        ("rtsp://u:secret@127.0.0.1:1/x", SourceError, r"rtsp://…@127.0.0.1:1/x cannot be read: Connection refused"),
        ("nosuch://x", SourceError, "nosuch://x cannot be read: Protocol not found"),
    ],
)
def test_a_name_that_means_nothing(name, kind, words):
    with pytest.raises(kind, match=words) as caught:
        open_camera(name)
    assert isinstance(caught.value, VidsegError)
    assert "secret" not in str(caught.value)


# -- a file in real time -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Ten frames, 1/25 s each, whose luma counts."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return media.clip(path, 10, (48, 64), fps=F(25), container_options={"movflags": "+faststart"})


def test_only_a_device_tells_its_size_before_it_is_switched_on(clip):
    assert [Camera(name).peek() for name in (str(clip), "screen", "rtsp://127.0.0.1:9/x", "/dev/video99")] == [None] * 4


def test_a_file_is_played_in_real_time_and_goes_on_over_its_end(clip):
    with open_camera(str(clip)) as source:
        assert isinstance(source, RealTimeSource)
        assert source.info.live
        assert source.info.fps == 25
        began = time.monotonic()
        frames = []
        for frame in source:
            assert frame.time <= time.monotonic()
            frames.append(frame)
            if len(frames) + source.dropped >= 25:
                break
        now = time.monotonic()
    times = [frame.time for frame in frames]
    assert began <= times[0]
    assert times[-1] <= now
    steps = np.diff(times)
    # Over the end, too: every step is a whole number of frames (more than one where this machine made it skip).
    assert np.allclose(steps / 0.04, np.round(steps / 0.04), atol=0.01)
    assert (steps > 0.02).all()
    if not source.dropped:
        assert [f.planes[0].mean() for f in frames[:10]] == [f.planes[0].mean() for f in frames[10:20]]


def test_a_file_that_is_played_once(clip):
    with open_camera(str(clip), loop=False) as source:
        assert len(list(source)) + source.dropped == 10


def test_a_consumer_that_was_away_skips(clip):
    with RealTimeSource(str(clip)) as source:
        frames = iter(source)
        next(frames)
        time.sleep(0.25)
        asked = time.monotonic()
        assert next(frames).time > asked - 0.1
        assert source.dropped >= 4


def test_a_file_that_decodes_too_slowly_shows_some_of_it(clip):
    class Slow(SyntheticSource):
        def __iter__(self):
            for frame in super().__iter__():
                time.sleep(0.05)
                yield frame

    with RealTimeSource("slow", loop=False, opened=lambda _: Slow(40, fps=F(100))) as source:
        shown = len(list(source))
        assert 2 <= shown < 40
        assert shown + source.dropped == 40


def test_a_picture_stands_still(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "still.png"), np.full((8, 10, 3), 77, np.uint8))
    with open_camera(str(tmp_path / "still.png")) as source:
        frames = list(itertools.islice(source, 4))
    assert all((frame.planes[0] == 77).all() for frame in frames)
    assert len({frame.pts for frame in frames}) == 4


def test_close_ends_a_file(clip):
    source = RealTimeSource(str(clip), opened=functools.partial(_slow, 0.1))
    ended = threading.Event()

    def read():
        for _ in source:
            pass
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.1)
    source.close()
    assert ended.wait(10)
    thread.join()


def _slow(fps, _):
    return SyntheticSource(1000, fps=F(fps).limit_denominator(10))


# -- whatever blocks ---------------------------------------------------------------------------------------------


class Blocking(SyntheticSource):
    """A fake of a driver that never comes back, until ``release``."""

    def __init__(self, frames):
        super().__init__(100, live=True)
        self.release = threading.Event()
        self._before = frames

    def __iter__(self):
        yield from itertools.islice(super().__iter__(), self._before)
        assert self.release.wait(60)


def test_close_does_not_wait_for_a_source_that_blocks():
    blocking = Blocking(1)
    source = NewestSource(blocking)
    frames = iter(source)
    assert next(frames).size == (90, 160)
    ended = threading.Event()

    def read():
        assert list(frames) == []
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    began = time.monotonic()
    source.close()
    assert ended.wait(10)
    assert time.monotonic() - began < 10  # the driver would have kept it for a minute
    thread.join()
    blocking.release.set()


def test_only_the_newest_frame_waits():
    source = NewestSource(SyntheticSource(100, live=True), ends=True)
    until = time.monotonic() + 30
    while source.dropped < 99 and time.monotonic() < until:
        time.sleep(0.01)
    frames = list(source)
    assert len(frames) == 1
    assert abs(frames[0].time - time.monotonic()) < 60
    assert source.dropped == 99
    source.close()


@pytest.mark.parametrize("error", [OSError("injected"), SourceError("the cable")])
def test_what_a_source_raises_comes_through(error):
    with NewestSource(SyntheticSource(9, fail_at=3, error=error, live=True)) as source, pytest.raises(type(error)):
        list(source)


def test_the_end_of_a_live_stream_is_a_loss():
    with NewestSource(SyntheticSource(2, live=True)) as source, pytest.raises(SourceError, match="synthetic has ended"):
        list(source)


def test_the_time_of_a_camera_is_kept_if_it_is_near():
    class Stamped(SyntheticSource):
        def __iter__(self):
            self.at = time.monotonic() - 0.25
            for at in (self.at, self.at + 3600):  # the second is of another clock
                yield Frame(allocate((2, 2)), round(at * 1000), F(1, 1000), Color())
                while self.taken < 1:
                    time.sleep(0.001)

        taken = 0

    inner = Stamped()
    with NewestSource(inner, ends=True) as source:
        frames = iter(source)
        first = next(frames)
        inner.taken = 1
        second = next(frames)
    assert abs(first.time - inner.at) < 0.002
    assert first.time < second.time <= time.monotonic()


# -- the network -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "url"),
    [(servers.RTSP, "rtsp://u:secret@127.0.0.1:{}/live"), (servers.MotionJPEG, "http://127.0.0.1:{}/cam")],
)
def test_a_live_stream(server, url):
    running = server()
    try:
        with open_camera(url.format(running.port)) as source:
            assert source.info.size == server.SIZE
            assert source.info.live
            seen = []
            for frame in itertools.islice(source, 10):
                assert time.monotonic() - 60 < frame.time <= time.monotonic()
                seen.append(round(float(frame.planes[0].mean()) / 10))
            assert set(seen) <= {4, 7, 10, 13, 16}
            assert len(set(seen)) > 1
            running.silent.set()
            ended = threading.Event()

            def read():
                for _ in source:
                    pass
                ended.set()

            thread = threading.Thread(target=read)
            thread.start()
            time.sleep(0.2)
            source.close()
            assert ended.wait(3), "close did not end the wait for a silent server"
            thread.join()
            assert "secret" not in repr(source)
    finally:
        running.stop()


def test_a_live_stream_that_ends_is_lost():
    running = servers.RTSP(frames=40)
    try:
        with (
            open_camera(f"rtsp://127.0.0.1:{running.port}/live") as source,
            pytest.raises(SourceError, match=r"live has ended|live ended early"),
        ):
            for _ in source:
                pass
    finally:
        running.stop()


def test_a_file_on_a_server_is_played_in_real_time(clip):
    with servers.files(str(clip.parent)) as port, open_camera(f"http://127.0.0.1:{port}/{clip.name}") as source:
        times = [frame.time for frame in itertools.islice(source, 12)]
        assert source.info.live
    assert times[-1] - times[0] >= 0.04 * 11 - 0.001  # not faster than it plays
    with servers.files(str(clip.parent)) as port, pytest.raises(SourceNotFoundError, match="404"):
        open_camera(f"http://127.0.0.1:{port}/nothing.mp4")


def _sends(*arguments):
    """Start the program ffmpeg, which sends one grey picture over and over as a camera's encoder would."""
    return subprocess.Popen(
        [
            *("ffmpeg", "-nostdin", "-loglevel", "error", "-re", "-f", "lavfi", "-i", "color=0x808080:160x96:25"),
            *("-c:v", "libx264", "-tune", "zerolatency", "-g", "5", "-pix_fmt", "yuv420p", *arguments),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _protocols():
    program = shutil.which("ffmpeg")
    return subprocess.run([program, "-protocols"], capture_output=True, text=True).stdout.split() if program else []


@pytest.mark.parametrize("kind", ["udp", "rtmp", "srt"])
def test_a_pushed_stream(kind):
    if kind not in _protocols():
        pytest.skip(f"needs the program ffmpeg with {kind} (apt install ffmpeg)")
    port = servers.free_port()
    url = f"{kind}://127.0.0.1:{port}" + ("/live/x" if kind == "rtmp" else "")
    sending = _sends(
        *{
            "udp": ("-f", "mpegts", url),
            "rtmp": ("-f", "flv", "-listen", "1", url),
            "srt": ("-f", "mpegts", f"{url}?mode=listener"),
        }[kind]
    )
    try:
        with _patiently(url) as source:
            assert source.info.size == (96, 160)
            assert source.info.live
            for frame in itertools.islice(source, 5):
                assert abs(frame.planes[0].mean() - 126) < 2  # 128 of 255 in limited range
    finally:
        sending.kill()
        sending.wait()


def _patiently(url):
    """Open a stream whose server takes a moment to begin."""
    until = time.monotonic() + 20
    while True:
        try:
            return open_camera(url)
        except SourceError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def test_srt_without_the_program(monkeypatch):
    monkeypatch.setattr("vidseg.sources.network.speaks", lambda protocol: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DeviceUnavailableError, match="SRT needs the program ffmpeg"):
        open_camera("srt://127.0.0.1:9")


# -- screens -----------------------------------------------------------------------------------------------------


@pytest.fixture
def screen():
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb (apt install xvfb)")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "321x202x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as said:
        number = said.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


def test_a_screen(screen, monkeypatch):
    with open_camera(f"screen:{screen}", CameraMode(fps=F(20))) as source:
        assert source.info.size == (202, 321)
        assert source.info.fps == 20
        frame = next(iter(source))
        assert (np.asarray(frame.planes[0]) == 16).mean() > 0.9  # black but for the pointer
        assert not frame.color.full_range
    monkeypatch.setenv("DISPLAY", screen)
    with open_camera("screen") as source:
        assert source.info.size == (202, 321)


def test_a_screen_that_is_not_there(monkeypatch):
    with pytest.raises(DeviceUnavailableError, match="screen :997 cannot be opened: is an X server running"):
        open_camera("screen::997")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(DeviceUnavailableError, match="DISPLAY is not set"):
        open_camera("screen")
