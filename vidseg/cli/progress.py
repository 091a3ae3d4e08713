"""Progress: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vidseg.cli import signals
from vidseg.cli.console import Console, logged, say

if TYPE_CHECKING:
    from rich.console import Console as Terminal

    from vidseg.pipeline import Progress

    Report = Callable[[Progress], None]

LINE_SECONDS = 5.0
NARROW = 72
"""Columns of a terminal below which the bar and the runtime are left out."""


@contextmanager
def shown(console: Console, title: str) -> Iterator[Report]:
    """Yield what a job reports its progress to; what the package warns of meanwhile is noted.

    Args:
        console: Says whether to be quiet.
        title: What is worked on; the bar begins with it.
    """
    with _display(console, title) as show, logged(console.note):

        def report(progress: Progress) -> None:
            # While they are loaded, libraries turn the interrupt into some error of theirs, which may be taken for a
            # runtime that does not work: it must not be lost.
            if signals.heard():
                raise KeyboardInterrupt
            if show is not None:
                show(progress)

        yield report


@contextmanager
def _display(console: Console, title: str) -> Iterator[Report | None]:
    if console.quiet or sys.stderr is None:
        yield None
        return
    if sys.stderr.isatty():
        from rich.console import Console as Terminal

        terminal = Terminal(stderr=True)
        if not terminal.is_dumb_terminal:
            with _bar(terminal, title) as report:
                yield report
            return
    yield _Lines()


@contextmanager
def _bar(terminal: Terminal, title: str) -> Iterator[Report]:
    from rich import progress as rich
    from rich.markup import escape
    from rich.table import Column

    # On a narrow terminal the numbers stay whole and the title gives way.
    columns: list[rich.ProgressColumn] = [
        rich.TextColumn("{task.description}", table_column=Column(overflow="ellipsis", no_wrap=True)),
        rich.TaskProgressColumn(table_column=Column(min_width=4)),
        rich.TextColumn("{task.fields[fps]}", table_column=Column(min_width=9)),
        rich.TimeRemainingColumn(compact=True, table_column=Column(min_width=5)),
    ]
    if terminal.width >= NARROW:
        columns.insert(1, rich.BarColumn(bar_width=None))
        columns.append(rich.TextColumn("[dim]{task.fields[runtime]}"))
    # Refreshed by the reports themselves, ten a second, so that no thread is needed.
    with rich.Progress(*columns, console=terminal, auto_refresh=False, transient=True, expand=True) as bar:
        task = bar.add_task(escape(title), total=None, fps="starting", runtime="")
        bar.refresh()

        def report(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.frames,
                # What a container says of its length may be wrong: a bar that is full too early would be a lie.
                total=progress.total if progress.total >= progress.frames > 0 else None,
                fps=f"{progress.fps:.1f} fps" if progress.frames else "starting",
                runtime=escape(progress.runtime),
            )
            bar.refresh()

        yield report


class _Lines:
    """Says where a job is, at most every ``LINE_SECONDS``."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS and progress.frames:
            self._said = now
            say(line(progress))


def line(progress: Progress) -> str:
    """Return ``progress`` as a sentence."""
    done = f"{progress.frames} of {progress.total}" if progress.total >= progress.frames else f"{progress.frames}"
    parts = [f"{done} frames", f"{progress.fps:.1f} fps"]
    if progress.total > progress.frames and progress.fps > 0:
        parts.append(f"{duration((progress.total - progress.frames) / progress.fps)} left")
    if progress.runtime:
        parts.append(progress.runtime)
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return ``seconds`` as ``42 s``, ``3:05`` or ``1:02:03``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
