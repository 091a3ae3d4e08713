"""Pipeline, Channel and Stats: from a source through a stage to a sink. Threads are here and in ``live``.

::

    reader → Channel → worker → Channel → writer

The calling thread waits, reports progress and hears Ctrl-C. An error in any stage closes both channels, ends all
threads and is raised again; nothing then stands under the output's name.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from vidseg.errors import SourceError
from vidseg.frame import Frame
from vidseg.sinks import Interruptible, Sink
from vidseg.sources import Source

T = TypeVar("T")


class Channel(Generic[T]):
    """A bounded queue between two threads that either side can close.

    Args:
        capacity: How many items may wait.
        full: What ``put`` does then: ``wait`` for room (files: never lose a frame), or ``drop`` the oldest (live).
    """

    def __init__(self, capacity: int, full: Literal["wait", "drop"] = "wait") -> None:
        self._items: deque[T] = deque()
        self._capacity, self._full = capacity, full
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    def put(self, item: T) -> bool:
        """Add one item; False if the channel is closed."""
        with self._changed:
            while len(self._items) >= self._capacity and not self._closed:
                if self._full == "drop":
                    self._items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait()
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._items)

    @property
    def closed(self) -> bool:
        """Whether no more is let in."""
        return self._closed

    def take(self, most: int, timeout: float | None = None) -> list[T]:
        """Return ``most`` items, fewer only at the end of a closed channel, none when it is drained.

        A ``drop`` channel never waits for a batch to fill: it returns what is there. After ``timeout`` seconds what is
        there is returned, too, if only nothing.
        """
        enough = min(most if self._full == "wait" else 1, self._capacity)
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) >= enough or self._closed, timeout)
            taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._changed.notify_all()
            return taken

    def __iter__(self) -> Iterator[T]:
        """Yield items until the channel is closed and drained."""
        while items := self.take(1):
            yield items[0]

    def close(self, discard: bool = False) -> None:
        """Let no more in; with ``discard`` throw away what waits."""
        with self._changed:
            self._closed = True
            if discard:
                self._items.clear()
            self._changed.notify_all()


class Timings:
    """How long each stage takes: a histogram in steps of 4 %, so memory does not grow with length."""

    _STEP = 1.04

    def __init__(self) -> None:
        self._counts: dict[str, Counter[int]] = {}

    @contextmanager
    def measure(self, stage: str, frames: int = 1) -> Iterator[None]:
        """Time the block as ``stage``, shared out over so many frames."""
        start = time.perf_counter()
        yield
        self.add(stage, (time.perf_counter() - start) / max(frames, 1), frames)

    def add(self, stage: str, seconds: float, frames: int = 1) -> None:
        """Add ``frames`` measurements of ``seconds`` each."""
        bucket = round(math.log(max(seconds, 1e-7), self._STEP))
        self._counts.setdefault(stage, Counter())[bucket] += frames

    def merge(self, other: Timings) -> None:
        """Add all that another one has measured."""
        for stage, counts in list(other._counts.items()):
            self._counts.setdefault(stage, Counter()).update(counts)

    def percentiles(self) -> dict[str, dict[str, float]]:
        """Return ``{stage: {"p50": ms, "p95": ms, "p99": ms}}``."""
        return {
            stage: {f"p{p}": self._percentile(counts, p) for p in (50, 95, 99)}
            for stage, counts in list(self._counts.items())
        }

    def _percentile(self, counts: Counter[int], percent: int) -> float:
        left = counts.total() * percent / 100
        for bucket in sorted(counts):
            left -= counts[bucket]
            if left <= 0:
                return round(1e3 * self._STEP**bucket, 3)
        return 0.0


class Stage(Protocol):
    """What the worker does with each batch: ``Compositor`` is one."""

    def __call__(self, frames: Sequence[Frame], timings: Timings, /) -> list[Frame]:
        """Return one new frame for each given one, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a running job is.

    Attributes:
        frames: Written so far.
        total: Expected, 0 if unknown.
        fps: Frames a second since the start.
        seconds: Position in the stream.
        runtime: What computes.
    """

    frames: int
    total: int
    fps: float
    seconds: float
    runtime: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a finished job did.

    Attributes:
        frames: Written.
        seconds: It took.
        fps: ``frames / seconds``.
        dropped: Frames of a live stream that came too fast.
        corrupt: Packets and frames that could not be decoded.
        truncated: Whether the source ended before it said it would.
        stages: ``{stage: {"p50": ms, "p95": ms, "p99": ms}}``, a frame.
        output: Path of what was written.
        model, runtime: What computed.
        notes: Sentences for a person: what was repaired, re-encoded or could not be kept.
    """

    frames: int
    seconds: float
    fps: float
    dropped: int
    corrupt: int
    truncated: bool
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    output: str = ""
    model: str = ""
    runtime: str = ""
    notes: tuple[str, ...] = ()


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended the job; ``partial`` is the playable file that holds what was done, or None.

    Where there is more to say, ``kept`` says it.
    """

    def __init__(self, partial: str | None, *, kept: str = "") -> None:
        super().__init__(f"interrupted; what was done is in {partial}" if partial else "interrupted")
        self.partial, self.kept = partial, kept


class Pipeline:
    """Wires a source, a stage and a sink, and runs them until the source ends.

    Owns all three from the start of ``run``: source and sink are closed when it returns or raises.

    Args:
        source: Where frames come from.
        stage: What is done with them.
        sink: Where they go.
        batch: How many consecutive frames the stage gets at once.
    """

    def __init__(self, source: Source, stage: Stage, sink: Sink, *, batch: int = 1) -> None:
        self._source, self._stage, self._sink, self._batch = source, stage, sink, batch
        full: Literal["wait", "drop"] = "drop" if source.info.live else "wait"
        self._decoded: Channel[Frame] = Channel(batch, full)
        self._finished: Channel[Frame] = Channel(1)
        self._timings = Timings()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._written = 0
        self._position = 0.0

    def run(self, progress: Callable[[Progress], None] | None = None, *, runtime: str = "") -> Stats:
        """Run to the end.

        Args:
            progress: Called about ten times a second, on this thread.
            runtime: Passed on to ``progress``.

        Raises:
            Interrupted: Ctrl-C; the sink was asked to keep what was done.
            VidsegError: Whatever a stage raised first; the sink left nothing behind.
        """
        start = time.perf_counter()
        bodies = {"reader": self._read, "worker": self._work, "writer": self._write}
        threads = [threading.Thread(target=self._guard, args=(b,), name=f"vidseg-{n}") for n, b in bodies.items()]
        try:
            try:
                for thread in threads:
                    thread.start()
                while any(thread.is_alive() for thread in threads):
                    threads[-1].join(0.1)
                    if not threads[-1].is_alive():
                        for thread in threads:
                            thread.join()
                    if progress is not None:
                        progress(self._progress(start, runtime))
                if self._error is not None:
                    raise self._error
                if self._written == 0:
                    url = self._source.info.name
                    raise SourceError(f"{url} holds no frame that can be decoded: is it a whole video?", url=url)
                self._sink.commit()
            except BaseException as error:
                self._stop(threads)
                partial = self._sink.abort(keep_partial=isinstance(error, KeyboardInterrupt) and self._written > 0)
                if isinstance(error, KeyboardInterrupt):
                    raise Interrupted(partial) from None
                raise
        finally:
            self._source.close()
        seconds = time.perf_counter() - start
        return Stats(
            frames=self._written,
            seconds=round(seconds, 3),
            fps=round(self._written / seconds, 2),
            dropped=self._decoded.dropped,
            corrupt=self._source.corrupt,
            truncated=self._source.truncated,
            stages=self._timings.percentiles(),
            notes=(*self._source.notes, *self._sink.notes),
        )

    def _progress(self, start: float, runtime: str) -> Progress:
        info, elapsed = self._source.info, time.perf_counter() - start
        return Progress(self._written, info.frames, self._written / max(elapsed, 1e-6), self._position, runtime)

    def _guard(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            self._decoded.close(discard=True)
            self._finished.close(discard=True)

    def _stop(self, threads: list[threading.Thread]) -> None:
        self._decoded.close(discard=True)
        self._finished.close(discard=True)
        self._source.close()
        if isinstance(self._sink, Interruptible):
            self._sink.interrupt()
        for thread in threads:
            if thread.ident is not None:
                thread.join()

    def _read(self) -> None:
        frames = iter(self._source)
        while True:
            start = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                break
            self._timings.add("decode", time.perf_counter() - start)
            if not self._decoded.put(frame):
                break
        self._decoded.close()

    def _work(self) -> None:
        while frames := self._decoded.take(self._batch):
            for frame in self._stage(frames, self._timings):
                if not self._finished.put(frame):
                    return
        self._finished.close()

    def _write(self) -> None:
        for frame in self._finished:
            with self._timings.measure("encode"):
                self._sink.write(frame)
            self._written += 1
            self._position = frame.time
