"""Streaming video background removal.

The names below are the public interface; each is imported when it is first used, so ``import vidseg`` is quick and
loads no video, array or inference library beyond NumPy's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vidseg.compositor import Compositor
    from vidseg.errors import VidsegError
    from vidseg.frame import Frame, StreamInfo
    from vidseg.jobs import matte_video, process_video, remove_background
    from vidseg.pipeline import Pipeline, Progress, Stats
    from vidseg.segmenter import Segmenter
    from vidseg.sinks import OutputOptions

_HOMES = {
    "Compositor": "compositor",
    "Frame": "frame",
    "OutputOptions": "sinks",
    "Pipeline": "pipeline",
    "Progress": "pipeline",
    "Segmenter": "segmenter",
    "Stats": "pipeline",
    "StreamInfo": "frame",
    "VidsegError": "errors",
    "matte_video": "jobs",
    "process_video": "jobs",
    "remove_background": "jobs",
}

__all__ = [
    "Compositor",
    "Frame",
    "OutputOptions",
    "Pipeline",
    "Progress",
    "Segmenter",
    "Stats",
    "StreamInfo",
    "VidsegError",
    "matte_video",
    "process_video",
    "remove_background",
]


def __getattr__(name: str) -> Any:  # PEP 562
    if name not in _HOMES:
        raise AttributeError(f"module 'vidseg' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"vidseg.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
