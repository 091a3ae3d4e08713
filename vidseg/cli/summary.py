"""What a finished job did, in a few lines or one object."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from vidseg.cli.console import Console

if TYPE_CHECKING:
    from vidseg.pipeline import Stats


def finish(console: Console, stats: Stats, strict: bool, noun: str = "frame") -> None:
    """Say what a job did.

    Raises:
        typer.Exit: Part of the input could not be read, and that is not allowed.
    """
    values = dataclasses.asdict(stats)
    done = counted(stats.frames, noun)
    for text in stats.notes:
        console.note(text)
    if damage := _damage(stats, noun):
        damage += f"; {done} could be read and {'is' if stats.frames == 1 else 'are'} in {stats.output}"
        if strict:
            raise console.fail(damage, **values)
        console.note(f"warning: {damage}")
    if console.verbose:
        for stage, times in stats.stages.items():
            console.note(f"{stage}: {times['p50']:.2f} ms a {noun}, 95 % below {times['p95']:.2f} ms")
    dropped = f", {stats.dropped} dropped" if stats.dropped else ""
    computed = f", {stats.model} on {stats.runtime}" if stats.runtime else ""
    console.note(f"{stats.output}: {done} in {stats.seconds:.1f} s ({stats.fps:.1f} fps){dropped}{computed}")
    console.result(values)


def counted(number: int, noun: str) -> str:
    """Return ``1 frame``, ``2 frames``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _damage(stats: Stats, noun: str) -> str:
    """Return what could not be read, or nothing."""
    damage = []
    if stats.corrupt and noun == "picture":
        damage.append(f"{counted(stats.corrupt, noun)} could not be read")
    elif stats.corrupt:
        damage.append(f"{counted(stats.corrupt, 'corrupt part')} {'was' if stats.corrupt == 1 else 'were'} skipped")
    if stats.truncated:
        damage.append("the input ends too early")
    return " and ".join(damage)
