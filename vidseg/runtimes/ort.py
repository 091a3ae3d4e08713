"""ONNX Runtime on the CPU: runs everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnxruntime

from vidseg.engine import ModelSpec, Precision, State
from vidseg.errors import EngineError
from vidseg.frame import Size
from vidseg.runtimes import alpha_of, blank_state, checked, checked_state, cpu_threads, feed, scalars


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
        precision = precision or ("int8" if "onnx-int8" in spec.files else "fp32")
        if precision not in ("fp32", "fp16", "int8"):
            raise EngineError(f"runtime onnxruntime knows fp32, fp16 and int8, not {precision}", runtime="onnxruntime")
        self.runtime = f"onnxruntime {precision} (CPU)"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_free_dimension_override_by_name("H", size[0])
        options.add_free_dimension_override_by_name("W", size[1])
        self._blank = blank_state(spec, size)
        for number, (part, (_, stride)) in enumerate(zip(self._blank, spec.states, strict=True), 1):
            if stride:
                options.add_free_dimension_override_by_name(f"H{number}", part.shape[2])
                options.add_free_dimension_override_by_name(f"W{number}", part.shape[3])
        self._scalars = scalars(spec)
        self._answers = [spec.wiring.answer, *(after for _, after in spec.state_names)]
        data = spec.read(f"onnx-{precision}")
        with self._errors():
            self._session: onnxruntime.InferenceSession | None = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        streams = cpu_threads(threads)
        # The session's own threads spin while they wait, or are slow to start if told not to; these do neither.
        self._pool = ThreadPoolExecutor(streams, "vidseg-onnxruntime") if streams > 1 else None

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return alpha ``(N, h, w)`` for ``src`` ``(N, 3, h, w)``, and the state after it."""
        src, state = checked(src, self.size), checked_state(self.spec, state, len(src))
        session = self._session
        if session is None:
            raise EngineError("the engine is closed", runtime=self.runtime)

        def answer_to(index: int) -> tuple[npt.NDArray[np.float32], State]:
            before = tuple(part[index : index + 1] for part in state) or self._blank
            inputs = feed(self.spec, src[index : index + 1], before) | self._scalars
            answer, *after = session.run(self._answers, inputs)
            return alpha_of(self.spec, answer, self.size), tuple(part.astype(np.float32, copy=False) for part in after)

        side_by_side = self._pool.map if self._pool is not None and len(src) > 1 else map
        with self._errors():
            alphas, states = zip(*side_by_side(answer_to, range(len(src))), strict=True)
            after = tuple(np.concatenate(parts) for parts in zip(*states, strict=True))
            return np.stack(alphas).astype(np.float32, copy=False), after

    def close(self) -> None:
        """Release the network."""
        if self._pool is not None:
            self._pool.shutdown()
        self._session = self._pool = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except EngineError:
            raise
        except Exception as error:  # what ONNX Runtime raises has no other root
            raise EngineError(f"{self.spec.name} on onnxruntime: {error}", runtime="onnxruntime") from error
