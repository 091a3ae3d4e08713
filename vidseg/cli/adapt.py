"""``vidseg adapt``: a model learns one's own room and camera."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console, one_line
from vidseg.cli.progress import shown

if TYPE_CHECKING:
    from vidseg.training.adapt import Adapted

EXAMPLES = opt.example(
    "vidseg adapt --clips meetings/ --out my-room/",
    "vidseg adapt --clips talk.mp4 --out my-room/ --minutes 10 --check labelled/",
    "vidseg adapt --clips meetings/ --out my-room/ --teacher rvm_mobilenetv3.onnx",
    "vidseg process talk.mp4 out.mp4 --bg beach.jpg --model my-room/",
)
_LEARNING = "Learning"


def adapt(
    clips: Annotated[Path, typer.Option("--clips", metavar="DIR", help="Videos of your own room, or one video.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The model to make.")],
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            metavar="DIR",
            help="Pictures with masks on which the model may not get worse either: images/ and masks/, or NAME.jpg and "
            "NAME_mask.png.",
        ),
    ] = None,
    model: opt.ModelOption = "unet-s",
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="MODEL",
            help="What labels the footage: a model, its folder, or an .onnx file. By default MODEL itself, looked "
            "through several times.",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(
            "--minutes", metavar="N", min=0.1, max=600, help="About how long it may take.", rich_help_panel=_LEARNING
        ),
    ] = 3.0,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            min=1,
            help="So many steps, however long they take: with the same seed the same model again.",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Of all chance.", rich_help_panel=_LEARNING)
    ] = 0,
    threads: opt.ThreadsOption = None,
    overwrite: opt.OverwriteOption = False,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Fine-tune a model on footage of your own room and camera, without labels.

    It is written only if it got no worse: on footage that was held back, on your --check pictures, and on
    pictures that vidseg carries. If it did, the exit status is 1. Footage is read here and goes nowhere.
    Needs the extra "train".
    """
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        try:
            from vidseg.training.adapt import adapt as job
        except ModuleNotFoundError as error:
            from vidseg.errors import MissingDependencyError

            raise MissingDependencyError("adapting a model", "train") from error

        with shown(console, "adapt") as progress:
            done = job(
                clips,
                out,
                model=model,
                teacher=teacher,
                check=check,
                minutes=minutes,
                steps=steps,
                seed=seed,
                threads=threads,
                overwrite=overwrite,
                say=console.note,
                progress=progress,
            )
        if not done.accepted:
            for line in _lines(done):
                console.note(line)
            why = "; ".join(done.reasons)
            raise console.fail(f"nothing was written, the adapted model is worse: {why}", **done.as_dict())
        console.result(done.as_dict())
        console.answer(f"{one_line(str(out))}: {done.steps} steps in {done.seconds:.0f} s, use it with --model")
        for line in _lines(done):
            console.answer(f"    {line}")


def _lines(done: Adapted) -> list[str]:
    """Return the measures, before and after."""
    lines = []
    for name, found in done.measures.items():
        parts = [
            f"{measure} {found['before'][measure]:.4f} to {found['after'][measure]:.4f}"
            for measure in ("iou", "boundary_f", "flicker", "seen", "mean")
            if measure in found["before"] and measure in found["after"]
        ]
        lines.append(f"{name}: {', '.join(parts)}")
    return lines
