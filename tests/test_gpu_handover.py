"""A handover whose frames lie on a GPU: tensors of the CPU here, and both engines are fakes that say so."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.fake_compiler import FakeEngine
from tests.test_handover import SIZE, SPEC, Run, picture
from vidseg.errors import EngineError
from vidseg.handover import GAP

torch = pytest.importorskip("torch", reason="PyTorch, which a GPU is used with, is not installed")


class OnDevice(FakeEngine):
    """Takes tensors, too; ``spoil`` changes what it answers."""

    spoil = None

    def infer_on_device(self, src, state=()):
        alpha, _ = self.infer(src.numpy())
        answer = torch.from_numpy(alpha)
        return (answer if self.spoil is None else self.spoil(answer)), state


def run_of():
    run = Run(second=OnDevice(SPEC, SIZE, name="tensorrt fp16 (no GPU)"))
    run.engine._first = run.first = OnDevice(SPEC, SIZE, name="torch fp16 (no GPU)")
    return run


def frame(run, seconds=GAP):
    run.clock.advance(seconds)
    run.number += 1
    src = picture(run.number)
    alpha, state = run.engine.infer_on_device(torch.from_numpy(src))
    assert isinstance(alpha, torch.Tensor)
    np.testing.assert_array_equal(alpha.numpy(), (src.mean(1) > 0).astype(np.float32))
    assert state == ()


def taken_over():
    run = run_of()
    frame(run)
    run.clock.advance(10)
    run.go.set()
    end = time.monotonic() + 60
    while run.engine.phase != "second":
        assert time.monotonic() < end, run.engine.phase
        frame(run)
        time.sleep(0.002)
    return run


def test_the_second_takes_over_when_it_has_proved_itself():
    run = taken_over()
    calls = run.first.calls
    for _ in range(5):
        frame(run, 1 / 30)
    assert run.first.calls == calls
    run.engine.close()


def lost(alpha):
    raise RuntimeError("device lost")


@pytest.mark.parametrize("spoil", [lambda alpha: alpha * float("nan"), lambda alpha: 1 - alpha, lost])
def test_the_first_answers_for_the_very_frame_that_is_wrong(spoil):
    run = taken_over()
    run.second.spoil = spoil
    frame(run, 20)  # after so long it is asked whether it is still right
    assert run.engine.phase == "first"
    assert len(run.refused) == 1
    frame(run)
    run.engine.close()


def test_a_first_engine_of_the_cpu_says_so():
    run = Run()
    with pytest.raises(EngineError, match="takes no pictures from a GPU"):
        run.engine.infer_on_device(torch.from_numpy(picture()))
    run.engine.close()
