"""``vidseg serve`` whose live network is a fake that fails at random, and at times ends with its process.

Started as ``python tests/faulty_server.py serve …``, and by that server as ``… -m vidseg.server.worker live``.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.test_aiortc import ENGINE_FAULTS
from vidseg import segmenter
from vidseg.server import processes, studio, worker
from vidseg.testing import FaultyEngine

CALM = 12
"""Masks that are true after somebody has come: what is wrong from the first one on, nobody can know."""


class Failing(FaultyEngine):
    """Changes what is wrong with it in one of six calls, and ends the process after a while."""

    def __init__(self):
        super().__init__(delay=lambda: time.sleep(0.2))
        self.rng = random.Random(int(os.environ.get("VIDSEG_SEED", "0")))
        self.since = self.end = 0

    def rest(self):
        self.since, self.fault = self.calls, ""
        self.end = self.calls + self.rng.randrange(60, 120)

    def infer(self, src, state=()):
        if self.calls > self.since + CALM and self.rng.random() < 1 / 6:
            self.fault = self.rng.choice([*ENGINE_FAULTS, *[""] * len(ENGINE_FAULTS)])
        if self.end and self.calls > self.end:
            os._exit(1)
        return super().infer(src, state)


class Studio(studio.Studio):
    """Lets the network rest when somebody comes."""

    def enter(self, visitor, background):
        if visitor not in self._places:
            engine.rest()
        super().enter(visitor, background)


if "serve" in sys.argv:
    from vidseg.cli.main import main

    start = processes.asyncio.create_subprocess_exec

    def faulty(program, *arguments, **options):
        return start(program, __file__, *arguments, **options)

    processes.asyncio.create_subprocess_exec = faulty
    raise SystemExit(main(sys.argv[1:]))

engine, real = Failing(), segmenter.Segmenter
segmenter.Segmenter = lambda *_, **options: real(engine=engine, stream=options["stream"])
studio.Studio = Studio
worker.main(sys.argv[-1])
