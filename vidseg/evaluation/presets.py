"""Evaluation sets by name: a user's folders by their kind, and those that are made of the validation data."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from vidseg.decoding import picture_size, read_picture, to_depth
from vidseg.errors import SourceError, SourceNotFoundError
from vidseg.evaluation import scenes
from vidseg.evaluation.cases import (
    Case,
    CaseSet,
    Rgb,
    Shot,
    frames_of,
    labelled_files,
    moving,
    read_clips,
    read_empty,
    read_index,
    read_labelled,
    read_matte,
    read_pairs,
    read_rgb,
)
from vidseg.evaluation.scenes import Box, Cutout, seeded
from vidseg.frame import FullAlpha
from vidseg.sources.pictures import list_pictures

Kind = Literal["pairs", "index", "cutouts", "clips", "foregrounds", "empty"]
"""Of a user's folder."""
KINDS: tuple[str, ...] = get_args(Kind)
PRESETS = ("webcam", "composites", "composites-pseudo", "clips", "rooms", "labelled")
"""What is made of a data folder with ``labelled/``, ``pseudo/`` and ``backgrounds/``."""
_PORTRAITS = ("ccp", "vikram")
"""Labelled sets of people near enough for a webcam's framing."""
_CLIPS, _PSEUDO = 24, 90


# --- a user's folders -------------------------------------------------------------------------------------------


def read_sets(name: str, kind: str, path: Path, rooms: Sequence[Path] = (), seed: int = 0) -> list[CaseSet]:
    """Return what lies in a folder.

    Args:
        name: Of the set; an index has several, ``NAME-SET``.
        kind: ``pairs`` (pictures with masks or alphas), ``index`` (index.csv with file, mask, set, split), ``cutouts``
            (RGBA pictures, set before rooms), ``clips`` (with alphas), ``foregrounds`` (``fgr/`` and ``pha/`` as in
            VideoMatte240K, set before rooms) or ``empty`` (pictures without people).
        path: The folder, or the index.
        rooms: Pictures of rooms without people.
        seed: Of what is drawn by chance.

    Raises:
        ValueError: There is no such kind.
        SourceError: The folder does not hold that, or rooms are needed and there are none.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind = } is not one of {', '.join(KINDS)}")
    if kind in ("cutouts", "foregrounds") and not rooms:
        raise SourceError(f"{path} is set before rooms, and there are none: name a folder of rooms", url=str(path))
    match kind:
        case "pairs":
            return [read_pairs(name, path)]
        case "index":
            return [CaseSet(f"{name}-{found.name}", found.cases, note=found.note) for found in read_index(path)]
        case "cutouts":
            return [_cutouts(name, path, rooms, seed)]
        case "clips":
            return [read_clips(name, path)]
        case "foregrounds":
            return [_foregrounds(name, path, rooms, seed)]
    return [read_empty(name, list_pictures(str(path)), f"Pictures of {path.name}, in which nobody is.")]


def _cutouts(name: str, folder: Path, rooms: Sequence[Path], seed: int) -> CaseSet:
    def shots(path: Path) -> Iterator[Shot]:
        picture = read_picture(path)
        if picture.alpha is None:
            raise SourceError(f"{path} is opaque: a cut-out has an alpha of its own", url=str(path))
        person = Cutout(cast("Rgb", to_depth(picture.rgb, 8)), cast("FullAlpha", to_depth(picture.alpha, 8)))
        rng = seeded(seed, name, path.name)
        box = scenes.frame_person(person.alpha, scenes.HEADS["half"], rng, confined=False) or _whole(person.alpha)
        yield scenes.compose(person, box, _drawn(rooms, rng), rng)

    cases = [Case(path.stem, lambda path=path: shots(path)) for path in list_pictures(str(folder))]  # type: ignore[misc]
    return CaseSet(name, cases, note=f"Cut-outs of {folder.name} before rooms.")


def _whole(alpha: FullAlpha) -> Box:
    """Return a box of a scene's shape as high as the picture, about its middle."""
    height, width = alpha.shape
    across = height * scenes.SCENE[1] / scenes.SCENE[0]
    return Box((width - across) / 2, 0, across, height)


