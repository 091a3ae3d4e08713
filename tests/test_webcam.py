"""``vidseg webcam`` as a process: a file is the camera, the network is real, and what comes out is read back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vidseg.cli import webcam
from vidseg.cli.console import Console
from vidseg.cli.main import main
from vidseg.demo import __file__ as demo
from vidseg.live.config import Start, read_config
from vidseg.live.session import LiveStatus

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and sockets of POSIX")

SIZE = HEIGHT, WIDTH = 240, 320
LENGTH = HEIGHT * WIDTH * 3 // 2
NAVY, WHITE, TEAL = 29, 235, 93
"""Luma of the colours in BT.601, limited range: 16 + 219 * 0.114 * 128 / 255, and so on."""
SOON = 60.0
"""Seconds within which what has to come comes, even on a machine that does much else."""


@pytest.fixture(scope="module")
def camera(tmp_path_factory) -> Path:
    """A second of the demo's sample, small."""
    path = tmp_path_factory.mktemp("camera") / "camera.mp4"
    with av.open(str(Path(demo).parent / "sample.mp4")) as source, av.open(str(path), "w") as sink:
        out = sink.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "18"})
        out.width, out.height, out.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame, number in zip(source.decode(video=0), range(30), strict=False):
            picture = frame.reformat(WIDTH, HEIGHT, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 30)
            sink.mux(out.encode(picture))
        sink.mux(out.encode(None))
    return path


@pytest.fixture
def place(tmp_path, monkeypatch) -> Iterator[Path]:
    """A configuration folder and a runtime folder of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with tempfile.TemporaryDirectory(prefix="vs") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield tmp_path
        folder = Path(runtime, "vidseg")
        assert not folder.exists() or list(folder.iterdir()) == []  # no socket is left


class Run:
    """A ``vidseg webcam`` that writes bare samples to its standard output, which a thread reads."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "vidseg", "webcam", "--out", "-:raw", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.frames: list[np.ndarray] = []
        self.listening = True
        self._said: list[bytes] = []
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._hear)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while self.listening and len(data := self.process.stdout.read(LENGTH)) == LENGTH:
            self.frames.append(np.frombuffer(data, np.uint8)[: HEIGHT * WIDTH].reshape(SIZE))
        self.process.stdout.close()

    def _hear(self) -> None:
        assert self.process.stderr is not None
        self._said += self.process.stderr.readlines()

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + SOON
        while not condition():
            assert time.monotonic() < end, self.said
            assert self.process.poll() is None, self.said
            time.sleep(0.01)

    def shows(self, luma: int) -> None:
        """Wait for a composite before a background of that luma."""
        self.until(lambda: bool(self.frames) and before(self.frames[-1]) == luma and somebody(self.frames[-1]))

    def end(self, number: int | None = signal.SIGTERM) -> int:
        if number is not None:
            self.process.send_signal(number)
        try:
            return self.process.wait(SOON)
        finally:
            for thread in self._threads:
                thread.join()

    @property
    def said(self) -> str:
        return b"".join(self._said).decode()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end(None)
        assert self.process.stderr is not None
        self.process.stderr.close()


def before(luma: np.ndarray) -> int | None:
    """Return the one luma of the two upper corners, where nobody is; None if there is more than one: the room."""
    corners = np.concatenate([luma[:24, :40], luma[:24, -40:]], axis=1)
    return int(corners[0, 0]) if np.ptp(corners) <= 1 else None


def somebody(luma: np.ndarray) -> bool:
    """Whether there is anything but the background in the middle."""
    return bool(np.ptp(luma[80:200, 80:240]) > 60)


def ctl(*words: str) -> int:
    return main(["ctl", *words])


# --- end to end -------------------------------------------------------------------------------------------------


