"""``vidseg image``, and what ``vidseg matte`` does with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console
from vidseg.cli.progress import shown
from vidseg.cli.summary import finish

EXAMPLES = opt.example(
    "vidseg image portrait.jpg portrait.png --bg transparent",
    "vidseg image portrait.jpg beach.jpg --bg beach.png --fit contain",
    "vidseg image photos/ cutouts/ --bg transparent",
)


def image(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="A picture or a folder of pictures.")],
    output: Annotated[
        str,
        typer.Argument(metavar="OUTPUT", help="A .png, .webp or .jpg file, or a folder: each keeps its name."),
    ],
    bg: opt.BackgroundOption = None,
    fit: opt.FitOption = opt.Fit.cover,
    overwrite: opt.OverwriteOption = False,
    model: opt.ModelOption = "unet-s",
    keep: opt.KeepOption = None,
    runtime: opt.RuntimeOption = opt.Runtime.auto,
    threads: opt.ThreadsOption = None,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Put another background behind the people in a picture, or in all pictures of a folder.

    Pictures that cannot be read are named and left out; the exit status is then 1.
    """
    background = opt.checked_background(bg)
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        write_pictures(console, input, output, background, model, keep, runtime, threads, overwrite=overwrite, fit=fit)


def write_pictures(
    console: Console,
    input: str,
    output: str,
    background: str | None,
    model: str,
    keep: str | None,
    runtime: opt.Runtime,
    threads: int | None,
    *,
    overwrite: bool,
    fit: opt.Fit = opt.Fit.cover,
) -> None:
    """Do what ``process_pictures`` does, and say what was done.

    Raises:
        typer.Exit: A picture could not be read.
        typer.BadParameter: The model does not know what to ``keep``.
    """
    from vidseg.images import process_pictures
    from vidseg.segmenter import SCALES, Segmenter

    kept = opt.checked_keep(keep, model)
    with shown(console, Path(output).name or output) as progress:
        stats = process_pictures(
            input,
            output,
            background,
            lambda: Segmenter(model, runtime.value, threads=threads, scales=SCALES, keep=kept, stream=False),
            fit=fit.value,
            overwrite=overwrite,
            progress=progress,
        )
    finish(console, stats, strict=True, noun="picture")
