"""Budget: keeps a live run within its share of the machine by stepping a ladder down and, later, up again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rung:
    """How much is spent on a frame.

    Attributes:
        scale: Of the network's own input size.
        every: Inference on every so-manieth frame; between them the mask is carried forward by motion.
        refined: Whether the full-size alpha is led by the luma and the room's colour is taken out of soft edges
            (``decontaminate``); if not, both are left out.
        take: Only every so-manieth frame of the camera is used at all; the output repeats what it has.
    """

    scale: float = 1.0
    every: int = 1
    refined: bool = True
    take: int = 1

    def __str__(self) -> str:
        parts = ["inference on every frame" if self.every == 1 else f"inference on one frame in {self.every}"]
        if self.scale != 1:
            parts.append(f"network at {self.scale:.0%}")
        if not self.refined:
            parts.append("edges unrefined")
        if self.take > 1:
            parts.append(f"one camera frame in {self.take}")
        return ", ".join(parts)


STRICT = (
    Rung(),
    Rung(0.75),
    Rung(0.6, refined=False),
    Rung(0.6, refined=False, take=2),
    Rung(0.6, refined=False, take=3),
)
"""The ladder where each frame is shown with a mask of its own, and so has inference."""
FAST = (
    Rung(),
    Rung(every=2),
    Rung(every=3),
    Rung(0.75, every=3, refined=False),
    Rung(0.75, every=2, refined=False, take=2),
    Rung(0.75, every=2, refined=False, take=3),
)
"""The ladder where a mask may be carried forward."""


def ladder(sync: Literal["strict", "fast"]) -> tuple[Rung, ...]:
    """Return the rungs for ``--sync``, dearest first."""
    return STRICT if sync == "strict" else FAST


_WINDOW = 1.0
"""Seconds over which load is measured."""
_FULL, _FAR_TOO_MUCH, _ROOM = 1.03, 1.6, 0.85
"""Load above which it steps down after two windows, after one, and below which the rung above has to promise to be."""
_GAIN = 1.3
"""How much more the rung above is thought to need as long as that was never seen."""
_PATIENCE, _LONGEST = 6.0, 300.0
"""Seconds of calm before the first try upward, and the most to which failed tries double it."""
_FAILED = 20.0
"""A rung that is left downward within so many seconds of climbing to it was a failed try."""


class Budget:
    """Says which rung of a ladder to stand on. No thread and no clock: everything is told to it. Not thread-safe.

    *Load* is the larger of two shares: CPU seconds a second of ``max_cpu``, and the worker's busy seconds a frame of
    the time that a frame has at ``target_fps``. Measured in windows of a second: above 1 twice in a row (or above 1.6
    once) it steps down. It climbs when the highest load of some calm seconds, times what the rung above was seen to
    cost more, leaves room; each climb that fails doubles those seconds, one that holds halves them again. So a load
    that swings, or one that just does not fit, makes it try more and more seldom instead of flapping.

    Use::

        budget = Budget(max_cpu=0.5, target_fps=30, ladder=ladder("strict"), on_step=log)
        …after each frame:  rung = budget(now, process_cpu_seconds, busy_seconds_of_this_frame)

    Args:
        max_cpu: Cores, as in ``--max-cpu 0.5``; None is no limit but time.
        target_fps: Frames of the output a second.
        ladder: Rungs, dearest first.
        on_step: Called once for each step, with the new rung and a sentence that says why.

    Raises:
        ValueError: ``max_cpu`` or ``target_fps`` is not above 0, or the ladder has no rung.
    """

    def __init__(
        self,
        max_cpu: float | None = None,
        target_fps: float = 30.0,
        ladder: Sequence[Rung] = STRICT,
        on_step: Callable[[Rung, str], None] | None = None,
    ) -> None:
        if max_cpu is not None and not 0 < max_cpu < math.inf:
            raise ValueError(f"the budget must be more than 0 cores, not {max_cpu = }")
        if not 0 < target_fps < math.inf:
            raise ValueError(f"the frame rate must be more than 0, not {target_fps = }")
        if not ladder:
            raise ValueError("the ladder needs at least one rung")
        self._max_cpu, self._target_fps = max_cpu, target_fps
        self._ladder, self._on_step = tuple(ladder), on_step
        self._at = 0
        self._gains = [_GAIN] * len(self._ladder)  # of rung i over rung i + 1
        self._patience = _PATIENCE
        self._climbed = -math.inf
        self.load = 0.0
        self.restart()

    @property
    def rung(self) -> Rung:
        """Where it stands."""
        return self._ladder[self._at]

    def restart(self) -> None:
        """Forget what was measured, but not the rung: after a pause, or when the model or background has changed."""
        self._began: tuple[float, float] | None = None
        self._busy, self._frames = 0.0, 0
        self._loads: deque[tuple[float, float]] = deque()
        self._before: float | None = None  # the load that made it step down
        self._over = 0
        self._fresh = True  # the first window on a rung pays for opening engines

    def __call__(self, time: float, cpu: float, busy: float) -> Rung:
        """Count one frame and return the rung for the next.

        Args:
            time: Now, in seconds; from any clock that does not go back.
            cpu: CPU seconds that the process has used since whenever.
            busy: Seconds that the worker spent on this frame.
        """
        if self._began is not None and not 0 <= time - self._began[0] <= 5 * _WINDOW:
            self.restart()  # suspended, or no frame for long: that says nothing about load
        if self._began is None:
            self._began = time, cpu
            return self.rung
        self._busy += busy
        self._frames += 1
        passed = time - self._began[0]
        if passed >= _WINDOW:
            time_share = self._busy / self._frames * self._target_fps / self.rung.take
            cpu_share = 0.0 if self._max_cpu is None else (cpu - self._began[1]) / passed / self._max_cpu
            self._began, self._busy, self._frames = (time, cpu), 0.0, 0
            if self._fresh:
                self._fresh = False
            else:
                self._weigh(time, time_share, cpu_share)
        return self.rung

    def _weigh(self, time: float, time_share: float, cpu_share: float) -> None:
        """Take one window's load into account."""
        self.load = load = max(time_share, cpu_share)
        if self._before is not None:  # what the step down has brought
            self._gains[self._at - 1] = min(max(self._before / max(load, 1e-3), 1.05), 4.0)
            self._before = None
        self._loads.append((time, load))
        while self._loads[0][0] < time - self._patience:
            self._loads.popleft()
        if time - self._climbed > _FAILED and math.isfinite(self._climbed):
            self._climbed, self._patience = -math.inf, max(self._patience / 2, _PATIENCE)
        self._over = self._over + 1 if load > _FULL else 0
        if (self._over >= 2 or load > _FAR_TOO_MUCH) and self._at + 1 < len(self._ladder):
            if math.isfinite(self._climbed):
                self._climbed, self._patience = -math.inf, min(2 * self._patience, _LONGEST)
            reason = (
                f"{cpu_share * (self._max_cpu or 0):.2f} cores are used, {self._max_cpu} are allowed"
                if cpu_share >= time_share
                else f"a frame takes {time_share:.0%} of its time at {self._target_fps:g} frames a second"
            )
            self._step(time, +1, reason)
            self._before = load
        elif self._at > 0 and time - self._since(time) >= self._patience - 1.5 * _WINDOW:
            promised = max(load for _, load in self._loads) * self._gains[self._at - 1]
            if promised < _ROOM:
                self._step(time, -1, f"there is room: {promised:.0%} of the budget is expected")
                self._climbed = time

    def _since(self, time: float) -> float:
        """Return since when loads are known on this rung."""
        return self._loads[0][0] if self._loads else time

    def _step(self, time: float, direction: int, reason: str) -> None:
        self._at += direction
        self.restart()
        if self._on_step is not None:
            self._on_step(self.rung, reason)
