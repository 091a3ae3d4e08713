"""Footage of one's own room: short runs of consecutive frames, evenly from every clip, labelled by a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.color import rgb_from_planes
from vidseg.decoding import to_depth
from vidseg.engine import State, load_spec
from vidseg.errors import SourceError, SourceNotFoundError
from vidseg.explaining.looks import Look, Onlooker
from vidseg.frame import Color, Frame, StreamInfo
from vidseg.light import convert_light
from vidseg.resize import shrink_planes
from vidseg.sources import open_source
from vidseg.training.pictures import Array, Floats, Size

LONG_SIDE = 512
"""Frames are kept at this size."""
RUN = 4
"""Frames of a run."""
VIDEOS = frozenset({".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v"})
LOOKS = (Look(), Look(mirrored=True), Look(scale=0.75), Look(scale=1.5))
_SNAP = 0.06
"""Alpha that is this near to 0 or 1 is 0 or 1."""
_SURE = 0.1
"""A pixel within this of 0 or 1 is decided."""
_EDGE = 0.02
"""How far from both a sure person and the sure room an undecided pixel may lie to be a soft edge: of the height."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Consecutive frames.

    Attributes:
        clip: Name of the file.
        time: Of the first frame, seconds.
        rgb: ``(frames, h, w, 3)`` uint8, upright.
    """

    clip: str
    time: float
    rgb: Array

    @property
    def size(self) -> Size:
        """``(h, w)``."""
        return self.rgb.shape[1], self.rgb.shape[2]


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A run with what a teacher says of it.

    Attributes:
        run: The frames.
        alpha: ``(frames, h, w)`` uint8, 255 = person.
        known: ``(frames, h, w)`` uint8, 255 where the teacher is sure, 0 where it is not.
        doubt: Why it is not to be learnt from; empty if it is.
    """

    run: Run
    alpha: Array
    known: Array
    doubt: str = ""


# --- reading ----------------------------------------------------------------------------------------------------


