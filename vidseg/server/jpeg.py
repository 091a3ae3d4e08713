"""JPEG to a frame's planes and back, without a detour through RGB: what a live page sends and gets."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from vidseg.errors import SourceError
from vidseg.frame import Color, Frame, Size
from vidseg.sources.pyav import plane_view

JFIF = Color("bt601", True, 2, 2, 2, 2)
"""Full range, BT.601 (JFIF 1.02)."""
_QUANTISER = "4"
"""Of FFmpeg's scale, 1 to 31: about quality 88 of libjpeg's."""


class JpegReader:
    """Reads JPEGs of one visitor.

    Args:
        pixels: More than these in one are refused by the decoder, before it takes memory for them.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._codec: VideoCodecContext | None = None

    def __call__(self, data: bytes, pts: int, time_base: Fraction) -> Frame:
        """Return the picture, 4:2:0, with that time.

        Raises:
            SourceError: It is no whole JPEG, has too many pixels, or an odd size.
        """
        if not (data.startswith(b"\xff\xd8") and b"\xff\xd9" in data[-64:]):
            raise SourceError("a live frame must be a whole JPEG")
        if self._codec is None:
            self._codec = av.CodecContext.create("mjpeg", "r")
            self._codec.thread_count = 1
            # FFmpeg counts whole blocks and a margin; what is beyond the exact number is refused below.
            self._codec.options = {"max_pixels": str(2 * self._pixels + 100_000), "err_detect": "explode"}
        try:
            pictures = self._codec.decode(av.Packet(data))
        except (av.FFmpegError, MemoryError, ValueError) as error:
            self._codec = None
            raise SourceError(f"a live frame cannot be decoded: {error}") from error
        if len(pictures) != 1 or pictures[0].is_corrupt:
            self._codec = None
            raise SourceError("a live frame is damaged")
        picture = pictures[0]
        height, width = picture.height, picture.width
        if height * width > self._pixels or height % 2 or width % 2 or min(height, width) < 32:
            raise SourceError(f"a live frame of {width}x{height} pixels is too large, too small or of odd size")
        if picture.format.name not in ("yuvj420p", "yuv420p"):
            picture = picture.reformat(format="yuvj420p", threads=1)
        y, u, v = (plane_view(picture, index, 8) for index in range(3))
        return Frame((y, u, v), pts, time_base, JFIF)


class JpegWriter:
    """Writes frames as JPEG. Not thread-safe."""

    def __init__(self) -> None:
        self._codec: VideoCodecContext | None = None
        self._size: Size = (0, 0)

    def __call__(self, frame: Frame) -> bytes:
        """Return a frame of the colours ``JFIF`` and even size as JPEG."""
        height, width = frame.size
        if self._codec is None or self._size != frame.size:
            self._codec = av.CodecContext.create("mjpeg", "w")
            self._codec.width, self._codec.height, self._codec.pix_fmt = width, height, "yuvj420p"
            self._codec.time_base, self._codec.thread_count = Fraction(1, 30), 1
            self._codec.options = {"qmin": _QUANTISER, "qmax": _QUANTISER}
            self._size = frame.size
        rows = np.concatenate([np.ascontiguousarray(plane).reshape(-1) for plane in frame.planes])
        picture = av.VideoFrame.from_ndarray(rows.reshape(height * 3 // 2, width), format="yuvj420p")
        return b"".join(bytes(packet) for packet in self._codec.encode(picture))
