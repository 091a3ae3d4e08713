"""Compositor: frames in, the same people before another background out. Everything between source and sink."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self, overload

import numpy as np

from vidseg.backgrounds import Background, Fit, TransparentBackground, open_background
from vidseg.compositing import composite, cutout
from vidseg.convert import INTERVAL, Layout, P, alike, to_frame
from vidseg.frame import Color, Frame, FullAlpha, allocate
from vidseg.pipeline import Timings
from vidseg.segmenter import Matte, Segmenter, upsample
from vidseg.settling import settle
from vidseg.smoothing import Smoother

Restage = Callable[[Frame, FullAlpha], tuple[Frame, FullAlpha]]
"""Another place or size of the people in a frame, and of their alpha along with them."""


class Compositor:
    """Puts a background behind the people in consecutive pictures of one stream. Keeps temporal state; not thread-safe.

    ::

        with vidseg.Compositor("beach.jpg") as compositor:
            for picture in pictures:
                show(compositor(picture))

    A picture comes back as what it was: array, tensor, ``av.VideoFrame`` or ``Frame``. Fails closed: a frame is
    returned only with its own alpha applied, and any failure raises instead.

    Args:
        background: A picture, a video, ``#rrggbb``, ``blur``, ``blur:STRENGTH`` or ``transparent``, as for
            ``vidseg.process_video``; or one that is open, which belongs to the caller; None returns the alpha itself as
            a grey picture.
        segmenter: Finds the people; it belongs to the caller. None opens one of the default model.
        fit: How a picture or video of another shape is fitted: ``cover``, ``contain`` or ``stretch``.
        smooth: Whether the alpha is steadied in time; False for unrelated pictures.
        decontaminate: Whether the old background's colour is taken out of soft edges.

    Raises:
        SourceError: There is no such background, or it cannot be read.
        EngineError: The model does not work.
    """

    def __init__(
        self,
        background: str | Background | None = "blur",
        segmenter: Segmenter | None = None,
        *,
        fit: Fit = "cover",
        smooth: bool = True,
        decontaminate: bool = True,
    ) -> None:
        self._owned: list[Background | Segmenter] = []
        if isinstance(background, str):
            background = open_background(background, fit)
            self._owned.append(background)
        if segmenter is None:
            segmenter = Segmenter(stream=smooth)
            self._owned.append(segmenter)
        self._segmenter, self._background = segmenter, background
        self._smoother = Smoother() if smooth else None
        self._decontaminate = decontaminate
        self._time = 0.0

    @overload
    def __call__(self, pictures: Sequence[Frame], timings: Timings | None = None) -> list[Frame]: ...

    @overload
    def __call__(
        self, pictures: P, timings: Timings | None = None, *, layout: Layout = "rgb", time: float | None = None
    ) -> P: ...

    def __call__(
        self, pictures: Any, timings: Timings | None = None, *, layout: Layout = "rgb", time: float | None = None
    ) -> Any:
        """Return a new picture for a picture, or a new frame for each frame of a sequence; they are not changed.

        Args:
            pictures: A ``Frame``, ``av.VideoFrame``, NumPy array or PyTorch tensor, see ``vidseg.convert.to_frame``; or
                a list or tuple of ``Frame`` of one size.
            timings: Gets what each step took.
            layout: Of an array or tensor: ``rgb``, ``bgr``, ``i420`` or ``nv12``.
            time: Of a picture that does not know it, in seconds; None is a thirtieth after the one before.

        Returns:
            What was given: kind, layout, shape, type of numbers, device, format and times; with a fourth channel before
            a transparent background.

        Raises:
            TypeError: It is no picture.
            ValueError: Its shape or numbers are those of no picture, or it can have no alpha and should get one.
            EngineError: The engine failed, or gave numbers that are no alpha.
        """
        if isinstance(pictures, list | tuple):
            return self._composed(pictures, timings or Timings())
        frame = to_frame(pictures, layout, self._time + INTERVAL if time is None else time)
        self._time = frame.time
        [done] = self._composed([frame], timings or Timings())
        return alike(done, pictures, layout)

    def _composed(self, frames: Sequence[Frame], timings: Timings) -> list[Frame]:
        with timings.measure("segment", len(frames)):
            mattes = self._segmenter(frames)
        done = []
        for frame, matte in zip(frames, mattes, strict=True):
            with timings.measure("settle"):
                alpha = settle(matte.alpha)
            if self._smoother is not None:
                with timings.measure("smooth"):
                    alpha = self._smoother(alpha, matte.guide, frame.time)
            done.append(compose(frame, Matte(alpha, matte.guide), self._background, self._decontaminate, timings))
        return done

    def reset(self) -> None:
        """Forget the pictures before: the next one is the first of another clip."""
        self._segmenter.reset()
        if self._smoother is not None:
            self._smoother.reset()

    def close(self) -> None:
        """Release what was opened here. May be called again."""
        for part in self._owned:
            part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def compose(
    frame: Frame,
    matte: Matte,
    background: Background | None,
    decontaminate: bool = True,
    timings: Timings | None = None,
    *,
    reframe: Restage | None = None,
    place: Restage | None = None,
) -> Frame:
    """Return a new frame with its own small alpha applied: on ``background``, or the alpha itself if there is none.

    Args:
        frame: The people in their room; it is not changed.
        matte: Of this very frame, settled and steadied.
        background: What is put behind them.
        decontaminate: Whether the old background's colour is taken out of soft edges.
        timings: Gets what each step took.
        reframe: What is done to picture and alpha before there is a background, which a blurred room follows.
        place: What is done to them before the background that there is.
    """
    timings = timings or Timings()
    with timings.measure("refine"):
        full = upsample(matte, frame)
    if reframe is not None:
        with timings.measure("reframe"):
            frame, full = reframe(frame, full)
    if background is None:
        return grey(frame, full)
    if isinstance(background, TransparentBackground):
        with timings.measure("composite"):
            return cutout(frame, full)
    with timings.measure("background"):
        behind = background.render(frame, full)
    if place is not None:
        with timings.measure("place"):
            frame, full = place(frame, full)
    with timings.measure("composite"):
        return composite(frame, behind, full, decontaminate=decontaminate)


def grey(frame: Frame, alpha: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> Frame:
    """Return ``alpha`` as a full-range grey picture, 8 bit, with the times of ``frame``."""
    _, u, v = allocate(frame.size)
    u[...] = v[...] = 128
    return replace(frame, planes=(alpha, u, v), depth=8, color=Color("bt709", True, 2, 2, 2, 2), alpha=None)
