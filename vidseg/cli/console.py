"""Console: what is said to a person (standard error) and to a program (standard output)."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import typer

from vidseg.cli import signals
from vidseg.errors import VidsegError

FAILED = 1


def one_line(text: str) -> str:
    """Return ``text`` as one line that is safe to show: a file's name may hold line ends and escape codes."""
    line = " ".join(part for part in map(str.strip, text.splitlines()) if part)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def say(text: str) -> None:
    """Write a line to standard error. Nobody listening there is no reason to end a job."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"vidseg: {one_line(text)}", file=sys.stderr, flush=True)


@contextmanager
def logged(note: Callable[[str], None], verbose: bool = False) -> Iterator[None]:
    """Let ``note`` say what the package logs, warnings, or more if ``verbose``, from any thread."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(record.getMessage())

    handler = Notes(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("vidseg").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("vidseg").removeHandler(handler)


def lose_output(error: OSError) -> int:
    """Give up standard output, now and at exit; returns the exit status.

    Whoever read it may have gone (``vidseg doctor | head``): that is no reason for a word.
    """
    if not isinstance(error, BrokenPipeError):
        say(f"standard output cannot be written: {error.strerror}")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


@dataclass(frozen=True, slots=True)
class Console:
    """How much one run says.

    Attributes:
        quiet: Nothing but errors.
        as_json: One JSON object on standard output at the end, and nothing else there.
        verbose: Tracebacks and timings.
    """

    quiet: bool = False
    as_json: bool = False
    verbose: bool = False

    def note(self, text: str) -> None:
        """Say something unless told to be quiet."""
        if not self.quiet:
            say(text)

    def result(self, values: Mapping[str, object]) -> None:
        """Write the one JSON object, if it was asked for."""
        if self.as_json:
            self._print(json.dumps(values, default=str))

    def answer(self, text: str) -> None:
        """Write what a person has asked for to standard output, unless it goes there as JSON."""
        if not (self.quiet or self.as_json):
            self._print(text)

    def _print(self, text: str) -> None:
        try:
            print(text, flush=True)
        except OSError as error:
            raise typer.Exit(lose_output(error)) from None

    def fail(self, text: str, **values: object) -> typer.Exit:
        """Say why a run failed; returns what to raise."""
        return self._end(FAILED, text, values)

    def _end(self, status: int, text: str, values: Mapping[str, object]) -> typer.Exit:
        if self.verbose and sys.exc_info()[0] is not None and sys.stderr is not None:
            traceback.print_exc()
        say(text)
        self.result({"error": one_line(text), "status": status, **values})
        return typer.Exit(status)

    @contextmanager
    def outcome(self) -> Iterator[None]:
        """Turn whatever the block raises into one sentence and an exit status."""
        try:
            yield
        except KeyboardInterrupt as error:
            raise self._interrupted(getattr(error, "partial", None), getattr(error, "kept", "")) from None
        except Exception as error:
            if isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "format_message"):
                raise  # typer's own: an exit status or a usage mistake
            if signals.heard():  # a library made an error of the interrupt
                raise self._interrupted(None) from None
            raise self.fail(self.sentence(error)) from None

    def _interrupted(self, partial: str | None, kept: str = "") -> SystemExit:
        kept = kept or (f"what was done can be played: {partial}" if partial else "nothing was kept")
        self._end(signals.status(), f"interrupted; {kept}", {"partial": partial})
        return SystemExit(signals.status())

    def sentence(self, error: Exception) -> str:
        """Return what to say of an error."""
        if isinstance(error, VidsegError):
            return str(error)
        if isinstance(error, MemoryError):
            return "there is not enough memory for this"
        if isinstance(error, ImportError):
            return f"a library cannot be loaded ({error}); 'vidseg doctor' says which and why"
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        return f"this is a bug in vidseg ({what}){'' if self.verbose else '; run it again with -v to see where'}"
