"""Pictures and clips whose alpha is known, read from a user's folders one frame at a time."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from vidseg.color import planes_from_rgb, rgb_from_planes
from vidseg.decoding import Picture, read_picture, to_depth
from vidseg.errors import SourceError, SourceNotFoundError
from vidseg.frame import Color, Frame, FullAlpha
from vidseg.sources import open_source
from vidseg.sources.pictures import SUFFIXES, list_pictures, to_frame

Rgb = npt.NDArray[np.uint8]
FPS = Fraction(30)
"""Of clips that are folders of pictures."""
_MATTES = ("_mask", "_alpha", "_a")
"""What is added to a picture's name for its mask or alpha."""
_CARRIED = "_carried"
"""What is added for what a person carries: neither person nor room, so it does not count."""
_FOLDERS = ("masks", "alphas")
_VIDEOS = frozenset({".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v"})


class Shot(NamedTuple):
    """A frame and its truth.

    Attributes:
        frame: What a model gets.
        alpha: uint8 ``(h, w)``, 255 is a person.
        known: bool ``(h, w)``, False where the truth is not known; None is known everywhere.
    """

    frame: Frame
    alpha: FullAlpha
    known: npt.NDArray[np.bool_] | None = None

    @property
    def rgb(self) -> Rgb:
        """The picture, uint8 ``(h, w, 3)``."""
        return cast("Rgb", rgb_from_planes(self.frame.planes, self.frame.color, self.frame.depth))


@dataclass(frozen=True, slots=True)
class Case:
    """One still, or one clip.

    Attributes:
        name: Of its file or folder.
        shots: Reads it anew at each call, frame by frame.
    """

    name: str
    shots: Callable[[], Iterator[Shot]]


