"""``vidseg gst``: the GStreamer element."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console

EXAMPLES = opt.example(
    "vidseg gst install",
    "gst-launch-1.0 v4l2src ! videoconvert ! vidseg background=beach.jpg ! v4l2sink device=/dev/video10",
    "gst-inspect-1.0 vidseg",
    "vidseg gst uninstall",
)


class Action(enum.StrEnum):
    """What to do with the element."""

    install = "install"
    uninstall = "uninstall"
    status = "status"


def gst(
    action: Annotated[Action, typer.Argument(metavar="install|uninstall|status", help="What to do.")],
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Make 'vidseg' an element of GStreamer, for you alone (Linux)."""
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        from vidseg.integrations import gst_plugin

        if action is Action.install:
            console.note(f"{gst_plugin.install()} is written; 'gst-inspect-1.0 vidseg' shows the element")
        elif action is Action.uninstall:
            removed = gst_plugin.uninstall()
            console.note(f"{gst_plugin.plugin_path()} {'is removed' if removed else 'was not there'}")
        found = gst_plugin.status()
        console.result(found)
        if action is Action.status:
            console.answer("\n".join(f"{name:<8}{value or 'not installed'}" for name, value in found.items()))
