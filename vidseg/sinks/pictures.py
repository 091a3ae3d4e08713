"""Numbered pictures in a folder, and the one function that encodes a picture. OpenCV and Pillow beneath."""

from __future__ import annotations

import io
import itertools
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from vidseg.color import rgb_from_planes
from vidseg.decoding import to_depth
from vidseg.errors import OutputExistsError, SinkError
from vidseg.frame import Frame, StreamInfo
from vidseg.sinks import OutputOptions, check_alpha

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
"""What pictures can be written as. Only PNG holds 16 bits, and JPEG holds no alpha."""
_NUMBER = re.compile(r"%0?\d*d")
_HDR_TRANSFERS = (16, 18)  # PQ and HLG, H.273 table 3


def is_pictures(url: str) -> bool:
    """Return whether ``url`` names pictures: a folder, a name without suffix, or a pattern (``shot_%04d.png``)."""
    if "://" in url or url == "-" or url.startswith("-:"):
        return False
    path = Path(url)
    if _NUMBER.search(path.name) and path.suffix.lower() in SUFFIXES:
        return True
    return url.endswith(("/", os.sep)) or not path.suffix or os.path.isdir(url)


def encode_picture(
    suffix: str,
    pixels: npt.NDArray[Any],
    alpha: npt.NDArray[Any] | None = None,
    *,
    profile: bytes = b"",
    coding: bytes = b"",
    sample_aspect: Fraction = Fraction(1),
    name: str = "",
) -> bytes:
    """Encode one picture.

    Args:
        suffix: One of ``SUFFIXES``. JPEG and WebP are written at quality 95, PNG is exact.
        pixels: RGB ``(h, w, 3)`` or grey ``(h, w)``; uint16 is the whole range of 16 bits.
        alpha: Straight alpha ``(h, w)`` of the same type. Colours under alpha 0 are written as black: what was cut
            away may not be in the file at all.
        profile: ICC profile to embed, or nothing.
        coding: Four bytes of a PNG ``cICP`` chunk (H.273 primaries, transfer, matrix, range), or nothing.
        sample_aspect: Width of a pixel by its height, kept in PNG (``pHYs``) only.
        name: What to call the output in a message.

    Raises:
        SinkError: That format cannot hold this picture.
    """
    suffix = suffix.lower()
    if alpha is not None:
        if suffix in (".jpg", ".jpeg"):
            raise SinkError(f"{name or 'JPEG'} cannot be transparent: JPEG has no alpha, write PNG or WebP", url=name)
        pixels = np.concatenate([pixels, alpha[..., None]], axis=2, dtype=pixels.dtype)
        pixels[alpha == 0] = 0
    try:
        if suffix == ".png":
            return _png(pixels, profile, coding, sample_aspect)
        encoded = io.BytesIO()
        kind = "WEBP" if suffix == ".webp" else "JPEG"
        Image.fromarray(np.ascontiguousarray(to_depth(pixels, 8))).save(
            encoded, kind, quality=95, icc_profile=profile or None
        )
        return encoded.getvalue()
    except (cv2.error, OSError, ValueError) as error:
        height, width = pixels.shape[:2]
        raise SinkError(
            f"{name or 'The picture'} cannot be written: {width}x{height} is too large for {suffix}", url=name
        ) from error


def _png(pixels: npt.NDArray[Any], profile: bytes, coding: bytes, aspect: Fraction) -> bytes:
    """Encode as PNG; OpenCV's own encoder writes nothing but pixels before 4.13, so the rest is added here."""
    order = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[pixels.shape[2] if pixels.ndim == 3 else 1]
    pixels = np.ascontiguousarray(pixels)
    done, encoded = cv2.imencode(".png", pixels if order is None else cv2.cvtColor(pixels, order))
    if not done:
        raise ValueError("no PNG")
    chunks = [(b"iCCP", b"ICC\0\0" + zlib.compress(profile))] if profile else []
    chunks += [(b"cICP", coding)] if coding else []
    if aspect != 1:  # in pixels a unit: the wider a pixel, the fewer there are
        chunks += [(b"pHYs", aspect.denominator.to_bytes(4) + aspect.numerator.to_bytes(4) + b"\0")]
    extra = b"".join(len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks)
    written = encoded.tobytes()
    header = 8 + 25  # signature and IHDR; all of these stand before the pixels
    return written[:header] + extra + written[header:]


