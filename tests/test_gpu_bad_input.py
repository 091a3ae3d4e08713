"""All that can be wrong with a GPU, its driver and its plans, through the command: one line, and never a raw frame.

``auto`` goes on, and writes what the CPU writes; a runtime or device that was asked for by name ends the command with
status 1 and leaves no file. The compiler and its engines are fakes that say so, the device is the CPU's tensors.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import types

import av
import numpy as np
import pytest

from tests import fake_compiler as fake
from tests import media
from vidseg import engine as registry
from vidseg import handover, jobs
from vidseg.cli.main import main
from vidseg.engine import load_spec
from vidseg.errors import EngineError
from vidseg.handover import Handover
from vidseg.plans import Plans
from vidseg.sources import open_source

pytestmark = pytest.mark.skipif(not hasattr(os, "getpriority"), reason="the fake compiler is for POSIX")
FRAMES, SIZE = 16, load_spec().size_for((48, 64))
COMMAND = ["process", "in.mkv", "out.mkv", "--bg", "teal", "--codec", "ffv1"]
"""Lossless: one pixel of the room would be seen."""


class Watched(Handover):
    """A handover that does not wait for its tenth second, and whose third batch waits for what becomes of it."""

    asked = 0

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, after=0.0, **options)

    def infer(self, src, state=()):
        self.asked += 1
        until = time.monotonic() + 120
        while self.asked == 3 and self.phase not in ("ready", "second", "first"):
            assert time.monotonic() < until, self.phase
            super().infer(src, state)
            time.sleep(0.01)
        return super().infer(src, state)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(fake.GPU, "{}")
    monkeypatch.chdir(tmp_path)
    media.clip(tmp_path / "in.mkv", FRAMES)
    return tmp_path


@pytest.fixture
def runtimes(folder, monkeypatch):
    """A fake compiler called tensorrt on a fake GPU, and a fake that goes before it."""
    first = types.ModuleType("tests.fake_first")
    first.open = lambda spec, size, threads, precision: fake.FakeEngine(spec, size, name="first fp32 (no GPU)")
    first.probe = lambda: "fake"
    monkeypatch.setitem(sys.modules, first.__name__, first)
    rows = (
        registry._Runtime("tensorrt", "tests.fake_compiler", "tensorrt", compiled=True),
        registry._Runtime("first", first.__name__, "first"),
    )
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name == "tensorrt" or find(name, *rest))
    monkeypatch.setattr(registry, "_RUNTIMES", rows)
    monkeypatch.setattr(registry, "_gpu", lambda: True)
    monkeypatch.setattr(handover, "Handover", Watched)
    monkeypatch.setattr(handover, "GAP", 0.0)
    return folder


def pictures(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


EXPECTED = {}


def is_what_the_cpu_writes(monkeypatch, engine="fakes"):
    if engine not in EXPECTED:
        monkeypatch.setattr(registry, "_gpu", lambda: False)
        assert main(["process", "in.mkv", "cpu.mkv", *COMMAND[3:], "--quiet"]) == 0
        EXPECTED[engine] = pictures("cpu.mkv")
    got, expected, room = pictures("out.mkv"), EXPECTED[engine], pictures("in.mkv")
    assert len(got) == FRAMES
    for one, other, raw in zip(got, expected, room, strict=True):
        np.testing.assert_array_equal(one, other)
        assert not np.array_equal(one, raw)


BUILDS = {
    "driver": ({"lacks": "tensorrt needs an NVIDIA GPU (no driver): install one"}, "install one"),
    "operator": ({"fails": "operator"}, "no importer registered for op: Nonsense"),
    "memory of the GPU": ({"fails": "memory"}, "out of memory"),
    "memory of the host": ({"fails": "host memory"}, "there is not enough memory to build it"),
    "killed": ({"fails": "killed"}, "as when memory runs out"),
    "full disk": ({"fails": "full disk"}, "No space left on device): make room for"),
    "a plan of no use": ({"plan": "bad plan"}, "the plan is of another version"),
    "memory for the plan": ({"fails": "load"}, "no memory for the network"),
}
RUNS = {
    "memory": ({"later": {"7": "memory"}}, "it failed (out of memory)"),
    "lost": ({"later": {"7": "lost"}}, "it failed (the device was lost)"),
    "no numbers": ({"later": {"7": "nan"}}, "its mask was no number between 0 and 1"),
}


@pytest.mark.parametrize(("told", "line"), [*BUILDS.values(), *RUNS.values()], ids=[*BUILDS, *RUNS])
def test_auto_goes_on(runtimes, monkeypatch, capsys, told, line):
    fake.told(**told)
    assert main([*COMMAND, "--device", "cpu"]) == 0
    err = capsys.readouterr().err
    assert err.count(line) == 1, err
    assert "Traceback" not in err
    assert "bug in vidseg" not in err
    is_what_the_cpu_writes(monkeypatch)


BY_NAME = {name: BUILDS[name] for name in ("driver", "operator", "memory of the GPU", "killed", "full disk")} | {
    "memory for the plan": BUILDS["memory for the plan"],
    "lost in mid-stream": ({"later": {"3": "lost"}}, "the device was lost"),
    "memory in mid-stream": ({"later": {"3": "memory"}}, "out of memory"),
    "no numbers in mid-stream": ({"later": {"3": "nan"}}, "numbers outside 0 to 1; no frame was shown"),
}


@pytest.mark.parametrize(("told", "line"), BY_NAME.values(), ids=BY_NAME)
def test_by_name_it_ends(runtimes, capsys, told, line):
    fake.told(**told)
    assert main([*COMMAND, "--runtime", "tensorrt", "--quiet"]) == 1
    [said] = [text for text in capsys.readouterr().err.splitlines() if "is not used" not in text]
    assert said.startswith("vidseg: ")
    assert line in said
    assert sorted(set(os.listdir()) - {"cache"}) == ["in.mkv"]


def damaged(how, plans):
    facts = fake.describe(load_spec(), SIZE, None)
    plans.write(facts, b"good plan")
    path = plans.path(facts)
    match how:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-3])
        case "tampered":
            path.write_bytes(path.read_bytes()[:-9] + b"evil plan")
        case "another GPU":
            fake.told(device="NVIDIA T4, 7.5")
            other = fake.describe(load_spec(), facts.size, None)
            fake.told()
            plans.write(other, b"good plan")
            plans.path(other).rename(path)
        case "open to others":
            path.chmod(0o666)
        case "a link":
            path.rename(path.with_suffix(".other"))
            path.symlink_to(path.with_suffix(".other"))
    return path


@pytest.mark.parametrize(
    ("how", "runtime"),
    [
        ("truncated", "auto"),
        ("tampered", "auto"),
        ("tampered", "tensorrt"),
        ("another GPU", "tensorrt"),
        ("open to others", "tensorrt"),
        ("a link", "auto"),
    ],
)
def test_a_plan_that_cannot_be_trusted_is_built_anew(runtimes, monkeypatch, capsys, how, runtime):
    path = damaged(how, Plans())
    fake.told(log="log")
    assert main([*COMMAND, "--runtime", runtime, "--device", "cpu"]) == 0
    err = capsys.readouterr().err
    assert err.count(f"{path} is not used: ") == 1, err
    assert len((runtimes / "log").read_text().splitlines()) == 1
    is_what_the_cpu_writes(monkeypatch)


@pytest.mark.parametrize("runtime", ["auto", "tensorrt"])
def test_a_cache_that_cannot_be_written(runtimes, monkeypatch, capsys, runtime):
    """A file stands where the folder should be: as read-only for root as for anybody."""
    (runtimes / "cache").write_text("")
    assert main([*COMMAND, "--runtime", runtime, "--device", "cpu"]) == 0
    err = capsys.readouterr().err
    assert err.count("plans are not kept") == 1, err
    is_what_the_cpu_writes(monkeypatch)


class TestPyTorch:
    """What it says of a GPU, and what becomes of that. Nothing of CUDA is asked but what is replaced here."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", reason="PyTorch, which a GPU is used with, is not installed")

    SAYS = {  # noqa: RUF012  # CUDA's own words
        "no driver": (
            "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
            "12.8",
            "(Found no NVIDIA driver on your system): install or update NVIDIA's driver",
        ),
        "driver too old": (
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver",
            "12.8",
            "is too old (found version 11040)): install or update NVIDIA's driver",
        ),
        "a wheel for the CPU": (
            "Torch not compiled with CUDA enabled",
            None,
            "(Torch not compiled with CUDA enabled): install PyTorch from a CUDA wheel",
        ),
    }

    @pytest.mark.parametrize(("says", "wheel", "line"), SAYS.values(), ids=SAYS)
    def test_it_does_not_work_at_all(self, torch, folder, monkeypatch, capsys, says, wheel, line):
        def init():
            raise (AssertionError if wheel is None else RuntimeError)(says)

        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.version, "cuda", wheel)
        monkeypatch.setattr(registry, "_gpu", lambda: True)
        assert main([*COMMAND, "--device", "cuda:0", "--quiet"]) == 1
        [said] = capsys.readouterr().err.splitlines()
        assert line in said
        assert said.endswith(", or use --device cpu")
        assert os.listdir() == ["in.mkv"]

        assert main(COMMAND) == 0
        err = capsys.readouterr().err
        assert err.count(line) == 1, err
        assert "The GPU is not used (PyTorch cannot use it" in err
        is_what_the_cpu_writes(monkeypatch, "real")

        from vidseg.runtimes.cuda import check

        with pytest.raises(EngineError, match="tensorrt needs an NVIDIA GPU") as raised:
            check("tensorrt needs an NVIDIA GPU")
        assert line in str(raised.value)

    @pytest.mark.parametrize(
        ("says", "line"),
        [
            ("CUDA error: no kernel image is available for execution on the device", "was built for other GPUs"),
            ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has", "CUDA out of memory"),
        ],
    )
    def test_a_device_that_fails_at_its_first_picture(self, torch, folder, monkeypatch, capsys, says, line):
        from vidseg.gpu import device

        def fail(chosen):
            raise RuntimeError(says)

        monkeypatch.setattr(device, "_difference", fail)
        monkeypatch.setattr(device, "_cuda", lambda chosen, name: "a fake")
        assert main([*COMMAND, "--device", "cuda:0", "--quiet"]) == 1
        [said] = capsys.readouterr().err.splitlines()
        assert said.startswith("vidseg: cuda:0 cannot be used: ")
        assert line in said
        assert os.listdir() == ["in.mkv"]
        monkeypatch.setattr(jobs, "has_gpu", lambda: True)
        assert jobs.chosen_device("auto") is None

    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (lambda torch: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: end"),
            (lambda torch: RuntimeError("CUDA error: unspecified launch failure\nmore"), "unspecified launch failure"),
        ],
        ids=["memory", "lost"],
    )
    def test_a_device_that_fails_in_mid_stream(self, torch, folder, monkeypatch, capsys, error, line):
        from vidseg.gpu import compositor

        right, calls = compositor.GpuCompositor._blended, []

        def fail(self, *arguments):
            calls.append(1)
            if len(calls) > 1:
                raise error(torch)
            return right(self, *arguments)

        monkeypatch.setattr(compositor.GpuCompositor, "_blended", fail)
        monkeypatch.setattr(jobs, "chosen_device", lambda device, runtime: "cpu")
        options = ["--runtime", "torch", "--threads", "1"]
        assert main([*COMMAND, *options, "--device", "cuda:0", "--quiet"]) == 1
        [said] = capsys.readouterr().err.splitlines()
        assert line in said
        assert os.listdir() == ["in.mkv"]

        calls.clear()
        assert main([*COMMAND, *options]) == 0
        err = capsys.readouterr().err
        assert err.count("cpu is not used any more: ") == 1, err
        assert line in err
        with open_source("out.mkv") as got:
            assert [frame.pts for frame in got] == [frame.pts for frame in open_source("in.mkv")]
        monkeypatch.setattr(jobs, "chosen_device", lambda device, runtime: None)
        assert main(["process", "in.mkv", "cpu.mkv", *COMMAND[3:], *options, "--quiet"]) == 0
        for one, other in zip(pictures("out.mkv"), pictures("cpu.mkv"), strict=True):
            assert np.abs(one.astype(int) - other.astype(int)).max() <= 2  # the tensors' own roundings

    def test_a_network_that_fails_in_mid_stream_goes_on_on_the_cpu(self, torch, folder, monkeypatch, capsys):
        """``auto``, frames put together on the CPU and the network on a GPU, as a webcam has it."""
        broken = fake.FakeEngine(load_spec(), SIZE, name="torch fp16 (no GPU)")
        broken.later = {"3": "lost"}
        monkeypatch.setattr(registry, "_opened_on_gpu", lambda *_: broken)
        monkeypatch.setattr(registry, "_gpu", lambda: True)
        row = registry._Runtime("first", "tests.fake_first", "first")
        torch_row = registry._Runtime("torch", "vidseg.runtimes.torch", "torch", gpu_only=True)
        first = types.ModuleType("tests.fake_first")
        first.open = lambda spec, size, threads, precision: fake.FakeEngine(spec, size, name="first fp32 (no GPU)")
        monkeypatch.setitem(sys.modules, first.__name__, first)
        monkeypatch.setattr(registry, "_RUNTIMES", (row, torch_row))
        assert main([*COMMAND, "--device", "cpu"]) == 0
        err = capsys.readouterr().err
        assert err.count("the device was lost; first fp32 (no GPU) goes on") == 1, err
        assert broken.closed == 1
        is_what_the_cpu_writes(monkeypatch)
