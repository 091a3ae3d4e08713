"""What of the room shows at a person's edge during quick motion, by how the mask of a frame comes about.

    python benchmarks/leak.py [--data ../shared/data] [--people 6] [--frames 60]

People of the validation pictures move before rooms of the validation set, 720p30 with sensor noise and motion blur
(the mean of four moments, of the picture and of its alpha), so the truth of every pixel is known. *Leak* is the
room's share in what is shown, added up over the pixels and divided by the length of the outline: the mean width, in
pixels of 720p, of a rim of room around the person; the 95th percentile is that of frames. *Loss* is the same for what
is missing of the person. *CPU* is that of finding and refining the mask, all threads.

The person stands, sways as in talk, leans quickly to and fro (1100 pixels a second at most), or jumps about.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from process import machine

from vidseg.color import planes_from_rgb
from vidseg.decoding import picture_size
from vidseg.evaluation import scenes
from vidseg.evaluation.cases import labelled_files, read_matte, read_rgb
from vidseg.evaluation.presets import validation_rooms
from vidseg.frame import Alpha, Color, Frame
from vidseg.live.budget import Rung
from vidseg.live.matting import Matter, Seen
from vidseg.refine import refine
from vidseg.segmenter import Segmenter
from vidseg.settling import settle
from vidseg.smoothing import Smoother

SIZE = (720, 1280)
FPS = 30
MOMENTS = 4

Path_ = Callable[[float], tuple[float, float, float]]
PATHS: dict[str, Path_] = {
    "stands": lambda t: (1.5 * np.sin(0.9 * t), 1.0 * np.sin(1.7 * t), 0.0),
    "sways": lambda t: (40 * np.sin(1.5 * t), 6 * np.sin(4 * t), 2 * np.sin(1.5 * t + 1)),
    "leans quickly": lambda t: (220 * np.sin(5 * t), 20 * np.sin(10 * t), 10 * np.sin(5 * t)),
    "jumps about": lambda t: (300 * np.tanh(6 * np.sin(4.5 * t)), 60 * np.sin(9 * t), 8 * np.sin(7 * t)),
}
"""Shift to the right and down in pixels and turn in degrees, by seconds."""


def paint(person: scenes.Cutout, room: np.ndarray, path: Path_, frames: int) -> Iterator[tuple[Frame, np.ndarray]]:
    """Yield frames and their true alphas, float32 0 to 1."""
    height, width = SIZE
    rng = np.random.default_rng(0)
    rgb, alpha = person
    scale = 0.8 * height / alpha.shape[0]
    behind = cv2.resize(room, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    for index in range(frames):
        picture, truth = np.zeros((*SIZE, 3), np.float32), np.zeros(SIZE, np.float32)
        for moment in range(MOMENTS):
            right, down, turn = path((index + 0.5 * moment / MOMENTS) / FPS)
            matrix = cv2.getRotationMatrix2D((alpha.shape[1] / 2, alpha.shape[0]), turn, scale)
            matrix[:, 2] += (width - alpha.shape[1]) / 2 + right, height - alpha.shape[0] + 20 + down
            share = cv2.warpAffine(alpha, matrix, (width, height)).astype(np.float32) / 255
            front = cv2.warpAffine(rgb, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
            picture += share[..., None] * front + (1 - share[..., None]) * behind
            truth += share
        picture = picture / MOMENTS + rng.standard_normal((*SIZE, 1), np.float32) * 3
        planes = planes_from_rgb(np.clip(picture, 0, 255).astype(np.uint8), Color())
        yield Frame(planes, index, Fraction(1, FPS)), truth / MOMENTS


class EveryFrame(Matter):
    """Never lets a mask stand."""

    def _is_sure(self, time: float) -> bool:
        return False


class Held(Matter):
    """Keeps the mask of every third frame for the next two as it is: what "every n-th frame" means elsewhere."""

    _count = 0

    def __call__(self, frame: Frame, rung: Rung = Rung()) -> Seen:  # noqa: B008
        self._count += 1
        if self._count % 3 != 1:
            return self._kept
        planes = self._segmenter.shrink(frame)
        raw = self._segmenter.look(frame, planes)
        self._kept = Seen(settle(raw), planes[0], "inferred", raw)
        return self._kept


@dataclass
class Score:
    leak: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    inferred: int = 0
    cpu: float = 0.0

    def row(self) -> str:
        leak, loss, count = np.array(self.leak), np.array(self.loss), len(self.leak)
        return (
            f"{leak.mean():8.2f}{np.percentile(leak, 95):8.2f}{loss.mean():9.2f}{np.percentile(loss, 95):8.2f}"
            f"{self.inferred / count:10.0%}{1e3 * self.cpu / count:9.1f}"
        )


WAYS: dict[str, tuple[type[Matter], Rung]] = {
    "inference on every frame": (EveryFrame, Rung()),
    "strict, still pictures skipped": (Matter, Rung()),
    "fast, at least one in 2 inferred": (Matter, Rung(every=2)),
    "fast, at least one in 3 inferred": (Matter, Rung(every=3)),
    "strict, network at 60 %": (Matter, Rung(0.6)),
    "mask of one in 3 held (for scale)": (Held, Rung()),
}


def measure(score: Score, way: tuple[type[Matter], Rung], segmenter: Segmenter, clip: list) -> None:
    kind, rung = way
    segmenter.reset()
    segmenter.prepare(SIZE, rung.scale)
    matter = kind(segmenter, Smoother(patience=0.6))
    matter._open[SIZE, rung.scale] = True
    for index, (frame, truth, outline) in enumerate(clip):
        start = time.process_time()
        seen = matter(frame, rung)
        full = refine(seen.alpha, frame, seen.guide)
        spent = time.process_time() - start
        if index < 5:
            continue  # what comes first has nothing before it
        shown = full.astype(np.float32) / 255
        score.leak.append(float((shown * (1 - truth)).sum()) / outline)
        score.loss.append(float(((1 - shown) * truth).sum()) / outline)
        score.inferred += seen.how == "inferred" and (kind is not Held or matter._count % 3 == 1)
        score.cpu += spent


def outline_of(truth: Alpha) -> float:
    return (
        max(float(np.count_nonzero(cv2.morphologyEx((truth > 0.5).view(np.uint8), cv2.MORPH_GRADIENT, CROSS))), 1.0) / 2
    )


CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--frames", type=int, default=60)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    files = [row for row in labelled_files(options.data / "labelled", "val") if row[0] == "vikram"]
    rooms = validation_rooms(options.data)
    scores = {(path, way): Score() for path in PATHS for way in WAYS}
    segmenter = Segmenter(threads=1, size=SIZE)
    taken = 0
    for _, picture, mask, _ in files:
        alpha = read_matte(mask, picture_size(picture))
        box = scenes.frame_person(alpha, scenes.HEADS["half"], scenes.seeded(0, picture.stem), confined=False)
        if box is None or max(alpha[:, 0].max(), alpha[:, -1].max(), alpha[0].max()) > 127 or alpha[-1].max() < 128:
            continue  # cut off at a side where one would see it
        person = scenes.cut_out(read_rgb(picture), alpha, soften=True)
        for path, moves in PATHS.items():
            frames = paint(person, read_rgb(rooms[taken % len(rooms)]), moves, options.frames)
            clip = [(frame, truth, outline_of(truth)) for frame, truth in frames]
            for way, how in WAYS.items():
                measure(scores[path, way], how, segmenter, clip)
        taken += 1
        if taken == options.people:
            break
    segmenter.close()
    print(machine())
    print(f"{taken} people, {options.frames} frames of each movement, {segmenter.model}; pixels of 720p and ms a frame")
    heads = f"{'leak':>8}{'p95':>8}{'loss':>9}{'p95':>8}{'inferred':>10}{'CPU':>9}"
    for path in PATHS:
        print(f"\n{path:36}{heads}")
        for way in WAYS:
            print(f"{way:36}{scores[path, way].row()}")


if __name__ == "__main__":
    main()
