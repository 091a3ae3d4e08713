"""How many streams a machine holds: the search and its arithmetic on a fake clock, and the real crowds for a moment."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace

import numpy as np
import pytest

from vidseg.backgrounds import open_background
from vidseg.capacity import Load, OnDevice, Threads, find_capacity
from vidseg.cli.main import main
from vidseg.engine import list_runtimes
from vidseg.errors import EngineError
from vidseg.segmenter import Segmenter
from vidseg.testing import FakeClock, SeeingEngine, SyntheticSource

SMALL = Load(size=(96, 160), fps=10, limit=0.05, seconds=2.0, runtime="onnxruntime", threads=1)


class Machine:
    """Stands for a machine that finishes each frame after ``took(streams, number)`` seconds, or never."""

    runtime = "fake"
    mean = 1.0

    def __init__(self, clock, took):
        self.clock, self.took = clock, took
        self.streams = self.offered = self.opened = self.closed = 0
        self.seen: dict[int, list[int]] = {}

    def __call__(self, load, streams):
        self.streams, self.offered, self.seen = streams, 0, {}
        self.opened += 1
        return self

    def offer(self, stream, frame, done):
        self.seen.setdefault(stream, []).append(frame.pts)
        seconds = self.took(self.streams, self.offered)
        self.offered += 1
        if seconds is not None:
            now = self.clock()
            self.clock.advance(seconds)
            done()
            self.clock.advance(now - self.clock())  # the camera does not wait for that

    def close(self):
        self.closed += 1


def search(took, load=SMALL, most=4096):
    """The clock is a fake: what is found must not depend on how fast this machine is."""
    clock = FakeClock()
    machine = Machine(clock, took)
    told = []
    found, trials, runtime = find_capacity(load, machine, told=told.append, most=most, clock=clock, sleep=clock.advance)
    assert trials == told
    assert machine.opened == machine.closed == len(trials)
    assert runtime == "fake"
    return found, trials, machine


@pytest.mark.parametrize(
    ("holds", "tried"),
    [
        (0, [1]),
        (1, [1, 2]),
        (3, [1, 2, 4, 3]),
        (11, [1, 2, 4, 8, 16, 12, 10, 11]),
        (16, [1, 2, 4, 8, 16, 32, 24, 20, 18, 17]),
    ],
)
def test_the_largest_number_that_holds_is_found(holds, tried):
    found, trials, _ = search(lambda streams, number: 0.01 if streams <= holds else 0.06)
    assert found == holds
    assert [trial.streams for trial in trials] == tried
    assert [trial.holds for trial in trials] == [streams <= holds for streams in tried]


def test_no_more_is_tried_than_asked():
    found, trials, _ = search(lambda streams, number: 0.0, most=6)
    assert found == 6
    assert [trial.streams for trial in trials] == [1, 2, 4, 6]


def test_one_late_frame_of_a_hundred_is_allowed_and_two_are_not():
    load = replace(SMALL, fps=100)  # 200 frames count, after 100 that do not
    for late, holds in ((2, True), (3, False)):
        slow = range(150, 150 + late)
        _, [trial, *_], _ = search(lambda _, number, slow=slow: 9.0 if number in slow else 0.01, load, most=1)
        assert trial.frames in (200, 201)
        assert trial.holds is holds
    _, [trial, *_], _ = search(lambda _, number: None if number >= 295 else 0.01, load, most=1)
    assert (trial.holds, trial.p50, trial.p99) == (False, 10.0, math.inf)
    assert trial.dropped in (5, 6)


def test_each_camera_has_its_own_moments():
    _, _, machine = search(lambda streams, number: 0.0 if streams <= 4 else None, most=4)
    first = [times[0] for _, times in sorted(machine.seen.items())]
    assert np.diff(first) == pytest.approx([25_000] * 3, abs=2)
    for times in machine.seen.values():
        assert np.diff(times) == pytest.approx([100_000] * (len(times) - 1), abs=2)


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"limit": 0}, {"seconds": 0}, {"size": (8, 8)}])
def test_loads_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="more than 0"):
        find_capacity(replace(SMALL, **wrong), Machine(FakeClock(), lambda *_: 0))


# --- the real thing ---------------------------------------------------------------------------------------------


def require(runtime):
    reasons = {name: detail for name, usable, detail in list_runtimes() if not usable}
    if runtime in reasons:
        pytest.skip(reasons[runtime])


def streams_left():
    return [t.name for t in threading.enumerate() if t.name.startswith(("vidseg-stream", "vidseg-batcher"))]


def given(crowd, streams, frames):
    """Offer frames one after another, and wait for each."""
    for index in range(frames):
        for stream in range(streams):
            finished = threading.Event()
            crowd.offer(stream, SyntheticSource(size=SMALL.size).draw(index), finished.set)
            assert finished.wait(60)


def test_threads():
    require("onnxruntime")
    crowd = Threads(SMALL, 3)
    given(crowd, 3, 2)
    assert crowd.mean >= 1
    assert crowd.runtime.startswith("onnxruntime")
    crowd.close()
    assert streams_left() == []
    with pytest.raises(EngineError):
        Threads(replace(SMALL, model="no-such-model"), 2)
    assert streams_left() == []


def test_a_stream_that_fails_is_no_result(monkeypatch):
    require("onnxruntime")
    crowd = Threads(SMALL, 2)
    given(crowd, 2, 1)
    crowd.offer(0, "no frame", lambda: None)
    crowd._threads[0].join(60)
    with pytest.raises(AttributeError):
        crowd.close()
    assert streams_left() == []


class SeeingOnDevice(SeeingEngine):
    """A fake network on the tensors of a CPU that finds the synthetic person by its colour."""

    def infer_on_device(self, src, state=()):
        return (1.2 - (src[:, 0] - src[:, 1])).clamp(0, 1), ()


def test_on_a_device_each_stream_is_as_by_itself():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from vidseg.gpu.compositor import GpuCompositor
    from vidseg.gpu.streams import GpuStreams

    segmenter = Segmenter(engine=SeeingOnDevice((48, 80)))
    background = open_background("#204060")
    rooms = [[replace(SyntheticSource(size=(96, 160)).draw(9 * i + 23 * s), pts=i) for i in range(4)] for s in range(3)]
    alone = []
    for frames in rooms:
        with GpuCompositor(background, segmenter, device="cpu") as compositor:
            alone.append([compositor([frame])[0] for frame in frames])
    with GpuStreams(background, segmenter, device="cpu") as together:
        for index in range(4):
            # The second stream comes late, and the third one pauses: all batches are of other streams.
            shots = [(s, rooms[s][index]) for s in range(3) if (s, index) not in ((1, 0), (2, 2))]
            for (stream, frame), done in zip(shots, together.compose(shots), strict=True):
                assert done.pts == frame.pts
                if stream == 0:
                    assert worst(done, alone[0][index]) <= 1
                assert worst(done, alone[(stream + 1) % 3][index]) > 60
        with pytest.raises(ValueError, match="one frame in a call"):
            together.compose([(0, rooms[0][0]), (0, rooms[0][1])])


def worst(one, other):
    pairs = zip(one.planes, other.planes, strict=True)
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in pairs)


def test_on_a_device():
    require("torch")
    device = OnDevice(replace(SMALL, runtime="torch"), "cpu")
    crowd = device(SMALL, 3)
    given(crowd, 3, 2)
    assert crowd.mean >= 1
    assert crowd.runtime.startswith("torch")
    crowd.close()
    device.close()
    assert streams_left() == []


# --- the command ------------------------------------------------------------------------------------------------

COMMAND = ["bench", "streams", "--device", "cpu", "--size", "160x96", "--seconds", "0.2", "--runtime", "onnxruntime"]


def test_command(capsys):
    """Nothing is finished within a nanosecond: what is found is the same on every machine."""
    require("onnxruntime")
    assert main([*COMMAND, "--p99", "0.000001ms", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["streams"], said["width"], said["height"], said["fps"]) == (0, 160, 96, 30.0)
    assert said["runtime"].startswith("onnxruntime")
    assert [trial["streams"] for trial in said["trials"]] == [1]
    assert main([*COMMAND, "--p99", "0.000001ms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "streams" in lines[0]
    assert "too much" in lines[1]
    assert lines[2].startswith("0 streams of 160x96 at 30 fps hold")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--p99", "soon"], ["'soon'", "33ms"]),
        (["--p99", "0"], ["33ms"]),
        (["--size", "720p"], ["'720p'", "1280x720"]),
        (["--fps", "0"], ["--fps"]),
        (["--seconds", "0"], ["--seconds"]),
    ],
)
def test_usage(arguments, words, capsys):
    assert main([*COMMAND, *arguments]) == 2
    err = capsys.readouterr().err
    assert [word for word in words if word not in err] == []


def test_what_does_not_work_is_one_line(capsys):
    assert main([*COMMAND, "--model", "no-such-model"]) in (1, 2)
    said = capsys.readouterr()
    assert "no-such-model" in said.err
    assert "Traceback" not in said.err
