"""GpuStreams: one frame of each of several streams at a time, up to a GPU, through one batch and down again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vidseg.frame import Frame, Size
from vidseg.gpu import smoothing
from vidseg.gpu.compositor import TIME_CONSTANT, DeviceEngine, GpuCompositor, State
from vidseg.gpu.cuts import is_cut
from vidseg.pipeline import Timings


class _Memory(NamedTuple):
    """What is known of one stream after its last frame."""

    size: Size
    time: float
    steadied: State
    guide: Tensor
    state: State


class GpuStreams(GpuCompositor):
    """Composites frames of many streams that have nothing to do with one another but network, size and background.

    The arguments are those of ``GpuCompositor``. What a stream remembers is its own, and is gone after a call that
    failed. Not thread-safe: a ``Batcher`` calls it.
    """

    _apart = True
    _now: list[_Memory | None]

    def compose(self, shots: Sequence[tuple[Hashable, Frame]], timings: Timings | None = None) -> list[Frame]:
        """Return a new frame for each of ``shots``, ``(stream, frame)``; of a stream there is one at most.

        Raises:
            ValueError: The frames differ in kind, or two are of one stream.
            EngineError: The device or the network failed, or gave numbers that are no alpha.
        """
        streams, frames = [stream for stream, _ in shots], [frame for _, frame in shots]
        if len(set(streams)) != len(streams):
            raise ValueError(f"of a stream there is one frame in a call: {streams = }")
        # Recordings are for batches of 1, 2, 4 and 8: what is missing is filled with a frame that nobody gets.
        filled = (1 << (len(frames) - 1).bit_length()) - len(frames) if frames else 0
        frames += [frames[-1]] * filled
        memories = [self._memories.pop(stream, None) for stream in streams] + [None] * filled
        size = frames[0].size if frames else None
        self._now = [
            None if memory is None or memory.size != size or frame.time < memory.time else memory
            for memory, frame in zip(memories, frames, strict=True)
        ]
        try:
            done = super().__call__(frames, timings)[: len(streams)]
            for index, (stream, frame) in enumerate(zip(streams, frames, strict=False)):
                one = slice(index, index + 1)
                self._memories[stream] = _Memory(
                    frame.size,
                    frame.time,
                    tuple(part[one] for part in self._steadied),
                    self._guide[one],
                    tuple(part[one] for part in self._state),
                )
            return done
        finally:
            self.reset()

    def forget(self, stream: Hashable) -> None:
        """Its next frame is the first of another picture, or there is none."""
        self._memories.pop(stream, None)

    def reset(self) -> None:
        """Forget what was under way. What streams remember stays."""
        super().reset()
        self._memories: dict[Hashable, _Memory] = getattr(self, "_memories", {})
        self._now = []
        self._guide = torch.empty(0)

    def close(self) -> None:
        """Release the device's memory. May be called again."""
        self._memories.clear()
        super().close()

    def _asked(self, engine: DeviceEngine, src: Tensor, guide: Tensor, frames: Sequence[Frame]) -> tuple[Tensor, State]:
        """Return the alphas, and the states of a network that remembers."""
        self._guide = guide.clone() if self._segmenter.remembers else guide
        known = [memory for memory in self._now if memory is not None]
        if not self._segmenter.remembers or not known:
            return engine.infer_on_device(src)
        states = []
        for index, memory in enumerate(self._now):
            if memory is None:
                states.append(tuple(torch.zeros_like(part) for part in known[0].state))
                continue
            cut = is_cut(memory.guide, guide[index : index + 1])[:, None, None, None]
            states.append(tuple(torch.where(cut, 0, part) for part in memory.state))
        return engine.infer_on_device(src, tuple(torch.cat(parts) for parts in zip(*states, strict=True)))

    def _clocks(self, frames: Sequence[Frame]) -> list[tuple[float, float, float]]:
        return [
            smoothing.clock(None if memory is None else frame.time - memory.time, TIME_CONSTANT)
            for frame, memory in zip(frames, self._now, strict=True)
        ]

    def _remembered(self, guide: Tensor) -> State:
        """Return what the smoothing knows of each stream."""
        nothing = smoothing.nothing(1, (guide.shape[1], guide.shape[2]), guide.device)
        before = zip(*(nothing if memory is None else memory.steadied for memory in self._now), strict=True)
        return tuple(torch.cat(parts) for parts in before)
