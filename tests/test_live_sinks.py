"""Where a live run goes, each read back: recordings after a crash, a window on a real X server, real servers, a pipe.

Virtual cameras are written and read in tests/vm/test_outputs.py, where the kernel has one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.servers import free_port
from tests.test_sinks import BT709, frame, info, read
from vidseg.color import rgb_from_planes, to_color
from vidseg.errors import (
    DeviceUnavailableError,
    MissingDependencyError,
    OutputClosedError,
    OutputExistsError,
    SinkError,
)
from vidseg.frame import RGB, Color, Frame, allocate
from vidseg.sinks import Sink
from vidseg.sinks.i420 import READ_AS, even, to_i420
from vidseg.sinks.live import open_live_sink
from vidseg.sinks.push import PushSink, public
from vidseg.sinks.v4l2loopback import V4L2LoopbackSink
from vidseg.sources.pyav import PyAVSource

ROOT = Path(__file__).parent.parent
SIZE = (96, 160)
JPEG, LIMITED = Color("bt601", True), Color("bt601", False)

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")


def wait_for(done: Callable[[], object], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.02)


def flat(y: int, u: int, v: int, index: int = 0, size: tuple[int, int] = SIZE, color: Color = LIMITED) -> Frame:
    planes = allocate(size)
    for plane, value in zip(planes, (y, u, v), strict=True):
        plane[...] = value
    return Frame(planes, index, Fraction(1, 30), color)


# -- other colours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [JPEG, Color("bt709"), Color("bt709", True), Color("bt2020")])
@pytest.mark.parametrize("size", [(90, 160), (7, 9), (2, 2)])
def test_another_colour_is_the_same_light(source: Color, size: tuple[int, int]) -> None:
    """Of flat two by two blocks, each conversion is exact to rounding."""
    rng = np.random.default_rng(3)
    planes = allocate(size)
    for plane in planes:
        plane[...] = rng.integers(70, 180, plane.shape)
    before = Frame(planes, 5, Fraction(1, 30), source)
    copies = [plane.copy() for plane in planes]
    after = to_color(before, LIMITED)
    assert (after.color, after.depth, after.pts) == (LIMITED, 8, 5)
    assert all(np.array_equal(a, b) for a, b in zip(planes, copies, strict=True))

    def light(one: Frame) -> np.ndarray:
        """R'G'B' with chroma repeated, not clipped, in float64."""
        from vidseg.color import rgb_matrix

        matrix, offset = rgb_matrix(one.color)
        u, v = (np.kron(plane, np.ones((2, 2)))[: size[0], : size[1]] for plane in one.planes[1:])
        return np.stack([one.planes[0], u, v], -1).astype(np.float64) @ matrix.T + offset

    # Half a step in each of three samples, with the largest weights there are (BT.2020's and BT.709's of blue).
    assert np.abs(light(after) - light(before)).max() * 255 < 0.5 * (1.17 + 1.6 + 2.1)


def test_what_is_right_already_is_not_touched() -> None:
    one = flat(100, 110, 120)
    assert to_color(one, READ_AS) is one
    data = to_i420(one)
    assert np.shares_memory(data, one.planes[0])
    assert data.ctypes.data == one.planes[0].ctypes.data
    assert data.nbytes == 96 * 160 * 3 // 2


def test_planes_of_other_layouts_become_one_run() -> None:
    wide = np.arange(96 * 192, dtype=np.uint32).astype(np.uint8).reshape(96, 192)
    one = Frame((wide[:, :160], wide[:48, 10:90], wide[48:, 20:100]), 0, Fraction(1, 30), LIMITED)
    data = to_i420(one)
    expected = b"".join(np.ascontiguousarray(plane).tobytes() for plane in one.planes)
    assert data.tobytes() == expected
    swapped = flat(100, 110, 120)
    data = to_i420(replace(swapped, planes=(swapped.planes[0], swapped.planes[2], swapped.planes[1])))
    assert list(data[[0, 96 * 160, -1]]) == [100, 120, 110]


def test_an_odd_row_and_column_are_left_out() -> None:
    assert even((97, 161)) == (96, 160)
    one = flat(100, 110, 120, size=(97, 161))
    data = to_i420(one)
    assert data.nbytes == 96 * 160 * 3 // 2
    assert set(data[: 96 * 160]) == {100}


