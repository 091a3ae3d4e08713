"""Compositor: frames in, the same people before another background out. Everything between source and sink."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vidseg.backgrounds import Background, TransparentBackground
from vidseg.compositing import composite, cutout
from vidseg.frame import Color, Frame, FullAlpha, allocate
from vidseg.pipeline import Timings
from vidseg.refine import refine
from vidseg.segmenter import Matte, Segmenter
from vidseg.settling import settle
from vidseg.smoothing import Smoother

Restage = Callable[[Frame, FullAlpha], tuple[Frame, FullAlpha]]
"""Another place or size of the people in a frame, and of their alpha along with them."""


class Compositor:
    """Puts a background behind the people in consecutive frames of one stream. Keeps temporal state; not thread-safe.

    Fails closed: a frame is returned only with its own alpha applied, and any failure raises instead.

    Args:
        segmenter: Finds the people.
        background: What is put behind them; None returns the alpha itself as a grey picture.
        smoother: Steadies the alpha in time; None for unrelated pictures.
        decontaminate: Whether the old background's colour is taken out of soft edges.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        background: Background | None,
        smoother: Smoother | None = None,
        *,
        decontaminate: bool = True,
    ) -> None:
        self._segmenter, self._background, self._smoother = segmenter, background, smoother
        self._decontaminate = decontaminate

    def __call__(self, frames: Sequence[Frame], timings: Timings | None = None) -> list[Frame]:
        """Return a new frame for each of ``frames``; they are not changed."""
        timings = timings or Timings()
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
        full = refine(matte.alpha, frame, matte.guide)
        if frame.alpha is not None:  # what a picture had cut away already stays away
            full = ((full.astype(np.uint16) * frame.alpha + 127) // 255).astype(np.uint8)
    if reframe is not None:
        with timings.measure("reframe"):
            frame, full = reframe(frame, full)
    if background is None:
        return _grey(frame, full)
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


def _grey(frame: Frame, alpha: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> Frame:
    """Return ``alpha`` as a full-range grey picture, 8 bit, with the times of ``frame``."""
    _, u, v = allocate(frame.size)
    u[...] = v[...] = 128
    return replace(frame, planes=(alpha, u, v), depth=8, color=Color("bt709", True, 2, 2, 2, 2), alpha=None)