class HiddenFolder:
    """Where files wait until all of them are whole: beside a folder to be made, or inside one that is there.

    Inside, since an output folder may be a file system of its own, to which nothing can be renamed.

    Args:
        folder: Where the files will be. Its parent must exist.
        name: What to call the output in a message.
        overwrite: Whether files that are there may be replaced.

    Raises:
        SinkError: It cannot be written there.
    """

    def __init__(self, folder: Path, name: str, *, overwrite: bool = False) -> None:
        self._folder, self._name, self._overwrite = folder, name, overwrite
        with writing(name):
            self._existed = folder.is_dir()
            if not self._existed and folder.exists():
                raise SinkError(f"{name} is a file, not a folder: choose another name", url=name)
            if not self._existed and not folder.parent.is_dir():
                raise SinkError(f"{name} cannot be made: the folder {Path(name).parent} does not exist", url=name)
            home = folder if self._existed else folder.parent
            self.path = home / f".{folder.name}.{uuid.uuid4().hex[:8]}"
            self.path.mkdir()

    def write(self, name: str, data: bytes) -> None:
        """Write one file."""
        with writing(self._name):
            (self.path / name).write_bytes(data)

    def publish(self) -> None:
        """Give the files their names.

        Raises:
            OutputExistsError: Something of that name has appeared meanwhile; the files are kept as by ``keep``.
        """
        with writing(self._name):
            if not self._existed and not self._folder.exists():
                self.path.rename(self._folder)
                return
            paths = sorted(self.path.iterdir())
            there = [path.name for path in paths if (self._folder / path.name).exists()]
            if there and not self._overwrite:
                raise OutputExistsError(
                    f"{self._folder / there[0]} has appeared meanwhile: what was done is in {self.keep()}",
                    url=self._name,
                )
            for path in paths:
                path.replace(self._folder / path.name)
            self.path.rmdir()

    def discard(self) -> None:
        """Remove all files that have not got their names."""
        shutil.rmtree(self.path, ignore_errors=True)

    def keep(self) -> str | None:
        """Keep the files as the folder ``NAME.partial``, an older one is spared; None if they were published."""
        if not self.path.exists():
            return None
        with writing(self._name):
            for number in itertools.count(1):
                ending = f"-{number}" if number > 1 else ""
                partial = self.path.parent / f"{self._folder.name}.partial{ending}"
                if not partial.exists():
                    self.path.rename(partial)
                    break
        return str(partial)


