"""Nothing that vidseg does by itself touches the network, and OpenVINO's telemetry stays out of the process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

AUDIT = """
import sys

def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"):
        print("TOUCHED", event, arguments, file=sys.stderr)
        sys.stderr.flush()
        import os
        os._exit(9)

sys.addaudithook(forbid)
"""
ENGINE = """
import numpy as np
from vidseg.engine import list_models, list_runtimes, open_engine

engine = open_engine(runtime={runtime!r})
engine.infer(np.zeros((1, 3, *engine.size), np.float32))
engine.close()
list_models()
list_runtimes()
assert sys.modules.get("openvino_telemetry") is None, "telemetry was loaded"
assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)
"""


def run(code):
    return subprocess.run([sys.executable, "-c", AUDIT + code], capture_output=True, text=True, timeout=120)


def test_the_alarm_works():
    done = run("import socket\nsocket.getaddrinfo('localhost', 80)")
    assert done.returncode == 9
    assert "TOUCHED socket.getaddrinfo" in done.stderr


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "auto"])
def test_an_engine_opens_no_socket(runtime):
    if runtime != "auto":
        importlib.util.find_spec(runtime) or pytest.skip(f"{runtime} is not installed")
    done = run(ENGINE.format(runtime=runtime))
    assert done.returncode == 0, done.stderr


def test_telemetry_is_off_for_what_comes_after():
    """Once an engine was opened, OpenVINO's own tools find no telemetry either, and still work."""
    importlib.util.find_spec("openvino") or pytest.skip("openvino is not installed")
    code = """
from vidseg.engine import open_engine
open_engine(runtime="openvino").close()
from openvino import convert_model
try:
    import openvino_telemetry
except ImportError:
    sys.exit(0)
sys.exit("openvino_telemetry can be imported")
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
