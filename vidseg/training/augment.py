"""Augmentation: transforms of torchvision's v2 kind, whose pixels are computed by OpenCV and NumPy.

They take ``tv_tensors.Image`` and ``Video`` ``(…, 3, h, w)`` and ``Mask`` ``(…, h, w)``, uint8 on the CPU, and compose
with torchvision's own. Leading dimensions are frames of one clip: parameters are drawn once for all of them; only noise
differs. They were written because they are faster on a CPU: ``v2.ColorJitter`` takes 2 ms for a picture of 160x96,
``Light`` a tenth of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import is_pure_tensor

from vidseg.training.pictures import Array, Floats, Rng, Size

Matrix = npt.NDArray[np.float64]
"""``(2, 3)``: maps pixels of the output to pixels of the picture."""


# --- geometry ---------------------------------------------------------------------------------------------------


def choose_window(
    rng: Rng, alpha: Array, size: Size, confine: bool, webcam: float = 1.0
) -> tuple[float, float, float, float]:
    """Choose the part of a picture to show: centre x, centre y, width, height in its pixels.

    Args:
        rng: Random numbers.
        alpha: ``(h, w)`` of the picture; the framing follows the person.
        size: Of the output.
        confine: Stay inside the picture where it is large enough.
        webcam: How often a person is framed as a webcam does it; 1 is 63 times in 100.
    """
    height, width = alpha.shape
    aspect = size[1] / size[0] * rng.uniform(0.88, 1.14)
    mode = rng.random()
    _, y0, across, down = cv2.boundingRect(cv2.threshold(alpha, 127, 255, cv2.THRESH_BINARY)[1])
    if mode < 0.12 * webcam or not across:  # anything
        h = height * rng.uniform(0.35, 1.0)
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
    elif mode < 1 - 0.63 * webcam:  # the whole picture, as a still is seen
        h = max(height, width / aspect) if rng.random() < 0.5 else min(height, width / aspect)
        h *= rng.uniform(0.85, 1.1)
        cx, cy = width * rng.uniform(0.45, 0.55), height * rng.uniform(0.45, 0.55)
    else:  # head and shoulders to half body, as a webcam sees it
        body = min(down, 2.5 * across) + 1.0
        h = body * rng.uniform(0.3, 1.25)
        head = alpha[y0 : int(y0 + max(body * 0.2, 2))]
        weights = head.sum(0, dtype=np.float64) + 1e-6
        centre = float((weights * np.arange(width)).sum() / weights.sum())
        cx = centre + rng.normal(0, 0.18) * h * aspect
        cy = y0 + h * rng.uniform(0.28, 0.52)
    w = h * aspect
    if confine:
        shrink = min(1.0, width / w, height / h)
        if rng.random() < 0.7:
            w, h = w * shrink, h * shrink
        cx = min(max(cx, w / 2), width - w / 2) if w <= width else width / 2
        cy = min(max(cy, h / 2), height - h / 2) if h <= height else height / 2
    return float(cx), float(cy), float(w), float(h)


def window_matrix(
    rng: Rng, window: tuple[float, float, float, float], size: Size, rotation: float = 5.0, flip: float = 0.5
) -> Matrix:
    """Return the affine that shows ``window`` at ``size``, with a little rotation (degrees) and a coin's flip."""
    cx, cy, w, h = window
    angle = np.deg2rad(rng.normal(0, rotation))
    mirror = -1.0 if rng.random() < flip else 1.0
    sx, sy = w / size[1], h / size[0]
    c, s = np.cos(angle), np.sin(angle)
    linear = np.array([[mirror * c * sx, -s * sy], [mirror * s * sx, c * sy]])
    offset = np.array([cx, cy]) - linear @ np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.hstack([linear, offset[:, None]])


