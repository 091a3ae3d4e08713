"""Batcher: what many streams ask at the same time is computed in one call; SharedEngines: their networks that way."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from vidseg.engine import Engine, ModelSpec, Precision, State, open_engine
from vidseg.errors import EngineError
from vidseg.frame import Size

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
Opener = Callable[[ModelSpec, str, Size, int | None, Precision | None], Engine]
"""Opens a network as ``open_engine`` does: ``(spec, runtime, size, threads, precision) -> engine``."""

MOST = 8
"""Pictures in one call: twice as many gain little on any device, and whoever comes next waits for all of them."""
BUDGET = 0.002
"""Seconds that a frame waits for those of other streams while nothing is computed."""
_AWAKE = 0.5
"""Seconds after its last request for which a live stream counts as one: a camera that is off holds up no file."""
_PATIENCE = 1.0
"""Seconds after which a file job has its turn however many live streams there are: slow is not stuck."""
_SMOOTH = 0.2
"""Share of the last call in what is known of the cost of a picture."""
_ENDING = 5.0
"""Seconds that ``close`` waits for a call that a driver may never come back from."""


@dataclass(eq=False, slots=True)
class _Request(Generic[T, R]):
    item: T
    group: Hashable
    rows: int
    future: Future[R] = field(default_factory=Future)


class Lane(Generic[T, R]):
    """One stream's way into a ``Batcher``. Its requests are computed in order, one in a call. From any thread."""

    def __init__(self, batcher: Batcher[T, R], live: bool, depth: int) -> None:
        self._batcher = batcher
        self.live = live
        self.depth = depth
        self.waiting: deque[_Request[T, R]] = deque()
        self.since = self.asked = -1e9
        self.period = float("inf")
        self.closed = False
        self.dropped = 0
        """Requests that a newer one of this lane took the place of."""

    def submit(self, item: T, *, group: Hashable = None, rows: int = 1) -> Future[R]:
        """Ask for ``item``; what comes of it is in the future, or what went wrong.

        Where ``depth`` requests wait already, a live lane cancels the future of the oldest, and any other waits.

        Args:
            item: For ``compute``.
            group: Only items of equal groups go into one call.
            rows: How much of a call it takes.

        Raises:
            EngineError: The lane is closed, or was while this waited for room.
        """
        return self._batcher.put(self, _Request(item, group, rows))

    def __call__(self, item: T, *, group: Hashable = None, rows: int = 1) -> R:
        """Ask for ``item`` and wait for what comes of it, as ``submit`` does.

        Raises:
            EngineError: The lane was closed, or a newer request took the place of this one.
            Exception: Whatever ``compute`` raised.
        """
        try:
            return self.submit(item, group=group, rows=rows).result()
        except CancelledError:
            raise EngineError("a newer frame of this stream took the place of this one") from None

    def close(self) -> None:
        """Ask no more; what waits fails. May be called again."""
        self._batcher.remove(self)


