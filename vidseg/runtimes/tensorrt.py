"""TensorRT on NVIDIA GPUs: how a network becomes a plan, and a plan is run. Memory, streams and graphs are PyTorch's.

Never run on a GPU so far. It is written against the bindings of TensorRT 10.16 and 11.4, and
``tests/test_tensorrt_bindings.py`` holds every class, argument and enumeration that is used here against them; where
there is a GPU, ``tests/test_runtimes.py`` runs it.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorrt as trt
import torch
from torch import Tensor

from vidseg.building import Phases, Report, open_compiled
from vidseg.engine import ModelSpec, Precision, State
from vidseg.errors import EngineBuildError, EngineError
from vidseg.frame import Size
from vidseg.plans import Facts
from vidseg.runtimes import alpha_of, blank_state, checked, checked_state, feed, scalars
from vidseg.runtimes.cuda import check, reason_of

log = logging.getLogger(__name__)

BATCH = 8
"""Pictures that a plan takes at once; more are given to it one batch after another."""
WORKSPACE = 1 << 30
"""Bytes of the GPU's memory that a layer may use while it works: an upper bound that no layer of ours comes near."""
RECIPE = 1
"""Counts the changes to what is built here: plans of another recipe are not used."""
_ROLES = {"fp32": "onnx-fp32", "fp16": "onnx-fp16", "int8": "onnx-int8"}
_TYPES = (trt.DataType.FLOAT,)


