"""Logs of a run: ``log.csv``, TensorBoard's files, and pictures to look at."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vidseg.errors import EngineError

Array = npt.NDArray[np.uint8]
_TRAINING = ("step", "loss", "learning_rate", "pictures_per_second")
_COLOURS = ("#1f6fb4", "#d1495b", "#2e8b57", "#e09f3e", "#7d5ba6", "#00798c", "#8d6e63", "#546e7a")


class Logs:
    """The logs of one run.

    Args:
        out: Its folder. What is logged there of steps after ``step`` was never taken, or is taken again.
        step: Where the run begins or goes on.
        note: Takes sentences for a person.
    """

    def __init__(self, out: Path, step: int, note: Callable[[str], None]) -> None:
        self._out = out
        self._rows = [row for row in _read(out / "log.csv") if row["step"] <= step] if step else []
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            note("TensorBoard's files are not written: pip install tensorboard")
        else:
            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    def add(self, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Take the loss of a step and its terms; they are read only by ``write``, which a GPU then waits for."""
        for name, value in {"loss": loss, **terms}.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def write(self, step: int, learning_rate: float, pictures: float) -> float:
        """Write the means since the last call and return that of the loss.

        Raises:
            EngineError: The loss is not a number any more.
        """
        means = {name: float(value) / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        if not math.isfinite(means["loss"]):
            raise EngineError(f"the loss is not a number any more at step {step}: go on (--resume) with a lower --lr")
        self._row(step, means | {"learning_rate": learning_rate, "pictures_per_second": pictures})
        return means["loss"]

    def measured(self, step: int, measures: Mapping[str, float], predictions: Path | None) -> None:
        """Write what a validation has found, and draw the curves anew."""
        self._row(step, {f"val/{name}": value for name, value in measures.items()})
        draw_curves(self._out / "curves.png", self._rows)
        if self._board is not None:
            if predictions is not None and predictions.exists():
                self._board.add_image("predictions", np.asarray(Image.open(predictions)), step, dataformats="HWC")
            self._board.flush()

    def close(self) -> None:
        """Close what is open."""
        if self._board is not None:
            self._board.close()

    def _row(self, step: int, values: Mapping[str, float]) -> None:
        if not self._rows or self._rows[-1]["step"] != step:
            self._rows.append({"step": step})
        self._rows[-1].update(values)
        names = dict.fromkeys([*_TRAINING, *(name for row in self._rows for name in row)])
        unfinished = self._out / "log.csv.tmp"
        with open(unfinished, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(names))
            writer.writeheader()
            for row in self._rows:
                writer.writerow({k: f"{v:.0f}" if k == "step" else f"{v:.6g}" for k, v in row.items()})
        unfinished.replace(self._out / "log.csv")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name if name.startswith("val/") else f"train/{name}", value, step)