def warp(
    image: Array,
    matrix: Matrix,
    size: Size,
    border: int = cv2.BORDER_REFLECT_101,
    *,
    bend: Floats | None = None,
    nearest: bool = False,
    fill: int = 0,
) -> Array:
    """Return ``image`` as ``matrix`` shows it.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)``.
        matrix: Output pixels to pixels of ``image``.
        size: ``(h, w)`` of the output.
        border: What lies beyond the picture, of ``cv2.BORDER_*``.
        bend: ``(h, w, 2)`` x and y, in output pixels, by which each place looks elsewhere first.
        nearest: For numbers that may not be mixed.
        fill: For ``cv2.BORDER_CONSTANT``.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    while scale > 1.6 and not nearest:  # halve first, or it aliases
        image = np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = np.hstack([matrix[:, :2] / 2, (matrix[:, 2:] - 0.5) / 2])
        scale /= 2
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    if bend is None:
        out = cv2.warpAffine(
            image, matrix, size[::-1], flags=flags | cv2.WARP_INVERSE_MAP, borderMode=border, borderValue=(fill,) * 3
        )
    else:
        y, x = np.indices(size, np.float32)
        places = np.dstack([x, y]) + bend
        maps = np.asarray(cv2.transform(places, matrix.astype(np.float32)), np.float32)
        x_map, y_map = np.ascontiguousarray(maps[..., 0]), np.ascontiguousarray(maps[..., 1])
        out = cv2.remap(image, x_map, y_map, flags, borderMode=border, borderValue=(fill,) * 3)
    return np.asarray(out, np.uint8)


def rounded(pixels: Floats) -> Array:
    """Return ``pixels`` as uint8, in place as far as it goes."""
    np.rint(pixels, out=pixels)
    np.maximum(pixels, np.float32(0), out=pixels)
    np.minimum(pixels, np.float32(255), out=pixels)
    return pixels.astype(np.uint8)


# --- transforms -------------------------------------------------------------------------------------------------


def frames_of(image: Tensor) -> Array:
    """Return ``(…, 3, h, w)`` as ``(frames, h, w, 3)``, without a copy if its memory is laid out so.

    Raises:
        TypeError: It is not uint8.
    """
    if image.dtype != torch.uint8:
        raise TypeError(
            f"pictures must be uint8, not {image.dtype}: convert them with v2.ToDtype(torch.uint8, scale=True)"
        )
    pixels = image.as_subclass(Tensor).reshape(-1, *image.shape[-3:]).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.numpy())


def as_image(frames: Array, like: Tensor) -> Tensor:
    """Return ``(frames, h, w, 3)`` as a tensor of the kind and leading dimensions of ``like``."""
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2).reshape(*like.shape[:-2], *frames.shape[1:3])
    return tv_tensors.wrap(tensor, like=like) if isinstance(like, tv_tensors.TVTensor) else tensor


class PixelTransform(v2.Transform):  # type: ignore[misc]
    """Changes pictures and leaves masks alone. A kind overrides ``draw`` and ``apply``.

    Args:
        p: How often it does anything.
        generator: Where random numbers come from; by default PyTorch's, as in torchvision.
    """

    _transformed_types: tuple[Any, ...] = (tv_tensors.Image, tv_tensors.Video, is_pure_tensor)

    def __init__(self, p: float = 1.0, generator: Rng | None = None) -> None:
        super().__init__()
        self.p, self._generator = p, generator

    def random(self) -> Rng:
        """Return where random numbers come from."""
        return self._generator or np.random.default_rng(int(torch.randint(2**62, ())))

    def forward(self, *inputs: Any) -> Any:
        """Do it, or not; here rather than in ``make_params``, as what is not done should take no time."""
        if self.p < 1 and self.random().random() >= self.p:
            return inputs if len(inputs) > 1 else inputs[0]
        return super().forward(*inputs)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        rng = self.random()
        return {"rng": rng, "drawn": self.draw(rng, tuple(flat_inputs[0].shape[-2:]))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return as_image(self.apply(frames_of(inpt), params["drawn"], params["rng"]), inpt)

    def draw(self, rng: Rng, size: Size) -> Any:
        """Draw what all frames of a clip share."""
        raise NotImplementedError

    def apply(self, frames: Array, drawn: Any, rng: Rng) -> Array:
        """Return changed ``frames`` ``(frames, h, w, 3)``; ``rng`` is for what differs from frame to frame."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Lighting:
    """One light: a curve for each channel, a mixture of the channels, and a fall-off to one side."""

    curve: Floats
    """``(1, 256, 3)``: uint8 to float."""
    mixture: Floats
    """``(3, 4)``."""
    falloff: Floats | None
    """``(h, w)``, or None: the same light everywhere."""


_LEVELS = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
_GREY = np.array([0.3, 0.59, 0.11], np.float32)


