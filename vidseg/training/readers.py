"""Readers of training data: one function a layout, listed in ``LAYOUTS`` and in docs/training-data.md.

A reader only lists: it returns entries, each of which reads its pictures when asked. Nothing is written, and nothing
outside the folder is read.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from vidseg.color import rgb_from_planes
from vidseg.errors import MissingDependencyError, SourceError, SourceNotFoundError
from vidseg.frame import Frame
from vidseg.resize import shrink_planes
from vidseg.sources import open_source
from vidseg.sources.pictures import SUFFIXES
from vidseg.training.pictures import LONG_SIDE, Array, Clip, Kind, Picture, shrunk, shrunk_classes

VIDEOS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"})
ROOMS = frozenset({"backgrounds", "rooms", "negatives", "empty"})
"""Folders of these names hold pictures with nobody in them; ``things`` too, but not rooms."""
RUNS, RUN = 4, 8
"""Of a video or a long sequence this many stretches of this many consecutive frames are kept, spread over it."""
_LOSSY = frozenset({".webp", ".jpg", ".jpeg"})
_TRUTH = re.compile(r"[_-](mask|alpha|matte|a)$")
_IGNORE = ("_carried", "_ignore")
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One photograph or clip of a data set, not read yet.

    Attributes:
        name: Its file, as seen from the data set.
        read: Reads it, at ``LONG_SIDE``: a photograph is one clip of one frame, a video is several clips. Raises
            ``SourceError``.
        person: Who is in it, as far as known.
        kind: See ``Kind``.
        set: What it is counted under: sampling gives each set its share.
        split: ``train``, ``val``, ``test``, or "" where nothing is said.
    """

    name: str
    read: Callable[[], list[Clip]]
    person: str
    kind: Kind
    set: str
    split: str = ""


@dataclass(frozen=True)
class Dataset:
    """What was found in a folder.

    Attributes:
        path: The folder.
        layout: Its layout, a key of ``LAYOUTS``.
        entries: What is in it, in the order of the names.
        problems: What is wrong with it, one sentence each: masks without pictures and the like.
        classes: Names of the classes, where the truth is class numbers.
    """

    path: Path
    layout: str
    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def read(
        self,
        split: str = "",
        problems: list[str] | None = None,
        *,
        threads: int | None = None,
        progress: Callable[[], object] = lambda: None,
    ) -> Iterator[tuple[Entry, list[Clip]]]:
        """Read the entries of ``split`` ("": all), several at once, and yield them in their order.

        Args:
            split: ``train``, ``val``, ``test`` or "".
            problems: Takes the sentence of every entry that could not be read, which is then passed over.
            threads: How many read at once.
            progress: Called after every entry.

        Raises:
            SourceError: An entry could not be read, and ``problems`` is None.
        """

        def read(entry: Entry) -> list[Clip] | SourceError:
            try:
                return entry.read()
            except SourceError as error:
                return error

        chosen = [entry for entry in self.entries if not split or entry.split == split]
        with ThreadPoolExecutor(threads) as pool:
            for entry, clips in zip(chosen, pool.map(read, chosen), strict=True):
                progress()
                if not isinstance(clips, SourceError):
                    yield entry, clips
                elif problems is None:
                    pool.shutdown(cancel_futures=True)
                    raise clips
                else:
                    problems.append(str(clips))


class Listing(NamedTuple):
    """What a reader returns; see ``Dataset``."""

    entries: list[Entry]
    problems: list[str]
    classes: tuple[str, ...] = ()


class Layout(NamedTuple):
    """A way of laying out data: what it looks like, how to tell, and its reader."""

    looks_like: str
    recognised: Callable[[Path], bool]
    read: Callable[[Path], Listing]


