"""Closing engines leaves no freed signal stack behind, on which the next Ctrl-C would crash the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import signal
from vidseg.engine import open_engine
engines = [open_engine("unet-s", "openvino", size=size) for size in ((160, 256), (256, 160), (192, 192))]
for engine in engines:
    engine.close()
del engine, engines
signal.signal(signal.SIGINT, lambda *_: print("heard"))
signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_after_several_engines_were_closed_is_heard():
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