class Light(PixelTransform):
    """Exposure, white balance, gamma, saturation, contrast, and a light that falls off to one side.

    Args:
        strength: 1 suits photographs; people and rooms that are put together get less each.
        p: How often.
        generator: See ``PixelTransform``.
    """

    def __init__(self, strength: float = 1.0, p: float = 1.0, generator: Rng | None = None) -> None:
        super().__init__(p, generator)
        self.strength = strength

    def draw(self, rng: Rng, size: Size) -> Lighting:
        strength = self.strength
        gain = np.exp(rng.normal(0, 0.12 * strength, 3) + rng.normal(0, 0.22 * strength)).astype(np.float32)
        gamma = math.exp(rng.normal(0, 0.2 * strength))
        saturation = min(max(rng.normal(1, 0.3 * strength), 0.0), 2.0)
        contrast = math.exp(rng.normal(0, 0.15 * strength))
        curve = np.minimum(_LEVELS * gain, np.float32(1.2)) ** np.float32(gamma) * np.float32(255)
        mixture = np.empty((3, 4), np.float32)
        mixture[:, :3] = contrast * (1 - saturation) * _GREY
        mixture[(0, 1, 2), (0, 1, 2)] += contrast * saturation
        mixture[:, 3] = 0.45 * 255 * (1 - contrast)
        falloff = None
        if rng.random() < 0.3:
            angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.7) * strength
            x = np.linspace(-slope * math.cos(angle), slope * math.cos(angle), size[1], dtype=np.float32)
            y = np.linspace(1 - slope * math.sin(angle), 1 + slope * math.sin(angle), size[0], dtype=np.float32)
            falloff = x + y[:, None]
        return Lighting(curve[None], mixture, falloff)

    def apply(self, frames: Array, drawn: Lighting, rng: Rng) -> Array:
        count, height, width, _ = frames.shape
        curved = cv2.LUT(frames.reshape(count * height, width, 3), drawn.curve)
        light = np.asarray(cv2.transform(curved, drawn.mixture), np.float32)
        if drawn.falloff is not None:
            light = light.reshape(frames.shape) * drawn.falloff[..., None]
        return rounded(light).reshape(frames.shape)


class Blur(PixelTransform):
    """Motion blur along a line, or defocus."""

    def draw(self, rng: Rng, size: Size) -> Floats | float:
        if rng.random() < 0.5:
            return float(rng.uniform(0.4, 1.4))
        length = int(rng.integers(3, 8))
        kernel = np.zeros((length, length), np.float32)
        start, end = ((int(x), int(y)) for x, y in rng.integers(0, length, (2, 2)))
        cv2.line(kernel, start, end, (1.0,))
        kernel[length // 2, length // 2] = 1.0
        return np.asarray(kernel / kernel.sum(), np.float32)

    def apply(self, frames: Array, drawn: Floats | float, rng: Rng) -> Array:
        if isinstance(drawn, float):
            return np.stack([np.asarray(cv2.GaussianBlur(frame, (0, 0), drawn), np.uint8) for frame in frames])
        return np.stack([np.asarray(cv2.filter2D(frame, -1, drawn), np.uint8) for frame in frames])


class LowLight(PixelTransform):
    """A fifth to three fifths of the light."""

    def draw(self, rng: Rng, size: Size) -> float:
        return float(rng.uniform(0.2, 0.6))

    def apply(self, frames: Array, drawn: float, rng: Rng) -> Array:
        return np.asarray(cv2.convertScaleAbs(frames.reshape(-1, 3), alpha=drawn), np.uint8).reshape(frames.shape)


class Noise(PixelTransform):
    """Noise of the sensor, in colours or in grey, new in every frame."""

    def draw(self, rng: Rng, size: Size) -> tuple[float, bool]:
        return float(rng.uniform(0.005, 0.06)) * 255, bool(rng.random() < 0.5)

    def apply(self, frames: Array, drawn: tuple[float, bool], rng: Rng) -> Array:
        strength, coloured = drawn
        field, out = _normal_field(), np.empty_like(frames)
        for index, frame in enumerate(frames):
            shape = frame.shape if coloured else (*frame.shape[:2], 1)
            count = math.prod(shape)
            start = int(rng.integers(max(len(field) - count, 1)))
            # Grey noise is the mean of three channels.
            noise = np.resize(field[start : start + count], shape) * np.float32(
                strength if coloured else strength / 3**0.5
            )
            out[index] = rounded(noise + frame)
        return out


@lru_cache(maxsize=1)
def _normal_field() -> Floats:
    """Return normal noise to cut pieces from, as drawing it anew takes as long as everything else together."""
    return np.random.default_rng(0).standard_normal(1 << 21, np.float32)


class Jpeg(PixelTransform):
    """What a camera's or a call's codec leaves, of one quality for all frames."""

    def draw(self, rng: Rng, size: Size) -> int:
        return int(rng.integers(25, 85))

    def apply(self, frames: Array, drawn: int, rng: Rng) -> Array:
        out = np.empty_like(frames)
        for index, frame in enumerate(frames):
            _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, drawn])
            out[index] = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        return out