class PictureSink:
    """Numbers its frames from 1 into a folder; upright, 16 bit when the frames have more than 8.

    Args:
        url: A folder, which then holds ``%06d.png``, or a pattern.
        info: Of the frames that will be written.
        options: Only ``content`` and ``overwrite`` mean something here.

    Raises:
        OutputExistsError: The folder is not empty, or pictures of that pattern are there. To overwrite replaces such
            numbered pictures and leaves every other file of the folder alone.
        SinkError: It cannot be written there, or not in that form, or it would replace the pictures that are read.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, url: str, info: StreamInfo, options: OutputOptions) -> None:
        self._url, self._info, self._content = url, info, options.content
        path = Path(url).absolute()
        numbered = _NUMBER.search(path.name) is not None
        self._folder, self._pattern = (path.parent, path.name) if numbered else (path, "%06d.png")
        self._suffix = Path(self._pattern).suffix.lower()
        self._numbered = _matcher(self._pattern, url)
        if options.codec is not None:
            raise SinkError(f"{url} is a folder of pictures, which has no codec: leave out {options.codec}", url=url)
        if options.content == "transparent" and self._suffix in (".jpg", ".jpeg"):
            raise SinkError(f"{url} cannot be transparent: JPEG has no alpha, write PNG or WebP", url=url)
        if numbered and not os.path.isdir(self._folder):
            raise SinkError(f"{url} cannot be written: the folder {Path(url).parent} does not exist", url=url)
        with writing(url):
            there = list(self._folder.iterdir()) if self._folder.is_dir() else []
            if numbered:
                there = [path for path in there if self._numbered.fullmatch(path.name)]
            if there and _reads_from(self._folder, info.name):
                raise SinkError(f"{url} is the input, which is never replaced: choose another name", url=url)
            if there and not options.overwrite:
                what = f"{url} holds {there[0].name} already" if numbered else f"{url} is not empty"
                raise OutputExistsError(f"{what}: give --overwrite or another name", url=url)
        self._count = 0
        self._hidden = HiddenFolder(self._folder, url, overwrite=options.overwrite)

    def write(self, frame: Frame) -> None:
        """Write one frame as the next picture."""
        check_alpha(frame, self._content)
        alpha, coding = None, b""
        if self._content == "grey":
            pixels: npt.NDArray[Any] = to_grey(frame)
        else:
            pixels, coding = to_rgb(frame), coding_of(frame)
            alpha = None if frame.alpha is None else self._upright(to_depth(frame.alpha, frame.depth))
        self._count += 1
        encoded = encode_picture(
            self._suffix,
            self._upright(pixels),
            alpha,
            coding=coding,
            sample_aspect=self._info.sample_aspect if self._info.rotation % 180 == 0 else 1 / self._info.sample_aspect,
            name=self._url,
        )
        self._hidden.write(self._pattern % self._count, encoded)

    def commit(self) -> None:
        """Give the pictures their names."""
        self._hidden.publish()
        with writing(self._url):
            # What is left over of a longer sequence would be read as the end of this one.
            written = {self._pattern % number for number in range(1, self._count + 1)}
            for path in list(self._folder.iterdir()):
                if path.name not in written and self._numbered.fullmatch(path.name):
                    path.unlink()

    def abort(self, keep_partial: bool = False) -> str | None:
        """Remove what was written, or keep it as the folder ``NAME.partial``."""
        if keep_partial and self._count:
            return self._hidden.keep()
        self._hidden.discard()
        return None

    def _upright(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of the picture as a player would show it."""
        turned = np.rot90(pixels, self._info.rotation // 90)
        return np.fliplr(turned) if self._info.mirrored else turned


@contextmanager
def writing(url: str) -> Iterator[None]:
    """Map what the file system says to one sentence."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SinkError):
            raise
        raise SinkError(f"{url} cannot be written: {error.strerror or error}", url=url) from error


def _reads_from(folder: Path, source: str) -> bool:
    """Return whether ``source`` is pictures in ``folder``."""
    if not os.path.isdir(source):
        if Path(source).suffix.lower() not in SUFFIXES:
            return False
        source = os.path.dirname(source) or "."
    return os.path.isdir(source) and os.path.samefile(source, folder)


def _matcher(pattern: str, url: str) -> re.Pattern[str]:
    """Return what matches the names that ``pattern`` makes."""
    parts = _NUMBER.split(pattern.replace("%%", "\0"))
    if len(parts) != 2 or "%" in "".join(parts):
        raise SinkError(f"{url} is no pattern for pictures: write one number, like shot_%04d.png", url=url)
    first, last = (re.escape(part.replace("\0", "%")) for part in parts)
    return re.compile(rf"{first}\d+{last}")


def to_rgb(frame: Frame) -> npt.NDArray[Any]:
    """Return the picture as uint8 RGB, or uint16 if it has more than 8 bits."""
    if frame.color.matrix == "rgb" and frame.color.full_range and frame.depth in (8, 16):
        green, blue, red = frame.planes
        return np.stack([red, green, blue], axis=-1)
    return rgb_from_planes(frame.planes, frame.color, frame.depth, bits=8 if frame.depth == 8 else 16)


def to_grey(frame: Frame) -> npt.NDArray[np.uint8]:
    """Return luma as full-range 8 bit."""
    luma = frame.planes[0]
    if frame.depth == 8 and frame.color.full_range:
        return luma.astype(np.uint8, copy=False)
    low, high = (0, 2**frame.depth - 1) if frame.color.full_range else (16 << frame.depth - 8, 235 << frame.depth - 8)
    levels = np.arange(2**frame.depth, dtype=np.float64)
    table = np.rint(np.clip((levels - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return np.asarray(table[luma], np.uint8)


def coding_of(frame: Frame) -> bytes:
    """Return the ``cICP`` chunk of wide-gamut and HDR pictures; for all others sRGB is what every viewer assumes."""
    color = frame.color
    if color.transfer in _HDR_TRANSFERS or color.primaries == 9:
        return bytes([color.primaries, color.transfer, 0, 1])
    return b""
