"""What a finished job did, in a few lines or one object."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from vidseg.cli.console import Console, one_line, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vidseg.jobs import Finished
    from vidseg.pipeline import Stats


def finish(console: Console, stats: Stats, strict: bool, noun: str = "frame") -> None:
    """Say what a job did.

    Raises:
        typer.Exit: Part of the input could not be read, and that is not allowed.
    """
    values = dataclasses.asdict(stats)
    damage = _tell(console, stats, noun)
    if damage and strict:
        raise console.fail(damage, **values)
    _tell_end(console, stats, noun, damage)
    console.result(values)


def finish_all(console: Console, done: Sequence[Finished], strict: bool) -> None:
    """Say what became of several videos; one object for all of them.

    Raises:
        typer.Exit: One failed, or part of it could not be read, and that is not allowed.
    """
    rows: list[dict[str, object]] = []
    failed = 0
    for end in done:
        row: dict[str, object] = {"input": end.source}
        reason = ""
        if end.stats is not None:
            row |= dataclasses.asdict(end.stats)
            damage = _tell(console, end.stats, "frame")
            reason = damage if strict else ""
            if not reason:
                _tell_end(console, end.stats, "frame", damage)
        elif end.error is not None:
            reason = console.sentence(end.error)
        if reason:
            failed += 1
            row |= {"error": one_line(reason)}
            say(reason)
        rows.append(row)
    if failed:
        raise console.fail(f"{failed} of {counted(len(done), 'video')} failed", files=rows)
    console.result({"files": rows})


def _tell(console: Console, stats: Stats, noun: str) -> str:
    """Say what was changed on the way; returns what could not be read, or nothing."""
    for text in stats.notes:
        console.note(text)
    damage = _damage(stats, noun)
    if damage:
        have = f"{counted(stats.frames, noun)} could be read and {'is' if stats.frames == 1 else 'are'}"
        damage += f"; {have} in {stats.output}"
    return damage


def _tell_end(console: Console, stats: Stats, noun: str, damage: str) -> None:
    if damage:
        console.note(f"warning: {damage}")
    if console.verbose:
        for stage, times in stats.stages.items():
            console.note(f"{stage}: {times['p50']:.2f} ms a {noun}, 95 % below {times['p95']:.2f} ms")
    dropped = f", {stats.dropped} dropped" if stats.dropped else ""
    computed = f", {stats.model} on {stats.runtime}" if stats.runtime else ""
    done = counted(stats.frames, noun)
    console.note(f"{stats.output}: {done} in {stats.seconds:.1f} s ({stats.fps:.1f} fps){dropped}{computed}")


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
