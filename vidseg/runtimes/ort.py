"""ONNX Runtime on the CPU: runs everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnxruntime

from vidseg.engine import ModelSpec, Precision
from vidseg.errors import EngineError
from vidseg.frame import Size


def probe() -> str:
    """Return what it runs on."""
    return f"onnxruntime {onnxruntime.__version__} (CPU)"


def open(spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> OrtEngine:
    """Load ``spec`` for one input size."""
    return OrtEngine(spec, size, threads, precision)


class OrtEngine:
    """A network on ONNX Runtime's CPU provider."""

    def __init__(self, spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> None:
        self.spec, self.size = spec, size
        precision = precision or "int8"
        if precision not in ("fp32", "int8"):
            raise EngineError(f"runtime onnxruntime knows fp32 and int8, not {precision}", runtime="onnxruntime")
        self.runtime = f"onnxruntime {precision} (CPU)"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle threads that spin for the next call would take the encoder's cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_free_dimension_override_by_name("H", size[0])
        options.add_free_dimension_override_by_name("W", size[1])
        with self._errors():
            self._session: onnxruntime.InferenceSession | None = onnxruntime.InferenceSession(
                spec.read(f"onnx-{precision}"), options, providers=["CPUExecutionProvider"]
            )

    def infer(self, src: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return alpha ``(N, h, w)`` for ``src`` ``(N, 3, h, w)``."""
        if src.shape[1:] != (3, *self.size):
            raise ValueError(f"this engine takes (N, 3, {self.size[0]}, {self.size[1]}): {src.shape = }")
        if self._session is None:
            raise EngineError("the engine is closed", runtime=self.runtime)
        with self._errors():
            # One picture after the other: a batch is no faster on a CPU and needs more memory.
            outputs = [self._session.run(["pha"], {"src": src[i : i + 1]})[0] for i in range(len(src))]
        return np.concatenate(outputs)[:, 0]

    def close(self) -> None:
        """Release the network."""
        self._session = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the root of all that ONNX Runtime raises
            raise EngineError(f"{self.spec.name} on onnxruntime: {error}", runtime="onnxruntime") from error
