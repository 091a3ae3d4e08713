"""Parity: how far the alpha of one runtime may be from that of another, in one table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vidseg.engine import Engine
from vidseg.frame import Alpha

TOLERANCE: dict[tuple[str, str], tuple[float, float]] = {
    ("torch", "fp32"): (5e-3, 1e-4),  # a GPU rounds to TF32
    ("torch", "fp16"): (0.05, 2e-3),  # ONNX Runtime on a CPU: 0.003, 0.0001; a GPU was not measured yet
    ("torch", "bf16"): (0.15, 0.01),
    ("onnxruntime", "fp32"): (2e-3, 1e-5),
    ("onnxruntime", "int8"): (0.45, 0.015),
    ("openvino", "fp32"): (2e-3, 1e-5),
    ("openvino", "bf16"): (0.15, 0.01),
    ("openvino", "int8"): (0.45, 0.015),
    ("tensorrt", "fp32"): (5e-3, 1e-4),
    ("tensorrt", "fp16"): (0.05, 2e-3),
    # Its graph under ONNX Runtime: 0.51, 0.012, half the steps of the others. Sums are exact, so a GPU adds roundings.
    ("tensorrt", "int8"): (0.6, 0.015),
}
"""By runtime and precision: largest and mean difference of alpha from PyTorch in float32, at the network's size."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far apart two alphas of the same pictures are; NaN where one holds what is no number."""

    largest: float
    mean: float

    def within(self, tolerance: tuple[float, float]) -> bool:
        """Whether both are at most ``tolerance``; what is no number never is."""
        return self.largest <= tolerance[0] and self.mean <= tolerance[1]

    def __str__(self) -> str:
        """Say it in the steps of 8 bits that it will be seen in."""
        return f"largest difference {255 * self.largest:.1f} of 255, mean {255 * self.mean:.2f}"


def compare(alpha: Alpha, reference: Alpha) -> Parity:
    """Return how far ``alpha`` is from ``reference``, both ``(N, h, w)``.

    Raises:
        ValueError: They differ in shape.
    """
    if alpha.shape != reference.shape:
        raise ValueError(f"alphas of different shapes cannot be compared: {alpha.shape} and {reference.shape}")
    difference = np.abs(alpha.astype(np.float32) - reference)
    return Parity(float(difference.max()), float(difference.mean()))


def tolerance_of(engine: Engine) -> tuple[float, float]:
    """Return how far ``engine`` may be from the reference, by what its ``runtime`` says; the widest if that is new."""
    words = engine.runtime.split()
    known = TOLERANCE.get((words[0], words[1]) if len(words) > 1 else ("", ""))
    return known or max(TOLERANCE.values())
