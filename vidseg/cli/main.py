"""``main``: the entry point of the command. Exit status: 0 done, 1 failed, 2 usage, 128 + n ended by signal n."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from vidseg.cli import signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: What follows ``vidseg`` on the command line; None takes the process's own.
    """
    status = _run(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and any(thread.name.startswith("vidseg") for thread in threading.enumerate()):
        # A thread that a driver blocks, or that compiles a network, cannot be ended, and all is closed. If the process
        # ended in the usual way, libraries would be taken down beneath it: OpenVINO then aborts.
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):
                stream.flush()
        os._exit(status)
    return status


def _run(arguments: Sequence[str]) -> int:
    try:
        with signals.as_interrupts():
            from vidseg.cli.app import run  # here, so that Ctrl-C is heard while typer is loaded

            return run(arguments)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("vidseg: interrupted", file=sys.stderr)
        return signals.status()
    finally:
        if signals.heard():
            # CPython remembers a KeyboardInterrupt that left an exec() (dataclasses and numba use it) and would end
            # the process by SIGINT, whatever status it asks for; the next exec() makes it forget.
            exec("")
