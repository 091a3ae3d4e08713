"""Uploads: the frames of a source on a GPU before their turn comes, while it computes those before them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from vidseg.frame import Frame, StreamInfo
from vidseg.gpu.pictures import Kind, Lifted
from vidseg.runtimes.cuda import reason_of
from vidseg.sources import Source

log = logging.getLogger(__name__)


class Lift:
    """Takes frames up to a device, on a stream of its own; each keeps its planes on the host, too. For one thread.

    The copy is over when a call returns: what waits for it is the thread that decodes, never the one that computes.

    Args:
        device: ``cuda:0``, or ``cpu``, where a copy is a copy.
    """

    def __init__(self, device: str | torch.device) -> None:
        self._device: torch.device | None = torch.empty(0, device=device).device
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    def __call__(self, frame: Frame) -> Frame:
        """Return ``frame`` with its planes on the device, or as it is if it is there already or there is no room."""
        if self._device is None or isinstance(frame.planes[0], Tensor):
            return frame
        kind = Kind.of(frame)
        try:
            with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
                rows = kind.upload([frame], self._device)
                if self._stream is not None:
                    self._stream.synchronize()
        except RuntimeError as error:  # whoever computes will say it, or do without
            log.info("frames are not taken up in advance any more: %s", reason_of(error))
            self._device = None
            return frame
        return replace(frame, planes=Lifted((plane[0] for plane in kind.split(rows)), frame.planes))


class Uploads:
    """A ``Source`` whose frames lie on a device.

    Args:
        source: Belongs to the caller, who may close this instead.
        device: See ``Lift``.
    """

    def __init__(self, source: Source, device: str | torch.device) -> None:
        self._source, self._lift = source, Lift(device)

    @property
    def info(self) -> StreamInfo:
        """What the stream promises."""
        return self._source.info

    @property
    def corrupt(self) -> int:
        """How many packets or frames could not be decoded so far."""
        return self._source.corrupt

    @property
    def truncated(self) -> bool:
        """Whether the stream ended before it said it would."""
        return self._source.truncated

    @property
    def notes(self) -> tuple[str, ...]:
        """What was repaired, scaled or guessed, a sentence each."""
        return self._source.notes

    def __iter__(self) -> Iterator[Frame]:
        return map(self._lift, self._source)

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
