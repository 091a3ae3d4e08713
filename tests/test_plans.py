"""The cache of plans: what a name carries, what is believed, and what happens when it cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

from vidseg.errors import EngineBuildError, EngineError
from vidseg.plans import Facts, Plans, default_folder

FACTS = Facts("unet-s", "ab" * 32, "tensorrt 11.4.0.106", "NVIDIA H200, 9.0", "570.86", "fp16", (160, 256), 8, 1)
OTHER = {"size": (192, 192), "batch": 1, "recipe": 2}
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are POSIX's")


@pytest.fixture
def plans(tmp_path):
    return Plans(tmp_path / "cache" / "plans")


class TestName:
    @pytest.mark.parametrize("name", [field.name for field in fields(Facts)])
    def test_everything_that_makes_a_plan_invalid_is_in_it(self, name, plans):
        other = replace(FACTS, **{name: OTHER.get(name, getattr(FACTS, name) if name in OTHER else "other")})
        assert other.name != FACTS.name
        plans.write(FACTS, b"plan")
        assert plans.read(other) is None

    def test_it_is_the_same_every_time_and_says_what_it_is(self):
        assert replace(FACTS).name == FACTS.name
        assert FACTS.name.startswith("unet-s-fp16-256x160-")

    def test_a_models_name_is_no_path(self, plans):
        facts = replace(FACTS, model="../../etc/passwd")
        plans.write(facts, b"plan")
        assert plans.path(facts).parent == plans.folder
        assert plans.read(facts) == b"plan"

    def test_timings_hold_for_every_network_of_a_machine(self):
        assert replace(FACTS, model="other", size=(192, 192), precision="fp32").machine == FACTS.machine
        for name in ("runtime", "device", "driver"):
            assert replace(FACTS, **{name: "other"}).machine != FACTS.machine


class TestFolder:
    @pytest.mark.skipif(sys.platform != "linux", reason="the XDG folders are Linux's")
    def test_where_it_is(self, monkeypatch, tmp_path):
        monkeypatch.delenv("VIDSEG_CACHE", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
        assert default_folder() == tmp_path / "x" / "vidseg" / "plans"
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        assert default_folder() == tmp_path / ".cache" / "vidseg" / "plans"
        monkeypatch.setenv("VIDSEG_CACHE", str(tmp_path / "mine"))
        assert default_folder() == tmp_path / "mine" / "plans"

    @posix
    def test_it_is_its_owners_alone(self, plans):
        before = os.umask(0)
        try:
            plans.write(FACTS, b"plan")
            plans.write_timings(FACTS, b"timings")
            plans.refuse(FACTS, "no")
            with plans.lock(FACTS):
                pass
        finally:
            os.umask(before)
        assert plans.folder.stat().st_mode & 0o777 == 0o700
        files = [path for path in plans.folder.iterdir() if path.is_file()]
        assert len(files) == 4
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)

    @posix
    def test_where_others_can_write_nothing_is_written_or_believed(self, plans):
        plans.write(FACTS, b"plan")
        plans.folder.chmod(0o777)
        assert plans.read(FACTS) is None
        with pytest.raises(EngineError, match=r"can be written by other users.*chmod 700"):
            plans.write(FACTS, b"plan")
        with pytest.raises(EngineError, match="VIDSEG_CACHE"):
            plans.writable()


class TestRead:
    def test_what_was_written(self, plans):
        assert plans.read(FACTS) is None
        data = bytes(range(256)) * 1000 + b"\n\n"
        plans.write(FACTS, data)
        assert plans.read(FACTS) == data
        plans.write(FACTS, b"")
        assert plans.read(FACTS) == b""
        assert [path.suffix for path in plans.folder.iterdir()] == [".plan"]

    @pytest.mark.parametrize("at", [0, 5, 20, 60, -1, -2000])
    def test_one_changed_byte_is_noticed(self, plans, caplog, at):
        plans.write(FACTS, b"x" * 4000)
        path = plans.path(FACTS)
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
        assert plans.read(FACTS) is None
        assert f"{path} is not used" in caplog.text
        assert not path.exists()

    @pytest.mark.parametrize("length", [0, 3, 14, 100, 2000, 4500])
    def test_a_truncated_file_is_noticed(self, plans, length):
        plans.write(FACTS, b"x" * 4500)
        path = plans.path(FACTS)
        path.write_bytes(path.read_bytes()[:length])
        assert plans.read(FACTS) is None

    def test_a_longer_file_is_noticed(self, plans):
        plans.write(FACTS, b"x")
        with plans.path(FACTS).open("ab") as file:
            file.write(b"x")
        assert plans.read(FACTS) is None

    def test_the_plan_of_another_gpu_under_this_ones_name(self, plans, caplog):
        other = replace(FACTS, device="NVIDIA T4, 7.5")
        plans.write(other, b"plan")
        plans.path(other).rename(plans.path(FACTS))
        assert [entry.damage for entry in plans.entries()] == ["it bears another plan's name"]
        assert plans.read(FACTS) is None
        assert "made for something else" in caplog.text

    @posix
    def test_a_link_and_a_file_that_others_can_write_are_not_read(self, plans, tmp_path):
        plans.write(FACTS, b"plan")
        path = plans.path(FACTS)
        path.chmod(0o666)
        assert plans.read(FACTS) is None
        plans.write(FACTS, b"plan")
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        assert plans.read(FACTS) is None

    def test_a_folder_under_its_name(self, plans):
        plans.path(FACTS).mkdir(parents=True)
        assert plans.read(FACTS) is None
        assert len(plans.entries()) == 1


class TestWrite:
    def full(self, monkeypatch):
        def no_space(descriptor):
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(os, "fsync", no_space)

    def test_a_full_disk(self, plans, monkeypatch):
        plans.write(FACTS, b"old")
        self.full(monkeypatch)
        with pytest.raises(EngineBuildError, match=r"No space left on device\): make room for 0\.1 MB"):
            plans.write(FACTS, b"x" * 100_000)
        assert plans.read(FACTS) == b"old"
        assert len(list(plans.folder.iterdir())) == 1
        plans.write_timings(FACTS, b"x")  # only saves time: no error
        assert plans.timings(FACTS) == b""

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    def test_a_disk_that_is_full_for_real(self, tmp_path):
        """A file system of one page, if this user may mount one."""
        code = (
            "from tests.test_plans import FACTS, Plans, Path, EngineBuildError; import sys\n"
            "plans = Plans(Path(sys.argv[1]) / 'plans')\n"
            "try:\n    plans.write(FACTS, bytes(10_000_000))\n"
            "except EngineBuildError as error:\n    print(error, [p.name for p in plans.folder.iterdir()])\n"
        )
        script = 'mount -t tmpfs -o size=64k none "$1" && exec "$2" -c "$3" "$1"'
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, code],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if "unshare" in done.stderr or "mount" in done.stderr:
            pytest.skip(f"no file system of one's own here: {done.stderr.strip()}")
        assert "No space left on device" in done.stdout, done.stderr
        assert done.stdout.rstrip().endswith("[]")

    def test_a_folder_that_cannot_be_made(self, tmp_path, caplog):
        """A file stands where it should be: as read-only for root as for anybody."""
        (tmp_path / "file").write_text("")
        plans = Plans(tmp_path / "file" / "plans")
        with pytest.raises(EngineBuildError, match="cannot be written"):
            plans.write(FACTS, b"plan")
        assert plans.read(FACTS) is None
        assert plans.entries() == []
        assert plans.clear() == 0
        other = plans.writable()
        assert "plans are not kept" in caplog.text
        other.write(FACTS, b"plan")
        assert other.read(FACTS) == b"plan"
        if hasattr(os, "getuid"):
            assert other.folder.stat().st_mode & 0o777 == 0o700

    def test_a_folder_for_this_process_goes_with_it(self, tmp_path):
        (tmp_path / "file").write_text("")
        code = (
            "import sys, pathlib; from vidseg.plans import Plans\n"
            "print(Plans(pathlib.Path(sys.argv[1])).writable().folder)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "file" / "plans")]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        assert done.stdout.strip()
        assert not Path(done.stdout.strip()).exists()

    def test_readers_see_all_or_nothing(self, plans):
        """Two plans are written in turn while another thread reads."""
        seen, stop = set(), threading.Event()

        def read():
            while not stop.is_set():
                seen.add(plans.read(FACTS))

        thread = threading.Thread(target=read)
        thread.start()
        for number in range(60):
            plans.write(FACTS, bytes([number % 2]) * 300_000)
        stop.set()
        thread.join()
        assert seen <= {None, bytes([0]) * 300_000, bytes([1]) * 300_000}


class TestLock:
    def test_one_process_at_a_time(self, plans):
        code = (
            "import sys, pathlib; from tests.test_plans import FACTS, Plans\n"
            "with Plans(pathlib.Path(sys.argv[1])).lock(FACTS) as waited:\n"
            "    print('in', waited, flush=True); sys.stdin.read()\n"
        )
        root = Path(__file__).parent.parent
        command = [sys.executable, "-c", code, str(plans.folder)]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])},
        ) as other:
            assert other.stdout.readline().split() == ["in", "False"]
            entered = []

            def enter():
                with plans.lock(FACTS) as waited:
                    entered.append(waited)

            thread = threading.Thread(target=enter)
            thread.start()
            with plans.lock(replace(FACTS, precision="int8")) as waited:  # another plan
                assert not waited
            time.sleep(0.3)
            assert entered == []
            other.kill()  # however it ends, its lock goes with it
            thread.join(10)
            assert entered == [True]

    def test_waiting_can_be_given_up(self, plans):
        cancelled = threading.Event()
        with plans.lock(FACTS):
            threading.Timer(0.2, cancelled.set).start()
            with pytest.raises(EngineBuildError, match="given up"), plans.lock(FACTS, cancelled):
                pass


class TestRest:
    def test_a_refusal_is_remembered_until_a_new_plan(self, plans):
        assert plans.refusal(FACTS) == ""
        plans.refuse(FACTS, "its masks were wrong")
        assert plans.refusal(FACTS) == "its masks were wrong"
        assert plans.refusal(replace(FACTS, driver="571")) == ""
        plans.write(FACTS, b"plan")
        assert plans.refusal(FACTS) == ""

    def test_list_and_clear(self, plans):
        second = replace(FACTS, precision="int8")
        plans.write(FACTS, b"plan")
        plans.write(second, b"longer plan")
        plans.write_timings(FACTS, b"timings")
        plans.refuse(second, "no good")
        (plans.folder / "x.plan").write_bytes(b"nonsense")
        (plans.folder / ".x.plan.abc.part").write_bytes(b"half")
        (plans.folder / "mine.txt").write_text("not vidseg's")
        found = {entry.path.name: entry for entry in plans.entries()}
        assert found[f"{FACTS.name}.plan"].facts == FACTS
        assert found[f"{FACTS.name}.plan"].bytes == 4
        assert found[f"{second.name}.plan"].refused == "no good"
        assert found["x.plan"].facts is None
        assert "no plan" in found["x.plan"].damage
        assert plans.clear() == 3
        assert [path.name for path in plans.folder.iterdir()] == ["mine.txt"]
        assert plans.clear() == 0
