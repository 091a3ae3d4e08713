"""The main job on a clip that vidseg carries, so that it can be seen without a camera and without a file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vidseg.color import rgb_from_planes
from vidseg.demo.scenery import beach
from vidseg.errors import OutputExistsError, SinkError, VidsegError
from vidseg.sinks.pictures import encode_picture
from vidseg.sources import open_source

_SHOWN = 2.0  # seconds into the clip, where the camera is nearest
_GAP = 8  # pixels between before and after


class DemoFiles(NamedTuple):
    """What the demo wrote: the clip, the background, the composite, and one frame of it before and after."""

    sample: Path
    background: Path
    composite: Path
    before_after: Path


def run_demo(folder: str | Path, process: Callable[[str, str, str], object], *, overwrite: bool = False) -> DemoFiles:
    """Write the clip, put a beach behind it, and show one frame before and after.

    Args:
        folder: Where to; it is made if it does not exist, in one that does.
        process: Called as ``process(source, output, background)``: the job that is shown.
        overwrite: Whether files of the demo that are there already may be replaced.

    Raises:
        OutputExistsError: One of the files is there already.
        SinkError: The folder cannot be written.
        VidsegError: Whatever ``process`` raised; the demo then leaves nothing behind.
    """
    folder = Path(folder)
    paths = DemoFiles(*(folder / name for name in ("sample.mp4", "beach.jpg", "composite.mp4", "before-after.png")))
    if folder.is_file():
        raise SinkError(f"{folder} is a file, not a folder: choose another name", url=str(folder))
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise OutputExistsError(f"{there[0]} exists already: give --overwrite or another folder", url=str(there[0]))
    with _made(folder, [path for path in paths if path not in there]):
        _publish(paths.sample, files(__name__).joinpath("sample.mp4").read_bytes())
        _publish(paths.background, encode_picture(".jpg", beach()))
        process(str(paths.sample), str(paths.composite), str(paths.background))
        before, after = _picture_at(paths.sample, _SHOWN), _picture_at(paths.composite, _SHOWN)
        gap = np.full((before.shape[0], _GAP, 3), 255, np.uint8)
        _publish(paths.before_after, encode_picture(".png", np.hstack([before, gap, after])))
    return paths


@contextmanager
def _made(folder: Path, paths: list[Path]) -> Iterator[None]:
    """Make the folder; after an error take away what was made."""
    new = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        yield
    except BaseException as error:
        for path in paths:
            with suppress(OSError):
                path.unlink()
        if new:
            with suppress(OSError):  # something of somebody else's is in it, or it was never made
                folder.rmdir()
        if isinstance(error, OSError) and not isinstance(error, VidsegError):
            raise SinkError(f"{folder} cannot be written: {error.strerror or error}", url=str(folder)) from error
        raise


def _publish(path: Path, data: bytes) -> None:
    """Write a file that has its name only once it is whole."""
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        hidden.write_bytes(data)
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)


def _picture_at(path: Path, time: float) -> npt.NDArray[Any]:
    """Return the first frame at or after ``time`` in RGB, or the last one."""
    with open_source(str(path)) as source:
        for frame in source:
            if frame.time >= time:
                break
        return rgb_from_planes(frame.planes, frame.color, frame.depth)
