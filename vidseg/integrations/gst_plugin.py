"""Tells GStreamer where the element ``vidseg`` is: a small file in the folder of a person's own plugins."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from vidseg.errors import VidsegError

_TEXT = '''"""Written by 'vidseg gst install': where the element is. 'vidseg gst uninstall' removes this."""

import sys

sys.path[:0] = {folders!r}

from vidseg.integrations.gst import __gstelementfactory__  # noqa: E402, F401
'''
_MEND = (
    "GStreamer does not load elements written in Python: "
    "sudo apt install gstreamer1.0-tools gstreamer1.0-python3-plugin-loader python3-gst-1.0 gir1.2-gst-plugins-base-1.0"
)


def plugin_path() -> Path:
    """Return where the file is, whether it is there or not."""
    return Path.home() / ".gstreamer-1.0/plugins/python/gst_vidseg.py"


def plugin_text() -> str:
    """Return what the file holds: where this Python has vidseg and what it needs."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(Path(__file__).parents[2])]
    return _TEXT.format(folders=list(dict.fromkeys(folders)))


def install() -> Path:
    """Write the file, and ask GStreamer for the element; returns the file's path.

    Raises:
        VidsegError: GStreamer cannot load the element; the file is not left behind.
    """
    path = plugin_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(plugin_text(), "utf-8")
    except OSError as error:
        raise VidsegError(f"{path} cannot be written: {error.strerror}") from error
    try:
        why = _refused()
        if why:
            raise VidsegError(why)
    except BaseException:
        uninstall()
        raise
    return path


def uninstall() -> bool:
    """Remove the file; False if there was none."""
    path = plugin_path()
    if not path.exists():
        return False
    path.unlink()
    return True


def status() -> dict[str, str]:
    """Return ``{"file": its path or "", "element": "works" or why not}``."""
    path = plugin_path()
    if not path.exists():
        return {"file": "", "element": ""}
    return {"file": str(path), "element": _refused() or "works"}


def _refused() -> str:
    """Return why GStreamer has no such element, or "" if it has."""
    inspect = shutil.which("gst-inspect-1.0")
    if inspect is None:
        return _MEND
    asked = subprocess.run([inspect, "vidseg"], capture_output=True, text=True, timeout=120, check=False)
    if asked.returncode == 0:
        return ""
    loader = subprocess.run([inspect, "python"], capture_output=True, text=True, timeout=120, check=False)
    if loader.returncode != 0:
        return _MEND
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"GStreamer's Python cannot load vidseg, which is installed for Python {here}: install it into a virtual "
        "environment of the system's Python, as /usr/bin/python3 -m venv makes it"
    )
