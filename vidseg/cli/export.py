"""``vidseg export``: from weights to a model that every command can use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console, one_line
from vidseg.cli.models import described

if TYPE_CHECKING:
    from vidseg.engine import Precision
    from vidseg.training.export import Exported

EXAMPLES = opt.example(
    "vidseg export runs/unet-s/weights.safetensors engines/unet-s --data data/ --overwrite",
    "vidseg export runs/mine/checkpoint.pt my-model/ --pictures photos/",
    "vidseg export weights.pt my-model/ --precision fp32,fp16 --size 512x288 --size 288x512",
    "vidseg process talk.mp4 out.mp4 --bg beach.jpg --model my-model/",
)
_PRECISIONS = ("fp32", "fp16", "int8")


def export(
    weights: Annotated[
        Path, typer.Argument(metavar="WEIGHTS", help="A .safetensors or .pt file, a checkpoint, or a model's folder.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to make; its name is the model's.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Folder with labelled/ and backgrounds/: int8 is calibrated on its training part, and the model is "
            "compared and judged on its validation part.",
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="DIR", help="Pictures to calibrate and compare with instead."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", metavar="LIST", help="fp32,fp16,int8: what is written. int8 needs --data or --pictures."
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            metavar="WIDTHxHEIGHT",
            help="Input sizes that the model offers, chosen by shape. Can be given several times.",
        ),
    ] = None,
    sets: Annotated[
        str | None,
        typer.Option(
            "--set", metavar="LIST", help="Sets of --data for the model card: webcam,composites,clips,rooms,labelled."
        ),
    ] = None,
    peer: Annotated[
        list[Path] | None,
        typer.Option("--peer", metavar="MODEL", help="A model to stand beside it in the card, such as an .onnx file."),
    ] = None,
    judge: Annotated[bool, typer.Option(help="Judge the model on the sets of --data.")] = True,
    overwrite: opt.OverwriteOption = False,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Make a model of trained weights: ONNX files, checked against PyTorch, with manifest and model card.

    Needs the extra `train`. What is written by hand in a card that is there already stays.
    """
    console = Console(quiet, as_json, verbose)
    precisions = _listed(precision, _PRECISIONS, "--precision")
    sizes = [_size(text) for text in size or []]
    if "int8" in precisions and data is None and pictures is None:
        raise typer.BadParameter("int8 is calibrated on real pictures: give --data or --pictures")
    with console.outcome():
        try:
            from vidseg.training import export as job
        except ModuleNotFoundError as error:
            from vidseg.errors import MissingDependencyError

            raise MissingDependencyError("exporting a model", "train") from error

        chosen = _listed(sets, job.SETS, "--set") or job.SETS
        try:
            exported = job.export(
                weights,
                output,
                data=data,
                pictures=pictures,
                precisions=cast("tuple[Precision, ...]", precisions) or None,
                sizes=sizes or job.SIZES,
                sets=chosen if judge else (),
                peers=peer or (),
                overwrite=overwrite,
                say=console.note,
            )
        except job.SizeError as error:
            raise typer.BadParameter(str(error), param_hint="'--size'") from error
        _tell(console, output, exported)


def _tell(console: Console, output: Path, exported: Exported) -> None:
    for warning in exported.warnings:
        console.note(warning)
    console.result(
        {
            **described(exported.spec),
            "parameters": exported.parameters,
            "macs": exported.macs,
            "agreement": {
                name: {"largest": found.largest, "mean": found.mean, "iou": found.iou}
                for name, found in exported.agreement.items()
            },
            "report": exported.report.as_dict() if exported.report else None,
            "warnings": exported.warnings,
        }
    )
    console.answer(f"{exported.spec.name}: {one_line(str(output))}")
    console.answer(
        f"    {exported.parameters / 1e6:.2f} M parameters, {exported.macs / 1e6:.0f} M multiply-accumulates"
    )
    for name, found in exported.agreement.items():
        console.answer(f"    {name}: alpha within {found.largest:.4f} of PyTorch's, IoU {found.iou:.4f}")


def _listed(text: str | None, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    """Return the names in ``text``, without those that are named twice."""
    names = tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)} is none of {', '.join(known)}", param_hint=f"'{option}'")
    return names


def _size(text: str) -> tuple[int, int]:
    """Return ``(height, width)``."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise typer.BadParameter(f"{text} is not a size like 256x160", param_hint="'--size'")
    return int(match[2]), int(match[1])
