"""Writes the reference of the Python API, from its docstrings: ``python docs/reference.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc

import vidseg

INTEGRATIONS = ("vidseg.integrations.aiortc", "vidseg.integrations.livekit", "vidseg.integrations.veil")

for name in vidseg.__all__:
    # pdoc looks for what is there; these are imported when they are first used.
    setattr(vidseg, name, getattr(vidseg, name))
pdoc.render.configure(docformat="google")
pdoc.pdoc("vidseg", r"!vidseg\.", "vidseg.convert", *INTEGRATIONS, output_directory=Path(sys.argv[1]))
