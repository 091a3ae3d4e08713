"""ONNX Runtime: on the CPU it runs everywhere; on other devices by the providers of its several builds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from vidseg.engine import ModelSpec, Precision, State
from vidseg.errors import EngineError
from vidseg.frame import Size
from vidseg.runtimes import alpha_of, blank_state, checked, checked_state, cpu_threads, feed, scalars

_CPU = "CPUExecutionProvider"
_RELU = bytes.fromhex(
    "080712003a330a0c0a0161120162220452656c751201675a0f0a0161120a0a08080112040a02"
    "0801620f0a0162120a0a08080112040a02080142040a00100d"
)
"""The smallest network: whether a provider opens it tells whether its device and driver work."""


def probe() -> str:
    """Return what it runs on."""
    return f"onnxruntime {onnxruntime.__version__} (CPU)"


def open(spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> OrtEngine:
    """Load ``spec`` for one input size."""
    return OrtEngine(spec, size, threads, precision)


class Provider(NamedTuple):
    """An adapter by itself: ONNX Runtime on another device than the CPU. Never run by us, but for being refused.

    Attributes:
        name: As ONNX Runtime calls it: ``CUDAExecutionProvider``.
        package: The build that has it.
        options: For it.
    """

    name: str
    package: str
    options: Mapping[str, str] | None = None

    @property
    def device(self) -> str:
        """What to call it: ``CUDA``."""
        return self.name.removesuffix("ExecutionProvider")

    def probe(self) -> str:
        """Return what it runs on.

        Raises:
            EngineError: This build does not have it, or it does not work.
        """
        there = onnxruntime.get_available_providers()
        if self.name not in there:
            names = ", ".join(name.removesuffix("ExecutionProvider") for name in there)
            raise EngineError(
                f"this build of ONNX Runtime knows {names}, not {self.device}: in place of onnxruntime, "
                f"pip install {self.package}",
                runtime="onnxruntime",
            )
        try:
            self.session(_RELU, onnxruntime.SessionOptions())
        except EngineError:
            raise
        except Exception as error:  # what ONNX Runtime raises has no other root
            reason = " ".join(str(error).split())
            raise EngineError(
                f"{self.device} of ONNX Runtime does not work: {reason}", runtime="onnxruntime"
            ) from error
        return f"onnxruntime {onnxruntime.__version__} ({self.device})"

    def open(self, spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> OrtEngine:
        """Load ``spec`` for one input size."""
        return OrtEngine(spec, size, 1, precision, self)

    def session(self, data: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        """Return a network on this device.

        Raises:
            EngineError: ONNX Runtime took another one, as it does without a word when a driver is missing.
        """
        options.log_severity_level = 3
        if self.name not in onnxruntime.get_available_providers():
            self.probe()
        session = onnxruntime.InferenceSession(data, options, providers=[(self.name, dict(self.options or {})), _CPU])
        session.disable_fallback()
        if session.get_providers()[0] != self.name:
            raise EngineError(
                f"{self.device} of ONNX Runtime does not work: see that its device has a driver and its libraries",
                runtime="onnxruntime",
            )
        return session


PROVIDERS = {
    "cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu", {"use_tf32": "0"}),
    "directml": Provider("DmlExecutionProvider", "onnxruntime-directml"),
    "coreml": Provider("CoreMLExecutionProvider", "onnxruntime (on macOS)"),
    "migraphx": Provider("MIGraphXExecutionProvider", "onnxruntime-migraphx"),
    "rocm": Provider("ROCMExecutionProvider", "onnxruntime-rocm"),
    "openvino": Provider("OpenVINOExecutionProvider", "onnxruntime-openvino"),
}
"""By what ``--runtime onnxruntime-…`` calls them."""


class OrtEngine:
    """A network on ONNX Runtime: on the CPU, or where a provider runs it."""

    def __init__(
        self,
        spec: ModelSpec,
        size: Size,
        threads: int | None,
        precision: Precision | None,
        provider: Provider | None = None,
    ) -> None:
        self.spec, self.size = spec, size
        precision = precision or ("int8" if "onnx-int8" in spec.files and provider is None else "fp32")
        if precision not in ("fp32", "fp16", "int8"):
            raise EngineError(f"runtime onnxruntime knows fp32, fp16 and int8, not {precision}", runtime="onnxruntime")
        self.runtime = f"onnxruntime {precision} ({'CPU' if provider is None else provider.device})"
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
            self._session: onnxruntime.InferenceSession | None = (
                provider.session(data, options)
                if provider is not None
                else onnxruntime.InferenceSession(data, options, providers=[_CPU])
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
