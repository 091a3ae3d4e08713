"""Live visitors: the newest frame of each goes to the worker, the composite comes back; what is late is dropped."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

from vidseg.server.limits import Limits
from vidseg.server.metrics import Metrics
from vidseg.server.processes import Network, Process, WorkerGoneError

log = logging.getLogger(__name__)

_UNDER_WAY = 2
"""Frames of a visitor that the worker may have: one that is worked on and one that waits."""


class Answer(NamedTuple):
    """What is sent to a visitor: a composite with the number of its frame, or a message."""

    frame: int
    data: bytes
    message: dict[str, Any] | None = None


class Visitor:
    """One live connection. All its frames and its background are in memory, and go with it."""

    def __init__(self, number: int, background: str) -> None:
        self.number = number
        self.background, self.upload = background, b""
        self.under_way: dict[int, float] = {}
        self.waiting: tuple[int, bytes, float] | None = None
        self.shown = self.dropped = self.withheld = 0
        self.began = self.heard = time.monotonic()
        self._times: deque[float] = deque(maxlen=120)
        self._took: deque[float] = deque(maxlen=60)
        self._newest: Answer | None = None
        self._messages: deque[Answer] = deque(maxlen=64)
        self._something = asyncio.Event()

    def say(self, **message: Any) -> None:
        """Send a message."""
        self._messages.append(Answer(0, b"", message))
        self._something.set()

    def show(self, frame: int, data: bytes, seconds: float) -> None:
        """Send a composite; one that could not be sent yet makes way."""
        self.dropped += self._newest is not None
        self.played(seconds)
        self._newest = Answer(frame, data)
        self._something.set()

    def played(self, seconds: float) -> None:
        """Take notice of a composite that took so long."""
        self.shown += 1
        self.heard = time.monotonic()
        self._times.append(self.heard)
        self._took.append(seconds)

    async def next(self) -> Answer:
        """Return what is to be sent, when there is something."""
        while True:
            await self._something.wait()
            if self._messages:
                return self._messages.popleft()
            if self._newest is not None:
                answer, self._newest = self._newest, None
                return answer
            self._something.clear()

    def stats(self) -> dict[str, Any]:
        """Return how it goes."""
        since = time.monotonic() - 2
        lately = sum(moment > since for moment in self._times)
        took = sorted(self._took)
        return {
            "fps": lately / 2,
            "server_ms": round(1e3 * took[len(took) // 2], 1) if took else None,
            "shown": self.shown,
            "dropped": self.dropped,
            "withheld": self.withheld,
        }


class Live:
    """All visitors and the worker that they share. Only the event loop touches it.

    Args:
        network: What computes.
        limits: How much a visitor may have.
        metrics: Counts frames.
    """

    def __init__(self, network: Network, limits: Limits, metrics: Metrics) -> None:
        self._network, self._limits, self._metrics = network, limits, metrics
        self.visitors: dict[int, Visitor] = {}
        self._number = 0
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.runtime = self.model = ""
        self.webrtc = False
        self.peers = 0
        self.cpu = 0.0

    @property
    def ready(self) -> bool:
        """Whether the worker answers."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Of the worker."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the worker, and see to it that there is one from now on."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End the worker."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def enter(self, background: str, upload: bytes = b"") -> Visitor:
        """Let a visitor in; there must be room."""
        self._number += 1
        visitor = self.visitors[self._number] = Visitor(self._number, background)
        self.dress(visitor, background, upload)
        return visitor

    def dress(self, visitor: Visitor, background: str, upload: bytes = b"") -> None:
        """Give a visitor another background; the worker answers whether it took it."""
        visitor.background, visitor.upload = background, upload
        if self._process is not None:
            self._introduce(self._process, visitor)

    def leave(self, visitor: Visitor) -> None:
        """Forget a visitor."""
        self.visitors.pop(visitor.number, None)
        if self._process is not None:
            self._process.post({"do": "leave", "visitor": visitor.number})

    def frame(self, visitor: Visitor, number: int, data: bytes) -> None:
        """Take a frame; if the worker has enough of this visitor, an older one that waits makes way."""
        visitor.heard = time.monotonic()
        if visitor.waiting is not None:
            self._drop(visitor)
        visitor.waiting = number, data, time.monotonic()
        self._feed(visitor)

    def offer(self, visitor: Visitor, offer: str, address: str) -> None:
        """Answer a visitor's offer of WebRTC by a message; they have reached us at ``address``."""
        if self._process is None or not self.webrtc:
            visitor.say(type="answer", sdp="", reason="there is no WebRTC now" if self.ready else "it is starting")
        else:
            self._process.post({"do": "offer", "visitor": visitor.number, "address": address}, offer.encode())

    def hang_up(self, visitor: Visitor) -> None:
        """End a visitor's WebRTC."""
        if self._process is not None:
            self._process.post({"do": "hang up", "visitor": visitor.number})

    def _drop(self, visitor: Visitor) -> None:
        visitor.waiting = None
        visitor.dropped += 1
        self._metrics.count("vidseg_frames_total", {"result": "dropped"})

    def _feed(self, visitor: Visitor) -> None:
        if self._process is None or visitor.waiting is None or len(visitor.under_way) >= _UNDER_WAY:
            return
        (number, data, since), visitor.waiting = visitor.waiting, None
        visitor.under_way[number] = since
        self._process.post({"do": "frame", "visitor": visitor.number, "frame": number}, data)

    def _introduce(self, process: Process, visitor: Visitor) -> None:
        header = {"do": "background", "visitor": visitor.number, "background": visitor.background}
        process.post(header, visitor.upload)

    async def _run(self) -> None:
        pause = 0.5
        options = {"pixels": self._limits.frame_pixels, "memory": self._limits.memory, **self._network.options()}
        options["threads"] = self._network.threads or 1  # at which a frame costs least
        while True:
            process = await Process.start("live", options)
            try:
                ready, _ = await process.receive()
                self.runtime, self.model = str(ready["ready"]), str(ready["model"])
                self.webrtc = bool(ready["webrtc"])
                self._process, pause = process, 0.5
                for visitor in self.visitors.values():
                    visitor.under_way.clear()
                    self._introduce(process, visitor)
                    self._feed(visitor)
                    visitor.say(type="network", network="ready", webrtc=self.webrtc)
                while True:
                    self._take(*await process.receive())
            except (WorkerGoneError, KeyError, TypeError) as error:
                log.warning("The live worker has ended and is started again: %s", error)
                self._metrics.count("vidseg_worker_restarts_total")
            finally:
                self._process = None
                self.peers = 0
                await process.end()
            for visitor in self.visitors.values():
                visitor.say(type="withheld", reason="the server is starting its network again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 10.0)

    def _take(self, header: dict[str, Any], payload: bytes) -> None:
        """Pass on what the worker says."""
        if "cpu" in header:
            self.cpu = float(header["cpu"])
            return
        if "peers" in header:
            self.peers = int(header["peers"])
            return
        visitor = self.visitors.get(header["visitor"])
        if visitor is None:
            return
        if "refused" in header:
            visitor.say(type="refused", reason=str(header["refused"]))
            return
        if "background" in header:
            visitor.say(type="background", background=str(header["background"]))
            return
        if "answer" in header:
            visitor.say(type="answer", sdp=payload.decode("utf-8", "replace"), reason=str(header["answer"]))
            return
        if "hung" in header:
            visitor.say(type="hung", reason=str(header["hung"]))
            return
        if "played" in header:
            seconds, dropped = float(header["played"]), int(header["dropped"])
            visitor.dropped += dropped
            visitor.played(seconds)
            self._metrics.count("vidseg_frames_total", {"result": "shown"})
            if dropped:
                self._metrics.count("vidseg_frames_total", {"result": "dropped"}, dropped)
            self._metrics.took(seconds)
            return
        number = header["frame"]
        if number is None:  # it came by WebRTC
            visitor.heard = time.monotonic()
        since = visitor.heard if number is None else visitor.under_way.pop(number, None)
        if since is not None and payload:
            seconds = time.monotonic() - since
            self._metrics.count("vidseg_frames_total", {"result": "shown"})
            self._metrics.took(seconds)
            visitor.show(number, payload, seconds)
        elif since is not None:
            visitor.withheld += 1
            self._metrics.count("vidseg_frames_total", {"result": "bad" if header["fault"] else "withheld"})
            visitor.say(type="withheld", frame=number, reason=str(header["reason"]))
        self._feed(visitor)
