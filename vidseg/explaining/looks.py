"""The same picture looked at several ways: how sure a model is of each pixel, and how far it agrees with itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.engine import Engine, ModelSpec, Precision, State, load_spec, open_engine
from vidseg.errors import EngineError
from vidseg.frame import Alpha, Size

Rgb = npt.NDArray[np.uint8]
Planes = npt.NDArray[np.float32]


class Look(NamedTuple):
    """One way to look at a picture.

    Attributes:
        scale: Of the network's own size.
        mirrored: Left and right are swapped.
        shift: Down and to the right, as shares of height and width.
    """

    scale: float = 1.0
    mirrored: bool = False
    shift: tuple[float, float] = (0.0, 0.0)


LOOKS = (
    Look(),
    Look(mirrored=True),
    Look(scale=0.75),
    Look(scale=1.5),
    # No multiples of the networks' strides, or they would see the same.
    Look(shift=(0.032, 0.0)),
    Look(shift=(-0.032, 0.0)),
    Look(shift=(0.0, 0.028)),
    Look(shift=(0.0, -0.028)),
)
UNCERTAIN = 0.5
"""A pixel is uncertain where ``Opinion.uncertainty`` is more than this."""


class Opinion(NamedTuple):
    """What a model makes of a picture, looked at several ways; all maps are float32 ``(h, w)`` in [0, 1].

    Attributes:
        alpha: Mean over the looks.
        disagreement: Twice the standard deviation over the looks; 1 where half of them say person and half room.
        entropy: Of the mean, binary, in bits; 1 at an alpha of 0.5.
        first: Alpha of the plain look.
    """

    alpha: Alpha
    disagreement: Alpha
    entropy: Alpha
    first: Alpha

    @property
    def confidence(self) -> Alpha:
        """How far the alpha is from undecided: 0 at 0.5, 1 at 0 and at 1."""
        return np.abs(2 * self.alpha - 1)

    @property
    def uncertainty(self) -> Alpha:
        """The larger of disagreement and entropy: unsure in one look, or not the same in all."""
        return np.maximum(self.disagreement, self.entropy)


class Onlooker:
    """Shows upright pictures to a model, each by itself. Opens an engine for each input size. Not thread-safe.

    A recurrent model sees every picture as the first of a clip.

    Args:
        model: Name of a shipped model, a folder with a ``manifest.toml``, or an ONNX file.
        runtime: ``auto``, or one by name; see ``open_engine``.
        threads: For the network; None chooses.
        keep: Of a model that tells classes apart, those that stay; none is ``person``.
        precision: None chooses.

    Raises:
        EngineError: There is no such model.
        ValueError: It does not know what to ``keep``.
    """

    def __init__(
        self,
        model: str | Path = "unet-s",
        runtime: str = "auto",
        threads: int | None = None,
        keep: Sequence[str] = (),
        precision: Precision | None = None,
    ) -> None:
        self._spec = load_spec(model).keeping(keep)
        self._runtime, self._threads, self._precision = runtime, threads, precision
        self._engines: dict[Size, Engine] = {}

    @property
    def spec(self) -> ModelSpec:
        """The model."""
        return self._spec

    @property
    def runtime(self) -> str:
        """What computes, for a person; empty before the first picture."""
        return next((engine.runtime for engine in self._engines.values()), "")

    def own_size(self, rgb: Rgb) -> Size:
        """Return the input size for a picture ``(h, w, 3)``."""
        return self._spec.size_for(rgb.shape[:2])

    def input(self, rgb: Rgb, size: Size) -> Planes:
        """Return a picture as the network's input ``(3, h, w)``."""
        how = cv2.INTER_AREA if rgb.shape[0] >= size[0] else cv2.INTER_LINEAR
        small = cv2.resize(rgb, size[::-1], interpolation=how).astype(np.float32) / 255
        mean, std = (np.array(values, np.float32) for values in (self._spec.mean, self._spec.std))
        return np.ascontiguousarray(((small - mean) / std).transpose(2, 0, 1), np.float32)

    def alphas(self, src: Planes) -> Planes:
        """Return the alphas ``(N, h, w)`` of inputs ``(N, 3, h, w)``, each the first of a clip.

        Raises:
            EngineError: The engine failed, or gave numbers that are no alpha.
        """
        return self.go_on(src)[0]

    def go_on(self, src: Planes, state: State = ()) -> tuple[Planes, State]:
        """Return the alphas of inputs that follow those after which ``state`` was returned, and the state after them.

        Raises:
            EngineError: The engine failed, or gave numbers that are no alpha.
        """
        size = src.shape[2], src.shape[3]
        if size not in self._engines:
            engine = open_engine(self._spec, self._runtime, size, self._threads, self._precision)
            # What was found out of a foreign file need not be found out again.
            self._spec = replace(self._spec, wiring=engine.spec.wiring)
            self._engines[size] = engine
        alphas, state = self._engines[size].infer(src, state)
        if not (alphas.min() > -0.01 and alphas.max() < 1.01):  # false for what is not a number
            raise EngineError(f"{self._spec.name} on {self.runtime} returned numbers outside 0 to 1")
        return np.clip(alphas, 0, 1), state

    def opinion(self, rgb: Rgb, looks: Sequence[Look] = LOOKS) -> Opinion:
        """Return what the model makes of an upright picture, uint8 ``(h, w, 3)``; the first look is the plain one."""
        own = self.own_size(rgb)
        scaled = {self._scaled(own, look.scale) for look in looks}
        seen: list[Alpha] = [np.empty(0, np.float32)] * len(looks)
        for size in sorted(scaled):
            src = self.input(rgb, size)
            chosen = [at for at, look in enumerate(looks) if self._scaled(own, look.scale) == size]
            alphas = self.alphas(np.stack([_shown(src, looks[at]) for at in chosen]))
            for at, alpha in zip(chosen, alphas, strict=True):
                back = _shown_back(alpha, looks[at])
                seen[at] = back if size == own else np.asarray(cv2.resize(back, own[::-1]), np.float32)
        for at, look in enumerate(looks):
            _fill_unseen(seen[at], seen[0], look)
        stack = np.stack(seen)
        mean = stack.mean(0)
        return Opinion(mean, np.minimum(2 * stack.std(0), 1), entropy(mean), seen[0])

    def _scaled(self, own: Size, scale: float) -> Size:
        step = self._spec.multiple
        if not self._spec.resizable or scale == 1:
            return own
        return max(round(own[0] * scale / step), 1) * step, max(round(own[1] * scale / step), 1) * step

    def close(self) -> None:
        """Release the engines. May be called again."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()


def entropy(alpha: Alpha) -> Alpha:
    """Return the entropy of a choice with the chances ``alpha`` and ``1 - alpha``, in bits."""
    p = np.clip(alpha, 1e-6, 1 - 1e-6)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)), np.float32)


def _steps(size: tuple[int, ...], look: Look) -> Size:
    return round(look.shift[0] * size[-2]), round(look.shift[1] * size[-1])


def _shown(src: Planes, look: Look) -> Planes:
    src = _moved(src, _steps(src.shape, look))
    return np.ascontiguousarray(src[..., ::-1]) if look.mirrored else src


def _shown_back(alpha: Alpha, look: Look) -> Alpha:
    alpha = alpha[..., ::-1] if look.mirrored else alpha
    down, right = _steps(alpha.shape, look)
    return _moved(np.ascontiguousarray(alpha), (-down, -right))


def _moved(image: Planes, steps: Size) -> Planes:
    """Return ``(…, h, w)`` moved down and to the right; its edges are repeated."""
    if steps == (0, 0):
        return image
    (height, width), (down, right) = image.shape[-2:], steps
    rows, columns = np.clip(np.arange(height) - down, 0, height - 1), np.clip(np.arange(width) - right, 0, width - 1)
    return np.ascontiguousarray(image[..., rows, :][..., columns])


def _fill_unseen(alpha: Alpha, first: Alpha, look: Look) -> None:
    """Put the plain look where a shift pushed the picture out of view: there is nothing to disagree on."""
    down, right = _steps(alpha.shape, look)
    for axis, steps in ((0, down), (1, right)):
        if steps:
            strip = slice(-steps, None) if steps > 0 else slice(None, -steps)
            place = (strip,) if axis == 0 else (slice(None), strip)
            alpha[place] = first[place]
