"""Adapt: a small model learns one's own room and camera from unlabelled footage, and is taken only if it got no worse.

Self-training (Yarowsky 1995; Xie et al. 2020, arXiv:1911.04252): a teacher labels, what it is sure of is learnt. So
that the rest is not forgotten, every batch also holds other pictures, on which the network is to say what it said
before (Li and Hoiem 2016, arXiv:1606.09282).
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vidseg.engine import ModelSpec, Precision, load_spec
from vidseg.errors import EngineError, SourceError
from vidseg.evaluation.cases import Case, CaseSet, Shot, moving, read_index, read_pairs, still
from vidseg.evaluation.judging import evaluate
from vidseg.evaluation.scenes import before_room, cut_out
from vidseg.networks import Weights, read_weights, write_weights
from vidseg.pipeline import Progress
from vidseg.refine import refine
from vidseg.settling import settle
from vidseg.sinks.pictures import encode_picture, writing
from vidseg.training.augment import STRENGTHS
from vidseg.training.bank import Bank
from vidseg.training.export import check_target, export
from vidseg.training.footage import (
    Labelled,
    Run,
    Teacher,
    draw_room,
    empty_room,
    held_back,
    list_clips,
    named,
    read_runs,
    without_people,
)
from vidseg.training.losses import loss_of
from vidseg.training.pictures import Array, Clip, Picture, Size, shrunk
from vidseg.training.readers import Dataset, Entry
from vidseg.training.samples import Batch, Sampler
from vidseg.training.trainer import Unrolled

MINUTES = 3.0
RUNS_A_MINUTE = 20
"""Runs that are labelled for each minute of the budget."""
MOST_FRAMES = 9000
"""Of all clips together that are decoded: five minutes of footage."""
LEAST_RUNS = 4
RESERVE = 40.0
"""Seconds of the budget that export and judging take on two cores."""
RATE, WARM_UP, DECAY = 2e-4, 10, 0.97
BATCH = 6
"""Samples of the footage in a batch, and as many anchors."""
LOSS = {"bce": 1.0, "l1": 1.0, "laplacian": 1.0, "temporal": 5.0, "boundary": 3.0}
ANCHOR = {"bce": 1.0, "l1": 1.0}
CLIP_FRAMES = 3
"""Frames of a sample for a recurrent network."""
ROOMS, SAMPLE_RUNS, CHECKED = 24, 6, 80
SLACK: dict[str, dict[str, float]] = {
    # What noise may do; on the sanity set the measure is the model before, so any change at all counts there.
    "footage": {"iou": 0.002, "boundary_f": 0.004, "flicker": 0.1},
    "check": {"iou": 0.002, "boundary_f": 0.004},
    "sample": {"iou": 0.01, "boundary_f": 0.02, "flicker": 0.3},
    "rooms": {"seen": 1 / 24 + 1e-6, "mean": 2.0},
}
_HIGHER = ("iou", "boundary_f")


@dataclass(frozen=True, slots=True)
class Adapted:
    """What came of it.

    Attributes:
        accepted: Whether the model got no worse, and ``out`` was written.
        reasons: What got worse, a sentence each.
        out: The folder.
        teacher: Name of the model that labelled.
        learnt: Runs of the footage that were learnt from.
        doubted: Why others were not, and how many.
        steps: Of training; with the same seed they give the same weights again.
        measures: Of each set, ``before`` and ``after``.
        seconds: How long it took.
    """

    accepted: bool
    reasons: tuple[str, ...]
    out: Path
    teacher: str
    learnt: int
    doubted: dict[str, int]
    steps: int
    measures: dict[str, dict[str, dict[str, float]]]
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Return everything for JSON."""
        return {
            "accepted": self.accepted,
            "reasons": list(self.reasons),
            "out": str(self.out) if self.accepted else None,
            "teacher": self.teacher,
            "runs_learnt": self.learnt,
            "runs_doubted": self.doubted,
            "steps": self.steps,
            "measures": self.measures,
            "seconds": round(self.seconds, 1),
        }


