"""What is put behind the people: a picture, a looped video, a colour, the room out of focus, or nothing."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.color import planes_from_rgb, rgb_from_planes, rgb_matrix, to_color, ycbcr_matrix
from vidseg.decoding import Picture, Samples, is_animated, is_picture, read_animation, read_picture
from vidseg.errors import SourceError, SourceNotFoundError
from vidseg.frame import RGB, Frame, FullAlpha, Plane, Size, allocate
from vidseg.light import convert_light, is_same_light
from vidseg.resize import shrink
from vidseg.sources import Source, open_source

Fit = Literal["cover", "contain", "stretch"]
Array = npt.NDArray[Any]

_LOG = logging.getLogger(__name__)
_LARGEST = 4320, 7680
"""A picture is kept at no more pixels than this (8K), whatever the file has."""
_FREE = np.clip(1 - np.arange(256, dtype=np.float32) * np.float32(64 / 255), 0, 1)
"""How free of people a pixel is: a mean alpha of 1/64, one pixel of an 8x8 block, is enough to leave it out."""
_ROUNDING = 0.002
"""Seconds by which a frame of a video may begin too early."""
_PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".pnm", ".tga", ".heic", ".heif", ".svg"),
)
_COLORS = {
    "black": "#000000", "silver": "#c0c0c0", "gray": "#808080", "grey": "#808080", "white": "#ffffff",
    "maroon": "#800000", "red": "#ff0000", "purple": "#800080", "fuchsia": "#ff00ff", "magenta": "#ff00ff",
    "green": "#008000", "lime": "#00ff00", "olive": "#808000", "yellow": "#ffff00", "navy": "#000080",
    "blue": "#0000ff", "teal": "#008080", "aqua": "#00ffff", "cyan": "#00ffff", "orange": "#ffa500",
    "pink": "#ffc0cb", "brown": "#a52a2a", "gold": "#ffd700", "skyblue": "#87ceeb", "dodgerblue": "#1e90ff",
    "steelblue": "#4682b4", "lightgray": "#d3d3d3", "lightgrey": "#d3d3d3", "darkgray": "#a9a9a9",
    "darkgrey": "#a9a9a9", "beige": "#f5f5dc", "ivory": "#fffff0", "coral": "#ff7f50", "salmon": "#fa8072",
    "turquoise": "#40e0d0", "indigo": "#4b0082", "violet": "#ee82ee", "lavender": "#e6e6fa",
}  # fmt: skip
"""CSS Color 3: the basic names and a few that people ask for."""


class Background(Protocol):
    """Gives the picture to put behind a frame.

    Guaranteed to an implementation: one thread calls, with the frames of one stream in order. Guaranteed by it: the
    result has the size, chroma, depth and colour of ``frame`` and its time; it shows nothing of the people, and nothing
    of the room unless it is the blur. Its planes are read-only, and may be those of the frame before.
    New backgrounds are added to ``tests/test_backgrounds.py``.
    """

    def render(self, frame: Frame, alpha: FullAlpha) -> Frame:
        """Return the background for ``frame``, whose people are where ``alpha`` is not 0."""
        ...

    def close(self) -> None:
        """Release everything. May be called again."""
        ...


def open_background(
    text: str,
    fit: Fit = "cover",
    rotation: int = 0,
    sample_aspect: Fraction = Fraction(1),
    *,
    mirrored: bool = False,
) -> Background:
    """Open what a person named as a background.

    Args:
        text: Path of a picture (an animated one is looped), path or URL of a video (looped, at its own frame rate),
            ``#rgb``, ``#rrggbb``, a colour's name, ``blur``, ``blur:STRENGTH`` with 0 to 100 (50 if not given), or
            ``transparent``.
        fit: How a picture of another shape is put into the frame: ``cover`` fills it and cuts what is too much,
            ``contain`` shows all of it with black around, ``stretch`` distorts it.
        rotation: ``StreamInfo.rotation`` of the frames: the background is upright for whoever watches them.
        sample_aspect: ``StreamInfo.sample_aspect`` of the frames.
        mirrored: ``StreamInfo.mirrored`` of the frames.

    Raises:
        SourceNotFoundError: There is nothing under that name.
        SourceError: It is no background: not a picture or video, damaged, too large, a colour or strength that is none.
    """
    if fit not in get_args(Fit):
        raise ValueError(f"fit must be cover, contain or stretch, not {fit = }")
    if rotation % 90:
        raise ValueError(f"the rotation must be a multiple of 90 degrees, not {rotation = }")
    if sample_aspect <= 0:
        raise ValueError(f"the sample aspect must be more than 0, not {sample_aspect = }")
    view = _View(rotation // 90 % 4, mirrored, sample_aspect)
    word = text.strip().lower()
    if word == "transparent":
        return TransparentBackground()
    if word == "blur" or word.startswith("blur:"):
        return BlurBackground(_strength(text, word[5:]))
    if word.startswith("#") or (word in _COLORS and not Path(text).exists()):
        color = np.array(_color(text, _COLORS.get(word, word)), np.uint8).reshape(1, 1, 3)
        return PictureBackground(Picture(color, None), "stretch")
    if "://" in text:
        return VideoBackground(lambda: _Video(open_source(text)), fit, view)
    return _open_file(text, fit, view)


def _open_file(text: str, fit: Fit, view: _View) -> Background:
    """Return the background in a file, a folder or a numbered sequence of pictures."""
    path = Path(text)
    if not path.exists() and "%" not in text:
        raise SourceNotFoundError(
            f"the background {text} does not exist: give a picture or video, a colour ('#1e90ff'), blur or transparent",
            url=text,
        )
    # What looks like a picture goes to its reader even when broken, which then says what is wrong with it.
    if path.is_file() and (is_picture(path) or path.suffix.lower() in _PICTURE_SUFFIXES or path.stat().st_size == 0):
        if is_animated(path):
            return VideoBackground(lambda: _Animation(text), fit, view)
        return PictureBackground(read_picture(path, at_least=_LARGEST), fit, view)
    return VideoBackground(lambda: _Video(open_source(text)), fit, view)


def _strength(text: str, number: str) -> float:
    """Return the strength in ``blur:STRENGTH``."""
    try:
        strength = float(number or 50)
    except ValueError:
        strength = math.nan
    if not 0 <= strength <= 100:  # also refuses nan
        raise SourceError(f"the background {text} has no strength between 0 and 100: write blur:50, say", url=text)
    return strength


def _color(text: str, code: str) -> tuple[int, int, int]:
    """Return red, green and blue of ``#rgb`` or ``#rrggbb``."""
    if not re.fullmatch(r"#([0-9a-f]{3}|[0-9a-f]{6})", code):
        raise SourceError(f"the background {text} is not a colour: write #rrggbb, for example '#1e90ff'", url=text)
    digits = code[1:] if len(code) == 7 else "".join(2 * digit for digit in code[1:])
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


