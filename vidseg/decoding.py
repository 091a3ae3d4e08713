"""Picture files to pixels: upright, in sRGB, 8 or 16 bits, with their alpha. Pillow, and OpenCV for deep ones."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, UnidentifiedImageError

from vidseg.errors import SourceError, SourceNotFoundError
from vidseg.frame import Size

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""Full-range samples; uint16 uses all 16 bits."""

MAX_SIDE = 16384
MAX_PIXELS = 200_000_000
# Raster formats only: Pillow also knows some that start other programs (EPS) or are no pictures of the world.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM", "JPEG2000", "TGA")
_MOVING = ("GIF", "WEBP", "PNG", "AVIF")
_DEEP = ("RGB", "RGBA", "RGBX", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
_LIMIT = threading.Lock()


class Picture(NamedTuple):
    """One decoded picture. Its arrays may be read-only: a large picture is not copied for nothing.

    Attributes:
        rgb: ``(h, w, 3)`` uint8 or uint16, full range, sRGB transfer, not multiplied by alpha.
        alpha: ``(h, w)`` of the same dtype, or None when the picture is opaque.
    """

    rgb: Samples
    alpha: Samples | None


def read_picture(path: str | PathLike[str], at_least: Size | None = None) -> Picture:
    """Decode a still picture (the first of an animation) the way up that its EXIF orientation says.

    Grey, palette, CMYK and 1-bit pictures become RGB; an embedded ICC profile is applied to 8-bit pictures.

    Args:
        path: PNG, JPEG, WebP, GIF, TIFF, BMP, AVIF, JPEG 2000, PNM or TGA.
        at_least: A size that suffices: a larger JPEG may come out at 1/2, 1/4 or 1/8 of its size, never below this.

    Raises:
        SourceNotFoundError: There is no such file.
        SourceError: It is not a picture, cannot be decoded, or is too large (16384 pixels a side, 200 megapixels).
    """
    name = fspath(path)
    with _reading(name), _open(name) as image:
        # Undo of a turn by 90 degrees swaps the sides, so ask for the larger one both ways.
        if at_least is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (max(at_least), max(at_least)))
        if _is_deep(image):
            return _read_deep(name, image)
        return _to_picture(image)


def read_animation(path: str | PathLike[str]) -> Iterator[tuple[Picture, float]]:
    """Yield the pictures of an animated GIF, WebP, PNG or AVIF once, each with the seconds for which it is shown.

    Only one picture is held in memory. Raises as ``read_picture`` does, at the first picture or later ones.
    """
    name = fspath(path)
    with _reading(name), _open(name) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            # Browsers show a frame that asks for 10 ms or less for 100 ms; such files are made with that in mind.
            milliseconds = float(image.info.get("duration") or 0)
            yield _to_picture(image), (milliseconds if milliseconds > 10 else 100.0) / 1000


def picture_size(path: str | PathLike[str]) -> Size:
    """Return ``(h, w)`` as ``read_picture`` would give it, from the header alone; raises the same."""
    name = fspath(path)
    with _reading(name), _open(name) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


def is_picture(path: str | PathLike[str]) -> bool:
    """Return whether the head of the file is that of a picture, whatever its name says."""
    try:
        with Image.open(fspath(path), formats=_FORMATS):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # a broken header raises whatever the decoder's parser ran into
        return False


def is_animated(path: str | PathLike[str]) -> bool:
    """Return whether the file is a picture that moves; raises as ``read_picture`` does."""
    name = fspath(path)
    with _reading(name), _open(name) as image:
        return image.format in _MOVING and getattr(image, "n_frames", 1) > 1


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Map what Pillow and OpenCV raise to vidseg's errors."""
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{name} does not exist: check the name", url=name) from error
    except IsADirectoryError as error:
        raise SourceError(f"{name} is a folder, not a picture: name one file", url=name) from error
    except PermissionError as error:
        raise SourceError(f"{name} may not be read: change its permissions", url=name) from error
    except UnidentifiedImageError as error:
        raise SourceError(
            f"{name} is not a picture that can be read: save it as PNG, JPEG or WebP", url=name
        ) from error
    except MemoryError as error:
        raise SourceError(f"{name} does not fit into memory: scale it down", url=name) from error
    # Decoders of broken files raise nearly anything: OSError, SyntaxError, struct.error, cv2.error, ValueError.
    except Exception as error:
        raise SourceError(f"{name} is damaged ({error}): save it again as PNG, JPEG or WebP", url=name) from error


