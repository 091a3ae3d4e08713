"""ONNX Runtime on other devices: named, probed, and never replaced without a word. None of them works here."""

from __future__ import annotations

import pytest

from vidseg.engine import list_runtimes, load_spec, open_engine
from vidseg.errors import EngineError

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from vidseg.runtimes.ort import _RELU, PROVIDERS  # noqa: E402

LACKING = [name for name, p in PROVIDERS.items() if p.name not in onnxruntime.get_available_providers()]


def test_every_provider_is_listed_with_what_it_lacks():
    rows = {name: (usable, detail) for name, usable, detail in list_runtimes()}
    assert {f"onnxruntime-{name}" for name in PROVIDERS} <= set(rows)
    for name in LACKING:
        usable, detail = rows[f"onnxruntime-{name}"]
        assert not usable
        assert PROVIDERS[name].package in detail
        assert "CPU" in detail  # what this build knows


@pytest.mark.parametrize("name", LACKING)
def test_by_name_it_is_never_another_one(name):
    with pytest.raises(EngineError, match=f"not {PROVIDERS[name].device}: in place of onnxruntime, pip install"):
        open_engine(runtime=f"onnxruntime-{name}")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_silently_became_the_cpu_is_refused(monkeypatch):
    """ONNX Runtime itself goes on on the CPU when a driver is missing: it is asked where it is."""
    provider = PROVIDERS["cuda"]
    if provider.name in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has CUDA")
    there = onnxruntime.get_available_providers()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider.name, *there])
    with pytest.raises(EngineError, match="CUDA of ONNX Runtime does not work"):
        provider.probe()
    with pytest.raises(EngineError, match="CUDA of ONNX Runtime does not work"):
        open_engine(load_spec(), "onnxruntime-cuda")


def test_the_smallest_network_is_one():
    session = onnxruntime.InferenceSession(_RELU, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["b"]


def test_auto_takes_none_of_them():
    with open_engine_of("auto") as engine:
        assert not engine.runtime.startswith("onnxruntime") or "(CPU)" in engine.runtime


def open_engine_of(runtime):
    from contextlib import closing

    return closing(open_engine(runtime=runtime))