class _Log(trt.ILogger):
    """Keeps the errors that TensorRT says only here; everything goes to vidseg's log."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: deque[str] = deque(maxlen=20)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        bad = severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)
        if bad:
            self.errors.append(msg)
        log.log(logging.INFO if bad else logging.DEBUG, "%s", msg)

    def why(self, otherwise: str) -> str:
        """Return the last error as one line, and forget it."""
        text = self.errors[-1] if self.errors else otherwise
        self.errors.clear()
        return " ".join(text.split())


_LOG = _Log()  # TensorRT keeps the first logger of a process for good


class _Monitor(trt.IProgressMonitor):
    """Tells how far a build is. TensorRT calls it on any thread, and ends the process if it raises."""

    def __init__(self, report: Report) -> None:
        trt.IProgressMonitor.__init__(self)
        self._phases = Phases(report)

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._phases.start(phase_name, parent_phase, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        try:
            self._phases.step(phase_name, step)
        except Exception as error:
            log.info("progress cannot be told: %s", error)
        return True  # go on

    def phase_finish(self, phase_name: str) -> None:
        try:
            self._phases.finish(phase_name)
        except Exception as error:
            log.info("progress cannot be told: %s", error)


def probe() -> str:
    """Return what it runs on."""
    _check_device()
    return f"tensorrt {trt.__version__} ({torch.cuda.get_device_name()}, driver {_driver()})"


def open(spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> TensorRtEngine:
    """Load ``spec`` for one input size; its plan is built if there is none, which takes a minute."""
    engine = open_compiled(__name__, spec, size, precision)
    assert isinstance(engine, TensorRtEngine)
    return engine


# --- what makes a plan ------------------------------------------------------------------------------------------


def describe(spec: ModelSpec, size: Size, precision: Precision | None) -> Facts:
    """Return what a plan depends on here; see ``Compiler``."""
    chosen = precision or ("fp16" if "onnx-fp16" in spec.files else "fp32")
    if chosen not in _ROLES:
        raise EngineError(f"runtime tensorrt knows {', '.join(_ROLES)}, not {chosen}", runtime="tensorrt")
    role = _ROLES[chosen]
    if role not in spec.files:
        raise EngineError(f"model {spec.name} has no {role} file: ask for another precision", runtime="tensorrt")
    if (0, 0) in spec.states:
        raise EngineError(
            f"{spec.name} does not say how large its states are, which TensorRT has to know: use onnxruntime",
            runtime="tensorrt",
        )
    if spec.wiring.half:
        raise EngineError(
            f"{spec.name} takes pictures in float16, which is not written for TensorRT: use onnxruntime",
            runtime="tensorrt",
        )
    _check_device()
    major, minor = torch.cuda.get_device_capability()
    return Facts(
        model=spec.name,
        # With the weights that lie beside it, and the numbers that are compiled into it.
        sha256=hashlib.sha256(spec.read(role) + "".join(map(str, spec.wiring.scalars)).encode()).hexdigest(),
        runtime=f"tensorrt {trt.__version__}",
        device=f"{torch.cuda.get_device_name()}, {major}.{minor}",
        driver=_driver(),
        precision=chosen,
        size=size,
        batch=BATCH,
        recipe=RECIPE,
    )


def compile(spec: ModelSpec, facts: Facts, timings: bytes, report: Report) -> tuple[bytes, bytes]:
    """Return the plan for ``spec``, and the timing cache; see ``Compiler``."""
    _check_device()
    _LOG.errors.clear()
    with _errors(spec):
        try:
            builder = trt.Builder(_LOG)
        except TypeError as error:  # what pybind11 makes of a constructor that returned nothing
            raise EngineError(f"TensorRT does not start: {_LOG.why(str(error))}", runtime="tensorrt") from error
        # TensorRT 11 knows nothing else; 10 has to be told.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        config = builder.create_builder_config()
        if network is None or config is None:
            raise EngineError(f"TensorRT does not start: {_LOG.why('no reason was given')}", runtime="tensorrt")
        parser = trt.OnnxParser(network, _LOG)
        if not parser.parse(_graph(spec, facts.precision)):
            problems = [parser.get_error(index) for index in range(parser.num_errors)]
            said = [f"{p.node_operator() or 'the graph'} {p.node_name()}: {p.desc()}" for p in problems]
            raise EngineBuildError(
                f"TensorRT cannot compile {spec.name}: {' '.join((said or [_LOG.why('no reason')])[0].split())}",
                path=str(spec.folder),
                runtime="tensorrt",
            )
        profile = builder.create_optimization_profile()
        shapes = _shapes(spec, facts.size)
        for index in range(network.num_inputs):
            name = network.get_input(index).name
            if name not in shapes:
                raise EngineBuildError(f"{spec.name} has an input {name!r} that TensorRT cannot be given")
            one, most = (1, *shapes[name]), (facts.batch, *shapes[name])
            # Tuned for full batches: with one picture the launches cost more than what they launch.
            profile.set_shape(name, one, most, most)
        if config.add_optimization_profile(profile) < 0:
            raise EngineBuildError(f"{spec.name} does not take {facts.size}: {_LOG.why('no reason')}")
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
        cache = config.create_timing_cache(timings)
        if cache is None or not config.set_timing_cache(cache, False):
            cache = config.create_timing_cache(b"")  # that of another version
            if cache is not None:
                config.set_timing_cache(cache, False)
        monitor = _Monitor(report)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            reason = _LOG.why("no reason was given")
            kind = EngineError if _about_memory(reason) else EngineBuildError
            raise kind(f"TensorRT cannot compile {spec.name}: {reason}", path=str(spec.folder), runtime="tensorrt")
        measured = config.get_timing_cache()
        kept = measured.serialize() if measured is not None else None
        return bytes(plan), bytes(kept) if kept is not None else b""


def load(spec: ModelSpec, facts: Facts, plan: bytes) -> TensorRtEngine:
    """Return an engine that runs ``plan``; see ``Compiler``."""
    return TensorRtEngine(spec, facts, plan)


def _graph(spec: ModelSpec, precision: str) -> bytes:
    """Return the ONNX file as TensorRT takes it."""
    data = spec.read(_ROLES[precision])
    constants = scalars(spec)
    if precision != "int8" and not constants:
        return data
    from vidseg.runtimes.graphs import symmetric, with_constants

    if precision == "int8":
        try:
            data = symmetric(data)
        except ValueError as error:
            raise EngineBuildError(f"TensorRT cannot compile {spec.name} in int8: {error}") from error
    return with_constants(data, constants) if constants else data


def _shapes(spec: ModelSpec, size: Size) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input without the batch."""
    blank = np.zeros((1, 3, *size), np.float32)
    return {name: array.shape[1:] for name, array in feed(spec, blank, blank_state(spec, size)).items()}


# --- execution --------------------------------------------------------------------------------------------------


