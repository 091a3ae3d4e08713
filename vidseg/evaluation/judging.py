"""Evaluate: models on sets of pictures and clips, through all that vidseg does to an alpha before it is written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.compositor import Compositor
from vidseg.engine import Precision
from vidseg.evaluation import metrics
from vidseg.evaluation.cases import Case, CaseSet, Rgb, Shot
from vidseg.evaluation.report import RAW, WRITTEN, Report, Row, Worst, mean_measures
from vidseg.frame import Frame, FullAlpha
from vidseg.pipeline import Progress, Timings
from vidseg.segmenter import SCALES, Segmenter

_WIDTH = 384
"""Worst cases are kept at this width."""


def evaluate(
    models: Sequence[str | Path],
    sets: Sequence[CaseSet],
    *,
    peers: Sequence[str | Path] = (),
    runtime: str = "auto",
    raw: bool = False,
    threads: int | None = None,
    precision: Precision | None = None,
    worst: int = 3,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Judge every model on every set.

    What is judged is the alpha that ``vidseg matte`` writes: looked at in three sizes for stills, settled, steadied in
    time for clips, refined at full size. All models see a frame one after the other, so their times can be compared.

    Args:
        models: Shipped models by name, or what else ``Segmenter`` takes.
        sets: What they are judged on.
        peers: Other models, of which the network's own alpha is judged, resized to the picture and nothing more.
        runtime: As for ``open_engine``.
        raw: Judge ``models`` as ``peers`` are.
        threads: For the networks; None chooses.
        precision: Of ``models``; None chooses. Peers are taken as they are.
        worst: How many of the worst cases of each model and set are kept to be looked at.
        progress: Called for each frame of a set.

    Raises:
        ValueError: There is no model, no set, or two of one name.
        VidsegError: A model cannot be run or a case cannot be read.
    """
    if not (models or peers) or not sets:
        raise ValueError(f"at least one model and one set are needed: {models = }, {peers = }, sets: {len(sets)}")
    names = [cases.name for cases in sets]
    if len(set(names)) != len(names):
        raise ValueError(f"sets need names of their own: {names}")
    rows: list[Row] = []
    bad: list[Worst] = []
    report = _Reporter(progress, sum(len(cases.cases) for cases in sets))
    for cases in sets:
        with ExitStack() as stack:
            judged = [_Judged(model, runtime, threads, precision, raw, cases.moving) for model in models]
            judged += [_Judged(model, runtime, threads, None, True, cases.moving) for model in peers]
            for entry in judged:
                stack.callback(entry.close)
            _tell_apart(judged)
            trials = [_Trial(cases, entry, worst) for entry in judged]
            for case in cases.cases:
                for entry, trial in zip(judged, trials, strict=True):
                    entry.restart()
                    trial.begin(case)
                for shot in case.shots():
                    for trial in trials:
                        trial.see(shot)
                    report.frame()
                for trial in trials:
                    trial.end()
                report.case()
            rows += [trial.row() for trial in trials]
            bad += [found for trial in trials for found in trial.worst]
    return Report(tuple(sets), tuple(rows), tuple(bad))


class _Judged:
    """A model, and how its alpha becomes as large as the frame."""

    def __init__(
        self,
        model: str | Path,
        runtime: str,
        threads: int | None,
        precision: Precision | None,
        raw: bool,
        moving: bool,
    ) -> None:
        scales = (1.0,) if raw or moving else SCALES
        self._segmenter = Segmenter(model, runtime, threads=threads, precision=precision, scales=scales, stream=moving)
        self.name, self.given, self.raw, self._moving = self._segmenter.model, str(model), raw, moving
        self.timings = Timings()

    @property
    def runtime(self) -> str:
        return self._segmenter.runtime

    def restart(self) -> None:
        """Forget the stream so far."""
        self._segmenter.reset()
        self._compositor = Compositor(None, self._segmenter, smooth=self._moving)

    def __call__(self, frame: Frame) -> FullAlpha:
        if not self.raw:
            return self._compositor([frame], self.timings)[0].planes[0].astype(np.uint8, copy=False)
        with self.timings.measure("segment"):
            alpha = self._segmenter([frame])[0].alpha
        full = cv2.resize(alpha, frame.size[::-1], interpolation=cv2.INTER_LINEAR)
        return np.rint(np.clip(full, 0, 1) * 255).astype(np.uint8)

    def close(self) -> None:
        self._segmenter.close()


