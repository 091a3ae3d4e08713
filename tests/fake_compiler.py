"""A runtime that is a fake: its plans are a few words, it has no network. Its builds run in a real other process."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from vidseg.errors import EngineBuildError, EngineError
from vidseg.plans import Facts

GPU = "FAKE_COMPILER"
"""Environment variable with what happens, as JSON, for this process and the one that builds."""


def told(**values):
    os.environ[GPU] = json.dumps(values)


def asked():
    return json.loads(os.environ.get(GPU, "{}"))


def probe():
    return "fake compiler (no GPU)"


def describe(spec, size, precision):
    wanted = asked()
    if "lacks" in wanted:
        raise EngineError(wanted["lacks"])
    return Facts(
        model=spec.name,
        sha256="0" * 64,
        runtime="fake 1",
        device=wanted.get("device", "no GPU, 0.0"),
        driver=wanted.get("driver", "1"),
        precision=precision or "fp16",
        size=size,
        batch=8,
        recipe=1,
    )


def compile(spec, facts, timings, report):
    wanted = asked()
    if "log" in wanted:
        with Path(wanted["log"]).open("a") as file:
            file.write(f"{os.getpid()} {os.getpriority(os.PRIO_PROCESS, 0)} {timings!r}\n")
    print("a library that prints to standard output")
    for step in range(1, 5):
        report(step / 4)
        time.sleep(wanted.get("takes", 0) / 4)
    match wanted.get("fails"):
        case "operator":
            raise EngineBuildError("no importer registered for op: Nonsense")
        case "memory":
            raise EngineError("out of memory")
        case "host memory":
            raise MemoryError
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            sys.stderr.write("terminate called\n")
            sys.stderr.flush()
            os._exit(3)
        case "bug":
            raise AssertionError("a bug")
        case "full disk":

            def no_space(descriptor):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            os.fsync = no_space
    return wanted.get("plan", "good plan").encode(), b"timings"


def open(spec, size, threads, precision):
    from vidseg.building import open_compiled

    return open_compiled(__name__, spec, size, precision)


def load(spec, facts, plan):
    if plan.startswith(b"bad"):
        raise EngineBuildError("the plan is of another version")
    wanted = asked()
    if wanted.get("fails") == "load":
        raise EngineError("the GPU has no memory for the network")
    engine = FakeEngine(spec, facts.size, plan.decode())
    engine.later = wanted.get("later", {})
    return engine


class FakeEngine:
    """Answers with ``value`` wherever the picture is bright."""

    def __init__(self, spec, size, plan="good plan", name="fake fp16 (no GPU)"):
        self.spec, self.size, self.plan, self.runtime = spec, size, plan, name
        self.calls, self.closed = 0, 0
        self.fault = ""
        self.later = {}  # number of the call from which there is a fault

    def infer(self, src, state=()):
        self.calls += 1
        self.fault = self.later.get(str(self.calls), self.fault)
        if src.ndim != 4 or src.shape[1:] != (3, *self.size):
            raise ValueError("this engine takes another shape")
        if self.closed:
            raise EngineError("the engine is closed")
        alpha = (src.mean(1) > 0).astype(np.float32)
        after = tuple(part + 1 for part in state) or (
            (np.ones((len(src), 1, 1, 1), np.float32),) * bool(self.spec.states)
        )
        match self.fault:
            case "nan":
                alpha[:, 0, 0] = np.nan
            case "range":
                alpha[:, 0, 0] = 7
            case "state":
                after = (np.full((1, 1, 1, 1), np.inf, np.float32),)
            case "frozen":
                alpha[...] = 0
            case "wrong":
                alpha = 1 - alpha
            case "lost":
                raise EngineError("the device was lost")
            case "memory":
                raise EngineError("out of memory")
            case "bug":
                raise RuntimeError("a bug")
        return alpha, after

    def close(self):
        self.closed += 1