class TensorRtEngine:
    """A plan on one GPU. Two lanes for each batch size, so that one copies while the other computes."""

    def __init__(self, spec: ModelSpec, facts: Facts, plan: bytes) -> None:
        self.spec, self.size = spec, facts.size
        self._batch = facts.batch
        self.runtime = f"tensorrt {facts.precision} ({facts.device.rpartition(',')[0]})"
        self._blank = blank_state(spec, facts.size)
        self._lanes: dict[tuple[int, int], _Lane] = {}
        _LOG.errors.clear()
        with _errors(spec):
            try:
                runtime = trt.Runtime(_LOG)
            except TypeError as error:
                raise EngineError(f"TensorRT does not start: {_LOG.why(str(error))}", runtime="tensorrt") from error
            self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            reason = _LOG.why("TensorRT does not take it")
            raise (EngineError if _about_memory(reason) else EngineBuildError)(reason, runtime="tensorrt")

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return alpha ``(N, h, w)`` for ``src`` ``(N, 3, h, w)``, and the state after it."""
        src, state = checked(src, self.size), checked_state(self.spec, state, len(src))
        alpha = np.empty((len(src), *self.size), np.float32)
        after = tuple(np.empty((len(src), *part.shape[1:]), np.float32) for part in self._blank)
        waiting: tuple[int, int, _Lane] | None = None

        def collect(begin: int, end: int, lane: _Lane) -> None:
            answers = lane.finish()
            for index in range(begin, end):
                answer = answers[self.spec.wiring.answer][index - begin : index - begin + 1]
                alpha[index] = alpha_of(self.spec, answer, self.size)
            for (_, name), part in zip(self.spec.state_names, after, strict=True):
                part[begin:end] = answers[name]

        with _errors(self.spec):
            for turn, begin in enumerate(range(0, len(src), self._batch)):
                end = min(begin + self._batch, len(src))
                before = tuple(part[begin:end] for part in state) or self._empty(end - begin)
                lane = self._lane(end - begin, turn % 2)
                lane.start(feed(self.spec, src[begin:end], before))
                if waiting is not None:
                    collect(*waiting)
                waiting = begin, end, lane
            if waiting is not None:
                collect(*waiting)
        return alpha, after

    def infer_on_device(self, src: Tensor, state: tuple[Tensor, ...] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the same for tensors that lie on the GPU already, without a way over the host.

        Args:
            src: float32 ``(N, 3, h, w)``, as ``infer`` takes it, N at most ``BATCH``. Work on it that was queued on
                the current stream is waited for by the GPU, not by this thread.
            state: What the call before returned.

        Returns:
            Alpha ``(N, h, w)`` and the state, float32, of the caller and good on the current stream.
        """
        if not src.is_cuda or src.dtype != torch.float32 or src.shape[1:] != (3, *self.size):
            raise ValueError(f"this engine takes float32 (N, 3, {self.size[0]}, {self.size[1]}) on a GPU: {src.shape}")
        if not 1 <= len(src) <= self._batch:
            raise ValueError(f"this engine takes 1 to {self._batch} pictures at once: {len(src)}")
        wiring = self.spec.wiring
        with _errors(self.spec), torch.inference_mode():
            picture = src.flip(1) if wiring.bgr else src
            picture = picture.permute(0, 2, 3, 1) if wiring.channels_last else picture
            before = state or tuple(torch.zeros(part.shape, device=src.device) for part in self._empty(len(src)))
            names = (wiring.src, *(name for name, _ in self.spec.state_names))
            inputs = dict(zip(names, (picture, *before), strict=True))
            answers = self._lane(len(src), 0).through(inputs)
            answer = answers[wiring.answer]
            if wiring.activation == "sigmoid":
                answer = answer.sigmoid()
            if self.spec.classes:
                answer = answer.permute(0, 3, 1, 2) if wiring.answer_last else answer
                answer = answer.softmax(1) if wiring.activation == "softmax" else answer
                answer = answer[:, list(self.spec.kept)].sum(1)
            after = tuple(answers[name] for _, name in self.spec.state_names)
            return answer.reshape(len(src), *self.size), after

    def close(self) -> None:
        """Release plan and memory. May be called again."""
        self._lanes.clear()
        self._engine = None

    def _lane(self, pictures: int, turn: int) -> _Lane:
        if self._engine is None:
            raise EngineError("the engine is closed", runtime=self.runtime)
        key = pictures, turn
        if key not in self._lanes:
            self._lanes[key] = _Lane(self._engine, pictures, _shapes(self.spec, self.size))
        return self._lanes[key]

    def _empty(self, pictures: int) -> State:
        return tuple(np.zeros((pictures, *part.shape[1:]), np.float32) for part in self._blank)


class _Tensor(NamedTuple):
    device: Tensor
    host: Tensor


