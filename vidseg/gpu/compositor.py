"""GpuCompositor: what ``vidseg.Compositor`` does, with a frame that goes up to a GPU once and comes down once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from vidseg.backgrounds import (
    Background,
    BlurBackground,
    PictureBackground,
    TransparentBackground,
    VideoBackground,
)
from vidseg.color import black, network_affine, ycbcr_matrix
from vidseg.compositor import Compositor, grey
from vidseg.engine import Engine
from vidseg.errors import EngineError, VidsegError
from vidseg.frame import Frame, FullAlpha, Plane, Size
from vidseg.gpu import smoothing
from vidseg.gpu.blur import blur
from vidseg.gpu.codecs import encodable
from vidseg.gpu.compositing import blend, find_edges
from vidseg.gpu.cuts import is_cut
from vidseg.gpu.pictures import Kind, to_frame
from vidseg.gpu.refine import refine
from vidseg.gpu.resize import shrink
from vidseg.gpu.settling import ROUNDS, settle
from vidseg.light import HLG, PQ
from vidseg.pipeline import Timings
from vidseg.runtimes.cuda import reason_of, to_host
from vidseg.runtimes.replay import Replay
from vidseg.segmenter import Segmenter

log = logging.getLogger(__name__)

TIME_CONSTANT = 0.12
"""Seconds, those of ``vidseg.smoothing.Smoother``."""
_MANY_ROUNDS = 4096
"""Of the longest labyrinth."""
_KEPT = 16
"""Recordings that are kept: of one kind of frame and batch there are three."""

BATCH = 8
"""Consecutive frames of a file that are computed together."""
_FIXED = PictureBackground, VideoBackground
"""Backgrounds that do not look at the alpha: it need not come down for them."""
_NOBODY = np.zeros((0, 0), np.uint8)

State = tuple[Tensor, ...]


@runtime_checkable
class DeviceEngine(Protocol):
    """An ``Engine`` that takes tensors where they are: those of PyTorch and TensorRT are."""

    def infer_on_device(self, src: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Return alpha ``(N, h, w)`` for ``src`` ``(N, 3, h, w)``, and the state after it: float32, on the device."""
        ...


class _Behind(NamedTuple):
    """What is put behind the people of one batch.

    Attributes:
        rows: Of ``Kind``, for one frame or for all; None is nothing.
        how: ``rows``, ``blur`` or ``cutout``.
    """

    rows: Tensor | None
    how: str