class TransparentBackground:
    """No background: a marker by which the caller knows to cut the people out instead of compositing them."""

    def render(self, frame: Frame, alpha: FullAlpha) -> Frame:
        """Return black, which is what a picture without a background has where there is nobody."""
        planes = allocate(frame.size, frame.depth, frame.subsampled)
        for plane, sample in zip(planes, _black(frame), strict=True):
            plane[...] = sample
        return replace(frame, planes=planes, alpha=None)

    def close(self) -> None:
        """Do nothing."""


class PictureBackground:
    """One still picture, rendered once for each kind of frame.

    In an HDR frame the picture's white is at 203 nits, as ITU-R BT.2408 has it for graphics.

    Args:
        picture: In sRGB; what is transparent in it becomes black. It may be reduced to 8K.
        fit: See ``open_background``.
        view: How the frames are watched.
    """

    def __init__(self, picture: Picture, fit: Fit = "cover", view: _View | None = None) -> None:
        self._rgb, self._fit, self._view = _over_black(_reduced(picture)), fit, view or _View()
        self._key: object = None
        self._planes: tuple[Plane, Plane, Plane] | None = None

    def render(self, frame: Frame, alpha: FullAlpha) -> Frame:
        """Return the picture, fitted; the planes are the same arrays as long as the kind of frame is the same."""
        key = _kind(frame)
        if self._planes is None or key != self._key:
            place = _Place.of(self._rgb.shape[:2], self._fit, self._view, frame.size)
            rgb = place.put(self._view.stored(self._rgb), frame.size, 0)
            rgb = convert_light(rgb, RGB, frame.color)
            self._planes = planes_from_rgb(rgb, frame.color, frame.depth, frame.subsampled)
            self._key = key
        return replace(frame, planes=self._planes, alpha=None)

    def close(self) -> None:
        """Do nothing."""


