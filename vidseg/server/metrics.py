"""Metrics in the text format of Prometheus 0.0.4."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping

_STEPS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.5, 1.0, 2.0)
"""Seconds: bounds of the histogram."""


class Metrics:
    """What is counted. Only the event loop touches it."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._help: dict[str, str] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._buckets = [0] * (len(_STEPS) + 1)
        self._seconds = 0.0

    def counter(self, name: str, text: str) -> None:
        """Declare what ``count`` counts."""
        self._help[name] = text

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Declare what is asked for whenever somebody looks."""
        self._gauges[name] = text, value

    def count(self, name: str, labels: Mapping[str, str] | None = None, amount: float = 1) -> None:
        """Add to a counter; the labels come from a few fixed words."""
        key = name, tuple((labels or {}).items())
        self._counters[key] = self._counters.get(key, 0) + amount

    def took(self, seconds: float) -> None:
        """Add a frame's time to the histogram."""
        self._buckets[bisect_left(_STEPS, seconds)] += 1
        self._seconds += seconds

    def text(self) -> str:
        """Return all of it."""
        lines = []
        for name, text in self._help.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} counter"]
            found = {labels: value for (counter, labels), value in self._counters.items() if counter == name}
            for labels, value in (found or {(): 0.0}).items():
                inside = ",".join(f'{key}="{word}"' for key, word in labels)
                lines.append(f"{name}{f'{{{inside}}}' if inside else ''} {value:g}")
        for name, (text, ask) in self._gauges.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {ask():g}"]
        name, total = "vidseg_frame_seconds", 0
        lines += [f"# HELP {name} From a live frame's arrival until its composite is sent.", f"# TYPE {name} histogram"]
        for step, number in zip((*map(str, _STEPS), "+Inf"), self._buckets, strict=True):
            total += number
            lines.append(f'{name}_bucket{{le="{step}"}} {total}')
        lines += [f"{name}_sum {self._seconds:g}", f"{name}_count {total}"]
        return "\n".join(lines) + "\n"
