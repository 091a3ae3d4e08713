"""The handover from an engine to a faster one. Both are fakes that say so: what is tested is who answers, and when."""

from __future__ import annotations

import re
import threading
import time

import numpy as np
import pytest

from tests import fake_compiler as fake
from tests.fake_compiler import FakeEngine
from vidseg import engine as registry
from vidseg.engine import load_spec, open_engine
from vidseg.errors import EngineBuildError, EngineError
from vidseg.handover import CHECK, GAP, Handover, followed
from vidseg.plans import Plans
from vidseg.testing import FakeClock

SPEC = load_spec()
SIZE = (32, 64)


def picture(number=0, count=1):
    rng = np.random.default_rng(number)
    return rng.normal(0, 1, (count, 3, *SIZE)).astype(np.float32)


class Run:
    """One handover on a fake clock; ``make`` waits until the test lets it."""

    def __init__(self, second=None, error=None, **options):
        self.clock = FakeClock()
        self.first = FakeEngine(SPEC, SIZE, name="torch fp16 (no GPU)")
        self.second = second or FakeEngine(SPEC, SIZE, name="tensorrt fp16 (no GPU)")
        self.error, self.go, self.refused, self.number = error, threading.Event(), [], 0
        self.cancelled = None
        self.engine = Handover(
            self.first, self.make, refused=self.refused.append, clock=self.clock, **{"after": 10.0, **options}
        )

    def make(self, report, cancelled):
        self.cancelled = cancelled
        report(0.4)
        while not self.go.wait(0.01):
            if cancelled.is_set():
                raise EngineBuildError("the build was given up")
        if self.error is not None:
            raise self.error
        return self.second

    def frame(self, seconds=1 / 30, **options):
        """Let a frame through, and hold the answer against the truth."""
        self.clock.advance(seconds)
        self.number += 1
        src = picture(self.number, **options)
        alpha, state = self.engine.infer(src)
        np.testing.assert_array_equal(alpha, (src.mean(1) > 0).astype(np.float32))
        assert state == ()

    def until(self, *phases):
        """Let frames through until it is so."""
        end = time.monotonic() + 30
        while self.engine.phase not in phases:
            assert time.monotonic() < end, self.engine.phase
            self.frame(GAP)
            time.sleep(0.002)

    def taken_over(self):
        self.frame()
        self.clock.advance(10)
        self.go.set()
        self.until("second")
        return self


class TestTakingOver:
    def test_the_first_answers_until_the_second_has_proved_itself(self):
        run = Run()
        run.frame()
        assert run.engine.phase == "waiting"
        assert run.cancelled is None  # nothing is built for what may be over in a moment
        run.clock.advance(10)
        run.until("making")
        for _ in range(20):
            run.frame()
        assert run.second.calls == 0
        assert run.first.calls == run.number
        assert "a faster one is 40 % built" in run.engine.runtime or run.engine._share == 0
        run.go.set()
        run.until("ready", "second")
        run.frame()
        assert run.engine.phase == "second"
        assert run.engine.runtime == "tensorrt fp16 (no GPU)"
        calls = run.first.calls
        for _ in range(20):
            run.frame()
        assert run.first.calls == calls
        run.engine.close()
        assert (run.first.closed, run.second.closed) == (1, 1)

    def test_nothing_is_made_before_it_pays(self):
        run = Run()
        for _ in range(200):
            run.frame()
        assert run.engine.phase == "waiting"
        run.engine.close()

    def test_it_is_said_once(self, caplog):
        caplog.set_level("INFO", "vidseg.handover")
        Run().taken_over().engine.close()
        assert [r.message for r in caplog.records] == [
            "tensorrt fp16 (no GPU) computes from here on, instead of torch fp16 (no GPU)"
        ]

    def test_batches_of_any_size(self):
        run = Run().taken_over()
        for count in (1, 3, 8, 2):
            run.frame(count=count)
        assert run.engine.phase == "second"

    def test_a_state_goes_on(self):
        from dataclasses import replace

        spec = replace(SPEC, states=((1, 32),))
        run = Run(second=FakeEngine(spec, SIZE, name="tensorrt fp16 (no GPU)"))
        run.first.spec = spec
        state, end = (), time.monotonic() + 30
        for number in range(10_000):
            run.clock.advance(GAP)
            if number == 50:
                run.go.set()
            _, state = run.engine.infer(picture(number), state)
            assert state[0].reshape(-1).tolist() == [number + 1]  # each frame counted once, by whoever
            if run.engine.phase == "second":
                break
            assert time.monotonic() < end
            time.sleep(0.001)
        _, state = run.engine.infer(picture(), state)
        assert state[0].item() == number + 2