def _foregrounds(name: str, folder: Path, rooms: Sequence[Path], seed: int) -> CaseSet:
    front, mattes = folder / "fgr", folder / "pha"
    if not (front.is_dir() and mattes.is_dir()):
        raise SourceError(
            f"{folder} needs the folders fgr and pha: put the clips and their alphas there", url=str(folder)
        )
    partners = {path.stem: path for path in sorted(mattes.iterdir())}
    clips = [path for path in sorted(front.iterdir()) if not path.name.startswith(".")]
    for path in clips:
        if path.stem not in partners:
            raise SourceError(f"{path} has no alpha: add it to {mattes}", url=str(path))

    def shots(path: Path) -> Iterator[Shot]:
        room = _drawn(rooms, seeded(seed, name, path.name))
        for index, (frame, alpha) in enumerate(frames_of(path, partners[path.stem])):
            yield moving(scenes.before_room(Shot(frame, alpha).rgb, alpha, room), alpha, index)

    cases = [Case(path.stem, lambda path=path: shots(path)) for path in clips]  # type: ignore[misc]
    return CaseSet(name, cases, moving=True, note=f"Foregrounds of {folder.name} before rooms, 30 frames a second.")


def _drawn(rooms: Sequence[Path], rng: np.random.Generator) -> Rgb:
    return read_rgb(rooms[int(rng.integers(len(rooms)))])


# --- made of the validation data --------------------------------------------------------------------------------


def validation_rooms(data: Path) -> list[Path]:
    """Return the rooms that no training sees: those of every house whose number ends in 7.

    Raises:
        SourceError: There are none.
    """
    folder = data / "backgrounds"
    rooms = [path for path in list_pictures(str(folder)) if path.name.split("_")[0].rstrip("0123456789") == ""]
    rooms = [path for path in rooms if int(path.name.split("_")[0]) % 10 == 7]
    if not rooms:
        raise SourceError(f"{folder} holds no room for validation, such as 17_kitchen.webp: add some", url=str(folder))
    return rooms


def preset_sets(preset: str, data: Path, seed: int = 0) -> list[CaseSet]:
    """Return the sets of that name, made of the validation part of ``data``.

    Args:
        preset: One of ``PRESETS``.
        data: Folder with ``labelled/`` (an index.csv in it), ``backgrounds/`` and, for some, ``pseudo/``.
        seed: Of what is drawn by chance.

    Raises:
        ValueError: There is no such preset.
        SourceError: What it is made of is not there.
    """
    makers: dict[str, Callable[[Path, int], list[CaseSet]]] = {
        "webcam": _webcam,
        "composites": _composites,
        "composites-pseudo": _pseudo_composites,
        "clips": _clips,
        "rooms": lambda data, _: [
            read_empty("rooms", validation_rooms(data), "Rooms in which nobody is; not trained on.")
        ],
        "labelled": lambda data, _: read_index(data / "labelled"),
    }
    if preset not in makers:
        raise ValueError(f"{preset = } is not one of {', '.join(makers)}")
    return makers[preset](data, seed)


def _portraits(data: Path) -> list[tuple[str, Path, Path, Path | None]]:
    found = labelled_files(data / "labelled", "val")
    return [row for row in found if row[0] in _PORTRAITS] or found


def _webcam(data: Path, seed: int) -> list[CaseSet]:
    def shots(files: tuple[Path, Path, Path | None], box: Box) -> Iterator[Shot]:
        for shot in read_labelled(*files):
            yield scenes.webcam_crop(shot.rgb, shot.alpha, shot.known, box)

    cases = []
    for _, picture, mask, carried in _portraits(data):
        alpha = _alpha(picture, mask)
        boxes: list[Box] = []
        for framing, heads in scenes.HEADS.items():
            box = scenes.frame_person(alpha, heads, seeded(seed, "webcam", picture.stem, framing), confined=True)
            # Where the picture is too narrow for the wider framing, both would show the same.
            if box is not None and all(box.height > 1.15 * other.height for other in boxes):
                boxes.append(box)
                files = picture, mask, carried
                name = f"{picture.stem}-{framing}"
                cases.append(Case(name, lambda files=files, box=box: shots(files, box)))  # type: ignore[misc]
    note = "Head-and-shoulders and half-body crops of labelled pictures (val), 512x288, hard masks; not trained on."
    return [CaseSet("webcam", cases, note=note)]


def _alpha(picture: Path, mask: Path) -> FullAlpha:
    return read_matte(mask, picture_size(picture))