class CoverTransform(PixelTransform):
    """A ``PixelTransform`` that also covers a part of the picture, where nobody is then.

    Args:
        p: How often.
        fill: What masks hold there; 0 is nobody, 255 unknown for class numbers.
        generator: See ``PixelTransform``.
    """

    _transformed_types = (*PixelTransform._transformed_types, tv_tensors.Mask)

    def __init__(self, p: float = 1.0, fill: int = 0, generator: Rng | None = None) -> None:
        super().__init__(p, generator)
        self.fill = fill

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Mask):
            return super().transform(inpt, params)
        frames = inpt.as_subclass(Tensor).reshape(-1, *inpt.shape[-2:]).numpy()
        covered = self.cover(frames, params["drawn"])
        return tv_tensors.wrap(torch.from_numpy(covered).reshape(inpt.shape), like=inpt)

    def cover(self, masks: Array, drawn: Any) -> Array:
        """Return changed ``masks`` ``(frames, h, w)``."""
        raise NotImplementedError


class Letterbox(CoverTransform):
    """Bars at the sides, or above and below, as a virtual camera adds them to a picture of another shape."""

    def draw(self, rng: Rng, size: Size) -> tuple[slice, slice, Array]:
        height, width = size
        share = rng.uniform(0.55, 0.92)
        # Portrait pictures get bars at their sides now and then too, landscape ones above and below.
        across = bool(rng.random() < (0.75 if width >= height else 0.25))
        length = (width if across else height) - 1
        bar = round(length * (1 - share) / 2)
        inside = slice(bar, length + 1 - bar)
        colour = np.zeros(3) if rng.random() < 0.75 else np.full(3, rng.uniform(0, 255))
        whole = slice(0, height if across else width)
        return (whole, inside, colour.astype(np.uint8)) if across else (inside, whole, colour.astype(np.uint8))

    def apply(self, frames: Array, drawn: tuple[slice, slice, Array], rng: Rng) -> Array:
        rows, columns, colour = drawn
        out = np.empty_like(frames)
        out[:] = colour
        out[:, rows, columns] = frames[:, rows, columns]
        return out

    def cover(self, masks: Array, drawn: tuple[slice, slice, Array]) -> Array:
        rows, columns, _ = drawn
        out = np.full_like(masks, self.fill)
        out[:, rows, columns] = masks[:, rows, columns]
        return out


@dataclass(frozen=True, slots=True)
class Occluder:
    """Something before the camera: ``rgb`` ``(h, w, 3)`` and its alpha ``(h, w)``, at the size of the picture."""

    rgb: Array
    alpha: Array


