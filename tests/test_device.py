"""Where frames are put together: what is chosen, what is refused and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidseg import engine, jobs
from vidseg.cli.app import run
from vidseg.errors import EngineError
from vidseg.sources import open_source

SAMPLE = str(Path(jobs.__file__).parent / "demo" / "sample.mp4")

torch = pytest.importorskip("torch", reason="PyTorch, which a GPU is used with, is not installed")

from vidseg.gpu import device as devices  # noqa: E402

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def test_without_a_gpu_auto_is_the_cpu_and_asks_nobody(monkeypatch):
    monkeypatch.setattr(engine, "_gpu", lambda: False)
    monkeypatch.setattr(devices, "choose", None)
    assert jobs.chosen_device("auto") is None
    assert jobs.chosen_device("cpu") is None


@no_gpu
def test_a_gpu_that_does_not_work_is_refused_by_name_and_passed_over_by_auto(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(engine, "_gpu", lambda: True)
    assert jobs.chosen_device("auto") is None
    assert jobs.chosen_device("auto", "openvino") is None
    with pytest.raises(EngineError, match=r"cuda:0 cannot be used \(.*\): .*, or use --device cpu") as caught:
        jobs.chosen_device("cuda:0")
    assert "\n" not in str(caught.value)
    output = tmp_path / "out.mp4"
    assert run(["process", SAMPLE, str(output), "--bg", "teal", "--device", "cuda:1"]) == 1
    assert "cuda:1 cannot be used" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mps", "nonsense"])
def test_other_devices_are_refused(name):
    with pytest.raises(EngineError, match="cpu"):
        devices.probe(name)


def test_a_device_that_computes_other_pictures_is_refused(monkeypatch):
    assert devices.probe("cpu") == "the tensors of a CPU"
    right = devices.refine
    monkeypatch.setattr(devices, "refine", lambda *args: right(*args) + 2)
    with pytest.raises(EngineError, match=r"computes other pictures than a CPU \(by [23] steps"):
        devices.probe("cpu")
    monkeypatch.setattr(devices, "refine", lambda *args: right(*args) * float("nan"))
    with pytest.raises(EngineError, match="computes other pictures"):
        devices.probe("cpu")


@no_gpu
def test_what_a_gpu_cannot_decode_the_cpu_does_and_says_so():
    with open_source(SAMPLE, "cuda:0") as source:
        frame = next(iter(source))
        [note] = source.notes
    assert note.startswith("sample.mp4 is decoded by the CPU, cuda:0 does not take it (")
    with open_source(SAMPLE) as source:
        expected = next(iter(source))
    assert bytes(frame.planes[0]) == bytes(expected.planes[0])