class BlurBackground:
    """The room, as if the lens were focused on the people; no colour of theirs is in it.

    A normalised convolution (Knutsson & Westin 1993) with a disc: the blur of the room's pixels over the blur of their
    weights. A pixel of a person has the weight 0, so it is not smeared into the room; bright pixels weigh more, since a
    lens mixes light and not its square root. Where a person hides all that the disc sees, a four times wider look, then
    the mean of the whole room, then grey fill in. All this is done on a small picture, which makes it quick.

    Each frame stands for itself. What is seen beside a person is calm because it hardly depends on the mask; what is
    behind one, and shows only through soft edges, changes with the mask and can swim a little.

    Args:
        strength: 0 to 100; 100 is a disc whose radius is 7 % of the shorter side, 0 is the frame as it is.
    """

    def __init__(self, strength: float = 50) -> None:
        if not 0 <= strength <= 100:
            raise ValueError(f"the strength must be between 0 and 100, not {strength = }")
        self.radius = strength / 100 * 0.07
        """Of the disc, as a share of the frame's shorter side."""

    def render(self, frame: Frame, alpha: FullAlpha) -> Frame:
        """Return the room of this very frame, blurred."""
        shorter = min(frame.size)
        if self.radius == 0:
            return replace(frame, alpha=None)
        radius = max(1.0, self.radius * shorter)
        # So small that the disc is 2.2 pixels in radius: quick, and just still smooth when enlarged. A weaker blur is
        # that of the shrinking itself for the most part; more than 320 rows would cost much and show little.
        factor = max(2.0, shorter / 320, radius / 2.2)
        # Four times the size of the wider look: OpenCV has a quick way to the means of whole pixels.
        size = 4 * math.ceil(frame.size[0] / factor / 4), 4 * math.ceil(frame.size[1] / factor / 4)
        small = _blurred_room(frame, alpha, size, radius / factor, reach=max(1, round(0.006 * shorter / factor)))
        planes = allocate(frame.size, frame.depth, frame.subsampled)
        for blurred, plane in zip(small, planes, strict=True):
            blurred += np.float32(0.5)
            _resize(blurred.astype(plane.dtype), plane.shape, plane)
        return replace(frame, planes=planes, alpha=None)

    def close(self) -> None:
        """Do nothing."""


def _blurred_room(frame: Frame, alpha: FullAlpha, size: Size, radius: float, reach: int) -> list[Array]:
    """Return the blurred room, three planes of ``size`` in the numbers of the frame's.

    Args:
        frame: Not changed.
        alpha: Of its people.
        size: Of the small picture.
        radius: Of the disc, in its pixels.
        reach: By how many of its pixels the people are widened: an alpha ends before the last of a person's light does.
    """
    room: list[Array] = [shrink(plane, size) for plane in frame.planes]  # type: ignore[arg-type]
    people = cv2.dilate(shrink(alpha, size), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    free = cv2.LUT(people, _FREE)
    weight = room[0] * np.float32(1 / (2**frame.depth - 1))
    weight *= weight
    weight += np.float32(0.2)
    weight *= free
    room = [plane * weight for plane in room]

    few = size[0] // 4, size[1] // 4
    disc = lens_disc(radius)
    total = float(weight.mean())
    wide_weight, near_weight = _wide(weight, few, radius), _near(weight, disc)
    # A disc that sees only few pixels of the room makes way for the wider look, little by little.
    trusted = np.clip(_near(free, disc) * np.float32(5), 0, 1)
    near_weight = trusted / (near_weight + np.float32(1e-6))
    rest = np.float32(1) - trusted
    little = np.float32(0.004)
    matrix, offset = ycbcr_matrix(frame.color, frame.depth)
    for index, (plane, grey) in enumerate(zip(room, matrix @ np.full(3, 0.5) + offset, strict=True)):
        whole = np.float32(plane.mean() / total if total > 1e-6 else grey)
        wide = _resize((_wide(plane, few, radius) + little * whole) / (wide_weight + little), size)
        wide *= rest
        room[index] = _near(plane, disc)
        room[index] *= near_weight
        room[index] += wide
    return room


def _wide(plane: Array, size: Size, radius: float) -> Array:
    """Return a plane at a quarter of its size and blurred there."""
    return cv2.GaussianBlur(_resize(plane, size), (0, 0), max(radius, 0.5), borderType=cv2.BORDER_REPLICATE)


def _near(plane: Array, disc: Array) -> Array:
    """Return a plane blurred with the disc; beyond its edges is nothing."""
    return cv2.filter2D(plane, -1, disc, borderType=cv2.BORDER_CONSTANT)


def lens_disc(radius: float) -> Array:
    """Return a disc with a soft rim, its sum 1."""
    reach = math.ceil(radius)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1)
    kernel: Array = (disc / disc.sum()).astype(np.float32)
    return kernel