def list_clips(folder: Path) -> list[Path]:
    """Return the videos in a folder and in those inside it, or the one that was named.

    Raises:
        SourceNotFoundError: There is no such folder.
        SourceError: It holds no video.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise SourceNotFoundError(f"{folder} does not exist: check the name of the folder", url=str(folder))
    found = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS and not path.name.startswith(".")
    )
    if not found:
        raise SourceError(f"{folder} holds no video ({', '.join(sorted(VIDEOS))})", url=str(folder))
    return found


def read_runs(path: Path, runs: int, most: int, heard: Callable[[], None] = lambda: None) -> list[Run]:
    """Return at most ``2 * runs`` and at least ``runs`` runs, evenly over a clip, as far as it is long enough.

    Args:
        path: The video.
        runs: How many are wanted.
        most: Frames after which reading ends.
        heard: Called for each frame.

    Raises:
        SourceError: It cannot be read.
    """
    found: list[tuple[float, list[Array]]] = []
    gap, seen = 1, 0  # one run of ``gap`` is kept
    with closing(open_source(str(path))) as source:
        for frame in source:
            heard()
            place, within = divmod(seen, RUN)
            seen += 1
            if seen > most:
                break
            if place % gap:
                continue
            if not within:
                if len(found) >= 2 * runs:
                    found, gap = found[::2], 2 * gap
                    if place % gap:
                        continue
                found.append((frame.time, []))
            found[-1][1].append(upright(frame, source.info))
    whole = [(time, frames) for time, frames in found if len(frames) == RUN]
    return [Run(path.name, time, np.stack(frames)) for time, frames in whole]


def upright(frame: Frame, info: StreamInfo) -> Array:
    """Return ``frame`` upright in SDR R'G'B', uint8, at ``LONG_SIDE`` at most."""
    height, width = frame.size[0], frame.size[1] * float(info.sample_aspect)
    share = min(1.0, LONG_SIDE / max(height, width))
    planes = shrink_planes(frame, (max(round(height * share), 1), max(round(width * share), 1)))
    deep = rgb_from_planes(planes, frame.color, frame.depth, bits=16 if frame.depth > 8 else 8)
    rgb = cast("Array", to_depth(convert_light(deep, frame.color, Color()), 8))
    return np.ascontiguousarray(np.rot90(rgb, info.rotation // 90))


def held_back(runs: Sequence[Sequence[Run]]) -> tuple[list[Run], list[Run]]:
    """Return the runs to learn from and those to judge on: every fourth clip, or the last quarter of each.

    Between the two lies a run that is in neither: what follows at once is the same picture.

    Args:
        runs: Those of each clip, in order of time.
    """
    clips = [list(one) for one in runs if one]
    if len(clips) >= 4:
        teaching = [run for at, one in enumerate(clips) if at % 4 != 3 for run in one]
        return teaching, [run for one in clips[3::4] for run in one]
    teaching, judging = [], []
    for one in clips:
        last = max(len(one) // 4, 1) if len(one) > 2 else 0
        teaching += one[: len(one) - last - 1] if last else one
        judging += one[len(one) - last :] if last else []
    return teaching, judging


# --- labelling --------------------------------------------------------------------------------------------------


class Teacher:
    """Labels runs: a model looked through several times, and what of that can be trusted.

    A model without state sees each frame in three sizes and mirrored; a recurrent one sees each run as it is and
    mirrored, because its state is worth more than other sizes.

    Args:
        model: As for ``Onlooker``.
        threads: For the network; None chooses.
    """

    def __init__(self, model: str | Path, threads: int | None = None) -> None:
        # The full precision: it labels for a network that is to be better than eight bits.
        files = load_spec(model).files
        self._onlooker = Onlooker(model, threads=threads, precision="fp32" if "onnx-fp32" in files else None)

    @property
    def name(self) -> str:
        """Of the model."""
        return self._onlooker.spec.name

    def label(self, run: Run) -> Labelled:
        """Return ``run`` with its labels and whether they can be learnt from."""
        means, spreads = (self._stream if self._onlooker.spec.states else self._looks)(run)
        alpha = np.clip((means - _SNAP) / (1 - 2 * _SNAP), 0, 1)
        known = np.stack([trusted(a, s) for a, s in zip(alpha, spreads, strict=True)])
        doubt = doubt_of(run.rgb, alpha, spreads, known)
        return Labelled(run, np.rint(alpha * 255).astype(np.uint8), known.view(np.uint8) * np.uint8(255), doubt)

    def _looks(self, run: Run) -> tuple[Floats, Floats]:
        opinions = [self._onlooker.opinion(rgb, LOOKS) for rgb in run.rgb]
        return _enlarged([one.alpha for one in opinions], run), _enlarged([one.disagreement for one in opinions], run)

    def _stream(self, run: Run) -> tuple[Floats, Floats]:
        size, means, spreads = self._onlooker.own_size(run.rgb[0]), [], []
        state: State = ()
        for rgb in run.rgb:
            src = self._onlooker.input(rgb, size)
            alphas, state = self._onlooker.go_on(np.stack([src, src[..., ::-1]]), state)
            both = np.stack([alphas[0], alphas[1, :, ::-1]])
            means.append(both.mean(0))
            spreads.append(2 * both.std(0))
        return _enlarged(means, run), _enlarged(spreads, run)

    def close(self) -> None:
        """Release the engines."""
        self._onlooker.close()


def _enlarged(maps: Sequence[Floats], run: Run) -> Floats:
    large = [cv2.resize(one, run.size[::-1], interpolation=cv2.INTER_LINEAR) for one in maps]
    return np.stack(large).astype(np.float32)


def trusted(alpha: Floats, spread: Floats) -> npt.NDArray[np.bool_]:
    """Return where a label can be learnt from: the looks agree, and it is decided or the soft edge of a person.

    Args:
        alpha: ``(h, w)`` in [0, 1].
        spread: Disagreement of the looks, ``(h, w)`` in [0, 1].
    """
    reach = 2 * max(1, round(_EDGE * alpha.shape[0])) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    person, room = alpha > 1 - _SURE, alpha < _SURE
    edge = (cv2.dilate(person.view(np.uint8), disc) > 0) & (cv2.dilate(room.view(np.uint8), disc) > 0)
    return np.asarray((spread < 0.5) & (person | room | edge))


def doubt_of(rgb: Array, alpha: Floats, spread: Floats, known: npt.NDArray[np.bool_]) -> str:
    """Return why a run is not to be learnt from, or "".

    Args:
        rgb: ``(frames, h, w, 3)``.
        alpha: ``(frames, h, w)`` in [0, 1].
        spread: As ``alpha``.
        known: Where labels are trusted, ``(frames, h, w)``.
    """
    area = (alpha > 0.5).mean((1, 2))
    if alpha.max() < 0.2 and known.mean() > 0.99:
        return ""  # nobody is there, for sure
    if area.min() < 0.02 or area.max() > 0.85:
        return "a person does not cover 2 to 85 % of a frame"
    undecided = ((alpha > 0.2) & (alpha < 0.8)).mean((1, 2)) / area
    if undecided.max() > 0.3:
        return "too much is undecided"
    apart = ((spread > 0.5).mean((1, 2)) / area).max()
    if apart > 0.12:
        return "the looks differ too much"
    for before, after, mask, later in zip(rgb, rgb[1:], alpha, alpha[1:], strict=False):
        still = np.asarray(cv2.absdiff(before, after)).max(2) < 8
        if still.any() and float(np.abs(later - mask)[still].mean()) > 0.02:
            return "the alpha changes where the picture does not"
    return ""


# --- rooms ------------------------------------------------------------------------------------------------------


def empty_room(runs: Sequence[Labelled], long_side: int = 320) -> Array | None:
    """Return what is behind the people of one clip, or None where that is not to be seen.

    The median over time of what is surely room; what is never seen is filled in from its surroundings
    (Telea 2004). A camera that moves has no such room.

    Args:
        runs: Of one clip.
        long_side: Of the room.
    """
    frames = [(one.run.rgb[0], one.alpha[0]) for one in runs][:48]
    if not frames:
        return None
    height, width = frames[0][1].shape
    share = min(1.0, long_side / max(height, width))
    size = max(round(width * share), 1), max(round(height * share), 1)
    seen = np.empty((len(frames), size[1], size[0], 3), np.float32)
    for target, (rgb, alpha) in zip(seen, frames, strict=True):
        near = cv2.dilate((alpha > 8).view(np.uint8), np.ones((15, 15), np.uint8))
        hidden = cv2.resize(near, size, interpolation=cv2.INTER_NEAREST) > 0
        target[...] = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        target[hidden] = np.nan
    never = np.isnan(seen[..., 0]).all(0)
    seen[:, never] = 0
    room = np.nanmedian(seen, 0)
    if never.mean() > 0.4 or float(np.nanmedian(np.abs(seen - room)[:, ~never])) > 8:
        return None
    return np.asarray(cv2.inpaint(room.astype(np.uint8), np.asarray(never, np.uint8), 5, cv2.INPAINT_TELEA), np.uint8)


def draw_room(rng: np.random.Generator, size: Size = (240, 400)) -> Array:
    """Return a room with nobody in it, drawn: walls, floor, window, shelves, pictures, furniture, light and noise."""
    height, width = size
    image = np.empty((height, width, 3), np.uint8)
    wall, floor = rng.integers(60, 235, 3), rng.integers(40, 180, 3)
    ground = int(height * rng.uniform(0.6, 1.05))
    image[:ground], image[ground:] = wall, floor

    def colour(low: int = 20, high: int = 240) -> tuple[int, int, int]:
        red, green, blue = (int(part) for part in rng.integers(low, high, 3))
        return red, green, blue

    def box(left: float, top: float, wide: float, tall: float, fill: tuple[int, int, int], rim: int = 0) -> None:
        first = int(left * width), int(top * height)
        last = int((left + wide) * width), int((top + tall) * height)
        cv2.rectangle(image, first, last, fill, -1)
        if rim:
            cv2.rectangle(image, first, last, colour(), rim)

    if rng.random() < 0.5:
        box(
            rng.uniform(-0.1, 0.8),
            rng.uniform(0, 0.2),
            rng.uniform(0.1, 0.4),
            rng.uniform(0.3, 0.6),
            colour(190, 255),
            4,
        )
    for _ in range(int(rng.integers(0, 4))):
        box(rng.uniform(0, 0.9), rng.uniform(0, 0.4), rng.uniform(0.05, 0.2), rng.uniform(0.08, 0.3), colour(), 3)
    if rng.random() < 0.5:
        left, wide = rng.uniform(0, 0.7), rng.uniform(0.15, 0.4)
        for shelf in range(int(rng.integers(2, 5))):
            bottom = 0.15 + 0.17 * shelf
            at = left
            while at < left + wide:
                book = rng.uniform(0.008, 0.025)
                tall = rng.uniform(0.07, 0.14)
                box(at, bottom - tall, book, tall, colour())
                at += book
            box(left, bottom, wide, 0.02, colour(40, 140))
    for _ in range(int(rng.integers(1, 5))):  # a sofa, a chair, a lamp, a plant: lumps that are not people
        centre = int(rng.uniform(0, 1) * width), int(rng.uniform(0.5, 1.05) * height)
        axes = int(rng.uniform(0.04, 0.22) * width), int(rng.uniform(0.05, 0.3) * height)
        if rng.random() < 0.5:
            cv2.ellipse(image, centre, axes, float(rng.uniform(-20, 20)), 0, 360, colour(), -1, cv2.LINE_AA)
        else:
            box((centre[0] - axes[0]) / width, (centre[1] - axes[1]) / height, 2 * axes[0] / width, 1, colour())
    light = np.linspace(rng.uniform(0.6, 1.1), rng.uniform(0.6, 1.1), width, dtype=np.float32)[None, :, None]
    light = light * np.linspace(1, rng.uniform(0.7, 1), height, dtype=np.float32)[:, None, None]
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 3)).astype(np.float32) * light
    coarse = rng.standard_normal((height // 4, width // 4, 1), np.float32) * np.float32(rng.uniform(2, 9))
    grain = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    noise = rng.standard_normal((height, width, 3), np.float32) * 2
    return np.asarray(np.clip(soft + grain + noise, 0, 255), np.uint8)


def without_people(teacher: Teacher, room: Array) -> bool:
    """Return whether the teacher sees nobody in a room that was made."""
    labelled = teacher.label(Run("room", 0.0, room[None]))
    return bool((labelled.alpha > 127).mean() < 0.005)


def named(runs: Sequence[Labelled]) -> dict[str, list[Labelled]]:
    """Return the runs of each clip."""
    clips: dict[str, list[Labelled]] = {}
    for one in runs:
        clips.setdefault(one.run.clip, []).append(one)
    return clips
