"""Cameras and virtual cameras of this machine: their modes, their lasting names, and who holds them."""

from __future__ import annotations

import glob
import os
import re
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from vidseg.errors import DeviceUnavailableError
from vidseg.frame import Size

PACKINGS = {
    "nv12": ("NV12", "NV21"),
    "i420": ("YU12", "YV12"),
    "yuyv": ("YUYV", "YVYU", "UYVY", "VYUY"),
    "mjpeg": ("MJPG", "JPEG"),
    "grey": ("GREY",),
}
"""The pixel formats of V4L2 that are read here, cheapest first; grey is for cameras that see faces in the dark."""
FORMATS = {"MJPG": "MJPEG", "JPEG": "MJPEG", "YU12": "I420", "GREY": "grey"}
"""Words for pixel formats whose four characters are not what people call them."""
LOOPBACK_MEND = "sudo modprobe v4l2loopback exclusive_caps=1 card_label='vidseg'"
"""What makes a virtual camera on Linux."""
_READABLE = {fourcc for group in PACKINGS.values() for fourcc in group}
_VIRTUAL = re.compile(r"virtual|loopback|\bdummy\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CameraModes:
    """All rates of one pixel format at one size.

    Attributes:
        pixel_format: As people call it: ``MJPEG``, ``YUYV``, ``NV12``.
        size: ``(height, width)``, or the largest if any up to it can be had.
        fps: Frames a second, fastest first; () if the driver does not say.
        scales: Whether smaller sizes can be had, too.
        readable: Whether it can be read here.
    """

    pixel_format: str
    size: Size
    fps: tuple[Fraction, ...] = ()
    scales: bool = False
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a device open."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid})"


@dataclass(frozen=True, slots=True)
class Device:
    """One camera or virtual camera.

    Attributes:
        path: What opens it: ``/dev/video0``; elsewhere than on Linux its number or name.
        name: What its maker calls it.
        kind: ``camera``, or ``virtual`` for one that a program feeds.
        lasting: A path that stays the same across reboots and ports (``/dev/v4l/by-id/…``), or "".
        bus: Where it is plugged in, or "".
        driver: Of the kernel, or "".
        modes: What it gives.
        holders: Who has it open, as far as this user may see.
        problem: Why nothing more is known of it, or "".
    """

    path: str
    name: str
    kind: Literal["camera", "virtual"] = "camera"
    lasting: str = ""
    bus: str = ""
    driver: str = ""
    modes: tuple[CameraModes, ...] = ()
    holders: tuple[Holder, ...] = ()
    problem: str = ""

    def is_the_same(self, other: Device) -> bool:
        """Whether ``other`` is this device, perhaps under another number."""
        if self.lasting or other.lasting:
            return self.lasting == other.lasting
        return (self.name, self.bus, self.driver) == (other.name, other.bus, other.driver)


def list_devices(*, details: bool = True) -> list[Device]:
    """Return the cameras and virtual cameras of this machine, in the order of their numbers.

    Args:
        details: Also ask for modes and holders.

    Raises:
        DeviceUnavailableError: This system is not known here.
    """
    if sys.platform == "linux":
        return _on_linux(details)
    if sys.platform in ("darwin", "win32"):
        return _elsewhere("avfoundation" if sys.platform == "darwin" else "dshow")
    raise DeviceUnavailableError(f"the cameras of this system ({sys.platform}) cannot be listed: name one by its path")


def find_camera(name: str, known: Device | None = None) -> Device:
    """Return the camera that ``name`` means.

    Args:
        name: A number, a device's path, a lasting path, a name or a part of one; "" or ``default`` is the first camera,
            and so is ``0`` where there is no number 0.
        known: What it was the last time: the same device is found again under another number.

    Raises:
        DeviceUnavailableError: There is none, with what there is; or the name fits several.
    """
    devices = list_devices(details=False)
    cameras = [device for device in devices if device.kind == "camera"]
    if known is not None:
        same = [device for device in devices if known.is_the_same(device)]
        if not (same or known.lasting):  # in another socket; two of a kind cannot be told apart
            same = [device for device in devices if (device.name, device.driver) == (known.name, known.driver)]
        if len(same) == 1:
            return same[0]
    wanted = name.strip()
    if wanted in ("", "default"):
        if not cameras:
            raise _absent("no camera was found", devices)
        return cameras[0]
    if wanted.isdecimal():
        found = [device for device in devices if device.path in (f"/dev/video{int(wanted)}", wanted)]
        if (not found or found[0].kind == "virtual") and int(wanted) == 0 and cameras:
            return cameras[0]
    elif wanted.startswith("/"):
        path = os.path.realpath(wanted)
        found = [device for device in devices if device.path == path]
        if not found and os.path.exists(wanted):
            raise _absent(f"{wanted} is no camera", devices)
    else:
        found = [device for device in devices if device.name.casefold() == wanted.casefold() or device.path == wanted]
        found = found or [device for device in devices if wanted.casefold() in device.name.casefold()]
        paths = ", ".join(f"{device.name} ({device.path})" for device in found)
        if len(found) > 1 and len([device for device in found if device.kind == "camera"]) != 1:
            raise DeviceUnavailableError(f"{wanted} fits several cameras, {paths}: name one by its path", url=name)
        found.sort(key=lambda device: device.kind)  # "camera" before "virtual"
    if not found:
        called = f"/dev/video{wanted}" if wanted.isdecimal() and sys.platform == "linux" else wanted
        raise _absent(f"there is no camera {called}", devices)
    return found[0]


def _absent(what: str, devices: list[Device]) -> DeviceUnavailableError:
    there = ", ".join(f"{device.path} ({device.name})" for device in devices if device.kind == "camera")
    mend = f"choose one of {there}" if there else "plug one in, or see 'vidseg devices'"
    return DeviceUnavailableError(f"{what}: {mend}")


# -- Linux -------------------------------------------------------------------------------------------------------


def _on_linux(details: bool) -> list[Device]:
    paths = sorted(glob.glob("/dev/video[0-9]*"), key=lambda path: int(path.removeprefix("/dev/video")))
    lasting = _links("/dev/v4l/by-id/*")
    held = _holders(paths) if details else {}
    found = (_describe(path, lasting.get(path, ""), tuple(held.get(path, ())), details) for path in paths)
    return [device for device in found if device is not None]


def _describe(path: str, lasting: str, holders: tuple[Holder, ...], details: bool) -> Device | None:
    """Return what a node is; None if it is neither camera nor virtual camera (metadata, codecs, outputs)."""
    from vidseg import v4l2

    try:
        with v4l2.VideoDevice(path, write=False) as device:
            capability = device.capability()
            single = capability.flags & (v4l2.CAP_CAPTURE | v4l2.CAP_CAPTURE_MPLANE)
            if not single and not capability.loopback:
                return None
            modes = device.modes() if details and capability.flags & v4l2.CAP_CAPTURE else ()
    except OSError as error:
        name = _name_from_sysfs(path)
        kind: Literal["camera", "virtual"] = "virtual" if _VIRTUAL.search(name) else "camera"
        return Device(path, name, kind, lasting, holders=holders, problem=_reason(error))
    return Device(
        path=path,
        name=capability.card,
        kind="virtual" if capability.loopback else "camera",
        lasting=lasting,
        bus=capability.bus,
        driver=capability.driver,
        modes=tuple(
            CameraModes(FORMATS.get(m.fourcc, m.fourcc), m.size, m.rates, m.smallest != m.size, m.fourcc in _READABLE)
            for m in modes
        ),
        holders=holders,
    )


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "it may not be opened by this user: sudo usermod -aG video $USER, and log in again"
    return error.strerror or str(error)


def _name_from_sysfs(path: str) -> str:
    try:
        return Path("/sys/class/video4linux", os.path.basename(path), "name").read_text("utf-8", "replace").strip()
    except OSError:
        return os.path.basename(path)


def _links(pattern: str) -> dict[str, str]:
    """Return ``{device: link}``; of several links to a device, the first by name."""
    return {os.path.realpath(link): link for link in sorted(glob.glob(pattern), reverse=True)}


def holders(path: str) -> tuple[Holder, ...]:
    """Return who has a device open, other than this process; only processes of this user can be seen, root sees all."""
    found = _holders([os.path.realpath(path)]).get(os.path.realpath(path), [])
    return tuple(holder for holder in found if holder.pid != os.getpid())


def _holders(paths: list[str]) -> dict[str, list[Holder]]:
    wanted, found = set(paths), dict[str, list[Holder]]()
    for folder in glob.glob("/proc/[0-9]*/fd") if wanted else ():
        try:
            opened = {os.readlink(entry.path) for entry in os.scandir(folder)}
        except OSError:  # it has ended, or is another user's
            continue
        for path in opened & wanted:
            process = Path(folder).parent
            try:
                command = (process / "comm").read_text("utf-8", "replace").strip()
            except OSError:
                continue
            found.setdefault(path, []).append(Holder(int(process.name), command))
    return found


# -- macOS and Windows -------------------------------------------------------------------------------------------


def _elsewhere(system: str) -> list[Device]:
    import av

    found = []
    for device in av.enumerate_input_devices(system):
        if device.media_types and "video" not in device.media_types:
            continue
        name = device.description or device.name
        path = name if system == "dshow" else device.name  # DirectShow knows no numbers
        if name.startswith("Capture screen"):
            continue
        found.append(Device(path, name, "virtual" if _VIRTUAL.search(name) else "camera"))
    return found
