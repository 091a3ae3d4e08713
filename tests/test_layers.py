"""A module imports only from layers below its own, an adapter one heavy library, and ``import vidseg`` none at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vidseg"
LAYERS = {
    0: ("errors", "frame"),
    1: (
        "color",
        "light",
        "kernels",
        "engine",
        "onnx_graph",
        "contracts",
        "foreign",
        "cuts",
        "exposure",
        "smoothing",
        "v4l2",
        "devices",
        "sources",
        "sinks",
        "runtimes",
        "plans",
        "parity",
        "building",
        "handover",
        "batching",
    ),
    2: (
        "resize",
        "decoding",
        "settling",
        "motion",
        "subject",
        "framing",
        "placement",
        "compositing",
        "backgrounds",
        "refine",
        "unet",
        "networks",
        "mobilenet",
    ),
    3: ("runtimes.*", "sources.*", "sinks.*"),
    4: (
        "segmenter",
        "pipeline",
        "live",
        "live.*",
        "service",
        "testing",
        "compositor",
        "jobs",
        "images",
        "convert",
        "verifying",
        "capacity",
        "gpu",
        "gpu.*",
        "checking",
    ),
    5: (
        "integrations",
        "server",
        "server.*",
        "training",
        "evaluation",
        "explaining",
        "batch",
        "integrations.*",
        "training.*",
        "evaluation.*",
        "explaining.*",
    ),
    6: ("", "__main__", "cli", "cli.*", "demo", "demo.*"),
}
"""DESIGN.md, section 3. ``x.*`` are the modules inside ``x``; ``""`` is the package itself."""
HEAVY = {"av", "cv2", "numba", "onnx", "onnxruntime", "openvino", "safetensors", "tensorrt", "torch", "torchvision"}
HEAVY |= {"pyvirtualcam", "sdl2", "aiortc", "livekit", "gi"}
HEAVY |= {"fastapi", "starlette", "uvicorn"}
MAY_IMPORT = {
    "kernels": {"numba"},
    "resize": {"cv2"},
    "decoding": {"cv2"},
    "compositing": {"cv2"},
    "backgrounds": {"cv2"},
    "refine": {"cv2"},
    "settling": {"cv2"},
    "motion": {"cv2"},
    "subject": {"cv2"},
    "placement": {"cv2"},
    "live.matting": {"cv2"},
    "integrations.aiortc": {"aiortc", "av"},
    "integrations.livekit": {"livekit"},
    "integrations.gst": {"gi"},
    "unet": {"torch"},
    "networks": {"torch", "safetensors"},
    "mobilenet": {"torch", "torchvision"},
    "runtimes.ort": {"onnxruntime"},
    "runtimes.openvino": {"openvino"},
    "runtimes.torch": {"torch"},
    "runtimes.cuda": {"torch"},
    "runtimes.replay": {"torch"},
    "runtimes.tensorrt": {"tensorrt", "torch"},
    "runtimes.graphs": {"onnx"},
    "gpu.blur": {"torch"},
    "gpu.codecs": {"torch"},
    "gpu.compositing": {"torch"},
    "gpu.compositor": {"torch"},
    "gpu.cuts": {"torch"},
    "gpu.device": {"torch"},
    "gpu.pictures": {"torch"},
    "gpu.refine": {"torch"},
    "gpu.resize": {"torch"},
    "gpu.settling": {"torch"},
    "gpu.smoothing": {"torch"},
    "gpu.streams": {"torch"},
    "gpu.uploads": {"torch"},
    "convert": {"av"},
    "devices": {"av"},
    "sources.pyav": {"av"},
    "sources.raw": {"av"},
    "sources.v4l2": {"av"},
    "sources.network": {"av"},
    "sources.grabbing": {"av"},
    "sources.opencv": {"cv2"},
    "sinks.pyav": {"av"},
    "sinks.sender": {"av"},
    "sinks.virtualcam": {"pyvirtualcam"},
    "sinks.window": {"sdl2"},
    "sinks.tracks": {"av"},
    "sources.pictures": {"cv2"},
    "sinks.pictures": {"cv2"},
    "demo.scenery": {"cv2"},
    "demo.make_sample": {"av", "cv2"},
    "evaluation.metrics": {"cv2"},
    "evaluation.scenes": {"cv2"},
    "evaluation.judging": {"cv2"},
    "evaluation.sheet": {"cv2"},
    "explaining.looks": {"cv2"},
    "explaining.evidence": {"cv2"},
    "explaining.gradcam": {"torch", "cv2"},
    "explaining.drawing": {"cv2"},
    "explaining.page": {"cv2"},
    "server.app": {"fastapi", "starlette"},
    "server.gate": {"starlette"},
    "server.backdrops": {"cv2"},
    "server.jpeg": {"av"},
    "server.peers": {"aiortc", "av"},
    "training.adapt": {"torch", "cv2"},
    "training.footage": {"cv2"},
    "training.losses": {"torch"},
    "training.pictures": {"cv2"},
    "training.readers": {"cv2"},
    "training.augment": {"torch", "torchvision", "cv2"},
    "training.motion": {"cv2"},
    "training.compose": {"cv2"},
    "training.samples": {"torch", "torchvision", "cv2"},
    "training.feed": {"torch", "cv2"},
    "training.logs": {"torch", "cv2"},
    "training.ranks": {"torch"},
    "training.start": {"torch"},
    "training.trainer": {"torch"},
    "training.validation": {"torch", "cv2"},
    "training.export": {"torch", "cv2"},
    "training.onnx_files": {"torch", "onnx", "onnxruntime"},
}
ADAPTERS_TAKE = {"runtimes.torch": {"networks"}}
"""What an adapter needs of layer 2: the network that it runs."""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer_of(module: str) -> int | None:
    parent = module.rpartition(".")[0]
    for layer, names in LAYERS.items():
        if module in names or (parent and f"{parent}.*" in names):
            return layer
    return None


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return ``(dotted name, whether it is imported when the module is)`` for every import in a file."""
    found = []

    def visit(node: ast.AST, at_once: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, at_once) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                found.extend((f"{child.module}.{alias.name}", at_once) for alias in child.names)
            else:
                typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or typing_only
                visit(child, at_once and not inside)

    visit(ast.parse(path.read_text("utf-8")), True)
    return found


