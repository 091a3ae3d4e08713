"""Fakes that say they are fakes: a drawn stream, an engine without a network, a sink that remembers.

For vidseg's own tests and for those of programs that embed it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from vidseg.engine import ModelSpec, State
from vidseg.frame import Color, Frame, Size, StreamInfo, allocate

ROOM_LUMA, ROOM_CHROMA = 81, (90, 240)
"""The watermark: every pixel of a synthetic room is this red, which nothing else in a test may have."""
PERSON_LUMA, PERSON_CHROMA = 180, (128, 128)


class SyntheticSource:
    """A grey disc, the "person", that wanders before a room in the watermark's red.

    Args:
        frames: How many.
        size: ``(h, w)``.
        fps: Frames a second.
        fail_at: Raise ``error`` instead of this frame.
        error: What is raised then.
        live: What ``info`` says.
    """

    corrupt = 0
    truncated = False
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        frames: int = 30,
        size: Size = (90, 160),
        fps: Fraction = Fraction(30),
        *,
        fail_at: int | None = None,
        error: Exception | None = None,
        live: bool = False,
    ) -> None:
        self.info = StreamInfo(size, fps, 1 / fps, Color(), frames=frames, live=live, name="synthetic")
        self._fail_at, self._error = fail_at, error or OSError("injected")
        self._closed = threading.Event()

    def person(self, index: int) -> npt.NDArray[np.bool_]:
        """Return where the person is in frame ``index``, ``(h, w)``."""
        height, width = self.info.size
        y, x = np.mgrid[:height, :width]
        centre = width * (0.5 + 0.25 * np.sin(index / 10))
        return np.asarray((y - height * 0.55) ** 2 + (x - centre) ** 2 < (height * 0.3) ** 2)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.info.frames):
            if self._closed.is_set():
                return
            if index == self._fail_at:
                raise self._error
            person = self.person(index)
            y, u, v = allocate(self.info.size)
            y[...] = np.where(person, PERSON_LUMA, ROOM_LUMA)
            small = person[::2, ::2]
            u[...] = np.where(small, PERSON_CHROMA[0], ROOM_CHROMA[0])
            v[...] = np.where(small, PERSON_CHROMA[1], ROOM_CHROMA[1])
            yield Frame((y, u, v), index, self.info.time_base, self.info.color, duration=1)

    def close(self) -> None:
        """End the iteration."""
        self._closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ConstantEngine:
    """An engine without a network: every pixel of its alpha is ``value``; call ``fail_at`` raises ``error``."""

    runtime = "fake (no network)"

    def __init__(
        self, value: float = 1.0, size: Size = (32, 64), *, fail_at: int | None = None, error: Exception | None = None
    ) -> None:
        self.size, self._value = size, value
        self.spec = ModelSpec(
            name="constant",
            folder=Path(),
            files={},
            sha256={},
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            multiple=1,
            sizes=(size,),
            licence="Apache-2.0",
            summary="a constant, for tests",
            architecture={},
        )
        self._fail_at, self._error = fail_at, error or RuntimeError("injected")
        self.calls = 0

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return ``value`` everywhere."""
        call, self.calls = self.calls, self.calls + 1
        if call == self._fail_at:
            raise self._error
        return np.full((len(src), *self.size), self._value, np.float32), ()

    def close(self) -> None:
        """Do nothing."""


class CountingEngine(ConstantEngine):
    """A recurrent one: its state counts the frames of each stream, and the alpha of frame ``n`` is ``1 / n``."""

    def __init__(self, size: Size = (32, 64)) -> None:
        super().__init__(size=size)
        self.spec = replace(self.spec, name="counting", states=((1, 32),))

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return one over the number of frames, and that number."""
        self.calls += 1
        before = state[0] if state else np.zeros((len(src), 1, self.size[0] // 32, self.size[1] // 32), np.float32)
        count = before + 1
        return np.broadcast_to(1 / count[:, 0, :1, :1], (len(src), *self.size)).astype(np.float32), (count,)


class ListSink:
    """Keeps copies of all frames in ``frames``; write number ``fail_at`` raises ``error``."""

    notes: tuple[str, ...] = ()

    def __init__(self, *, fail_at: int | None = None, error: Exception | None = None) -> None:
        self.frames: list[Frame] = []
        self.state = "open"
        self._fail_at, self._error = fail_at, error or OSError("injected")

    def write(self, frame: Frame) -> None:
        """Remember ``frame``."""
        if len(self.frames) == self._fail_at:
            raise self._error
        self.frames.append(frame)

    def commit(self) -> None:
        """Mark the output as whole."""
        self.state = "committed"

    def abort(self, keep_partial: bool = False) -> str | None:
        """Mark the output as thrown away."""
        if self.state == "open":
            self.state = "partial" if keep_partial else "aborted"
        return "memory" if keep_partial else None
