"""The logic around TensorRT (batches, lanes, states, classes, errors) over a fake of it, by value.

Neither TensorRT nor a GPU has any part in this: the fake's plans are ONNX files, ONNX Runtime computes them on the CPU
at the addresses that it is given, and PyTorch's streams, events and graphs are replaced by ones that do all at once.
What the real bindings look like is held by ``test_tensorrt_bindings.py``.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import importlib
import sys
import types

import numpy as np
import pytest

from tests.test_runtimes import CLASSES, made, pictures  # noqa: F401  # a fixture
from vidseg.engine import load_spec
from vidseg.errors import EngineBuildError, EngineError
from vidseg.parity import TOLERANCE, compare
from vidseg.plans import Facts

torch = pytest.importorskip("torch", reason="the adapter needs PyTorch, which is not installed")
onnx = pytest.importorskip("onnx", reason="onnx, which reads the fake's networks, is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime, which computes the fake's networks, is not installed")


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Logger:
    Severity = Severity


class Fake:
    """What goes wrong, and what was done."""

    def __init__(self):
        self.fails, self.logger, self.launches, self.profiles, self.contexts = "", None, 0, [], 0

    def complain(self, text):
        self.logger.log(Severity.ERROR, text)


def fake_tensorrt(fake):
    """Return a module with what the adapter uses of TensorRT."""
    trt = types.ModuleType("tensorrt")
    trt.__version__ = "0 (fake)"
    trt.ILogger = Logger
    trt.IProgressMonitor = type("IProgressMonitor", (), {})
    trt.DataType = enum.Enum("DataType", "FLOAT HALF")
    trt.TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")
    trt.MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})

    class Network:
        data = b""

        def __init__(self):
            self.names = []

        @property
        def num_inputs(self):
            return len(self.names)

        def get_input(self, index):
            return types.SimpleNamespace(name=self.names[index])

    class Profile:
        def set_shape(self, input, min, opt, max):
            fake.profiles.append((input, min, opt, max))

    class Config:
        progress_monitor = None

        def set_memory_pool_limit(self, pool, size):
            assert size > 0

        def add_optimization_profile(self, profile):
            return 0

        def create_timing_cache(self, data):
            return None if data == b"broken" else types.SimpleNamespace(serialize=lambda: b"timings", data=data)

        def set_timing_cache(self, cache, ignore_mismatch):
            if cache.data == b"other version":
                return False
            self.cache = cache
            return True

        def get_timing_cache(self):
            return self.cache

    class Builder:
        def __init__(self, logger):
            fake.logger = logger
            if fake.fails == "start":
                fake.complain("CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags=0):
            assert flags == 2
            return Network()

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            config.progress_monitor.phase_start("build", None, 2)
            assert config.progress_monitor.step_complete("build", 0)
            config.progress_monitor.phase_finish("build")
            if fake.fails:
                fake.complain(
                    {"memory": "Out of memory while\nbuilding", "build": "could not find any tactic"}[fake.fails]
                )
                return None
            return network.data

    class Parser:
        num_errors = 1

        def __init__(self, network, logger):
            self.network = network

        def parse(self, data):
            self.network.data = data
            self.network.names = [value.name for value in onnx.load_from_string(data).graph.input]
            return fake.fails != "operator"

        def get_error(self, index):
            told = {"node_operator": "Nonsense", "node_name": "node_7", "desc": "no importer\nregistered"}
            return types.SimpleNamespace(**{key: lambda value=value: value for key, value in told.items()})

    class Context:
        def __init__(self, session):
            self.session, self.shapes, self.at = session, {}, {}
            fake.contexts += 1

        def set_input_shape(self, name, shape):
            self.shapes[name] = shape
            return shape[0] <= 8

        def get_tensor_shape(self, name):
            if name not in self.shapes:
                zeros = {key: np.zeros(shape, np.float32) for key, shape in self.shapes.items()}
                names = [value.name for value in self.session.get_outputs()]
                outputs = zip(names, self.session.run(names, zeros), strict=True)
                self.shapes.update({key: array.shape for key, array in outputs})
            return self.shapes[name]

        def set_tensor_address(self, name, memory):
            self.at[name] = memory
            return True

        def array(self, name):
            shape = self.shapes[name]
            count = int(np.prod(shape))
            return np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.at[name])).reshape(shape)

        def execute_async_v3(self, stream):
            fake.launches += 1
            if fake.fails == "run":
                fake.complain("an illegal memory access was encountered")
                return False
            inputs = {value.name: self.array(value.name).copy() for value in self.session.get_inputs()}
            names = [value.name for value in self.session.get_outputs()]
            for name, array in zip(names, self.session.run(names, inputs), strict=True):
                self.array(name)[...] = array
            return True

    class Engine:
        def __init__(self, plan):
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            self.session = ort.InferenceSession(plan, options, providers=["CPUExecutionProvider"])
            self.ins = [value.name for value in self.session.get_inputs()]
            self.names = self.ins + [value.name for value in self.session.get_outputs()]
            self.num_io_tensors = len(self.names)

        def get_tensor_name(self, index):
            return self.names[index]

        def get_tensor_mode(self, name):
            return trt.TensorIOMode.INPUT if name in self.ins else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name):
            return trt.DataType.HALF if fake.fails == "half" else trt.DataType.FLOAT

        def create_execution_context(self):
            return None if fake.fails == "context" else Context(self.session)

    class Runtime:
        def __init__(self, logger):
            fake.logger = logger

        def deserialize_cuda_engine(self, plan):
            if fake.fails == "other version":
                fake.complain("Version tag does not match")
            if fake.fails == "load memory":
                fake.complain("Cuda Runtime (out of memory)")
            return Engine(plan) if not fake.fails else None

    trt.Builder, trt.OnnxParser, trt.Runtime = Builder, Parser, Runtime
    trt.ICudaEngine = Engine
    return trt


class AtOnce:
    """PyTorch on the CPU under the names of its CUDA side; everything is done as it is queued."""

    def __init__(self):
        class Stream:
            cuda_stream = 0

            def wait_stream(self, other):
                """Nothing is ever under way."""

            synchronize = record = lambda self, *_: None

        class Graph:
            replay = None

        @contextlib.contextmanager
        def recording(graph, **_):
            yield
            raise RuntimeError("a fake records no graph")

        self.cuda = types.SimpleNamespace(
            Stream=Stream,
            Event=Stream,
            CUDAGraph=Graph,
            graph=recording,
            stream=lambda stream: contextlib.nullcontext(),
            current_stream=Stream,
        )

    def zeros(self, shape, dtype=None, device=None, pin_memory=False):
        return torch.zeros(shape, dtype=dtype)

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def fake():
    return Fake()


@pytest.fixture
def adapter(fake, monkeypatch):
    """The adapter over the fake; the real module, if there is one, is back afterwards."""
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(fake))
    monkeypatch.delitem(sys.modules, "vidseg.runtimes.tensorrt", raising=False)
    module = importlib.import_module("vidseg.runtimes.tensorrt")
    monkeypatch.setattr(module, "torch", AtOnce())
    monkeypatch.setattr(module, "_check_device", lambda: None)
    yield module
    sys.modules.pop("vidseg.runtimes.tensorrt", None)


def facts(spec, precision="fp32", size=None):
    return Facts(spec.name, "", "fake", "no GPU, 0.0", "", precision, size or spec.sizes[0], 8, 1)


def opened(adapter, spec, precision="fp32", size=None):
    wanted = facts(spec, precision, size)
    plan, timings = adapter.compile(spec, wanted, b"", lambda share: None)
    assert timings == b"timings"
    return adapter.load(spec, wanted, plan)


def reference(spec, size=None):
    from vidseg.runtimes.torch import TorchEngine

    return TorchEngine(spec, size or spec.sizes[0], 1, "fp32", device="cpu")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_more_pictures_than_a_plan_takes(adapter, fake, precision):
    """19 pictures are batches of 8, 8 and 3: the first two lanes in turn, and one of another size."""
    spec = load_spec()
    engine = opened(adapter, spec, precision)
    src = pictures(19, spec.sizes[0])
    alpha, state = engine.infer(src)
    assert state == ()
    assert compare(alpha, reference(spec).infer(src)[0]).within(TOLERANCE["tensorrt", precision])
    assert fake.contexts == 3
    assert fake.profiles == [("src", (1, 3, 160, 256), (8, 3, 160, 256), (8, 3, 160, 256))]
    assert engine.runtime == f"tensorrt {precision} (no GPU)"
    again, _ = engine.infer(src[:3])
    np.testing.assert_allclose(again, alpha[:3], atol=1e-4)
    kept = alpha.copy()
    engine.infer(src[::-1])
    np.testing.assert_array_equal(alpha, kept)  # the caller's own


def test_states_are_carried_on(adapter, made):  # noqa: F811
    spec = load_spec(made / "recurrent")
    engine, truth = opened(adapter, spec), reference(spec)
    state, expected = (), ()
    for number in range(4):
        src = pictures(10, (64, 96), number)
        alpha, state = engine.infer(src, state)
        wanted, expected = truth.infer(src, expected)
        np.testing.assert_allclose(alpha, wanted, atol=1e-3)
        for part, true in zip(state, expected, strict=True):
            np.testing.assert_allclose(part, true, atol=1e-3)
    with pytest.raises(ValueError, match="takes 2 states of 1 pictures"):
        engine.infer(src[:1], state)


@pytest.mark.parametrize("keep", [("person",), CLASSES[1:]])
def test_classes_are_added_up(adapter, made, keep):  # noqa: F811
    spec = load_spec(made / "classes").keeping(keep)
    src = pictures(9, (64, 96))
    alpha, _ = opened(adapter, spec).infer(src)
    np.testing.assert_allclose(alpha, reference(spec).infer(src)[0], atol=1e-3)


@pytest.mark.parametrize("timings", [b"broken", b"other version"])
def test_timings_of_another_version_are_left(adapter, timings):
    shares = []
    spec = load_spec()
    assert adapter.compile(spec, facts(spec), timings, shares.append)[1] == b"timings"
    assert shares == [0.25, 0.5]


@pytest.mark.parametrize(
    ("fails", "kind", "text"),
    [
        ("start", EngineError, "TensorRT does not start: CUDA initialization failure with error: 35"),
        ("operator", EngineBuildError, "cannot compile unet-s: Nonsense node_7: no importer registered"),
        ("memory", EngineError, "cannot compile unet-s: Out of memory while building"),
        ("build", EngineBuildError, "cannot compile unet-s: could not find any tactic"),
    ],
)
def test_why_nothing_was_compiled(adapter, fake, fails, kind, text):
    """What may work at the next try is no ``EngineBuildError``."""
    fake.fails = fails
    spec = load_spec()
    with pytest.raises(EngineError, match=text) as raised:
        adapter.compile(spec, facts(spec), b"", lambda share: None)
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("fails", "kind", "text"),
    [
        ("other version", EngineBuildError, "Version tag does not match"),
        ("load memory", EngineError, "out of memory"),
    ],
)
def test_why_a_plan_is_not_loaded(adapter, fake, fails, kind, text):
    fake.fails = fails
    with pytest.raises(EngineError, match=text) as raised:
        adapter.load(load_spec(), facts(load_spec()), b"plan")
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("fails", "text"),
    [
        ("context", "no memory for the network"),
        ("run", "TensorRT failed: an illegal memory access"),
        ("half", "is not float32"),
    ],
)
def test_why_it_does_not_run(adapter, fake, fails, text):
    spec = load_spec()
    engine = opened(adapter, spec)
    fake.fails = fails
    with pytest.raises(EngineError, match=text):
        engine.infer(pictures(1, spec.sizes[0]))


def test_a_lost_device_is_an_error_of_the_engine(adapter, monkeypatch):
    spec = load_spec()
    engine = opened(adapter, spec)
    src = pictures(1, spec.sizes[0])
    engine.infer(src)

    def lost(self, *_):
        raise RuntimeError("CUDA error: device-side assert triggered. Compile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(adapter.torch.cuda.Event, "synchronize", lost)
    with pytest.raises(EngineError, match=r"unet-s on tensorrt: CUDA error: device-side assert triggered$"):
        engine.infer(src)


def test_close_and_wrong_shapes(adapter):
    engine = opened(adapter, load_spec())
    with pytest.raises(ValueError, match="this engine takes"):
        engine.infer(np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(ValueError, match="on a GPU"):
        engine.infer_on_device(torch.zeros(1, 3, 160, 256))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(pictures(1, engine.size))


def test_what_it_does_not_know(adapter):
    from dataclasses import replace

    spec = load_spec()
    with pytest.raises(EngineError, match="knows fp32, fp16, int8, not bf16"):
        adapter.describe(spec, spec.sizes[0], "bf16")
    with pytest.raises(EngineError, match="does not say how large its states are"):
        adapter.describe(replace(spec, states=((0, 0),)), spec.sizes[0], None)
    with pytest.raises(EngineError, match="no onnx-int8 file"):
        adapter.describe(replace(spec, files={"onnx-fp32": "model.onnx"}), spec.sizes[0], "int8")


@pytest.mark.parametrize(("wheel", "driver", "fine"), [(13, 12, False), (12, 13, True), (12, 12, True), (0, 12, True)])
def test_a_wheel_that_is_too_new_for_the_driver(adapter, monkeypatch, wheel, driver, fine):
    monkeypatch.undo()
    monkeypatch.setattr(adapter, "_wheel_cuda", lambda: wheel)
    monkeypatch.setattr(adapter, "_driver_cuda", lambda: driver)
    monkeypatch.setattr(adapter, "check", lambda what: None)
    if fine:
        adapter._check_device()
    else:
        with pytest.raises(EngineError, match=r"for CUDA 13 and the driver knows CUDA 12 at most.*tensorrt-cu12"):
            adapter._check_device()
