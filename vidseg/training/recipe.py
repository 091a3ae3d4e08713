"""Recipes: all that a training run is, apart from its pictures, in one TOML file."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vidseg.errors import SourceError
from vidseg.frame import Size

ALPHA_LOSSES = ("bce", "l1", "mse", "dice", "laplacian", "temporal", "boundary")
CLASS_LOSSES = ("ce", "dice", "boundary")
OPTIMIZERS = ("adamw", "adam", "sgd")
ALPHA_LOSS = "bce=1,l1=1,dice=0.5,boundary=3"
CLASS_LOSS = "ce=1,dice=0.5,boundary=1"


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one picture area: progressive resizing, small and fast first.

    Attributes:
        sizes: ``(h, w)``; each batch has one of them.
        steps: How many batches.
        batch: Clips in each, on each GPU.
        peak: A new cosine starts here, from this learning rate; None goes on with the one before.
        final: The cosine ends at this share of the peak.
        frames: Frames of a clip; 1 is stills.
        pasted: Share of composites whose people are put into a picture that has people already.
    """

    sizes: tuple[Size, ...]
    steps: int
    batch: int
    peak: float | None = None
    final: float = 0.005
    frames: int = 1
    pasted: float = 0.0


PHASES = (
    Phase(((64, 128), (96, 96), (96, 128), (128, 96), (64, 96), (96, 64)), 4000, 48, peak=3e-3),
    Phase(((96, 160), (96, 160), (160, 96), (128, 128), (128, 160)), 3600, 32),
    Phase(((160, 256), (160, 256), (256, 160), (192, 224), (192, 192)), 2400, 24),
    Phase(((160, 256), (160, 256), (256, 160), (192, 224), (192, 192)), 1400, 24, peak=1e-3, pasted=0.5),
)
WARM_UP = 300


