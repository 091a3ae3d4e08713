"""From weights to a model folder: ONNX files that agree with PyTorch on real pictures, manifest and model card."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vidseg.engine import ModelSpec, Precision, State, load_spec, open_engine
from vidseg.errors import EngineError, OutputExistsError, SinkError, SourceError
from vidseg.evaluation.cases import Rgb, labelled_files, read_rgb
from vidseg.evaluation.judging import evaluate
from vidseg.evaluation.presets import preset_sets, validation_rooms
from vidseg.evaluation.report import Report
from vidseg.frame import Size
from vidseg.networks import Weights, read_weights, write_weights
from vidseg.runtimes.torch import TorchEngine
from vidseg.sinks.pictures import writing
from vidseg.sources.pictures import SUFFIXES, list_pictures
from vidseg.training.onnx_files import Feed, count_macs, write_int8, write_onnx

SIZES: tuple[Size, ...] = ((160, 256), (256, 160), (192, 224), (224, 192), (192, 192))
MEAN = STD = 0.5
CALIBRATION_PICTURES, CALIBRATION_SIZE = 120, (192, 224)
CLIP = 5
"""Frames of a clip that is made of a still to try a recurrent network."""
MOST_OFF: dict[Precision, float] = {"fp32": 2e-3, "fp16": 5e-2}
"""Largest difference of alpha from PyTorch's in float32 that is rounding; more is a mistake of the export."""
LEAST_IOU = 0.985
"""Of int8 with float32; below, a warning is given."""
FILES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model-fp16.onnx", "int8": "model-int8.onnx"}
SETS = ("webcam", "composites", "clips", "rooms", "labelled")
BEGIN, END = "<!-- validation -->", "<!-- /validation -->"

Planes = npt.NDArray[np.float32]


class SizeError(ValueError):
    """The network cannot take an input size that was asked for."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far an ONNX file is from PyTorch in float32 on real pictures.

    Attributes:
        largest: Largest difference of alpha.
        mean: Mean difference.
        iou: Of the masks from 0.5 on, where somebody is.
    """

    largest: float
    mean: float
    iou: float


@dataclass(frozen=True, slots=True)
class Exported:
    """What was made.

    Attributes:
        spec: The model in its folder.
        parameters: Of the network.
        macs: Multiply-accumulates of its convolutions for a picture of the first size.
        agreement: By precision.
        report: Of the evaluation, if there was one.
        warnings: One sentence each.
    """

    spec: ModelSpec
    parameters: int
    macs: int
    agreement: dict[Precision, Agreement]
    report: Report | None
    warnings: tuple[str, ...]


