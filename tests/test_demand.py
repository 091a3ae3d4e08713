"""Whether a virtual camera is wanted: the rule by a fake clock, and ways to see readers on what every Linux has.

v4l2loopback itself is read in tests/vm/test_outputs.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from vidseg.errors import DeviceUnavailableError
from vidseg.live import demand
from vidseg.live.demand import CountProbe, Debounce, Demand, EventProbe, HolderProbe, OpenProbe, open_probe

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs inotify and /proc")


def wait_for(done: Callable[[], object], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.01)


# -- the rule ----------------------------------------------------------------------------------------------------------


def changes(openings: list[tuple[float, float]], until: float, step: float = 0.05) -> list[tuple[float, bool]]:
    """Return when ``wanted`` changed, of a device that is open in each ``(from, to)``; it is looked at all the time."""
    rule, told, found = Debounce(attack=0.5, release=5.0), False, []
    for tick in range(round(until / step)):
        now = tick * step
        rule.update(any(start <= now < end for start, end in openings), now)
        if rule.wanted(now) != told:
            told = not told
            found.append((round(now, 2), told))
    return found


def test_a_call() -> None:
    assert changes([(10, 100)], 200) == [(10.5, True), (105, False)]


def test_a_program_that_looks_every_three_seconds_turns_nothing_on() -> None:
    """Discord opens and closes each camera every 3 s (Linux-Fake-Background-Webcam, issue 167)."""
    assert changes([(3 * n, 3 * n + 0.3) for n in range(100)], 300) == []


def test_a_program_that_looks_for_longer_does_not_make_it_flap() -> None:
    assert changes([(3 * n, 3 * n + 1) for n in range(100)], 400) == [(0.5, True), (297 + 1 + 5, False)]


def test_a_probing_program_does_not_keep_it_on_after_a_call() -> None:
    looks = [(3 * n, 3 * n + 0.3) for n in range(100)]
    assert changes([(10, 50), *looks], 300) == [(10.5, True), (55, False)]


def test_who_comes_as_the_camera_goes_off_is_waited_for() -> None:
    assert changes([(10, 50), (54.9, 55.2)], 100) == [(10.5, True), (55.2, False)]


def test_a_short_break_in_a_call() -> None:
    assert changes([(10, 50), (52, 100), (104.9, 120)], 200) == [(10.5, True), (125, False)]


def test_two_readers() -> None:
    assert changes([(10, 50), (30, 80)], 200) == [(10.5, True), (85, False)]


def test_it_says_when_to_look_again() -> None:
    """Looking only when told to gives the same as looking all the time."""
    rule, now, found = Debounce(0.5, 5.0), 0.0, []
    assert rule.due(0) is None
    events = [(10.0, True), (10.2, False), (20.0, True), (60.0, False)]
    while events or rule.due(now) is not None:
        due = rule.due(now)
        if due is not None and (not events or now + due < events[0][0]):
            now += due
        else:
            now, reading = events.pop(0)
            rule.update(reading, now)
        if not found or found[-1][1] != rule.wanted(now):
            found.append((now, rule.wanted(now)))
        assert len(found) < 20
    assert [(round(at, 6), wanted) for at, wanted in found] == [(10, False), (20.5, True), (65, False)]


def test_a_look_that_comes_late_loses_nobody() -> None:
    rule = Debounce(0.5, 5.0)
    rule.update(True, 0)
    rule.update(False, 30)  # it was read until just now
    assert rule.wanted(34)
    assert not rule.wanted(36)


# -- the thread --------------------------------------------------------------------------------------------------------


class FakeProbe:
    """Says what it is told to, and that it is a fake."""

    how = "fake"

    def __init__(self, *, asked: bool = False) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self.fd = None if asked else self._read
        self.now = False
        self.error: OSError | None = None
        self.closed = False

    def set(self, now: bool) -> None:
        self.now = now
        os.write(self._write, b"x")

    def reading(self) -> bool:
        with suppress(BlockingIOError):
            os.read(self._read, 100)
        if self.error is not None:
            raise self.error
        return self.now

    def close(self) -> None:
        self.closed = True
        os.close(self._read)
        os.close(self._write)


@pytest.mark.parametrize("asked", [False, True], ids=["told", "asked"])
def test_demand_follows_its_probe(asked: bool) -> None:
    probe, told = FakeProbe(asked=asked), list[bool]()
    before = threading.active_count()
    with Demand("fake", told.append, probe=probe, attack=0.01, release=0.05) as watched:
        assert not watched.wait(0.1)
        probe.set(True)
        assert watched.wait(20)
        assert watched.reading
        probe.set(False)
        wait_for(lambda: told == [True, False])
        assert not watched.wanted
    assert probe.closed
    assert threading.active_count() == before


def test_closing_ends_a_wait() -> None:
    watched = Demand("fake", probe=FakeProbe())
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(watched.wait()))
    waiting.start()
    watched.close()
    watched.close()
    waiting.join(20)
    assert answers == [False]


def test_what_cannot_be_seen_counts_as_wanted(caplog: pytest.LogCaptureFixture) -> None:
    """Rather a camera that is on than a person who waits for a picture in vain."""
    probe = FakeProbe(asked=True)
    probe.error = OSError("gone")
    with Demand("fake", probe=probe, attack=0.01) as watched:
        assert watched.wait(20)
        wait_for(lambda: not watched._closed and watched.reading)
    assert [record.message for record in caplog.records] == [
        "It cannot be seen any more whether the virtual camera is read: gone"
    ]


# -- the ways to see readers -------------------------------------------------------------------------------------------


@contextmanager
def reader(path: Path) -> Iterator[None]:
    """Another process that has a file open."""
    code = "import sys; file = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        yield
        child.communicate()


@pytest.fixture(params=[OpenProbe, HolderProbe], ids=["inotify", "proc"])
def probe(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenProbe | HolderProbe]:
    """A way that works on any file, on a file."""
    (tmp_path / "device").touch()
    found = request.param(str(tmp_path / "device"))
    yield found
    found.close()


@linux
def test_other_processes_are_seen(probe: OpenProbe | HolderProbe, tmp_path: Path) -> None:
    path = tmp_path / "device"
    assert not probe.reading()
    with reader(path):
        assert probe.reading()
        with reader(path):
            assert probe.reading()
        assert probe.reading()
    assert not probe.reading()
    for _ in range(3):
        with reader(path):
            pass
    assert not probe.reading()


@linux
def test_this_process_does_not_count(probe: OpenProbe | HolderProbe, tmp_path: Path) -> None:
    path = tmp_path / "device"
    with path.open("rb"), path.open("rb+"):
        assert not probe.reading()
        with reader(path):
            assert probe.reading()
        assert not probe.reading()
    assert not probe.reading()


@linux
def test_who_was_there_before_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "device"
    path.touch()
    with path.open("rb"):  # this process's own
        with reader(path):
            found = OpenProbe(str(path))
            assert found.reading()
        assert not found.reading()
    assert not found.reading()
    with reader(path):
        assert found.reading()
    found.close()


@linux
def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "device").touch()
    (tmp_path / "link").symlink_to(tmp_path / "device")
    found = OpenProbe(str(tmp_path / "link"))
    with reader(tmp_path / "link"):
        assert found.reading()
    found.close()


@linux
def test_demand_on_a_file(tmp_path: Path) -> None:
    """The whole chain, with the kernel's own events."""
    path, told = tmp_path / "device", list[bool]()
    path.touch()
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with Demand(str(path), told.append, attack=0.05, release=0.1) as watched:
        assert watched.how == "who has it open"
        with reader(path):
            assert watched.wait(20)
        wait_for(lambda: told == [True, False])
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


@linux
def test_a_file_is_no_device_with_events(tmp_path: Path) -> None:
    (tmp_path / "device").touch()
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        EventProbe(str(tmp_path / "device"))
    with pytest.raises(FileNotFoundError):
        CountProbe(str(tmp_path / "device"))


@linux
def test_a_driver_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No released v4l2loopback has it yet (its pull request 592): a file stands for the one in sysfs."""
    (tmp_path / "video10").mkdir()
    counter = tmp_path / "video10" / "active_readers"
    counter.write_text("0\n")
    monkeypatch.setattr(demand, "SYSFS", tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "video10").touch()
    found = open_probe(str(tmp_path / "dev" / "video10"))
    assert isinstance(found, CountProbe)
    assert not found.reading()
    counter.write_text("2\n")
    assert found.reading()
    counter.write_text("")
    with pytest.raises(OSError, match="no number"):
        found.reading()


def test_no_device(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailableError, match="does not exist"):
        Demand(str(tmp_path / "none"))