@dataclass(frozen=True, slots=True)
class CaseSet:
    """Cases of one kind, over which measures are averaged.

    Attributes:
        name: ``webcam``.
        cases: What is in it.
        moving: Whether its cases are clips: alphas are then steadied, and measured, in time.
        people: Whether anybody is in it; where not, only false alarms are of interest.
        note: Where it comes from, in one sentence, and whether a shipped model was trained on it.
    """

    name: str
    cases: Sequence[Case]
    moving: bool = False
    people: bool = True
    note: str = ""

    def limited(self, count: int | None) -> CaseSet:
        """Return the set with ``count`` of its cases at most, taken evenly from all of them."""
        if count is None or len(self.cases) <= count:
            return self
        chosen = [self.cases[index * len(self.cases) // count] for index in range(count)]
        return replace(self, cases=chosen, note=f"{self.note} {count} of {len(self.cases)}.".strip())


def still(rgb: Rgb, alpha: FullAlpha, known: npt.NDArray[np.bool_] | None = None) -> Shot:
    """Return a shot as ``vidseg image`` would read it: R'G'B' without loss."""
    return Shot(to_frame(Picture(rgb, None)), alpha, known)


def moving(rgb: Rgb, alpha: FullAlpha, index: int, fps: Fraction = FPS) -> Shot:
    """Return frame ``index`` of a clip as a video would carry it: Y'CbCr 4:2:0, BT.709."""
    color = Color("bt709")
    return Shot(Frame(planes_from_rgb(rgb, color), index, 1 / fps, color, duration=1), alpha)


# --- stills -----------------------------------------------------------------------------------------------------


def read_rgb(path: Path) -> Rgb:
    """Return a picture as uint8 ``(h, w, 3)``."""
    return cast("Rgb", to_depth(read_picture(path).rgb, 8))


def read_matte(path: Path, size: tuple[int, int]) -> FullAlpha:
    """Return a mask or alpha, uint8 ``(h, w)``.

    Raises:
        SourceError: It is not of ``size``, or its values are 0 and 1 where 255 should be a person.
    """
    matte = read_rgb(path)[..., 1]
    if matte.shape != size:
        found = f"{matte.shape[1]}x{matte.shape[0]} and its picture {size[1]}x{size[0]}"
        raise SourceError(f"{path} is {found}: a mask has the size of its picture", url=str(path))
    if matte.max() == 1:
        raise SourceError(f"{path} holds 0 and 1: a mask is white, 255, where the person is", url=str(path))
    return np.ascontiguousarray(matte)


def read_labelled(picture: Path, matte: Path, carried: Path | None) -> Iterator[Shot]:
    """Yield a labelled picture's one shot; ``carried`` is white where nothing counts."""
    rgb = read_rgb(picture)
    known = None if carried is None else read_matte(carried, rgb.shape[:2]) < 128
    yield still(rgb, read_matte(matte, rgb.shape[:2]), known)


def _labelled_case(picture: Path, matte: Path, carried: Path | None) -> Case:
    return Case(picture.stem, lambda: read_labelled(picture, matte, carried))


def read_pairs(name: str, folder: Path) -> CaseSet:
    """Return a folder of pictures with their masks or alphas.

    Either ``images/`` and ``masks/`` or ``alphas/`` hold files of equal names (their suffixes may differ), or each
    ``NAME.jpg`` has beside it ``NAME_mask``, ``NAME_alpha`` or ``NAME_a``, and perhaps ``NAME_carried``, whose white
    pixels do not count.

    Raises:
        SourceError: A picture has no mask, or a mask no picture.
    """
    return CaseSet(name, [_labelled_case(*pair) for pair in _pairs(folder)], note=f"Pictures of {folder.name}.")


def _pairs(folder: Path) -> list[tuple[Path, Path, Path | None]]:
    """Return ``(picture, matte, carried)`` for all pictures of ``folder``."""
    images = folder / "images"
    if images.is_dir():
        mattes = next((folder / name for name in _FOLDERS if (folder / name).is_dir()), None)
        if mattes is None:
            raise SourceError(f"{folder} has images but no masks/ or alphas/ beside them: add them", url=str(folder))
        partners = {path.stem: path for path in list_pictures(str(mattes))}
        pictures = {path.stem: path for path in list_pictures(str(images))}
        carried: dict[str, Path] = {}
    else:
        files = {path.stem: path for path in list_pictures(str(folder))}
        partners, carried = {}, {}
        for stem, path in files.items():
            for ending in _MATTES:
                if stem.endswith(ending):
                    partners[stem.removesuffix(ending)] = path
            if stem.endswith(_CARRIED):
                carried[stem.removesuffix(_CARRIED)] = path
        extra = {*partners.values(), *carried.values()}
        pictures = {stem: path for stem, path in files.items() if path not in extra}
    for stem, path in pictures.items():
        if stem not in partners:
            raise SourceError(f"{path} has no mask: add {stem}_mask.png, or take the picture away", url=str(path))
    for stem, path in partners.items():
        if stem not in pictures:
            raise SourceError(f"{path} has no picture: add it, or take the mask away", url=str(path))
    return [(path, partners[stem], carried.get(stem)) for stem, path in pictures.items()]


def labelled_files(index: Path, split: str) -> list[tuple[str, Path, Path, Path | None]]:
    """Return ``(set, picture, mask, carried)`` for one split of an ``index.csv`` with columns file, mask, set, split.

    Files are named from the index's own folder. ``NAME_carried.png`` beside a picture marks what does not count.

    Args:
        index: The file, or its folder.
        split: ``val``.

    Raises:
        SourceError: It has no such columns, or nothing of that split.
    """
    if index.is_dir():
        index = index / "index.csv"
    try:
        with index.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
            entries = [(row["set"], index.parent / row["file"], index.parent / row["mask"]) for row in rows]
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{index} does not exist: check the name", url=str(index)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{index} cannot be read ({error}): save it as UTF-8", url=str(index)) from error
    except (KeyError, csv.Error) as error:
        raise SourceError(f"{index} needs the columns file, mask, set and split ({error})", url=str(index)) from error
    if not entries:
        raise SourceError(f"{index} has no row of split {split}: add some", url=str(index))
    beside = [picture.with_name(f"{picture.stem}{_CARRIED}.png") for _, picture, _ in entries]
    return [(*entry, path if path.is_file() else None) for entry, path in zip(entries, beside, strict=True)]


def read_index(index: Path, split: str = "val") -> list[CaseSet]:
    """Return the pictures of one split of an index, by set; see ``labelled_files``."""
    sets: dict[str, list[Case]] = {}
    for title, picture, mask, carried in labelled_files(index, split):
        sets.setdefault(title, []).append(_labelled_case(picture, mask, carried))
    note = f"Whole pictures, split {split}, hard masks."
    return [CaseSet(name, cases, note=note) for name, cases in sets.items()]


def read_empty(name: str, pictures: Sequence[Path], note: str = "") -> CaseSet:
    """Return pictures in which nobody is."""

    def shots(path: Path) -> Iterator[Shot]:
        rgb = read_rgb(path)
        yield still(rgb, np.zeros(rgb.shape[:2], np.uint8))

    cases = [Case(path.stem, lambda path=path: shots(path)) for path in pictures]  # type: ignore[misc]
    return CaseSet(name, cases, people=False, note=note)


# --- clips ------------------------------------------------------------------------------------------------------


def read_clips(name: str, folder: Path) -> CaseSet:
    """Return a folder of clips with their alphas.

    Either videos ``NAME.mp4`` with ``NAME_alpha.mkv`` beside them (any container), or subfolders, each with one clip's
    pictures and alphas laid out as for ``read_pairs`` (or one such clip in ``folder`` itself), 30 frames a second.

    Raises:
        SourceError: A clip has no alpha, or there is no clip.
    """
    note = f"Clips of {folder.name}."
    videos = {path.stem: path for path in _files(folder) if path.suffix.lower() in _VIDEOS}
    if videos:
        cases = []
        for stem, path in videos.items():
            if stem.endswith(("_alpha", "_mask")):
                continue
            matte = videos.get(f"{stem}_alpha") or videos.get(f"{stem}_mask")
            if matte is None:
                raise SourceError(f"{path} has no alpha: add {stem}_alpha.mkv beside it", url=str(path))
            cases.append(Case(stem, lambda path=path, matte=matte: _video(path, matte)))  # type: ignore[misc]
        if not cases:
            raise SourceError(f"{folder} holds alphas without their videos: add them", url=str(folder))
        return CaseSet(name, cases, moving=True, note=note)
    alone = (folder / "images").is_dir() or any(path.suffix.lower() in SUFFIXES for path in _files(folder))
    folders = [folder] if alone else sorted(path for path in folder.iterdir() if path.is_dir())
    if not folders:
        raise SourceError(f"{folder} holds no clips: put videos or folders of frames there", url=str(folder))
    cases = [Case(path.name, lambda path=path: _sequence(path)) for path in folders]  # type: ignore[misc]
    return CaseSet(name, cases, moving=True, note=note)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{folder} does not exist: check the name of the folder", url=str(folder)) from error
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror or error}", url=str(folder)) from error


