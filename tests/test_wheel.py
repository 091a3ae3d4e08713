"""The wheel: whole without the checkout, small, and without what only the repository needs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import av
import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
LARGE = {"torch", "torchvision", "onnx", "nvidia", "tensorrt", "opencv-python"}
"""What the base installation must do without; opencv-python needs libGL."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--quiet", "--wheel-dir", str(folder)]
    if importlib.util.find_spec("hatchling"):
        command.append("--no-build-isolation")
    elif importlib.util.find_spec("pip") is None:
        pytest.skip("building a wheel needs pip, which is not installed")
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode and "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("building a wheel needs hatchling: it is not installed and cannot be fetched")
    assert built.returncode == 0, built.stderr
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def vidseg(installed: Path, cwd: Path, *arguments: str) -> dict[str, object]:
    """Run the unpacked command far from the checkout and return its JSON."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "vidseg", *arguments, "--json"]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.stat().st_size < 50e6
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vidseg"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".nbi", ".nbc"))]
    assert {"vidseg/py.typed", "vidseg/demo/sample.mp4", "vidseg/demo/ORIGIN.md"} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    carried = {name.removeprefix("vidseg/") for name in names if name.startswith("vidseg/engines/")}
    assert carried == {str(path.relative_to(ROOT)) for path in ROOT.glob("engines/**/*") if path.is_file()}


def test_the_base_installation_is_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist") or []]
    base = {one.name for one in requirements if one.marker is None or "extra" not in str(one.marker)}
    assert {"numpy", "av", "openvino", "onnxruntime"} <= base
    assert not base & LARGE
    features = set(metadata.get_all("Provides-Extra") or [])
    assert features >= {"torch", "train", "onnxruntime", "openvino", "test", "all"}


def test_models_travel(installed: Path, tmp_path: Path) -> None:
    models = vidseg(installed, tmp_path, "models")["models"]
    assert isinstance(models, list)
    assert {"unet-s"} <= {model["name"] for model in models}
    assert all(Path(model["folder"]).is_relative_to(installed) for model in models)


def test_the_sample_is_done_with_the_model_that_came_along(installed: Path, tmp_path: Path) -> None:
    with av.open(str(installed / "vidseg" / "demo" / "sample.mp4")) as container:
        next(container.decode(video=0)).to_image().save(tmp_path / "in.png")
    done = vidseg(installed, tmp_path, "image", "in.png", "out.png", "--bg", "#ff0000")
    assert (done["frames"], done["output"], done["model"]) == (1, "out.png", "unet-s")
    assert sorted(os.listdir(tmp_path)) == ["in.png", "out.png"]
    with Image.open(tmp_path / "in.png") as before, Image.open(tmp_path / "out.png") as after:
        changed = (np.asarray(before) != np.asarray(after)).any(2)
        red = (np.asarray(after) == (255, 0, 0)).all(2)
    assert red.mean() > 0.1  # behind her
    assert changed.mean() < 0.9  # she is who she was
