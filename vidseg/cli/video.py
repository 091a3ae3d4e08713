"""``vidseg process`` and ``vidseg matte``: videos in, videos out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console
from vidseg.cli.pictures import write_pictures
from vidseg.cli.progress import shown
from vidseg.cli.summary import finish, finish_all

if TYPE_CHECKING:
    from vidseg.jobs import Choices

PROCESS_EXAMPLES = opt.example(
    "vidseg process talk.mp4 out.mp4 --bg beach.jpg",
    "vidseg process talk.mp4 out.mp4 --bg blur:70 --codec hevc --crf 22",
    "vidseg process talk.mp4 out.mp4 --bg '#1e90ff' --overwrite",
    "vidseg process talk.mp4 cutout.webm --bg transparent",
    "vidseg process https://example.org/talk.mp4 out.mkv --bg waves.mp4 --json",
    "vidseg process monday.mp4 tuesday.mov --out done/ --bg beach.jpg",
)
MATTE_EXAMPLES = opt.example(
    "vidseg matte talk.mp4 alpha.mkv",
    "vidseg matte talk.mp4 alpha/",
    "vidseg matte portraits/ alphas/",
)


def process(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT OUTPUT",
            help="A video file, URL, or numbered pictures (shot_%04d.png); then a video file, or a folder for numbered "
            "PNG pictures. With --out as many inputs as you like, and no output.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Write every INPUT into this folder, each under its own name, several at once.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, max=64, help="So many videos at once (default: by the number of cores)."),
    ] = None,
    bg: opt.BackgroundOption = None,
    fit: opt.FitOption = opt.Fit.cover,
    codec: opt.CodecOption = None,
    crf: opt.CrfOption = None,
    preset: opt.PresetOption = None,
    overwrite: opt.OverwriteOption = False,
    model: opt.ModelOption = "unet-s",
    keep: opt.KeepOption = None,
    runtime: opt.RuntimeOption = opt.Runtime.auto,
    threads: opt.ThreadsOption = None,
    device: opt.DeviceOption = "auto",
    hwaccel: opt.HwaccelOption = opt.Hwaccel.auto,
    strict: opt.StrictOption = False,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Put another background behind the people in a video.

    Sound, subtitles, chapters, timestamps, colour and HDR stay as they are.
    """
    if out is None and len(names) < 2:
        raise typer.BadParameter("Missing argument 'OUTPUT'")
    if out is None and len(names) > 2:
        raise typer.BadParameter(f"{names[2]!r} is one name too many: for several videos name a folder with --out")
    if out is None and jobs is not None:
        raise typer.BadParameter("--jobs is for several videos: name a folder for them with --out")
    background, crf = opt.checked_background(bg), opt.checked_crf(crf, codec)
    opt.checked_device(device)
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        from vidseg.sinks import OutputOptions

        choices: Choices = {
            "fit": fit.value,
            "model": model,
            "keep": opt.checked_keep(keep, model),
            "runtime": runtime.value,
            "threads": threads,
            "options": OutputOptions(codec=codec, crf=crf, preset=preset, overwrite=overwrite),
            "device": device,
            "hwaccel": hwaccel.value,
        }
        if out is not None:
            from vidseg.jobs import process_videos

            with shown(console, out) as progress:
                done = process_videos(names, out, background, at_once=jobs, progress=progress, **choices)
            finish_all(console, done, strict)
            return
        from vidseg.jobs import process_video

        input, output = names
        with shown(console, Path(output).name or output) as progress:
            stats = process_video(input, output, background, progress=progress, **choices)
        finish(console, stats, strict)


def matte(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="A video, a picture or a folder of pictures.")],
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="A video (.mkv lossless, .mp4), a picture or a folder.")
    ],
    codec: opt.CodecOption = None,
    crf: opt.CrfOption = None,
    preset: opt.PresetOption = None,
    overwrite: opt.OverwriteOption = False,
    model: opt.ModelOption = "unet-s",
    keep: opt.KeepOption = None,
    runtime: opt.RuntimeOption = opt.Runtime.auto,
    threads: opt.ThreadsOption = None,
    strict: opt.StrictOption = False,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Write the alpha itself: white where the people are."""
    crf = opt.checked_crf(crf, codec)
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        from vidseg.jobs import are_pictures, matte_video

        if are_pictures(input, output):
            if (codec, crf, preset) != (None, None, None):
                raise typer.BadParameter("--codec, --crf and --preset are for videos; leave them out")
            write_pictures(console, input, output, None, model, keep, runtime, threads, overwrite=overwrite)
            return

        from vidseg.sinks import OutputOptions

        kept = opt.checked_keep(keep, model)
        with shown(console, Path(output).name or output) as progress:
            stats = matte_video(
                input,
                output,
                model=model,
                keep=kept,
                runtime=runtime.value,
                threads=threads,
                options=OutputOptions(codec=codec, crf=crf, preset=preset, overwrite=overwrite),
                progress=progress,
            )
        finish(console, stats, strict)
