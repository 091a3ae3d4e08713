"""Pictures of other libraries to frames and back: NumPy arrays, PyTorch tensors and PyAV's pictures, none imported."""

from __future__ import annotations

import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

import numpy as np
import numpy.typing as npt

from vidseg.color import rgb_from_planes
from vidseg.frame import RGB, Frame, FullAlpha, allocate
from vidseg.sinks.i420 import READ_AS, to_i420

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Layout = Literal["rgb", "bgr", "i420", "nv12"]
"""What the numbers of an array are. I420 and NV12 are BT.601 of limited range, as OpenCV and WebRTC have them."""
P = TypeVar("P")
"""A picture: a ``Frame``, an ``av.VideoFrame``, a NumPy array or a PyTorch tensor."""
Array = npt.NDArray[Any]

INTERVAL = 1 / 30
"""Seconds from one picture to the next of which nobody says when they are."""
_TIME_BASE = Fraction(1, 1_000_000)
_PLANAR = {
    **{"yuv420p": 8, "yuvj420p": 8, "yuva420p": 8, "yuv420p10le": 10, "yuva420p10le": 10},
    **{"yuv444p": 8, "yuvj444p": 8, "yuv444p10le": 10},
}
"""Formats of PyAV whose first three planes are a ``Frame``'s, with their depth."""


def to_frame(picture: Any, layout: Layout = "rgb", time: float = 0.0) -> Frame:
    """Return a picture as a frame, whose planes may be views of it.

    Args:
        picture: A ``Frame``, which is returned as it is; an ``av.VideoFrame`` of any format; or an array or tensor on
            any device: RGB and BGR ``(h, w, 3)`` or ``(3, h, w)``, also with a 1 before them, of uint8, uint16 or
            floats from 0 to 1; I420 and NV12 uint8 ``(h * 3 / 2, w)``.
        layout: Of an array.
        time: Of the picture in seconds, unless it has one itself.

    Raises:
        TypeError: It is no picture, or has numbers of another type.
        ValueError: Its shape or its numbers are those of no picture, or there is no such layout.
    """
    if isinstance(picture, Frame):
        return picture
    if _is_av(picture):
        return _of_av(picture, time)
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, not {layout!r}")
    array = _array(picture)
    pts = round(time / _TIME_BASE)
    if layout in ("i420", "nv12"):
        return Frame(_split(array, layout), pts, _TIME_BASE, READ_AS)
    pixels = _sampled(_with_channels_last(array, picture))
    depth = 8 * pixels.itemsize
    return Frame(_gbr(pixels if layout == "rgb" else pixels[..., ::-1], depth), pts, _TIME_BASE, RGB, depth)


def alike(frame: Frame, picture: P, layout: Layout = "rgb") -> P:
    """Return ``frame`` as what ``picture`` is: kind, layout, shape, type of numbers, device, format, times and tags.

    Where ``frame`` has an alpha, arrays of RGB and BGR get it as a fourth channel, and so do pictures of PyAV.

    Raises:
        ValueError: There is an alpha, and I420 and NV12 have no place for it.
    """
    result: Any
    if isinstance(picture, Frame):
        result = frame
    elif _is_av(picture):
        result = _to_av(frame, cast("VideoFrame", picture))
    elif layout in ("i420", "nv12"):
        if frame.alpha is not None:
            raise ValueError(f"{layout} has no alpha: give pictures as rgb or bgr for a transparent background")
        flat, (height, width) = to_i420(frame), frame.size
        if layout == "nv12":
            chroma = flat[height * width :].reshape(2, -1)
            flat = np.concatenate([flat[: height * width], chroma.T.reshape(-1)])
        result = _given_back(flat.reshape(_array(picture).shape), picture)
    else:
        pixels = _rgb(frame)
        if layout == "bgr":
            pixels = pixels[..., ::-1]
        if frame.alpha is not None:
            alpha = frame.alpha if pixels.dtype == np.uint8 else frame.alpha.astype(np.uint16) * 257
            pixels = np.concatenate([pixels, alpha[..., None]], axis=-1)
        array = _array(picture)
        pixels = np.moveaxis(_scaled(pixels, array.dtype), -1, _channels(array, picture) - 3)
        result = _given_back(np.ascontiguousarray(pixels[None] if array.ndim == 4 else pixels), picture)
    return result  # type: ignore[no-any-return]


