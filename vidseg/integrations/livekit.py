"""BackgroundProcessor: frames of LiveKit with another background."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from vidseg.backgrounds import Fit
from vidseg.convert import Layout, alike, to_frame
from vidseg.errors import MissingDependencyError
from vidseg.integrations.veil import Veil
from vidseg.live.settings import SubjectName

try:
    from livekit import rtc
except ImportError as error:
    raise MissingDependencyError("LiveKit", "livekit") from error

_PLANAR: dict[int, Layout] = {rtc.VideoBufferType.I420: "i420", rtc.VideoBufferType.NV12: "nv12"}
_CHANNELS = {
    rtc.VideoBufferType.RGBA: [0, 1, 2],
    rtc.VideoBufferType.BGRA: [2, 1, 0],
    rtc.VideoBufferType.ARGB: [1, 2, 3],
    rtc.VideoBufferType.RGB24: [0, 1, 2],
}
"""Where red, green and blue are."""
_MICROSECOND = Fraction(1, 1_000_000)


class BackgroundProcessor(rtc.FrameProcessor[rtc.VideoFrame]):
    """Puts another background behind the people in the frames of one track.

    ::

        processor = BackgroundProcessor("beach.jpg")
        async for event in rtc.VideoStream(track, format=rtc.VideoBufferType.I420, capacity=1):
            source.capture_frame(await processor.process(event.frame), timestamp_us=event.timestamp_us)
        await processor.aclose()

    ``capacity=1`` drops the oldest frames when they come too fast. I420 is cheapest; NV12, RGBA, BGRA, ARGB and
    RGB24 are taken, too. Fails closed: while the network is opened, and whenever it fails, there is the
    background alone. ``enabled = False`` is the one way to show the room: frames then go through as they are.

    Args:
        background: A picture, a video, ``#rrggbb``, ``blur`` or ``blur:STRENGTH``.
        fit: How a picture of another shape is fitted: ``cover``, ``contain`` or ``stretch``.
        model: Shipped model's name, a folder with a manifest, or an ONNX file.
        subject: Who is kept of several people: ``all``, ``largest`` or ``center``.
        threads: For the network.
        veil: Use this one, which is closed with the processor, and none of the arguments before it.

    Raises:
        SourceError: There is no such background, or it cannot be read.
        EngineError: There is no such model.
        ValueError: The background is transparent.
    """

    def __init__(
        self,
        background: str = "blur",
        *,
        fit: Fit = "cover",
        model: str = "unet-s",
        subject: SubjectName = "all",
        threads: int = 1,
        veil: Veil | None = None,
    ) -> None:
        self._veil = veil or Veil(background, fit=fit, model=model, subject=subject, threads=threads)
        self._thread = ThreadPoolExecutor(1, "vidseg-livekit")
        self._enabled, self._closed = True, False

    @property
    def enabled(self) -> bool:
        """Whether frames are processed; if not, they go through as they are."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = value

    async def process(self, frame: rtc.VideoFrame) -> rtc.VideoFrame:
        """Return a new frame of the type and size of ``frame``, made on a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._process, frame)

    async def change(self, background: str, fit: Fit | None = None) -> None:
        """Show another background from the next frame on.

        Raises:
            SourceError: There is no such background, or it cannot be read; all stays as it was.
            ValueError: It is transparent.
        """
        await asyncio.to_thread(self._veil.change, background, fit)

    async def aclose(self) -> None:
        """Release the network, once the frame that is being made is done."""
        await asyncio.to_thread(self._close)

    def _process(self, frame: rtc.VideoFrame) -> rtc.VideoFrame:
        if self._closed:
            raise ValueError("the processor is closed")
        if not self._enabled:
            return frame
        height, width = frame.height, frame.width
        samples = np.frombuffer(frame.data, np.uint8)
        if frame.type in _PLANAR:
            if height % 2 or width % 2:
                raise ValueError(f"the picture is {width}x{height}: its width and height must be even")
            made = self._made(samples.reshape(height * 3 // 2, width), _PLANAR[frame.type])
        elif frame.type in _CHANNELS:
            made = samples.reshape(height, width, -1).copy()
            channels = _CHANNELS[frame.type]
            made[..., channels] = self._made(made[..., channels], "rgb")
        else:
            name = rtc.VideoBufferType.Name(frame.type)
            raise ValueError(f"a frame of {name} is not taken: ask the stream for format=rtc.VideoBufferType.I420")
        return rtc.VideoFrame(width, height, frame.type, made.tobytes())

    def _made(self, array: npt.NDArray[np.uint8], layout: Layout) -> npt.NDArray[np.uint8]:
        # LiveKit's frames have no time of their own.
        now = replace(to_frame(array, layout), pts=round(time.monotonic() / _MICROSECOND), time_base=_MICROSECOND)
        return alike(self._veil(now), array, layout)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._thread.submit(self._veil.close)
            self._thread.shutdown()
