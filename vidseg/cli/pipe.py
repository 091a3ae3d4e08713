"""``vidseg pipe``: raw video on standard input, raw video on standard output."""

from __future__ import annotations

from typing import Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import FAILED, Console
from vidseg.cli.progress import shown
from vidseg.cli.summary import finish

EXAMPLES = opt.example(
    "ffmpeg -i talk.mp4 -f yuv4mpegpipe - | vidseg pipe --bg beach.jpg | ffmpeg -i - out.mp4",
    "ffmpeg -i talk.mp4 -f yuv4mpegpipe - | vidseg pipe --bg blur | ffplay -",
    "some-camera-tool | vidseg pipe --raw 1280x720:30:nv12 --bg '#1e90ff' > out.y4m",
    "ffmpeg -i talk.mp4 -f yuv4mpegpipe - | vidseg pipe --bg wave.mp4 --raw-output > out.yuv",
)


def pipe(
    bg: opt.BackgroundOption = None,
    fit: opt.FitOption = opt.Fit.cover,
    raw: Annotated[
        str | None,
        typer.Option(
            "--raw",
            metavar="WIDTHxHEIGHT[:FPS[:FORMAT]]",
            help="Bare samples come in instead of y4m: 1280x720:30:yuv420p (or nv12, yuyv422, rgb24 …).",
        ),
    ] = None,
    raw_output: Annotated[
        bool, typer.Option("--raw-output", help="Write bare samples (yuv420p, yuv420p10le, yuva420p), not y4m.")
    ] = False,
    model: opt.ModelOption = "unet-s",
    keep: opt.KeepOption = None,
    runtime: opt.RuntimeOption = opt.Runtime.auto,
    threads: opt.ThreadsOption = None,
    strict: opt.StrictOption = False,
    quiet: opt.QuietOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Put another background behind the people in raw video, from one program to the next.

    Reads y4m on standard input and writes y4m to standard output: a program before does the decoding, and one after
    the encoding. Size, rate, range and depth stay; 4:2:2 and 4:1:1 become 4:2:0, and interlaced video progressive.
    """
    background = opt.checked_background(bg)
    source = _source(raw)
    console = Console(quiet, as_json=False, verbose=verbose)
    with console.outcome():
        from vidseg.errors import OutputClosedError
        from vidseg.jobs import process_video

        kept = opt.checked_keep(keep, model)
        try:
            with shown(console, "standard input") as progress:
                stats = process_video(
                    source,
                    "-:raw" if raw_output else "-",
                    background,
                    fit=fit.value,
                    model=model,
                    keep=kept,
                    runtime=runtime.value,
                    threads=threads,
                    progress=progress,
                )
        except OutputClosedError:  # whoever read has all it wanted, or has said itself what is wrong
            raise typer.Exit(FAILED) from None
        finish(console, stats, strict)


def _source(raw: str | None) -> str:
    """Return the name of the source.

    Raises:
        typer.BadParameter: ``--raw`` says no size.
    """
    if raw is None:
        return "-"
    from vidseg.sources.raw import RawFormat

    try:
        return str(RawFormat.from_name(f"-:raw:{raw.lower()}"))
    except ValueError:
        raise typer.BadParameter(
            f"{raw} is no format; write WIDTHxHEIGHT:FPS:FORMAT, as in 1280x720:30:nv12", param_hint="'--raw'"
        ) from None
