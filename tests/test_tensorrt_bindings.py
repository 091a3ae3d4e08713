"""What vidseg uses of TensorRT is in TensorRT's real bindings, with those arguments. Nothing of it is executed.

The bindings (``pip install --no-deps tensorrt-cu12-bindings``, a megabyte) are loaded over libraries that are empty but
for the symbols that they want, so that neither a GPU nor TensorRT itself is needed; nothing could compute with them.
``tests/stubs/tensorrt`` lists what is used. mypy holds vidseg against that list, and this test holds the list against
the bindings. Set ``VIDSEG_TENSORRT_BINDINGS`` to a folder to look at those in it, of another version.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STUB = Path(__file__).parent / "stubs" / "tensorrt" / "__init__.pyi"
LIBRARIES = {
    "nvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": ("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion"),
}
DUMP = """
import json, sys
import tensorrt_bindings as trt

def described(value):
    if isinstance(value, property):
        return {"kind": "property", "settable": value.fset is not None}
    if hasattr(value, "__members__"):
        return {"kind": "enum", "members": list(value.__members__)}
    if isinstance(value, type):
        members = {n: m for base in reversed(value.__mro__[:-2]) for n, m in vars(base).items()}
        return {"kind": "class", "members": {n: described(m) for n, m in members.items()}}
    return {"kind": "function", "doc": getattr(value, "__doc__", None) or ""}

json.dump({name: described(value) for name, value in vars(trt).items()}, sys.stdout)
"""
EXECUTE = """
import sys
sys.modules["tensorrt"] = __import__("tensorrt_bindings")
import tensorrt, torch
from vidseg.runtimes import tensorrt as adapter
shares = []
monitor = adapter._Monitor(shares.append)
assert isinstance(monitor, tensorrt.IProgressMonitor)
monitor.phase_start("a", None, 2)
assert monitor.step_complete("a", 0) is True
monitor.phase_finish("a")
assert shares == [0.25, 0.5], shares
adapter._LOG.log(tensorrt.ILogger.Severity.ERROR, "a  reason\\nof two lines")
adapter._LOG.log(tensorrt.ILogger.Severity.INFO, "chatter")
assert adapter._LOG.why("nothing") == "a reason of two lines"
assert adapter._LOG.why("nothing") == "nothing"
assert 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == (1 if tensorrt.__version__ > "11" else 2)
if not torch.cuda.is_available():
    from vidseg.engine import load_spec
    from vidseg.errors import EngineError
    for call in (adapter.probe, lambda: adapter.describe(load_spec(), (160, 256), None)):
        try:
            call()
        except EngineError as error:
            print(error)
"""


def folder():
    """Return where the bindings lie, or None."""
    if given := os.environ.get("VIDSEG_TENSORRT_BINDINGS"):
        return Path(given)
    spec = importlib.util.find_spec("tensorrt_bindings")
    return Path(spec.origin).parent.parent if spec is not None and spec.origin else None


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return what runs a script with the bindings over empty libraries."""
    place, compiler = folder(), shutil.which("gcc") or shutil.which("cc")
    if sys.platform != "linux":
        pytest.skip("the empty libraries are made for Linux")
    if place is None:
        pytest.skip("TensorRT's bindings are not installed: pip install --no-deps tensorrt-cu12-bindings")
    if compiler is None:
        pytest.skip("there is no C compiler that could make the empty libraries")
    made = tmp_path_factory.mktemp("empty")
    binary = place / "tensorrt_bindings" / "tensorrt.so"
    major = re.search(rb"libnvinfer\.so\.(\d+)", binary.read_bytes())[1].decode()
    for name, symbols in LIBRARIES.items():
        (made / f"{name}.c").write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols))
        library = f"lib{name}.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", made / library, made / f"{name}.c"]
        subprocess.run(command, check=True)

    def run(code):
        root = str(Path(__file__).parent.parent)
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(made),
            "PYTHONPATH": os.pathsep.join([str(place), root, *filter(None, sys.path)]),
        }
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def bindings(python):
    return json.loads(python(DUMP))