def own_module(name: str) -> str | None:
    """Return the module of vidseg that ``vidseg.a.b`` means, where ``b`` may be something inside module ``a``."""
    if name != "vidseg" and not name.startswith("vidseg."):
        return None
    name = name.removeprefix("vidseg").removeprefix(".")
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("module", MODULES)
def test_has_a_layer(module):
    assert layer_of(module) is not None, f"vidseg.{module} stands in no layer: add it to LAYERS, and to CONTRIBUTING.md"


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_below(module):
    layer = layer_of(module)
    for name, at_once in imports(MODULES[module]):
        other = own_module(name)
        if other is None or other == module:
            continue
        below = layer_of(other)
        if layer == 3 and below == 2:
            assert other in ADAPTERS_TAKE.get(module, {"resize", "decoding"}), f"vidseg.{module} imports vidseg.{other}"
        elif at_once:
            # Within a layer, modules may use each other; ast and Python both forbid circles.
            assert below <= layer, f"vidseg.{module} (layer {layer}) imports vidseg.{other} (layer {below})"


@pytest.mark.parametrize("module", MODULES)
def test_imports_one_heavy_library_at_most(module):
    heavy = {name.split(".")[0] for name, _ in imports(MODULES[module])} & HEAVY
    if not module.startswith("cli"):
        assert heavy <= MAY_IMPORT.get(module, set()), f"vidseg.{module} imports {heavy}"


@pytest.mark.parametrize("statement", ["import vidseg", "import vidseg.engine", "import vidseg.cli.main"])
def test_importing_is_light(statement):
    code = (
        f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}} & set(sys.argv[1:])))"
    )
    heavy = {*HEAVY, "openvino_telemetry"}
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
