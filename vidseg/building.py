"""Building: makes the plan of a network in a process of its own, of low priority, which may fail without harm."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from vidseg.engine import Engine, ModelSpec, Precision
from vidseg.errors import EngineBuildError, EngineError, VidsegError
from vidseg.frame import Size
from vidseg.plans import Facts, Plans

log = logging.getLogger(__name__)

Report = Callable[[float], None]
"""Takes the share that is done, 0 to 1; never less than before."""

_NICE = 10
_MAIN = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from vidseg.building import main; main()"


class Compiler(Protocol):
    """A runtime whose networks are compiled: the module of its adapter, beside ``probe`` and ``open``."""

    def describe(self, spec: ModelSpec, size: Size, precision: Precision | None) -> Facts:
        """Return what a plan would depend on here.

        Raises:
            EngineError: It is of no use here, or does not know the precision.
        """
        ...

    def compile(self, spec: ModelSpec, facts: Facts, timings: bytes, report: Report) -> tuple[bytes, bytes]:
        """Return the plan, and what was measured to find it; ``timings`` is what an earlier build measured.

        Raises:
            EngineBuildError: The network cannot be compiled, nor will it at another try.
            EngineError: Something else went wrong: no memory, no device.
        """
        ...

    def load(self, spec: ModelSpec, facts: Facts, plan: bytes) -> Engine:
        """Return an engine that runs ``plan``.

        Raises:
            EngineBuildError: The plan is of no use.
            EngineError: Something else is wrong: no memory, no device.
        """
        ...


class _UselessError(EngineBuildError):
    """The network will not be compiled at the next try either."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the process is to make."""

    module: str
    spec: ModelSpec
    facts: Facts
    folder: Path


def compiler(module: str) -> Compiler:
    """Return the adapter of that name.

    Raises:
        EngineError: Its library is not installed, or is broken.
    """
    try:
        return cast(Compiler, importlib.import_module(module))
    except ImportError as error:
        raise EngineError(f"{module.rpartition('.')[2]} cannot be loaded: {error}") from error


def open_compiled(
    module: str,
    spec: ModelSpec,
    size: Size,
    precision: Precision | None = None,
    *,
    plans: Plans | None = None,
    report: Report = lambda share: None,
    cancelled: threading.Event | None = None,
    again: bool = True,
) -> Engine:
    """Load a network on a runtime that compiles, building its plan first if there is none. May take minutes.

    Args:
        module: Of the adapter.
        spec: The model.
        size: Of its input.
        precision: None is the runtime's choice.
        plans: Where they are kept.
        report: Is told how far the build is.
        cancelled: Set from another thread, it ends the build.
        again: Build also what has turned out to be of no use before.

    Raises:
        EngineBuildError: It cannot be compiled, or the build was cancelled.
        EngineError: The runtime is of no use here, or the model cannot be read.
    """
    adapter = compiler(module)
    facts = adapter.describe(spec, size, precision)
    plans = (plans or Plans()).writable()
    reason = plans.refusal(facts)
    if reason and not again:
        raise EngineBuildError(f"{reason}; 'vidseg engines build' tries it again")
    plan = plans.read(facts) if not reason else None
    if plan is not None:
        try:
            return adapter.load(spec, facts, plan)
        except EngineBuildError as error:
            log.warning("%s is not used: %s; it is built anew", plans.path(facts), error)
            plans.remove(facts)
    with plans.lock(facts, cancelled) as waited:
        plan = plans.read(facts) if waited else None
        if plan is None:
            try:
                _run(Order(module, spec, facts, plans.folder), report, cancelled or threading.Event())
            except _UselessError as error:
                plans.refuse(facts, str(error))
                raise
            plan = plans.read(facts)
    if plan is None:
        raise EngineBuildError(f"{plans.path(facts)} vanished after it was built: build it again")
    return adapter.load(spec, facts, plan)


