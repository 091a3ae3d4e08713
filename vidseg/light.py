"""What light R'G'B' stands for: from one transfer and set of primaries to another, SDR, PQ or HLG."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vidseg import kernels
from vidseg.frame import Color

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float64]

PQ, HLG = 16, 18
"""Code points of H.273 table 3."""
WHITE_NITS = 203.0
"""Light of a white page in an HDR picture: ITU-R BT.2408, 2."""
_HLG_NITS, _HLG_GAMMA = 1000.0, 1.2
"""The display that HLG is meant for: BT.2100, table 5."""
_WHITE = (0.3127, 0.3290)
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""CIE 1931 x, y of red, green and blue by code point of H.273 table 2; the white is D65. BT.601's are near BT.709's."""
_PEAK = 10000 / WHITE_NITS
"""The brightest light of PQ; 1 is SDR's white."""


def is_same_light(first: Color, second: Color) -> bool:
    """Return whether equal R'G'B' means equal light; transfers of SDR all count as one, as in every player."""
    return _kind(first) == _kind(second)


def convert_light(rgb: Samples, source: Color, target: Color) -> Samples:
    """Return R'G'B' that shows in ``target`` what ``rgb`` shows in ``source``; ``rgb`` itself if it is the same.

    SDR white becomes 203 nits in PQ and 75 % in HLG (BT.2408). From HDR to SDR, what is brighter than white is rolled
    off.

    Args:
        rgb: ``(h, w, 3)``, uint8 or the whole range of uint16; it is not changed.
        source: Its transfer and primaries; the matrix and range do not matter.
        target: Those of the result.

    Returns:
        ``(h, w, 3)`` uint16, whole range (or ``rgb``).
    """
    if is_same_light(source, target):
        return rgb
    result = np.empty(rgb.shape, np.uint16)
    tables = _tables(np.iinfo(rgb.dtype).max, _kind(source), _kind(target))
    height, width = rgb.shape[:2]
    rows = np.ascontiguousarray(rgb).reshape(height, 3 * width)
    kernels.relight(rows, result.reshape(height, 3 * width), *tables)
    return result


@lru_cache(maxsize=8)
def _tables(top: int, source: tuple[int, int], target: tuple[int, int]) -> tuple[npt.NDArray[Any], ...]:
    """Return what ``kernels.relight`` does it with, for samples up to ``top``."""
    (from_transfer, from_primaries), (to_transfer, to_primaries) = source, target
    matrix = np.linalg.inv(_to_xyz(to_primaries)) @ _to_xyz(from_primaries)
    gains = later_gains = np.zeros(0)
    # The fourth root spends the entries of a table as eyes would.
    places = np.linspace(0, 1, 2**16) ** 4
    later_weights = _to_xyz(to_primaries)[1]
    if from_transfer == HLG:
        gains = _displayed(places)
    if to_transfer == HLG:
        later_gains = _scene(2 * _PEAK * places)
    elif to_transfer != PQ and from_transfer in (PQ, HLG):
        later_gains, later_weights = _rolled_off(2 * _PEAK * places), np.zeros(3)
    # Pure colours of a wide gamut have parts up to 1.7 times as bright in a narrow one.
    brightest = np.array([1, 2 * _PEAK, _PEAK if to_transfer == PQ else 1])
    encoded = np.rint(65535 * np.clip(_encode(brightest[2] * places, to_transfer), 0, 1)).astype(np.uint16)
    decoded = _decode(np.linspace(0, 1, top + 1), from_transfer)
    floats = decoded, _to_xyz(from_primaries)[1], gains, matrix, later_weights, later_gains, brightest
    return *(np.ascontiguousarray(part, np.float32) for part in floats), encoded


def _kind(color: Color) -> tuple[int, int]:
    """Return transfer (1 for any of SDR) and primaries (1 where they are like BT.709's or unknown)."""
    transfer = color.transfer if color.transfer in (PQ, HLG) else 1
    known = color.primaries in _PRIMARIES
    # HDR that does not say its primaries has those of BT.2100, and so has what has BT.2020's matrix.
    wide = color.primaries == 2 and (transfer != 1 or color.matrix == "bt2020")
    return transfer, color.primaries if known else 9 if wide else 1


@lru_cache
def _to_xyz(primaries: int) -> npt.NDArray[np.float64]:
    """Return the matrix from linear RGB to XYZ: SMPTE RP 177."""
    xy = np.array([*_PRIMARIES[primaries], _WHITE]).T
    xyz = np.stack([xy[0] / xy[1], np.ones(4), (1 - xy[0] - xy[1]) / xy[1]])
    scale = np.linalg.solve(xyz[:, :3], xyz[:, 3])
    result: npt.NDArray[np.float64] = xyz[:, :3] * scale
    return result


def _decode(signal: Floats, transfer: int) -> Floats:
    """Return linear light, 1 being SDR's white (203 nits); for HLG the light of the scene, 0…1."""
    light: Floats
    if transfer == PQ:  # BT.2100, table 4
        power = signal ** (1 / 78.84375)
        base = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
        light = 10000 / WHITE_NITS * base ** (1 / 0.1593017578125)
    elif transfer == HLG:  # BT.2100, table 5
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    else:  # sRGB, IEC 61966-2-1: how pictures and screens mean it.
        light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    return light


def _encode(light: Floats, transfer: int) -> Floats:
    """Return the signal; the inverse of ``_decode``."""
    signal: Floats
    if transfer == PQ:
        power = (light * (WHITE_NITS / 10000)) ** 0.1593017578125
        signal = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    elif transfer == HLG:
        bright = 0.17883277 * np.log(np.maximum(12 * light - 0.28466892, 1e-6)) + 0.55991073
        signal = np.where(light <= 1 / 12, np.sqrt(3 * light), bright)
    else:
        bright = 1.055 * np.maximum(light, 1e-6) ** (1 / 2.4) - 0.055
        signal = np.where(light <= 0.0031308, light * 12.92, bright)
    return signal


def _displayed(bright: Floats) -> Floats:
    """Return the gain by which a 1000-nit display shows HLG's scene light (BT.2100's OOTF); 1 is 203 nits."""
    gain: Floats = np.maximum(bright, 1e-9) ** (_HLG_GAMMA - 1) * (_HLG_NITS / WHITE_NITS)
    return gain


def _scene(bright: Floats) -> Floats:
    """Return the inverse of ``_displayed``, for the light of the display."""
    share = WHITE_NITS / _HLG_NITS
    gain: Floats = share * np.maximum(share * bright, 1e-9) ** (1 / _HLG_GAMMA - 1)
    return gain


def _rolled_off(peak: Floats) -> Floats:
    """Return the gain that bends everything above 0.7 of white so that it ends in white; one for all keeps the hue."""
    knee = 0.7
    over = np.maximum(peak - knee, 0)
    gain: Floats = (np.minimum(peak, knee) + (1 - knee) * over / (over + (1 - knee))) / np.maximum(peak, 1e-6)
    return gain
