"""Pictures as a stream: one, a folder of them, a numbered sequence or a glob."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Self, cast

import cv2
import numpy as np

from vidseg.decoding import Picture, Samples, is_animated, read_picture, to_depth
from vidseg.errors import SourceError, SourceNotFoundError
from vidseg.frame import RGB, Frame, FullAlpha, Size, StreamInfo, allocate

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".webp", ".tif", ".tiff", ".bmp", ".avif"})
"""What counts as a picture in a folder, where all other files are passed over."""
_NUMBER = re.compile(r"%0?\d*d")
_STILL = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM")


def is_pictures(url: str) -> bool:
    """Return whether ``url`` is a folder, a pattern (``shot_%04d.png``), a glob or a still picture.

    An animated WebP or PNG, any GIF and a Motion-JPEG stream are videos.
    """
    if "://" in url:
        return False
    path = Path(url)
    if os.path.isdir(url):  # os.path, as pathlib raises for a folder that may not be entered
        return True
    if not os.path.isfile(url):
        return path.suffix.lower() in SUFFIXES or _is_glob(path.name)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    if head[:3] == b"GIF" or path.suffix.lower() in (".mjpeg", ".mjpg"):
        return False
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    if not (webp or head.startswith(_STILL) or path.suffix.lower() in SUFFIXES):
        return False
    try:
        return not is_animated(url)
    except SourceError:
        return True  # a picture by its name, and PictureSource says what is wrong with it


def list_pictures(url: str) -> list[Path]:
    """Return the pictures that ``url`` names, in natural order: ``shot_2`` before ``shot_10``.

    Raises:
        SourceNotFoundError: There is no such file or folder, or no file fits the pattern.
        SourceError: The folder holds no picture.
    """
    path, folder = Path(url), os.path.isdir(url)
    if os.path.isfile(url):
        return [path]
    try:
        if folder:
            found = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
        elif _NUMBER.search(path.name):
            first, last = _NUMBER.split(path.name, maxsplit=1)
            fits = re.compile(rf"{re.escape(first)}\d+{re.escape(last)}")
            found = [p for p in path.parent.iterdir() if fits.fullmatch(p.name)]
        elif _is_glob(path.name):
            found = list(path.parent.glob(path.name))
        else:
            raise SourceNotFoundError(f"{url} does not exist: check the name", url=url)
        found = [p for p in found if os.path.isfile(p)]
    except (FileNotFoundError, NotADirectoryError) as error:
        if isinstance(error, SourceNotFoundError):
            raise
        raise SourceNotFoundError(f"{path.parent} does not exist: check the name of the folder", url=url) from error
    except OSError as error:
        raise SourceError(f"{url} cannot be read: {error.strerror or error}", url=url) from error
    if not found and folder:
        raise SourceError(f"{url} holds no picture: put PNG, JPEG, WebP, TIFF or BMP files there", url=url)
    if not found:
        raise SourceNotFoundError(f"No file fits {url}: check the pattern", url=url)
    return sorted(found, key=_natural)


def to_frame(picture: Picture, pts: int = 0, time_base: Fraction = Fraction(1)) -> Frame:
    """Return a picture as a frame of G, B, R planes, 4:4:4, without loss; its duration is one ``time_base``."""
    depth = 8 if picture.rgb.dtype == np.uint8 else 16
    planes = allocate(picture.rgb.shape[:2], depth, subsampled=False)
    for plane, channel in zip(planes, (1, 2, 0), strict=True):
        plane[...] = picture.rgb[..., channel]
    alpha = None if picture.alpha is None else cast("FullAlpha", to_depth(picture.alpha, 8))
    return Frame(planes, pts, time_base, RGB, depth, 1, alpha)


class PictureSource:
    """Pictures in natural order, as R'G'B' 4:4:4 of 8 or 16 bits, upright.

    All come out with the size and depth of the first that can be read: others are scaled into it before black. A
    broken one is counted, passed over, and leaves a gap in time.

    Args:
        url: See ``is_pictures``.
        fps: Pictures a second.

    Raises:
        SourceNotFoundError: There is nothing under that name.
        SourceError: None of them is a picture.
    """

    truncated = False

    def __init__(self, url: str, fps: Fraction = Fraction(30)) -> None:
        self._paths = list_pictures(url)
        self._broken: dict[int, str] = {}
        self._scaled = 0
        self._closed = threading.Event()
        first = None
        for index in range(len(self._paths)):
            if (first := self._read(index)) is not None:
                break
        if first is None:
            what = f"{url} holds no picture that can be read: the first says that " if len(self._paths) > 1 else ""
            raise SourceError(what + self._broken[0], url=url)
        self._first: tuple[int, Picture | None] = index, first
        self._info = StreamInfo(
            size=(first.rgb.shape[0], first.rgb.shape[1]),
            fps=fps,
            time_base=1 / fps,
            color=RGB,
            depth=8 if first.rgb.dtype == np.uint8 else 16,
            subsampled=False,
            frames=len(self._paths),
            duration=float(len(self._paths) / fps),
            name=url,
        )

    @property
    def info(self) -> StreamInfo:
        """What the stream promises."""
        return self._info

    @property
    def corrupt(self) -> int:
        """How many pictures could not be read so far."""
        return len(self._broken)

    @property
    def notes(self) -> tuple[str, ...]:
        """Which pictures could not be read, and whether some had another size."""
        told = [f"Left out: {text}" for text in list(self._broken.values())[:10]]
        if len(self._broken) > 10:
            told.append(f"{len(self._broken) - 10} more pictures could not be read")
        if self._scaled:
            height, width = self._info.size
            told.append(f"{self._scaled} pictures of another size were scaled to {width}x{height} as the first")
        return tuple(told)

    def __iter__(self) -> Iterator[Frame]:
        start, first = self._first
        self._first = start, None
        for index in range(start, len(self._paths)):
            if self._closed.is_set():
                return
            picture, first = first or self._read(index), None
            if picture is not None:
                yield to_frame(self._fitted(picture), index, self._info.time_base)

    def close(self) -> None:
        """End the iteration."""
        self._closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, index: int) -> Picture | None:
        try:
            return read_picture(self._paths[index])
        except SourceError as error:
            self._broken[index] = str(error)
            return None

    def _fitted(self, picture: Picture) -> Picture:
        """Return the picture with the size and depth of the stream."""
        size, depth = self._info.size, self._info.depth
        self._scaled += picture.rgb.shape[:2] != size
        rgb = to_depth(_scaled(picture.rgb, size), depth)
        return Picture(rgb, None if picture.alpha is None else to_depth(_scaled(picture.alpha, size), depth))


def _scaled(samples: Samples, size: Size) -> Samples:
    """Return ``samples`` scaled as a whole into the middle of a black picture of ``size``."""
    height, width = samples.shape[:2]
    if (height, width) == size:
        return samples
    scale = min(size[0] / height, size[1] / width)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    fitted = np.zeros((*size, *samples.shape[2:]), samples.dtype)
    fitted[top : top + inner[0], left : left + inner[1]] = cv2.resize(samples, inner[::-1], interpolation=how)
    return fitted


def _is_glob(name: str) -> bool:
    return any(character in name for character in "*?[") and Path(name).suffix.lower() in SUFFIXES


def _natural(path: Path) -> tuple[list[int | str], str]:
    """Return what sorts numbers by value; names that differ in zeros only are sorted as text."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name
