"""How many live streams a machine holds: synthetic cameras, whole frames, and how late the latest of them are."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

from vidseg.backgrounds import open_background
from vidseg.batching import MOST, Batcher, Lane, SharedEngines
from vidseg.compositor import Compositor
from vidseg.engine import load_spec
from vidseg.frame import Frame, Size
from vidseg.pipeline import Channel
from vidseg.segmenter import Segmenter
from vidseg.testing import SyntheticSource

_PICTURES = 16
"""Different ones of a synthetic camera: in memory before the clock runs, as a decoder would have left them there."""
_WARM = 1.0
"""Seconds at the beginning of a trial that do not count."""
_MOST = 4096


@dataclass(frozen=True, slots=True)
class Load:
    """What one camera gives, and what is asked of its frames.

    Attributes:
        size: ``(h, w)``.
        fps: Frames a second.
        limit: Seconds in which 99 of 100 frames have to be finished, from the moment they were due.
        background: As for ``vidseg process``.
        model: Shipped model's name, a folder with a manifest, or an ONNX file.
        runtime: ``auto``, or one by name.
        threads: For the network; None chooses.
        seconds: That a trial lasts, after a second of warming up.
    """

    size: Size = (720, 1280)
    fps: float = 30.0
    limit: float = 0.033
    background: str = "#204060"
    model: str = "unet-s"
    runtime: str = "auto"
    threads: int | None = None
    seconds: float = 4.0


@dataclass(frozen=True, slots=True)
class Trial:
    """How it went with so many streams.

    Attributes:
        streams: Cameras at once.
        frames: Of them were due.
        dropped: Made way for newer ones; they count as late.
        p50, p99: Milliseconds from the moment a frame was due to the moment it was finished; infinite if it never was.
        batch: Pictures in a call of the network, on average.
        holds: Whether ``p99`` is within the limit.
    """

    streams: int
    frames: int
    dropped: int
    p50: float
    p99: float
    batch: float
    holds: bool


class Crowd(Protocol):
    """Streams that are worked on at the same time."""

    runtime: str

    @property
    def mean(self) -> float:
        """Pictures in a call of the network so far, on average."""
        ...

    def offer(self, stream: int, frame: Frame, done: Callable[[], None]) -> None:
        """Take a frame, never wait, and call ``done`` when it is finished; not if a newer one takes its place."""
        ...

    def close(self) -> None:
        """End all streams. Raises what ended one before."""
        ...


class Threads:
    """Streams with a thread and a compositor each, on the CPU, that share their networks.

    Args:
        load: What is asked.
        streams: How many.
    """

    def __init__(self, load: Load, streams: int) -> None:
        self._stack = ExitStack()
        self._error: BaseException | None = None
        self._engines = self._stack.enter_context(SharedEngines())
        self._channels: list[Channel[tuple[Frame, Callable[[], None]]]] = []
        self._threads: list[threading.Thread] = []
        try:
            for number in range(streams):
                background = open_background(load.background)
                self._stack.callback(background.close)
                segmenter = Segmenter(
                    load.model,
                    load.runtime,
                    threads=load.threads,
                    size=load.size,
                    opener=self._engines.opener(live=True),
                )
                self._stack.callback(segmenter.close)
                compositor = Compositor(background, segmenter)
                if number == 0:  # what is compiled at its first use is compiled before the clock runs
                    source = SyntheticSource(size=load.size)
                    compositor([source.draw(0)])
                    compositor([source.draw(1)])
                    compositor.reset()
                channel: Channel[tuple[Frame, Callable[[], None]]] = Channel(1, "drop")
                self._channels.append(channel)
                arguments = channel, compositor
                self._threads.append(
                    threading.Thread(target=self._run, args=arguments, name=f"vidseg-stream-{number}", daemon=True)
                )
            self.runtime = segmenter.runtime
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.close()
            raise

    @property
    def mean(self) -> float:
        """Pictures in a call of the network so far, on average."""
        return self._engines.mean

    def offer(self, stream: int, frame: Frame, done: Callable[[], None]) -> None:
        """Take a frame; see ``Crowd``."""
        self._channels[stream].put((frame, done))

    def _run(self, channel: Channel[tuple[Frame, Callable[[], None]]], compositor: Compositor) -> None:
        try:
            for frame, done in channel:
                compositor([frame])
                done()
        except BaseException as error:
            self._error = self._error or error

    def close(self) -> None:
        """End all streams; see ``Crowd``."""
        for channel in self._channels:
            channel.close(discard=True)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._stack.close()
        if self._error is not None:
            raise self._error


class OnDevice:
    """Streams whose frames are composited in batches on a device of PyTorch. Opened once; called for each crowd.

    Args:
        load: What is asked.
        device: ``cuda:0``.

    Raises:
        EngineError: The device or the network does not work.
    """

    def __init__(self, load: Load, device: str) -> None:
        from vidseg.gpu.device import opener
        from vidseg.gpu.streams import GpuStreams
        from vidseg.gpu.uploads import Lift

        self._stack = ExitStack()
        try:
            background = open_background(load.background)
            self._stack.callback(background.close)
            self._segmenter = Segmenter(
                load.model,
                load.runtime,
                threads=load.threads,
                size=load.size,
                opener=opener(device),
            )
            self._stack.callback(self._segmenter.close)
            self.lift = Lift(device)
            self.streams = GpuStreams(background, self._segmenter, device=device)
            self._stack.callback(self.streams.close)
            frame = SyntheticSource(size=load.size).draw(0)
            for together in (1, 2, 4, MOST):  # the launches of each are recorded
                for _ in range(2):
                    self.streams.compose([(number, frame) for number in range(together)])
        except BaseException:
            self._stack.close()
            raise

    @property
    def runtime(self) -> str:
        """What computes."""
        return f"{self._segmenter.runtime}, composited on {self.streams.runtime}"

    def __call__(self, load: Load, streams: int) -> Crowd:
        """Return so many streams."""
        return _Batched(self, streams)

    def close(self) -> None:
        """Release the device."""
        self._stack.close()


class _Batched:
    def __init__(self, device: OnDevice, streams: int) -> None:
        self.runtime = device.runtime
        self._device = device
        self._closing = False
        self._error: BaseException | None = None
        self._batcher: Batcher[tuple[int, Frame], Frame] = Batcher(device.streams.compose)
        self._lanes: list[Lane[tuple[int, Frame], Frame]] = [self._batcher.lane() for _ in range(streams)]

    @property
    def mean(self) -> float:
        return self._batcher.rows / max(self._batcher.calls, 1)

    def offer(self, stream: int, frame: Frame, done: Callable[[], None]) -> None:
        def ended(future: Future[Frame]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                done()
            elif not self._closing:
                self._error = self._error or error

        self._lanes[stream].submit((stream, self._device.lift(frame))).add_done_callback(ended)

    def close(self) -> None:
        self._closing = True
        self._batcher.close()
        for stream in range(len(self._lanes)):
            self._device.streams.forget(stream)
        if self._error is not None:
            raise self._error


def find_capacity(
    load: Load,
    open_crowd: Callable[[Load, int], Crowd] = Threads,
    *,
    told: Callable[[Trial], None] = lambda trial: None,
    most: int = _MOST,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[int, list[Trial], str]:
    """Return how many streams hold, the trials in the order in which they were made, and what computed.

    Twice as many each time until it is too much, then the middle of what holds and what does not.

    Args:
        load: Of each stream.
        open_crowd: Opens so many streams.
        told: Is told of each trial.
        most: Streams that are tried.
        clock: Seconds.
        sleep: Waits for so many of them.

    Raises:
        VidsegError: The network or the background does not work.
        ValueError: A number of ``load`` makes no sense.
    """
    if load.fps <= 0 or load.limit <= 0 or load.seconds <= 0 or min(load.size) < 32:
        raise ValueError(f"sizes begin at 32x32, and rates and times are more than 0: {load}")
    load_spec(load.model)
    pictures = [SyntheticSource(size=load.size).draw(4 * index) for index in range(_PICTURES)]
    trials: list[Trial] = []
    runtime = ""
    holds, fails, streams = 0, most + 1, 1
    while fails - holds > 1:
        with _opened(open_crowd, load, streams) as crowd:
            trials.append(_try(load, crowd, streams, pictures, clock, sleep))
            runtime = crowd.runtime
        told(trials[-1])
        if trials[-1].holds:
            holds = streams
            streams = min(2 * streams, most) if fails > most else (holds + fails) // 2
        else:
            fails = streams
            streams = (holds + fails) // 2
    return holds, trials, runtime


@contextmanager
def _opened(open_crowd: Callable[[Load, int], Crowd], load: Load, streams: int) -> Iterator[Crowd]:
    crowd = open_crowd(load, streams)
    try:
        yield crowd
    finally:
        crowd.close()


def _try(
    load: Load,
    crowd: Crowd,
    streams: int,
    pictures: list[Frame],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Trial:
    """Let the cameras run, each at a phase of its own."""
    took: deque[tuple[float, float]] = deque()  # when it was due, and how long it took
    base = Fraction(1, 1_000_000)
    step = 1 / load.fps
    start = clock() + 0.1
    end = start + _WARM + load.seconds
    due_frames = 0
    index = 0
    while True:
        number, stream = divmod(index, streams)
        due = start + (number + stream / streams) * step
        if due >= end:
            break
        while (left := due - clock()) > 0:
            sleep(left)
        frame = replace(pictures[(number + 3 * stream) % len(pictures)], pts=round(due / base), time_base=base)

        def done(due: float = due) -> None:
            took.append((due, clock() - due))

        crowd.offer(stream, frame, done)
        due_frames += due >= start + _WARM
        index += 1
    sleep(2 * load.limit)
    seconds = sorted(took_it for due, took_it in list(took) if due >= start + _WARM)
    dropped = due_frames - len(seconds)
    seconds += [math.inf] * dropped
    p50, p99 = (seconds[min(len(seconds) - 1, math.ceil(share * len(seconds)) - 1)] for share in (0.5, 0.99))
    return Trial(
        streams=streams,
        frames=due_frames,
        dropped=dropped,
        p50=round(1e3 * p50, 2),
        p99=round(1e3 * p99, 2),
        batch=round(crowd.mean, 2),
        holds=p99 <= load.limit,
    )
