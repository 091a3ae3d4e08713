"""Builds: in another process, of low priority, whose every end is one sentence. What is compiled here is a fake."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

import pytest

from tests import fake_compiler as fake
from vidseg.building import Phases, open_compiled
from vidseg.engine import load_spec
from vidseg.errors import EngineBuildError, EngineError
from vidseg.plans import Plans

pytestmark = pytest.mark.skipif(not hasattr(os, "getpriority"), reason="the fake compiler is for POSIX")
SPEC = load_spec()
SIZE = SPEC.sizes[0]


@pytest.fixture
def plans(tmp_path, monkeypatch):
    monkeypatch.setenv(fake.GPU, "{}")
    return Plans(tmp_path / "plans")


def opened(plans, **options):
    return open_compiled("tests.fake_compiler", SPEC, SIZE, None, plans=plans, **options)


class TestBuild:
    def test_it_is_built_once_elsewhere_and_read_then(self, plans, tmp_path):
        fake.told(log=str(tmp_path / "log"))
        shares = []
        engine = opened(plans, report=shares.append)
        assert engine.plan == "good plan"
        assert shares == [0.25, 0.5, 0.75, 1.0]
        assert opened(plans).plan == "good plan"
        process, nice, timings = (tmp_path / "log").read_text().split()
        assert int(process) != os.getpid()
        assert int(nice) >= min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
        assert timings == "b''"

    def test_timings_go_from_one_build_to_the_next(self, plans, tmp_path):
        fake.told(log=str(tmp_path / "log"))
        opened(plans)
        for path in plans.folder.glob("*.plan"):
            path.unlink()
        opened(plans)
        assert (tmp_path / "log").read_text().split()[2::3] == ["b''", "b'timings'"]

    def test_another_driver_is_another_plan(self, plans, tmp_path):
        fake.told(plan="first")
        opened(plans)
        fake.told(plan="second", driver="2")
        assert opened(plans).plan == "second"
        fake.told(driver="1")
        assert opened(plans).plan == "first"

    def test_a_plan_that_the_runtime_does_not_take_is_built_anew(self, plans, caplog):
        fake.told()
        plans.write(fake.describe(SPEC, SIZE, None), b"bad plan")
        assert opened(plans).plan == "good plan"
        assert "is not used: the plan is of another version; it is built anew" in caplog.text

    def test_a_new_plan_that_it_does_not_take_either(self, plans):
        fake.told(plan="bad plan")
        with pytest.raises(EngineBuildError, match="another version"):
            opened(plans)

    def test_a_truncated_plan_is_built_anew(self, plans, caplog):
        opened(plans)
        (path,) = plans.folder.glob("*.plan")
        path.write_bytes(path.read_bytes()[:-3])
        assert opened(plans).plan == "good plan"
        assert "it is damaged" in caplog.text

    def test_two_at_once_build_one_plan(self, plans, tmp_path):
        fake.told(log=str(tmp_path / "log"), takes=1)
        engines = []
        threads = [threading.Thread(target=lambda: engines.append(opened(plans))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [engine.plan for engine in engines] == ["good plan"] * 3
        assert len((tmp_path / "log").read_text().splitlines()) == 1

    def test_a_folder_that_cannot_be_written(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setenv(fake.GPU, "{}")
        (tmp_path / "file").write_text("")
        assert opened(Plans(tmp_path / "file" / "plans")).plan == "good plan"
        assert "plans are not kept" in caplog.text


class TestFailure:
    @pytest.mark.parametrize(
        ("fails", "text"),
        [
            ("operator", "no importer registered for op: Nonsense"),
            ("memory", "out of memory"),
            ("host memory", "not enough memory"),
            ("killed", "the build ended by signal 9, as when memory runs out"),
            ("crash", "the build ended with status 3: terminate called"),
            ("bug", "AssertionError: a bug"),
        ],
    )
    def test_is_one_sentence(self, plans, fails, text):
        fake.told(fails=fails)
        with pytest.raises(EngineBuildError, match=text):
            opened(plans)
        assert list(plans.folder.glob("*.plan")) == []
        assert list(plans.folder.glob(".*")) == []
        fake.told()
        assert opened(plans).plan == "good plan"

    def test_what_will_never_work_is_not_tried_at_every_start(self, plans, tmp_path):
        fake.told(fails="operator", log=str(tmp_path / "log"))
        for again in (False, False, True):
            with pytest.raises(EngineBuildError, match="Nonsense"):
                opened(plans, again=again)
        assert len((tmp_path / "log").read_text().splitlines()) == 2

    def test_what_may_work_next_time_is_tried_again(self, plans):
        fake.told(fails="memory")
        with pytest.raises(EngineBuildError):
            opened(plans, again=False)
        fake.told()
        assert opened(plans, again=False).plan == "good plan"

    def test_a_refused_plan_is_not_used(self, plans):
        opened(plans)
        plans.refuse(fake.describe(SPEC, SIZE, None), "its masks were wrong")
        with pytest.raises(EngineBuildError, match="its masks were wrong; 'vidseg engines build' tries it again"):
            opened(plans, again=False)
        fake.told(plan="another plan")
        assert opened(plans).plan == "another plan"

    def test_it_can_be_given_up(self, plans):
        fake.told(takes=60)
        cancelled = threading.Event()
        threading.Timer(1, cancelled.set).start()
        began = time.monotonic()
        with pytest.raises(EngineBuildError, match="given up"):
            opened(plans, cancelled=cancelled)
        assert time.monotonic() - began < 30

    def test_a_compiler_that_is_not_there(self, plans):
        with pytest.raises(EngineError, match="nonsense cannot be loaded"):
            open_compiled("tests.nonsense", SPEC, SIZE, plans=plans)

    def test_the_builder_ends_with_whoever_wanted_it(self, plans, tmp_path):
        """A process that begins a build of a minute and is killed leaves nobody who goes on with it."""
        import subprocess
        import sys

        log = tmp_path / "log"
        code = "import sys, pathlib; from tests.test_building import *\nopened(Plans(pathlib.Path(sys.argv[1])))\n"
        told = {fake.GPU: f'{{"takes": 60, "log": "{log}"}}', "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen([sys.executable, "-c", code, str(plans.folder)], env={**os.environ, **told}) as process:
            wait_for(log.exists)
            wait_for(lambda: log.read_text().endswith("\n"))
            process.kill()
        builder = int(log.read_text().split()[0])
        wait_for(lambda: not alive(builder))


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{process}/stat") as file:  # whoever adopts it may not collect it
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


class TestPhases:
    """As TensorRT tells of them: phases inside phases, of which nobody knows how many come."""

    def told(self):
        shares = []
        phases = Phases(shares.append)
        phases.start("network", None, 2)
        phases.start("tactics", "network", 4)
        for step in range(4):
            phases.step("tactics", step)
        phases.finish("tactics")
        phases.step("network", 0)
        phases.start("serialize", "network", 10)
        phases.step("serialize", 4)
        phases.step("network", 1)
        phases.finish("network")
        phases.start("more", "", 1)
        phases.step("more", 0)
        phases.finish("more")
        return shares

    def test_the_share_of_the_whole(self):
        expected = [1 / 16, 2 / 16, 3 / 16, 4 / 16, 4 / 16, 3 / 8, 1 / 2, 1 / 2, 3 / 4, 3 / 4]
        assert self.told() == pytest.approx(expected)

    def test_nonsense_does_no_harm(self):
        shares = []
        phases = Phases(shares.append)
        phases.step("unknown", 3)
        phases.finish("unknown")
        phases.start("empty", None, 0)
        phases.step("empty", 99)
        phases.start("circle", "circle", 2)
        phases.step("circle", 0)
        assert all(0 <= share <= 1 for share in shares)


def test_facts_survive_the_way_to_the_other_process(plans):
    import pickle

    from vidseg.building import Order

    order = Order("tests.fake_compiler", SPEC, fake.describe(SPEC, SIZE, "int8"), plans.folder)
    assert pickle.loads(pickle.dumps(order)) == order
    assert replace(order.facts).name == order.facts.name