def alpha_alike(alpha: FullAlpha, picture: Any) -> Any:
    """Return an alpha ``(h, w)`` as an array, a tensor where ``picture`` is one, with its type of numbers.

    Its 1 is 255 in uint8, which is also what a ``Frame`` and an ``av.VideoFrame`` get, 65535 in uint16, 1.0 in floats.
    """
    if isinstance(picture, Frame) or _is_av(picture):
        return alpha
    return _given_back(_scaled(alpha, _array(picture).dtype), picture)


# -- arrays and tensors ----------------------------------------------------------------------------------------------


def _is_tensor(picture: Any) -> bool:
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    return torch is not None and isinstance(picture, torch.Tensor)


def _array(picture: Any) -> Array:
    """Return the numbers of an array or tensor; a view if they are in this machine's memory."""
    if isinstance(picture, np.ndarray):
        return picture
    if _is_tensor(picture):
        try:
            return np.from_dlpack(picture.detach().cpu())
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(f"a tensor of {picture.dtype} cannot be read: give uint8 or float32") from error
    raise TypeError(
        f"a picture is a Frame, an av.VideoFrame, a NumPy array or a PyTorch tensor, not {type(picture).__name__}"
    )


def _given_back(array: Array, picture: Any) -> Any:
    """Return ``array``, as a tensor on the same device if ``picture`` is one."""
    if not _is_tensor(picture):
        return array
    return sys.modules["torch"].from_dlpack(array).to(picture.device)


def _channels(array: Array, picture: Any) -> int:
    """Return which of the last three axes has the three colours: 0 or 2."""
    shape = array.shape[1:] if array.ndim == 4 and array.shape[0] == 1 else array.shape
    if len(shape) == 3 and 0 not in shape:
        for axis in (0, 2) if _is_tensor(picture) else (2, 0):
            if shape[axis] == 3:
                return axis
    raise ValueError(f"a picture of rgb or bgr is (height, width, 3) or (3, height, width), not {array.shape}")


def _with_channels_last(array: Array, picture: Any) -> Array:
    axis = _channels(array, picture)
    return np.moveaxis(array[0] if array.ndim == 4 else array, axis, -1)


