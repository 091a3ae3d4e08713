"""Scenes that are made: webcam framings of pictures, people before other rooms, and clips of them. All by seed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.evaluation.cases import Rgb, Shot, moving, still
from vidseg.frame import FullAlpha, Size

SCENE: Size = (288, 512)
"""Of every scene."""
CLIP_FRAMES, CLIP_FPS = 24, 30
NOISE = 1.5
"""Standard deviation of a made scene's sensor noise, in grey levels."""
HEADS = {"head": 2.6, "half": 4.2}
"""How many heads high a framing is: head and shoulders, half body."""
_LEAST_WIDTH = 240
"""A framing that would be narrower than this in its picture is left out: enlarged too far, nobody films so."""

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


class Box(NamedTuple):
    """A part of a picture, in its pixels: left, top, width and height; it may reach beyond the picture."""

    left: float
    top: float
    width: float
    height: float


class Cutout(NamedTuple):
    """A person without a background.

    Attributes:
        rgb: uint8 ``(h, w, 3)``, the person's own colour also where alpha is small.
        alpha: uint8 ``(h, w)``.
    """

    rgb: Rgb
    alpha: FullAlpha


def seeded(seed: int, *names: str) -> np.random.Generator:
    """Return a generator that depends on nothing but ``seed`` and ``names``."""
    return np.random.default_rng([seed, zlib.crc32("\n".join(names).encode())])


# --- framing ----------------------------------------------------------------------------------------------------


def frame_person(alpha: FullAlpha, heads: float, rng: np.random.Generator, confined: bool) -> Box | None:
    """Return where a webcam would frame a person, 16:9, or None where that would be a speck or nobody is.

    The height of a head is guessed from the mask: a whole figure is 7.5 heads high, shoulders are 2.2 heads wide.

    Args:
        alpha: uint8 ``(h, w)``.
        heads: Height of the framing in heads.
        rng: Shifts it a little.
        confined: Stay inside the picture; if not, it is left only on the sides where the person is not cut off, and
            never at the bottom.
    """
    height, width = alpha.shape
    rows, columns = np.flatnonzero((alpha > 127).any(1)), np.flatnonzero((alpha > 127).any(0))
    if len(rows) < 8 or len(columns) < 8:
        return None
    tall, wide = float(rows[-1] - rows[0] + 1), float(columns[-1] - columns[0] + 1)
    whole = rows[-1] < height - 3 or tall > 2.2 * wide
    head = tall / 7.5 if whole else min(wide / 2.2, tall / 2.2)
    aspect = SCENE[1] / SCENE[0]
    cut = alpha[:, 0].max() > 127, alpha[:, -1].max() > 127
    h = min(heads * head, tall)
    if confined or any(cut):
        h = min(h, height, width / aspect)
    w = h * aspect
    if w < _LEAST_WIDTH:
        return None
    crown = alpha[rows[0] : rows[0] + max(2, round(head))] > 127
    centre = float((crown.sum(0) * np.arange(width)).sum() / crown.sum()) + rng.normal(0, 0.08) * w
    top = float(min(rows[0] - rng.uniform(0.1, 0.45) * head, rows[-1] + 1 - h))  # nobody floats
    left = centre - w / 2
    if confined or cut[0]:
        left = max(left, 0.0)
    if confined or cut[1]:
        left = min(left, width - w)
    if confined or alpha[0].max() > 127:
        top = max(top, 0.0)
    return Box(left, top, w, h)


def cropped(image: npt.NDArray[np.uint8], box: Box, size: Size = SCENE) -> npt.NDArray[np.uint8]:
    """Return ``box`` of a picture at ``size``: areas where it gets smaller, cubic where it gets larger."""
    left, top = round(box.left), round(box.top)
    part = image[top : top + max(round(box.height), 1), left : left + max(round(box.width), 1)]
    how = cv2.INTER_AREA if part.shape[0] > size[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, size[::-1], interpolation=how), np.uint8)


def webcam_crop(rgb: Rgb, alpha: FullAlpha, known: npt.NDArray[np.bool_] | None, box: Box) -> Shot:
    """Return ``box`` of a labelled picture as a still of a webcam's shape."""
    unknown = None if known is None else cropped((~known).view(np.uint8) * np.uint8(255), box) < 128
    return still(cropped(rgb, box), cropped(alpha, box), unknown)


# --- people without a background --------------------------------------------------------------------------------


