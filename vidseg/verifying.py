"""Verifying: every runtime of this machine held against the reference, on real frames, with its speed."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidseg.engine import Engine, ModelSpec, Precision, State, list_runtimes, open_engine
from vidseg.errors import EngineError, MissingDependencyError
from vidseg.frame import Frame, Size
from vidseg.parity import TOLERANCE, Parity, compare
from vidseg.segmenter import Segmenter
from vidseg.sources import open_source

log = logging.getLogger(__name__)

SAMPLE = Path(__file__).parent / "demo" / "sample.mp4"
_FRAMES, _EVERY = 8, 15
"""So many frames of the sample, half a second apart."""
_SECONDS = 0.5
"""For which the speed is measured."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one runtime and precision.

    Attributes:
        runtime, precision: As they are asked for.
        usable: Whether it works here.
        detail: What it ran on, or why it does not work.
        parity: How far it is from the reference.
        right: Whether that is near enough.
        alone, batch: Milliseconds a picture, one at a time and eight at a time.
    """

    runtime: str
    precision: str
    usable: bool
    detail: str
    parity: Parity | None = None
    right: bool = False
    alone: float = 0.0
    batch: float = 0.0


class _Recorder:
    """An engine that only keeps what it is shown."""

    runtime = "recorder"

    def __init__(self, spec: ModelSpec, size: Size) -> None:
        self.spec, self.size = spec, size
        self.seen: list[npt.NDArray[np.float32]] = []

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        self.seen.append(src.copy())
        return np.zeros((len(src), *self.size), np.float32), state

    def close(self) -> None:
        """Nothing to release."""


def sample_frames(count: int = _FRAMES) -> list[Frame]:
    """Return frames of the clip that vidseg carries, half a second apart.

    Raises:
        SourceError: The clip cannot be read.
    """
    with open_source(str(SAMPLE)) as source:
        return [frame for number, frame in enumerate(islice(source, count * _EVERY)) if number % _EVERY == 0]


def seen_by(spec: ModelSpec, size: Size, frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
    """Return ``frames`` as ``spec`` is shown them, ``(N, 3, h, w)``."""
    recorder = _Recorder(spec, size)
    Segmenter(engine=recorder, stream=False)(frames)
    return np.concatenate(recorder.seen)


def open_reference(spec: ModelSpec, size: Size) -> Engine:
    """Return the model in float32 on the CPU: PyTorch, else what else there is.

    Raises:
        EngineError: Nothing computes it.
    """
    if "weights" in spec.files:
        try:
            from vidseg.runtimes.torch import TorchEngine

            return TorchEngine(spec, size, None, "fp32", device="cpu")
        except ImportError as error:
            log.info("the reference is not PyTorch: %s", error)
    reasons = []
    for runtime in ("onnxruntime", "openvino"):
        try:
            return open_engine(spec, runtime, size, precision="fp32")
        except (EngineError, MissingDependencyError) as error:
            reasons.append(f"{runtime}: {error}")
    raise EngineError("there is nothing to compare with:\n" + "\n".join(reasons))


def verify(
    spec: ModelSpec, size: Size, runtimes: tuple[str, ...] = (), clock: Callable[[], float] = time.perf_counter
) -> Iterator[Verdict]:
    """Yield how each runtime and precision does; one that compiles builds its plan first, if it has none.

    Args:
        spec: The model.
        size: Of its input.
        runtimes: Only these; none is all.
        clock: Seconds.

    Raises:
        EngineError: There is no reference.
    """
    src = seen_by(spec, size, sample_frames())
    with closing(open_reference(spec, size)) as engine:
        reference, _ = engine.infer(src)
    for name, usable, detail in list_runtimes():
        if runtimes and name not in runtimes:
            continue
        if not usable:
            yield Verdict(name, "", False, detail)
            continue
        for precision in (precision for runtime, precision in TOLERANCE if runtime == name):
            yield _verdict(spec, size, name, precision, src, reference, clock)


def _verdict(
    spec: ModelSpec,
    size: Size,
    runtime: str,
    precision: str,
    src: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    clock: Callable[[], float],
) -> Verdict:
    wanted: Precision = precision  # type: ignore[assignment]
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(closing(open_engine(spec, runtime, size, precision=wanted)))
            alpha, _ = engine.infer(src)
            parity = compare(alpha, reference)
            alone, batch = (milliseconds(engine, src[:count], clock) for count in (1, len(src)))
        except EngineError as error:
            return Verdict(runtime, precision, False, str(error))
        right = parity.within(TOLERANCE[runtime, precision])
        return Verdict(runtime, precision, True, engine.runtime, parity, right, alone, batch)


def milliseconds(engine: Engine, src: npt.NDArray[np.float32], clock: Callable[[], float]) -> float:
    """Return the median time of a picture."""
    took: list[float] = []
    began = clock()
    while len(took) < 3 or (clock() - began < _SECONDS and len(took) < 1000):
        before = clock()
        engine.infer(src)
        took.append(clock() - before)
    return 1000 * statistics.median(took) / len(src)
