"""What is found out about one picture: maps over it, and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vidseg.explaining.evidence import Mask, Method
from vidseg.explaining.looks import UNCERTAIN, Opinion
from vidseg.frame import Alpha, FullAlpha


class Evidence(NamedTuple):
    """Which pixels a decision hangs on.

    Attributes:
        values: ``(h, w)``: by how much the alpha of the target falls without them, or of Grad-CAM 0 to 1.
        target: What was asked about, for a person: ``the person``.
        pixels: The same as a mask ``(h, w)``.
        method: How it was found out.
        time: Of the picture it was found in, seconds.
    """

    values: Alpha
    target: str
    pixels: Mask
    method: Method
    time: float = 0.0

    @property
    def strongest(self) -> tuple[float, float]:
        """Where it is strongest: x and y as shares of width and height."""
        y, x = np.unravel_index(int(self.values.argmax()), self.values.shape)
        return float((x + 0.5) / self.values.shape[1]), float((y + 0.5) / self.values.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """One picture, explained.

    Attributes:
        rgb: The picture upright, uint8 ``(h, w, 3)``.
        opinion: What the model makes of it.
        evidence: What that hangs on.
        written: The alpha that vidseg writes for it, uint8 of any size.
        time: In the clip, seconds.
    """

    rgb: npt.NDArray[np.uint8]
    opinion: Opinion
    evidence: Evidence
    written: FullAlpha
    time: float = 0.0

    @property
    def maps(self) -> dict[str, Alpha]:
        """Each map by name; in [0, 1], ``evidence`` in [-1, 1] with its strongest place at 1 or -1."""
        values = self.evidence.values
        return {
            "confidence": self.opinion.confidence,
            "uncertainty": self.opinion.uncertainty,
            "disagreement": self.opinion.disagreement,
            "entropy": self.opinion.entropy,
            "evidence": values / max(float(np.abs(values).max()), 1e-6),
        }

    @property
    def numbers(self) -> dict[str, float]:
        """Shares of the picture and the like.

        ``time``: seconds. ``person``: of the written alpha above one half. ``uncertain``: of the uncertainty above
        ``UNCERTAIN``.
        ``disagreement``, ``entropy``: means. ``strongest``: the largest value of the evidence; by occlusion how much
        alpha is lost. ``strongest_x``, ``strongest_y``: where.
        """
        x, y = self.evidence.strongest
        return {
            "time": self.time,
            "person": float((self.written > 127).mean()),
            "uncertain": float((self.opinion.uncertainty > UNCERTAIN).mean()),
            "disagreement": float(self.opinion.disagreement.mean()),
            "entropy": float(self.opinion.entropy.mean()),
            "strongest": float(self.evidence.values.max()),
            "strongest_x": x,
            "strongest_y": y,
        }

    def caption(self, name: str) -> str:
        """Return what a map shows, with its number."""
        numbers = self.numbers
        if name == "confidence":
            return f"confidence, mean {self.opinion.confidence.mean():.2f}"
        if name == "uncertainty":
            return f"uncertainty, {100 * numbers['uncertain']:.1f} % of the picture uncertain"
        if name == "disagreement":
            return f"disagreement between looks, mean {numbers['disagreement']:.3f}"
        if name == "entropy":
            return f"entropy of the alpha, mean {numbers['entropy']:.3f} bit"
        # Of a video, the search is made now and then only.
        when = f", as of {self.evidence.time:.1f} s" if self.evidence.time != self.time else ""
        if self.evidence.method == "gradcam":
            return f"Grad-CAM of {self.evidence.target}{when}"
        return f"{self.evidence.target} hangs on this, at most {numbers['strongest']:.3f} of alpha{when}"
