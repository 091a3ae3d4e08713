"""Pictures that a GPU has decoded or is to encode: NV12 and P010 by DLPack, without a way over the host."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from vidseg.frame import Frame
from vidseg.gpu.compositing import Planes
from vidseg.gpu.pictures import Kind

_PITCH = 256
"""Rows of a picture for the encoder begin at multiples of so many samples."""


def from_decoder(luma: Any, chroma: Any, depth: int) -> Planes:
    """Return the planes of a picture as tensors where it lies; of NV12 they are views, which keep it alive.

    What FFmpeg queued for it is on CUDA's default stream: whoever uses the tensors on another one waits for that.

    Args:
        luma: Plane of PyAV, ``(H, W)``.
        chroma: Plane of PyAV, pairs ``(H/2, W/2, 2)``.
        depth: 8 for NV12, 10 for P010, whose samples are in the upper bits.

    Raises:
        RuntimeError: Of PyTorch: it does not know the device.
        NotImplementedError: Of PyAV: it cannot lend such a picture.
    """
    # Asked here and not by PyTorch: it names its stream, which PyAV refuses (18.1).
    y, pairs = (from_dlpack(plane.__dlpack__()) for plane in (luma, chroma))
    if depth > 8:
        y, pairs = ((part.to(torch.int32) >> (16 - depth)).to(torch.uint16) for part in (y, pairs))
    return y, pairs[..., 0], pairs[..., 1]


def to_encoder(frame: Frame) -> tuple[Any, Any]:
    """Return luma and chroma of a frame that ``encodable`` made, for ``av.VideoFrame.from_dlpack``."""
    y, u, _ = cast(Planes, frame.planes)
    pairs = u.as_strided((*u.shape, 2), (*u.stride(), 1))
    with torch.cuda.device(y.device if y.is_cuda else -1):  # PyTorch lends what is on the current device only
        return y.__dlpack__(), pairs.__dlpack__()


def encodable(kind: Kind, rows: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the planes of each picture as NVENC takes them: NV12 or P010, chroma right after luma.

    NVENC is told where luma begins and how long a row is, and nothing else (FFmpeg, ``nvenc_register_frame``).

    Args:
        kind: 8 or 10 bits, 4:2:0, of even size.
        rows: Of ``kind``.
    """
    height, width = kind.size
    pitch = -(-width // _PITCH) * _PITCH
    done = []
    shift = 0 if kind.depth == 8 else 16 - kind.depth
    for y, u, v in zip(*kind.split(rows), strict=True):
        memory = torch.empty((height + height // 2, pitch), dtype=rows.dtype, device=rows.device)
        luma = memory[:height, :width]
        pairs = memory[height:, :width].unflatten(1, (width // 2, 2))
        for target, plane in ((luma, y), (pairs[..., 0], u), (pairs[..., 1], v)):
            target.copy_((plane.to(torch.int32) << shift) if shift else plane)
        done.append((luma, pairs[..., 0], pairs[..., 1]))
    return done