def test_a_call_with_changes_on_the_way(camera, place, capsys):
    """From the first frame to the last: one background or the other, whole, and never the room."""
    recording = place / "talk.mkv"
    config = place / "config" / "vidseg" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('# mine\nmirror = false\n[preset.evening]\nbackground = "navy"\nsmoothing = 0.3\n')
    with Run("-c", camera, "--bg", "navy", "--out", recording, "--always-on") as run:
        run.shows(NAVY)
        assert ctl("background", "white") == 0
        changed = len(run.frames)
        run.shows(WHITE)
        config.write_text('mirror = false\nbackground = "teal"\n[preset.evening]\nbackground = "navy"\n')
        run.shows(TEAL)
        assert ctl("preset", "evening") == 0
        run.shows(NAVY)
        assert ctl("pause") == 0
        run.until(lambda: not somebody(run.frames[-1]) or before(run.frames[-1]) != NAVY)
        assert ctl("resume") == 0
        run.shows(NAVY)
        assert ctl("background", "missing.jpg") == 1
        assert "missing.jpg does not exist" in capsys.readouterr().err
        assert ctl("status", "--json") == 0
        answer = json.loads(capsys.readouterr().out)
        assert run.end() == 128 + signal.SIGTERM
    assert answer["session"] == "stdout"
    assert (answer["status"]["camera"], answer["status"]["showing"]) == ("on", "people")
    assert answer["settings"]["background"] == "navy"

    seen = [before(frame) for frame in run.frames]
    assert None not in seen
    cards = set(seen) - {NAVY, WHITE, TEAL}
    assert len(cards) == 1  # the card of the pause, and nothing else
    # The answer comes when the change is made: of before is what was on its way, and what the pipe's megabyte holds.
    assert NAVY not in seen[changed + 3 + 2**20 // LENGTH : seen.index(TEAL)]
    order = [luma for i, luma in enumerate(seen) if i == 0 or luma != seen[i - 1]]
    assert order == [NAVY, WHITE, TEAL, NAVY, *cards, NAVY]

    assert f"{config} has changed: background" in run.said
    assert "Traceback" not in run.said
    with av.open(str(recording)) as made:
        lumas = {before(np.asarray(f.to_ndarray(format="gray"))[:HEIGHT]) for f in made.decode(video=0)}
        assert made.streams.video[0].codec_context.width == WIDTH
    assert lumas  # it can be played to its end
    assert not list(place.glob("*.partial*"))


def test_ctrl_c_ends_in_order_and_says_what_was(camera, place):
    with Run("-c", camera, "--bg", "white", "--always-on") as run:
        run.shows(WHITE)
        assert run.end(signal.SIGINT) == 130
    lines = run.said.splitlines()
    assert lines[0] == f"vidseg: {camera.name}: 320x240 at 30 frames a second"
    assert lines[-1].startswith("vidseg: -:raw: ")
    assert "frames in" in lines[-1]


def test_stop_and_the_end_of_the_file(camera, place):
    with Run("-c", camera, "--bg", "white", "--always-on", "--quiet") as run:
        run.shows(WHITE)
        assert ctl("stop") == 0
        assert run.end(None) == 0
    assert run.said == ""


def test_who_reads_has_gone(camera, place):
    with Run("-c", camera, "--bg", "white", "--always-on") as run:
        run.shows(WHITE)
        run.listening = False
        assert run.end(None) == 0
    assert "Traceback" not in run.said


def test_the_room_is_shown_if_asked_for_in_words(camera, place):
    with Run("-c", camera, "--bg", "none", "--always-on") as run:
        run.until(lambda: bool(run.frames) and before(run.frames[-1]) is None)
        run.end()


def test_json_is_one_object(camera, place, capfd):
    recording = place / "talk.mp4"
    command = [sys.executable, "-m", "vidseg", "webcam", "-c", camera, "--out", recording, "--json", "--bg", "blur:70"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + SOON
        while True:
            assert process.poll() is None
            assert time.monotonic() < end
            if ctl("status", "--json") == 0 and json.loads(capfd.readouterr().out.splitlines()[-1])["status"]["frames"]:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=SOON)
    result = json.loads(out)
    assert (result["status"], result["outputs"]) == (143, [str(recording)])
    assert result["frames"] > 0
    assert result["settings"]["background"] == "blur:70"
    assert out.count(b"\n") == 1
    with av.open(str(recording)) as made:
        assert next(made.decode(video=0)).width == WIDTH


# --- how it is started ------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch) -> list[tuple]:
    """What the command would run, which it does not: the session is left out."""
    found: list[tuple] = []
    monkeypatch.setattr(webcam, "_run", lambda console, *rest: found.append(rest))
    return found


def test_the_command_line_is_laid_over_preset_file_and_defaults(place, started, monkeypatch):
    monkeypatch.chdir(place)
    file = place / "my.toml"
    file.write_text(
        'background = "a.jpg"\nfps = 25\nmirror = true\nscale = 2\n[preset.p]\nscale = 1.5\nsmoothing = 1\n'
    )
    line = "--preset p --smoothing 0.5 --no-mirror --size 640x360 --out virtual --out b.mkv --position -0.1 0.2"
    assert main(["webcam", "--config", "my.toml", *line.split()]) == 0
    read, start, settings, stats = started[0]
    assert read.path == file
    assert (settings.background, settings.mirror, settings.scale) == (str(place / "a.jpg"), False, 1.5)
    assert (settings.smoothing, settings.position) == (0.5, (-0.1, 0.2))
    assert (start.fps, start.wanted_size()) == (25, (360, 640))
    assert start.out == ("virtual", str(place / "b.mkv"))
    assert (start.camera, start.on_failure, stats) == ("default", "background", False)


def test_every_option_arrives(place, started):
    line = (
        "-c 1 --size 640x480 --fps 30000/1001 --pixel-format nv12 --no-loop -o preview --preview --always-on --bg navy "
        "--fit contain --mirror --scale 0.5 --position 0.1 0 --subject center --auto-frame --smoothing 0 "
        "--on-failure hold --model unet-s --runtime onnxruntime --threads 2 --sync fast --max-cpu 0.5 --target-fps 15 "
        "--stats"
    )
    assert main(["webcam", *line.split()]) == 0
    _, start, settings, stats = started[0]
    assert start == Start(
        "1", "640x480", "30000/1001", "nv12", False, ("preview",), True, "hold", "fast", 0.5, 15, True, "onnxruntime", 2
    )
    assert settings == webcam._checked(settings.to_dict())[1]
    assert settings.to_dict() == {
        "background": "navy", "fit": "contain", "model": "unet-s", "smoothing": 0, "mirror": True, "scale": 0.5,
        "position": [0.1, 0.0], "subject": "center", "auto_frame": True, "paused": False,
    }  # fmt: skip
    assert stats is True


def test_save_config_keeps_what_was_given(place, started, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["webcam", "--bg", "a.jpg", "--max-cpu", "0.5", "--out", "virtual", "--save-config"]) == 0
    file = place / "config" / "vidseg" / "config.toml"
    assert capsys.readouterr().err == f"vidseg: {file} keeps this for the next time\n"
    assert read_config().values == {"background": str(place / "a.jpg"), "max_cpu": 0.5, "out": ("virtual",)}
    assert main(["webcam", "--mirror"]) == 0
    assert (started[1][1].max_cpu, started[1][2].mirror) == (0.5, True)
    assert main(["webcam", "--config", "new.toml", "--bg", "navy", "--save-config"]) == 0
    assert (place / "new.toml").read_text() == 'background = "navy"\n'


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--bg transparent", ["'--bg'", "a call has nothing to see through to"]),
        ("--size 12", ["'--size'", "write WIDTHxHEIGHT, as in 1280x720"]),
        ("--fps 0", ["'--fps'", "fps is '0'"]),
        ("--scale 9", ["'--scale'", "from 0.1 to 4"]),
        ("--max-cpu 0", ["'--max-cpu'", "more than 0"]),
        ("--smoothing -1", ["'--smoothing'", "from 0 to 10"]),
        ("--position 2 0", ["'--position'", "from -1 to 1"]),
        ("--position 1", ["--position", "2 arguments"]),
        ("--threads 0", ["'--threads'", "from 1"]),
        ("--subject me", ["--subject", "largest"]),
        ("--on-failure raw", ["--on-failure", "hold"]),
        ("--pixel-format rgb", ["--pixel-format", "nv12"]),
        ("--out - --json", ["'--json' and '--out -'"]),
        ("beach.jpg", ["beach.jpg"]),
    ],
)
def test_usage(place, started, line, told, capsys):
    assert main(["webcam", *line.split()]) == 2
    said = capsys.readouterr().err
    assert [word for word in told if word not in said] == []
    assert said.count("\n") == 1
    assert started == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--config missing.toml", "missing.toml does not exist; --save-config writes one"),
        ("--preset evening", "there is no preset 'evening'; it has none"),
        ("-c {camera} --bg missing.jpg --out -:raw", "missing.jpg does not exist"),
        ("-c {camera} --model missing --out -:raw", "missing"),
        ("-c missing.mp4 --out -:raw", "missing.mp4 is neither a camera nor a file"),
        ("-c {camera} --out /dev/video98", "/dev/video98"),
        ("-c {camera} --out talk", "talk is no output"),
    ],
)
def test_what_cannot_be_opened_is_1_and_one_line(place, camera, line, told, capfd, monkeypatch):
    monkeypatch.chdir(place)
    threads = threading.active_count()
    words = [word.format(camera=camera) for word in line.split()]
    assert main(["webcam", *words]) == 1
    said = capfd.readouterr().err.splitlines()
    assert told in said[-1]
    assert said[-1].startswith("vidseg: ")
    assert threading.active_count() == threads
    assert not list(place.glob("*.partial*"))


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_without_a_virtual_camera_a_window_and_a_hint(monkeypatch, system, capsys):
    monkeypatch.setattr("vidseg.devices.list_devices", lambda details: [])
    monkeypatch.setattr(sys, "platform", system)
    assert webcam._outputs(Console(), Start()) == ("preview",)
    said = capsys.readouterr().err
    assert "there is no virtual camera, so a window shows the result; to get one: " in said
    assert ("modprobe v4l2loopback" if system == "linux" else "OBS") in said
    assert said.count("\n") == 1


