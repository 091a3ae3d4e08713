"""``vidseg engines``: with the fake compiler in TensorRT's place, and with the runtimes of this machine."""

from __future__ import annotations

import json
import os

import pytest

from tests import fake_compiler as fake
from vidseg import engine as registry
from vidseg.cli.app import run
from vidseg.engine import load_spec
from vidseg.plans import Plans

SPEC = load_spec()
HERE = [name for name, usable, _ in registry.list_runtimes() if usable]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDSEG_CACHE", str(tmp_path))
    monkeypatch.setenv(fake.GPU, "{}")
    return Plans()


@pytest.fixture
def fake_gpu(cache, monkeypatch):
    """A fake compiler called tensorrt on a fake GPU."""
    row = registry._Runtime("tensorrt", "tests.fake_compiler", "tensorrt", compiled=True)
    monkeypatch.setattr(registry, "_RUNTIMES", (row, *registry._RUNTIMES[1:]))
    monkeypatch.setattr(registry, "_gpu", lambda: True)
    return cache


def vidseg(capsys, *arguments):
    status = run(["engines", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="the fake compiler is for POSIX")
class TestBuild:
    def test_one_size(self, fake_gpu, capsys):
        status, out, err = vidseg(capsys, "build", "--size", "256x160")
        assert (status, out) == (0, "unet-s 256x160: fake fp16 (no GPU)\n")
        assert err.splitlines()[-1] == "vidseg: unet-s 256x160: 100 % built"
        assert [entry.facts.size for entry in fake_gpu.entries()] == [(160, 256)]
        status, out, err = vidseg(capsys, "build", "--size", "256x160", "--json")
        assert status == 0
        assert json.loads(out)["built"] == ["unet-s 256x160: fake fp16 (no GPU)"]
        assert "built" not in err

    def test_it_says_why_it_failed(self, fake_gpu, capsys):
        fake.told(fails="operator")
        status, out, err = vidseg(capsys, "build", "--size", "256x160", "--quiet")
        assert (status, out, err) == (1, "", "vidseg: no importer registered for op: Nonsense\n")

    def test_list_and_clear(self, fake_gpu, capsys):
        vidseg(capsys, "build", "--size", "192x192", "--precision", "int8")
        status, out, _ = vidseg(capsys, "list")
        assert status == 0
        assert out.startswith("unet-s int8 192x192, 1 to 8 pictures, 0.0 MB; fake 1, no GPU, 0.0, driver 1")
        (listed,) = json.loads(vidseg(capsys, "list", "--json")[1])["plans"]
        assert listed["facts"]["size"] == [192, 192]
        status, _, err = vidseg(capsys, "clear")
        assert (status, err) == (0, f"vidseg: 1 plan removed from {fake_gpu.folder}\n")
        assert vidseg(capsys, "list")[1] == f"There are no plans in {fake_gpu.folder}.\n"


def test_without_a_gpu_it_is_one_line(cache, capsys, monkeypatch):
    monkeypatch.setattr(registry, "_gpu", lambda: False)
    status, out, err = vidseg(capsys, "build")
    assert (status, out) == (1, "")
    assert err == "vidseg: runtime tensorrt needs an NVIDIA GPU and its driver, and none works here\n"
    assert not cache.folder.exists()


@pytest.mark.parametrize("size", ["256", "0x5", "ax5", "256x161"])
def test_a_size_that_is_none(cache, capsys, size):
    status, _, err = vidseg(capsys, "verify", "--size", size)
    assert status == 2
    assert "--size" in err


def test_an_unknown_action(cache, capsys):
    assert vidseg(capsys, "explode")[0] == 2


class TestVerify:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch):
        monkeypatch.setattr("vidseg.verifying._SECONDS", 0.0)
        monkeypatch.setattr("vidseg.verifying._FRAMES", 2)

    def test_every_runtime_of_this_machine_is_right(self, cache, capsys):
        status, out, _ = vidseg(capsys, "verify", "--json")
        verdicts = json.loads(out)["verdicts"]
        assert status == 0, verdicts
        assert {verdict["runtime"] for verdict in verdicts} >= {"tensorrt", "torch", "openvino", "onnxruntime"}
        checked = [verdict for verdict in verdicts if verdict["usable"]]
        assert {verdict["runtime"] for verdict in checked} == set(HERE)
        assert all(verdict["right"] and verdict["alone"] > 0 and verdict["batch"] > 0 for verdict in checked)

    def test_one_that_is_wrong_fails(self, fake_gpu, capsys):
        """The fake's masks have nothing to do with the network's."""
        status, out, err = vidseg(capsys, "verify")
        assert status == 1
        assert "tensorrt fp16     WRONG" in out
        assert "not every runtime says what the reference says" in err