def used(body, where=""):
    """Yield ``(path of a name, kind, node)`` for all that a stub lists."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            enum = any(ast.unparse(base) == "Enum" for base in node.bases)
            yield f"{where}{node.name}", "enum" if enum else "class", node
            if not enum:
                yield from used(node.body, f"{where}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            readable = any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)
            yield f"{where}{node.name}", "property" if readable else "function", node
        elif isinstance(node, ast.AnnAssign) and where:
            yield f"{where}{node.target.id}", "setting", node


USED = list(used(ast.parse(STUB.read_text()).body))
SPECIAL = {"Dims.__iter__"}
"""Python's own protocols, which pybind11 shows in another way."""


def found(bindings, path):
    first, *rest = path.split(".")
    value = bindings.get(first)
    for name in rest:
        value = (value or {}).get("members", {}).get(name) if isinstance((value or {}).get("members"), dict) else None
    return value


@pytest.mark.parametrize(("path", "kind", "node"), USED, ids=[path for path, _, _ in USED])
def test_the_bindings_have_it(bindings, path, kind, node):
    real = found(bindings, path)
    if path in SPECIAL:
        assert found(bindings, path.split(".")[0])["members"].keys() >= {"__len__", "__getitem__"}
        return
    assert real is not None, f"TensorRT has no {path}"
    if kind == "enum":
        members = {target.id for item in node.body if isinstance(item, ast.Assign) for target in item.targets}
        assert members
        assert members <= set(real["members"])
    elif kind == "function":
        assert real["kind"] == "function"
        wanted = [argument.arg for argument in node.args.args]
        optional = len(node.args.defaults)
        assert any(takes(line, wanted, optional) for line in real["doc"].splitlines()), (wanted, real["doc"][:600])
    elif kind in ("property", "setting"):
        assert real["kind"] == "property"
        assert real["settable"] or kind == "property"
    else:
        assert real["kind"] == "class"


def takes(line, wanted, optional):
    """Whether a line of a docstring is a signature whose arguments are these, and no other without a default."""
    match = re.match(r"(?:\d+\. )?\w+\((.*)\) -> ", line)
    if match is None:
        return False
    arguments = re.findall(r"(?:^|, )(\w+): (.*?)(?=, \w+: |$)", match[1])
    names = [name for name, _ in arguments]
    rest = [kind for _, kind in arguments[len(wanted) :]]
    may_be_left_out = [kind for _, kind in arguments[len(wanted) - optional : len(wanted)]]
    return names[: len(wanted)] == wanted and all(" = " in kind for kind in rest + may_be_left_out)


def test_a_wrong_signature_would_be_noticed(bindings):
    doc = found(bindings, "IBuilderConfig.set_timing_cache")["doc"].splitlines()
    assert any(takes(line, ["self", "cache", "ignore_mismatch"], 0) for line in doc)
    assert not any(takes(line, ["self", "cache"], 0) for line in doc)
    assert not any(takes(line, ["self", "cache", "force"], 0) for line in doc)
    assert not any(takes(line, ["self", "cache", "ignore_mismatch"], 1) for line in doc)
    assert found(bindings, "IBuilderConfig.nonsense") is None


def test_what_we_inherit_and_what_needs_no_gpu(python):
    """The logger and the progress of a build are classes of ours; without a GPU there is one clear line."""
    pytest.importorskip("torch", reason="the adapter needs PyTorch, which is not installed")
    said = python(EXECUTE).splitlines()
    assert all(line.startswith("tensorrt needs an NVIDIA GPU (") for line in said)
    assert all("install" in line for line in said)


def test_nothing_is_used_that_is_not_listed():
    """mypy sees to it in CI; this is for those who only run the tests."""
    listed = {path.split(".")[-1] for path, _, _ in USED} | {
        target.id
        for _, kind, node in USED
        if kind == "enum"
        for item in node.body
        if isinstance(item, ast.Assign)
        for target in item.targets
    }
    listed |= {"__version__"}
    tree = ast.parse((Path(__file__).parent.parent / "vidseg" / "runtimes" / "tensorrt.py").read_text())
    names = {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("trt.")
        for part in ast.unparse(node).split(".")[1:]
    }
    assert names
    assert names <= listed
