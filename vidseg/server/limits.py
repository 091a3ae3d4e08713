"""Limits: how much of everything a visitor, and all of them together, may have."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MEBI = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much; each has its status code in the API's documentation.

    Attributes:
        picture_bytes, picture_pixels: Of a picture that is sent.
        video_bytes, video_pixels, video_seconds: Of a video that is sent; the pixels are those of one frame.
        frame_bytes, frame_pixels: Of a live frame.
        offer_bytes: Of a description of a WebRTC connection.
        visitors: Live at a time.
        pictures: Being worked on or waiting at a time.
        jobs: The same for videos, of which one runs at a time.
        uploads: Backgrounds that are kept in memory at a time.
        kept: Seconds for which a finished job, or an upload that nobody uses, is kept.
        silence: Seconds without a frame after which a visitor has left.
        session: Seconds that one live connection may last.
        patience: Seconds for the work on one picture.
        slack: Seconds that a video may take, for each second of it.
        arrival: Seconds in which a picture has to have arrived; a video gets ten times as many.
        rate, burst: Requests a second that one address may make for long, and at once.
        connections: Open at a time, of all kinds.
        memory: Bytes that a worker may take beyond what it has when it is ready.
    """

    picture_bytes: int = 20 * MEBI
    picture_pixels: int = 40_000_000
    video_bytes: int = 500 * MEBI
    video_pixels: int = 3840 * 2160
    video_seconds: float = 600.0
    frame_bytes: int = MEBI
    frame_pixels: int = 1280 * 720
    offer_bytes: int = 32_768
    visitors: int = 8
    pictures: int = 4
    jobs: int = 4
    uploads: int = 32
    kept: float = 900.0
    silence: float = 60.0
    session: float = 7200.0
    patience: float = 30.0
    slack: float = 30.0
    arrival: float = 30.0
    rate: float = 2.0
    burst: int = 60
    connections: int = 200
    memory: int = 2048 * MEBI


class Rates:
    """A token bucket for each address. Remembers the latest few thousand of them, and forgets the rest.

    Args:
        rate: Tokens a second.
        burst: Most tokens.
        clock: Seconds.
    """

    _ADDRESSES = 4096

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> int:
        """Take a token; returns 0, or after how many whole seconds there is one again."""
        now = self._clock()
        left, since = self._buckets.pop(address, (float(self._burst), now))
        left = min(self._burst, left + (now - since) * self._rate)
        allowed = left >= 1
        self._buckets[address] = (left - 1 if allowed else left), now
        while len(self._buckets) > self._ADDRESSES:
            self._buckets.popitem(last=False)
        return 0 if allowed else math.ceil((1 - left) / self._rate)
