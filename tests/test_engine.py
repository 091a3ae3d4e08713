"""Manifests, the registry of runtimes, and what happens when a model or a runtime is not what it should be."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import pytest

from vidseg import engine
from vidseg.engine import list_models, list_runtimes, load_spec, open_engine
from vidseg.errors import EngineError, MissingDependencyError, ModelMismatchError
from vidseg.testing import ConstantEngine

RUNTIMES = ("torch", "openvino", "onnxruntime")


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped model that a test may damage."""
    return Path(shutil.copytree(load_spec().folder, tmp_path / "model"))


def block(monkeypatch, name):
    """Make ``import name`` fail as if it were not installed."""
    row = next(row for row in engine._RUNTIMES if row.name == name)
    monkeypatch.delitem(sys.modules, row.module, raising=False)
    monkeypatch.setitem(sys.modules, name, None)


class TestSpec:
    def test_the_shipped_model_is_whole(self):
        spec = load_spec("unet-s")
        assert spec.name == "unet-s"
        assert {"onnx-fp32", "onnx-int8", "weights"} <= spec.files.keys()
        assert all(spec.read(role) for role in spec.files)
        assert (spec.folder / "MODEL_CARD.md").is_file()
        assert all(h % spec.multiple == w % spec.multiple == 0 for h, w in spec.sizes)

    def test_models_are_listed(self):
        assert [spec.name for spec in list_models()] == ["unet-m", "unet-s"]

    def test_a_folder_is_a_model(self, folder):
        assert load_spec(folder).folder == folder
        assert load_spec(str(folder)).name == "unet-s"

    @pytest.mark.parametrize(
        ("frame", "size"),
        [
            ((1080, 1920), (160, 256)),
            ((720, 1280), (160, 256)),
            ((1920, 1080), (256, 160)),
            ((480, 640), (192, 224)),
            ((1, 1), (192, 192)),
            ((1, 1000), (160, 256)),
        ],
    )
    def test_the_input_has_the_frames_shape(self, frame, size):
        assert load_spec().size_for(frame) == size

    def test_an_unknown_model_lists_the_known_ones(self):
        with pytest.raises(EngineError, match=r"no model 'unet-xl'.*unet-s"):
            load_spec("unet-xl")

    @pytest.mark.parametrize("name", ["../unet-s", ".", ""])
    def test_a_name_does_not_leave_the_folder_of_models(self, name, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(EngineError, match="no model"):
            load_spec(name)

    @pytest.mark.parametrize("text", ["", "name = [", 'name = "x"', "\x00"])
    def test_a_broken_manifest_is_one_sentence(self, text, folder):
        (folder / "manifest.toml").write_text(text)
        with pytest.raises(EngineError, match=r"manifest\.toml is not a model's manifest"):
            load_spec(folder)

    def test_a_manifest_cannot_name_files_elsewhere(self, folder):
        path = folder / "manifest.toml"
        path.write_text(path.read_text().replace('= "model.onnx"', '= "../model.onnx"'))
        with pytest.raises(EngineError, match="outside the folder"):
            load_spec(folder)

    def test_a_changed_file_is_not_loaded(self, folder):
        spec = load_spec(folder)
        for file in spec.files.values():
            data = bytearray((folder / file).read_bytes())
            data[len(data) // 2] ^= 1
            (folder / file).write_bytes(data)
        for runtime in ("auto", *RUNTIMES):
            if dict(row[:2] for row in list_runtimes()).get(runtime, True):
                with pytest.raises(ModelMismatchError, match="sha256 differs"):
                    open_engine(folder, runtime)

    def test_a_missing_file_is_named(self, folder):
        spec = load_spec(folder)
        for file in spec.files.values():
            (folder / file).unlink()
        with pytest.raises(EngineError, match=r"\.(onnx|safetensors) cannot be read"):
            open_engine(folder)


class TestOpen:
    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "torch"])
    def test_files_that_are_not_what_the_manifest_says(self, folder, runtime):
        """The network cannot take this size, whatever its manifest claims: the first frame is too late to notice."""
        if not dict(row[:2] for row in list_runtimes())[runtime]:
            pytest.skip(f"runtime {runtime} is not usable here")
        path = folder / "manifest.toml"
        path.write_text(path.read_text().replace("multiple = 32", "multiple = 16"))
        with pytest.raises(EngineError):
            open_engine(folder, runtime, (16, 16))

    def test_a_model_without_int8(self, folder):
        path = folder / "manifest.toml"
        path.write_text(path.read_text().replace('onnx-int8 = "model-int8.onnx"\n', ""))
        assert "fp32" in open_engine(folder).runtime or "torch" in open_engine(folder).runtime

    def test_auto_says_what_runs(self):
        opened = open_engine()
        assert opened.runtime.startswith(RUNTIMES)
        assert opened.size == load_spec().sizes[0]
        opened.close()

    def test_auto_skips_what_does_not_work_and_logs_why(self, monkeypatch, caplog):
        pytest.importorskip("onnxruntime")
        block(monkeypatch, "openvino")
        monkeypatch.setattr(engine, "_gpu", lambda: False)
        with caplog.at_level(logging.INFO, "vidseg.engine"):
            assert open_engine().runtime.startswith("onnxruntime")
        assert "openvino was skipped" in caplog.text

    def test_nothing_works(self, monkeypatch):
        monkeypatch.setattr(engine, "_gpu", lambda: False)
        for name in RUNTIMES:
            block(monkeypatch, name)
        with pytest.raises(EngineError, match=r"(?s)no runtime.*openvino:.*onnxruntime:.*torch:"):
            open_engine()
        assert not any(usable for _, usable, _ in list_runtimes())

    @pytest.mark.parametrize("name", RUNTIMES)
    def test_a_runtime_by_name_is_never_replaced(self, name, monkeypatch):
        block(monkeypatch, name)
        with pytest.raises(MissingDependencyError, match=rf"pip install 'vidseg\[{name}\]'"):
            open_engine(runtime=name)

    def test_an_unknown_runtime(self):
        with pytest.raises(ValueError, match=r"'abacus' is not one of auto, tensorrt, torch, openvino, onnxruntime"):
            open_engine(runtime="abacus")

    @pytest.mark.parametrize("size", [(160, 250), (0, 0), (-32, 32)])
    def test_a_size_that_the_network_cannot_take(self, size):
        with pytest.raises(ValueError, match="multiples of 32"):
            open_engine(size=size)

    def test_no_threads(self):
        with pytest.raises(ValueError, match="threads = 0"):
            open_engine(threads=0)

    def test_runtimes_are_listed_with_reasons(self, monkeypatch):
        block(monkeypatch, "openvino")
        rows = {name: (usable, detail) for name, usable, detail in list_runtimes()}
        assert rows.keys() >= {*RUNTIMES, "tensorrt"}
        assert rows["openvino"] == (
            False,
            "runtime openvino needs a package that is not installed: pip install 'vidseg[openvino]'",
        )
        assert all(detail for _, detail in rows.values())

    def test_the_fake_is_an_engine(self):
        fake: engine.Engine = ConstantEngine()
        assert fake.infer is not None
