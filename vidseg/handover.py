"""Handover: an engine that works at once, and is followed by a faster one when that is made and has proved itself."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from vidseg.building import Report, open_compiled
from vidseg.engine import Engine, ModelSpec, Precision, State
from vidseg.errors import EngineError, VidsegError
from vidseg.frame import Size
from vidseg.parity import compare, tolerance_of
from vidseg.plans import Plans

log = logging.getLogger(__name__)

PROOF = 6
"""So many batches of real frames, at least ``GAP`` apart, are compared before the second engine takes over."""
GAP = 0.25
"""Seconds."""
AFTER = 10.0
"""Seconds of use after which a build is begun: what is over sooner is not worth a minute of a GPU."""
CHECK = 10.0
"""Seconds between two frames that both engines are asked, to see that the second one is still right."""

Phase = Literal["waiting", "making", "proving", "ready", "second", "first"]
"""``first``: the second engine is of no use, for good. All but ``second`` are computed by the first engine."""


class _Sample(NamedTuple):
    src: npt.NDArray[np.float32]
    state: State
    alpha: npt.NDArray[np.float32]


class Handover:
    """An ``Engine`` that asks ``first`` until ``make`` has returned a better one whose alphas are the same.

    ``infer`` never waits for that: the second engine is made and warmed on another thread, and is compared with what
    the first one said of real frames of the stream. Between two calls it takes over. If it then raises, returns what
    is no number, the same alpha for other frames or one that is not what the first engine says, that very call is
    answered by the first engine, and so is everything after it.

    A recurrent state goes from one engine to the other: it is the network's, not the runtime's.

    Args:
        first: Works now. Closed with this.
        make: Returns the second engine, on another thread, or raises; is given ``report`` and an event that is set
            when nobody wants it any more.
        refused: Is told why the second engine was of no use.
        after: Seconds of use before ``make`` is called.
        clock: Seconds.
    """

    def __init__(
        self,
        first: Engine,
        make: Callable[[Report, threading.Event], Engine],
        *,
        refused: Callable[[str], None] = lambda reason: None,
        after: float = AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first, self._make, self._refused = first, make, refused
        self._after, self._clock = after, clock
        self._second: Engine | None = None
        self._tolerance = (0.0, 0.0)
        self._share = 0.0
        self._began: float | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._sampled = threading.Condition()
        self._samples: deque[_Sample] = deque(maxlen=PROOF)
        self._sampled_at = self._checked_at = -1e9
        self._seen: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
        self.phase: Phase = "waiting"

    @property
    def spec(self) -> ModelSpec:
        """The model."""
        return self._first.spec

    @property
    def size(self) -> Size:
        """``(h, w)`` of its input and of the alpha."""
        return self._first.size

    @property
    def runtime(self) -> str:
        """What computes now, and how far its successor is."""
        second = self._second
        if self.phase == "second" and second is not None:
            return second.runtime
        if self.phase == "making":
            return f"{self._first.runtime}; a faster one is {100 * self._share:.0f} % built"
        return self._first.runtime

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return alpha ``(N, h, w)`` for ``src`` ``(N, 3, h, w)``, and the state after it; see ``Engine``."""
        if self._closed.is_set():
            return self._first.infer(src, state)  # says that it is closed
        if self.phase == "ready":
            self._take_over()
        if self.phase != "second" or self._second is None:
            answer = self._first.infer(src, state)
            self._begin_when_due()
            self._keep(src, state, answer[0])
            return answer
        try:
            alpha, after = self._second.infer(src, state)
        except Exception as error:
            answer = self._first.infer(src, state)  # a caller's mistake is raised here, too, and proves nothing
            self._go_back(f"it failed ({error})")
            return answer
        wrong = self._wrong(src, state, alpha, after)
        if wrong is not None:
            reason, answer = wrong
            self._go_back(reason)
            return answer
        return alpha, after

    def infer_on_device(self, src: Any, state: tuple[Any, ...] = ()) -> tuple[Any, tuple[Any, ...]]:
        """Return the same for tensors of a GPU, which both engines take; see ``TorchEngine.infer_on_device``.

        What is compared comes down to the host: samples while the second engine is proved, then its alphas.
        """
        first: Any = self._first
        if not hasattr(first, "infer_on_device"):
            raise EngineError(f"{first.runtime} takes no pictures from a GPU: ask for torch or tensorrt")
        if self.phase == "ready":
            self._take_over()
        second: Any = self._second
        if self._closed.is_set() or self.phase != "second" or second is None:
            answer = first.infer_on_device(src, state)
            self._begin_when_due()
            if self._wants_sample():
                self._keep(_host(src), tuple(map(_host, state)), _host(answer[0]))
            return answer  # type: ignore[no-any-return]
        try:
            alpha, after = second.infer_on_device(src, state)
            parts = _host(src), tuple(map(_host, state)), _host(alpha), tuple(map(_host, after))
        except Exception as error:
            answer = first.infer_on_device(src, state)
            self._go_back(f"it failed ({error})")
            return answer  # type: ignore[no-any-return]
        wrong = self._wrong(*parts)
        if wrong is None:
            return alpha, after
        self._go_back(wrong[0])
        return first.infer_on_device(src, state)  # type: ignore[no-any-return]

    def _wrong(
        self, src: npt.NDArray[np.float32], state: State, alpha: npt.NDArray[np.float32], after: State
    ) -> tuple[str, tuple[npt.NDArray[np.float32], State]] | None:
        """Return what is wrong with an answer of the second engine, and that of the first; None if all is well."""
        numbers = alpha.min() > -0.01 and alpha.max() < 1.01  # False for what is no number
        if not numbers or not all(np.isfinite(part).all() for part in after):
            return "its mask was no number between 0 and 1", self._first.infer(src, state)
        before, self._seen = self._seen, (src.copy(), alpha.copy())
        # Equal bit for bit, of other frames: a plain wall can do that, and a GPU that stands still.
        frozen = (
            before is not None
            and before[1].shape == alpha.shape
            and np.array_equal(before[1], alpha)
            and not np.array_equal(before[0], src)
        )
        now = self._clock()
        if not frozen and 0 <= now - self._checked_at < CHECK:
            return None
        self._checked_at = now
        answer = self._first.infer(src, state)
        parity = compare(alpha, answer[0])
        if parity.within(self._tolerance):
            return None
        return f"its mask {'stood still' if frozen else 'was another one'} ({parity})", answer

    def _take_over(self) -> None:
        second = self._second
        assert second is not None
        self._checked_at, self._seen = self._clock(), None
        self.phase = "second"
        log.info("%s computes from here on, instead of %s", second.runtime, self._first.runtime)

    def _go_back(self, reason: str) -> None:
        """Let the first engine compute for good."""
        second, self._second = self._second, None
        self.phase = "first"
        self._seen = None
        name = second.runtime if second is not None else "the second engine"
        log.warning("%s is not used any more: %s; %s computes again", name, reason, self._first.runtime)
        self._refused(reason)
        if second is not None:
            _close(second)

    # --- the other thread ---------------------------------------------------------------------------------------

    def _begin_when_due(self) -> None:
        if self.phase != "waiting":
            return
        now = self._clock()
        if self._began is None or now < self._began:
            self._began = now
        if now - self._began >= self._after:
            self.phase = "making"
            self._thread = threading.Thread(target=self._prepare, name="vidseg-handover", daemon=True)
            self._thread.start()

    def _wants_sample(self) -> bool:
        return self.phase in ("making", "proving") and not 0 <= self._clock() - self._sampled_at < GAP

    def _keep(self, src: npt.NDArray[np.float32], state: State, alpha: npt.NDArray[np.float32]) -> None:
        """Remember a batch now and then, and what the first engine said of it."""
        if not self._wants_sample():
            return
        self._sampled_at = self._clock()
        sample = _Sample(src.copy(), tuple(part.copy() for part in state), alpha.copy())
        with self._sampled:
            self._samples.append(sample)
            self._sampled.notify()

    def _prepare(self) -> None:
        """Make the second engine and see whether it says what the first one says."""
        second = None
        try:
            second = self._make(self._reported, self._closed)
            self._tolerance = tolerance_of(second)
            self.phase = "proving"
            reason = self._proved(second)
            if self._closed.is_set():
                return
            if reason:
                log.warning("%s is not used: %s; %s goes on", second.runtime, reason, self._first.runtime)
                self.phase = "first"
                self._refused(reason)
                return
            self._second, second = second, None
            self.phase = "ready"
        except Exception as error:
            if not self._closed.is_set():
                known = isinstance(error, VidsegError)
                log.warning(
                    "There is no faster engine (%s); %s goes on",
                    error if known else f"{type(error).__name__}: {error}",
                    self._first.runtime,
                    exc_info=None if known else error,
                )
                self.phase = "first"  # once it has been said
        finally:
            if second is not None:
                _close(second)
            with self._sampled:
                self._samples.clear()
            if self._closed.is_set():  # closed while this was at it
                last, self._second = self._second, None
                if last is not None:
                    _close(last)

    def _proved(self, second: Engine) -> str:
        """Return why ``second`` may not take over; empty if it may, or if nobody wants it any more."""
        for _ in range(PROOF):
            with self._sampled:
                while not self._samples and not self._closed.is_set():
                    self._sampled.wait(0.2)
                if self._closed.is_set():
                    return ""
                sample = self._samples.popleft()
            alpha, _ = second.infer(sample.src, sample.state)
            parity = compare(alpha, sample.alpha)
            if not parity.within(self._tolerance):
                return f"its masks are not those of {self._first.runtime} ({parity})"
        return ""

    def _reported(self, share: float) -> None:
        self._share = share

    def close(self) -> None:
        """Release both engines and give up what is being made. May be called again."""
        self._closed.set()
        with self._sampled:
            self._sampled.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)
        second, self._second = self._second, None
        if second is not None:
            _close(second)
        self._first.close()


