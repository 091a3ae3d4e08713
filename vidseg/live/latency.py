"""Latency: how long each stage of a live run takes, over the whole run and lately."""

from __future__ import annotations

import threading
import time

from vidseg.pipeline import Timings

_WINDOW = 5.0


class Latency(Timings):
    """Timings of the whole run, and of the last five to ten seconds; any thread may add to them and read them."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._windows = Timings(), Timings()  # the one before, and the present one
        self._began = time.monotonic()

    def add(self, stage: str, seconds: float, frames: int = 1) -> None:
        """Add ``frames`` measurements of ``seconds`` each."""
        with self._lock:
            super().add(stage, seconds, frames)
            now = time.monotonic()
            if now - self._began > _WINDOW:
                self._windows, self._began = (self._windows[1], Timings()), now
            self._windows[1].add(stage, seconds, frames)

    def percentiles(self) -> dict[str, dict[str, float]]:
        """Return ``{stage: {"p50": ms, "p95": ms, "p99": ms}}`` of the whole run."""
        with self._lock:
            return super().percentiles()

    def recent(self) -> dict[str, dict[str, float]]:
        """Return ``{stage: {"p50": ms, "p95": ms, "p99": ms}}`` of the last seconds."""
        both = Timings()
        with self._lock:
            for window in self._windows:
                both.merge(window)
        return both.percentiles()
