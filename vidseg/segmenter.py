"""Segmenter: pictures in, alphas out. Shrinks, converts, turns upright, and asks the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import numpy as np
import numpy.typing as npt

from vidseg.batching import Opener
from vidseg.color import network_affine
from vidseg.convert import INTERVAL, Layout, alpha_alike, to_frame
from vidseg.cuts import is_cut
from vidseg.engine import Engine, ModelSpec, Precision, State, load_spec, open_engine
from vidseg.errors import EngineError
from vidseg.frame import Alpha, Color, Frame, FullAlpha, Plane, Size
from vidseg.kernels import to_network
from vidseg.light import HLG, PQ, convert_light
from vidseg.refine import refine
from vidseg.resize import shrink, shrink_planes
from vidseg.settling import settle
from vidseg.smoothing import Smoother

Planes = tuple[Plane, Plane, Plane]
SCALES = (0.75, 1.0, 1.5)
"""For stills."""


class Matte(NamedTuple):
    """What the network saw and said, at its own size and in the frame's stored orientation.

    Attributes:
        alpha: float32 ``(h, w)`` in [0, 1].
        guide: uint8 ``(h, w)``, the luma of the small picture.
    """

    alpha: Alpha
    guide: npt.NDArray[np.uint8]


class Segmenter:
    """Finds the people in pictures. Opens an engine for each input size it needs, and keeps it. Not thread-safe.

    ::

        with vidseg.Segmenter() as segmenter:
            for picture in pictures:
                alpha = segmenter(picture)

    One picture gives its alpha at full size, steadied in time; several frames give what the network said of each, small
    (``Matte``), for whoever does the rest. Use one segmenter for each stream: it remembers the pictures before, and a
    recurrent model what it saw in them, until ``reset``, a scene cut, another size or one that is older than the last.

    Args:
        model: Name of a shipped model, a folder with a ``manifest.toml``, or an ONNX file.
        runtime: ``auto``, or one by name; see ``open_engine``.
        threads: For the network; None chooses.
        precision: None chooses.
        rotation: As in ``StreamInfo``: the network must see people upright.
        sample_aspect: Width of a sample over its height.
        size: Of the frames to come: opens their engine now instead of at the first frame.
        scales: Look at each frame in these multiples of the network's own size and take the mean: for stills, where
            time matters less than the group at the far end of the picture. ``SCALES`` measured best.
        keep: Of a model that tells classes apart, those that stay; none is ``person``.
        stream: Whether the pictures follow one another in time. Unrelated ones do not, and each is seen alone.
        engine: Use this one for frames of any shape, instead of opening any. It is closed with the segmenter.
        opener: Opens engines instead of ``open_engine``: ``SharedEngines.opener`` gives those of other streams.

    Raises:
        EngineError: The model or runtime does not work.
        MissingDependencyError: The runtime that was asked for is not installed.
        ValueError: ``rotation`` is not a multiple of 90, or the model does not know what to ``keep``.
    """

    def __init__(
        self,
        model: str | Path = "unet-s",
        runtime: str = "auto",
        *,
        threads: int | None = None,
        precision: Precision | None = None,
        rotation: int = 0,
        sample_aspect: Fraction = Fraction(1),
        size: Size | None = None,
        scales: Sequence[float] = (1.0,),
        keep: Sequence[str] = (),
        stream: bool = True,
        engine: Engine | None = None,
        opener: Opener | None = None,
    ) -> None:
        if rotation % 90:
            raise ValueError(f"a picture can be turned by multiples of 90 degrees: {rotation = }")
        self._runtime, self._threads, self._precision = runtime, threads, precision
        self._turns = rotation // 90 % 4
        self._sample_aspect = float(sample_aspect)
        self._scales = sorted(scales)
        self._fixed, self._open = engine, opener
        self._spec: ModelSpec = load_spec(model).keeping(keep) if engine is None else engine.spec
        self._remembers = stream and bool(self._spec.states)
        self._smoother = Smoother() if stream else None
        self._time = 0.0
        self._states: dict[Size, State] = {}
        self._before: tuple[Size, float, npt.NDArray[np.uint8]] | None = None
        self._engines: dict[Size, Engine] = {} if engine is None else {engine.size: engine}
        if size is not None:
            self._engines_for(size)

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._spec.name

    @property
    def runtime(self) -> str:
        """What computes, for a person: ``openvino int8 (CPU)``; empty before the first engine is open."""
        return next((engine.runtime for engine in self._engines.values()), "")

    @property
    def batch(self) -> int:
        """How many frames a call should get where latency does not matter."""
        return 1 if self._remembers else 2

    @property
    def spec(self) -> ModelSpec:
        """The model."""
        return self._spec

    @property
    def remembers(self) -> bool:
        """Whether frames go through the network one by one, with what it saw before."""
        return self._remembers

    @property
    def turns(self) -> int:
        """Quarter turns counter-clockwise from a stored picture to what the network sees."""
        return self._turns

    def engine_for(self, size: Size) -> Engine:
        """Return what computes frames of ``size``, opened if it is not open; it belongs to this.

        Raises:
            EngineError: The model does not work at that size.
        """
        return self._engine(size, 1.0)

    def reset(self) -> None:
        """Forget the frames before: the next one is the first of another clip."""
        self._states.clear()
        self._before = None
        if self._smoother is not None:
            self._smoother.reset()

    @overload
    def __call__(self, pictures: Sequence[Frame]) -> list[Matte]: ...

    @overload
    def __call__(self, pictures: Any, *, layout: Layout = "rgb", time: float | None = None) -> Any: ...

    def __call__(self, pictures: Any, *, layout: Layout = "rgb", time: float | None = None) -> Any:
        """Return the alpha of a picture, or the matte of each frame of a sequence.

        Args:
            pictures: A ``Frame``, ``av.VideoFrame``, NumPy array or PyTorch tensor, see ``vidseg.convert.to_frame``; or
                a list or tuple of ``Frame`` of one size, which are seen with one call of the engine for each scale.
            layout: Of an array or tensor: ``rgb``, ``bgr``, ``i420`` or ``nv12``.
            time: Of a picture that does not know it, in seconds; None is a thirtieth after the one before.

        Returns:
            ``(height, width)``, 1 where a person is. Of a tensor it is a tensor, with the same type of numbers: 1 is
            255 in uint8, which is also what a ``Frame`` and an ``av.VideoFrame`` get, 65535 in uint16, 1.0 in floats.

        Raises:
            TypeError: It is no picture.
            ValueError: Its shape or numbers are those of no picture, or the frames differ in size.
            EngineError: The engine failed, or gave numbers that are no alpha.
        """
        if isinstance(pictures, list | tuple):
            return self._mattes(pictures)
        frame = to_frame(pictures, layout, self._time + INTERVAL if time is None else time)
        self._time = frame.time
        [matte] = self._mattes([frame])
        alpha = settle(matte.alpha)
        if self._smoother is not None:
            alpha = self._smoother(alpha, matte.guide, frame.time)
        return alpha_alike(upsample(Matte(alpha, matte.guide), frame), pictures)

    def _mattes(self, frames: Sequence[Frame]) -> list[Matte]:
        if not frames:
            return []
        if any(frame.size != frames[0].size for frame in frames):
            raise ValueError(f"frames of one call have one size: {[frame.size for frame in frames]}")
        if not self._remembers:
            return self._look(frames)
        return [matte for frame in frames for matte in self._look([frame])]

    def shrink(self, frame: Frame) -> Planes:
        """Return the three planes of ``frame`` at the size of its network, for a look before ``look``."""
        return shrink_planes(frame, self._stored(self._engine(frame.size, 1.0)))

    def look(self, frame: Frame, planes: Planes, scale: float = 1.0) -> Alpha:
        """Return the alpha of one frame whose planes were shrunk already, at their size.

        Args:
            frame: Tells the time and the colours.
            planes: What ``shrink`` gave for it.
            scale: Of the network's own size at which it looks; see ``prepare``.

        Raises:
            EngineError: The engine failed, or gave numbers that are no alpha.
        """
        engine = self._engine(frame.size, scale)
        size, seen = planes[0].shape, self._stored(engine)
        if self._remembers:
            self._forget(frame, _eight_bit(planes[0], frame.depth))
            self._states = {key: state for key, state in self._states.items() if key == engine.size}
        small = planes if seen == size else tuple(shrink(plane, seen) for plane in planes)  # type: ignore[type-var]
        src = np.rot90(self._normalised(small, frame), self._turns, (1, 2))[None]  # type: ignore[arg-type]
        alpha: Alpha = self._asked(engine, np.ascontiguousarray(src))[0]
        return alpha if seen == size else shrink(alpha, (size[0], size[1]))

    def prepare(self, size: Size, scale: float = 1.0) -> None:
        """Open the engine for frames of ``size`` at ``scale`` of the network's own size, if it is not open.

        Another thread may do this while frames go through an engine that is open.

        Raises:
            EngineError: The model does not work at that size.
        """
        self._engine(size, scale)

    def _look(self, frames: Sequence[Frame]) -> list[Matte]:
        *coarser, finest = self._engines_for(frames[0].size)
        shown, guides = self.shown(finest, frames)
        if self._remembers:
            self._forget(frames[0], guides[0])
        alphas = self._asked(finest, shown)
        if coarser:
            size = alphas.shape[1:]
            others = [self._asked(engine, self.shown(engine, frames)[0]) for engine in coarser]
            alphas = np.stack(
                [
                    np.mean([alpha, *(shrink(a, size) for a in rest)], axis=0, dtype=np.float32)
                    for alpha, *rest in zip(alphas, *others, strict=True)
                ]
            )
        return [Matte(alpha, guide) for alpha, guide in zip(alphas, guides, strict=True)]

    def _forget(self, frame: Frame, guide: npt.NDArray[np.uint8]) -> None:
        """Drop the state if ``frame`` does not go on where the last one ended."""
        before, self._before = self._before, (frame.size, frame.time, guide)
        if before is not None and (frame.size != before[0] or frame.time < before[1] or is_cut(before[2], guide)):
            self._states.clear()

    def shown(
        self, engine: Engine, frames: Sequence[Frame]
    ) -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.uint8]]]:
        """Return the engine's input and the luma of each frame at its size."""
        src = np.empty((len(frames), 3, *engine.size), np.float32)
        stored = self._stored(engine)
        guides = []
        for frame, picture in zip(frames, src, strict=True):
            planes = shrink_planes(frame, stored)
            picture[...] = np.rot90(self._normalised(planes, frame), self._turns, (1, 2))
            guides.append(_eight_bit(planes[0], frame.depth))
        return src, guides

    def _asked(self, engine: Engine, src: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the engine's alphas ``(N, h, w)``, as the frames are stored, if they are fit to be used."""
        # A state that a failing call leaves behind is gone with it.
        alphas, state = engine.infer(src, self._states.pop(engine.size, ()))
        if alphas.shape != (len(src), *engine.size):
            raise EngineError(f"{self.model} on {engine.runtime} returned an alpha of another size: {alphas.shape}")
        # A comparison with NaN is false: nothing that is not a number can pass.
        if not (alphas.min() > -0.01 and alphas.max() < 1.01 and all(np.isfinite(part).all() for part in state)):
            raise EngineError(f"{self.model} on {engine.runtime} returned numbers outside 0 to 1; no frame was shown")
        if self._remembers:
            self._states[engine.size] = state
        np.clip(alphas, 0, 1, out=alphas)
        return np.ascontiguousarray(np.rot90(alphas, -self._turns, (1, 2)))

    def close(self) -> None:
        """Release the engines. May be called again."""
        for engine in self._engines.values():
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stored(self, engine: Engine) -> Size:
        """Return the size of what ``engine`` looks at, as the frames are stored."""
        height, width = engine.size
        return (width, height) if self._turns % 2 else (height, width)

    def _engines_for(self, size: Size) -> list[Engine]:
        """Return an engine for each scale, coarsest first."""
        if not self._spec.resizable or self._fixed is not None:
            return [self._engine(size, 1.0)]
        return [self._engine(size, scale) for scale in self._scales]

    def _engine(self, size: Size, scale: float) -> Engine:
        """Return the engine for frames of ``size``, opened if it is not open."""
        if self._fixed is not None:
            return self._fixed
        height, width = size[0], size[1] * self._sample_aspect
        wanted = self._spec.size_for((height, width) if self._turns % 2 == 0 else (width, height))
        if self._spec.resizable and scale != 1:
            step = self._spec.multiple
            wanted = round(wanted[0] * scale / step) * step, round(wanted[1] * scale / step) * step
        if wanted not in self._engines:
            engine = (self._open or open_engine)(self._spec, self._runtime, wanted, self._threads, self._precision)
            # What was found out of a foreign file need not be found out again.
            self._spec = replace(self._spec, wiring=engine.spec.wiring)
            self._engines[wanted] = engine
        return self._engines[wanted]

    def _normalised(self, planes: Planes, frame: Frame) -> npt.NDArray[np.float32]:
        """Return the network's input ``(3, h, w)`` for small planes of equal size."""
        mean, std = self._spec.mean, self._spec.std
        if frame.color.transfer not in (PQ, HLG):
            return to_network(*planes, *network_affine(frame.color, frame.depth, mean, std))
        # The network knows SDR only. What it would make of PQ's flat greys is anybody's guess.
        rgb = to_network(*planes, *network_affine(frame.color, frame.depth, (0, 0, 0), (1 / 65535,) * 3))
        sdr = convert_light(rgb.transpose(1, 2, 0).round().astype(np.uint16), frame.color, Color()) / 65535
        return ((sdr - mean) / std).transpose(2, 0, 1).astype(np.float32)


def upsample(matte: Matte, frame: Frame) -> FullAlpha:
    """Return the alpha of ``frame`` at its size, led by its luma; what a picture had cut away already stays away."""
    full = refine(matte.alpha, frame, matte.guide)
    if frame.alpha is None:
        return full
    return ((full.astype(np.uint16) * frame.alpha + 127) // 255).astype(np.uint8)


def _eight_bit(luma: Plane, depth: int) -> npt.NDArray[np.uint8]:
    return (luma >> (depth - 8)).astype(np.uint8)