def adapt(
    clips: Path,
    out: Path,
    *,
    model: str | Path = "unet-s",
    teacher: str | Path | None = None,
    check: Path | None = None,
    minutes: float = MINUTES,
    steps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Adapted:
    """Fine-tune a model on footage and write it to ``out``, if it got no worse. Frames are kept nowhere else.

    Args:
        clips: Folder of videos, or one.
        out: The model folder to make.
        model: What is adapted: a model with weights.
        teacher: What labels: any model; None is ``model`` itself, looked through several times.
        check: Labelled pictures to judge on, too: a folder as for ``read_pairs``, or with an index.csv.
        minutes: About how long it may take in all, on two cores.
        steps: Of training; None is as many as the time allows.
        seed: Of everything drawn by chance.
        threads: For networks; None chooses.
        overwrite: Whether ``out`` may be replaced.
        say: Called with a line on what is being done.
        progress: Called after each run that is labelled and each step.

    Raises:
        SourceError: There is no footage, or too little of it that the teacher is sure of.
        EngineError: The model has no weights, or tells classes apart.
        SinkError: ``out`` cannot be written.
    """
    begun = time.monotonic()
    out = Path(os.path.abspath(out))
    check_target(out, overwrite)
    spec = load_spec(model)
    if "weights" not in spec.files or spec.classes:
        what = "tells classes apart" if spec.classes else "has no weights for PyTorch"
        raise EngineError(f"{spec.name} {what} and cannot be adapted: name a model like unet-s", path=str(spec.folder))
    weights = read_weights(spec.folder)
    checked = [] if check is None else _check_sets(check)
    if threads is not None:
        torch.set_num_threads(threads)
    with closing(Teacher(teacher or spec.folder, threads)) as labelling, closing(Teacher(spec.folder, threads)) as own:
        teaching, judging, doubted = _label(clips, labelling, max(round(RUNS_A_MINUTE * minutes), 8), say, progress)
        say(f"{len(teaching)} runs are learnt from, {len(judging)} judged on, {sum(doubted.values())} left out")
        sample = [own.label(run) for run in _sample_runs()]
        rng = np.random.default_rng([seed, 1])
        rooms = [room for room in (empty_room(runs) for runs in named(teaching).values()) if room is not None]
        rooms = [room for room in rooms if without_people(labelling, room)]
        say(f"the room behind the people was seen in {len(rooms)} of {len(named(teaching))} clips")
        drawn = [draw_room(rng) for _ in range(ROOMS)]
        teacher_name = labelling.name
    footage = Bank([_dataset("footage", teaching, [*rooms, *drawn])])
    anchors = Bank([_dataset("footage", teaching, [*rooms, *drawn]), _dataset("sample", sample, [])])
    pupil = Pupil(spec, weights, footage, anchors, _sizes(spec, teaching), seed)
    left = 60 * minutes - (time.monotonic() - begun) - RESERVE
    done = pupil.learn(left, steps, progress)
    say(f"{done} steps; exporting and judging")
    made = _folder_beside(out)
    try:
        notes = {"adapted_from": spec.name, "teacher": teacher_name, "steps": str(done), "seed": str(seed)}
        learnt = pupil.weights()
        learnt = replace(learnt, notes={**(learnt.notes or {}), **notes})
        _export(made, out.name, spec, learnt, [*teaching, *sample], drawn, seed)
        fresh = np.random.default_rng([seed, 2])
        unseen = [draw_room(fresh) for _ in range(ROOMS)]
        sets = {
            "footage": _case_set("footage", judging),
            "sample": _case_set("sample", sample),
            "rooms": _rooms_set(sample, unseen)[1],
            "composites": _rooms_set(sample, unseen)[0],
            **{cases.name: cases for cases in checked},
        }
        measures = _judge(spec, made / "model", sets, threads)
        reasons = _worse(measures)
        if not reasons:
            count = len(named(teaching))
            facts = [
                f"From `{spec.name}` by `vidseg adapt` on {date_of(made)}: {len(teaching)} runs of "
                f"{len(teaching[0].run.rgb)} frames of {count} clip{'s' if count > 1 else ''} of its user, labelled by "
                f"{teacher_name}; {done} steps, seed {seed}. The footage is not kept.",
                "",
                *_measures_table(measures),
            ]
            _write_card(made / "model", spec, facts)
            _publish(made / "model", out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Adapted(
        not reasons,
        tuple(reasons),
        out,
        teacher_name,
        len(teaching),
        doubted,
        done,
        measures,
        time.monotonic() - begun,
    )


# --- labels -----------------------------------------------------------------------------------------------------


def _label(
    clips: Path, teacher: Teacher, wanted: int, say: Callable[[str], None], progress: Callable[[Progress], None]
) -> tuple[list[Labelled], list[Labelled], dict[str, int]]:
    """Return what is learnt from, what is judged on, and why the rest is not."""
    paths = list_clips(clips)
    each, most = max(math.ceil(wanted / len(paths)), LEAST_RUNS), max(MOST_FRAMES // len(paths), 8)
    say(f"reading {len(paths)} clips")
    runs = []
    for path in paths:
        found = read_runs(path, each, most, lambda: progress(Progress(0, 0, 0.0, 0.0)))
        runs.append(_thinned(found, each))
    teaching, judging = held_back(runs)
    say(f"labelling {len(teaching) + len(judging)} runs of frames with {teacher.name}")
    start, labelled = time.monotonic(), []
    for run in [*teaching, *judging]:
        labelled.append(teacher.label(run))
        done = len(labelled)
        rate = done / max(time.monotonic() - start, 1e-9)
        progress(Progress(done, len(teaching) + len(judging), rate * len(run.rgb), run.time))
    doubted = Counter(one.doubt for one in labelled if one.doubt)
    sure = [one for one in labelled[: len(teaching)] if not one.doubt]
    tried = [one for one in labelled[len(teaching) :] if not one.doubt]
    if len(sure) < LEAST_RUNS or not tried or not any(one.alpha.any() for one in sure):
        why = f"; most often {doubted.most_common(1)[0][0]}" if doubted else ""
        raise SourceError(
            f"{clips} holds too little that {teacher.name} is sure of ({len(sure)} short runs to learn from, "
            f"{len(tried)} to judge on{why}): give longer or clearer footage, or a stronger --teacher",
            url=str(clips),
        )
    return sure, tried, dict(doubted)


def _thinned(runs: list[Run], most: int) -> list[Run]:
    return runs if len(runs) <= most else [runs[at * len(runs) // most] for at in range(most)]


def _sample_runs() -> list[Run]:
    with as_file(files("vidseg.demo") / "sample.mp4") as path:
        return _thinned(read_runs(path, SAMPLE_RUNS, MOST_FRAMES), SAMPLE_RUNS)


def _dataset(name: str, runs: Sequence[Labelled], rooms: Sequence[Array]) -> Dataset:
    """Return runs and rooms as a data set in memory."""

    def person(one: Labelled) -> Entry:
        frames = tuple(
            Picture(shrunk(rgb), shrunk(alpha), shrunk(255 - known), one.run.clip, True)
            for rgb, alpha, known in zip(one.run.rgb, one.alpha, one.known, strict=True)
        )
        return Entry(one.run.clip, lambda: [Clip(frames)], one.run.clip, "person", name)

    def room(at: int, rgb: Array) -> Entry:
        picture = Picture(shrunk(rgb), np.zeros(shrunk(rgb).shape[:2], np.uint8), None, f"room {at}", True)
        return Entry(f"room {at}", lambda: [Clip((picture,))], f"room {at}", "room", "rooms")

    entries = [person(one) for one in runs] + [room(at, rgb) for at, rgb in enumerate(rooms)]
    return Dataset(Path(name), "memory", tuple(replace(entry, split="train") for entry in entries))


def _sizes(spec: ModelSpec, runs: Sequence[Labelled]) -> list[Size]:
    """Return the input sizes at which the footage is seen, three times, and the others, once."""
    own = {spec.size_for(one.run.size) for one in runs}
    return [size for size in spec.sizes for _ in range(3 if size in own else 1)]


# --- learning ---------------------------------------------------------------------------------------------------


class Pupil:
    """A network that learns; its weights are a function of the seed and the number of steps.

    Args:
        spec: The model.
        weights: Where it starts.
        footage: What it learns.
        anchors: What it is not to forget.
        sizes: ``(h, w)`` of batches, drawn evenly.
        seed: Of the batches.
    """

    def __init__(
        self, spec: ModelSpec, weights: Weights, footage: Bank, anchors: Bank, sizes: Sequence[Size], seed: int
    ) -> None:
        self._weights, self._sizes, self._seed = weights, list(sizes), seed
        # BatchNorm keeps its statistics: those of a few batches of one room would be worse.
        self._net = weights.network().eval()
        self._before = Unrolled(weights.network().eval().requires_grad_(False))
        self._unrolled = Unrolled(self._net)
        self._average = AveragedModel(self._net, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=False)
        self._optimizer = torch.optim.AdamW(self._net.parameters(), RATE, weight_decay=0.0)
        self._frames = CLIP_FRAMES if spec.states else 1
        gentle = replace(STRENGTHS["gentle"], webcam=0.5, empty=0.1, composites=0.35)
        self._footage = footage, gentle
        self._anchors = anchors, STRENGTHS["standard"]

    def learn(self, seconds: float, steps: int | None, progress: Callable[[Progress], None]) -> int:
        """Take ``steps``, or as many as ``seconds`` allow but ten at least, and return how many."""
        start = time.monotonic()
        done = 0
        while steps is None or done < steps:
            self._step(done, steps)
            done += 1
            spent = time.monotonic() - start
            if steps is None and done == WARM_UP:
                # The first ones warm up the rate: until here it does not matter how many there will be.
                steps = max(int(seconds / spent * WARM_UP), WARM_UP)
            progress(Progress(done, steps or 0, done * 2 * BATCH * self._frames / max(spent, 1e-9), 0.0))
        return done

    def _step(self, step: int, steps: int | None) -> None:
        rate = RATE * min((step + 1) / WARM_UP, 1.0)
        if steps is not None and step >= WARM_UP:
            rate *= 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(steps - WARM_UP, 1)))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng([self._seed, step])
        size = self._sizes[int(rng.integers(len(self._sizes)))]
        own = _batch(rng, *self._footage, size, self._frames)
        other = _batch(rng, *self._anchors, size, self._frames)
        with torch.no_grad():
            said = self._before(other.rgb).sigmoid()
        logits = self._unrolled(torch.cat([own.rgb, other.rgb]))
        mine, theirs = logits[:BATCH], logits[BATCH:]
        learnt, _ = loss_of(LOSS, mine, own.alpha.float() / 255, own.weight.float() / 255)
        kept, _ = loss_of(ANCHOR, theirs, said, torch.ones_like(said))
        self._optimizer.zero_grad(set_to_none=True)
        (learnt + kept).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._net.parameters(), 1.0)
        self._optimizer.step()
        self._average.update_parameters(self._net)

    def weights(self) -> Weights:
        """Return the averaged weights."""
        state = copy.deepcopy(self._average.module).state_dict()
        return replace(self._weights, state=state)


def _batch(rng: np.random.Generator, bank: Bank, policy: object, size: Size, frames: int) -> Batch:
    return Sampler(bank, policy, rng).batch(size, BATCH, frames)  # type: ignore[arg-type]


# --- judging ----------------------------------------------------------------------------------------------------


def _case_set(name: str, runs: Sequence[Labelled]) -> CaseSet:
    """Return runs as clips; the truth is the teacher's label, laid along the picture's edges as vidseg writes it."""

    def shots(one: Labelled) -> list[Shot]:
        made = []
        for at, (rgb, alpha, known) in enumerate(zip(one.run.rgb, one.alpha, one.known, strict=True)):
            shot = moving(rgb, alpha, at)
            truth = refine(settle(alpha / np.float32(255)), shot.frame)
            made.append(Shot(shot.frame, truth, known > 127))
        return made

    cases = [Case(f"{one.run.clip} {one.run.time:.1f} s", lambda one=one: iter(shots(one))) for one in runs]  # type: ignore[misc]
    return CaseSet(name, cases, moving=True)


def _rooms_set(sample: Sequence[Labelled], rooms: Sequence[Array]) -> tuple[CaseSet, CaseSet]:
    """Return the person of the sample before drawn rooms, and those rooms with nobody in them."""
    shown = []
    for at, room in enumerate(rooms[: 2 * len(sample)]):
        one = sample[at % len(sample)]
        person = cut_out(one.run.rgb[-1], one.alpha[-1])
        height, width = person.alpha.shape
        large = cv2.resize(room, (width, height), interpolation=cv2.INTER_CUBIC)
        rgb = before_room(person.rgb, person.alpha, cast("Array", large))
        shown.append(Case(f"room {at}", lambda rgb=rgb, alpha=person.alpha: iter([still(rgb, alpha)])))  # type: ignore[misc]
    nobody = [
        Case(f"room {at}", lambda room=room: iter([still(room, np.zeros(room.shape[:2], np.uint8))]))  # type: ignore[misc]
        for at, room in enumerate(rooms)
    ]
    return CaseSet("composites", shown), CaseSet("rooms", nobody, people=False)


def _check_sets(folder: Path) -> list[CaseSet]:
    found = read_index(folder) if (folder / "index.csv").is_file() else [read_pairs("check", folder)]
    return [
        replace(cases, name=f"check {cases.name}".replace("check check", "check")).limited(CHECKED) for cases in found
    ]


def _judge(
    spec: ModelSpec, made: Path, sets: dict[str, CaseSet], threads: int | None
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the measures of each set, before and after."""
    report = evaluate([spec.folder, made], list(sets.values()), threads=threads, worst=0)
    measures = {}
    for name in sets:
        before, after = (row.measures for row in report.rows if row.set == name)
        measures[name] = {"before": dict(before), "after": dict(after)}
    return measures


def _worse(measures: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Return what got worse by more than ``SLACK``, a sentence each."""
    reasons = []
    for name, found in measures.items():
        slack = SLACK.get(name, SLACK["check" if name.startswith("check") else "sample"])
        for measure, allowed in slack.items():
            before, after = found["before"].get(measure), found["after"].get(measure)
            if before is None or after is None:
                continue
            loss = before - after if measure in _HIGHER else after - before
            if not loss <= allowed:  # also what is not a number
                reasons.append(f"{measure} on {name} went from {before:.4f} to {after:.4f}")
    return reasons


# --- writing ----------------------------------------------------------------------------------------------------


def _folder_beside(out: Path) -> Path:
    with writing(str(out)):
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))


def _export(
    made: Path,
    name: str,
    spec: ModelSpec,
    weights: Weights,
    runs: Sequence[Labelled],
    rooms: Sequence[Array],
    seed: int,
) -> None:
    """Write the model folder ``made / "model"``; its int8 is calibrated on the footage and on drawn rooms."""
    shown = made / "pictures"
    shown.mkdir()
    rng = np.random.default_rng([seed, 3])
    frames = [one.run.rgb[0] for one in runs]
    chosen = [frames[int(at)] for at in rng.permutation(len(frames))[:40]] + list(rooms[:8])
    for at, rgb in enumerate(chosen):
        (shown / f"{at:03d}.png").write_bytes(encode_picture(".png", rgb))
    write_weights(made / "weights.safetensors", weights)
    precisions = [role.removeprefix("onnx-") for role in spec.files if role.startswith("onnx-")]
    export(
        made / "weights.safetensors",
        made / "model",
        name=name,
        pictures=shown,
        precisions=cast("list[Precision]", precisions) or None,
        sizes=spec.sizes,
    )
    shutil.rmtree(shown)


def date_of(path: Path) -> str:
    """Return the day on which a file was changed."""
    return time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime))