def _tell_apart(judged: Sequence[_Judged]) -> None:
    """Call models of one name, such as two versions of it, as they were given."""
    counts = Counter((entry.name, entry.raw) for entry in judged)
    for entry in judged:
        if counts[entry.name, entry.raw] > 1:
            entry.name = entry.given


class _Trial:
    """One model on one set: gathers measures frame by frame and case by case."""

    def __init__(self, cases: CaseSet, judged: _Judged, keep: int) -> None:
        self._set, self._judged, self._keep = cases, judged, keep
        self._by_case: dict[str, dict[str, float]] = {}
        self._frames = 0
        self.worst: list[Worst] = []

    def begin(self, case: Case) -> None:
        self._case = case.name
        self._seen: list[dict[str, float]] = []
        self._before: tuple[Rgb, npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
        self._worst: Worst | None = None

    def see(self, shot: Shot) -> None:
        written = self._judged(shot.frame)
        alpha, truth = (part.astype(np.float32) * np.float32(1 / 255) for part in (written, shot.alpha))
        known = shot.known
        if self._set.people:
            measures = metrics.mask_measures(alpha, truth, known)
            measures["boundary_f"] = metrics.boundary_f(alpha, truth, known)
            for name in ("mad", "mse", "grad", "conn"):
                measures[name] = getattr(metrics, name)(alpha, truth, known)
        else:
            measures = {"seen": float(metrics.sees_somebody(alpha)), "mean": metrics.mad(alpha, truth)}
        if self._set.moving:
            rgb = shot.rgb
            if self._before is not None:
                rgb_before, before, truth_before = self._before
                measures["dtssd"] = metrics.dtssd(alpha, before, truth, truth_before, known)
                still = metrics.unchanged(rgb, rgb_before, truth, truth_before)
                if (change := metrics.flicker(alpha, before, still)) is not None:
                    measures["flicker"] = change
            self._before = rgb, alpha, truth
        score = measures.get("mad", measures.get("mean", 0.0))
        if self._keep and (self._worst is None or score > self._worst.score):
            name = f"{self._case} frame {len(self._seen)}" if self._set.moving else self._case
            pictures = (_thumbnail(part) for part in (shot.rgb, shot.alpha, written))
            self._worst = Worst(self._set.name, self._judged.name, name, score, *pictures)
        self._seen.append(measures)

    def end(self) -> None:
        name, count = self._case, 2
        while name in self._by_case:
            name, count = f"{self._case} ({count})", count + 1
        self._by_case[name] = mean_measures(self._seen)
        self._frames += len(self._seen)
        if self._worst is not None:
            self.worst = sorted([*self.worst, self._worst], key=lambda found: -found.score)[: self._keep]

    def row(self) -> Row:
        timed = self._judged.timings.percentiles()
        return Row(
            set=self._set.name,
            model=self._judged.name,
            path=RAW if self._judged.raw else WRITTEN,
            runtime=self._judged.runtime,
            cases=len(self._by_case),
            frames=self._frames,
            milliseconds=timed["segment"]["p50"] if "segment" in timed else 0.0,
            measures=mean_measures(list(self._by_case.values())),
            by_case=self._by_case,
        )


def _thumbnail(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = picture.shape[:2]
    size = (_WIDTH, max(round(height * _WIDTH / width), 1))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


class _Reporter:
    """Says how far an evaluation is, by cases."""

    def __init__(self, progress: Callable[[Progress], None] | None, total: int) -> None:
        self._progress, self._total = progress, total
        self._start, self._cases, self._frames = time.monotonic(), 0, 0

    def frame(self) -> None:
        self._frames += 1
        if self._progress is not None:
            seconds = time.monotonic() - self._start
            fps = self._frames / max(seconds, 1e-9)
            self._progress(Progress(self._cases, self._total, fps, seconds))

    def case(self) -> None:
        self._cases += 1