@pytest.mark.parametrize("depth", [10, 16])
def test_deeper_samples_are_rounded(depth: int) -> None:
    planes = allocate(SIZE, depth)
    for plane, value in zip(planes, (100, 110, 255), strict=True):
        plane[...] = (value << (depth - 8)) + (1 << (depth - 9))  # a half more
    deep = to_color(Frame(planes, 0, Fraction(1, 30), LIMITED, depth), LIMITED)
    assert [plane[0, 0] for plane in deep.planes] == [101, 111, 255]


def test_pictures_in_rgb_become_420() -> None:
    planes = tuple(np.full(SIZE, value, np.uint8) for value in (200, 30, 90))  # G, B, R
    made = to_color(Frame(planes, 0, Fraction(1, 30), RGB), LIMITED)  # type: ignore[arg-type]
    assert made.subsampled
    rgb = rgb_from_planes(made.planes, made.color)
    assert np.abs(rgb.astype(int) - (90, 200, 30)).max() <= 2


# -- recordings --------------------------------------------------------------------------------------------------------

NAMES = ("talk.mkv", "talk.mp4", "talk.mov", "talk.webm", "talk.ts")
CRASH = """
import sys, time
from tests.test_sinks import frame, info
from vidseg.sinks.live import open_live_sink

sinks = [open_live_sink(name, info((96, 160))) for name in sys.argv[1:]]
for index in range(120):
    for sink in sinks:
        sink.write(frame(index, (96, 160)))
print("written", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a process recorded 120 frames in every type of file when it was killed."""
    if sys.platform == "win32":
        pytest.skip("needs SIGKILL")
    folder = tmp_path_factory.mktemp("crashed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(CRASH), *NAMES]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        child.kill()
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_survives_a_crash(crashed: Path, name: str) -> None:
    path = crashed / name
    assert not path.exists()
    with PyAVSource(str(path.with_name(f"talk.partial{path.suffix}"))) as source:
        got = list(source)
    assert len(got) >= 120 - 35  # a second, and what its container's last block holds
    assert np.abs(got[80].planes[0].astype(int) - frame(80, SIZE).planes[0]).mean() < 6


def test_a_recording_has_the_times_of_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "talk.mp4"
    sink = open_live_sink(str(path), replace(info(SIZE), time_base=Fraction(1, 90000), live=True))
    times = [0, 3100, 5900, 9000, 90_000, 93_000]
    for index, time_ in enumerate(times):
        sink.write(frame(index, SIZE, pts=time_, time_base=Fraction(1, 90000)))
    assert os.listdir(tmp_path) == ["talk.partial.mp4"]
    sink.commit()
    assert os.listdir(tmp_path) == ["talk.mp4"]
    _, got = read(path)
    assert [round(one.pts * one.time_base * 90000) for one in got] == times
    with av.open(str(path)) as container:  # a plain file in the end: its index stands where any player finds it
        assert container.streams.video[0].frames == len(times)


def test_a_recording_spares_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.mkv").write_bytes(b"old")
    with pytest.raises(OutputExistsError, match=r"a\.mkv exists"):
        open_live_sink(str(tmp_path / "a.mkv"), info())
    (tmp_path / "b.partial.mkv").write_bytes(b"of a crash")
    sink = open_live_sink(str(tmp_path / "b.mkv"), info())
    sink.write(frame(0))
    assert sink.abort(keep_partial=True) == str(tmp_path / "b.partial-2.mkv")
    assert (tmp_path / "b.partial.mkv").read_bytes() == b"of a crash"


def test_names() -> None:
    for name in ("nonsense", "camera2", "http://example.org/x"):
        with pytest.raises(SinkError, match="choose"):
            open_live_sink(name, info())
    with pytest.raises(SinkError, match=r"\.txt is no video type"):
        open_live_sink("talk.txt", info())


# -- virtual cameras, where there are none -----------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux")
def test_a_virtual_camera_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailableError, match="/dev/video98 does not exist: sudo modprobe v4l2loopback"):
        open_live_sink("/dev/video98", info())
    (tmp_path / "file").touch()
    with pytest.raises(DeviceUnavailableError, match="is no video device"):
        V4L2LoopbackSink(str(tmp_path / "file"), info())
    if not os.path.exists("/dev/video0"):
        with pytest.raises(DeviceUnavailableError, match="there is no virtual camera: sudo modprobe v4l2loopback"):
            open_live_sink("virtual", info())