def test_outputs_that_are_asked_for(monkeypatch, capsys):
    from vidseg.devices import Device

    there = [
        Device("/dev/video0", "C920"),
        Device("/dev/video10", "vidseg", "virtual"),
        Device("/dev/video11", "b", "virtual"),
    ]
    monkeypatch.setattr("vidseg.devices.list_devices", lambda details: there)
    assert webcam._outputs(Console(), Start()) == ("/dev/video10",)
    assert webcam._outputs(Console(), Start(preview=True)) == ("/dev/video10", "preview")
    assert webcam._outputs(Console(), Start(out=("preview", "a.mkv"), preview=True)) == ("preview", "a.mkv")
    assert capsys.readouterr().err == ""


# --- what it says while it runs ---------------------------------------------------------------------------------

STATUS = LiveStatus(
    showing="people", camera="on", reason="", fps=29.97, frames=100, dropped=0, refused=0, failures=0, openings=1,
    latency={"matte": {"p50": 4.0, "p95": 5.0, "p99": 6.0}, "total": {"p50": 8.4, "p95": 9.0, "p99": 14.2}},
    cpu=0.312, rung="inference on every frame", wanted=True, outputs={"-": "open"}, model="unet-s", runtime="fake",
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "stats", "expected"),
    [
        ({}, False, "you are shown, 30 fps, 0.31 cores, delay 8 ms (p99 14)"),
        ({"dropped": 3}, False, "you are shown, 30 fps, 0.31 cores, delay 8 ms (p99 14), 3 dropped"),
        (
            {},
            True,
            "you are shown, 30 fps, 0.31 cores, delay 8 ms (p99 14), inference on every frame, matte 4.0",
        ),
        (
            {"showing": "background", "camera": "lost", "reason": "unplugged", "latency": {}, "fps": 0},
            False,
            "the background alone is shown, camera lost: unplugged, 0 fps, 0.31 cores",
        ),
        ({"showing": "room", "latency": {}}, False, "YOUR ROOM is shown, 30 fps, 0.31 cores"),
        ({"showing": "last", "reason": "NaN", "latency": {}}, False, "the last picture of you is shown, NaN, 30 fps, "),
        ({"wanted": False, "camera": "off", "latency": {}}, False, "nobody looks, so the camera is off, "),
    ],
)
def test_the_line(change, stats, expected):
    import dataclasses

    assert webcam.line(dataclasses.replace(STATUS, **change), stats).startswith(expected)


def test_plain_lines_come_seldom_and_only_with_stats(monkeypatch, capsys):
    for stats, expected in ((False, 0), (True, 2)):
        now = [0.0]
        monkeypatch.setattr(webcam.time, "monotonic", lambda now=now: now[0])
        with webcam.Display(Console(), stats) as display:
            for now[0] in (1.0, 5.1, 6.0, 10.0, 10.2):
                display.show(STATUS)
        assert capsys.readouterr().err.count("you are shown") == expected


CHILD = """
import logging
from vidseg.cli.console import Console
from vidseg.cli.webcam import Display
from tests.test_webcam import STATUS
with Display(Console(), False) as display:
    display.show(STATUS)
    logging.getLogger("vidseg.live.intake").warning("The camera is %s", "gone")
    display.show(STATUS)
"""


def test_on_a_terminal_one_line_is_kept_up_to_date_and_notes_stand_above_it():
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "30"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stderr=theirs, env=environment, cwd=Path(__file__).parent.parent
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other end was closed
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    assert child.wait(SOON) == 0
    short = b"you are shown, 30 fps, 0.31 c"
    start = b"\r\x1b[2K"
    assert shown == start + short + start + b"vidseg: The camera is gone\r\n" + start + short + start