class _Clip(Protocol):
    """A moving picture that is played once."""

    rotation: int
    mirrored: bool
    sample_aspect: Fraction

    def __iter__(self) -> Iterator[tuple[Frame, float]]:
        """Yield each frame with the seconds from the start of the clip to the end of the frame."""
        ...

    def close(self) -> None: ...


class _Video:
    """A ``Source`` as a clip."""

    def __init__(self, source: Source) -> None:
        self._source, info = source, source.info
        self.rotation, self.mirrored, self.sample_aspect = info.rotation, info.mirrored, info.sample_aspect
        self._usual = float(1 / info.fps) if info.fps else 1 / 25

    def __iter__(self) -> Iterator[tuple[Frame, float]]:
        start: float | None = None
        for frame in self._source:
            start = frame.time if start is None else start
            lasts = float(frame.duration * frame.time_base) or self._usual
            yield frame, frame.time - start + lasts

    def close(self) -> None:
        self._source.close()


class _Animation:
    """An animated picture as a clip; its pictures are the G, B and R planes of frames."""

    rotation, mirrored, sample_aspect = 0, False, Fraction(1)

    def __init__(self, path: str) -> None:
        self._path = path

    def __iter__(self) -> Iterator[tuple[Frame, float]]:
        milliseconds = 0
        for picture, seconds in read_animation(self._path):
            rgb = _over_black(_reduced(picture))
            planes: tuple[Plane, Plane, Plane] = rgb[..., 1], rgb[..., 2], rgb[..., 0]
            depth = 8 * rgb.dtype.itemsize
            shown = round(1000 * seconds)
            yield Frame(planes, milliseconds, Fraction(1, 1000), RGB, depth, shown), (milliseconds + shown) / 1000
            milliseconds += shown

    def close(self) -> None:
        pass