class Batcher(Generic[T, R]):
    """Collects the requests of many lanes and computes those that wait in one call, on its own thread.

    * A request waits ``budget`` seconds at most for others to come, and only where a lane is due to ask by then.
    * Of each lane there is one request in a call, and the lanes take turns: whoever asks more often than the others
      gets what they leave. So a lane's next request may depend on what came of the one before.
    * Live lanes go first. Others fill what is left of a call as far as it does not last ``budget`` seconds longer for
      it, and have a call of that length where no live one waits; without any live lane they share full calls.
    * A call that raises is made again for each of its items alone: only who is to blame fails, or all do, each by
      itself.

    Memory is bounded: ``depth`` requests a lane, and one call.

    Args:
        compute: Returns a result for each item. Only ever called by one thread.
        most: Rows of one call; what has more by itself goes alone.
        budget: See above.
        clock: Seconds.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[T]], Sequence[R]],
        *,
        most: int = MOST,
        budget: float = BUDGET,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if most < 1 or budget < 0:
            raise ValueError(f"a call takes at least one, and waits no less than 0 s: {most = }, {budget = }")
        self._compute, self._most, self._budget, self._clock = compute, most, budget, clock
        self._changed = threading.Condition()
        self._lanes: list[Lane[T, R]] = []
        self._ready: dict[bool, deque[Lane[T, R]]] = {True: deque(), False: deque()}  # by Lane.live
        self._under_way: list[_Request[T, R]] = []
        self._cost: float | None = None  # seconds a row
        self._closed = False
        self.calls = self.rows = 0
        """So many calls were made, for so many rows in all."""
        self._thread = threading.Thread(target=self._run, name="vidseg-batcher", daemon=True)
        self._thread.start()

    def lane(self, *, live: bool = True, depth: int = 1) -> Lane[T, R]:
        """Let another stream in.

        Args:
            live: Whether its newest frame matters most; else each of its frames does.
            depth: How many of its requests may wait.

        Raises:
            EngineError: The batcher is closed.
        """
        if depth < 1:
            raise ValueError(f"at least one request must be able to wait: {depth = }")
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed")
            lane = Lane(self, live, depth)
            self._lanes.append(lane)
            return lane

    def put(self, lane: Lane[T, R], request: _Request[T, R]) -> Future[R]:
        """Do what ``lane.submit`` says."""
        with self._changed:
            while len(lane.waiting) >= lane.depth and not lane.closed:
                if lane.live:
                    lane.waiting.popleft().future.cancel()
                    lane.dropped += 1
                else:
                    self._changed.wait()
            if lane.closed:
                raise EngineError("the engine is closed")
            now = self._clock()
            period = now - lane.asked
            lane.period = period if lane.period > 2 * period else lane.period + _SMOOTH * (period - lane.period)
            lane.asked = now
            lane.waiting.append(request)
            if lane not in self._ready[lane.live]:  # who lost its oldest request keeps its place among the lanes
                self._line_up(lane)
            self._changed.notify_all()
            return request.future

    def remove(self, lane: Lane[T, R]) -> None:
        """Do what ``lane.close`` says."""
        with self._changed:
            if lane.closed:
                return
            lane.closed = True
            self._lanes.remove(lane)
            with suppress(ValueError):
                self._ready[lane.live].remove(lane)
            left = list(lane.waiting)
            lane.waiting.clear()
            self._changed.notify_all()
        for request in left:
            _fail(request, EngineError("the engine is closed"))

    def close(self) -> None:
        """Close all lanes and end the thread. May be called again."""
        with self._changed:
            self._closed = True
            lanes = list(self._lanes)
            self._changed.notify_all()
        for lane in lanes:
            lane.close()
        if self._thread is not threading.current_thread():
            self._thread.join(_ENDING)
        if self._thread.is_alive():
            log.warning("a call of the network does not come back; its thread is left behind")
        for request in list(self._under_way):
            _fail(request, EngineError("the engine is closed"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._next():
            rows = sum(request.rows for request in batch)
            start = self._clock()
            self._do(batch)
            del batch  # while this waits for more, nobody's pictures are kept
            cost = (self._clock() - start) / rows
            self._cost = cost if self._cost is None else self._cost + _SMOOTH * (cost - self._cost)

    def _next(self) -> list[_Request[T, R]]:
        """Wait for requests and return those of the next call; none when closed."""
        with self._changed:
            self._under_way = []
            while not self._closed:
                chosen = self._chosen()
                now = self._clock()
                left = min((lane.since for lane in chosen), default=now) + self._budget - now
                if chosen and (left <= 0 or self._is_full(chosen, now, left)):
                    self._under_way = [self._taken(lane) for lane in chosen]
                    self._changed.notify_all()
                    running = [r for r in self._under_way if r.future.set_running_or_notify_cancel()]
                    if running:
                        self._under_way = running
                        return running
                    continue
                self._changed.wait(left if chosen else None)
            return []

    def _chosen(self) -> list[Lane[T, R]]:
        """Return the lanes whose oldest requests make the next call, in the order of their turns."""
        live, files = self._ready[True], self._ready[False]
        now = self._clock()
        fill = self._fill() if self._is_live(now) else self._most
        late = bool(files) and now - files[0].since > _PATIENCE
        order = [*files, *live] if late else [*live, *files]
        if not order:
            return []
        group = order[0].waiting[0].group
        chosen: list[Lane[T, R]] = []
        rows = filled = 0
        for lane in order:
            request = lane.waiting[0]
            over = rows + request.rows > self._most or (not lane.live and filled + request.rows > fill)
            if request.group != group or (chosen and over):
                continue
            chosen.append(lane)
            rows += request.rows
            filled += 0 if lane.live else request.rows
        return chosen

    def _is_live(self, now: float) -> bool:
        """Return whether there is a live stream that asks."""
        return bool(self._ready[True]) or any(lane.live and now - lane.asked < _AWAKE for lane in self._lanes)

    def _fill(self) -> int:
        """Return how many rows of file jobs a call may have beside live streams."""
        return 0 if self._cost is None else int(self._budget / max(self._cost, 1e-9))

    def _is_full(self, chosen: list[Lane[T, R]], now: float, left: float) -> bool:
        """Return whether there is no use in waiting: no room, or nobody who is due to ask in the time that is left."""
        if sum(lane.waiting[0].rows for lane in chosen) >= self._most:
            return True
        live = chosen[0].live
        if not live and self._is_live(now):
            return True
        others = (lane for lane in self._lanes if lane.live == live and lane not in self._ready[live])
        return not any(-self._budget <= lane.asked + lane.period - now <= left for lane in others)

    def _taken(self, lane: Lane[T, R]) -> _Request[T, R]:
        request = lane.waiting.popleft()
        self._ready[lane.live].remove(lane)
        if lane.waiting:
            self._line_up(lane)
        return request

    def _line_up(self, lane: Lane[T, R]) -> None:
        lane.since = self._clock()
        self._ready[lane.live].append(lane)

    def _do(self, batch: list[_Request[T, R]]) -> None:
        """Make one call and hand out what came of it; on failure one for each request."""
        self.calls += 1
        self.rows += sum(request.rows for request in batch)
        try:
            results = self._compute([request.item for request in batch])
            if len(results) != len(batch):
                raise EngineError(f"a call for {len(batch)} frames returned {len(results)} results")
        except BaseException as error:  # whatever it is: this thread serves everybody else, too
            if len(batch) == 1:
                _fail(batch[0], error)
            else:
                for request in batch:
                    self._do([request])
        else:
            for request, result in zip(batch, results, strict=True):
                with suppress(Exception):  # given up meanwhile
                    request.future.set_result(result)


def _fail(request: _Request[T, R], error: BaseException) -> None:
    with suppress(Exception):  # done, or given up meanwhile
        request.future.set_exception(error)


# --- networks ---------------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Loaded:
    """A network that streams share. ``lock`` is held while it computes: nobody closes it then."""

    asked: tuple[ModelSpec, str, Size, int | None, Precision | None]
    engine: Engine
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    failed: bool = False

    def is_for(self, spec: ModelSpec, *rest: object) -> bool:
        return self.asked[1:] == rest and spec in (self.asked[0], self.engine.spec)

    def close(self) -> None:
        if self.lock.acquire(timeout=_ENDING):
            try:
                self.engine.close()
            finally:
                self.lock.release()


@dataclass(frozen=True, slots=True)
class _Question:
    loaded: _Loaded
    src: npt.NDArray[np.float32]
    state: State


_Answer = tuple[npt.NDArray[np.float32], State]


class SharedEngines:
    """Opens each network once for any number of streams, and computes what they ask at the same time in one call.

    ::

        with SharedEngines() as engines:
            one, other = (Segmenter(opener=engines.opener(live=True)) for _ in range(2))

    What ``open`` returns is an ``Engine`` like any other, for one stream and one thread; ``infer`` waits until there
    is an answer. Each stream keeps its own recurrent state and all else that lives in time, as with an engine of its
    own, and gets the numbers that it would get there, as far as the runtime computes a picture without regard to the
    others of its call.

    An engine whose last call failed is not given out again: who opens then gets a new one.

    Args:
        most: Pictures in one call.
        budget: Seconds that a frame may wait for those of other streams.
        opener: Opens what is shared, instead of ``open_engine``.
    """

    def __init__(self, *, most: int = MOST, budget: float = BUDGET, opener: Opener | None = None) -> None:
        self._open = opener
        self._batcher: Batcher[_Question, _Answer] = Batcher(_answered, most=most, budget=budget)
        self._lock = threading.Lock()
        self._loaded: list[_Loaded] = []

    @property
    def mean(self) -> float:
        """How many pictures a call had, on average."""
        return self._batcher.rows / max(self._batcher.calls, 1)

    def opener(self, *, live: bool) -> Opener:
        """Return ``open`` for live streams, or for files."""
        return lambda *asked: self.open(*asked, live=live)

    def open(
        self,
        spec: ModelSpec,
        runtime: str = "auto",
        size: Size | None = None,
        threads: int | None = None,
        precision: Precision | None = None,
        *,
        live: bool = True,
    ) -> Engine:
        """Return a network for one more stream; the arguments are those of ``open_engine``.

        Args:
            spec: The model.
            runtime: ``auto``, or one by name.
            size: Input size; None is the model's first.
            threads: For the network; None chooses.
            precision: None chooses.
            live: Whether the stream goes before those that are not.

        Raises:
            EngineError: The network does not work.
            MissingDependencyError: The runtime that was asked for is not installed.
        """
        size = spec.sizes[0] if size is None else size
        with self._lock:  # who comes while it is opened waits for that, rather than to open it again
            found = next((e for e in self._loaded if e.is_for(spec, runtime, size, threads, precision)), None)
            if found is not None and found.failed:
                self._loaded.remove(found)
                self._leave(found)
                found = None
            if found is None:
                lane = self._batcher.lane(live=live)  # says whether this is closed before anything is opened
                asked = (spec, runtime, size, threads, precision)
                try:
                    found = _Loaded(asked, (self._open or open_engine)(*asked))
                except BaseException:
                    lane.close()
                    raise
                self._loaded.append(found)
                found.users += 1  # this list is one
            else:
                lane = self._batcher.lane(live=live)
            found.users += 1
        return _SharedEngine(self, found, lane)

    def release(self, loaded: _Loaded) -> None:
        """Count one stream less."""
        with self._lock:
            self._leave(loaded)

    def _leave(self, loaded: _Loaded) -> None:
        loaded.users -= 1
        if loaded.users == 0:
            loaded.close()

    def close(self) -> None:
        """Release all networks; streams that still ask get an ``EngineError``. May be called again."""
        self._batcher.close()
        with self._lock:
            loaded, self._loaded = self._loaded, []
        for each in loaded:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answered(questions: Sequence[_Question]) -> list[_Answer]:
    """Return what one network says to the pictures of several streams."""
    loaded = questions[0].loaded
    with loaded.lock:
        try:
            if len(questions) == 1:
                answers = [loaded.engine.infer(questions[0].src, questions[0].state)]
            else:
                src = np.concatenate([question.src for question in questions])
                states = zip(*(question.state for question in questions), strict=True)
                alphas, after = loaded.engine.infer(src, tuple(np.concatenate(parts) for parts in states))
                answers = _shared_out([len(question.src) for question in questions], alphas, after)
        except BaseException:
            loaded.failed = True
            raise
        loaded.failed = False
        return answers


def _shared_out(rows: list[int], alphas: npt.NDArray[np.float32], after: State) -> list[_Answer]:
    """Return the rows of each question; copies, so that no stream holds on to what is another's."""
    if any(len(part) != sum(rows) for part in (alphas, *after)):
        raise EngineError(f"a call for {sum(rows)} pictures returned {[part.shape for part in (alphas, *after)]}")
    ends = np.cumsum(rows)
    return [
        (alphas[end - own : end].copy(), tuple(part[end - own : end].copy() for part in after))
        for own, end in zip(rows, ends, strict=True)
    ]


class _SharedEngine:
    """One stream's share of a network."""

    def __init__(self, engines: SharedEngines, loaded: _Loaded, lane: Lane[_Question, _Answer]) -> None:
        self._engines, self._loaded, self._lane = engines, loaded, lane
        self._open = True
        self.size: Size = loaded.engine.size

    @property
    def spec(self) -> ModelSpec:
        """The model."""
        return self._loaded.engine.spec

    @property
    def runtime(self) -> str:
        """What computes."""
        return self._loaded.engine.runtime

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> _Answer:
        """Return alpha ``(N, h, w)`` for ``src`` ``(N, 3, h, w)``, and the state after it; see ``Engine``."""
        # Beginnings and continuations have different inputs; the shapes of a state are those of its network's size.
        shapes = (src.shape[1:], tuple(part.shape[1:] for part in state))
        return self._lane(_Question(self._loaded, src, state), group=(id(self._loaded), shapes), rows=max(len(src), 1))

    def close(self) -> None:
        """Ask no more. The network stays for the others."""
        self._lane.close()
        if self._open:
            self._open = False
            self._engines.release(self._loaded)