def test_virtual_cameras_of_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    from vidseg.sinks.virtualcam import VirtualCameraSink

    if not os.path.exists("/dev/video0"):
        pytest.importorskip("pyvirtualcam", reason="needs the extra virtualcam")
        with pytest.raises(DeviceUnavailableError, match="no virtual camera can be used: install OBS") as caught:
            VirtualCameraSink("virtual", info())
        assert len(str(caught.value).splitlines()) > 1
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vidseg\[virtualcam\]'"):
        VirtualCameraSink("virtual", info())


# -- the window --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def screen() -> Iterator[str]:
    """A real X server without a monitor."""
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb")
    pytest.importorskip("sdl2", reason="needs the extra preview")
    out, back = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(back), "-screen", "0", "640x480x24", "-nolisten", "tcp"],
        pass_fds=[back],
        stderr=subprocess.DEVNULL,
    )
    os.close(back)
    with open(out) as told:
        display = f":{told.readline().strip()}"
    yield display
    server.terminate()
    server.wait()


@pytest.fixture
def window(screen: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    return screen


def grab(display: str) -> np.ndarray:
    with av.open(display, format="x11grab", options={"video_size": "640x480", "draw_mouse": "0"}) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def show(sink: Sink, one: Frame, display: str, done: Callable[[np.ndarray], object]) -> np.ndarray:
    """Write a frame until the screen shows it."""
    until = time.monotonic() + 30
    while True:
        sink.write(one)
        seen = grab(display)
        if done(seen):
            return seen
        assert time.monotonic() < until, "the screen does not show it"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "color", [LIMITED, JPEG, Color("bt709"), Color("bt709", True)], ids=["601", "601 full", "709", "709 full"]
)
def test_the_window_shows_the_picture(window: str, color: Color) -> None:
    sink = open_live_sink("preview", info(SIZE, color=color))
    one = flat(120, 90, 170, color=color)
    for plane, value in zip(one.planes, (60, 150, 110), strict=True):
        plane[:, : plane.shape[1] // 2] = value
    expected = rgb_from_planes(one.planes, color).astype(int)[:, [20, 140]]
    left, right = expected[50, 0], expected[50, 1]

    def seen(rgb: np.ndarray) -> bool:
        at = np.abs(rgb.astype(int) - right).max(2) <= 4
        return bool(at.sum() > 5000)

    try:
        rgb = show(sink, one, window, seen).astype(int)
    finally:
        sink.commit()
    rows, columns = np.nonzero(np.abs(rgb - right).max(2) <= 4)
    top, edge = rows.min(), columns.min()
    assert rows.max() + 1 - top == 96
    assert 78 <= columns.max() + 1 - edge <= 80  # the right half, at its own size; chroma runs over the edge
    assert np.abs(rgb[top : top + 96, edge - 78 : edge - 4] - left).max() <= 4


def test_the_window_is_not_larger_than_the_screen(window: str) -> None:
    sink = open_live_sink("preview", info((1080, 1920)))
    try:
        bright = flat(235, 128, 128, size=(1080, 1920))
        rgb = show(sink, bright, window, lambda seen: (seen > 240).all(2).sum() > 20_000)
    finally:
        sink.commit()
    rows, columns = np.nonzero((rgb > 240).all(2))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert width <= 0.7 * 640 + 1
    assert abs(width / height - 1920 / 1080) < 0.02


def tell(display: str, *arguments: str) -> None:
    subprocess.run(["xdotool", *arguments], check=True, env={**os.environ, "DISPLAY": display}, timeout=30)


@pytest.mark.skipif(shutil.which("xdotool") is None, reason="needs xdotool")
def test_keys_are_characters(window: str) -> None:
    keys: list[str] = []
    sink = open_live_sink("preview", info(SIZE), on_key=keys.append)
    try:
        show(sink, flat(235, 128, 128), window, lambda seen: (seen > 240).all(2).sum() > 5000)
        tell(window, "windowfocus", str(the_window(window)))
        for name in ("m", "space", "question", "bracketleft", "plus", "7", "Escape"):
            tell(window, "key", name)
        wait_for(lambda: len(keys) == 7)
    finally:
        sink.commit()
    assert keys == ["m", " ", "?", "[", "+", "7", "\x1b"]


def the_window(display: str) -> int:
    command, environment = ["xdotool", "search", "--class", "^vidseg$"], {**os.environ, "DISPLAY": display}
    found: list[bytes] = []

    def look() -> bool:
        found[:] = subprocess.run(command, env=environment, capture_output=True, timeout=30).stdout.split()
        return bool(found)

    wait_for(look)
    return int(found[0])


def close_window(display: str) -> None:
    """Ask the window to close, as a click on its cross does (ICCCM 4.2.8.1)."""

    class Message(ctypes.Structure):
        _fields_ = (
            ("type", ctypes.c_int),
            ("serial", ctypes.c_ulong),
            ("send_event", ctypes.c_int),
            ("display", ctypes.c_void_p),
            ("window", ctypes.c_ulong),
            ("message_type", ctypes.c_ulong),
            ("format", ctypes.c_int),
            ("data", ctypes.c_long * 5),
            ("rest", ctypes.c_long * 24),
        )

    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    x11.XInternAtom.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
    x11.XSendEvent.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
    x11.XCloseDisplay.argtypes = (ctypes.c_void_p,)
    server = x11.XOpenDisplay(display.encode())
    message = Message(type=33, window=the_window(display), format=32)
    message.message_type = x11.XInternAtom(server, b"WM_PROTOCOLS", 0)
    message.data[0] = x11.XInternAtom(server, b"WM_DELETE_WINDOW", 0)
    assert x11.XSendEvent(server, message.window, 0, 0, ctypes.byref(message))
    x11.XCloseDisplay(server)


def written_until(sink: Sink, error: type[Exception]) -> Exception:
    """Write until it fails, and return how."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            sink.write(flat(100, 128, 128))
        except error as why:
            return why
        time.sleep(0.01)
    pytest.fail("it does not fail")


@pytest.mark.skipif(shutil.which("xdotool") is None, reason="needs xdotool")
def test_closing_the_window_is_an_end_and_no_failure(window: str) -> None:
    before = threading.active_count()
    keys: list[str] = []
    sink = open_live_sink("preview", info(SIZE), on_key=keys.append)
    show(sink, flat(235, 128, 128), window, lambda seen: (seen > 240).all(2).sum() > 5000)
    close_window(window)
    assert "was closed" in str(written_until(sink, OutputClosedError))
    assert keys == []
    assert sink.abort() is None
    assert threading.active_count() == before


def test_a_window_that_is_torn_away_is_a_failure(window: str) -> None:
    sink = open_live_sink("preview", info(SIZE))
    sink.write(flat(235, 128, 128))
    sink._window._process.kill()  # type: ignore[attr-defined]
    assert "cannot be shown any more" in str(written_until(sink, SinkError))
    sink.abort()


def test_a_window_that_hangs_does_not_hold_up_the_end(window: str) -> None:
    sink = open_live_sink("preview", info(SIZE))
    os.kill(sink._window._process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    failed: list[Exception] = []

    def fill() -> None:
        try:
            while True:
                sink.write(flat(100, 128, 128))
        except SinkError as error:
            failed.append(error)

    writer = threading.Thread(target=fill)
    writer.start()
    time.sleep(0.5)
    assert writer.is_alive()  # the pipe is full
    sink.interrupt()  # type: ignore[attr-defined]
    writer.join(10)
    assert not writer.is_alive()
    assert len(failed) == 1
    sink.abort()


def test_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sdl2", reason="needs the extra preview")
    if sys.platform != "linux":
        pytest.skip("there always is a screen")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(DeviceUnavailableError, match="no preview window can be opened"):
        open_live_sink("preview", info(SIZE))
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_no_library_for_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vidseg\[preview\]'"):
        open_live_sink("preview", info(SIZE))


# -- servers -----------------------------------------------------------------------------------------------------------

LISTENERS = {
    "rtmp": ("rtmp://127.0.0.1:{port}/live/secret", ("-listen", "1", "-i", "{url}")),
    "rtsp": ("rtsp://127.0.0.1:{port}/live", ("-rtsp_flags", "listen", "-i", "{url}")),
    "srt": ("srt://127.0.0.1:{port}", ("-i", "{url}?mode=listener")),
    "udp": ("udp://127.0.0.1:{port}", ("-f", "mpegts", "-i", "{url}")),
}


@needs_ffmpeg
@pytest.mark.parametrize("kind", LISTENERS)
def test_a_server_gets_the_pictures(tmp_path: Path, kind: str) -> None:
    """The program ffmpeg listens, decodes and writes down what it has seen: ten frames of it."""
    form, arguments = LISTENERS[kind]
    url = form.format(port=free_port())
    probe = ("-probesize", "50000", "-analyzeduration", "200000", "-fflags", "nobuffer")
    listening = [argument.format(url=url) for argument in arguments]
    server = subprocess.Popen(
        [
            *("ffmpeg", "-nostdin", "-v", "error", *probe, *listening, "-frames:v", "10"),
            *("-f", "rawvideo", "-pix_fmt", "yuv420p", str(tmp_path / "seen.yuv")),
        ]
    )
    sink = None
    try:
        until = time.monotonic() + 30
        while sink is None:
            try:
                sink = open_live_sink(url, info(SIZE, color=LIMITED))
            except SinkError:  # it does not listen yet
                assert time.monotonic() < until
                time.sleep(0.2)
        index = 0
        while server.poll() is None and time.monotonic() < until + 30:
            try:
                sink.write(flat(120, 90, 170, index))
            except SinkError:
                if kind != "srt" or index > 300:
                    break
                sink.abort()  # its listener was not ready
                sink = open_live_sink(url, info(SIZE, color=LIMITED))
            index += 1
            time.sleep(1 / 60)
        assert server.wait(10) == 0
    finally:
        if sink is not None:
            sink.abort()
        server.kill()
        server.wait()
    seen = np.fromfile(tmp_path / "seen.yuv", np.uint8).reshape(-1, 96 * 160 * 3 // 2)
    assert len(seen) == 10
    luma, blue, red = np.split(seen[-1].astype(int), [96 * 160, 96 * 160 * 5 // 4])
    assert [abs(int(np.median(plane)) - value) <= 2 for plane, value in ((luma, 120), (blue, 90), (red, 170))] == [
        True
    ] * 3


@needs_ffmpeg
def test_a_server_that_goes_away(tmp_path: Path) -> None:
    url = f"rtmp://127.0.0.1:{free_port()}/live/secret"
    command = ["ffmpeg", "-nostdin", "-v", "quiet", "-listen", "1", "-i", url, "-f", "null", "-"]
    server = subprocess.Popen(command)
    before = threading.active_count()
    try:
        sink = None
        until = time.monotonic() + 30
        while sink is None:
            try:
                sink = open_live_sink(url, info(SIZE))
            except SinkError:
                assert time.monotonic() < until
                time.sleep(0.2)
        commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
        assert not [line for line in commands if "sender" in line and "secret" in line]
        for index in range(30):
            sink.write(frame(index, SIZE))
    finally:
        server.kill()
        server.wait()
    said = str(written_until(sink, SinkError))
    assert "secret" not in said
    assert said.startswith("rtmp://127.0.0.1")
    assert "cannot be sent to: " in said
    sink.abort()
    assert threading.active_count() == before


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidseg.sinks.push.SILENCE", 2.0)
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"rtmp://user:word@127.0.0.1:{server.getsockname()[1]}/live/secret"
        with pytest.raises(SinkError, match=r"live/… cannot be sent to: no answer for 4 seconds") as caught:
            PushSink(url, info(SIZE))
    assert "word" not in str(caught.value)
    assert threading.active_count() == before


def test_nobody_listens() -> None:
    for kind in ("rtmp", "rtsp"):
        with pytest.raises(SinkError, match="Connection refused"):
            open_live_sink(f"{kind}://127.0.0.1:{free_port()}/live/x", info(SIZE))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtmp://a.example/live2/abcd-key", "rtmp://a.example/live2/…"),
        ("rtmps://u:p@a.example:443/app/key?x=y", "rtmps://…@a.example:443/app/…"),
        ("srt://host:9000?streamid=publish:key&passphrase=word", "srt://host:9000"),
        ("rtsp://u:p@host/path", "rtsp://…@host/path"),
        ("udp://239.0.0.1:5000", "udp://239.0.0.1:5000"),
    ],
)
def test_keys_are_not_shown(url: str, shown: str) -> None:
    assert public(url) == shown


def test_another_size_is_refused(tmp_path: Path) -> None:
    sink = open_live_sink(str(tmp_path / "a.mkv"), info(SIZE, color=BT709))
    with pytest.raises(ValueError, match="another size"):
        sink.write(frame(0, (48, 64)))
    sink.abort()
    assert os.listdir(tmp_path) == []
