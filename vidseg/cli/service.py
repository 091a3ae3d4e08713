"""``vidseg service``: keeps ``vidseg webcam`` running from login to logout."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console

EXAMPLES = opt.example(
    "vidseg webcam --bg beach.jpg --save-config",
    "vidseg service install",
    "vidseg service install --print",
    "vidseg service status",
    "vidseg service uninstall",
)


class Action(enum.StrEnum):
    """What to do with the service."""

    install = "install"
    uninstall = "uninstall"
    status = "status"


def service(
    action: Annotated[Action, typer.Argument(metavar="install|uninstall|status", help="What to do.")],
    config: opt.ConfigOption = None,
    print_only: Annotated[
        bool, typer.Option("--print", "--dry-run", help="Write the systemd unit to standard output; change nothing.")
    ] = False,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Run 'vidseg webcam' with your configuration whenever you are logged in (Linux, systemd)."""
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        from vidseg import service as unit
        from vidseg.live.config import read_config

        if action is Action.install:
            wanted = read_config(Path(config) if config is not None else None)
            if print_only:
                console.answer(unit.unit_text(wanted).rstrip())
                console.result({"unit": str(unit.unit_path()), "text": unit.unit_text(wanted)})
                return
            path = unit.install(wanted)
            console.note(f"{path} is installed and runs {wanted.path}; 'vidseg ctl status' tells how it goes")
        elif action is Action.uninstall and print_only:
            console.note(f"{unit.unit_path()} would be stopped and removed")
        elif action is Action.uninstall:
            removed = unit.uninstall()
            console.note(f"{unit.unit_path()} {'is stopped and removed' if removed else 'was not installed'}")
        found = unit.status()
        console.result(found)
        if action is Action.status:
            console.answer("\n".join(f"{name:<8}{value or 'not installed'}" for name, value in found.items()))
