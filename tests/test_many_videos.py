"""Several videos through one network: each as by itself, failures of one, the interrupt, and what is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest

import vidseg.batching
from tests import media
from vidseg.cli.main import main
from vidseg.errors import SinkError, SourceError, SourceNotFoundError
from vidseg.jobs import process_video, process_videos
from vidseg.pipeline import Interrupted
from vidseg.sinks import OutputOptions
from vidseg.testing import ConstantEngine

LOSSLESS = OutputOptions(codec="ffv1")


@pytest.fixture
def opened(monkeypatch):
    """A network that sees nobody; returns the sizes for which it was opened."""
    sizes = []

    def opener(spec, runtime, size, threads, precision):
        sizes.append(size)
        return ConstantEngine(0.0, size)

    monkeypatch.setattr(vidseg.batching, "open_engine", opener)
    return sizes


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= before


def read_back(path):
    with av.open(str(path)) as container:
        return [(frame.pts, frame.to_ndarray()) for frame in container.decode(video=0)]


def test_each_comes_out_as_by_itself(tmp_path):
    """With the shipped network, three at once, of two shapes."""
    media.clip(tmp_path / "one.mkv", 9, (96, 160))
    media.clip(tmp_path / "two.mkv", 7, (96, 160), pts=range(3, 80, 11))
    media.clip(tmp_path / "tall.mkv", 5, (160, 96))
    sources = [str(tmp_path / f"{name}.mkv") for name in ("one", "two", "tall")]
    done = process_videos(sources, str(tmp_path / "out"), "blur", at_once=3, runtime="onnxruntime", options=LOSSLESS)
    assert [(end.source, end.error) for end in done] == [(source, None) for source in sources]
    assert [end.stats.frames for end in done] == [9, 7, 5]
    assert [end.stats.output for end in done] == [str(tmp_path / "out" / Path(source).name) for source in sources]
    for end in done:
        alone = tmp_path / "alone.mkv"
        process_video(
            end.source, str(alone), "blur", runtime="onnxruntime", options=OutputOptions(codec="ffv1", overwrite=True)
        )
        mine, wanted = read_back(end.output), read_back(alone)
        assert [pts for pts, _ in mine] == [pts for pts, _ in wanted]
        for (_, picture), (_, other) in zip(mine, wanted, strict=True):
            np.testing.assert_array_equal(picture, other)
    assert not np.array_equal(read_back(done[0].output)[3][1], read_back(done[1].output)[3][1])


def test_one_network_for_all_of_a_shape(opened, tmp_path):
    sources = [str(media.clip(tmp_path / f"{number}.mp4", 3)) for number in range(5)]
    done = process_videos(sources, str(tmp_path / "out"), "#0000ff", at_once=2)
    assert [end.stats.frames for end in done] == [3] * 5
    assert len(opened) == 1


def test_what_fails_does_not_stop_the_others(opened, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    media.clip("good.mp4", 4)
    media.clip("fine.mkv", 5)
    Path("noise.mp4").write_bytes(os.urandom(5000))
    media.cut(Path("short.ts"))
    os.mkdir("out")
    Path("out/fine.mkv").write_text("mine")
    names = ["good.mp4", "missing.mp4", "noise.mp4", "short.ts", "fine.mkv"]
    assert main(["process", *names, "--out", "out", "--bg", "red", "--jobs", "2"]) == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[-1] == "vidseg: 3 of 5 videos failed"
    assert len([line for line in lines if "does not exist" in line and "missing.mp4" in line]) == 1
    assert len([line for line in lines if "noise.mp4" in line]) == 1
    assert len([line for line in lines if "fine.mkv" in line and "exists" in line]) == 1
    assert any(line.startswith("vidseg: out/good.mp4: 4 frames") for line in lines)
    assert not any("bug in vidseg" in line or "Traceback" in line for line in lines)
    assert sorted(os.listdir("out")) == ["fine.mkv", "good.mp4", "short.ts"]
    assert Path("out/fine.mkv").read_text() == "mine"

    assert main(["process", *names, "--out", "out", "--bg", "red", "--overwrite", "--strict", "--json", "-q"]) == 1
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert answer["status"] == 1
    assert [row["input"] for row in answer["files"]] == names
    assert [row.get("frames") for row in answer["files"]][::4] == [4, 5]
    assert [index for index, row in enumerate(answer["files"]) if "error" in row] == [1, 2, 3]
    assert "could be read and are in out/short.ts" in answer["files"][3]["error"]
    assert len(err.splitlines()) == 4

    assert main(["process", "good.mp4", "fine.mkv", "--out", "out", "--bg", "red", "--overwrite", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [(row["output"], row["model"]) for row in answer["files"]] == [
        (os.path.join("out", name), "unet-s") for name in ("good.mp4", "fine.mkv")
    ]


def test_each_error_is_in_its_place(opened, tmp_path):
    good = str(media.clip(tmp_path / "good.mp4", 2))
    told, reports = [], []
    done = process_videos(
        [good, str(tmp_path / "no.mp4")],
        str(tmp_path / "out"),
        "blur",
        progress=reports.append,
        finished=told.append,
    )
    assert done[0].error is None
    assert isinstance(done[1].error, SourceNotFoundError)
    assert sorted(told, key=lambda end: end.source) == done
    assert reports[-1].frames == 2
    assert reports[-1].runtime == "2 of 2 videos"


def test_a_folder_for_nothing_is_not_left(opened, tmp_path):
    process_videos([str(tmp_path / "no.mp4")], str(tmp_path / "out"), "blur")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("sources", "background", "names"),
    [
        (["a.mp4", "x/b.MOV", "c.mkv"], "blur", ["a.mp4", "b.mov", "c.mkv"]),
        (
            ["a.avi", "b", "https://host/c%20d.flv?x=1", "shot_%04d.png"],
            "blur",
            ["a.mp4", "b.mp4", "c d.mp4", "shot.mp4"],
        ),
        (["a.mp4", "b.mov", "c.webm", "d.mkv"], "transparent", ["a.webm", "b.mov", "c.webm", "d.mkv"]),
    ],
)
def test_names(sources, background, names):
    from vidseg.jobs import _names

    assert _names(sources, "out", transparent=background == "transparent") == [os.path.join("out", n) for n in names]


@pytest.mark.parametrize(
    ("sources", "folder", "error", "words"),
    [
        (["a.mp4", "x/A.mp4"], "out", SinkError, ["a.mp4", "x/A.mp4", "two runs"]),
        (["a.mp4", "a.mp4"], "out", SinkError, ["a.mp4", "two runs"]),
        (["a.mp4", "-"], "out", SourceError, ["standard input", "OUTPUT"]),
        (["a.mp4"], "no/out", SinkError, ["no/out", "does not exist"]),
        (["a.mp4"], "taken", SinkError, ["taken", "exists"]),
    ],
)
def test_what_cannot_be_begun(sources, folder, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("mine")
    with pytest.raises(error) as raised:
        process_videos(sources, folder, "blur")
    assert [word for word in words if word not in str(raised.value)] == []
    assert os.listdir() == ["taken"]
    with pytest.raises(ValueError, match="at_once = 0"):
        process_videos(["a.mp4"], "out", "blur", at_once=0)


def test_a_video_is_not_written_over_itself(opened, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    media.clip("a.mp4", 2)
    before = Path("a.mp4").read_bytes()
    assert main(["process", "a.mp4", "--out", ".", "--bg", "red", "--overwrite"]) == 1
    assert "a.mp4" in capsys.readouterr().err
    assert Path("a.mp4").read_bytes() == before
    assert os.listdir() == ["a.mp4"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.mp4", "b.mp4", "c.mp4"], ["'c.mp4'", "--out"]),
        (["a.mp4"], ["OUTPUT"]),
        (["a.mp4", "b.mp4", "--jobs", "2"], ["--jobs", "--out"]),
        (["a.mp4", "--out", "x", "--jobs", "0"], ["--jobs"]),
        (["--out", "x"], ["INPUT"]),
    ],
)
def test_usage(arguments, words, capsys):
    assert main(["process", *arguments, "--bg", "blur"]) == 2
    err = capsys.readouterr().err
    assert [word for word in words if word not in err] == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_real_ctrl_c(tmp_path):
    """A process with three videos, two of them at once: what it leaves can be played, and it leaves nothing else."""
    media.clip(tmp_path / "a.mp4", 2000, (96, 160))
    for name in ("b.mkv", "c.mp4"):
        shutil.copy(tmp_path / "a.mp4", tmp_path / name)
    given = set(os.listdir(tmp_path))
    command = ["process", *sorted(given), "--out", "out", "--jobs", "2", "--bg", "blur", "--crf", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-m", "vidseg", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment,
    )

    def under_way():
        sizes = [path.stat().st_size for path in (tmp_path / "out").glob(".*.partial*")]
        return len(sizes) == 2 and min(sizes) > 30_000

    until = time.monotonic() + 120
    while not under_way() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    assert set(os.listdir(tmp_path)) == given | {"out"}
    kept = sorted(os.listdir(tmp_path / "out"))
    assert kept == ["a.partial.mp4", "b.partial.mkv"]
    last = err.splitlines()[-1]
    assert last.endswith(f"what was done can be played: {' and '.join(os.path.join('out', name) for name in kept)}")
    for name in kept:
        assert 5 < len(read_back(tmp_path / "out" / name)) < 2000


def test_an_interrupt_keeps_what_was_done_of_each(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    media.clip("a.mp4", 400)
    shutil.copy("a.mp4", "b.mkv")
    before = set(os.listdir())
    reports = []

    def interrupt(progress):
        reports.append(progress)
        if progress.frames > 30:  # where the command raises it for Ctrl-C
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as raised:
        process_videos(["a.mp4", "b.mkv", "a.mp4.mkv"], "out", "#204060", at_once=2, progress=interrupt)
    assert reports[-1].frames < 800
    assert set(os.listdir()) == before | {"out"}
    # Of one that had no frame yet there is nothing; the third was never begun.
    kept = sorted(os.listdir("out"))
    assert kept
    assert set(kept) <= {"a.partial.mp4", "b.partial.mkv"}
    assert raised.value.kept == f"what was done can be played: {' and '.join(os.path.join('out', n) for n in kept)}"
    for name in kept:
        assert read_back(Path("out") / name)
