"""Fakes that say they are fakes: a drawn stream, a camera and an engine that fail, a clock, a sink that remembers.

For vidseg's own tests and for those of programs that embed it.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from vidseg.engine import ModelSpec, State
from vidseg.errors import EngineError, SourceError
from vidseg.frame import Color, Frame, Size, StreamInfo, allocate

ROOM_LUMA, ROOM_CHROMA = 81, (90, 240)
"""The watermark: every pixel of a synthetic room is this red, which nothing else in a test may have."""
PERSON_LUMA, PERSON_CHROMA = 180, (128, 128)


def room_share(frame: Frame) -> float:
    """Return the share of pixels that are at least half as red as a synthetic room: the oracle of privacy.

    What an alpha hides does not count. A frame must have the colours of ``SyntheticSource`` (limited range).
    """
    u, v = (plane.astype(np.int16) - 128 for plane in frame.planes[1:])
    red = (v > (ROOM_CHROMA[1] - 128) // 2) & (u < 0)
    if frame.alpha is not None:
        red &= frame.alpha[::2, ::2] > 0
    return float(red.mean())


def person_share(frame: Frame) -> float:
    """Return the share of pixels that are as bright as a synthetic person."""
    return float((np.abs(frame.planes[0].astype(np.int16) - PERSON_LUMA) < 4).mean())


class FakeClock:
    """Stands still until it is told to advance. From any thread."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return the seconds that it shows."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass, or less than none."""
        with self._lock:
            self._now += seconds


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
            yield self.draw(index)

    def draw(self, index: int) -> Frame:
        """Return frame ``index``."""
        person = self.person(index)
        y, u, v = allocate(self.info.size)
        y[...] = np.where(person, PERSON_LUMA, ROOM_LUMA)
        small = person[::2, ::2]
        u[...] = np.where(small, PERSON_CHROMA[0], ROOM_CHROMA[0])
        v[...] = np.where(small, PERSON_CHROMA[1], ROOM_CHROMA[1])
        return Frame((y, u, v), index, self.info.time_base, self.info.color, duration=1)

    def close(self) -> None:
        """End the iteration."""
        self._closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FaultyCamera(SyntheticSource):
    """A synthetic source as a camera: in real or fake time, without an end, and with failures where they are wished.

    Args:
        size: ``(h, w)``.
        fps: Frames a second.
        clock: What the frames' times are of.
        pace: Called before each frame; by default it waits until the frame's time has come.
        first: Number of the first frame, so that the person goes on where it was.
        faults: What happens instead of a frame, or to it, by its number: ``unplug`` (a ``SourceError``), ``eio`` (the
            ``OSError`` of that name), ``end``, ``stall`` (nothing more until ``close``), ``later`` and ``earlier``
            (from here on times are an hour off), ``resize`` (from here on the size is not that of ``info``).
        idle: Called again and again while it stalls.
    """

    def __init__(
        self,
        size: Size = (90, 160),
        fps: Fraction = Fraction(30),
        *,
        clock: Callable[[], float] = time.monotonic,
        pace: Callable[[], None] | None = None,
        first: int = 0,
        faults: Mapping[int, str] | None = None,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(0, size, fps, live=True)
        self.info = replace(self.info, name="faulty camera", time_base=Fraction(1, 1_000_000))
        self._clock, self._pace, self._idle = clock, pace, idle
        self._faults = faults or {}
        self.index = first

    def __iter__(self) -> Iterator[Frame]:
        off, other = 0.0, None
        due = self._clock()
        while not self._closed.is_set():
            due += float(1 / (self.info.fps or 30))
            if self._pace is not None:
                self._pace()
            elif self._closed.wait(max(due - self._clock(), 0)):
                return
            self.index += 1
            match self._faults.get(self.index, ""):
                case "unplug":
                    raise SourceError("faulty camera was unplugged", url="faulty camera")
                case "eio":
                    raise OSError(errno.EIO, "injected")
                case "end":
                    return
                case "stall":
                    while not self._closed.wait(0.002):
                        self._idle()
                    return
                case "later":
                    off = 3600.0
                case "earlier":
                    off = -3600.0
                case "resize":
                    height, width = self.info.size
                    other = SyntheticSource(0, (height * 2 // 3, width // 2))
            frame = (other or self).draw(self.index)
            yield replace(frame, pts=round((self._clock() + off) / self.info.time_base), time_base=self.info.time_base)


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


class SeeingEngine(ConstantEngine):
    """A fake that finds the synthetic person by its colour, so that the rest of a path is tested on true alphas."""

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return 1 where a picture is grey, 0 where it is red."""
        super().infer(src)
        return np.clip(1.2 - (src[:, 0] - src[:, 1]), 0, 1).astype(np.float32), ()


class FaultyEngine(SeeingEngine):
    """A seeing one that does what ``fault`` says, which may be set at any time and from any thread.

    ``raise`` (an ``EngineError``), ``crash`` (a ``RuntimeError``), ``nan``, ``huge``, ``ones``, ``zeros``, ``inverted``
    (the room is people), ``frozen`` (the last true answer again), ``slow`` (``delay`` is called first), or "".
    """

    def __init__(self, size: Size = (48, 80), delay: Callable[[], None] = lambda: None) -> None:
        super().__init__(size=size)
        self.fault = ""
        self._delay = delay
        self._last: npt.NDArray[np.float32] | None = None

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return the alpha, or what the fault makes of it."""
        alpha, state = super().infer(src)
        match self.fault:
            case "raise":
                raise EngineError("injected")
            case "crash":
                raise RuntimeError("injected")
            case "nan":
                alpha[..., 0, 0] = np.nan
            case "huge":
                alpha *= 100
            case "ones":
                alpha[...] = 1
            case "zeros":
                alpha[...] = 0
            case "inverted":
                alpha = 1 - alpha
            case "frozen" if self._last is not None:
                return self._last.copy(), state
            case "slow":
                self._delay()
        if self.fault in ("", "slow") or self._last is None:
            self._last = alpha.copy()
        return alpha, state


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