def open_dataset(path: Path | str, layout: str = "auto") -> Dataset:
    """Find out what a folder holds. A tenth of the persons is kept for validation where nothing is said of splits.

    Args:
        path: A folder.
        layout: A key of ``LAYOUTS``, or ``auto``.

    Raises:
        SourceNotFoundError: There is no such folder.
        SourceError: It has no layout that is known, or is empty.
        MissingDependencyError: COCO needs pycocotools.
        ValueError: ``layout`` is not known.
    """
    path = Path(path)
    if layout != "auto" and layout not in LAYOUTS:
        raise ValueError(f"{layout = } is not one of auto, {', '.join(LAYOUTS)}")
    if not path.is_dir():
        raise SourceNotFoundError(f"{path} is not a folder: give the folder that holds the data set", url=str(path))
    if layout == "auto":
        layout = next((name for name, one in LAYOUTS.items() if one.recognised(path)), "")
        if not layout and not any(path.iterdir()):
            raise SourceError(f"{path} is empty: put pictures and their masks there", url=str(path))
        if not layout:
            known = "; ".join(f"{name}: {one.looks_like}" for name, one in LAYOUTS.items())
            raise SourceError(f"{path} has no layout that is known: name one, or lay it out as {known}", url=str(path))
    try:
        entries, problems, classes = LAYOUTS[layout].read(path)
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, SourceError):
            raise
        text = f"{path} cannot be read as {layout} ({LAYOUTS[layout].looks_like}): {error}"
        raise SourceError(text, url=str(path)) from error
    if not entries and problems:
        raise SourceError(problems[0], url=str(path))
    if not entries:
        raise SourceError(f"{path} holds nothing of the layout {layout} ({LAYOUTS[layout].looks_like})", url=str(path))
    if not any(entry.split for entry in entries):
        entries = [replace(entry, split="val" if held_back(entry.person) else "train") for entry in entries]
    return Dataset(path, layout, tuple(entries), tuple(problems), classes)


def open_datasets(paths: Iterable[Path | str], problems: list[str] | None = None) -> list[Dataset]:
    """Open several data sets; a folder that is none itself may hold some. ``LAYOUT:PATH`` names the layout.

    Args:
        paths: ``PATH`` or ``LAYOUT:PATH``.
        problems: Takes what sub-folders were passed over, and why.

    Raises:
        SourceError: See ``open_dataset``.
        MissingDependencyError: See ``open_dataset``.
    """
    found = []
    for given in map(str, paths):
        layout, colon, rest = given.partition(":")
        layout, path = (layout, Path(rest)) if colon and layout in LAYOUTS else ("auto", Path(given))
        try:
            found.append(open_dataset(path, layout))
        except SourceError:
            folders = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
            inner = [p for p in folders if any(one.recognised(p) for one in LAYOUTS.values())]
            if layout != "auto" or not inner:
                raise
            found += [open_dataset(p) for p in inner]
            if problems is not None:
                problems += [f"{p} was passed over: it has no layout that is known" for p in folders if p not in inner]
    return found


def held_back(person: str) -> bool:
    """Return whether a person is kept for validation where nothing is said: every tenth, the same every time.

    A name that starts with a number (``137_bathroom``) goes by that number.
    """
    number = re.match(r"\d+", person)
    return (int(number[0]) if number else zlib.crc32(person.encode())) % 10 == 7


# --- one picture --------------------------------------------------------------------------------------------------


def _pixels(path: Path, flags: int = cv2.IMREAD_COLOR_RGB) -> Array:
    try:
        data = np.fromfile(path, np.uint8)  # cv2.imread takes no file names beyond the system's code page on Windows
    except FileNotFoundError:
        raise SourceNotFoundError(
            f"{path} is not there: restore it, or take it out of the list", url=str(path)
        ) from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}", url=str(path)) from error
    image = cv2.imdecode(data, flags) if len(data) else None
    if image is None:
        raise SourceError(f"{path} is not a readable picture: replace it, or take it away", url=str(path))
    return np.asarray(image, np.uint8)


def read_rgb(path: Path) -> Array:
    """Return a picture ``(h, w, 3)``, full size. Raises ``SourceError``."""
    return _pixels(path)


def read_alpha(path: Path) -> Array:
    """Return an alpha ``(h, w)`` with what lossy coding did to 0 and 255 undone. Raises ``SourceError``."""
    image = _pixels(path, cv2.IMREAD_UNCHANGED)
    alpha = image[..., 3] if image.ndim == 3 and image.shape[2] == 4 else _pixels(path, cv2.IMREAD_GRAYSCALE)
    if int(alpha.max()) == 1:
        raise SourceError(f"{path} reaches 1 of 255: if it is a mask of 0 and 1, name it a mask", url=str(path))
    return snapped(alpha) if path.suffix.lower() in _LOSSY else np.ascontiguousarray(alpha)


def snapped(alpha: Array) -> Array:
    """Return ``alpha`` with what is nearly 0 or 255 made so: lossy coding leaves a haze."""
    return np.where(alpha < 5, 0, np.where(alpha > 250, 255, alpha)).astype(np.uint8)


def read_mask(path: Path) -> Array:
    """Return a mask ``(h, w)`` of 0 and 255, from one of 0 and 255 or of 0 and 1. Raises ``SourceError``."""
    mask = _pixels(path, cv2.IMREAD_GRAYSCALE)
    most = int(mask.max())
    wrong = mask[(mask != 0) & (mask != most)]
    if len(wrong) or most not in (0, 1, 255):
        value = int(wrong[0]) if len(wrong) else most
        mend = "a soft alpha belongs into alphas/ or is named NAME_alpha"
        raise SourceError(f"{path} holds {value}, but a mask holds 0 and 255 (or 0 and 1) only: {mend}", url=str(path))
    return mask if most != 1 else (mask * 255).astype(np.uint8)