class VideoBackground:
    """A moving picture, played in a loop by the time of the frames it stands behind.

    It is decoded as it is needed, so its length costs no memory. When it cannot be decoded any further, it starts again
    from its beginning; when it cannot be opened again, its last good frame stays. The room is never shown.

    Args:
        opener: Opens it at its beginning.
        fit: See ``open_background``.
        view: How the frames are watched.

    Raises:
        SourceError: It cannot be opened, or has no frame.
    """

    def __init__(self, opener: Callable[[], _Clip], fit: Fit = "cover", view: _View | None = None) -> None:
        self._opener, self._fit, self._view = opener, fit, view or _View()
        self._clip: _Clip | None = None
        self._frames: Iterator[tuple[Frame, float]] = iter(())
        self._origin: float | None = None  # time of the frame that the clip began with
        self._started = 0.0  # seconds after the origin at which the present round of the loop began
        self._length = 0.0  # seconds of one round, once they are known
        self._time = -math.inf  # of the last frame
        self._moves = False  # whether there is a second frame
        self._still = False  # whether nothing more can come
        self._shown, self._ends = self._open()
        self._key: object = None
        self._rendered: tuple[Plane, Plane, Plane] | None = None

    def render(self, frame: Frame, alpha: FullAlpha) -> Frame:
        """Return the frame of the video that is on at ``frame.time``; the same arrays as long as it is the same one."""
        shown = self._shown
        self._seek(frame.time)
        key = _kind(frame)
        if self._rendered is None or key != self._key or self._shown is not shown:
            self._rendered, self._key = self._fitted(frame), key
        return replace(frame, planes=self._rendered, alpha=None)

    def close(self) -> None:
        """Close the video."""
        self._frames = iter(())
        if self._clip is not None:
            self._clip.close()

    def _open(self) -> tuple[Frame, float]:
        """Begin a round and return its first frame and when that ends."""
        self.close()
        self._clip = self._opener()
        self._frames = iter(self._clip)
        first = next(self._frames, None)
        if first is None:
            raise SourceError("the background has no picture that can be decoded: choose another one")
        return first

    def _seek(self, time: float) -> None:
        """Decode until the frame that is on at ``time`` (seconds, in the clock of the frames)."""
        if self._still:
            return
        if self._origin is None:
            self._origin = time
        elif time < self._time:  # another video, or pictures that each stand for themselves
            self._origin, self._started = time, 0.0
            self._again()
        self._time = time
        # Times that are rounded to milliseconds, in either file, must not make a frame come late or twice.
        elapsed = time - self._origin + _ROUNDING
        if self._length:
            # Whole rounds in which nothing was asked for are not decoded.
            self._started += max(0.0, (elapsed - self._started) // self._length - 1) * self._length
        while self._ends <= elapsed - self._started and not self._still:
            following = self._next()
            if following is not None:
                self._shown, self._ends = following
                self._moves = True
            elif not self._moves:
                self._still = True
            else:
                self._length = self._ends
                self._started += self._length
                self._again()

    def _next(self) -> tuple[Frame, float] | None:
        """Return the next frame of this round, or None when it is over, by its end or by damage."""
        try:
            return next(self._frames, None)
        except SourceError as error:
            _LOG.warning("The background video starts again before its end: %s", error)
            return None

    def _again(self) -> None:
        """Begin another round; if that fails, let the last good frame stay for ever."""
        try:
            self._shown, self._ends = self._open()
        except SourceError as error:
            _LOG.warning("The background video stands still: %s", error)
            self._still = True

    def _fitted(self, frame: Frame) -> tuple[Plane, Plane, Plane]:
        """Return the planes of the shown frame, in the kind of ``frame``."""
        clip = self._clip
        assert clip is not None
        own = _View(clip.rotation // 90 % 4, clip.mirrored, clip.sample_aspect)
        return _fitted(self._shown, own, frame, self._view, self._fit)


def fit_frame(
    frame: Frame,
    like: Frame,
    fit: Fit = "cover",
    rotation: int = 0,
    sample_aspect: Fraction = Fraction(1),
    *,
    mirrored: bool = False,
) -> Frame:
    """Return ``frame``, upright, in the size, chroma, depth and colour of ``like``; its planes if it is so.

    Args:
        frame: Of any kind; it is not changed. Its time stays.
        like: Only its kind is used.
        fit: See ``open_background``.
        rotation: ``StreamInfo.rotation`` of ``frame``.
        sample_aspect: ``StreamInfo.sample_aspect`` of ``frame``.
        mirrored: ``StreamInfo.mirrored`` of ``frame``.
    """
    view = _View(rotation // 90 % 4, mirrored, sample_aspect)
    alike = frame.size == like.size and (like.depth, like.subsampled) == (8, True)
    if view == _View() and alike and is_same_light(frame.color, like.color):
        same = to_color(frame, like.color)
        return same if same.color == like.color else replace(same, color=like.color)
    planes = _fitted(frame, view, like, _View(), fit)
    return replace(frame, planes=planes, color=like.color, depth=like.depth, alpha=None)


def _fitted(shown: Frame, own: _View, frame: Frame, view: _View, fit: Fit) -> tuple[Plane, Plane, Plane]:
    """Return the planes of a frame, watched as ``own`` says, in the kind of another one, watched as ``view`` says."""
    planes = tuple(view.stored(own.upright(plane)) for plane in shown.planes)
    # In the stored frame's grid, so only the shape of the pixels is left of the views.
    place = _Place.of(own.upright(shown.planes[0]).shape, fit, view, frame.size, own.upright_aspect, even=True)
    if not is_same_light(shown.color, frame.color):
        rgb = rgb_from_planes(planes, shown.color, shown.depth, bits=16)  # type: ignore[arg-type]
        rgb = convert_light(place.put(rgb, frame.size, 0), shown.color, frame.color)
        return planes_from_rgb(rgb, frame.color, frame.depth, frame.subsampled)
    black = [round(x) for x in ycbcr_matrix(shown.color, shown.depth)[1]]
    matrix, offset = _between(shown, frame)
    fitted = allocate(frame.size, frame.depth, frame.subsampled)
    parts: dict[Size, list[Array]] = {}
    for target, weights, zero in zip(fitted, matrix, offset, strict=True):
        used = np.flatnonzero(np.abs(weights) > 1e-9)
        size = target.shape
        if len(used) == 1 and abs(weights[used[0]] - 1) < 1e-9 and abs(zero) < 1e-9:
            place.put(planes[used[0]], size, black[used[0]], target)
            continue
        if size not in parts:
            parts[size] = [place.put(p, size, b).astype(np.float32) for p, b in zip(planes, black, strict=True)]
        samples = np.full(size, zero, np.float32)
        for index in used:
            samples += np.float32(weights[index]) * parts[size][index]
        target[...] = np.clip(np.rint(samples), 0, 2**frame.depth - 1)
    return fitted


@dataclass(frozen=True, slots=True)
class _View:
    """How stored pictures are turned by whoever shows them.

    Attributes:
        turns: Quarter turns counter-clockwise.
        mirrored: Whether it is then mirrored, left to right.
        sample_aspect: Width of a pixel by its height, as stored.
    """

    turns: int = 0
    mirrored: bool = False
    sample_aspect: Fraction = Fraction(1)

    @property
    def upright_aspect(self) -> Fraction:
        """Width of a pixel by its height, as shown."""
        return 1 / self.sample_aspect if self.turns % 2 else self.sample_aspect

    def upright(self, stored: Array) -> Array:
        """Return a view as it is shown."""
        turned = np.rot90(stored, self.turns)
        return turned[:, ::-1] if self.mirrored else turned

    def stored(self, upright: Array) -> Array:
        """Return a view as it is stored."""
        return np.rot90(upright[:, ::-1] if self.mirrored else upright, -self.turns)


@dataclass(frozen=True, slots=True)
class _Place:
    """Which part of a picture goes into which part of a frame, both in the frame's stored orientation.

    Attributes:
        whole: ``(height, width)`` of the picture.
        source: Top, left, bottom, right of the part, in its pixels.
        target: The same in the frame.
    """

    whole: Size
    frame: Size
    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]

    @staticmethod
    def of(
        upright: tuple[int, ...], fit: Fit, view: _View, frame: Size, aspect: Fraction = Fraction(1), even: bool = False
    ) -> _Place:
        """Fit an ``upright`` picture, whose pixels are ``aspect`` wide by high, into a frame.

        Args:
            upright: Its ``(height, width)``.
            fit: See ``open_background``.
            view: Of the frame.
            frame: Its size.
            aspect: Of the picture's pixels.
            even: Whether parts begin on even pixels, for the sake of 4:2:0.
        """
        turned = view.turns % 2
        height, width = (upright[1], upright[0]) if turned else upright[:2]
        # The width of the picture in pixels as wide as the frame's.
        ratio = float((1 / aspect if turned else aspect) / view.sample_aspect)
        down, across = frame[0] / height, frame[1] / (width * ratio)
        source, target = (float(height), float(width)), (float(frame[0]), float(frame[1]))
        if fit == "cover":
            scale = max(down, across)
            source = frame[0] / scale, frame[1] / scale / ratio
        elif fit == "contain":
            scale = min(down, across)
            target = height * scale, width * ratio * scale
        step = 2 if even else 1
        return _Place((height, width), frame, _centred(source, (height, width), step), _centred(target, frame, step))

    def put(self, picture: Array, size: Size | tuple[int, ...], fill: int, out: Array | None = None) -> Array:
        """Return a plane or picture of ``size`` with ``picture`` in its place and ``fill`` around it.

        Both may be chroma planes: what they are smaller than ``whole`` and ``frame``, the parts shrink too.
        """
        top, left, bottom, right = _scaled(self.source, self.whole, picture.shape)
        part = np.ascontiguousarray(picture[top:bottom, left:right])
        shape = *size[:2], *picture.shape[2:]
        top, left, bottom, right = _scaled(self.target, self.frame, size)
        if (top, left, bottom, right) == (0, 0, size[0], size[1]):
            return _resize(part, (size[0], size[1]), out)
        result = np.empty(shape, picture.dtype) if out is None else out
        result[...] = fill
        result[top:bottom, left:right] = _resize(part, (bottom - top, right - left))
        return result


def _centred(wanted: tuple[float, float], whole: Size, step: int) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right of a part in the middle of ``whole``, beginning at multiples of ``step``."""
    starts, ends = [], []
    for length, limit in zip(wanted, whole, strict=True):
        rounded = min(limit, max(1, round(length)))
        start = (limit - rounded) // 2 // step * step
        starts.append(start)
        ends.append(start + rounded)
    return starts[0], starts[1], ends[0], ends[1]


def _scaled(part: tuple[int, int, int, int], luma: Size, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return ``part`` of a luma plane as a part of a plane of ``shape``: the same, or half of it, rounded up."""
    halves = [1 if shape[axis] == luma[axis] else 2 for axis in (0, 1)] * 2
    ends = [-(-edge // half) for edge, half in zip(part, halves, strict=True)]
    return ends[0], ends[1], ends[2], ends[3]


def _resize(picture: Array, size: Size | tuple[int, ...], out: Array | None = None) -> Array:
    """Return ``picture`` at ``size``: area averages where it shrinks both ways, else cubic, both in OpenCV's terms."""
    height, width = size[0], size[1]
    old_height, old_width = picture.shape[:2]
    if (old_height, old_width) == (height, width):
        if out is None:
            return picture
        out[...] = picture
        return out
    smaller = height <= old_height and width <= old_width
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    resized = cv2.resize(picture, (width, height), dst=out, interpolation=how)
    if out is not None and resized is not out:
        out[...] = resized.reshape(out.shape)
        return out
    return resized.reshape(height, width, *picture.shape[2:])


def _between(source: Frame, target: Frame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the affine from the samples of one frame to those of another, of the same light."""
    if (source.color.matrix, source.color.full_range, source.depth) == (
        target.color.matrix, target.color.full_range, target.depth,
    ):  # fmt: skip
        return np.eye(3), np.zeros(3)
    to_rgb, rgb_offset = rgb_matrix(source.color, source.depth)
    from_rgb, offset = ycbcr_matrix(target.color, target.depth)
    return from_rgb @ to_rgb, from_rgb @ rgb_offset + offset


def _kind(frame: Frame) -> tuple[object, ...]:
    """Return what a rendered background depends on."""
    return frame.size, frame.color, frame.depth, frame.subsampled


def _black(frame: Frame) -> Iterable[int]:
    return (round(float(sample)) for sample in ycbcr_matrix(frame.color, frame.depth)[1])


def _over_black(picture: Picture) -> Samples:
    """Return the picture with what is transparent in it black."""
    if picture.alpha is None:
        return picture.rgb
    top = np.iinfo(picture.alpha.dtype).max
    weight = picture.alpha.astype(np.float32) / np.float32(top)
    opaque: Array = np.rint(picture.rgb * weight[..., None]).astype(picture.rgb.dtype)
    return opaque


def _reduced(picture: Picture) -> Picture:
    """Return the picture, smaller if it has more pixels than 8K."""
    height, width = picture.rgb.shape[:2]
    scale = math.sqrt(_LARGEST[0] * _LARGEST[1] / (height * width))
    if scale >= 1:
        return picture
    size = max(1, round(height * scale)), max(1, round(width * scale))
    alpha = None if picture.alpha is None else _resize(picture.alpha, size)
    return Picture(_resize(picture.rgb, size), alpha)
