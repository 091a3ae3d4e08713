"""``vidseg explain``: how sure a model is, and what its decision hangs on."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console, one_line
from vidseg.cli.progress import shown

if TYPE_CHECKING:
    from vidseg.explaining.job import Explained

EXAMPLES = opt.example(
    "vidseg explain portrait.jpg",
    "vidseg explain portrait.jpg why.png --model my-model/",
    "vidseg explain talk.mp4 why.mp4 --every 2",
    "vidseg explain portrait.jpg chair.html --at 320,410",
    "vidseg explain portrait.jpg --method gradcam --overwrite",
)
_EVIDENCE = "What the decision hangs on"


class Method(enum.StrEnum):
    """How the evidence is found."""

    occlusion = "occlusion"
    gradcam = "gradcam"


def explain(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="A picture or a video.")],
    output: Annotated[
        str | None,
        typer.Argument(
            metavar="OUTPUT",
            help="An .html page, a picture of a picture, a video of a video. By default a page beside INPUT.",
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            "--method",
            metavar="METHOD",
            help="occlusion (places are blurred away; for every model) or gradcam (gradients; needs vidseg\\[torch] "
            "and a model with weights).",
            rich_help_panel=_EVIDENCE,
        ),
    ] = Method.occlusion,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="X,Y",
            help="Ask about this pixel instead of the person.",
            rich_help_panel=_EVIDENCE,
        ),
    ] = None,
    every: Annotated[
        float,
        typer.Option(
            "--every",
            metavar="SECONDS",
            min=0.0,
            help="Of a video: how often to search; a page shows twelve moments at most.",
            rich_help_panel=_EVIDENCE,
        ),
    ] = 1.0,
    overwrite: opt.OverwriteOption = False,
    model: opt.ModelOption = "unet-s",
    keep: opt.KeepOption = None,
    runtime: opt.RuntimeOption = opt.Runtime.auto,
    threads: opt.ThreadsOption = None,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Show where a model is sure, where it is not, and what its decision hangs on.

    The picture is looked at mirrored, larger, smaller and moved: where the answers differ, the model is uncertain.
    """
    point = _point(at)
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        from vidseg.explaining.job import explain as job

        kept = opt.checked_keep(keep, model)
        with shown(console, Path(input).name or input) as progress:
            done = job(
                input,
                output,
                model=model,
                keep=kept,
                runtime=runtime.value,
                threads=threads,
                method=method.value,
                at=point,
                every=every,
                overwrite=overwrite,
                progress=progress,
            )
        _tell(console, done)


def _tell(console: Console, done: Explained) -> None:
    height, width = done.size
    console.result(
        {
            "output": done.output,
            "model": done.model,
            "runtime": done.runtime,
            "method": done.method,
            "target": done.target,
            "width": width,
            "height": height,
            "frames": done.frames,
            "seconds": round(done.seconds, 3),
            "moments": [{name: round(value, 5) for name, value in one.items()} for one in done.moments],
        }
    )
    many = len(done.moments)
    person, unsure = (sum(one[name] for one in done.moments) / many for name in ("person", "uncertain"))
    console.answer(f"{one_line(done.output)}: {100 * person:.1f} % person, {100 * unsure:.1f} % uncertain")
    best = max(done.moments, key=lambda one: one["strongest"])
    x, y = round(best["strongest_x"] * width), round(best["strongest_y"] * height)
    lost = f"without it {best['strongest']:.3f} of alpha is lost" if done.method == "occlusion" else "by Grad-CAM"
    console.answer(f"    {done.target} hangs most on the place around {x},{y}: {lost}")
    console.answer(f"    {done.model} on {done.runtime}, {done.seconds:.1f} s")


def _point(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,6}(?:\.\d+)?)\s*,\s*(\d{1,6}(?:\.\d+)?)\s*", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is not a pixel like 320,240", param_hint="'--at'")
    return float(found[1]), float(found[2])