def export(
    source: Path,
    out: Path,
    *,
    name: str | None = None,
    data: Path | None = None,
    pictures: Path | None = None,
    precisions: Sequence[Precision] | None = None,
    sizes: Sequence[Size] = SIZES,
    sets: Sequence[str] = SETS,
    peers: Sequence[Path] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Make a model folder of weights. It stands under its name when all of it is there and agrees, or not at all.

    A folder that is replaced gives its hand-written files to the new one.

    Args:
        source: Weights, a checkpoint, or a model folder with weights.
        out: The folder to make.
        name: Of the model; the folder's, if none.
        data: Data set with ``labelled/`` and ``backgrounds/``: calibrates on its training part, compares and judges on
            its validation part.
        pictures: Folder of pictures to calibrate and compare with instead; every fourth one compares.
        precisions: What is written besides the weights; by default all three, without int8 if there are no pictures.
        sizes: What the manifest offers; the files take any height and width.
        sets: Presets of ``data`` for the table in the model card; none leaves it out.
        peers: Other models in that table.
        overwrite: Whether ``out`` may be replaced.
        say: Called with a line on what is being done.

    Raises:
        ValueError: There is nothing to calibrate int8 with.
        SizeError: The network cannot take one of ``sizes``.
        EngineError: The weights cannot be used, or a file does not agree with them.
        SourceError: There are no pictures.
        SinkError: ``out`` cannot be written.
    """
    real = data is not None or pictures is not None
    wanted = tuple(precisions or ("fp32", "fp16", "int8") if real else precisions or ("fp32", "fp16"))
    if "int8" in wanted and not real:
        raise ValueError("int8 is calibrated on real pictures: give some, or leave it out")
    out = Path(os.path.abspath(out))
    check_target(out, overwrite)
    weights = read_weights(source).halved()  # half the size, in the repository and in the wheel
    net = weights.network()
    if odd := [size for size in sizes if min(size) < 1 or size[0] % _multiple(net) or size[1] % _multiple(net)]:
        raise SizeError(f"heights and widths must be multiples of {_multiple(net)}: {odd}")
    teaching, trying = _pictures(data, pictures)
    changed = source / "manifest.toml" if source.is_dir() else source
    date = datetime.datetime.fromtimestamp(changed.stat().st_mtime, datetime.UTC).date().isoformat()
    with writing(str(out)):
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        made.chmod(0o755)
    try:
        say("writing the weights and the ONNX files")
        _write_files(made, weights, net, wanted, sizes, teaching)
        macs, parameters = count_macs(net, sizes[0]), sum(part.numel() for part in net.parameters())
        facts = {"date": date, "parameters": parameters, "macs": macs, **(weights.notes or {})}
        _write_manifest(made, name or out.name, weights, net, wanted, sizes, facts)
        spec = load_spec(made)
        say("comparing them with PyTorch")
        agreement = {precision: _compare(spec, precision, trying) for precision in wanted}
        for precision, found in agreement.items():
            if found.largest > MOST_OFF.get(precision, 1):
                raise EngineError(
                    f"{FILES[precision]} of {source} differs from PyTorch by {found.largest:.3f}: nothing was written; "
                    "please report this with the versions that 'vidseg doctor' shows",
                    path=str(source),
                )
        warnings = [
            f"{precision} agrees with fp32 to an IoU of {found.iou:.3f} only: more or other pictures may help"
            for precision, found in agreement.items()
            if found.iou < LEAST_IOU
        ]
        report = None
        if data is not None and sets:
            say(f"judging it on {', '.join(sets)}")
            both = [made, *([made / FILES["fp32"]] if {"fp32", "int8"} <= set(wanted) else [])]
            report = evaluate(both, [s for preset in sets for s in preset_sets(preset, data)], peers=peers, worst=0)
        _write_card(made, out, spec, net, facts, agreement, report, warnings)
        _replace(out, made)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return Exported(load_spec(out), parameters, macs, agreement, report, tuple(warnings))


def _multiple(net: nn.Module) -> int:
    return int(net.multiple)  # type: ignore[arg-type]


def check_target(out: Path, overwrite: bool) -> None:
    """Make sure that a model's folder can be made at ``out``.

    Raises:
        SinkError: Its parent is missing, or something else stands there.
        OutputExistsError: A model stands there, and ``overwrite`` is not set.
    """
    if not out.parent.is_dir():
        raise SinkError(f"{out} cannot be made: the folder {out.parent} does not exist", url=str(out))
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / "manifest.toml").is_file()):
        raise SinkError(f"{out} is there already and is no model: choose another name", url=str(out))
    if any(out.iterdir()) and not overwrite:
        raise OutputExistsError(f"{out} exists already: give --overwrite or another name", url=str(out))


def _replace(out: Path, made: Path) -> None:
    """Put ``made`` where ``out`` is, with the files of ``out`` that were not made by an export."""
    with writing(str(out)):
        if not out.exists():
            made.rename(out)
            return
        old_files = set(load_spec(out).files.values()) if (out / "manifest.toml").is_file() else set()
        for path in out.iterdir():
            if path.name not in old_files and not (made / path.name).exists():
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, made / path.name)
        old = made.with_name(f"{made.name}.old")
        out.rename(old)
        try:
            made.rename(out)
        except OSError:
            old.rename(out)
            raise
        shutil.rmtree(old)


# --- pictures ---------------------------------------------------------------------------------------------------


def _pictures(data: Path | None, pictures: Path | None) -> tuple[list[Path], list[Path]]:
    """Return the files to calibrate with and those to compare with."""
    if pictures is not None:
        found = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise SourceError(f"{pictures} holds no picture ({', '.join(sorted(SUFFIXES))})", url=str(pictures))
        return [path for at, path in enumerate(found) if at % 4 or len(found) < 4], found[::4]
    if data is not None:
        held_back = set(validation_rooms(data))
        rooms = [path for path in list_pictures(str(data / "backgrounds")) if path not in held_back]
        people = [picture for _, picture, _, _ in labelled_files(data / "labelled", "train")]
        people = [path for path in people if path.suffix.lower() != ".png"]  # cut-outs have no room
        # One in eight is an empty room.
        return _drawn(people, rooms), [picture for _, picture, _, _ in labelled_files(data / "labelled", "val")][::4]
    return [], []


def _drawn(people: list[Path], rooms: list[Path]) -> list[Path]:
    rng = np.random.default_rng(7)
    banks = (rooms if at % 8 == 7 and rooms else people for at in range(CALIBRATION_PICTURES))
    return [bank[rng.integers(len(bank))] for bank in banks]


def normalised(rgb: Rgb) -> Planes:
    """Return uint8 ``(h, w, 3)`` as the network's input ``(1, 3, h, w)``."""
    return ((rgb.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)


def clip_of(rgb: Rgb, size: Size, frames: int, rng: np.random.Generator) -> list[Rgb]:
    """Return ``frames`` parts of a picture, as a camera sees it that moves, lighter or darker, each of ``size``."""
    height, width = rgb.shape[:2]
    share = rng.uniform(0.5, 1.0 if frames == 1 else 0.95) * min(height / size[0], width / size[1])
    h, w = max(int(size[0] * share), 1), max(int(size[1] * share), 1)
    (y0, y1), (x0, x1) = rng.integers(height - h + 1, size=2), rng.integers(width - w + 1, size=2)
    light, shown = rng.uniform(0.5, 1.3), []
    for at in np.linspace(0, min(1, frames / 60), frames):  # two seconds from one end to the other
        y, x = round(y0 + at * (y1 - y0)), round(x0 + at * (x1 - x0))
        small = cv2.resize(rgb[y : y + h, x : x + w], size[::-1], interpolation=cv2.INTER_AREA)
        shown.append(np.clip(small * light, 0, 255).astype(np.uint8))
    return shown


def calibration(net: nn.Module, files: Sequence[Path]) -> Iterator[Feed]:
    """Yield what the network takes, for ``CALIBRATION_PICTURES`` of ``files``, by turns if there are fewer.

    Every other picture of a recurrent network comes with the state after a clip.
    """
    rng = np.random.default_rng(7)
    states: Sequence[tuple[int, int]] = net.states  # type: ignore[assignment]
    height, width = (edge // _multiple(net) * _multiple(net) for edge in CALIBRATION_SIZE)
    for at in range(CALIBRATION_PICTURES):
        clip = clip_of(read_rgb(files[at % len(files)]), (height, width), CLIP if states and at % 2 else 1, rng)
        before = tuple(torch.zeros(1, channels, height // stride, width // stride) for channels, stride in states)
        with torch.inference_mode():
            for rgb in clip[:-1]:
                _, before = net(torch.from_numpy(normalised(rgb)), before)
        yield {"src": normalised(clip[-1])} | {f"r{n}i": part.numpy() for n, part in enumerate(before, 1)}


def drawn(size: Size, rng: np.random.Generator) -> Rgb:
    """Return a picture of soft coloured discs, for whoever gives no real ones."""
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.tile(rng.uniform(30, 220, 3), (*size, 1))
    for _ in range(4):
        cy, cx, radius = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(0.1, 0.4) * size[0]
        disc = np.clip((radius - np.hypot(y - cy, x - cx)) / 6 + 0.5, 0, 1)[..., None]
        image += disc * (rng.uniform(0, 255, 3) - image)
    return image.round().astype(np.uint8)


# --- files ------------------------------------------------------------------------------------------------------


def _write_files(
    folder: Path,
    weights: Weights,
    net: nn.Module,
    precisions: Sequence[Precision],
    sizes: Sequence[Size],
    teaching: Sequence[Path],
) -> None:
    write_weights(folder / "weights.safetensors", weights)
    notes = {
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "multiple": _multiple(net),
        "sizes": sizes,
        "classes": weights.classes,
        "states": net.states,
    }
    fp32 = folder / FILES["fp32"]
    write_onnx(net, fp32, weights.classes, notes)
    if "fp16" in precisions:
        write_onnx(net, folder / FILES["fp16"], weights.classes, notes, half=True)
    if "int8" in precisions:
        write_int8(fp32, folder / FILES["int8"], calibration(net, teaching))
    if "fp32" not in precisions:
        fp32.unlink()


def _write_manifest(
    folder: Path,
    name: str,
    weights: Weights,
    net: nn.Module,
    precisions: Sequence[Precision],
    sizes: Sequence[Size],
    facts: dict[str, Any],
) -> None:
    files = {f"onnx-{precision}": FILES[precision] for precision in precisions} | {"weights": "weights.safetensors"}
    sums = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files.values()}
    finds = f"{len(weights.classes)} classes" if weights.classes else "People"
    kind = _KINDS.get(weights.architecture["kind"], "a network")
    state = " that remembers" if net.states else ""
    summary = f"{finds}: {kind}{state}, {facts['parameters'] / 1e6:.1f} M parameters"
    head: dict[str, Any] = {
        "name": name,
        "summary": summary,
        "licence": "Apache-2.0",
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "multiple": _multiple(net),
        "sizes": sizes,
    }
    if weights.classes:
        head["classes"] = weights.classes
    if net.states:
        head["states"] = net.states
    lines = ["# Written by vidseg export; the fields are those of vidseg.engine.ModelSpec; sizes are height, width."]
    lines += _toml(head)
    for title, values in (
        ("architecture", weights.architecture),
        ("files", files),
        ("sha256", sums),
        ("training", facts),
    ):
        lines += ["", f"[{title}]", *_toml(values)]
    (folder / "manifest.toml").write_text("\n".join([*lines, ""]), "utf-8")


_KINDS = {"unet": "a U-Net of 3x3 convolutions", "fcn": "an FCN", "deeplabv3": "a DeepLabV3"}


def _toml(values: dict[str, Any]) -> list[str]:
    """Return ``key = value`` lines; strings, numbers and lists of them look the same in TOML and JSON."""
    bare = re.compile(r"[A-Za-z0-9_-]+").fullmatch
    return [f"{key if bare(key) else json.dumps(key)} = {json.dumps(value)}" for key, value in values.items()]


# --- comparing --------------------------------------------------------------------------------------------------


def _compare(spec: ModelSpec, precision: Precision, files: Sequence[Path]) -> Agreement:
    """Compare an ONNX file with PyTorch in float32, each with its own state, on clips if it has one."""
    keep = ("person",) if "person" in spec.classes else spec.classes[-1:]
    spec = spec.keeping(keep)
    rng = np.random.default_rng(1)
    largest, means, ious = 0.0, [], []
    for size in spec.sizes:
        shown: Iterable[Rgb] = (read_rgb(path) for path in files) if files else (drawn(size, rng) for _ in range(4))
        with (
            closing(TorchEngine(spec, size, None, "fp32", device="cpu")) as reference,
            closing(open_engine(spec, "onnxruntime", size, precision=precision)) as engine,
        ):
            for rgb in shown:
                before: tuple[State, State] = (), ()
                for frame in clip_of(rgb, size, CLIP if spec.states else 1, rng):
                    src = normalised(frame)
                    truth, expected = reference.infer(src, before[0])
                    alpha, after = engine.infer(src, before[1])
                    before = expected, after
                    off = np.abs(alpha - truth)
                    largest = max(largest, float(off.max()))
                    means.append(float(off.mean()))
                mask, person = alpha > 0.5, truth > 0.5
                if person.mean() > 0.01:
                    ious.append(float((mask & person).sum() / (mask | person).sum()))
    return Agreement(largest, float(np.mean(means)), float(np.mean(ious)) if ious else 1.0)


# --- the card ---------------------------------------------------------------------------------------------------


def _write_card(
    folder: Path,
    before: Path,
    spec: ModelSpec,
    net: nn.Module,
    facts: dict[str, Any],
    agreement: dict[Precision, Agreement],
    report: Report | None,
    warnings: list[str],
) -> None:
    """Write ``validation.json`` and ``MODEL_CARD.md``: the old card with its marked part anew, or a template."""
    text = _marked_part(spec, facts, agreement, report)
    values = {name: {"max": a.largest, "mean": a.mean, "iou": a.iou} for name, a in agreement.items()}
    judged = report.as_dict() if report else None
    (folder / "validation.json").write_text(
        json.dumps({**facts, "parity": values, "validation": judged}, indent=1) + "\n", "utf-8"
    )
    card = before / "MODEL_CARD.md"
    old = card.read_text("utf-8") if card.is_file() else _template(spec, net)
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(END) < old.index(BEGIN):
        warnings.append(f"{card} has not its marks {BEGIN} and {END}: it was left as it is")
    else:
        old = f"{old[: old.index(BEGIN)]}{BEGIN}\n{text}{old[old.index(END) :]}"
    (folder / "MODEL_CARD.md").write_text(old, "utf-8")


def _marked_part(
    spec: ModelSpec, facts: dict[str, Any], agreement: dict[Precision, Agreement], report: Report | None
) -> str:
    height, width = spec.sizes[0]
    lines = [
        f"Weights of {facts['date']}: {facts['parameters'] / 1e6:.2f} million parameters, {facts['macs'] / 1e6:.0f} "
        f"million multiply-accumulates a picture at {width}x{height}.",
        "",
        report.as_markdown() if report else "Not judged: give 'vidseg export' a data set.\n",
        "| file against PyTorch fp32 | largest difference | mean | IoU |",
        "|---|---|---|---|",
    ]
    for precision, found in agreement.items():
        lines.append(f"| {FILES[precision]} | {found.largest:.4f} | {found.mean:.5f} | {found.iou:.4f} |")
    return "\n".join([*lines, ""])


def _template(spec: ModelSpec, net: nn.Module) -> str:
    sizes = ", ".join(f"{width}x{height}" for height, width in spec.sizes)
    shape = ", ".join(f"{channels} channels at 1/{stride}" for channels, stride in spec.states)
    answer = f"`classes`, float32 (N, {len(spec.classes)}, H, W): {', '.join(spec.classes)}" if spec.classes else ""
    names = {"weights": "as trained, in float16", "onnx-fp32": "float32", "onnx-fp16": "float16 but for the ends"}
    names["onnx-int8"] = "8 bits (QDQ): activations uint8 by tensor, weights 7-bit by channel, logits and states float"
    return "\n".join(
        [
            f"# {spec.name}",
            "",
            f"{spec.summary}.",
            "",
            "## Network",
            "",
            "| | |",
            "|---|---|",
            f"| architecture | `{json.dumps(spec.architecture)}` |",
            f"| input | `src`, float32 (N, 3, H, W), R'G'B' in -1 to 1; H and W multiples of {spec.multiple} |",
            f"| output | {answer or '`pha`, float32 (N, 1, H, W), 0 to 1; 1 is a person'} |",
            f"| sizes | {sizes} (width x height) |",
            f"| state | {shape or 'none'} |",
            "",
            "| file | what |",
            "|---|---|",
            *(f"| `{file}` | {names[role]} |" for role, file in spec.files.items()),
            "",
            "## How well it does",
            "",
            BEGIN,
            END,
            "",
            "## What it is bad at",
            "",
            "Not written yet: look at the worst cases that `vidseg eval --sheet` draws.",
            "",
            "## Data",
            "",
            "Not written yet: every set with where it comes from, how much of it, and its licence.",
            "",
            "## Training",
            "",
            "Not written yet: the one command that trains it again.",
            "",
            "## Licence",
            "",
            f"The weights and this card: {spec.licence}.",
            "",
        ]
    )