class TestNotTakingOver:
    def test_a_build_that_fails_does_not_end_the_stream(self, caplog):
        run = Run(error=EngineBuildError("no importer registered for op: Nonsense"))
        run.frame()
        run.clock.advance(10)
        run.go.set()
        run.until("first")
        for _ in range(50):
            run.frame()
        assert len(caplog.records) == 1
        assert caplog.records[0].message == (
            "There is no faster engine (no importer registered for op: Nonsense); torch fp16 (no GPU) goes on"
        )

    @pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: out of memory"), OSError(28, "full")])
    def test_nor_does_anything_else(self, error, caplog):
        run = Run(error=error)
        run.frame()
        run.clock.advance(10)
        run.go.set()
        run.until("first")
        run.frame()
        assert type(error).__name__ in caplog.text

    @pytest.mark.parametrize("fault", ["nan", "frozen", "wrong", "range"])
    def test_masks_that_are_others(self, fault, caplog):
        run = Run()
        run.second.fault = fault
        run.frame()
        run.clock.advance(10)
        run.go.set()
        run.until("first")
        assert run.second.closed == 1
        assert len(run.refused) == 1
        assert "its masks are not those of torch fp16 (no GPU)" in run.refused[0]
        assert caplog.text.count("is not used") == 1
        run.frame()

    def test_one_that_fails_at_its_proof(self, caplog):
        run = Run()
        run.second.fault = "lost"
        run.frame()
        run.clock.advance(10)
        run.go.set()
        run.until("first")
        assert run.second.closed == 1
        assert "the device was lost" in caplog.text


class TestGoingBack:
    @pytest.mark.parametrize(
        ("fault", "text"),
        [
            ("nan", "no number between 0 and 1"),
            ("range", "no number between 0 and 1"),
            ("state", "no number between 0 and 1"),
            ("lost", r"it failed \(the device was lost\)"),
            ("bug", r"it failed \(a bug\)"),
        ],
    )
    def test_the_very_frame_is_answered_by_the_first(self, fault, text, caplog):
        run = Run().taken_over()
        run.second.fault = fault
        run.frame()  # compares with the truth
        assert run.engine.phase == "first"
        assert run.engine.runtime == "torch fp16 (no GPU)"
        for _ in range(50):
            run.frame(1)
        assert run.engine.phase == "first"  # for good
        (line,) = [record.message for record in caplog.records]
        assert re.search(text, line)
        assert line.startswith("tensorrt fp16 (no GPU) is not used any more: ")
        assert line.endswith("; torch fp16 (no GPU) computes again")
        assert len(run.refused) == run.second.closed == 1

    def test_a_frozen_mask_is_noticed_at_the_second_frame(self, caplog):
        run = Run().taken_over()
        run.frame()
        run.second.fault = "frozen"
        src = picture(1)
        run.engine.infer(src)  # another mask than before: nobody could know
        run.frame()
        assert run.engine.phase == "first"
        assert "its mask stood still" in caplog.text

    def test_a_wrong_mask_is_noticed_by_the_next_check(self, caplog):
        run = Run().taken_over()
        run.frame()
        run.second.fault = "wrong"
        began = run.clock()
        while run.clock() - began < 3 * CHECK:
            run.clock.advance(1 / 30)
            run.number += 1
            src = picture(run.number)
            alpha, _ = run.engine.infer(src)
            if run.engine.phase == "first":
                break
        np.testing.assert_array_equal(alpha, (src.mean(1) > 0).astype(np.float32))
        assert run.clock() - began <= CHECK + 1
        assert "its mask was another one" in caplog.text

    def test_a_still_picture_is_no_frozen_mask(self):
        run = Run().taken_over()
        calls = run.first.calls
        for _ in range(30):
            run.engine.infer(picture(5))
        assert run.engine.phase == "second"
        assert run.first.calls == calls

    def test_an_empty_room_is_no_frozen_mask(self):
        """Nobody is there: the same mask for other frames, which the first engine confirms."""
        run = Run().taken_over()
        for number in range(10):
            run.engine.infer(picture(number) - 100)
        assert run.engine.phase == "second"

    def test_a_callers_mistake_proves_nothing(self):
        run = Run().taken_over()
        with pytest.raises(ValueError, match="another shape"):
            run.engine.infer(np.zeros((1, 3, 8, 8), np.float32))
        assert run.engine.phase == "second"
        run.frame()

    def test_both_fail(self):
        run = Run().taken_over()
        run.first.fault = run.second.fault = "lost"
        with pytest.raises(EngineError, match="device was lost"):
            run.engine.infer(picture())