class Occlude(CoverTransform):
    """Things close to the lens: mugs, telephones, microphones, sheets, or cut-outs. They are no part of the person.

    Hands are not drawn: a person's hands belong to the person, and come from photographs.

    Args:
        things: ``(h, w, 4)`` cut-outs to use beside what is drawn.
        p: How often.
        fill: See ``CoverTransform``.
        generator: See ``PixelTransform``.
    """

    def __init__(
        self, things: tuple[Array, ...] = (), p: float = 1.0, fill: int = 0, generator: Rng | None = None
    ) -> None:
        super().__init__(p, fill, generator)
        self._things = things

    def draw(self, rng: Rng, size: Size) -> Occluder:
        if self._things and rng.random() < 0.6:
            thing = self._things[rng.integers(len(self._things))]
        else:
            thing = draw_thing(rng)
        return placed(rng, thing, size, rng.uniform(0.3, 0.7), standing=True)

    def apply(self, frames: Array, drawn: Occluder, rng: Rng) -> Array:
        share = drawn.alpha[..., None].astype(np.float32) * np.float32(1 / 255)
        return np.asarray(frames + (drawn.rgb - frames.astype(np.float32)) * share + np.float32(0.5), np.uint8)

    def cover(self, masks: Array, drawn: Occluder) -> Array:
        if self.fill:
            return np.where(drawn.alpha > 0, self.fill, masks).astype(np.uint8)
        return ((masks * (255 - drawn.alpha.astype(np.uint16)) + 127) // 255).astype(np.uint8)


def placed(rng: Rng, thing: Array, size: Size, share: float, standing: bool = False) -> Occluder:
    """Put a cut-out somewhere into a picture, a little turned.

    Args:
        rng: Random numbers.
        thing: ``(h, w, 4)``.
        size: Of the picture.
        share: How high it is of the picture's height.
        standing: At the lower edge or cut off by it, as what is close to the lens; otherwise anywhere but at the top.
    """
    rows, columns = np.flatnonzero(thing[..., 3].max(1)), np.flatnonzero(thing[..., 3].max(0))
    if not len(rows):
        return Occluder(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    scale = max(height / (size[0] * share), width / (size[1] * 0.8))
    x, y = rng.uniform(0, size[1]), size[0] * rng.uniform(0.3, 1.0)
    if standing:
        y = size[0] - height / scale * rng.uniform(0.2, 0.5)
    angle = np.deg2rad(rng.normal(0, 10))
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([columns[0] + width / 2, rows[0] + height / 2])
    matrix = np.hstack([linear, (centre - linear @ np.array([x, y]))[:, None]])
    alpha = warp(np.ascontiguousarray(thing[..., 3]), matrix, size, cv2.BORDER_CONSTANT)
    return Occluder(warp(np.ascontiguousarray(thing[..., :3]), matrix, size, cv2.BORDER_REPLICATE), alpha)


def draw_thing(rng: Rng) -> Array:
    """Draw a mug, a telephone, a microphone or a sheet of paper: RGB and alpha ``(96, 96, 4)``."""
    side = 96
    rgb, alpha = np.empty((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
    colour = rng.uniform(20, 235, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(8, 245))
    shade = np.linspace(rng.uniform(0.5, 1.0), rng.uniform(0.8, 1.3), side)[None, :, None]
    rgb[:] = np.clip(colour * shade, 0, 255)
    line = cv2.LINE_AA
    kind = int(rng.integers(4))
    if kind == 0:  # mug
        cv2.ellipse(alpha, (70, 52), (17, 20), 0, 0, 360, (255,), 7, line)
        cv2.rectangle(alpha, (20, 20), (68, 84), (255,), -1, line)
        cv2.ellipse(alpha, (44, 84), (24, 7), 0, 0, 360, (255,), -1, line)
        cv2.ellipse(rgb, (44, 20), (24, 7), 0, 0, 360, tuple(float(c) for c in colour * 0.5), -1, line)
        cv2.ellipse(alpha, (44, 20), (24, 7), 0, 0, 360, (255,), -1, line)
    elif kind == 1:  # telephone, its back or its screen
        cv2.rectangle(alpha, (28, 8), (68, 88), (255,), -1, line)
        cv2.rectangle(rgb, (31, 12), (65, 84), tuple(float(c) for c in rng.uniform(0, 255, 3)), -1, line)
        cv2.circle(rgb, (38, 18), 4, (15.0, 15.0, 15.0), -1, line)
    elif kind == 2:  # microphone on its arm
        cv2.line(alpha, (48, 40), (int(rng.integers(0, side)), side), (255,), 6, line)
        cv2.ellipse(alpha, (48, 32), (15, 26), 0, 0, 360, (255,), -1, line)
        rgb[:] = (rgb * 0.35).astype(np.uint8)
    else:  # sheet, book, box
        corners = np.array([[14, 18], [82, 18], [82, 78], [14, 78]]) + rng.integers(-12, 13, (4, 2))
        cv2.fillConvexPoly(alpha, corners.astype(np.int32), (255,), line)
        for row in range(28, 72, int(rng.integers(6, 14))):
            cv2.line(rgb, (24, row), (int(rng.integers(40, 74)), row), tuple(float(c) for c in colour * 0.6), 2, line)
    return np.dstack([rgb, alpha])


class Framing(v2.Transform):  # type: ignore[misc]
    """Crop to what a webcam shows, with flip, rotation and scale; the first mask says where the person is.

    Args:
        size: ``(h, w)`` of the output.
        rotation: Degrees, standard deviation.
        webcam: See ``choose_window``.
        nearest: Masks are class numbers.
        generator: See ``PixelTransform``.
    """

    _transformed_types = CoverTransform._transformed_types

    def __init__(
        self,
        size: Size,
        rotation: float = 5.0,
        webcam: float = 1.0,
        nearest: bool = False,
        generator: Rng | None = None,
    ) -> None:
        super().__init__()
        self.size, self.rotation, self.webcam, self.nearest = size, rotation, webcam, nearest
        self._generator = generator

    random = PixelTransform.random

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        rng = self.random()
        masks = [one for one in flat_inputs if isinstance(one, tv_tensors.Mask)]
        if masks:
            alpha = masks[0].as_subclass(Tensor).reshape(-1, *masks[0].shape[-2:])[0].numpy()
        else:
            alpha = np.zeros(flat_inputs[0].shape[-2:], np.uint8)
        window = choose_window(rng, alpha, self.size, True, self.webcam)
        return {"matrix": window_matrix(rng, window, self.size, self.rotation)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            masks = inpt.as_subclass(Tensor).reshape(-1, *inpt.shape[-2:]).numpy()
            out = np.stack([warp(mask, params["matrix"], self.size, nearest=self.nearest) for mask in masks])
            return tv_tensors.wrap(torch.from_numpy(out).reshape(*inpt.shape[:-2], *self.size), like=inpt)
        return as_image(np.stack([warp(f, params["matrix"], self.size) for f in frames_of(inpt)]), inpt)


# --- policy -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Policy:
    """How often and how strongly everything is done to training pictures; the defaults trained the shipped models.

    Attributes:
        empty: Share of samples with nobody in them.
        composites: Share of samples whose people are put before another background.
        pasted: Share of composites that are put into a picture with people in it (copy-paste, Ghiasi et al. 2021,
            arXiv:2012.07177).
        matched: Share of composites whose light and sharpness are brought near to the background's.
        objects: Share of composites with an object beside the people, if the data has cut-out things.
        webcam: See ``choose_window``.
        rotation: Degrees, standard deviation.
        light: Strength of ``Light``.
        occluders, blur, low_light, noise, letterbox, jpeg: How often the transforms of these names.
        motion: Strength of the motion in clips that are made of photographs.
    """

    empty: float = 0.11
    composites: float = 0.42
    pasted: float = 0.0
    matched: float = 0.5
    objects: float = 0.2
    webcam: float = 1.0
    rotation: float = 5.0
    light: float = 1.0
    occluders: float = 0.05
    blur: float = 0.25
    low_light: float = 0.15
    noise: float = 0.4
    letterbox: float = 0.03
    jpeg: float = 0.3
    motion: float = 1.0

    def transform(self, generator: Rng | None = None, things: tuple[Array, ...] = (), fill: int = 0) -> v2.Compose:
        """Return what is done to a picture once it is framed and composed, in the order in which light meets it.

        Args:
            generator: See ``PixelTransform``.
            things: See ``Occlude``.
            fill: See ``CoverTransform``.
        """
        return v2.Compose(
            [
                Occlude(things, self.occluders, fill, generator),
                Light(self.light, float(self.light > 0), generator),
                Blur(self.blur, generator),
                LowLight(self.low_light, generator),
                Noise(self.noise, generator),
                Letterbox(self.letterbox, fill, generator),
                Jpeg(self.jpeg, generator),
            ]
        )


STRENGTHS = {
    "none": Policy(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    "gentle": Policy(light=0.5, occluders=0, blur=0.1, low_light=0.05, noise=0.2, letterbox=0, jpeg=0.2, rotation=2),
    "standard": Policy(),
    "strong": replace(Policy(), light=1.3, occluders=0.12, blur=0.35, low_light=0.3, noise=0.6, jpeg=0.5, rotation=9),
}
"""Named policies: ``none`` shows photographs as they are, whole."""
