"""Signals: Ctrl-C, and requests to end, stop a job in the same orderly way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_heard: list[int] = []
_requested: list[Callable[[], None]] = []


def heard() -> bool:
    """Return whether one has come since ``as_interrupts`` began."""
    return bool(_heard)


def status() -> int:
    """Return the exit status that tells which signal ended the run, 128 + its number, as shells do."""
    return 128 + (_heard[0] if _heard else signal.SIGINT)


def _interrupt(number: int, _: FrameType | None) -> None:
    # The first one ends the job and the output is finished. An impatient second one would leave temporary files and an
    # output that cannot be played, so only a third one ends at once.
    _heard.append(number)
    if _requested and len(_heard) == 1:
        _requested[-1]()
    elif len(_heard) != 2:
        raise KeyboardInterrupt


@contextmanager
def as_requests(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block the first signal only calls ``stop``, from the main thread between any two instructions."""
    _requested.append(stop)
    try:
        if _heard:  # just before
            stop()
        yield
    finally:
        _requested.remove(stop)


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread."""
    _heard.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # A signal that is ignored (nohup, a background job of a script) stays so.
    before = {number: signal.getsignal(number) for number in wanted if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