class _Person:
    """A person of a validation picture, cut out when asked for.

    Args:
        picture: What they are in.
        mask: Where.
        box: What of it is shown.
        beside: Whether there is picture to their left and right, so that they can move.
    """

    def __init__(self, picture: Path, mask: Path, box: Box, beside: bool) -> None:
        self.name, self.box, self.beside = picture.stem, box, beside
        self._files = picture, mask

    def cut_out(self) -> Cutout:
        picture, mask = self._files
        return scenes.cut_out(read_rgb(picture), _alpha(picture, mask), soften=True)


def _people(data: Path, seed: int) -> list[_Person]:
    """Return whoever of the validation pictures can be set before a room as a webcam would show them."""
    people = []
    for index, (_, picture, mask, carried) in enumerate(_portraits(data)):
        alpha = _alpha(picture, mask)
        heads = list(scenes.HEADS.values())[index % 2]
        box = scenes.frame_person(alpha, heads, seeded(seed, "people", picture.stem), confined=False)
        if box is None:
            continue
        if carried is not None:
            top, bottom = max(round(box.top), 0), round(box.top + box.height)
            held = read_matte(carried, alpha.shape)[top:bottom] > 127
            if held.sum() > 0.02 * (alpha[top:bottom] > 127).sum():
                continue  # without what they carry, there is a bite in them
        people.append(_Person(picture, mask, box, max(alpha[:, 0].max(), alpha[:, -1].max()) < 128))
    return people


def _composites(data: Path, seed: int) -> list[CaseSet]:
    rooms = validation_rooms(data)

    def shots(person: _Person) -> Iterator[Shot]:
        rng = seeded(seed, "composites", person.name)
        yield scenes.compose(person.cut_out(), person.box, _drawn(rooms, rng), rng)

    cases = [Case(person.name, lambda person=person: shots(person)) for person in _people(data, seed)]  # type: ignore[misc]
    note = (
        "People of labelled pictures (val), their masks feathered by a guided filter, before val rooms, 512x288; "
        "neither was trained on."
    )
    return [CaseSet("composites", cases, note=note)]


def _pseudo_composites(data: Path, seed: int) -> list[CaseSet]:
    rooms, pseudo = validation_rooms(data), data / "pseudo"
    try:
        with (pseudo / "index.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["kind"] == "plain"]
        first = {row["clip"]: (pseudo / row["file"], pseudo / row["alpha"]) for row in reversed(rows)}
    except FileNotFoundError as error:
        url = str(pseudo / "index.csv")
        raise SourceNotFoundError(f"{url} does not exist: leave composites-pseudo out", url=url) from error

    def shots(picture: Path, matte: Path) -> Iterator[Shot]:
        rgb = read_rgb(picture)
        alpha = read_matte(matte, rgb.shape[:2])
        alpha = np.where(alpha < 5, 0, np.where(alpha > 250, 255, alpha)).astype(np.uint8)  # lossy WebP
        rng = seeded(seed, "composites-pseudo", picture.stem)
        heads = list(scenes.HEADS.values())[int(rng.integers(2))]
        box = scenes.frame_person(alpha, heads, rng, confined=False) or _whole(alpha)
        yield scenes.compose(scenes.cut_out(rgb, alpha), box, _drawn(rooms, rng), rng)

    cases = [Case(files[0].stem, lambda files=files: shots(*files)) for _, files in sorted(first.items())]  # type: ignore[misc]
    note = (
        "People of pseudo-labelled clips before plain walls, set before val rooms, 512x288. The people were trained "
        "on, and their alphas are RobustVideoMatting's: both are flattered."
    )
    return [CaseSet("composites-pseudo", cases, note=note).limited(_PSEUDO)]


def _clips(data: Path, seed: int) -> list[CaseSet]:
    rooms, people = validation_rooms(data), [person for person in _people(data, seed) if person.beside]
    chosen = [people[index * len(people) // _CLIPS] for index in range(_CLIPS)] if len(people) > _CLIPS else people

    def shots(person: _Person, pans: bool) -> Iterator[Shot]:
        rng = seeded(seed, "clips", person.name)
        yield from scenes.compose_clip(person.cut_out(), person.box, _drawn(rooms, rng), pans, rng)

    cases = []
    for index, person in enumerate(chosen):
        pans = index % 2 == 1
        name = f"{person.name}-{'panning' if pans else 'still'}"
        cases.append(Case(name, lambda person=person, pans=pans: shots(person, pans)))  # type: ignore[misc]
    note = (
        f"Clips of {scenes.CLIP_FRAMES} frames made of the people and rooms of composites: smooth movements, the "
        "camera still or panning."
    )
    return [CaseSet("clips", cases, moving=True, note=note)]