class GpuCompositor:
    """Puts a background behind the people in consecutive frames of one stream, on a device of PyTorch.

    A ``Stage``, as ``Compositor`` is one, and it fails closed as that does: frames are returned only when all of a
    batch were computed and their alphas were numbers from 0 to 1.

    Args:
        background: As for ``Compositor``; it belongs to the caller.
        segmenter: Its engine has to be a ``DeviceEngine`` on ``device``; it belongs to the caller.
        device: ``cuda:0``, or ``cpu``, which computes the same on the tensors of a CPU, slowly.
        smooth: See ``Compositor``.
        decontaminate: See ``Compositor``.
        leave: Whether finished frames stay on the device, as an encoder takes them there; see ``codecs.encodable``.
        otherwise: Makes what goes on when the device fails; None raises.

    Raises:
        EngineError: The device does not work, or computes other pictures than a CPU does.
    """

    _apart = False

    def __init__(
        self,
        background: Background | None,
        segmenter: Segmenter,
        *,
        device: str | torch.device = "cuda",
        smooth: bool = True,
        decontaminate: bool = True,
        leave: bool = False,
        otherwise: Callable[[], Compositor] | None = None,
    ) -> None:
        self._background, self._segmenter = background, segmenter
        self._smooth, self._decontaminate, self._leave = smooth, decontaminate, leave
        self._otherwise = otherwise
        with _errors(str(device)):
            self._device = torch.empty(0, device=device).device
            # Not the default one: copies, decoders and other streams' frames go on beside it.
            self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._name = str(self._device)
        self._replays: dict[Hashable, Replay] = {}
        self._shown: tuple[Plane | None, Tensor | None] = None, None
        self._instead: Compositor | None = None
        self._notes: tuple[str, ...] = ()
        self.reset()

    @property
    def runtime(self) -> str:
        """What puts the frames together, for a person."""
        return "CPU" if self._instead is not None else self._name

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it, a sentence each."""
        return self._notes

    def __call__(self, frames: Sequence[Frame], timings: Timings | None = None) -> list[Frame]:
        """Return a new frame for each frame of one kind; they are not changed.

        Raises:
            ValueError: The frames differ in kind.
            EngineError: The device or the network failed, or gave numbers that are no alpha.
        """
        timings = timings or Timings()
        if not frames:
            return []
        if self._instead is None:
            try:
                with _errors(self._name), torch.inference_mode(), self._chosen():
                    return self._composed(frames, timings)
            except EngineError as error:
                self.reset()
                if self._otherwise is None:
                    raise
                log.warning("%s is not used any more: %s; the CPU goes on", self._name, error)
                self._notes = (f"From {frames[0].time:.2f} s on the CPU put the frames together: {error}",)
                self._release()
                self._instead = self._otherwise()
            except BaseException:
                self.reset()
                raise
        with _errors(self._name):  # frames that a decoder left on a device that is lost are lost with it
            frames = [to_frame(frame) for frame in frames]
        return self._instead(frames, timings)

    def steps(self, frames: Sequence[Frame]) -> Callable[[], None]:
        """Return what is done for one batch between upload and download, to be called often: for a benchmark."""
        kind = Kind.of(frames[0])
        self(frames)
        engine = self._segmenter.engine_for(kind.size)
        assert isinstance(engine, DeviceEngine)
        with torch.inference_mode(), self._chosen():
            rows = kind.upload(frames, self._device)
            clocks = torch.tensor([(1 / 30, 0.75, 0.0)] * len(frames), device=self._device)

        def call() -> None:
            if self._stream is not None:
                self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.inference_mode(), self._chosen():
                src, guide = self._seen(frames, kind, engine, rows)
                alpha, state = self._asked(engine, src, guide, frames)
                self._are_numbers(alpha, state)
                full, *_ = self._matted(ROUNDS, kind, rows, alpha, guide, clocks, *self._remembered(guide))
                behind = self._behind(frames, kind, full, Timings())
                self._blended(False, kind, behind, rows, full)
            if self._stream is not None:
                torch.cuda.current_stream(self._device).wait_stream(self._stream)

        return call

    def reset(self) -> None:
        """Forget the frames before: the next one is the first of another clip."""
        self._steadied: State = ()
        self._state: State = ()
        self._before: tuple[Size, float, Tensor | None] | None = None
        if self._instead is not None:
            self._instead.reset()

    def close(self) -> None:
        """Release the device's memory. May be called again."""
        self._release()
        if self._instead is not None:
            self._instead.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _release(self) -> None:
        self._replays.clear()
        self._shown = None, None
        self._steadied = self._state = ()
        self._before = None

    def _chosen(self) -> Any:
        """Return a context in which all is done on this stream, and CUDA's current device is this one."""
        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()

    # --- one batch ----------------------------------------------------------------------------------------------

    def _composed(self, frames: Sequence[Frame], timings: Timings) -> list[Frame]:
        kind = Kind.of(frames[0])
        if any(Kind.of(frame) != kind for frame in frames):
            raise ValueError(f"frames of one call are of one kind: {[Kind.of(frame) for frame in frames]}")
        engine = self._segmenter.engine_for(kind.size)
        if not isinstance(engine, DeviceEngine):
            raise EngineError(
                f"{engine.runtime} takes no pictures from {self._name}: ask for torch or tensorrt, or for --device cpu",
                runtime=engine.runtime,
            )
        with timings.measure("upload", len(frames)):
            rows = kind.upload(frames, self._device)
        # Nothing waits for the device up to the last step: what its parts take is told by benchmarks/gpu.py.
        with timings.measure("gpu", len(frames)):
            src, guide = self._seen(frames, kind, engine, rows)
            alpha, state = self._asked(engine, src, guide, frames)
            clocks = torch.tensor(self._clocks(frames), device=self._device)
            before = self._remembered(guide)
            full, *rest = self._matted(ROUNDS, kind, rows, alpha, guide, clocks, *before)
            fine = self._are_numbers(alpha, state)
            full = _lessened(full, frames)
        behind = self._behind(frames, kind, full, timings)
        with timings.measure("gpu", len(frames)):
            done, crowded = self._blended(False, kind, behind, rows, full)
            # Here it is waited for.
            verdict = to_host(torch.stack([fine.expand(len(frames)), rest[0], crowded]))
            if not verdict[0].all():
                raise EngineError(
                    f"{self._segmenter.model} on {engine.runtime} returned numbers outside 0 to 1; no frame was shown"
                )
            if not verdict[1].all():  # a labyrinth
                full, *rest = self._matted(_MANY_ROUNDS, kind, rows, alpha, guide, clocks, *before)
                full = _lessened(full, frames)
                behind = self._behind(frames, kind, full, timings)
                done, crowded = self._blended(False, kind, behind, rows, full)
                verdict[2] = to_host(crowded)
            if verdict[2].any():
                coarser, _ = self._blended(True, kind, behind, rows, full)
                done = torch.where(crowded[:, None], coarser.to(torch.int32), done.to(torch.int32)).to(done.dtype)
            if self._leave:
                planes: Sequence[Any] = encodable(kind, done)
                to_host(crowded)  # whoever reads them is on another stream
            else:
                planes = kind.download(done) if self._background is not None else []
            alphas = self._alphas(full) if behind.how == "cutout" else []
        self._steadied = tuple(part.clone() for part in rest[1:])
        self._state = state
        self._before = kind.size, frames[-1].time, guide[-1:].clone()
        if self._background is None:
            return [grey(frame, alpha) for frame, alpha in zip(frames, alphas, strict=True)]
        carried: Sequence[FullAlpha | None] = alphas or [None] * len(frames)
        return [
            replace(frame, planes=made, alpha=alpha) for frame, made, alpha in zip(frames, planes, carried, strict=True)
        ]

    def _replayed(self, key: Hashable, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> State:
        """Return what ``function`` returns, from a recording where there is one for tensors of these shapes."""
        key = key, tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if key not in self._replays:
            if len(self._replays) >= _KEPT:
                self._replays.pop(next(iter(self._replays)))
            self._replays[key] = Replay(function, *tensors)
        return self._replays[key](*tensors)

    def _seen(self, frames: Sequence[Frame], kind: Kind, engine: Engine, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's input ``(N, 3, h, w)``, and the luma of the small pictures as they are stored."""
        size = engine.size
        turns = self._segmenter.turns
        stored = (size[1], size[0]) if turns % 2 else size
        if kind.color.transfer in (PQ, HLG):
            # Light is converted by tables of the CPU, on the small picture.
            pictures, guides = self._segmenter.shown(engine, [to_frame(frame) for frame in frames])
            guide = torch.tensor(np.stack(guides), device=self._device).float()
            return torch.tensor(pictures, device=self._device), guide
        spec = self._segmenter.spec
        function = partial(_see, kind, stored, turns, spec.mean, spec.std)
        src, guide = self._replayed(("see", kind, size), function, rows)
        return src, guide

    def _asked(self, engine: DeviceEngine, src: Tensor, guide: Tensor, frames: Sequence[Frame]) -> tuple[Tensor, State]:
        """Return the alphas, and the state of a network that remembers: its frames go through it one by one."""
        if not self._segmenter.remembers:
            return engine.infer_on_device(src)
        alphas, state, before = [], self._state, self._before
        for index, frame in enumerate(frames):
            now = guide[index : index + 1]
            if before is None or before[0] != frame.size or frame.time < before[1] or before[2] is None:
                state = ()
            elif state:
                cut = is_cut(before[2], now)[:, None, None, None]
                state = tuple(torch.where(cut, 0, part) for part in state)
            alpha, state = engine.infer_on_device(src[index : index + 1], state)
            alphas.append(alpha)
            before = frame.size, frame.time, now
        return torch.cat(alphas), state

    def _clocks(self, frames: Sequence[Frame]) -> list[tuple[float, float, float]]:
        clocks = []
        before = self._before[1] if self._before is not None and self._before[0] == frames[0].size else None
        for frame in frames:
            clocks.append(smoothing.clock(None if before is None else frame.time - before, TIME_CONSTANT))
            before = frame.time
        return clocks

    def _are_numbers(self, alpha: Tensor, state: State) -> Tensor:
        """Return whether all alphas are from 0 to 1 and the state is finite, bool: a comparison with NaN is false."""
        fine = (alpha.amin() > -0.01) & (alpha.amax() < 1.01)
        for part in state:
            fine = fine & part.isfinite().all()
        return fine

    def _remembered(self, guide: Tensor) -> State:
        """Return what the smoothing knows of the frames before."""
        return self._steadied or smoothing.nothing(1, (guide.shape[1], guide.shape[2]), self._device)

    def _matted(self, rounds: int, kind: Kind, rows: Tensor, alpha: Tensor, guide: Tensor, *rest: Tensor) -> State:
        """Return full-size alpha, whether it is settled, and what is remembered: of the last frame, or of each."""
        function = partial(_matte, kind, rounds, self._segmenter.turns, self._smooth, self._apart)
        if rounds != ROUNDS:
            return function(rows, alpha, guide, *rest)
        return self._replayed(("matte", kind), function, rows, alpha, guide, *rest)

    def _behind(self, frames: Sequence[Frame], kind: Kind, full: Tensor, timings: Timings) -> _Behind:
        background = self._background
        if background is None or isinstance(background, TransparentBackground):
            return _Behind(None, "cutout")
        if isinstance(background, BlurBackground):
            return _Behind(None, "blur")
        with timings.measure("background", len(frames)):
            given = self._alphas(full) if not isinstance(background, _FIXED) else [_NOBODY] * len(frames)
            seen = [to_frame(frame) for frame in frames] if given[0] is not _NOBODY else frames
            pictures = [background.render(frame, alpha) for frame, alpha in zip(seen, given, strict=True)]
            luma = pictures[0].planes[0]
            if any(picture.planes[0] is not luma for picture in pictures):
                return _Behind(kind.upload(pictures, self._device), "rows")
            if self._shown[0] is not luma or self._shown[1] is None:
                self._shown = luma, kind.upload(pictures[:1], self._device)
        return _Behind(self._shown[1], "rows")

    def _blended(self, coarser: bool, kind: Kind, behind: _Behind, rows: Tensor, full: Tensor) -> tuple[Tensor, Tensor]:
        """Return the finished rows, and which frames are to be blended again, with coarser edges."""
        radius = self._background.radius if isinstance(self._background, BlurBackground) else 0.0
        function = partial(_compose, kind, behind.how, radius, self._decontaminate, coarser)
        given = (rows, full) if behind.rows is None else (rows, full, behind.rows)
        if coarser:
            done, crowded = function(*given)
        else:
            done, crowded = self._replayed(("compose", kind, behind.how), function, *given)
        return done, crowded

    def _alphas(self, full: Tensor) -> list[FullAlpha]:
        return list(to_host(full.to(torch.uint8)).numpy())


# --- what is recorded -----------------------------------------------------------------------------------------------


def _see(kind: Kind, size: Size, turns: int, mean: tuple[float, ...], std: tuple[float, ...], rows: Tensor) -> State:
    """Return the network's input, and the luma of the small pictures in 8 bits, float32 of whole numbers."""
    small = torch.stack([shrink(plane, size) for plane in kind.split(rows)], 1)
    matrix, offset, low, high = _affine(kind, mean, std, rows.device)
    src = torch.einsum("ij,njhw->nihw", matrix, small) + offset
    src = torch.minimum(torch.maximum(src, low), high)
    return src.rot90(turns, (2, 3)).contiguous(), (small[:, 0] / 2 ** (kind.depth - 8)).floor_()


@lru_cache(maxsize=16)
def _affine(kind: Kind, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> State:
    """Return ``color.network_affine`` on the device, ``(3, 3)`` and three of ``(3, 1, 1)``."""
    matrix, *rest = (torch.tensor(part, device=device) for part in network_affine(kind.color, kind.depth, mean, std))
    return (matrix, *(part[:, None, None] for part in rest))


def _matte(
    kind: Kind,
    rounds: int,
    turns: int,
    smooth: bool,
    apart: bool,
    rows: Tensor,
    alpha: Tensor,
    guide: Tensor,
    clocks: Tensor,
    *before: Tensor,
) -> State:
    """Return full-size alpha ``(N, H, W)``, whether it is settled ``(N,)``, and what is remembered.

    With ``apart`` each frame is of another stream, and is steadied by what is remembered of that; otherwise each by the
    one before it.
    """
    settled, final = settle(alpha.clamp(0, 1).rot90(-turns, (1, 2)).contiguous(), rounds)
    steadied = smoothing.Steadied(*before)
    if smooth:
        shown = []
        for part in [slice(None)] if apart else [slice(index, index + 1) for index in range(len(alpha))]:
            steadied = smoothing.steady(settled[part], guide[part], steadied, clocks[part])
            shown.append(steadied.alpha)
        settled = torch.cat(shown)
    return (refine(settled, kind.split(rows)[0], guide, kind.depth), final, *steadied)


def _compose(
    kind: Kind,
    how: str,
    radius: float,
    decontaminate: bool,
    coarser: bool,
    rows: Tensor,
    full: Tensor,
    behind: Tensor | None = None,
) -> State:
    """Return finished rows, and which frames have more soft edges than ``coarser`` False is for ``(N,)``."""
    front, edges = kind.split(rows), find_edges(full, coarser)
    out = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    back = None if behind is None else kind.split(behind)
    if how == "blur" and radius:
        matrix, offset = ycbcr_matrix(kind.color, kind.depth)
        a, b, c = (float(sample) for sample in matrix @ np.full(3, 0.5) + offset)
        back = blur(front, full, radius, (a, b, c), kind.depth)
    elif how == "blur":
        back = front
    blend(
        front,
        back,
        full,
        edges,
        depth=kind.depth,
        empty=black(kind.color, kind.depth),
        decontaminate=decontaminate,
        out=kind.split(out),
    )
    return out, edges.crowded


def _lessened(full: Tensor, frames: Sequence[Frame]) -> Tensor:
    """Return ``full`` without what the frames had cut away already."""
    given = [frame.alpha for frame in frames]
    if all(alpha is None for alpha in given):
        return full
    kept = np.stack(
        [np.full(frame.size, 255, np.uint8) if a is None else a for frame, a in zip(frames, given, strict=True)]
    )
    return ((full * torch.tensor(kept, device=full.device) + 127) / 255).floor_()


@contextmanager
def _errors(device: str) -> Iterator[None]:
    try:
        yield
    except (VidsegError, ValueError):
        raise
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch that was built without CUDA
        raise EngineError(f"{device} failed: {reason_of(error)}", runtime=device) from error