def cut_out(rgb: Rgb, alpha: FullAlpha, soften: bool = False) -> Cutout:
    """Return the person of a picture with colours that hold no old background.

    Args:
        rgb: The picture.
        alpha: Of the person.
        soften: It is a hard mask: feather it along the picture's edges.
    """
    if soften:
        alpha = _feathered(rgb, alpha)
    image, share = rgb.astype(np.float32), alpha.astype(np.float32)[..., None] * np.float32(1 / 255)
    # Two rounds of blurred means, coarse and fine (Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021).
    front = back = image
    for reach in (61, 7):
        front, back = _colours(image, front, back, share, reach)
    return Cutout(np.clip(front + 0.5, 0, 255).astype(np.uint8), alpha)


def _colours(image: Floats, front: Floats, back: Floats, share: Floats, reach: int) -> tuple[Floats, Floats]:
    def blur(values: Floats) -> Floats:
        return np.asarray(cv2.blur(values, (reach, reach)), np.float32).reshape(*values.shape)

    weight = blur(share)
    front = blur(front * share) / (weight + 1e-5)
    back = blur(back * (1 - share)) / (1 - weight + 1e-5)
    return np.clip(front + share * (image - share * front - (1 - share) * back), 0, 255), back


def _feathered(rgb: Rgb, mask: FullAlpha, radius: int = 6, smoothness: float = 1e-4) -> FullAlpha:
    """Return a hard mask made soft along the picture's edges within a band around its own.

    The guided filter with colour (He, Sun and Tang, "Guided Image Filtering", TPAMI 2013, section 5, feathering).
    """
    side = (2 * radius + 1, 2 * radius + 1)
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, side)
    inner, outer = cv2.erode(mask, near) > 127, cv2.dilate(mask, near) > 127
    band = outer & ~inner
    around = cv2.dilate(band.view(np.uint8), np.ones(side, np.uint8)) > 0

    def mean(values: Floats) -> Floats:
        return np.asarray(cv2.boxFilter(values, cv2.CV_32F, side, borderType=cv2.BORDER_REFLECT_101))

    guide, wanted = rgb.astype(np.float32) / np.float32(255), mask.astype(np.float32) / np.float32(255)
    centre, level = mean(guide), mean(wanted)
    products = (guide[..., :, None] * guide[..., None, :]).reshape(*mask.shape, 9)
    squares = np.stack([mean(np.ascontiguousarray(products[..., place])) for place in range(9)], -1)[around]
    at, shade = centre[around].astype(np.float64), level[around].astype(np.float64)
    spread = squares.reshape(-1, 3, 3) - at[:, :, None] * at[:, None, :] + smoothness * np.eye(3)
    shared = mean(guide * wanted[..., None])[around] - at * shade[:, None]
    slopes, offsets = np.zeros_like(guide), np.zeros_like(wanted)
    slopes[around] = np.linalg.solve(spread, shared[..., None])[..., 0]
    offsets[around] = shade - (slopes[around] * at).sum(-1)
    soft = (mean(slopes) * guide).sum(-1) + mean(offsets)
    # The line is stretched a little: what it leaves of the room and of the person's inside is noise.
    soft = np.where(band, np.clip((soft - 0.1) / 0.8, 0, 1), inner)
    return np.asarray(np.rint(soft * 255), np.uint8)


# --- people before rooms ----------------------------------------------------------------------------------------


def compose(person: Cutout, box: Box, room: Rgb, rng: np.random.Generator) -> Shot:
    """Return a person before a part of a room, as a still."""
    behind = _room_part(room, rng)
    picture, alpha = _paint(person, _placing(box), behind, _gain(person, behind))
    return still(_noisy(picture, rng), alpha)


def before_room(rgb: Rgb, alpha: FullAlpha, room: Rgb) -> Rgb:
    """Return a foreground of any size before the middle of a room of any shape."""
    height, width = alpha.shape
    scale = min(room.shape[0] / height, room.shape[1] / width)
    h, w = height * scale, width * scale
    behind = cropped(room, Box((room.shape[1] - w) / 2, (room.shape[0] - h) / 2, w, h), (height, width))
    share = alpha[..., None].astype(np.float32) / 255
    return cast("Rgb", (share * rgb + (1 - share) * behind + 0.5).astype(np.uint8))


