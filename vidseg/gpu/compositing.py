"""A person before another background, blended in the codec's own planes, as ``vidseg.compositing``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidseg.compositing import FAR, MANY, REACH, TRUST, block_side
from vidseg.gpu.resize import enlarge, halve

Planes = tuple[Tensor, Tensor, Tensor]


class Edges(NamedTuple):
    """Which blocks of an alpha are soft, and which are the person's, float32 ``(N, tall, wide)`` of 0 and 1.

    Attributes:
        soft: Neither all 0 nor all 255.
        person: All 255.
        block: Side of a block of luma.
    """

    soft: Tensor
    person: Tensor
    block: int

    @property
    def crowded(self) -> Tensor:
        """Whether a frame has so many soft blocks that ``vidseg.compositing`` takes larger ones, bool ``(N,)``."""
        return self.soft.sum((1, 2)) > MANY


def find_edges(alpha: Tensor, coarser: bool = False) -> Edges:
    """Return what the blocks of ``alpha`` are; with ``coarser`` those of crowded frames."""
    block = block_side(max(alpha.shape[1:])) * (2 if coarser else 1)
    some = F.max_pool2d(alpha[:, None], block, ceil_mode=True)[:, 0] > 0
    every = F.max_pool2d(-alpha[:, None], block, ceil_mode=True)[:, 0] == -255
    return Edges((some & ~every).float(), every.float(), block)


def blend(
    front: Planes,
    back: Planes | None,
    alpha: Tensor,
    edges: Edges,
    *,
    depth: int = 8,
    empty: tuple[int, int, int] = (0, 0, 0),
    decontaminate: bool = True,
    out: Planes | None = None,
) -> Planes:
    """Return ``alpha * front + (1 - alpha) * back``, as ``vidseg.compositing`` does; without ``back`` a cutout.

    Args:
        front: The people in their room, ``(N, H, W)``, chroma of 4:2:0 or 4:4:4; it is not changed.
        back: Of one kind with it; N may be 1.
        alpha: float32 ``(N, H, W)``, whole numbers from 0 to 255.
        edges: What ``find_edges`` gave for it.
        depth: Bits of the planes.
        empty: Black, for where nobody is without ``back``.
        decontaminate: Whether the room's colour is taken out of soft edges; without ``back`` it always is.
        out: Written to and returned.
    """
    soft, person, block = edges
    if back is None:
        soft = _spread(soft, 1)
        person = person * (1 - soft)
    near = _spread(soft, 1 + REACH)
    results = out or tuple(torch.empty(plane.shape, dtype=plane.dtype, device=plane.device) for plane in front)
    top = float(2**depth - 1)
    parts = alpha * (1 / 255)
    for index, (over, target) in enumerate(zip(front, results, strict=True)):
        if index == 1 and over.shape != front[0].shape:
            parts = halve(alpha) * (1 / 255)
            block //= 2
        samples = over.float()
        if back is None:
            persons, rooms = _colours(samples, parts, person, near, block, top, float(empty[index]))
            clean = _without_room(samples, parts, persons, rooms, top)
            anybody = _by_pixel(torch.maximum(soft, person), block, samples) > 0
            target.copy_((torch.where(anybody, clean, float(empty[index])) + 0.5).floor_())
            continue
        low = back[index].float()
        if decontaminate:
            persons, rooms = _colours(samples, parts, person, near, block, top, -1.0)
            samples = _without_room(samples, parts, persons, rooms, top)
        target.copy_((low + parts * (samples - low)).add_(0.5).floor_())
    return results  # type: ignore[return-value]


def _without_room(samples: Tensor, parts: Tensor, persons: Tensor, rooms: Tensor, top: float) -> Tensor:
    """Return the person's colour at each pixel, see ``kernels.blend_clean``: the sample itself where alpha is 1."""
    return (persons + parts * (samples - rooms - parts * (persons - rooms))).clamp_(0, top)


def _colours(
    samples: Tensor, parts: Tensor, person: Tensor, near: Tensor, block: int, top: float, empty: float
) -> tuple[Tensor, Tensor]:
    """Return one sample of the person and of the room for each pixel, see ``kernels.estimate_colours``."""
    rest = 1 - parts
    sure = parts.square() * parts
    sure = sure * sure
    thin = [plane[:, ::2] for plane in (samples, parts, rest, sure)]  # every second row is enough for a mean
    values, a, b, s = thin
    products = torch.stack([a * a, a * b, b * b, a * values, b * values, s, s * values], 1)
    half = block // 2
    sums = 2 * F.avg_pool2d(products, (half, block), ceil_mode=True, divisor_override=1)
    aa, ab, bb, a_sample, b_sample = F.avg_pool2d(sums[:, :5], 2 * REACH + 1, 1, REACH, divisor_override=1).unbind(1)
    # Of the person far from any edge one block in four is enough.
    tall, wide = person.shape[1:]
    alone = torch.zeros_like(person)
    alone[:, ::2, ::2] = person[:, ::2, ::2]
    counted = sums[:, 5:] * torch.maximum(near, alone)[:, None]
    pairs = F.avg_pool2d(counted, 2, ceil_mode=True, divisor_override=1)
    around = F.avg_pool2d(pairs, 2 * FAR + 1, 1, FAR, divisor_override=1)
    around = around.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :tall, :wide]
    sure_count, sure_sample = around.unbind(1)

    area = float(block * block)
    hint, weight = area * 1e-3, area * float(TRUST)
    mean = (a_sample + b_sample) / (aa + 2 * ab + bb)
    persons = (sure_sample + hint * (mean if empty < 0 else empty)) / (sure_count + hint)
    rooms = (b_sample + hint * mean) / (ab + bb + hint)
    aa, bb = aa + weight, bb + hint
    a_sample, b_sample = a_sample + weight * persons, b_sample + hint * rooms
    scale = 1 / (aa * bb - ab * ab)
    found = torch.stack([a_sample * bb - b_sample * ab, b_sample * aa - a_sample * ab], 1) * scale[:, None]
    found = enlarge(found.clamp_(0, top), (tall * block, wide * block))
    height, width = samples.shape[1:]
    return found[:, 0, :height, :width], found[:, 1, :height, :width]


def _spread(soft: Tensor, reach: int) -> Tensor:
    """Return ``soft`` with what lies within ``reach`` blocks of it."""
    return F.max_pool2d(soft[:, None], 2 * reach + 1, 1, reach)[:, 0]


def _by_pixel(blocks: Tensor, block: int, like: Tensor) -> Tensor:
    """Return the value of its block for each pixel."""
    pixels = blocks.repeat_interleave(block, 1).repeat_interleave(block, 2)
    return pixels[:, : like.shape[1], : like.shape[2]]