def _measures_table(measures: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    lines = ["| set | measure | before | after |", "|---|---|---|---|"]
    for name, found in measures.items():
        for measure in ("iou", "boundary_f", "mad", "flicker", "seen", "mean"):
            if measure in found["before"] and measure in found["after"]:
                before, after = found["before"][measure], found["after"][measure]
                lines.append(f"| {name} | {measure} | {before:.4f} | {after:.4f} |")
    return lines


def _write_card(folder: Path, spec: ModelSpec, facts: Sequence[str]) -> None:
    """Put what it was adapted from into the card that the export wrote."""
    card = folder / "MODEL_CARD.md"
    text = card.read_text("utf-8")
    where = text.index("## Network")
    adapted = ["## Adapted", "", *facts, "", "`footage` is judged by the teacher's own labels: look at it before you"]
    adapted += ["trust it. `sample`, `composites` and `rooms` show whether something was forgotten.", ""]
    text = text[:where] + "\n".join([*adapted, ""]) + text[where:]
    text = text.replace(
        "Not written yet: every set with where it comes from, how much of it, and its licence.",
        f"That of `{spec.name}`, and the footage of its user.",
    ).replace("Not written yet: the one command that trains it again.", "`vidseg adapt`, see above.")
    card.write_text(text, "utf-8")


def _publish(made: Path, out: Path) -> None:
    """Give the new folder its name; an old one is gone only then."""
    with writing(str(out)):
        if out.exists():
            out.rename(made.with_name("old"))
            try:
                made.rename(out)
            except OSError:
                made.with_name("old").rename(out)
                raise
        else:
            made.rename(out)
