"""A person before another background, blended in the codec's own planes: affine, so it equals blending in R'G'B'."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vidseg import kernels
from vidseg.color import black
from vidseg.frame import Frame, FullAlpha, Plane, allocate

REACH, FAR = 2, 5
"""Blocks, and pairs of blocks, to every side from which the colours of person and room are taken."""
TRUST = np.float32(5)
"""How many blocks of its own the sure person farther away counts as, where alpha is soft."""

MANY = 8000
"""When more blocks than this are soft, a quarter of a full picture, larger ones are used: it bounds a fog's time."""


def composite(foreground: Frame, background: Frame, alpha: FullAlpha, *, decontaminate: bool = True) -> Frame:
    """Return ``alpha * foreground + (1 - alpha) * background`` in new planes.

    Alpha 0 gives the samples of ``background`` and 255 those of ``foreground``, exactly. Chroma of 4:2:0 takes the mean
    alpha of its pixels. Time, colour and depth are those of ``foreground``.

    Args:
        foreground: The person in the room.
        background: Of the same size, depth and sampling; its colours must mean the same.
        alpha: uint8 ``(H, W)``; 255 is foreground.
        decontaminate: Whether the room's colour is taken out of the soft edge of the person first.

    Raises:
        ValueError: Sizes, depth or sampling differ.
    """
    for name in ("size", "depth", "subsampled"):
        ours, theirs = getattr(foreground, name), getattr(background, name)
        if ours != theirs:
            raise ValueError(f"foreground and background differ in {name}: {ours} and {theirs}")
    planes = _render(foreground, background, alpha, decontaminate)
    return replace(foreground, planes=planes, alpha=None)


def cutout(foreground: Frame, alpha: FullAlpha) -> Frame:
    """Return the person alone, in new planes, with ``alpha`` (not copied) for a transparent output.

    No sample of the room is left under alpha 0: it is black, and close to the person, where players and encoders mix
    neighbours, the person's own colour goes on.

    Raises:
        ValueError: Sizes differ.
    """
    return replace(foreground, planes=_render(foreground, None, alpha, True), alpha=alpha)


def _render(front: Frame, back: Frame | None, alpha: FullAlpha, clean: bool) -> tuple[Plane, Plane, Plane]:
    """Blend all planes; without ``back`` cut out."""
    height, width = front.size
    if alpha.shape != (height, width) or alpha.dtype != np.uint8:
        raise ValueError(f"alpha must be uint8 of the frame's size {front.size}: {alpha.shape = }, {alpha.dtype = }")
    block = block_side(max(height, width))
    parts = kernels.as_rows(alpha)
    kinds = kernels.find_edges(*parts, height, width, block)
    if np.count_nonzero(kinds == kernels.EDGE) > MANY:
        block *= 2
        kinds = kernels.find_edges(*parts, height, width, block)
    if back is None:
        kinds = kernels.spread_edges(kinds, 1)
    if clean:
        wanted, near = kernels.spread_edges(kinds, 1), kernels.spread_edges(kinds, 1 + REACH)
    out = allocate(front.size, front.depth, front.subsampled)
    empty = [np.float32(sample if back is None else -1) for sample in black(front.color, front.depth)]
    top = np.float32(2**front.depth - 1)
    for index, (plane, target) in enumerate(zip(front.planes, out, strict=True)):
        if index == 1 and front.subsampled:
            parts = kernels.as_rows(kernels.halve_alpha(*parts, height, width, kinds, block))
            block //= 2
        over, under = kernels.as_rows(plane), kernels.as_rows((back or front).planes[index])
        if not clean:
            kernels.blend(*over, *under, *parts, kinds, block, target)
            continue
        tall, wide = plane.shape
        colours = kernels.estimate_colours(
            *over, tall, wide, *parts, kinds, wanted, near, block, REACH, FAR, TRUST, top, empty[index]
        )
        kernels.blend_clean(*over, *under, *parts, kinds, block, colours, top, empty[index], target)
    return out


def block_side(side: int) -> int:
    """Return the side of a block: soft edges are as wide as a network's pixel, which grows with the frame."""
    return 4 if side <= 960 else 8 if side <= 2048 else 16 if side <= 4096 else 32
