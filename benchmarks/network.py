"""The network alone, on every runtime and precision that is usable here, at one and two threads.

    python benchmarks/network.py [--model unet-s] [--rounds 8] [--peer other.onnx]

Rounds of all candidates take turns, so that a busy moment of the machine hits them all. ``one`` is the median time of a
call with one picture, ``frame`` that of a call with four divided by four (how a file is processed), ``CPU`` the CPU
time of a frame then, which is what the encoder loses.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vidseg.engine import list_runtimes, load_spec, open_engine
from vidseg.errors import EngineError

BATCH = 4


@dataclass
class Candidate:
    name: str
    threads: int
    run: Callable[[int], object]
    one: list[float] = field(default_factory=list)
    frame: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def ours(model: str, threads: int) -> list[Candidate]:
    spec = load_spec(model)
    size = spec.size_for((1080, 1920))
    src = np.random.default_rng(0).uniform(-1, 1, (BATCH, 3, *size)).astype(np.float32)
    found = []
    for runtime, usable, detail in list_runtimes():
        if not usable:
            print(f"skipped: {detail}")
            continue
        for precision in ("fp32", "fp16", "bf16", "int8"):
            try:
                engine = open_engine(spec, runtime, size, threads, precision)
            except EngineError:
                continue  # this runtime does not know this precision here
            found.append(Candidate(f"{spec.name} {engine.runtime}", threads, lambda n, e=engine: e.infer(src[:n])))
    return found


def peer(path: Path, threads: int) -> Candidate:
    """An ONNX file on ONNX Runtime, its own way: all threads on one picture."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    free = (1, 3, 256, 256)
    inputs = {
        i.name: np.ones([d if isinstance(d, int) else free[k] for k, d in enumerate(i.shape)], np.float32)
        for i in session.get_inputs()
    }

    def run(count: int) -> None:
        for _ in range(count):
            session.run(None, inputs)

    return Candidate(f"{path.stem} onnxruntime", threads, run)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unet-s")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--peer", type=Path, action="append", default=[], help="an ONNX file to measure beside ours")
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {platform.system()}")
    # The library with its own ideas about the process's threads (PyTorch) is told anew by each of its engines.
    candidates = [c for threads in (1, 2) for c in [*ours(args.model, threads), *(peer(p, threads) for p in args.peer)]]
    for candidate in candidates:
        candidate.run(BATCH)
        candidate.run(1)
    for _ in range(args.rounds):
        for candidate in candidates:
            candidate.run(1)
            candidate.one += [timed(lambda c=candidate: c.run(1))[0] for _ in range(8)]
            for _ in range(4):
                wall, cpu = timed(lambda c=candidate: c.run(BATCH))
                candidate.frame.append(wall / BATCH)
                candidate.cpu.append(cpu / BATCH)
    print(f"\n| network, runtime | threads | one, ms | frame, ms | CPU, ms |\n|{'---|' * 5}")
    for c in sorted(candidates, key=lambda c: (c.threads, statistics.median(c.frame))):
        one, frame, cpu = (f"{1e3 * statistics.median(values):.2f}" for values in (c.one, c.frame, c.cpu))
        print(f"| {c.name} | {c.threads} | {one} | {frame} | {cpu} |")


if __name__ == "__main__":
    main()
