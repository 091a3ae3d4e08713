"""``vidseg process`` and ``vidseg matte``: videos in, videos out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console
from vidseg.cli.progress import shown

if TYPE_CHECKING:
    from vidseg.pipeline import Stats

PROCESS_EXAMPLES = opt.example(
    "vidseg process talk.mp4 out.mp4 --bg beach.jpg",
    "vidseg process talk.mp4 out.mp4 --bg blur:70 --codec hevc --crf 22",
    "vidseg process talk.mp4 out.mp4 --bg '#1e90ff' --overwrite",
    "vidseg process talk.mp4 cutout.webm --bg transparent",
    "vidseg process https://example.org/talk.mp4 out.mkv --bg waves.mp4 --json",
)
MATTE_EXAMPLES = opt.example(
    "vidseg matte talk.mp4 alpha.mkv",
    "vidseg matte talk.mp4 alpha/",
    "vidseg matte portraits/ alphas/",
)


def process(
    input: Annotated[
        str, typer.Argument(metavar="INPUT", help="A video file, URL, or numbered pictures (shot_%04d.png).")
    ],
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="A video file, or a folder for numbered PNG pictures.")
    ],
    bg: opt.BackgroundOption = None,
    fit: opt.FitOption = opt.Fit.cover,
    codec: opt.CodecOption = None,
    crf: opt.CrfOption = None,
    preset: opt.PresetOption = None,
    overwrite: opt.OverwriteOption = False,
    model: opt.ModelOption = "unet-s",
    runtime: opt.RuntimeOption = opt.Runtime.auto,
    threads: opt.ThreadsOption = None,
    strict: opt.StrictOption = False,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Put another background behind the people in a video.

    Sound, subtitles, chapters, timestamps, colour and HDR stay as they are.
    """
    background, crf = opt.checked_background(bg), opt.checked_crf(crf, codec)
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        from vidseg.jobs import process_video
        from vidseg.sinks import OutputOptions

        with shown(console, Path(output).name or output) as progress:
            stats = process_video(
                input,
                output,
                background,
                fit=fit.value,
                model=model,
                runtime=runtime.value,
                threads=threads,
                options=OutputOptions(codec=codec, crf=crf, preset=preset, overwrite=overwrite),
                progress=progress,
            )
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
        from vidseg.jobs import matte_video
        from vidseg.sinks import OutputOptions

        with shown(console, Path(output).name or output) as progress:
            stats = matte_video(
                input,
                output,
                model=model,
                runtime=runtime.value,
                threads=threads,
                options=OutputOptions(codec=codec, crf=crf, preset=preset, overwrite=overwrite),
                progress=progress,
            )
        finish(console, stats, strict)


def finish(console: Console, stats: Stats, strict: bool) -> None:
    """Say what a job did.

    Raises:
        typer.Exit: Part of the input could not be read, and that is not allowed.
    """
    for text in stats.notes:
        console.note(text)
    damage = []
    if stats.corrupt:
        damage.append(f"{stats.corrupt} corrupt {'part was' if stats.corrupt == 1 else 'parts were'} skipped")
    if stats.truncated:
        damage.append("the input ends too early")
    frames = f"{stats.frames} {'frame' if stats.frames == 1 else 'frames'}"
    lost = f"{' and '.join(damage)}; {frames} could be read and are in {stats.output}" if damage else ""
    if damage and strict:
        raise console.fail(lost, **dataclasses.asdict(stats))
    if damage:
        console.note(f"warning: {lost}")
    if console.verbose and stats.stages:
        for stage, times in stats.stages.items():
            console.note(f"{stage}: {times['p50']:.2f} ms a frame, 95 % below {times['p95']:.2f} ms")
    computed = f", {stats.model} on {stats.runtime}" if stats.runtime else ""
    dropped = f", {stats.dropped} dropped" if stats.dropped else ""
    console.note(f"{stats.output}: {frames} in {stats.seconds:.1f} s ({stats.fps:.1f} fps){dropped}{computed}")
    console.result(dataclasses.asdict(stats))