def _run(order: Order, report: Report, cancelled: threading.Event) -> None:
    """Build in another process and wait for it; its plan is in the cache then.

    Raises:
        EngineBuildError: The build failed, or was cancelled.
    """
    low: dict[str, Any] = {"start_new_session": True}  # Ctrl-C is for this process, which ends that one
    if sys.platform == "win32":
        low = {"creationflags": subprocess.BELOW_NORMAL_PRIORITY_CLASS}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            # -P, and then this process's own path: nothing is looked for where this one would not.
            [sys.executable, "-P", "-c", _MAIN, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            **low,
        )
        ended = threading.Event()
        watch = threading.Thread(target=_end_when, args=(process, cancelled, ended), name="vidseg-build", daemon=True)
        watch.start()
        outcome: dict[str, str] = {}
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):
                process.stdin.write(pickle.dumps(order))
                process.stdin.write(b"\n")
                process.stdin.flush()  # it stays open: its end tells that process that this one is gone
            best = 0.0
            for line in process.stdout:
                with suppress(ValueError, TypeError, AttributeError):  # a library may print what it likes
                    word = json.loads(line)
                    outcome.update({key: str(word[key]) for key in ("done", "error", "useless") if key in word})
                    if "share" in word and float(word["share"]) > best:
                        best = min(float(word["share"]), 1.0)
                        report(best)
            status = process.wait()
        finally:
            ended.set()
            process.kill()
            process.wait()
            watch.join()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        if cancelled.is_set():
            raise EngineBuildError("the build was given up")
        if "useless" in outcome:
            raise _UselessError(outcome["useless"])
        if "done" not in outcome:
            said.seek(0, os.SEEK_END)
            said.seek(max(0, said.tell() - 4000))
            last = (said.read().decode(errors="replace").strip().splitlines() or [""])[-1].strip()
            how = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
            how += ", as when memory runs out" if status == -9 else ""
            raise EngineBuildError(outcome.get("error") or ": ".join(filter(None, [f"the build {how}", last])))


def _end_when(process: subprocess.Popen[bytes], cancelled: threading.Event, ended: threading.Event) -> None:
    while not ended.wait(0.05):
        if cancelled.is_set():
            process.kill()
            return


def main() -> None:
    """Be the other process: an ``Order`` on standard input, lines of JSON on standard output."""
    order: Order = pickle.load(sys.stdin.buffer)  # from the process that started this one, by a pipe
    if hasattr(os, "nice"):
        os.nice(_NICE)
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def leave_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()

    def say(**values: object) -> None:
        with suppress(OSError):
            print(json.dumps(values), file=answers, flush=True)

    try:
        plans = Plans(order.folder)
        try:
            plan, timings = compiler(order.module).compile(
                order.spec, order.facts, plans.timings(order.facts), lambda share: say(share=share)
            )
        except EngineBuildError as error:
            say(useless=str(error))
        else:
            if timings:
                plans.write_timings(order.facts, timings)
            plans.write(order.facts, plan)
            say(done=True)
    except MemoryError:
        say(error="there is not enough memory to build it")
    except VidsegError as error:
        say(error=str(error))
    except Exception as error:
        traceback.print_exc()
        say(error=f"{type(error).__name__}: {error}")
    sys.stderr.flush()
    os._exit(0)  # the reader of standard input would be waited for


class Phases:
    """How far a build is whose phases come as a tree, each with its steps, and are told of as they go.

    Args:
        report: Takes the share of the whole.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._phases: dict[str, tuple[str, int, int]] = {}
        self._before = 0  # root phases that are over

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins inside another one, or on its own."""
        self._phases[name] = parent or "", max(steps, 1), 0

    def step(self, name: str, number: int) -> None:
        """Step ``number``, from 0 on, of a phase is done."""
        if name in self._phases:
            parent, steps, _ = self._phases[name]
            self._phases[name] = parent, steps, min(number + 1, steps)
            self._report(self._share())

    def finish(self, name: str) -> None:
        """A phase is over."""
        phase = self._phases.pop(name, None)
        if phase is not None and not phase[0]:
            self._before += 1
            self._report(self._share())

    def _share(self) -> float:
        """Return what is done. Nobody knows how many root phases come: each is taken for half of what is left."""
        left = 0.5**self._before
        running = next((name for name, phase in self._phases.items() if not phase[0]), "")
        return 1 - left + left / 2 * self._inside(running, 0)

    def _inside(self, name: str, depth: int) -> float:
        if name not in self._phases or depth > 20:
            return 0.0
        _, steps, done = self._phases[name]
        children = [child for child, phase in self._phases.items() if phase[0] == name]
        current = max((self._inside(child, depth + 1) for child in children), default=0.0)
        return min(1.0, (done + current) / steps)
