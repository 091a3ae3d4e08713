"""The commands as typer has them, and the exit status of whatever typer answers itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

import vidseg
from vidseg.cli import (
    adapt,
    bench,
    ctl,
    data,
    demo,
    devices,
    doctor,
    engines,
    evaluate,
    explain,
    export,
    gst,
    models,
    options,
    pictures,
    pipe,
    serve,
    service,
    signals,
    train,
    video,
    webcam,
)
from vidseg.cli.console import FAILED, lose_output, one_line, say

USAGE = 2

app = typer.Typer(
    name="vidseg",
    invoke_without_command=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog=options.example(
        "vidseg demo",
        "vidseg process talk.mp4 out.mp4 --bg beach.jpg",
        "vidseg process talk.mp4 out.mp4 --bg blur",
        "vidseg image portrait.jpg portrait.png --bg transparent",
        "vidseg doctor",
    ),
)
app.command(epilog=video.PROCESS_EXAMPLES)(video.process)
app.command(epilog=video.MATTE_EXAMPLES)(video.matte)
app.command(epilog=pictures.EXAMPLES)(pictures.image)
app.command(epilog=pipe.EXAMPLES)(pipe.pipe)
app.command(epilog=demo.EXAMPLES)(demo.demo)
app.command(epilog=data.EXAMPLES)(data.data)
app.command(epilog=train.EXAMPLES)(train.train)
app.command(epilog=adapt.EXAMPLES)(adapt.adapt)
app.command(epilog=models.EXAMPLES)(models.models)
app.command(epilog=export.EXAMPLES)(export.export)
app.command(epilog=engines.EXAMPLES)(engines.engines)
app.command("eval", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=explain.EXAMPLES)(explain.explain)
app.command(epilog=webcam.EXAMPLES)(webcam.webcam)
# A number below zero is a value, not an option.
app.command(epilog=ctl.EXAMPLES, context_settings={"ignore_unknown_options": True})(ctl.ctl)
app.command(epilog=serve.EXAMPLES)(serve.serve)
app.command(epilog=service.EXAMPLES)(service.service)
app.command(epilog=devices.EXAMPLES)(devices.devices)
app.command(epilog=gst.EXAMPLES)(gst.gst)
app.command(epilog=bench.EXAMPLES)(bench.bench)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vidseg {vidseg.__version__}")
        raise typer.Exit


@app.callback()
def vidseg_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Put another background behind the people in videos and pictures. Nothing leaves this machine."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


def run(arguments: Sequence[str]) -> int:
    """Run one command line, without the program's name, and return its exit status.

    Raises:
        KeyboardInterrupt: Before or after the command itself.
    """
    try:
        status = get_command(app).main(args=list(arguments), prog_name="vidseg", standalone_mode=False)
        if signals.heard():
            raise KeyboardInterrupt  # typer has made a status of it; a command that was interrupted exits
        if sys.stdout is not None:
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except OSError as error:
        return lose_output(error)
    except typer.Abort:
        if signals.heard():
            raise KeyboardInterrupt from None
        return FAILED
    except SystemExit as end:  # also how typer ends when a shell asked for completion
        return end.code if isinstance(end.code, int) else 0
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _usage(error)


def _usage(error: Exception) -> int:
    """Say what is wrong with the command line. ``error`` is typer's, whose class its versions name differently."""
    text = one_line(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    say(f"{text}; see '{context.command_path if context else 'vidseg'} --help'")
    return USAGE