def read_classes(path: Path, count: int) -> Array:
    """Return class numbers ``(h, w)``, 255 = unknown, of ``count`` classes, from a grey or palette PNG.

    Raises:
        SourceError: It cannot be read, has colours instead of numbers, or a number that is no class.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1"):
                raise SourceError(f"{path} has colours ({image.mode}): save class numbers as a grey or palette PNG")
            numbers = np.array(image, np.uint8)
    except FileNotFoundError:
        raise SourceNotFoundError(f"{path} is not there: restore it, or take its picture away", url=str(path)) from None
    except OSError as error:
        raise SourceError(f"{path} is not a readable picture: replace it, or take it away", url=str(path)) from error
    wrong = numbers[(numbers >= count) & (numbers != 255)]
    if len(wrong):
        raise SourceError(f"{path} holds class {wrong[0]}, but classes.txt names {count} (0 to {count - 1})")
    return numbers


def _same_size(rgb: Array, truth: Array, path: Path, truth_path: Path) -> None:
    if rgb.shape[:2] != truth.shape[:2]:
        sizes = " and ".join(f"{x.shape[1]}x{x.shape[0]}" for x in (rgb, truth))
        raise SourceError(
            f"{path} and {truth_path.name} are of different size ({sizes}): make them alike", url=str(path)
        )


def _person(rgb: Array, alpha: Array, ignore: Array | None, person: str, kind: Kind, name: Path) -> Picture:
    """Return the picture at ``LONG_SIDE``."""
    if not alpha.any() and (ignore is None or not ignore.any()):
        raise SourceError(
            f"{name} has an empty mask, but stands among people: put pictures without people into rooms/", url=str(name)
        )
    ignore = None if ignore is None or not ignore.any() else shrunk(ignore)
    return Picture(shrunk(rgb), shrunk(alpha), ignore, person, kind == "person")


def _pair(path: Path, truth: Path, kind: Kind, person: str, read: Callable[[Path], Array]) -> Picture:
    rgb, alpha = read_rgb(path), read(truth)
    _same_size(rgb, alpha, path, truth)
    places = [p for word in _IGNORE if (p := path.with_name(f"{path.stem}{word}.png")).exists()]
    ignore = _pixels(places[0], cv2.IMREAD_GRAYSCALE) if places else None
    if ignore is not None:
        _same_size(rgb, ignore, path, places[0])
    return _person(rgb, alpha, ignore, person, kind, path)


def _cutout(path: Path, person: str) -> Picture:
    rgba = _pixels(path, cv2.IMREAD_UNCHANGED)
    if rgba.ndim != 3 or rgba.shape[2] != 4:
        raise SourceError(f"{path} has no alpha channel: save it as RGBA, or add a mask", url=str(path))
    return _person(np.ascontiguousarray(rgba[..., 2::-1]), rgba[..., 3].copy(), None, person, "cutout", path)


def _nobody(path: Path, name: str) -> Picture:
    """Read a picture without people; an object that is cut out keeps its alpha."""
    pixels = _pixels(path, cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 3 and pixels.shape[2] == 4 and int(pixels[..., 3].min()) < 255:
        return Picture(
            shrunk(np.ascontiguousarray(pixels[..., 2::-1])), shrunk(pixels[..., 3].copy()), None, name, False
        )
    rgb = shrunk(read_rgb(path))
    return Picture(rgb, np.zeros(rgb.shape[:2], np.uint8), None, name, True)


def _still(read: Callable[[], Picture]) -> Callable[[], list[Clip]]:
    return lambda: [Clip((read(),))]


# --- finding files --------------------------------------------------------------------------------------------------


def _files(folder: Path, suffixes: frozenset[str] = SUFFIXES) -> list[Path]:
    """Return the files below ``folder``, sorted by name; what starts with a dot is passed over."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith(".")]
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())


