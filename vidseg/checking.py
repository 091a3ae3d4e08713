"""Checking a model: whether it works on the clip that vidseg carries, what it sees there, and how fast it is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vidseg.contracts import IMAGENET
from vidseg.engine import Engine, ModelSpec, State, open_engine
from vidseg.foreign import Foreign, normalisation, spec_of
from vidseg.frame import Size
from vidseg.resize import shrink
from vidseg.verifying import sample_frames, seen_by

NORMALISATIONS: dict[str, dict[str, list[float]]] = {
    "0 to 1": {"range": [0, 1]},
    "-1 to 1": {"range": [-1, 1]},
    "0 to 255": {"range": [0, 255]},
    "ImageNet's mean and std": IMAGENET,
}
"""As a manifest says them: almost all networks were trained with one of these."""
_FRAMES = 4
_SECONDS, _FEWEST, _MOST = 1.0, 3, 400
"""For how long the speed is measured, and in how many pictures."""
_COMPARED: Size = (96, 128)
"""Height and width at which alphas are compared."""
_UNLIKE, _CLEARLY = 0.6, 0.01
"""Agreement below which a model does not see what ``unet-s`` sees, and by how much another normalisation must do better
to be named. On the clip MediaPipe's and RobustVideoMatting's networks reach .97 and .98, with numbers from 0 to 255
.23 and .05; another mean, or twice the range, costs them .001, and unet-s .014."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found of a model.

    Attributes:
        spec: The model, with what was found out by pictures.
        size: ``(h, w)`` at which it was run.
        runtime: What it ran on.
        share: Of the clip's pixels that it takes for people.
        agreement: Intersection over union of that with what ``unet-s`` takes for people.
        milliseconds: A picture, alone.
        beside: Milliseconds that ``unet-s`` took in turns with it.
        tried: The agreement by normalisation, where nothing says which is the model's.
    """

    spec: ModelSpec
    size: Size
    runtime: str
    share: float
    agreement: float
    milliseconds: float
    beside: float
    tried: dict[str, float]

    @property
    def better(self) -> str:
        """Name of a normalisation that agrees clearly better than the one that is used; empty if none does."""
        best = max(self.tried, key=lambda name: self.tried[name], default="")
        return best if best and self.tried[best] > self.agreement + _CLEARLY else ""

    @property
    def advice(self) -> str:
        """What seems to be wrong, in a sentence; empty if nothing does."""
        if self.better:
            return f"numbers from {self.better} suit it better: say so in a manifest"
        if self.agreement < _UNLIKE:
            return (
                "it does not see the person that unet-s sees: look at how its authors prepare a picture (range, mean, "
                "std, order) and which of its outputs is the alpha, and say so in a manifest"
            )
        return ""


def check(model: ModelSpec | Foreign, runtime: str = "auto", clock: Callable[[], float] = time.perf_counter) -> Report:
    """Run a model on frames of the clip that vidseg carries, in turns with ``unet-s``.

    Args:
        model: The model.
        runtime: As in ``open_engine``.
        clock: Seconds.

    Raises:
        EngineError: It does not work here.
        MissingDependencyError: The runtime is not installed.
        ValueError: It tells classes apart, and ``person`` is not one of them.
    """
    frames = sample_frames(_FRAMES)
    spec = (spec_of(model) if isinstance(model, Foreign) else model).keeping()
    with ExitStack() as stack:
        engine = stack.enter_context(closing(open_engine(spec, runtime, spec.size_for(frames[0].size))))
        ours = stack.enter_context(closing(open_engine("unet-s")))
        src, known = seen_by(engine.spec, engine.size, frames), seen_by(ours.spec, ours.size, frames)
        people, found = _people(ours, known), _people(engine, src)
        tried = {}
        if isinstance(model, Foreign) and model.contract is None and not model.told.keys() & {"range", "mean", "std"}:
            for name, told in NORMALISATIONS.items():
                mean, std = normalisation(told)
                seen = seen_by(replace(engine.spec, mean=mean, std=std), engine.size, frames)
                tried[name] = _agreement(_people(engine, seen), people)
        took, beside = _side_by_side((engine, src[:1]), (ours, known[:1]), clock)
        return Report(
            spec=engine.spec,
            size=engine.size,
            runtime=engine.runtime,
            share=float(found.mean()),
            agreement=_agreement(found, people),
            milliseconds=took,
            beside=beside,
            tried=tried,
        )


def _people(engine: Engine, src: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return where people are in each picture, seen alone, ``(N, h, w)`` of ``_COMPARED``."""
    return np.stack([shrink(engine.infer(picture[None])[0][0], _COMPARED) > 0.5 for picture in src])


def _agreement(found: npt.NDArray[np.bool_], people: npt.NDArray[np.bool_]) -> float:
    return float((found & people).sum() / max((found | people).sum(), 1))


def _side_by_side(
    one: tuple[Engine, npt.NDArray[np.float32]],
    other: tuple[Engine, npt.NDArray[np.float32]],
    clock: Callable[[], float],
) -> tuple[float, float]:
    """Return the median milliseconds of both, who go on with their own state, in turns."""
    took: tuple[list[float], list[float]] = ([], [])
    states: list[State] = [(), ()]
    began = clock()
    while len(took[0]) < _FEWEST or (clock() - began < _SECONDS and len(took[0]) < _MOST):
        for which, (engine, src) in enumerate((one, other)):
            before = clock()
            _, states[which] = engine.infer(src, states[which])
            took[which].append(1000 * (clock() - before))
    return statistics.median(took[0]), statistics.median(took[1])
