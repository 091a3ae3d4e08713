"""One module a runtime: each imports one inference library and makes an ``Engine`` of it.

An adapter has ``probe() -> str``, which says what it runs on, and ``open(spec, size, threads, precision) -> Engine``.
Its row in ``vidseg.engine._RUNTIMES`` is all that is needed besides.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from vidseg.engine import ModelSpec, State
from vidseg.errors import ModelMismatchError
from vidseg.frame import Size

MOST_THREADS = 4
"""Nothing else in the pipeline keeps up with more."""


def cpu_threads(threads: int | None) -> int:
    """Return how many pictures a CPU engine computes side by side, each on one thread.

    One thread a picture costs the least CPU time, which the encoder needs, and does not stall when it is busy: two
    threads on one picture were slower than one while the other core encoded.
    """
    if threads is not None:
        return threads
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return min(cores, MOST_THREADS)


def checked(src: npt.NDArray[np.float32], size: Size) -> npt.NDArray[np.float32]:
    """Return ``src`` in C order, if it is what an engine of ``size`` takes."""
    if src.ndim != 4 or src.shape[1:] != (3, *size):
        raise ValueError(f"this engine takes (N, 3, {size[0]}, {size[1]}): {src.shape = }")
    return np.ascontiguousarray(src, np.float32)


def checked_state(spec: ModelSpec, state: State, pictures: int) -> State:
    """Return ``state``, if it can be that of as many pictures; an engine of another size is not noticed here."""
    if state and (len(state) != len(spec.states) or any(len(part) != pictures for part in state)):
        raise ValueError(
            f"{spec.name} takes {len(spec.states)} states of {pictures} pictures, or none: "
            f"{[part.shape for part in state]}"
        )
    return state


def blank_state(spec: ModelSpec, size: Size) -> State:
    """Return the state at the start of one stream: zeros, ``(1, 1, 1, 1)`` where only the graph knows their shape."""
    shapes = ((1, c, size[0] // s, size[1] // s) if s else (1, 1, 1, 1) for c, s in spec.states)
    return tuple(np.zeros(shape, np.float32) for shape in shapes)


def feed(spec: ModelSpec, picture: npt.NDArray[np.float32], state: State) -> dict[str, npt.NDArray[Any]]:
    """Return what an ONNX graph takes by name, for one picture ``(1, 3, h, w)``; without its scalars."""
    wiring = spec.wiring
    if wiring.bgr:
        picture = picture[:, ::-1]
    if wiring.channels_last:
        picture = picture.transpose(0, 2, 3, 1)
    names = (wiring.src, *(name for name, _ in spec.state_names))
    dtype = np.float16 if wiring.half else np.float32
    return {name: np.ascontiguousarray(part, dtype) for name, part in zip(names, (picture, *state), strict=True)}


def scalars(spec: ModelSpec) -> dict[str, npt.NDArray[Any]]:
    """Return the numbers that a graph takes besides, by name."""
    return {scalar.name: np.full(scalar.shape, scalar.value, scalar.kind) for scalar in spec.wiring.scalars}


def alpha_of(spec: ModelSpec, answer: npt.NDArray[Any], size: Size) -> npt.NDArray[np.float32]:
    """Return alpha ``(h, w)`` for what an ONNX graph answers to one picture.

    Raises:
        ModelMismatchError: The answer has another size.
    """
    if answer.size != size[0] * size[1] * (len(spec.classes) or 1):
        wanted = f"{len(spec.classes) or 1} times {size[0]}x{size[1]}"
        raise ModelMismatchError(
            f"{spec.name} does not return {wanted} numbers, as it should, but an array of {answer.shape}",
            path=str(spec.folder),
        )
    answer = answer.astype(np.float32, copy=False)
    if spec.wiring.activation == "sigmoid":
        answer = (0.5 * np.tanh(0.5 * answer) + 0.5).astype(np.float32, copy=False)  # exp would overflow
    if spec.classes:
        classes = answer[0].transpose(2, 0, 1) if spec.wiring.answer_last else answer[0]
        if spec.wiring.activation == "softmax":
            classes = np.exp(classes - classes.max(0))
            classes /= classes.sum(0)
        answer = classes[list(spec.kept)].sum(0)
    return answer.reshape(size)