class Backed:
    """An ``Engine`` of a GPU whose place one of the CPU takes, for good, when it fails; that very call is answered.

    A recurrent state goes from one to the other: it is the network's, not the runtime's.

    Args:
        engine: Works now. Closed with this.
        otherwise: Opens what comes after it.
    """

    def __init__(self, engine: Engine, otherwise: Callable[[], Engine]) -> None:
        self._engine, self._otherwise = engine, otherwise
        self._closed = self._failed = False
        self.spec, self.size = engine.spec, engine.size

    @property
    def runtime(self) -> str:
        """What computes now."""
        return self._engine.runtime

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return alpha ``(N, h, w)`` for ``src`` ``(N, 3, h, w)``, and the state after it; see ``Engine``."""
        try:
            return self._engine.infer(src, state)
        except EngineError as error:
            if self._closed or self._failed:
                raise
            failed, self._engine, self._failed = self._engine, self._otherwise(), True
            log.warning("%s; %s goes on", error, self._engine.runtime)
            _close(failed)
        return self._engine.infer(src, state)

    def infer_on_device(self, src: Any, state: tuple[Any, ...] = ()) -> tuple[Any, tuple[Any, ...]]:
        """Return the same for tensors of a GPU; a failure is for whoever has put them there."""
        if not hasattr(self._engine, "infer_on_device"):
            raise EngineError(f"{self.runtime} takes no pictures from a GPU: ask for torch or tensorrt")
        return self._engine.infer_on_device(src, state)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Release the network. May be called again."""
        self._closed = True
        self._engine.close()


def followed(
    first: Engine, module: str, spec: ModelSpec, size: Size, precision: Precision | None, plans: Plans | None = None
) -> Engine:
    """Return ``first``, to be followed by the engine that the runtime in ``module`` compiles."""
    kept = plans or Plans()

    def make(report: Report, cancelled: threading.Event) -> Engine:
        return open_compiled(module, spec, size, precision, plans=kept, report=report, cancelled=cancelled, again=False)

    def refused(reason: str) -> None:
        from vidseg.building import compiler

        try:
            kept.refuse(compiler(module).describe(spec, size, precision), reason)
        except VidsegError as error:
            log.info("%s", error)

    return Handover(first, make, refused=refused)


def _host(tensor: Any) -> npt.NDArray[np.float32]:
    """Return what is in a tensor, in memory of its own."""
    return np.array(tensor.cpu().numpy(), np.float32)


def _close(engine: Engine) -> None:
    """Release an engine; one that is broken may not even be able to do that."""
    try:
        engine.close()
    except Exception as error:
        log.info("%s could not be closed: %s", engine.runtime, error)