def _sequence(folder: Path) -> Iterator[Shot]:
    for index, (picture, matte, _) in enumerate(_pairs(folder)):
        rgb = read_rgb(picture)
        yield moving(rgb, read_matte(matte, rgb.shape[:2]), index)


def _video(path: Path, matte: Path) -> Iterator[Shot]:
    for frame, alpha in frames_of(path, matte):
        yield Shot(frame, alpha)


def frames_of(path: Path, matte: Path) -> Iterator[tuple[Frame, FullAlpha]]:
    """Yield the frames of a video, or folder of pictures, and the alphas of its matte.

    Raises:
        SourceError: They differ in size or length.
    """
    with open_source(str(path)) as source, open_source(str(matte)) as mattes:
        turns, matte_turns = source.info.rotation // 90, mattes.info.rotation // 90
        for frame, other in zip_longest(source, mattes):
            if frame is None or other is None:
                which = path if frame is None else matte
                raise SourceError(f"{which} is shorter than its partner: make both of equal length", url=str(which))
            # A grey picture in whatever planes: its green is its grey.
            grey = rgb_from_planes(other.planes, other.color, other.depth)[..., 1]
            alpha = cast("FullAlpha", np.ascontiguousarray(np.rot90(grey, matte_turns)))
            if turns:
                upright = np.rot90(cast("Rgb", rgb_from_planes(frame.planes, frame.color, frame.depth)), turns)
                frame = replace(frame, planes=planes_from_rgb(upright, Color("bt709")), color=Color("bt709"), depth=8)
            if frame.size != alpha.shape:
                raise SourceError(f"{matte} has not the size of its video {path.name}: scale it", url=str(matte))
            yield frame, alpha
