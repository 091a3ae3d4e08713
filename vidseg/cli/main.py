"""``main``: the entry point of the command. Exit status: 0 done, 1 failed, 2 usage, 128 + n ended by signal n."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vidseg.cli import signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: What follows ``vidseg`` on the command line; None takes the process's own.
    """
    try:
        with signals.as_interrupts():
            from vidseg.cli.app import run  # here, so that Ctrl-C is heard while typer is loaded

            return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("vidseg: interrupted", file=sys.stderr)
        return signals.status()
    finally:
        if signals.heard():
            # CPython remembers a KeyboardInterrupt that left an exec() (dataclasses and numba use it) and would end
            # the process by SIGINT, whatever status it asks for; the next exec() makes it forget.
            exec("")
