"""BackgroundTrack: any video track of aiortc with another background."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vidseg.backgrounds import Fit
from vidseg.convert import alike, to_frame
from vidseg.errors import MissingDependencyError
from vidseg.integrations.veil import Veil
from vidseg.live.settings import SubjectName

try:
    from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
    from av import VideoFrame
except ImportError as error:
    raise MissingDependencyError("WebRTC", "webrtc") from error

log = logging.getLogger(__name__)

_PATIENCE = 0.25
"""Seconds that a frame may take to be made, before those that come meanwhile are shown as the background alone."""
_STALE = 0.5
"""Seconds after which a frame that was made and that nobody has asked for is thrown away."""


class BackgroundTrack(MediaStreamTrack):
    """A video track with another background; it can stand wherever the track itself could.

    ::

        connection.addTrack(BackgroundTrack(camera, background="beach.jpg"))

    The network runs on a thread of its own, never on the event loop. When frames come faster than they can be shown the
    oldest are dropped, and counted in ``dropped``; the others keep their pts. Fails closed: while the network is
    opened, and whenever it fails or hangs, there is the background alone. It is read once somebody calls ``recv``;
    from then on the given track is read until its end or ``stop``, which leaves that track to its owner.

    Args:
        track: A video track.
        background: A picture, a video, ``#rrggbb``, ``blur`` or ``blur:STRENGTH``.
        fit: How a picture of another shape is fitted: ``cover``, ``contain`` or ``stretch``.
        model: Shipped model's name, a folder with a manifest, or an ONNX file.
        subject: Who is kept of several people: ``all``, ``largest`` or ``center``.
        threads: For the network.
        veil: Use this one, which is closed with the track, and none of the arguments before it.

    Raises:
        SourceError: There is no such background, or it cannot be read.
        EngineError: There is no such model.
        ValueError: It is no video track, or the background is transparent.
    """

    kind = "video"

    def __init__(
        self,
        track: MediaStreamTrack,
        background: str = "blur",
        *,
        fit: Fit = "cover",
        model: str = "unet-s",
        subject: SubjectName = "all",
        threads: int = 1,
        veil: Veil | None = None,
    ) -> None:
        if track.kind != "video":
            raise ValueError(f"only video has a background; add the {track.kind} track to the connection as it is")
        super().__init__()
        self._track = track
        self._veil = veil or Veil(background, fit=fit, model=model, subject=subject, threads=threads)
        self._thread = ThreadPoolExecutor(1, "vidseg-webrtc")
        self._reading: asyncio.Task[None] | None = None
        self._making: asyncio.Task[VideoFrame] | None = None
        self._newest: VideoFrame | None = None
        self._came = asyncio.Event()
        self._source_ended = False
        self._began: float | None = None
        self._made_at = self._last = -float("inf")
        self.dropped = 0
        """Frames that came too fast."""

    @property
    def shown(self) -> int:
        """Frames that show the people."""
        return self._veil.shown

    async def change(self, background: str, fit: Fit | None = None) -> None:
        """Show another background from the next frame on.

        Raises:
            SourceError: There is no such background, or it cannot be read; all stays as it was.
            ValueError: It is transparent.
        """
        await asyncio.to_thread(self._veil.change, background, fit)

    async def recv(self) -> VideoFrame:
        """Return the next picture.

        Raises:
            MediaStreamError: The track has ended.
        """
        if self.readyState != "live":
            raise MediaStreamError
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
        try:
            while True:
                picture = await self._next_made()
                when = float("inf") if picture is None else _seconds(picture)
                if picture is not None and when > self._last:
                    self._last = when
                    return picture
        except MediaStreamError:
            self.stop()
            raise

    async def _next_made(self) -> VideoFrame | None:
        """Return the next picture, or None where it comes too late."""
        if self._making is None:
            self._making = self._begin()
        patience = None if self._began is None else max(self._began + _PATIENCE - time.monotonic(), 0)
        done, _ = await asyncio.wait({self._making}, timeout=_PATIENCE if patience is None else patience)
        if self.readyState != "live" or self._making.cancelled():
            raise MediaStreamError
        if not done:
            if self._began is None or time.monotonic() - self._began < _PATIENCE:
                return None
            return await asyncio.to_thread(self._hidden, await self._next())
        picture = self._making.result()
        # The next one is made while this one is encoded.
        self._making = self._begin()
        return picture if time.monotonic() - self._made_at < _STALE else None

    def _begin(self) -> asyncio.Task[VideoFrame]:
        task = asyncio.ensure_future(self._make())
        task.add_done_callback(_heard)  # perhaps nobody waits for it any more
        return task

    async def _make(self) -> VideoFrame:
        picture = await self._next()
        self._began = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._shown, picture)
        finally:
            self._began, self._made_at = None, time.monotonic()

    async def _next(self) -> VideoFrame:
        """Return the newest picture of the track."""
        while self._newest is None:
            if self._source_ended:
                raise MediaStreamError
            self._came.clear()
            await self._came.wait()
        picture, self._newest = self._newest, None
        return picture

    async def _read(self) -> None:
        """Keep the newest picture of the track, so that nothing waits in it."""
        try:
            while True:
                picture = await self._track.recv()
                if not isinstance(picture, VideoFrame):
                    raise TypeError("the track gives packets: open its player with decode=True")
                self.dropped += self._newest is not None
                self._newest = picture
                self._came.set()
        except MediaStreamError:
            pass
        except Exception as error:
            log.error("The track ends: %s", error)
        finally:
            self._source_ended = True
            self._came.set()

    def _shown(self, picture: VideoFrame) -> VideoFrame:
        try:
            return alike(self._veil(to_frame(picture)), picture)
        except Exception as error:
            log.error("A picture cannot be shown: %s", error)
            return _black(picture)

    def _hidden(self, picture: VideoFrame) -> VideoFrame:
        try:
            return alike(self._veil.still(to_frame(picture)), picture)
        except Exception as error:
            log.error("A picture cannot be shown: %s", error)
            return _black(picture)

    def stop(self) -> None:
        """End the track and release the network, once the frame that is being made is done."""
        if self.readyState == "live":
            for task in (self._reading, self._making):
                if task is not None:
                    task.cancel()
            self._thread.submit(self._veil.close)
            self._thread.shutdown(wait=False)
        super().stop()


def _heard(task: asyncio.Task[Any]) -> None:
    """Take notice of a task's error, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()


def _seconds(picture: VideoFrame) -> float:
    if picture.pts is None or not picture.time_base:
        return time.monotonic()
    return float(picture.pts * picture.time_base.numerator / picture.time_base.denominator)


def _black(picture: VideoFrame) -> VideoFrame:
    """Return black in the size and at the time of ``picture``."""
    black = VideoFrame(picture.width, picture.height, "yuv420p")
    for plane, sample in zip(black.planes, (16, 128, 128), strict=True):
        plane.update(bytes([sample]) * plane.buffer_size)
    black.pts, black.time_base = picture.pts, picture.time_base
    return black
