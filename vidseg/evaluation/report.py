"""What an evaluation found: rows by set and model, as tables for people and as values for programs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vidseg.evaluation.cases import CaseSet, Rgb
from vidseg.frame import FullAlpha

COLUMNS = {
    "iou": ("IoU", 3),
    "boundary_f": ("boundary F", 3),
    "f1": ("F1", 3),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "accuracy": ("accuracy", 3),
    "mad": ("MAD", 1),
    "mse": ("MSE", 1),
    "grad": ("Grad", 2),
    "conn": ("Conn", 2),
    "dtssd": ("dtSSD", 2),
    "flicker": ("flicker", 2),
    "seen": ("somebody seen", 3),
    "mean": ("mean alpha", 2),
}
"""Title and decimals of each measure, in the order of a table."""
LEGEND = (
    "Means over pictures; of a clip first over its frames. Masks at 0.5. Boundary F within 0.8 % of the diagonal. MAD, "
    "MSE and flicker (the change of alpha where neither picture nor truth change) x 1000, dtSSD x 100, Grad and Conn / "
    "1000, as RobustVideoMatting measures. Somebody seen: share of pictures with over 0.5 % of the pixels taken for a "
    "person; mean alpha x 1000. ms: median for a frame, made small and through the network, beside whatever else ran; "
    "stills are looked at three times."
)
WRITTEN, RAW = "as written", "raw"


class Worst(NamedTuple):
    """A case in which a model is far off.

    Attributes:
        set: Name of the set.
        model: Name of the model.
        case: Name of the case; of a clip with its worst frame.
        score: MAD there.
        rgb: uint8 ``(h, w, 3)``.
        truth: uint8 ``(h, w)``.
        alpha: uint8 ``(h, w)``.
    """

    set: str
    model: str
    case: str
    score: float
    rgb: Rgb
    truth: FullAlpha
    alpha: FullAlpha


@dataclass(frozen=True, slots=True)
class Row:
    """One model on one set.

    Attributes:
        set: Name of the set.
        model: Name of the model.
        path: ``as written`` (the alpha that vidseg writes) or ``raw`` (the network's own, resized).
        runtime: What computed: ``openvino int8 (CPU)``.
        cases: Pictures or clips.
        frames: Of all cases.
        milliseconds: For a frame; see ``LEGEND``.
        measures: By the names of ``COLUMNS``, those that the set has.
        by_case: Each case's own measures.
    """

    set: str
    model: str
    path: str
    runtime: str
    cases: int
    frames: int
    milliseconds: float
    measures: dict[str, float]
    by_case: dict[str, dict[str, float]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found.

    Attributes:
        sets: What was judged on.
        rows: One for each set and model.
        worst: The worst cases of each row, worst first.
    """

    sets: tuple[CaseSet, ...]
    rows: tuple[Row, ...]
    worst: tuple[Worst, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, object]:
        """Return everything but the pictures, for JSON; what is not a number is None."""
        return {
            "sets": [
                {"name": s.name, "cases": len(s.cases), "clips": s.moving, "people": s.people, "note": s.note}
                for s in self.sets
            ],
            "rows": [
                {
                    "set": row.set,
                    "model": row.model,
                    "path": row.path,
                    "runtime": row.runtime,
                    "cases": row.cases,
                    "frames": row.frames,
                    "ms": row.milliseconds,
                    **_plain(row.measures),
                    "by_case": {name: _plain(values) for name, values in row.by_case.items()},
                }
                for row in self.rows
            ],
        }

    def as_markdown(self) -> str:
        """Return one table for each set, with a row for each model, and what the numbers mean."""
        lines = []
        for cases in self.sets:
            rows = [row for row in self.rows if row.set == cases.name]
            names = [name for name in COLUMNS if any(name in row.measures for row in rows)]
            count = f"{len(cases.cases)} {'clips' if cases.moving else 'pictures'}"
            lines += [f"**{cases.name}**: {count}. {cases.note}".rstrip(), ""]
            titles = ["model", "alpha", *(COLUMNS[name][0] for name in names), "ms", "runtime"]
            lines += [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
            for row in rows:
                cells = [_cell(row.measures.get(name, math.nan), COLUMNS[name][1]) for name in names]
                lines.append(
                    f"| {row.model} | {row.path} | {' | '.join(cells)} | {row.milliseconds:.1f} | {row.runtime} |"
                )
            lines.append("")
        return "\n".join([*lines, LEGEND, ""])


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 6) for name, value in values.items()}


def _cell(value: float, decimals: int) -> str:
    return "" if math.isnan(value) else f"{value:.{decimals}f}"


def mean_measures(cases: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each measure over the cases that have it."""
    names = [name for name in COLUMNS if any(name in case for case in cases)]
    known = {name: [case[name] for case in cases if name in case] for name in names}
    return {name: float(np.mean(values)) for name, values in known.items()}
