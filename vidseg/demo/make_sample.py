"""How ``sample.mp4`` was made: ``python -m vidseg.demo.make_sample astronaut.png``. Not needed at run time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from vidseg.color import planes_from_rgb
from vidseg.frame import Color

SIZE = (480, 640)
FPS = 30
FRAMES = 120


def main() -> None:
    """Write the sample from the picture that the command line names."""
    portrait = cv2.imread(sys.argv[1])
    if portrait is None:
        raise SystemExit(f"{sys.argv[1]} is not a picture")
    portrait = cv2.cvtColor(portrait, cv2.COLOR_BGR2RGB)
    with av.open(str(Path(__file__).with_name("sample.mp4")), "w", options={"movflags": "+faststart"}) as container:
        # Slow settings: it is made once and carried by every install. One thread and no version in the stream,
        # so that it comes out the same again.
        stream = container.add_stream(
            "libx264",
            rate=FPS,
            options={"crf": "22", "preset": "veryslow", "tune": "film", "threads": "1", "flags": "+bitexact"},
        )
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FPS)
        context = stream.codec_context
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1, 1
        for index, rgb in enumerate(camera_move(portrait)):
            planes = planes_from_rgb(rgb, Color("bt709", full_range=False))
            frame = av.VideoFrame(SIZE[1], SIZE[0], "yuv420p")
            for plane, samples in zip(frame.planes, planes, strict=True):
                rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
                rows[: samples.shape[0], : samples.shape[1]] = samples
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def camera_move(portrait: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the frames of a slow move towards the face and back, as a hand would hold the camera.

    Every frame is sampled once from the picture, at sub-pixel positions.
    """
    height, width = SIZE
    widest, narrowest = 458.0, 384.0
    for index in range(FRAMES):
        turn = 2 * np.pi * index / FRAMES
        nearness = (1 - np.cos(turn)) / 2
        across = widest + (narrowest - widest) * nearness
        scale = across / width
        # The person stands left of the middle; the sways are a few pixels, and zero where the clip begins anew.
        x = 281 - 7 * nearness + 9 * nearness * np.sin(2 * turn + 0.6)
        y = scale * height / 2 + 2 + nearness * (2 + 2 * np.sin(3 * turn))
        matrix = np.array([[scale, 0, x - scale * (width - 1) / 2], [0, scale, y - scale * (height - 1) / 2]])
        yield np.asarray(
            cv2.warpAffine(
                portrait,
                matrix,
                (width, height),
                flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            ),
            np.uint8,
        )


if __name__ == "__main__":
    main()