def _sampled(pixels: Array) -> Array:
    """Return whole numbers: floats get 16 bits."""
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    if pixels.dtype.kind != "f":
        raise TypeError(f"the numbers of a picture are uint8, uint16 or floats from 0 to 1, not {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    # Networks overshoot a little; a comparison with NaN is false.
    if not (low >= -0.5 and high <= 1.5):
        raise ValueError(f"floats of a picture are from 0 to 1, not from {low:g} to {high:g}: divide by 255, or round")
    whole: Array = np.rint(np.clip(pixels.astype(np.float32), 0, 1) * np.float32(65535)).astype(np.uint16)
    return whole


def _scaled(samples: Array, dtype: np.dtype[Any]) -> Array:
    """Return samples of 8 or 16 bits as numbers of another type."""
    if samples.dtype == dtype:
        return samples
    if dtype.kind == "f":
        return (samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)).astype(dtype)
    if dtype == np.uint16:
        return samples.astype(np.uint16) * np.uint16(257)
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _split(array: Array, layout: str) -> tuple[Any, Any, Any]:
    """Return the planes of I420 or NV12."""
    if array.dtype != np.uint8:
        raise TypeError(f"{layout} is of uint8, not {array.dtype}")
    rows, width = array.shape[-2:] if array.ndim == 2 or (array.ndim == 3 and array.shape[0] == 1) else (0, 0)
    height = rows * 2 // 3
    if not width or not height or rows % 3 or height % 2 or width % 2:
        raise ValueError(
            f"a picture of {layout} is (height * 3 / 2, width) with an even height and width, not {array.shape}"
        )
    flat, luma, small = np.ascontiguousarray(array).reshape(-1), height * width, (height // 2, width // 2)
    if layout == "i420":
        u, v = flat[luma:].reshape(2, *small)
    else:
        pairs = flat[luma:].reshape(*small, 2)
        u, v = np.ascontiguousarray(pairs[..., 0]), np.ascontiguousarray(pairs[..., 1])
    return flat[:luma].reshape(height, width), u, v


def _gbr(rgb: Array, depth: int) -> Any:
    planes = allocate((rgb.shape[0], rgb.shape[1]), depth, subsampled=False)
    for plane, channel in zip(planes, (1, 2, 0), strict=True):
        plane[...] = rgb[..., channel]
    return planes


def _rgb(frame: Frame) -> Array:
    """Return a frame as R'G'B' ``(h, w, 3)``, of uint8 or the whole range of uint16."""
    if frame.color.matrix == "rgb" and frame.depth in (8, 16):
        g, b, r = frame.planes
        return np.stack([r, g, b], axis=-1)
    return rgb_from_planes(frame.planes, frame.color, frame.depth, bits=8 if frame.depth == 8 else 16)


# -- PyAV ------------------------------------------------------------------------------------------------------------


def _is_av(picture: Any) -> bool:
    av = sys.modules.get("av")
    return av is not None and isinstance(picture, av.VideoFrame)


def _of_av(picture: VideoFrame, time: float) -> Frame:
    from vidseg.sources.pyav import color_of, plane_view

    base, pts = picture.time_base, picture.pts
    if pts is None or not base or not base.numerator:
        pts, time_base = round(time / _TIME_BASE), _TIME_BASE
    else:
        time_base = Fraction(base.numerator, base.denominator)
    bits = max(component.bits for component in picture.format.components)
    if picture.format.is_rgb:
        depth = 8 if bits <= 8 else 16
        pixels = picture.to_ndarray(format="rgb24" if depth == 8 else "rgb48le")
        return Frame(_gbr(pixels, depth), pts, time_base, RGB, depth)
    color = color_of(picture)
    if picture.format.name not in _PLANAR:
        code = 2 if color.full_range else 1
        picture = picture.reformat(
            format="yuv420p" if bits <= 8 else "yuv420p10le",
            src_color_range=code,
            dst_color_range=code,
            threads=1,  # several get P010 wrong now and then
        )
    depth = _PLANAR[picture.format.name]
    y, u, v = (plane_view(picture, index, depth) for index in range(3))
    return Frame((y, u, v), pts, time_base, color, depth)


def _to_av(frame: Frame, like: VideoFrame) -> VideoFrame:
    from vidseg.sinks.pyav import wrap

    name, depth = like.format.name, frame.depth
    end = "" if depth == 8 else f"{depth}le"
    code = 2 if frame.color.full_range else 1
    planes = list(frame.planes)
    if frame.alpha is not None:
        top = (1 << depth) - 1
        planes.append(
            frame.alpha if depth == 8 else ((frame.alpha.astype(np.uint32) * top + 127) // 255).astype(np.uint16)
        )
    sampling = "gbr" if frame.color.matrix == "rgb" else f"yuv{'420' if frame.subsampled else '444'}"
    if frame.alpha is not None:
        sampling = sampling.replace("gbr", "gbra").replace("yuv", "yuva")
        name = (f"{sampling}p{end}" if sampling[0] == "y" else "rgba") if depth == 8 else f"{sampling}p{end}"
    form = f"{sampling}p{end}"
    # What is called yuvj is yuv of full range under an old name.
    name = name.replace("yuvj", "yuv")
    picture = wrap(planes, form, frame.size)
    if name != form:
        picture = picture.reformat(format=name, src_color_range=code, dst_color_range=code, threads=1)
    for tag in ("colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(picture, tag, getattr(like, tag))
    if like.format.name.startswith("yuvj"):
        picture.color_range = 2
    picture.pts, picture.duration = like.pts, like.duration
    if like.time_base:
        picture.time_base = like.time_base
    return picture