def _read(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


# --- pictures ---------------------------------------------------------------------------------------------------


def draw_curves(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Draw the loss with its terms, and below what the validations have found, over the steps."""
    scale, width, height = 2, 960, 340
    names = [name for row in rows for name in row if name not in _TRAINING[2:]]
    losses = [name for name in dict.fromkeys(names) if name != "step" and not name.startswith("val/")]
    measures = [name for name in dict.fromkeys(names) if name.startswith("val/")]
    # Shares from 0 to 1 in one panel, what counts in thousandths in another.
    high = {name for name in measures if max(row.get(name, 0) for row in rows) > 1}
    panels = [
        (title, chosen, log)
        for title, chosen, log in (
            ("loss and its terms", losses, True),
            ("validation", [name for name in measures if name not in high], False),
            ("validation, other scales", [name for name in measures if name in high], False),
        )
        if chosen
    ]
    image = Image.new("RGB", (scale * width, scale * height * len(panels)), "white")
    draw = ImageDraw.Draw(image)
    for index, (title, chosen, log) in enumerate(panels):
        box = (scale * 64, scale * (index * height + 34), scale * (width - 170), scale * ((index + 1) * height - 34))
        _panel(draw, box, title, {name: _series(rows, name) for name in chosen}, log, scale)
    unfinished = path.with_suffix(".tmp.png")
    image.resize((width, height * len(panels)), Image.Resampling.LANCZOS).save(unfinished)
    unfinished.replace(path)


def _series(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in rows if name in row]


def _panel(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    title: str,
    curves: Mapping[str, list[tuple[float, float]]],
    log: bool,
    scale: int,
) -> None:
    left, top, right, bottom = box
    font = ImageFont.load_default(12 * scale)
    values = [value for curve in curves.values() for _, value in curve]
    if log:
        floor = max(max(values) * 1e-3, 1e-6)  # a term that has come to nothing does not flatten the others
        values = [max(value, floor) for value in values]
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5 * abs(low) - 1e-3, high + 0.5 * abs(high) + 1e-3
    if log:
        low, high = low / 1.1, high * 1.1
    else:
        low, high = (low if low == 0 else low - 0.05 * (high - low)), high + 0.05 * (high - low)
    last = max(step for curve in curves.values() for step, _ in curve)

    def height(value: float) -> float:
        if log:
            value = max(value, floor)
            share = math.log(value / low) / math.log(high / low) if low > 0 else 0.0
        else:
            share = (value - low) / (high - low)
        return bottom - (bottom - top) * share

    if log and low <= 0:
        low = floor
    draw.text((left, top - 24 * scale), title, "#222222", font)
    for tick in _log_ticks(low, high) if log else _ticks(low, high):
        y = height(tick)
        draw.line((left, y, right, y), "#e4e4e4", scale)
        draw.text((left - 6 * scale, y), f"{tick:g}", "#666666", font, anchor="rm")
    for tick in _ticks(0, last):
        x = left + (right - left) * tick / last
        draw.line((x, bottom, x, bottom + 4 * scale), "#888888", scale)
        draw.text((x, bottom + 6 * scale), f"{tick:g}", "#666666", font, anchor="ma")
    draw.rectangle(box, outline="#888888", width=scale)
    for index, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        points = [(left + (right - left) * step / last, height(value)) for step, value in curve]
        if len(points) > 1:
            draw.line(points, colour, 2 * scale, joint="curve")
        x, y = points[-1]
        draw.ellipse((x - 3 * scale, y - 3 * scale, x + 3 * scale, y + 3 * scale), colour)
        row = top + index * 17 * scale
        draw.line((right + 12 * scale, row + 8 * scale, right + 26 * scale, row + 8 * scale), colour, 3 * scale)
        text = f"{name.removeprefix('val/')} {curve[-1][1]:.3g}"
        draw.text((right + 32 * scale, row), text, "#222222", font)


def _ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return round numbers between ``low`` and ``high``."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high > 10 * low else (1, 2, 3, 4, 5, 7)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return [float(f"{tick:.1g}") for tick in ticks if low <= tick <= high]


def draw_predictions(path: Path, rows: Sequence[tuple[str, Array, Array, Array]], columns: int = 2) -> None:
    """Draw a grid: title, picture, truth and what the network says, all ``(h, w, 3)``, of one row beside the other."""
    height = 144
    font = ImageFont.load_default(12)
    tiles = []
    for title, *images in rows:
        shown = [_fitted(image, height, height * 16 // 9) for image in images]
        tile = Image.fromarray(np.vstack([np.full((18, 3 * shown[0].shape[1], 3), 255, np.uint8), np.hstack(shown)]))
        ImageDraw.Draw(tile).text((3, 2), title, "#222222", font)
        tiles.append(np.asarray(tile))
    while len(tiles) % columns:
        tiles.append(np.full_like(tiles[0], 255))
    gap = np.full((tiles[0].shape[0], 8, 3), 255, np.uint8)
    lines = []
    for first in range(0, len(tiles), columns):
        line = [part for tile in tiles[first : first + columns] for part in (tile, gap)]
        lines.append(np.hstack(line[:-1]))
    unfinished = path.with_suffix(".tmp.png")
    Image.fromarray(np.vstack(lines)).save(unfinished)
    unfinished.replace(path)


def _fitted(image: Array, height: int, width: int) -> Array:
    """Return ``image`` whole in a grey field of this size."""
    scale = min(height / image.shape[0], width / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, size, interpolation=method)
    field = np.full((height, width, 3), 90, np.uint8)
    y, x = (height - size[1]) // 2, (width - size[0]) // 2
    field[y : y + size[1], x : x + size[0]] = small
    return field
