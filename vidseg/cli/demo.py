"""``vidseg demo``: the main job on a clip that vidseg carries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console, one_line
from vidseg.cli.progress import shown

if TYPE_CHECKING:
    from vidseg.pipeline import Stats

EXAMPLES = opt.example("vidseg demo", "vidseg demo /tmp/demo --runtime onnxruntime")
FOLDER = "vidseg-demo"


def demo(
    folder: Annotated[
        str | None, typer.Argument(metavar="FOLDER", help=f"Where to write; by default {FOLDER}.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of an earlier demo.")] = False,
    model: opt.ModelOption = "unet-s",
    runtime: opt.RuntimeOption = opt.Runtime.auto,
    threads: opt.ThreadsOption = None,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Show the main job on a built-in clip: needs no camera and no file.

    Writes the clip, its composite and a before/after picture, and says where.
    """
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        from vidseg.demo import run_demo
        from vidseg.jobs import process_video
        from vidseg.sinks import OutputOptions

        done: list[Stats] = []
        # What lies in the folder that is the demo's own by name comes from an earlier demo.
        replace = overwrite or folder is None

        def process(source: str, output: str, background: str) -> None:
            with shown(console, Path(output).name) as progress:
                options = OutputOptions(overwrite=replace)
                done.append(
                    process_video(
                        source,
                        output,
                        background,
                        model=model,
                        runtime=runtime.value,
                        threads=threads,
                        options=options,
                        progress=progress,
                    )
                )

        files = run_demo(folder or FOLDER, process, overwrite=replace)
        (stats,) = done
        console.note(f"{stats.frames} frames in {stats.seconds:.1f} s ({stats.fps:.1f} fps) on {stats.runtime}")
        paths = {name: str(path) for name, path in files._asdict().items()}
        console.result({**paths, "frames": stats.frames, "seconds": stats.seconds, "fps": stats.fps})
        for name, path in paths.items():
            console.answer(f"{name.replace('_', '/'):12}  {one_line(path)}")
