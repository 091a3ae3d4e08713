"""How pictures lie on a device, and their way there and back: one copy each way for a whole batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor

from vidseg.frame import Color, Frame, Plane, Size, chroma_size
from vidseg.gpu.compositing import Planes
from vidseg.runtimes.cuda import to_host


class Kind(NamedTuple):
    """What frames of one batch have in common. In a row of numbers their planes lie back to back."""

    size: Size
    depth: int
    subsampled: bool
    color: Color

    @staticmethod
    def of(frame: Frame) -> Kind:
        """Return the kind of ``frame``."""
        return Kind(frame.size, frame.depth, frame.subsampled, frame.color)

    @property
    def length(self) -> int:
        """Numbers in a row."""
        return sum(height * width for height, width in self._sizes)

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers."""
        return torch.uint8 if self.depth == 8 else torch.uint16

    def split(self, rows: Tensor) -> Planes:
        """Return the planes ``(N, h, w)`` in ``rows`` ``(N, length)``: views."""
        y, u, v = (
            part.unflatten(1, size)
            for part, size in zip(rows.split([h * w for h, w in self._sizes], 1), self._sizes, strict=True)
        )
        return y, u, v

    def empty(self, pictures: int, device: torch.device, *, staging: bool = False) -> Tensor:
        """Return rows for so many pictures; for ``staging``, in the host's memory that a GPU copies from by itself."""
        if not staging:
            return torch.empty((pictures, self.length), dtype=self.dtype, device=device)
        return torch.empty((pictures, self.length), dtype=self.dtype, pin_memory=device.type == "cuda")

    def upload(self, frames: Sequence[Frame], device: torch.device) -> Tensor:
        """Return rows on ``device``, good on its current stream.

        The planes of the frames may be tensors of it already, good on its default stream: from ``Uploads`` and NVDEC.
        """
        if any(isinstance(frame.planes[0], Tensor) for frame in frames):
            rows = self.empty(len(frames), device)
            if rows.is_cuda:
                torch.cuda.current_stream(device).wait_stream(torch.cuda.default_stream(device))
            for number, frame in enumerate(frames):
                if not isinstance(frame.planes[0], Tensor):  # there was no room for it
                    rows[number] = self.upload([frame], device)[0]
                    continue
                for target, plane in zip(self.split(rows), frame.planes, strict=True):
                    target[number].copy_(cast(Any, plane))
            return rows
        staging = self.empty(len(frames), device, staging=True)
        for index, plane in enumerate(self.split(staging)):
            target = plane.numpy()
            for number, frame in enumerate(frames):
                target[number] = frame.planes[index]
        return staging.to(device, non_blocking=True)

    def download(self, rows: Tensor) -> list[tuple[Plane, Plane, Plane]]:
        """Return the planes of each picture, back to back in memory of their own; waits until they are computed."""
        planes = [plane.numpy() for plane in self.split(to_host(rows))]
        return [(planes[0][number], planes[1][number], planes[2][number]) for number in range(len(rows))]

    @property
    def _sizes(self) -> tuple[Size, Size, Size]:
        chroma = chroma_size(self.size, self.subsampled)
        return self.size, chroma, chroma


class Lifted(tuple[Any, Any, Any]):
    """The planes of a frame as tensors of a device, and ``host``, what they were copied from."""

    host: tuple[Plane, Plane, Plane]

    def __new__(cls, planes: Iterable[Tensor], host: tuple[Plane, Plane, Plane]) -> Self:
        """Return them together."""
        self = super().__new__(cls, planes)
        self.host = host
        return self


def to_frame(frame: Frame) -> Frame:
    """Return ``frame`` with its planes in the host's memory, where everything else expects them."""
    if isinstance(frame.planes, Lifted):
        return replace(frame, planes=frame.planes.host)
    if not isinstance(frame.planes[0], Tensor):
        return frame
    if cast(Tensor, frame.planes[0]).is_cuda:
        device = cast(Tensor, frame.planes[0]).device
        torch.cuda.current_stream(device).wait_stream(torch.cuda.default_stream(device))
    y, u, v = (to_host(cast(Any, plane).contiguous()).numpy() for plane in frame.planes)
    return replace(frame, planes=(y, u, v))
