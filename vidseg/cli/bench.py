"""``vidseg bench``: what this machine can do."""

from __future__ import annotations

import enum
import math
import re
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli import signals
from vidseg.cli.console import Console

if TYPE_CHECKING:
    from vidseg.capacity import Trial

EXAMPLES = opt.example(
    "vidseg bench streams",
    "vidseg bench streams --device cuda:0 --runtime torch",
    "vidseg bench streams --size 640x360 --fps 15 --p99 66ms --json",
)
_HEAD = f"{'streams':>7}  {'frames':>7}  {'dropped':>7}  {'p50 ms':>7}  {'p99 ms':>7}  {'batch':>5}"


class Bench(enum.StrEnum):
    """What to measure."""

    streams = "streams"


def bench(
    what: Annotated[
        Bench,
        typer.Argument(metavar="streams", help="streams: how many live streams this machine holds at the same time."),
    ],
    size: Annotated[str, typer.Option("--size", metavar="WIDTHxHEIGHT", help="Of each stream.")] = "1280x720",
    fps: Annotated[float, typer.Option("--fps", min=1, max=1000, help="Frames a second of each stream.")] = 30.0,
    p99: Annotated[
        str, typer.Option("--p99", metavar="TIME", help="In which 99 of 100 frames have to be finished.")
    ] = "33ms",
    bg: Annotated[
        str, typer.Option("--bg", metavar="BACKGROUND", help="What to put behind, as for vidseg process.")
    ] = "#204060",
    seconds: Annotated[float, typer.Option("--seconds", min=0.2, max=3600, help="That each trial lasts.")] = 4.0,
    device: Annotated[
        str,
        typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:1: where frames are put together."),
    ] = "auto",
    model: opt.ModelOption = "unet-s",
    runtime: opt.RuntimeOption = opt.Runtime.auto,
    threads: opt.ThreadsOption = None,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Find how many live streams this machine holds.

    Synthetic cameras give whole frames at their rate, each at its own moment; a frame counts from when it was due to
    when it is finished in memory again, upload and download included. What made way for a newer one counts as late.
    """
    height, width = _size(size)
    limit = _time(p99)
    console = Console(quiet, as_json, verbose)
    with console.outcome(), ExitStack() as stack:
        from vidseg.capacity import Load, OnDevice, Threads, find_capacity
        from vidseg.jobs import chosen_device

        load = Load((height, width), fps, limit, bg, model, runtime.value, threads, seconds)
        where = chosen_device(device, runtime.value)
        crowds = Threads if where is None else OnDevice(load, where)
        if isinstance(crowds, OnDevice):
            stack.callback(crowds.close)
        console.answer(_HEAD)

        def tell(trial: Trial) -> None:
            if signals.heard():
                raise KeyboardInterrupt
            console.answer(_row(trial))

        holds, trials, computed = find_capacity(load, crowds, told=tell)
        console.answer(
            f"{holds} streams of {size} at {fps:g} fps hold with 99 of 100 frames within {1e3 * limit:g} ms: "
            f"{model} on {computed}"
        )
        rows = [{key: _finite(value) for key, value in asdict(trial).items()} for trial in trials]
        console.result(
            {"streams": holds, "width": width, "height": height, "fps": fps, "p99_ms": 1e3 * limit, "background": bg,
             "model": model, "runtime": computed, "trials": rows}
        )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _row(trial: Trial) -> str:
    verdict = "holds" if trial.holds else "too much"
    return (
        f"{trial.streams:>7}  {trial.frames:>7}  {trial.dropped:>7}  {_ms(trial.p50)}  {_ms(trial.p99)}  "
        f"{trial.batch:>5.1f}  {verdict}"
    )


def _ms(value: float) -> str:
    return f"{value:>7.1f}" if math.isfinite(value) else f"{'never':>7}"


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 32 <= int(width) <= 16384 and 32 <= int(height) <= 16384):
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT, as in 1280x720", param_hint="'--size'")
    return int(height), int(width)


def _time(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(ms|s)?", text.strip().lower())
    seconds = float(match[1]) / (1 if match[2] == "s" else 1000) if match else 0.0
    if seconds <= 0:
        raise typer.BadParameter(f"{text!r} is no time, as in 33ms or 0.05s", param_hint="'--p99'")
    return seconds
