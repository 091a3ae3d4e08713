"""OpenVINO on the CPU: int8 at twice the speed of any other runtime on x86.

OpenVINO's Python package sends usage statistics when it is imported, if the package ``openvino_telemetry`` is there
(it is a dependency). That package is barred from this process before the import, which OpenVINO answers with a stub.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import numpy.typing as npt

from vidseg.engine import ModelSpec, Precision, State
from vidseg.errors import EngineError
from vidseg.frame import Size
from vidseg.runtimes import alpha_of, blank_state, checked, checked_state, cpu_threads, feed, scalars

if "openvino_telemetry" not in sys.modules:
    # None makes every later import of it an ImportError, in this whole process: it stays off.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino


@cache
def _core() -> openvino.Core:
    """Return the one core of this process.

    Each core gives the thread a signal stack of its own. Of two cores the one that goes last puts back the stack of the
    other, which is freed by then, and the next signal (Ctrl-C) crashes the process.
    """
    return openvino.Core()


def probe() -> str:
    """Return what it runs on."""
    core = _core()
    return f"openvino {openvino.__version__.split('-')[0]} ({core.get_property('CPU', 'FULL_DEVICE_NAME')})"


def open(spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> OpenVinoEngine:
    """Load ``spec`` for one input size."""
    return OpenVinoEngine(spec, size, threads, precision)


class OpenVinoEngine:
    """A network compiled by OpenVINO for the CPU and one input size."""

    def __init__(self, spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> None:
        self.spec, self.size = spec, size
        precision = precision or ("int8" if "onnx-int8" in spec.files else "fp32")
        if precision not in ("fp32", "bf16", "int8"):
            raise EngineError(f"runtime openvino knows fp32, bf16 and int8, not {precision}", runtime="openvino")
        self.runtime = f"openvino {precision} (CPU)"
        streams = cpu_threads(threads)
        options = {
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(streams),
            # Threads bound to a core wait for the encoder's thread that runs there.
            "ENABLE_CPU_PINNING": "NO",
            # Left alone, OpenVINO computes in bfloat16 where the CPU can: half the digits of the reference.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        with self._errors():
            core = _core()
            model = core.read_model(spec.read("onnx-int8" if precision == "int8" else "onnx-fp32"), b"")
            self._blank = _fix_shapes(model, spec, size)
            compiled = core.compile_model(model, "CPU", options)
            self._answer = compiled.output(spec.wiring.answer)
            self._states = [compiled.output(after) for _, after in spec.state_names]
            self._requests = [compiled.create_infer_request() for _ in range(streams)]

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return alpha ``(N, h, w)`` for ``src`` ``(N, 3, h, w)``, and the state after it."""
        src, state = checked(src, self.size), checked_state(self.spec, state, len(src))
        if not self._requests:
            raise EngineError("the engine is closed", runtime=self.runtime)
        alpha = np.empty((len(src), *self.size), np.float32)
        after = tuple(np.empty((len(src), *part.shape[1:]), np.float32) for part in self._blank)
        with self._errors():
            for first in range(0, len(src), len(self._requests)):
                side_by_side = list(enumerate(self._requests[: len(src) - first], first))
                for index, request in side_by_side:
                    before = tuple(part[index : index + 1] for part in state) or self._blank
                    request.start_async(feed(self.spec, src[index : index + 1], before), share_inputs=True)
                for index, request in side_by_side:
                    request.wait()
                    alpha[index] = alpha_of(self.spec, request.get_tensor(self._answer).data, self.size)
                    for part, output in zip(after, self._states, strict=True):
                        part[index] = request.get_tensor(output).data[0]
        return alpha, after

    def close(self) -> None:
        """Release the network."""
        self._requests = []

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the root of all that OpenVINO raises
            raise EngineError(f"{self.spec.name} on openvino: {error}", runtime="openvino") from error


def _fix_shapes(model: openvino.Model, spec: ModelSpec, size: Size) -> State:
    """Give every input of ``model`` its one shape, for which OpenVINO compiles it; returns the blank state."""
    left = {name for end in model.inputs for name in end.names}  # without those that the graph does not use
    for name, value in scalars(spec).items():
        if name not in left:
            continue
        constant = openvino.opset13.constant(value)
        parameter = model.input(name).get_node()
        parameter.output(0).replace(constant.output(0))
        model.remove_parameter(parameter)
    blank = blank_state(spec, size)
    picture = [1, *size, 3] if spec.wiring.channels_last else [1, 3, *size]
    names = [name for name, _ in spec.state_names]
    model.reshape({spec.wiring.src: picture, **{n: list(part.shape) for n, part in zip(names, blank, strict=True)}})
    # What comes out of a state of unknown shape has the shape that goes in from then on.
    shapes = [tuple(model.output(after).get_shape()) for _, after in spec.state_names]
    if shapes != [part.shape for part in blank]:
        model.reshape({spec.wiring.src: picture, **{n: list(shape) for n, shape in zip(names, shapes, strict=True)}})
    return tuple(np.zeros(shape, np.float32) for shape in shapes)
