"""OpenVINO on the CPU: int8 at twice the speed of any other runtime on x86.

OpenVINO's Python package sends usage statistics when it is imported, if the package ``openvino_telemetry`` is there
(it is a dependency). That package is barred from this process before the import, which OpenVINO answers with a stub.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from vidseg.engine import ModelSpec, Precision
from vidseg.errors import EngineError
from vidseg.frame import Size

if "openvino_telemetry" not in sys.modules:
    # None makes every later import of it an ImportError, in this whole process: it stays off.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino


def probe() -> str:
    """Return what it runs on."""
    core = openvino.Core()
    return f"openvino {openvino.__version__.split('-')[0]} ({core.get_property('CPU', 'FULL_DEVICE_NAME')})"


def open(spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> OpenVinoEngine:
    """Load ``spec`` for one input size."""
    return OpenVinoEngine(spec, size, threads, precision)


class OpenVinoEngine:
    """A network compiled by OpenVINO for the CPU and one input size."""

    def __init__(self, spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> None:
        self.spec, self.size = spec, size
        precision = precision or "int8"
        if precision not in ("fp32", "bf16", "int8"):
            raise EngineError(f"runtime openvino knows fp32, bf16 and int8, not {precision}", runtime="openvino")
        self.runtime = f"openvino {precision} (CPU)"
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            # Left alone, OpenVINO computes in bfloat16 where the CPU can: half the digits of the reference.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        with self._errors():
            core = openvino.Core()
            model = core.read_model(spec.read("onnx-int8" if precision == "int8" else "onnx-fp32"), b"")
            model.reshape([1, 3, *size])
            self._request = core.compile_model(model, "CPU", options).create_infer_request()

    def infer(self, src: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return alpha ``(N, h, w)`` for ``src`` ``(N, 3, h, w)``."""
        if src.shape[1:] != (3, *self.size):
            raise ValueError(f"this engine takes (N, 3, {self.size[0]}, {self.size[1]}): {src.shape = }")
        if self._request is None:
            raise EngineError("the engine is closed", runtime=self.runtime)
        alpha = np.empty((len(src), *self.size), np.float32)
        with self._errors():
            # One picture after the other: a batch is no faster on a CPU and needs more memory.
            for picture, pha in zip(src, alpha, strict=True):
                outputs = self._request.infer(
                    {0: np.ascontiguousarray(picture[None])}, share_inputs=True, share_outputs=True
                )
                pha[...] = outputs[0][0, 0]
        return alpha

    def close(self) -> None:
        """Release the network."""
        self._request = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the root of all that OpenVINO raises
            raise EngineError(f"{self.spec.name} on openvino: {error}", runtime="openvino") from error