def _open(name: str) -> Image.Image:
    """Return the picture with its header read and its size checked, nothing decoded."""
    path = Path(name)
    if path.is_dir():
        raise IsADirectoryError(name)
    if path.stat().st_size == 0:
        raise SourceError(f"{name} is empty (0 bytes): choose another picture", url=name)
    # Pillow's own limit (a global) is lower than ours, and warns below it on stderr.
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(name, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        image.close()
        raise SourceError(
            f"{name} is {width}x{height} pixels; {MAX_SIDE} a side and {MAX_PIXELS // 1_000_000} megapixels are the "
            "most that can be read: scale it down",
            url=name,
        )
    return image


def _is_deep(image: Image.Image) -> bool:
    """Return whether the file has 16 bits a sample that Pillow would cut to 8."""
    if image.mode == "F":
        raise ValueError("floating-point samples are not supported")
    tiles = getattr(image, "tile", None)  # only an ImageFile has them
    how = str(tiles[0][3]) if tiles else ""
    return image.mode in _DEEP and (";16" in how or image.mode.startswith("I"))


def _read_deep(name: str, image: Image.Image) -> Picture:
    """Decode 16 bits a sample with OpenCV. It gives BGR(A) or grey, not turned."""
    # From memory, since cv2.imread cannot open every name on Windows.
    samples = cv2.imdecode(np.fromfile(name, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype not in (np.uint8, np.uint16):
        raise ValueError("unknown kind of samples")
    if samples.ndim == 2 or samples.shape[2] == 1:
        samples = cv2.cvtColor(samples, cv2.COLOR_GRAY2RGB)
    else:
        samples = cv2.cvtColor(samples, cv2.COLOR_BGRA2RGBA if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return _split(samples, image)


def to_depth(samples: Samples, depth: int) -> Samples:
    """Return full-range samples as 8 bits or, if ``depth`` is more, as 16; rounded to nearest, uncopied if they are."""
    if samples.dtype == (np.uint8 if depth == 8 else np.uint16):
        return samples
    if depth == 8:
        return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return samples.astype(np.uint16) * np.uint16(257)


def _turned(samples: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Return a view of ``samples`` upright, by EXIF's orientation 1 to 8."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _to_picture(image: Image.Image) -> Picture:
    """Convert 8-bit samples of any mode to sRGB and alpha."""
    wanted = "RGBA" if image.has_transparency_data else "RGB"
    profile = image.info.get("icc_profile")
    converted = image
    if image.mode in ("P", "PA", "1", "La", "RGBa") or (wanted == "RGBA" and "A" not in image.mode):
        converted = image.convert(wanted)
    if profile:
        converted = _to_srgb(converted, profile)
    if converted.mode != wanted:
        converted = converted.convert(wanted)
    return _split(np.asarray(converted), image)


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Apply an ICC profile. A broken one, or one of another kind of picture, is as none."""
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    opaque = image.convert(image.mode.rstrip("A")) if alpha is not None else image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(
            opaque, source, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    if converted is None:
        return image
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _split(samples: npt.NDArray[Any], image: Image.Image) -> Picture:
    """Turn RGB(A) upright and part it into colour and alpha; an alpha that is opaque everywhere is None."""
    samples = _turned(samples, int(image.getexif().get(0x0112, 1)))
    if samples.shape[2] == 3:
        return Picture(np.ascontiguousarray(samples), None)
    alpha = np.ascontiguousarray(samples[..., 3])
    opaque = bool(alpha.min() == np.iinfo(alpha.dtype).max)
    return Picture(np.ascontiguousarray(samples[..., :3]), None if opaque else alpha)