def learning_rate(step: int, phases: Sequence[Phase] = PHASES, warm_up: int = WARM_UP) -> float:
    """Warm-up, then half a cosine; with warm restarts (Loshchilov & Hutter 2017, arXiv:1608.03983).

    A cycle that is shorter than four warm-ups warms up for a quarter of its steps.
    """
    cycles: list[tuple[float, float, int]] = []
    for phase in phases:
        if phase.peak is not None:
            cycles.append((phase.peak, phase.final, phase.steps))
        else:
            cycles[-1] = *cycles[-1][:2], cycles[-1][2] + phase.steps
    while step >= cycles[0][2] and len(cycles) > 1:
        step -= cycles.pop(0)[2]
    peak, final, steps = cycles[0]
    warm_up = min(warm_up, steps // 4)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = min((step - warm_up) / max(steps - warm_up, 1), 1.0)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


def parse_loss(text: str, several: bool = False) -> dict[str, float]:
    """Read ``bce=1,l1=1,dice=0.5,boundary=3``; a name alone has the weight 1.

    Args:
        text: Names and weights.
        several: Whether the network tells classes apart.

    Raises:
        ValueError: A name is not that of a loss, a weight is no number, or nothing would be punished.
    """
    known = CLASS_LOSSES if several else ALPHA_LOSSES
    terms: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in known:
            raise ValueError(
                f"a loss for {'classes' if several else 'an alpha'} is one of {', '.join(known)}: {name!r}"
            )
        try:
            terms[name] = float(number or 1)
        except ValueError:
            raise ValueError(f"the weight of a loss is a number: {part.strip()!r}") from None
        if not 0 <= terms[name] < math.inf:
            raise ValueError(f"the weight of a loss is not negative: {part.strip()!r}")
    if not any(share for name, share in terms.items() if name not in ("boundary", "temporal")):
        raise ValueError(f"nothing of a still would be punished: {text!r}")
    return terms


@dataclass(frozen=True)
class Recipe:
    """What a run does.

    Attributes:
        architecture: See ``vidseg.networks.build``; without ``outputs``, which follow from the classes.
        phases: One after another; the first has a peak.
        classes: Names of what the network tells apart, in the order of their numbers; empty for an alpha.
        loss: See ``parse_loss``.
        optimizer: ``adamw``, ``adam`` or ``sgd`` (Nesterov momentum 0.9).
        weight_decay: On matrices only: shrinking a BatchNorm's scale regularises nothing.
        warm_up: Steps at the start of each cosine.
        ema: The averaged weights keep this share of themselves at each step.
        clip: Longest gradient.
        amp: Whether convolutions compute in 16 bits: bfloat16, or float16 with a scaled loss on GPUs without it.
        seed: Of the network's first weights and of all samples.
        validate_every: Steps between validations, checkpoints and pictures.
        patience: It ends after this many validations without a better score; 0: never.
        augmentation: What the samples are made with; see ``vidseg.training.samples``.
        shares: How often a set is drawn; see ``vidseg.training.bank``.
    """

    architecture: dict[str, Any]
    phases: tuple[Phase, ...] = PHASES
    classes: tuple[str, ...] = ()
    loss: str = ALPHA_LOSS
    optimizer: str = "adamw"
    weight_decay: float = 0.02
    warm_up: int = WARM_UP
    ema: float = 0.998
    clip: float = 2.0
    amp: bool = True
    seed: int = 7
    validate_every: int = 400
    patience: int = 0
    augmentation: dict[str, Any] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.phases or self.phases[0].peak is None:
            raise ValueError("the first phase needs a peak: a learning rate to start from")
        for phase in self.phases:
            if min(phase.steps, phase.batch, phase.frames, len(phase.sizes)) < 1:
                raise ValueError(f"a phase has at least one size, step, clip and frame: {phase}")
            if phase.peak is not None and not 0 < phase.peak < math.inf:
                raise ValueError(f"a learning rate is above 0: {phase.peak = }")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"the optimizer is one of {', '.join(OPTIMIZERS)}: {self.optimizer!r}")
        if len(self.classes) == 1 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes are two or more different names: {', '.join(self.classes)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is from 0 to below 1: {self.ema = }")
        if self.validate_every < 1:
            raise ValueError(f"validate_every is at least 1: {self.validate_every = }")
        parse_loss(self.loss, bool(self.classes))

    @property
    def steps(self) -> int:
        """Batches in all."""
        return sum(phase.steps for phase in self.phases)

    @property
    def network(self) -> dict[str, Any]:
        """The architecture with as many outputs as there are classes."""
        return self.architecture | ({"outputs": len(self.classes)} if self.classes else {})

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return learning_rate(step, self.phases, self.warm_up)

    def scaled(
        self,
        steps: int | None = None,
        batch: int | None = None,
        size: Size | None = None,
        rate: float | None = None,
    ) -> Recipe:
        """Return the recipe with other numbers in its phases.

        Args:
            steps: In all; each phase keeps its share, and at least one.
            batch: Of every phase.
            size: The only one.
            rate: The highest peak; the others keep their ratio to it.
        """
        peaks = [phase.peak for phase in self.phases if phase.peak is not None]
        ends = [0]
        for phase in self.phases:
            ends.append(ends[-1] + phase.steps)
        if steps is not None:
            if steps < len(self.phases):
                raise ValueError(f"{len(self.phases)} phases have at least as many steps: {steps = }")
            last = len(self.phases)
            scaled = [round(end * steps / ends[-1]) for end in ends]
            for i in range(1, last):
                scaled[i] = min(max(scaled[i], scaled[i - 1] + 1), steps - (last - i))
            ends = scaled
        return replace(
            self,
            phases=tuple(
                replace(
                    phase,
                    steps=ends[i + 1] - ends[i],
                    batch=phase.batch if batch is None else batch,
                    sizes=phase.sizes if size is None else (size,),
                    peak=phase.peak if rate is None or phase.peak is None else phase.peak * rate / max(peaks),
                )
                for i, phase in enumerate(self.phases)
            ),
        )


# --- files ------------------------------------------------------------------------------------------------------


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        SourceError: The file cannot be read or is not a recipe.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
        return recipe_of(values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{path} is not a recipe of a training run: {reason}", url=str(path)) from error


def recipe_of(values: dict[str, Any]) -> Recipe:
    """Return the recipe of what a TOML file holds.

    Raises:
        ValueError, TypeError, KeyError: It is not a recipe.
    """
    values = dict(values)
    phases = []
    for row in values.pop("phases"):
        if unknown := set(row) - {f.name for f in fields(Phase)}:
            raise ValueError(f"a phase has no {', '.join(sorted(unknown))}")
        sizes = tuple((int(height), int(width)) for height, width in row["sizes"])
        phases.append(Phase(**(row | {"sizes": sizes})))
    if unknown := set(values) - {f.name for f in fields(Recipe)}:
        raise ValueError(f"a recipe has no {', '.join(sorted(unknown))}")
    if "classes" in values:
        values["classes"] = tuple(values["classes"])
    return Recipe(phases=tuple(phases), **values)


def as_toml(recipe: Recipe) -> str:
    """Return the text of a recipe's file."""
    values = asdict(recipe)
    phases, tables = values.pop("phases"), {}
    lines = ["# A training run of vidseg: vidseg train --recipe FILE --data DIR"]
    for key, value in values.items():
        if isinstance(value, dict):
            tables[key] = value
        elif value not in ((), []):
            lines.append(f"{key} = {_toml(value)}")
    for key, table in tables.items():
        if table:
            lines += ["", f"[{key}]", *(f"{json.dumps(k)} = {_toml(v)}" for k, v in table.items())]
    for phase in phases:
        lines += ["", "[[phases]]", *(f"{k} = {_toml(v)}" for k, v in phase.items() if v is not None)]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}"
    # What JSON writes of strings, booleans and numbers is TOML too; but it does not write 1e-05 as TOML wants it.
    return repr(value) if isinstance(value, float) else json.dumps(value)