class _Lane:
    """Everything for batches of one size: a stream, memory on both sides, and the launches as one CUDA graph.

    A graph holds addresses and shapes, so each lane has an execution context of its own.
    """

    def __init__(self, engine: trt.ICudaEngine, pictures: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        context = engine.create_execution_context()
        if context is None:
            raise EngineError(f"the GPU has no memory for the network: {_LOG.why('')}", runtime="tensorrt")
        self._context = context
        self._stream = torch.cuda.Stream()
        self._done = torch.cuda.Event()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        ins = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        for name in ins:
            if not context.set_input_shape(name, (pictures, *shapes[name])):
                raise EngineError(f"TensorRT does not take {pictures} pictures: {_LOG.why('')}", runtime="tensorrt")
        self._tensors = {name: self._allocated(engine, name) for name in names}
        self._answers = [name for name in names if name not in ins]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._record()

    def _allocated(self, engine: trt.ICudaEngine, name: str) -> _Tensor:
        shape = tuple(self._context.get_tensor_shape(name))
        if engine.get_tensor_dtype(name) not in _TYPES:
            raise EngineBuildError(f"{name} is not float32, as all that goes in and out has to be")
        device = torch.zeros(shape, dtype=torch.float32, device="cuda")
        if not self._context.set_tensor_address(name, device.data_ptr()):
            raise EngineError(f"TensorRT does not take memory for {name}: {_LOG.why('')}", runtime="tensorrt")
        return _Tensor(device, torch.zeros(shape, dtype=torch.float32, pin_memory=True))

    def _record(self) -> None:
        """Make one graph of all launches: on small networks they cost more than the kernels."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._launch()  # the first one after a change of shapes does more than the later ones
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads go on with allocations of theirs meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._launch()
        except RuntimeError as error:
            log.info("TensorRT's launches are no graph: %s", error)
            return
        self._graph = graph

    def _launch(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise EngineError(f"TensorRT failed: {_LOG.why('no reason was given')}", runtime="tensorrt")

    def _compute(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        else:
            self._launch()

    def start(self, inputs: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Queue copy, network and copy back; ``finish`` is to be called before the next one."""
        for name, array in inputs.items():
            self._tensors[name].host.numpy()[...] = array
        with torch.cuda.stream(self._stream):
            for name in inputs:
                self._tensors[name].device.copy_(self._tensors[name].host, non_blocking=True)
            self._compute()
            for name in self._answers:
                self._tensors[name].host.copy_(self._tensors[name].device, non_blocking=True)
            self._done.record(self._stream)

    def finish(self) -> dict[str, npt.NDArray[np.float32]]:
        """Wait for what was started; the arrays are good until the next start."""
        self._done.synchronize()
        return {name: self._tensors[name].host.numpy() for name in self._answers}

    def through(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute on tensors of the GPU and return copies there, in the order of the current stream."""
        caller = torch.cuda.current_stream()
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            for name, tensor in inputs.items():
                tensor.record_stream(self._stream)
                self._tensors[name].device.copy_(tensor)
            self._compute()
            answers = {name: self._tensors[name].device.clone() for name in self._answers}
        caller.wait_stream(self._stream)
        for tensor in answers.values():
            tensor.record_stream(caller)
        return answers


# --- the machine ------------------------------------------------------------------------------------------------


def _check_device() -> None:
    """Raise if there is no GPU that this TensorRT can use.

    Raises:
        EngineError: The text says what is missing and what mends it.
    """
    check("tensorrt needs an NVIDIA GPU")
    wheel, driver = _wheel_cuda(), _driver_cuda()
    if wheel and driver and driver < wheel:
        raise EngineError(
            f"this TensorRT is for CUDA {wheel} and the driver knows CUDA {driver} at most: update the driver, or "
            f"pip install tensorrt-cu{driver}",
            runtime="tensorrt",
        )


def _wheel_cuda() -> int:
    """Return the major version of CUDA that the installed wheel is for; 0 if nothing tells."""
    for major in (14, 13, 12, 11):
        try:
            metadata.version(f"tensorrt-cu{major}-libs")
        except metadata.PackageNotFoundError:
            continue
        return major
    return 0


def _driver_cuda() -> int:
    """Return the major version of CUDA that the driver knows (CUDA Driver API, cuDriverGetVersion); 0 without one."""
    version = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        return version.value // 1000 if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 else 0
    except (OSError, AttributeError):
        return 0


def _driver() -> str:
    """Return the version of the driver (NVML, nvmlSystemGetDriverVersion), or what CUDA it knows."""
    text = ctypes.create_string_buffer(80)
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() == 0:
            found = nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text))) == 0
            nvml.nvmlShutdown()
            if found:
                return text.value.decode("ascii", "replace")
    except (OSError, AttributeError):
        pass
    return f"for CUDA {_driver_cuda()}"


def _about_memory(reason: str) -> bool:
    """Whether TensorRT failed for want of memory: that may be there at the next try."""
    return any(word in reason.lower() for word in ("out of memory", "outofmemory", "memory allocation", "bad_alloc"))


@contextmanager
def _errors(spec: ModelSpec) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of PyTorch: no memory, a lost device
        raise EngineError(f"{spec.name} on tensorrt: {reason_of(error)}", runtime="tensorrt") from error
