"""The shipped network for pictures so small that an emulated processor keeps up."""

from __future__ import annotations

import re
from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "engines" / "unet-s"


def small_network(folder: Path) -> Path:
    """Make ``folder`` a model: the shipped one, for 64 x 64 pixels. It still finds whoever sits before the camera."""
    for path in SHIPPED.iterdir():
        (folder / path.name).symlink_to(path)
    manifest = folder / "manifest.toml"
    text = manifest.read_text("utf-8")
    manifest.unlink()
    manifest.write_text(re.sub(r"^sizes = .*$", "sizes = [[64, 64]]", text, flags=re.MULTILINE), "utf-8")
    return folder
