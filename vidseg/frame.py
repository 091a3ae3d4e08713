"""Frame, StreamInfo and Color: the currency between sources, engines and sinks. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""One plane of a picture, ``(h, w)``; uint16 carries 9 to 16 bits in its low bits. Rows may be padded."""
Alpha = npt.NDArray[np.float32]
"""``(h, w)`` in [0, 1] at a network's size; 1 is foreground."""
FullAlpha = npt.NDArray[np.uint8]
"""``(H, W)`` at a frame's size; 255 is foreground."""
Size = tuple[int, int]
"""``(height, width)``, as in NumPy."""
Matrix = Literal["bt601", "bt709", "bt2020", "rgb"]


@dataclass(frozen=True, slots=True)
class Color:
    """How the numbers in the planes mean light (ITU-T H.273).

    Attributes:
        matrix: Y'CbCr coefficients; ``"rgb"`` is the identity: the planes are G, B, R in that order.
        full_range: True: 0…255; False: 16…235 for luma and 16…240 for chroma (scaled for more bits).
        primaries: Code point of H.273 table 2, carried through untouched; 2 is unspecified.
        transfer: Code point of H.273 table 3, carried through untouched; 2 is unspecified. 16 is PQ, 18 is HLG.
        matrix_code: The tag as the stream had it (H.273 table 4), carried through; 2 is unspecified, and ``matrix`` is
            then the guess made from the size.
        range_code: The tag as the stream had it: 0 unspecified, 1 limited, 2 full.
    """

    matrix: Matrix = "bt709"
    full_range: bool = False
    primaries: int = 2
    transfer: int = 2
    matrix_code: int = 2
    range_code: int = 0


RGB = Color(matrix="rgb", full_range=True, matrix_code=0, range_code=2)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture in its codec's own planes. Read-only by rule: a decoder may still refer to its memory.

    Attributes:
        planes: Y', Cb, Cr (or G, B, R). Chroma is as large as luma (4:4:4) or half of it, rounded up (4:2:0).
        pts: Presentation time in ``time_base`` units.
        time_base: Seconds per unit of ``pts``.
        color: What the numbers mean.
        depth: Bits per sample: 8 for uint8 planes, 9 to 16 for uint16 planes.
        duration: In ``time_base`` units; 0 is unknown.
        alpha: Full-size alpha to be carried into the output, or None for an opaque picture.
    """

    planes: tuple[Plane, Plane, Plane]
    pts: int
    time_base: Fraction
    color: Color = field(default_factory=Color)
    depth: int = 8
    duration: int = 0
    alpha: FullAlpha | None = None

    @property
    def size(self) -> Size:
        """``(height, width)`` of the luma plane."""
        return self.planes[0].shape[0], self.planes[0].shape[1]

    @property
    def subsampled(self) -> bool:
        """Whether chroma is 4:2:0 (a 1x1 picture is 4:2:0 and 4:4:4 at once and counts as 4:4:4)."""
        return self.planes[1].shape != self.planes[0].shape

    @property
    def time(self) -> float:
        """Presentation time in seconds."""
        return self.pts * self.time_base.numerator / self.time_base.denominator

    def __repr__(self) -> str:
        height, width = self.size
        sampling = "4:2:0" if self.subsampled else "4:4:4"
        return f"Frame({width}x{height} {sampling} {self.depth}-bit, {self.time:.3f} s)"


@dataclass(frozen=True, slots=True)
class Mastering:
    """The screen an HDR stream was graded on (SMPTE ST 2086, CTA-861.3); carried through untouched.

    Attributes:
        primaries: CIE 1931 x, y of red, green, blue and the white point, or () if not given.
        luminance: Minimum and maximum in cd/m², or ().
        content_light: MaxCLL and MaxFALL in cd/m², or ().
    """

    primaries: tuple[Fraction, ...] = ()
    luminance: tuple[Fraction, ...] = ()
    content_light: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a stream promises before its first frame.

    Attributes:
        size: ``(height, width)`` of the planes, before rotation.
        fps: Average frame rate, exact; None when the stream has none (a folder of pictures).
        time_base: Of its frames' ``pts``.
        color: Of its frames.
        depth: Bits per sample.
        subsampled: Whether chroma is 4:2:0.
        rotation: Degrees counter-clockwise by which a player turns the picture: 0, 90, 180 or 270.
        mirrored: Whether a player then mirrors it, left to right.
        sample_aspect: Width of a pixel by its height.
        mastering: HDR metadata, or None.
        frames: Number of frames if known, else 0.
        duration: Seconds if known, else 0.
        live: Whether frames come in real time and may be dropped.
        name: What to call the stream in a message.
    """

    size: Size
    fps: Fraction | None
    time_base: Fraction
    color: Color = field(default_factory=Color)
    depth: int = 8
    subsampled: bool = True
    rotation: int = 0
    mirrored: bool = False
    sample_aspect: Fraction = Fraction(1)
    mastering: Mastering | None = None
    frames: int = 0
    duration: float = 0.0
    live: bool = False
    name: str = ""


def chroma_size(size: Size, subsampled: bool = True) -> Size:
    """Return the size of the chroma planes that belong to luma of ``size``."""
    return ((size[0] + 1) // 2, (size[1] + 1) // 2) if subsampled else size


def allocate(size: Size, depth: int = 8, subsampled: bool = True) -> tuple[Plane, Plane, Plane]:
    """Return three uninitialised planes that lie back to back in one buffer, as PyAV and virtual cameras take them."""
    luma, chroma = size, chroma_size(size, subsampled)
    lengths = [luma[0] * luma[1], chroma[0] * chroma[1]]
    buffer = np.empty(lengths[0] + 2 * lengths[1], np.uint8 if depth == 8 else np.uint16)
    y, u, v = np.split(buffer, [lengths[0], lengths[0] + lengths[1]])
    return y.reshape(luma), u.reshape(chroma), v.reshape(chroma)
