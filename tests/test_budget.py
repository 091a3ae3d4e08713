"""Budget: steps down soon, up carefully, never flaps. With a clock and a machine that are made up."""

from __future__ import annotations

import random

import pytest

from vidseg.live.budget import FAST, STRICT, Budget, Rung, ladder

LADDER = tuple(Rung(every=n) for n in (1, 2, 3, 4))


class Machine:
    """A made-up machine: a frame on rung ``i`` costs ``costs[i] * strain`` CPU seconds, and that much time."""

    def __init__(self, budget: Budget, costs: list[float], rungs: tuple[Rung, ...] = LADDER, fps: float = 30) -> None:
        self.budget, self.costs, self.rungs, self.fps = budget, costs, rungs, fps
        self.time = self.cpu = 0.0
        self.strain, self.noise = 1.0, 0.0
        self.random = random.Random(1)
        self.history: list[int] = []

    @property
    def at(self) -> int:
        return self.rungs.index(self.budget.rung)

    def run(self, seconds: float) -> list[int]:
        """Let it run, and return the rungs on which it stood, one a step."""
        stood = [self.at]
        for _ in range(round(seconds * self.fps / self.rungs[self.at].take)):
            cost = self.costs[self.at] * self.strain * (1 + self.noise * self.random.uniform(-1, 1))
            self.time += self.rungs[self.at].take / self.fps
            self.cpu += cost
            self.budget(self.time, self.cpu, cost)
            if self.at != stood[-1]:
                stood.append(self.at)
        return stood


def machine(max_cpu: float | None, costs_ms: list[float], **more: object) -> tuple[Machine, list[tuple[Rung, str]]]:
    steps: list[tuple[Rung, str]] = []
    budget = Budget(max_cpu, 30, LADDER, lambda rung, why: steps.append((rung, why)), **more)  # type: ignore[arg-type]
    return Machine(budget, [cost / 1e3 for cost in costs_ms]), steps


def test_a_machine_that_is_good_enough_stays_at_the_top():
    made, steps = machine(0.5, [15, 12, 10, 8])
    made.noise = 0.1
    assert made.run(600) == [0]
    assert steps == []


def test_it_steps_down_until_the_cores_suffice_and_says_so_once_each():
    made, steps = machine(0.3, [15, 12, 9, 6])
    assert made.run(20) == [0, 1, 2]
    assert [rung for rung, _ in steps] == [LADDER[1], LADDER[2]]
    assert "0.45 cores are used, 0.3 are allowed" in steps[0][1]


def test_it_steps_down_when_frames_take_too_long_without_any_limit_of_cores():
    made, steps = machine(None, [40, 36, 25, 20])
    assert made.run(20) == [0, 1, 2]
    assert "120% of its time" in steps[0][1]


def test_it_reacts_within_three_seconds_and_faster_when_far_too_much():
    for cost, bound in ((35, 3.2), (70, 2.2)):
        made, steps = machine(None, [cost, 1, 1, 1])
        while not steps:
            made.run(1 / 30)
            assert made.time < bound


def test_the_last_rung_is_the_last():
    made, steps = machine(0.1, [30, 30, 30, 30])
    assert made.run(200) == [0, 1, 2, 3]
    assert len(steps) == 3


def test_it_climbs_back_when_the_strain_is_gone():
    made, _ = machine(0.5, [15, 12, 9, 6])
    made.strain = 2.5
    assert made.run(30)[-1] == 3
    made.strain = 0.8
    assert made.run(60)[-1] == 0


def test_no_flapping_at_a_load_that_just_does_not_fit():
    made, steps = machine(0.5, [18, 16, 15.5, 12])  # 0.54, 0.48, 0.465, 0.36 cores
    made.noise = 0.15
    made.run(3600)
    assert made.at == 1
    assert len(steps) == 1


def test_a_swinging_load_makes_it_try_more_and_more_seldom():
    made, steps = machine(0.5, [20, 14, 10, 8])
    counts = []
    for _ in range(6):
        before = len(steps)
        for _ in range(15):  # ten minutes of twenty seconds still, twenty seconds in motion
            made.strain = 0.5
            made.run(20)
            made.strain = 1.0
            made.run(20)
        counts.append(len(steps) - before)
    assert counts[0] <= 14
    assert counts[-1] <= 4
    made.strain = 0.5
    assert made.run(900)[-1] == 0, "and it still climbs when the load has really gone"


def test_learns_what_a_rung_costs_and_does_not_try_what_cannot_fit():
    # The rung above needs three times as much, much more than is assumed of one that was never seen.
    made, steps = machine(0.5, [39, 13, 10, 8])
    made.run(3600)
    assert made.at == 1
    assert len(steps) == 1


def test_a_suspend_or_a_clock_that_goes_back_is_no_load():
    made, steps = machine(0.5, [10, 9, 8, 7])
    made.run(5)
    made.time += 3600
    made.cpu += 500
    made.run(5)
    made.time -= 7200
    made.run(5)
    assert steps == []


def test_a_restart_forgets_loads_but_not_the_rung():
    made, _ = machine(0.3, [15, 12, 9, 6])
    made.run(20)
    rung = made.budget.rung
    made.budget.restart()
    assert made.budget.rung == rung


def test_taking_fewer_frames_gives_each_more_time():
    rungs = (Rung(), Rung(take=2), Rung(take=3))
    made = Machine(Budget(None, 30, rungs), [0.05, 0.05, 0.05], rungs)
    assert made.run(30) == [0, 1], "50 ms a frame fit where a frame has 66"


@pytest.mark.parametrize("sync", ["strict", "fast"])
def test_ladders_start_at_the_best_and_get_cheaper(sync):
    rungs = ladder(sync)
    assert rungs is (STRICT if sync == "strict" else FAST)
    assert rungs[0] == Rung()
    assert len(set(rungs)) == len(rungs)
    # MACs a camera frame, roughly.
    cost = [rung.scale**2 / rung.every / rung.take for rung in rungs]
    assert cost == sorted(cost, reverse=True)
    assert sync == "fast" or all(rung.every == 1 for rung in rungs), "strict never carries a mask"
    assert len({str(rung) for rung in rungs}) == len(rungs)


def test_mistakes_of_a_caller():
    with pytest.raises(ValueError, match="max_cpu = 0"):
        Budget(0)
    with pytest.raises(ValueError, match="target_fps = nan"):
        Budget(None, float("nan"))
    with pytest.raises(ValueError, match="rung"):
        Budget(None, 30, ())