class TestClose:
    def test_while_it_is_made(self):
        run = Run()
        run.frame()
        run.clock.advance(10)
        run.until("making")
        run.engine.close()
        run.engine.close()
        assert run.cancelled.is_set()
        assert not run.engine._thread.is_alive()
        assert run.first.closed >= 1
        with pytest.raises(EngineError, match="closed"):
            run.engine.infer(picture())

    def test_while_it_waits_for_frames(self):
        run = Run(after=0)
        run.go.set()
        run.frame()
        end = time.monotonic() + 30
        while run.engine.phase != "proving":
            assert time.monotonic() < end
            time.sleep(0.01)
        run.engine.close()
        assert not run.engine._thread.is_alive()
        assert run.second.closed == 1

    def test_before_anything(self):
        run = Run()
        run.engine.close()
        assert run.first.closed == 1


class TestAuto:
    """``--runtime auto``, with the fake compiler in TensorRT's place."""

    @pytest.fixture
    def plans(self, tmp_path, monkeypatch):
        monkeypatch.setenv(fake.GPU, "{}")
        monkeypatch.setenv("VIDSEG_CACHE", str(tmp_path))
        row = registry._Runtime("numpy", "tests.fake_compiler", "tensorrt", compiled=True)  # a name that is installed
        monkeypatch.setattr(
            registry, "_RUNTIMES", (row, *(r for r in registry._RUNTIMES if not r.compiled and not r.gpu_only))
        )
        return Plans()

    def test_on_a_machine_without_a_gpu_nothing_changes(self, plans, monkeypatch):
        monkeypatch.setattr(registry, "_gpu", lambda: False)
        engine = open_engine(threads=1)
        assert not isinstance(engine, Handover)
        assert dict(row[:2] for row in registry.list_runtimes())["numpy"] is False
        with pytest.raises(EngineError, match="runtime numpy needs an NVIDIA GPU and its driver"):
            open_engine(runtime="numpy")

    def test_nor_without_the_library(self, plans, monkeypatch):
        monkeypatch.setattr(registry, "_gpu", lambda: True)
        row = registry._Runtime("no_such_library", "tests.fake_compiler", "tensorrt", compiled=True)
        monkeypatch.setattr(registry, "_RUNTIMES", (row, *registry._RUNTIMES[1:]))
        assert not isinstance(open_engine(threads=1), Handover)

    def test_with_one_it_begins_at_once_and_a_plan_follows(self, plans, monkeypatch):
        monkeypatch.setattr(registry, "_gpu", lambda: True)
        engine = open_engine(threads=1)
        assert isinstance(engine, Handover)
        assert engine.phase == "waiting"
        assert not plans.folder.exists()
        engine.close()

    def test_a_plan_whose_masks_are_wrong_is_refused_at_the_next_start_too(self, plans, monkeypatch):
        """The fake's masks are not the network's: it must not take over, nor be tried again."""
        monkeypatch.setattr(registry, "_gpu", lambda: True)
        monkeypatch.setattr("vidseg.handover.GAP", 0.0)
        facts = fake.describe(SPEC, SPEC.sizes[0], None)
        for start in range(2):
            first = open_engine(runtime="openvino", threads=1)
            engine = followed(first, "tests.fake_compiler", SPEC, SPEC.sizes[0], None)
            engine._after = 0
            end = time.monotonic() + 60
            while engine.phase != "first":
                assert time.monotonic() < end
                engine.infer(np.random.default_rng(start).normal(0, 1, (1, 3, *engine.size)).astype(np.float32))
                time.sleep(0.01)
            engine.close()
            assert "its masks are not those of openvino" in plans.refusal(facts)
