"""The validation of a run while it goes on: quick measures on pictures that are held back, and a grid to look at.

``vidseg eval`` measures far more, and the alpha as a user gets it; this one is for curves and for choosing weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.evaluation.metrics import dtssd, mad, mask_measures, sees_somebody
from vidseg.frame import Size
from vidseg.training.logs import draw_predictions
from vidseg.training.pictures import Array, Clip, Picture
from vidseg.training.readers import Dataset
from vidseg.training.trainer import normalised

Floats = npt.NDArray[np.float32]
Look = partial[list[Floats]]
T = TypeVar("T")
BATCH = 16
_COLOURS = np.random.default_rng(5).integers(40, 256, (256, 3)).astype(np.uint8)


class HeldBack:
    """Pictures that are held back from training, and the measures of a network on them.

    Args:
        datasets: Where they are read from: the split ``val``.
        sizes: ``(h, w)``; each picture is shown in the one whose shape is nearest to its own.
        classes: What the network tells apart; empty for an alpha.
        most: Pictures of a set, spread evenly, that are read at most.
        clips: Whether consecutive frames are shown one after another, too.
        shown: Pictures in the grid.
    """

    def __init__(
        self,
        datasets: Iterable[Dataset],
        sizes: Sequence[Size],
        classes: Sequence[str] = (),
        most: int = 200,
        clips: bool = False,
        shown: int = 16,
    ) -> None:
        self._sizes, self._classes, self._shown = list(sizes), tuple(classes), shown
        self._sets: dict[str, list[Clip]] = {}
        self._empty: list[Array] = []
        for dataset in datasets:
            for entry, clips_of_it in dataset.read("val"):
                if entry.kind == "person":
                    self._sets.setdefault(entry.set, []).extend(clips_of_it)
                elif entry.kind != "cutout":
                    self._empty += [frame.rgb for clip in clips_of_it for frame in clip.frames if not frame.alpha.any()]
        self._sets = {name: _spread(found, most) for name, found in self._sets.items()}
        self._empty = _spread(self._empty, most)
        moving = [clip for found in self._sets.values() for clip in found if len(clip.frames) > 1]
        self._moving = _spread(moving, most // 8) if clips else []

    def __bool__(self) -> bool:
        """Return whether there is anything to measure on."""
        return bool(self._sets)

    def __call__(self, net: nn.Module, device: torch.device, picture: Path) -> dict[str, float]:
        """Measure ``net`` and draw the grid into ``picture``.

        Returns:
            Of an alpha: the IoU of each set, ``mad`` (times 1000) over all, ``empty``, the share of pictures without
            people in which it sees somebody, and ``dtssd`` of the clips. Of classes: the mean IoU of each set.
            ``score`` is the mean of the sets' IoUs and of what ``empty`` lacks to 1.
        """
        net.eval()
        look = partial(self._look, net, device)
        with torch.inference_mode():
            report = self._of_classes(look) if self._classes else self._of_alpha(look)
            self._draw(look, picture)
        return report

    def _look(self, net: nn.Module, device: torch.device, pictures: Sequence[Array]) -> list[Floats]:
        """Return what ``net`` says of each picture: ``(K, h, w)`` probabilities at the size in which it saw it."""
        answers: list[Floats] = [np.empty(0, np.float32)] * len(pictures)
        by_size: dict[Size, list[int]] = {}
        for index, rgb in enumerate(pictures):
            by_size.setdefault(self._size_for(rgb), []).append(index)
        for size, indices in by_size.items():
            for first in range(0, len(indices), BATCH):
                batch = indices[first : first + BATCH]
                answer = _probabilities(net(_input([pictures[i] for i in batch], size, device))[0])
                for index, one in zip(batch, answer, strict=True):
                    answers[index] = one
        return answers

    def _size_for(self, rgb: Array) -> Size:
        aspect = np.log(rgb.shape[1] / rgb.shape[0])
        return min(self._sizes, key=lambda size: abs(float(np.log(size[1] / size[0]) - aspect)))

    def _of_alpha(self, look: Look) -> dict[str, float]:
        report: dict[str, float] = {}
        errors = []
        for name, found in self._sets.items():
            frames = [clip.frames[0] for clip in found]
            scores = []
            for frame, answer in zip(frames, look([frame.rgb for frame in frames]), strict=True):
                alpha, truth, known = _resized(answer[0], frame), _truth(frame), _known(frame)
                scores.append(mask_measures(alpha, truth, known)["iou"])
                errors.append(mad(alpha, truth, known))
            report[name] = float(np.mean(scores))
        values = list(report.values())
        report["mad"] = float(np.mean(errors))
        if self._empty:
            report["empty"] = float(np.mean([sees_somebody(answer[0]) for answer in look(self._empty)]))
            values.append(1 - report["empty"])
        if self._moving:
            report["dtssd"] = self._of_clips(look)
        return report | {"score": float(np.mean(values))}

    def _of_clips(self, look: Look) -> float:
        net, device = look.args
        changes = []
        for clip in self._moving:
            size, state = self._size_for(clip.frames[0].rgb), ()
            alphas, truths = [], []
            for frame in clip.frames:
                logits, state = net(_input([frame.rgb], size, device), state)
                alphas.append(_resized(_probabilities(logits)[0][0], frame))
                truths.append(_truth(frame))
            changes += [
                dtssd(alphas[i], alphas[i - 1], truths[i], truths[i - 1], _known(clip.frames[i]))
                for i in range(1, len(alphas))
            ]
        return float(np.mean(changes))

    def _of_classes(self, look: Look) -> dict[str, float]:
        report: dict[str, float] = {}
        for name, found in self._sets.items():
            count = len(self._classes)
            confusion = np.zeros((count, count), np.int64)
            frames = [clip.frames[0] for clip in found]
            for frame, answer in zip(frames, look([frame.rgb for frame in frames]), strict=True):
                said = _classes(answer, frame)
                known = (frame.alpha < count) & _known(frame)
                confusion += np.bincount(
                    count * frame.alpha[known].astype(np.int64) + said[known], minlength=count * count
                ).reshape(count, count)
            report[name] = mean_iou(confusion)
        return report | {"score": float(np.mean(list(report.values())))}

    def _draw(self, look: Look, path: Path) -> None:
        """Draw as many pictures of each set, and of those without people."""
        pools = [(name, [clip.frames[0] for clip in found]) for name, found in self._sets.items()]
        if self._empty:
            nobody = [Picture(rgb, np.zeros(rgb.shape[:2], np.uint8), None, "", True) for rgb in self._empty]
            pools.append(("nobody", nobody))
        each = max(1, self._shown // len(pools))
        chosen = [(name, frame) for name, pool in pools for frame in _spread(pool, each)]
        rows = []
        for (name, frame), answer in zip(chosen, look([frame.rgb for _, frame in chosen]), strict=True):
            if self._classes:
                truth, said = _COLOURS[frame.alpha], _COLOURS[_classes(answer, frame)]
                title = name
            else:
                alpha = _resized(answer[0], frame)
                truth, said = _grey(_truth(frame)), _grey(alpha)
                title = f"{name}  IoU {mask_measures(alpha, _truth(frame), _known(frame))['iou']:.3f}"
            truth = np.where(_known(frame)[..., None], truth, np.array([0, 0, 255], np.uint8))
            rows.append((title, frame.rgb, truth.astype(np.uint8), said))
        draw_predictions(path, rows)


def mean_iou(confusion: npt.NDArray[np.int64]) -> float:
    """Return the IoU averaged over the classes that occur, of a matrix ``(K, K)`` of pixels, true class by said."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return float((hits[union > 0] / union[union > 0]).mean()) if (union > 0).any() else 0.0


def _spread(items: list[T], most: int) -> list[T]:
    """Return at most so many, evenly from the whole list."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def _input(pictures: Sequence[Array], size: Size, device: torch.device) -> Tensor:
    height, width = size
    small = [cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA) for rgb in pictures]
    return normalised(torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).to(device))


def _probabilities(logits: Tensor) -> Floats:
    answer = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
    return np.asarray(answer.float().cpu().numpy())


def _resized(plane: Floats, frame: Picture) -> Floats:
    height, width = frame.alpha.shape
    return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _classes(answer: Floats, frame: Picture) -> npt.NDArray[np.int64]:
    return np.asarray(np.stack([_resized(plane, frame) for plane in answer]).argmax(0), np.int64)


def _truth(frame: Picture) -> Floats:
    return np.asarray(frame.alpha / np.float32(255), np.float32)


def _known(frame: Picture) -> npt.NDArray[np.bool_]:
    return np.ones(frame.alpha.shape, bool) if frame.ignore is None else frame.ignore < 128


def _grey(alpha: Floats) -> Array:
    return np.repeat((alpha * 255 + 0.5).astype(np.uint8)[..., None], 3, 2)