def _first(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _split(path: Path) -> str:
    """Return the split that a relative path names, or ""."""
    for part in path.parts:
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def _matched(
    pictures: Path, truths: Path, suffixes: frozenset[str] = SUFFIXES
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pair the files of two folders by their names; a truth's may end in ``_mask``, ``_alpha``, ``_matte``, ``_a``."""

    def key(path: Path, root: Path, strip: bool) -> str:
        name = path.relative_to(root).with_suffix("").as_posix()
        return _TRUTH.sub("", name) if strip else name

    named = {key(p, pictures, False): p for p in _files(pictures, suffixes) if not p.stem.endswith(_IGNORE)}
    found = {key(p, truths, True): p for p in _files(truths, suffixes)}
    found |= {name: p for p in _files(truths, suffixes) if (name := key(p, truths, False)) in named}
    problems = [_lonely(path, truths) for name, path in named.items() if name not in found]
    problems += [_orphan(path, pictures) for name, path in found.items() if name not in named]
    return [(path, found[name]) for name, path in named.items() if name in found], problems


def _lonely(path: Path, place: Path) -> str:
    return f"{path} has no mask: put {path.stem}.png into {place}, or take the picture away"


def _orphan(path: Path, place: Path) -> str:
    return f"{path} is a mask without its picture: put the picture into {place}, or take the mask away"


# --- layouts ----------------------------------------------------------------------------------------------------


def _index(root: Path) -> Listing:
    """``index.csv``: a row a picture.

    ``file``, and ``mask`` or ``alpha`` (neither, or ``(alpha channel)``: an RGBA cut-out; or, if there are no such
    columns, a room). May have ``set``, ``split``, ``kind`` (``still``, ``real``; ``plain``: only the person is of use;
    ``room``, ``thing``), ``hard`` (1: see ``Kind``), ``person`` or ``clip``, and ``group`` with ``frame_in_group`` for
    consecutive frames.
    ``NAME_carried.png`` or ``NAME_ignore.png`` beside the file marks what is not to be learnt.
    """
    with open(root / "index.csv", newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        columns, rows = set(table.fieldnames or ()), list(table)
    if "file" not in columns:
        raise SourceError(f"{root / 'index.csv'} has no column 'file': add one with the pictures' names", url=str(root))
    empty = not columns & {"mask", "alpha"} and "kind" not in columns
    groups: dict[str, list[tuple[dict[str, str], Kind]]] = {}
    problems = []
    for row in rows:
        if (row.get("mask") or "").startswith("("):  # "(alpha channel)"
            row["mask"] = ""
        truth = row.get("mask") or row.get("alpha")
        word = row.get("kind") or ""
        kind: Kind = "cutout" if not truth or word == "plain" else "person"
        if row.get("hard") == "1":
            kind = "hard"
        elif empty or word == "room":
            kind = "room"
        elif word == "thing":
            kind = "thing"
        missing = [name for name in (row["file"], truth) if name and not (root / name).is_file()]
        if missing:
            problems.append(
                f"{root / 'index.csv'} names {missing[0]}, which is not there: restore it or delete the row"
            )
            continue
        group = row.get("group") if word in ("real", "plain") else None
        groups.setdefault(group or row["file"], []).append((row, kind))
    entries = []
    for members in groups.values():
        members.sort(key=lambda member: int(member[0].get("frame_in_group") or 0))
        row, kind = members[0]
        word = row.get("kind") or ""
        clip = row.get("clip") if word != "still" else None
        person = row.get("person") or clip or (_house(row["file"]) if kind == "room" else row["file"])
        name = row.get("set") or root.name
        name = f"{name}-{word}" if word and kind in ("person", "cutout") else name
        read = _index_reader(root, [member for member, _ in members], kind, person)
        # An index that knows of splits says so; one that does not is for training.
        split = _SPLITS.get(row.get("split") or "", "train")
        entries.append(Entry(row["file"], read, person, kind, name, "" if kind == "room" and empty else split))
    return Listing(entries, problems)


def _index_reader(root: Path, rows: list[dict[str, str]], kind: Kind, person: str) -> Callable[[], list[Clip]]:
    def frame(row: dict[str, str]) -> Picture:
        path, mask, alpha = root / row["file"], row.get("mask"), row.get("alpha")
        if kind in ("room", "thing", "hard"):
            return _nobody(path, person)
        if mask:
            return _pair(path, root / mask, kind, person, read_mask)
        return _pair(path, root / alpha, kind, person, read_alpha) if alpha else _cutout(path, person)

    return lambda: [Clip(tuple(map(frame, rows)))]


def _coco(root: Path) -> Listing:
    """COCO: ``annotations/instances_*.json`` and pictures; crowds are ignored, what has no people is a thing."""
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise MissingDependencyError("Reading COCO", "train") from error
    entries, problems = [], []
    for path in sorted([*root.glob("instances_*.json"), *root.glob("annotations/instances_*.json")]):
        with contextlib.redirect_stdout(io.StringIO()):  # it talks
            try:
                coco = COCO(str(path))
                (category,) = coco.getCatIds(catNms=["person"])
            except (ValueError, KeyError, AssertionError) as error:
                raise SourceError(f"{path} is not COCO's instances with a category 'person'", url=str(path)) from error
        part = path.stem.removeprefix("instances_")
        folder = _first(root, part, f"images/{part}", "images") or root
        for number in sorted(coco.imgs):
            picture = coco.imgs[number]
            name = folder / picture["file_name"]
            if not name.is_file():
                problems.append(f"{path} names {picture['file_name']}, which is not in {folder}")
                continue
            people = coco.loadAnns(coco.getAnnIds(imgIds=[number], catIds=[category]))
            read = _still(partial(_coco_picture, name, people, coco))
            kind: Kind = "person" if people else "thing"
            entries.append(Entry(name.relative_to(root).as_posix(), read, name.stem, kind, "coco", _split(Path(part))))
    return Listing(entries, problems)


def _coco_picture(path: Path, people: list[dict[str, Any]], coco: Any) -> Picture:
    if not people:
        return _nobody(path, path.stem)
    rgb = read_rgb(path)
    alpha, crowd = np.zeros((2, *rgb.shape[:2]), np.uint8)
    for one in people:
        mask = np.asarray(coco.annToMask(one), np.uint8) * 255
        if mask.shape != alpha.shape:
            _same_size(rgb, mask, path, Path("its annotation"))
        into = crowd if one.get("iscrowd") else alpha
        np.maximum(into, mask, out=into)
    crowd[alpha > 0] = 0
    return _person(rgb, alpha, crowd, path.stem, "person", path)


def _p3m(root: Path) -> Listing:
    """P3M-10k: ``train/{blurred_image,mask}``, ``validation/P3M-500-NP/{original_image,mask}``; masks are alphas."""
    entries, problems = [], []
    for masks in sorted(p for p in root.rglob("mask") if p.is_dir()):
        pictures = _first(masks.parent, "blurred_image", "original_image")
        if pictures is None:
            problems.append(f"{masks} stands alone: put blurred_image or original_image beside it")
            continue
        pairs, lonely = _matched(pictures, masks)
        problems += lonely
        split = _split(masks.relative_to(root)) or "train"
        for path, truth in pairs:
            entries.append(_pair_entry(root, path, truth, "p3m", split, read_alpha))
    return Listing(entries, problems)


def _aisegment(root: Path) -> Listing:
    """AISegment: ``clip_img/GROUP/clip_N/NAME.jpg`` and ``matting/GROUP/matting_N/NAME.png`` (RGBA)."""
    pictures, mattes = root / "clip_img", root / "matting"

    def key(path: Path, folder: Path) -> str:
        name = path.relative_to(folder).with_suffix("").as_posix()
        return re.sub(r"/(?:clip|matting)_", "/", name)

    named = {key(p, pictures): p for p in _files(pictures)}
    found = {key(p, mattes): p for p in _files(mattes)}
    problems = [_lonely(p, mattes) for name, p in named.items() if name not in found]
    problems += [_orphan(p, pictures) for name, p in found.items() if name not in named]
    pairs = [(path, found[name]) for name, path in named.items() if name in found]
    # Pictures of one group were taken together.
    entries = [
        replace(
            _pair_entry(root, path, truth, "aisegment", "", read_alpha), split="val" if held_back(group) else "train"
        )
        for path, truth in pairs
        for group in ["/".join(path.relative_to(pictures).parts[:-1])]
    ]
    return Listing(entries, problems)


def _supervisely(root: Path) -> Listing:
    """Supervisely: ``meta.json`` and ``DATASET/{img,ann}``; polygons, bitmaps and alpha masks of people."""
    projects = [root] if (root / "meta.json").is_file() else sorted(p.parent for p in root.glob("*/meta.json"))
    entries, problems = [], []
    for project in projects:
        for folder in sorted(p.parent for p in project.glob("*/ann") if p.is_dir()):
            pictures = {p.name: p for p in _files(folder / "img")}
            for note in sorted((folder / "ann").glob("*.json")):
                path = pictures.pop(note.stem, None) or next(
                    (pictures.pop(n) for n in pictures if Path(n).stem == note.stem), None
                )
                if path is None:
                    problems.append(f"{note} is an annotation without its picture: put it into {folder / 'img'}")
                    continue
                read = _still(partial(_supervisely_picture, path, note))
                name = path.relative_to(root)
                entries.append(Entry(name.as_posix(), read, path.stem, "person", "supervisely", _split(name)))
            problems += [_lonely(path, folder / "ann") for path in pictures.values()]
    return Listing(entries, problems)


def _supervisely_picture(path: Path, note: Path) -> Picture:
    rgb = read_rgb(path)
    try:
        told = json.loads(note.read_text("utf-8"))
        size = int(told["size"]["height"]), int(told["size"]["width"])
        objects = [one for one in told["objects"] if "person" in str(one["classTitle"]).lower()]
        alpha = np.zeros(size, np.uint8)
        for one in objects:
            _draw_object(alpha, one)
    except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise SourceError(f"{note} is not an annotation of Supervisely: export it again", url=str(note)) from error
    _same_size(rgb, alpha, path, note)
    return _person(rgb, alpha, None, path.stem, "person", path)


def _draw_object(alpha: Array, one: dict[str, Any]) -> None:
    """Draw an object of Supervisely's JSON into ``alpha``."""
    if "points" in one and one.get("geometryType", "polygon") == "polygon":
        rings = [np.asarray(one["points"]["exterior"], np.float64)]
        rings += [np.asarray(ring, np.float64) for ring in one["points"]["interior"]]
        drawn = np.zeros_like(alpha)
        for ring, value in zip_longest(rings, [255], fillvalue=0):
            cv2.fillPoly(drawn, [np.round(np.asarray(ring)).astype(np.int32)], (float(value),))
        np.maximum(alpha, drawn, out=alpha)
    elif "bitmap" in one:
        data = np.frombuffer(zlib.decompress(base64.b64decode(one["bitmap"]["data"])), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if image is None:
            raise ValueError("a bitmap that is no PNG")
        piece = image[..., -1] if image.ndim == 3 else image
        left, top = (int(value) for value in one["bitmap"]["origin"])
        place = alpha[top : top + piece.shape[0], left : left + piece.shape[1]]
        if place.shape != piece.shape:
            raise ValueError("a bitmap beyond the picture")
        np.maximum(place, np.where(piece > 0, 255, 0).astype(np.uint8), out=place)


def _alpha_clips(root: Path) -> Listing:
    """Clips with alpha: ``fgr/`` and ``pha/`` (VideoMatte240K: cut-outs), ``frames/`` and ``alphas/`` or ``masks/``.

    In them videos of the same name, or sub-folders of numbered pictures; also below ``train/`` and ``test/``.
    """
    entries, problems = [], []
    for place in _with_parts(root):
        for pictures, truths, kind in _clip_folders(place):
            split = _split(place.relative_to(root))
            read = read_mask if truths.name == "masks" else read_alpha
            videos, lonely = _matched(pictures, truths, VIDEOS)
            problems += lonely
            for video, matte in videos:
                name = video.relative_to(root).as_posix()
                load: Callable[[], list[Clip]] = partial(_video_clips, video, matte, kind)
                entries.append(Entry(name, load, f"{root.name}/{video.stem}", kind, root.name, split))
            pairs, lonely = _matched(pictures, truths)
            problems += lonely
            sequences: dict[Path, list[tuple[Path, Path]]] = {}
            for pair in pairs:
                sequences.setdefault(pair[0].parent, []).append(pair)
            for folder, frames in sequences.items():
                frames.sort(key=lambda pair: [int(n) for n in re.findall(r"\d+", pair[0].stem)])
                name = folder.relative_to(root).as_posix()
                load = partial(_sequence, frames, kind, name, read)
                entries.append(Entry(name, load, f"{root.name}/{folder.name}", kind, root.name, split))
    return Listing(entries, problems)


def _clip_folders(place: Path) -> list[tuple[Path, Path, Kind]]:
    found: list[tuple[Path, Path, Kind]] = []
    if (place / "fgr").is_dir() and (place / "pha").is_dir():
        found.append((place / "fgr", place / "pha", "cutout"))
    truths = _first(place, "alphas", "masks")
    if (place / "frames").is_dir() and truths:
        found.append((place / "frames", truths, "person"))
    return found


def _runs(total: int) -> list[tuple[int, int]]:
    """Return the stretches ``[start, end)`` to keep of ``total`` frames."""
    if total <= RUNS * RUN:
        return [(start, min(start + RUN, total)) for start in range(0, total, RUN)]
    return [
        (round(run * (total - RUN) / (RUNS - 1)), round(run * (total - RUN) / (RUNS - 1)) + RUN) for run in range(RUNS)
    ]


def _sequence(frames: list[tuple[Path, Path]], kind: Kind, person: str, read: Callable[[Path], Array]) -> list[Clip]:
    return [
        Clip(tuple(_pair_frame(path, truth, kind, person, read) for path, truth in frames[start:end]))
        for start, end in _runs(len(frames))
    ]


def _pair_frame(path: Path, truth: Path, kind: Kind, person: str, read: Callable[[Path], Array]) -> Picture:
    """Read a frame of a clip, in which the person may be out of the picture."""
    rgb, alpha = read_rgb(path), read(truth)
    _same_size(rgb, alpha, path, truth)
    return Picture(shrunk(rgb), shrunk(alpha), None, person, kind == "person")


def _video_clips(video: Path, matte: Path, kind: Kind) -> list[Clip]:
    with open_source(str(video)) as source, open_source(str(matte)) as truths:
        if source.info.size != truths.info.size:
            sizes = " and ".join(f"{info.size[1]}x{info.size[0]}" for info in (source.info, truths.info))
            raise SourceError(f"{video} and {matte.name} are of different size ({sizes}): make them alike")
        total = source.info.frames or round(source.info.duration * float(source.info.fps or 30))
        runs = _runs(max(total, 1))
        kept: dict[int, list[Picture]] = {start: [] for start, _ in runs}
        for index, (frame, truth) in enumerate(zip(source, truths, strict=False)):
            if index >= runs[-1][1]:
                break
            for start, end in runs:
                if start <= index < end:
                    rgb, alpha = _small_rgb(frame), snapped(np.ascontiguousarray(_small_rgb(truth)[..., 1]))
                    kept[start].append(Picture(rgb, alpha, None, video.stem, kind == "person"))
    clips = [Clip(tuple(frames)) for frames in kept.values() if frames]
    if not clips:
        raise SourceError(f"{video} and {matte.name} have no frame in common: replace them", url=str(video))
    return clips


def _small_rgb(frame: Frame) -> Array:
    height, width = frame.planes[0].shape
    scale = min(LONG_SIDE / max(height, width), 1.0)
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    return np.asarray(rgb_from_planes(shrink_planes(frame, size), frame.color, frame.depth), np.uint8)


def _pair_entry(
    root: Path, path: Path, truth: Path, name: str, split: str, read: Callable[[Path], Array], kind: Kind = "person"
) -> Entry:
    relative = path.relative_to(root)
    person = f"{name}/{relative.with_suffix('').as_posix()}"
    return Entry(
        relative.as_posix(), _still(partial(_pair, path, truth, kind, person, read)), person, kind, name, split
    )


def _with_parts(root: Path) -> list[Path]:
    """Return the folder itself and those in it that are named as a split."""
    return [root, *sorted(p for p in root.iterdir() if p.is_dir() and p.name.lower() in _SPLITS)]


def _truth_folders(place: Path) -> tuple[Path, Path, Callable[[Path], Array]] | None:
    pictures, truths = _first(place, "images"), _first(place, "alphas", "masks")
    if pictures is None or truths is None:
        return None
    return pictures, truths, read_mask if truths.name == "masks" else read_alpha


def _folders(root: Path) -> Listing:
    """``images/`` and ``masks/`` or ``alphas/`` with the same names; also below ``train/`` and ``val/``."""
    entries, problems = [], []
    for place in _with_parts(root):
        if found := _truth_folders(place):
            pairs, lonely = _matched(found[0], found[1])
            problems += lonely
            for path, truth in pairs:
                split = _split(path.relative_to(root).parent)
                entries.append(_pair_entry(root, path, truth, root.name, split, found[2]))
    return Listing(entries, problems)


def _classes(root: Path) -> Listing:
    """``images/``, ``masks/`` of class numbers (grey or palette PNG, 255 = unknown), ``classes.txt``: a name a line."""
    names = tuple(line.strip() for line in (root / "classes.txt").read_text("utf-8").splitlines() if line.strip())
    if not 2 <= len(names) <= 255:
        raise SourceError(
            f"{root / 'classes.txt'} names {len(names)} classes: give 2 to 255, one a line", url=str(root)
        )
    entries, problems = [], []
    for place in _with_parts(root):
        if (place / "images").is_dir():
            pairs, lonely = _matched(place / "images", place / "masks")
            problems += lonely
            for path, truth in pairs:
                name = path.relative_to(root)
                read = _still(partial(_class_picture, path, truth, len(names)))
                entries.append(Entry(name.as_posix(), read, path.stem, "person", root.name, _split(name.parent)))
    return Listing(entries, problems, names)


def _class_picture(path: Path, truth: Path, count: int) -> Picture:
    rgb, numbers = read_rgb(path), read_classes(truth, count)
    _same_size(rgb, numbers, path, truth)
    return Picture(shrunk(rgb), shrunk_classes(numbers), None, path.stem, True)


def _beside(root: Path) -> Listing:
    """``NAME.jpg`` and beside it ``NAME_mask.png``, ``NAME_alpha.png``, ``NAME_matte.png`` or ``NAME_a.png``."""
    files = [p for p in _files(root) if not p.stem.endswith(_IGNORE)]
    truths = {(p.parent, _TRUTH.sub("", p.stem)): p for p in files if _TRUTH.search(p.stem)}
    entries, problems = [], []
    for path in files:
        if _TRUTH.search(path.stem):
            continue
        truth = truths.pop((path.parent, path.stem), None)
        if truth is None:
            problems.append(f"{path} has no mask: put {path.stem}_mask.png beside it, or take the picture away")
        else:
            read = read_mask if truth.stem.endswith("mask") else read_alpha
            split = _split(path.relative_to(root).parent)
            entries.append(_pair_entry(root, path, truth, root.name, split, read))
    problems += [_orphan(path, path.parent) for path in truths.values()]
    return Listing(entries, problems)


def _cutouts(root: Path) -> Listing:
    """People cut out: PNG or WebP with an alpha channel."""
    entries = []
    for path in _files(root):
        name = path.relative_to(root)
        person = f"{root.name}/{name.as_posix()}"
        read = _still(partial(_cutout, path, person))
        entries.append(Entry(name.as_posix(), read, person, "cutout", root.name, _split(name.parent)))
    return Listing(entries, [])


def _house(name: str) -> str:
    """Return which house a room belongs to: ``137_bathroom.webp`` and ``137_kitchen.webp`` stay together."""
    return Path(name).stem.split("_")[0] if re.match(r"\d+_", Path(name).name) else name


def _empty(root: Path, kind: Kind) -> Listing:
    entries = []
    for path in _files(root):
        name = path.relative_to(root)
        person = _house(name.as_posix())
        read = _still(partial(_nobody, path, person))
        entries.append(Entry(name.as_posix(), read, person, kind, root.name, _split(name.parent)))
    return Listing(entries, [])


def _sample(root: Path) -> list[Path]:
    """Return the pictures right in a folder or its splits, to tell its layout by."""
    found = [p for place in _with_parts(root) for p in place.iterdir()]
    return sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _has_alpha(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return "A" in image.getbands() or "transparency" in image.info
    except OSError:
        return False


def _any_part(root: Path, wanted: Callable[[Path], object]) -> bool:
    return any(wanted(place) for place in _with_parts(root))


LAYOUTS: dict[str, Layout] = {
    "index": Layout("index.csv with the column file", lambda p: (p / "index.csv").is_file(), _index),
    "coco": Layout(
        "annotations/instances_*.json beside the folders of pictures",
        lambda p: any(p.glob("annotations/instances_*.json")) or any(p.glob("instances_*.json")),
        _coco,
    ),
    "supervisely": Layout(
        "meta.json and DATASET/{img,ann}",
        lambda p: (any(p.glob("*/ann")) and (p / "meta.json").is_file()) or any(p.glob("*/meta.json")),
        _supervisely,
    ),
    "p3m": Layout(
        "{blurred_image,original_image}/ and mask/",
        lambda p: any(
            _first(m.parent, "blurred_image", "original_image")
            for m in [p / "mask", *p.glob("*/mask"), *p.glob("*/*/mask")]
            if m.is_dir()
        ),
        _p3m,
    ),
    "aisegment": Layout(
        "clip_img/ and matting/", lambda p: (p / "clip_img").is_dir() and (p / "matting").is_dir(), _aisegment
    ),
    "clips": Layout(
        "fgr/ and pha/, or frames/ and alphas/ or masks/, of videos or numbered pictures",
        lambda p: _any_part(p, _clip_folders),
        _alpha_clips,
    ),
    "classes": Layout("classes.txt, images/ and masks/", lambda p: (p / "classes.txt").is_file(), _classes),
    "folders": Layout("images/ and masks/ or alphas/", lambda p: _any_part(p, _truth_folders), _folders),
    "beside": Layout(
        "NAME.jpg and NAME_mask.png, NAME_alpha.png or NAME_a.png",
        lambda p: any(_TRUTH.search(one.stem) for one in _sample(p)),
        _beside,
    ),
    "rooms": Layout(
        f"pictures without people, in a folder named {', '.join(sorted(ROOMS))}",
        lambda p: p.name.lower() in ROOMS and bool(_files(p)),
        lambda p: _empty(p, "room"),
    ),
    "things": Layout(
        "pictures of anything but people and rooms, in a folder named things",
        lambda p: p.name.lower() == "things" and bool(_files(p)),
        lambda p: _empty(p, "thing"),
    ),
    "cutouts": Layout(
        "pictures with an alpha channel",
        lambda p: bool(found := _sample(p)) and all(map(_has_alpha, found[:5])),
        _cutouts,
    ),
}
"""The layouts, in the order in which ``auto`` tries them."""