def compose_clip(person: Cutout, box: Box, room: Rgb, pans: bool, rng: np.random.Generator) -> Iterator[Shot]:
    """Yield a clip of a person who moves smoothly before a room: still, or one over which the camera pans.

    The person sways, leans, nods to and from the camera; all movements are sums of two slow sines.
    """
    height, width = SCENE
    seconds = np.arange(CLIP_FRAMES) / CLIP_FPS
    lively = rng.uniform(0.3, 1.0)
    across, down, angle, zoom, lean = (
        lively * reach * _sway(rng, seconds) for reach in (0.07 * width, 0.04 * height, 2.0, 0.03, 0.05)
    )
    speed = rng.choice([-1, 1]) * rng.uniform(30, 150) if pans else 0.0  # pixels a second
    shake = (1.5 if pans else 0.0) * _sway(rng, seconds * 2)
    track = np.stack([speed * (seconds - seconds.mean()), shake], 1)
    wide = _room_part(room, rng, spare=int(np.ceil(np.abs(track).max())) + 2)
    gain = _gain(person, wide)
    for index in range(CLIP_FRAMES):
        offset = track[index] + (np.asarray(wide.shape[1::-1]) - (width, height)) / 2
        shift = np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float64)
        behind = cv2.warpAffine(wide, shift, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        # The camera is held in a hand or turned to the speaker: who speaks stays near the middle.
        at = across[index] - 0.25 * track[index, 0], down[index] - 0.25 * track[index, 1]
        motion = _motion(at, angle[index], 1 + zoom[index], lean[index])
        picture, alpha = _paint(person, _chained(motion, _placing(box)), np.asarray(behind, np.uint8), gain)
        yield moving(_noisy(picture, rng), alpha, index)


def _sway(rng: np.random.Generator, seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a slow movement of about -1 to 1: the sum of a large and a small sine."""
    slow, fast, first, second = rng.uniform((0.2, 0.6, 0, 0), (0.6, 1.2, 2 * np.pi, 2 * np.pi))
    sway = np.sin(2 * np.pi * slow * seconds + first) + 0.3 * np.sin(2 * np.pi * fast * seconds + second)
    return np.asarray(sway / 1.3)


def _motion(shift: tuple[float, float], degrees: float, zoom: float, lean: float) -> Matrix:
    """Return the affine of a movement about the middle of the bottom edge; to lean is to shear."""
    height, width = SCENE
    turn = np.deg2rad(degrees)
    linear = zoom * np.array([[np.cos(turn), -np.sin(turn) - lean], [np.sin(turn), np.cos(turn)]])
    foot = np.array([width / 2, float(height)])
    return np.hstack([linear, (foot + np.asarray(shift) - linear @ foot)[:, None]])


def _placing(box: Box) -> Matrix:
    """Return the affine that brings ``box`` of a picture to the scene; centres of pixels lie at whole numbers."""
    scale = SCENE[0] / box.height
    left, top = (scale * (0.5 - start) - 0.5 for start in (box.left, box.top))
    return np.array([[scale, 0, left], [0, scale, top]])


def _chained(second: Matrix, first: Matrix) -> Matrix:
    return np.hstack([second[:, :2] @ first[:, :2], (second[:, :2] @ first[:, 2:]) + second[:, 2:]])


def _room_part(room: Rgb, rng: np.random.Generator, spare: int = 0) -> Rgb:
    """Return a part of a room of the scene's size, with ``spare`` pixels more on each side."""
    size = SCENE[0] + 2 * spare, SCENE[1] + 2 * spare
    height, width = room.shape[:2]
    scale = rng.uniform(0.65, 1.0) * min(height / size[0], width / size[1])
    h, w = size[0] * scale, size[1] * scale
    return cropped(room, Box(rng.uniform(0, width - w), rng.uniform(0, height - h), w, h), size)


def _paint(person: Cutout, matrix: Matrix, behind: Rgb, gain: float) -> tuple[Floats, FullAlpha]:
    """Return the scene and its true alpha, in which every shade is exact: the truth is what was painted with."""
    rgb, alpha = person
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    while scale < 0.6:  # halve first, or it aliases
        half = max(rgb.shape[1] // 2, 1), max(rgb.shape[0] // 2, 1)
        rgb, alpha = (
            np.asarray(cv2.resize(part, half, interpolation=cv2.INTER_AREA), np.uint8) for part in (rgb, alpha)
        )
        matrix = np.hstack([matrix[:, :2] * 2, matrix[:, 2:] + matrix[:, :2].sum(1, keepdims=True) / 2])
        scale *= 2
    front, truth = (
        cv2.warpAffine(part, matrix, SCENE[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for part in (rgb, alpha)
    )
    share = truth[..., None].astype(np.float32) / 255
    lit = np.clip(front.astype(np.float32) * np.float32(gain), 0, 255)
    return share * lit + (1 - share) * behind, np.asarray(truth, np.uint8)


def _gain(person: Cutout, behind: Rgb) -> float:
    """Return by how much a person is lit to suit a room: a part of the way."""
    inside = person.rgb[person.alpha > 200]
    ratio = (behind.mean() + 8) / ((inside.mean() if len(inside) else 128) + 8)
    return float(np.clip(ratio**0.4, 0.7, 1.3))


def _noisy(picture: Floats, rng: np.random.Generator) -> Rgb:
    noise = rng.standard_normal(picture.shape, np.float32) * np.float32(NOISE)
    return cast("Rgb", np.clip(picture + noise + 0.5, 0, 255).astype(np.uint8))
