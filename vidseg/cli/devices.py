"""``vidseg devices``: cameras and virtual cameras, what they give and who holds them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vidseg.cli import options as opt
from vidseg.cli.console import Console, one_line

if TYPE_CHECKING:
    from vidseg.devices import CameraModes, Device

EXAMPLES = opt.example("vidseg devices", "vidseg devices --json")


def devices(as_json: opt.JsonOption = False, verbose: opt.VerboseOption = False) -> None:
    """List cameras with their modes, virtual cameras, and who holds them.

    A path under /dev/v4l/by-id stays the same across reboots and sockets.
    """
    console = Console(as_json=as_json, verbose=verbose)
    with console.outcome():
        from vidseg.devices import list_devices

        found = list_devices()
        cameras = [device for device in found if device.kind == "camera"]
        virtual = [device for device in found if device.kind == "virtual"]
        console.result({"cameras": list(map(described, cameras)), "virtual_cameras": list(map(described, virtual))})
        empty = "none: plug one in; a video can stand in for it (--camera FILE)"
        for title, group, none in (("Cameras", cameras, empty), ("Virtual cameras", virtual, f"none: {_mend()}")):
            console.answer(title)
            for device in group:
                console.answer(f"  {device.path}  {one_line(device.name)}")
                for line in _details(device, verbose):
                    console.answer(f"      {one_line(line)}")
            if not group:
                console.answer(f"  {none}")


def described(device: Device) -> dict[str, object]:
    """Return a device as it is shown in JSON; sizes are ``[height, width]``, rates are exact fractions."""
    return {
        "path": device.path,
        "name": device.name,
        "lasting": device.lasting,
        "bus": device.bus,
        "driver": device.driver,
        "modes": [
            {
                "pixel_format": mode.pixel_format,
                "size": list(mode.size),
                "fps": [str(rate) for rate in mode.fps],
                "scales": mode.scales,
                "readable": mode.readable,
            }
            for mode in device.modes
        ],
        "holders": [{"pid": holder.pid, "command": holder.command} for holder in device.holders],
        "problem": device.problem,
    }


def _details(device: Device, verbose: bool) -> Iterator[str]:
    """Yield what is said of a device below its name."""
    if device.lasting:
        yield device.lasting
    if device.problem:
        yield device.problem
    formats: dict[str, list[CameraModes]] = {}
    for mode in device.modes:
        if mode.readable or verbose:
            formats.setdefault(mode.pixel_format, []).append(mode)
    for name, modes in formats.items():
        sizes = ", ".join(map(_size, sorted(modes, key=lambda mode: -mode.size[0] * mode.size[1])))
        yield f"{name:<6} {sizes}"
    others = {mode.pixel_format for mode in device.modes} - set(formats)
    if others:
        yield f"and {len(others)} pixel format{'s that are' if len(others) > 1 else ' that is'} not read here"
    if device.holders:
        yield f"in use by {', '.join(map(str, device.holders))}"


def _size(mode: CameraModes) -> str:
    height, width = mode.size
    text = f"{'up to ' if mode.scales else ''}{width}x{height}"
    return f"{text} at {float(mode.fps[0]):.4g}" if mode.fps else text


def _mend() -> str:
    from vidseg.devices import LOOPBACK_MEND

    if sys.platform == "linux":
        return f"install v4l2loopback (apt install v4l2loopback-dkms), then {LOOPBACK_MEND}"
    return "install OBS Studio, and start its virtual camera once"
