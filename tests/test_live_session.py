"""LiveSession: what is shown when, what is said, and that everything ends."""

from __future__ import annotations

import _thread
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from tests.live import SIZE, OracleSink, Stage, no_thread_is_left, running, wait_for
from vidseg.backgrounds import fit_frame
from vidseg.errors import DeviceUnavailableError, EngineError, OutputClosedError, SinkError, SourceError
from vidseg.frame import Color, Frame, StreamInfo
from vidseg.live import intake
from vidseg.live import session as live_session
from vidseg.live.card import draw_card
from vidseg.live.intake import Backoff, Intake
from vidseg.live.latency import Latency
from vidseg.live.output import Outlet, Output
from vidseg.live.session import LiveOptions, LiveSession
from vidseg.live.settings import Settings
from vidseg.segmenter import Segmenter
from vidseg.testing import FakeClock, FaultyCamera, FaultyEngine, ListSink, SyntheticSource

GREEN, GREY = Settings(background="#00ff00"), Settings(background="#808080")


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setattr(intake, "RETRY", (0.005, 0.02))
    monkeypatch.setattr(live_session, "IDLE", 0.02)
    before = set(threading.enumerate())
    yield
    assert no_thread_is_left(before)


class CornerSink(OracleSink):
    """Notes for each frame the luma of its corner, which is background, and whether somebody is there."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def write(self, frame):
        people = self.people
        super().write(frame)
        self.seen.append((int(frame.planes[0][0, 0]), self.people > people))


def corners(sink):
    """The lumas in the order in which they came, each once in a row."""
    lumas = [luma for luma, _ in sink.seen]
    return [luma for index, luma in enumerate(lumas) if index == 0 or luma != lumas[index - 1]]


# --- what is shown ----------------------------------------------------------------------------------------------


def test_first_the_background_then_people():
    stage = Stage(sink=CornerSink())
    with running(stage.make()) as result:
        wait_for(lambda: stage.sink.people > 5)
        status = stage.session.status()
    assert stage.sink.seen[0][1] is False
    assert len(corners(stage.sink)) == 1, "the background is the same, with and without people"
    assert stage.sink.state == "committed"
    assert (status.showing, status.camera, status.reason, status.wanted) == ("people", "on", "", True)
    assert status.outputs == {"oracle": "open"}
    stats = result[0]
    assert stats.frames >= 3
    assert stats.shown >= stage.sink.count
    assert (stats.model, stats.runtime) == ("constant", "fake (no network)")


def test_without_a_size_the_output_is_as_the_camera():
    stage = Stage()
    stage.size = (61, 91)
    session = stage.make(size=None)
    with running(session):
        wait_for(lambda: stage.sink.people > 3)
    assert stage.sink.last.size == (60, 90)


def test_without_a_size_a_camera_that_is_not_there_is_an_error():
    stage = Stage(open_errors=[DeviceUnavailableError("there is no camera 7")])
    with pytest.raises(DeviceUnavailableError, match="camera 7"):
        stage.make(size=None).run()
    assert stage.sink.count == 0


def test_a_picture_of_another_size_fills_the_output():
    stage = Stage()
    stage.sizes = [(120, 120)]
    with running(stage.make()):
        wait_for(lambda: stage.sink.people > 3)
    assert stage.sink.last.size == SIZE
    assert stage.sink.worst < 0.002


@pytest.mark.parametrize("values", [{"mirror": True}, {"auto_frame": True}, {"scale": 0.5, "position": (0.2, 0.0)}])
def test_the_person_is_where_the_settings_say(values):
    stage = Stage()
    with running(stage.make(settings=replace(GREEN, **values))):
        wait_for(lambda: stage.sink.people > 10)
    assert stage.sink.worst < 0.002


def test_mirrored_is_mirrored():
    pictures = {}
    for mirrored in (False, True):
        stage = Stage()
        stage.pace_only = 25
        with running(stage.make(settings=replace(GREEN, mirror=mirrored, smoothing=0.0))):
            wait_for(lambda stage=stage: stage.index > 20)
        person = np.abs(stage.sink.last.planes[0].astype(int) - 180) < 4
        pictures[mirrored] = float(np.nonzero(person)[1].mean())
    # The person wanders to the right at first.
    assert pictures[False] > SIZE[1] / 2 + 5
    assert pictures[True] < SIZE[1] / 2 - 5


def test_target_fps_takes_every_second_frame_of_a_camera_that_is_twice_as_fast():
    stage = Stage()
    with running(stage.make(target_fps=15.0)):
        wait_for(lambda: stage.index >= 100)
        status = stage.session.status()
    assert 25 <= status.frames <= 60
    assert status.dropped >= 40


def test_a_slow_network_makes_frames_late_and_late_ones_are_not_shown():
    stage = Stage()
    stage.engine = FaultyEngine(delay=lambda: stage.clock.advance(1.5))
    with running(stage.make()):
        wait_for(lambda: stage.session.status().frames >= 3)
        stage.engine.fault = "slow"
        wait_for(lambda: stage.session.status().showing == "background")
        frames, index = stage.session.status().frames, stage.index
        wait_for(lambda: stage.index >= index + 10)
        assert stage.session.status().frames <= frames + 1
        stage.engine.fault = ""
        wait_for(lambda: stage.session.status().showing == "people")


# --- changes ----------------------------------------------------------------------------------------------------


def test_a_switch_shows_the_old_or_the_new_and_nothing_else():
    stage = Stage(sink=CornerSink())
    session = stage.make(settings=GREEN)
    with running(session):
        wait_for(lambda: stage.sink.people > 3)
        start = len(stage.sink.seen)
        for settings in (GREY, GREEN, replace(GREY, smoothing=0.0, mirror=True), GREEN):
            session.change(settings)
            assert session.settings == settings
            people = stage.sink.people
            wait_for(lambda people=people: stage.sink.people > people + 3)
    assert len(corners(stage.sink)) == 5
    assert len(set(corners(stage.sink))) == 2
    assert all(somebody for _, somebody in stage.sink.seen[start:]), "people stay in the picture during a switch"


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"background": "missing.jpg"}, SourceError),
        ({"background": "#12"}, SourceError),
        ({"background": "transparent"}, ValueError),
        ({"model": "no-such-model"}, EngineError),
    ],
)
def test_what_cannot_be_opened_changes_nothing(values, error):
    stage = Stage()
    session = stage.make(settings=GREEN)
    with running(session):
        wait_for(lambda: stage.sink.people > 3)
        with pytest.raises(error):
            session.change(replace(GREEN, **values))
        assert session.settings == GREEN
        people = stage.sink.people
        wait_for(lambda: stage.sink.people > people + 3)
        assert session.status().failures == 0


def test_a_model_is_opened_aside_and_closed_after_its_last_frame(monkeypatch):
    monkeypatch.setattr(live_session, "load_spec", lambda model: None)
    opened, closed = [], []

    class Noted(FaultyEngine):
        def close(self):
            closed.append(self.name)

    def open_segmenter(settings):
        if settings.model == "broken":
            raise EngineError("broken")
        engine = Noted()
        engine.name = settings.model
        opened.append(settings.model)
        return Segmenter(engine=engine)

    stage = Stage()
    session = stage.make(settings=replace(GREEN, model="one"), segmenter=open_segmenter)
    with running(session):
        wait_for(lambda: stage.sink.people > 3)
        with pytest.raises(EngineError, match="broken"):
            session.change(replace(session.settings, model="broken"))
        session.change(replace(session.settings, model="two"))
        wait_for(lambda: closed == ["one"], "the end of the old model")
        people = stage.sink.people
        wait_for(lambda: stage.sink.people > people + 3)
    assert opened == ["one", "two"]
    assert closed == ["one", "two"]


def test_paused_shows_a_card_and_closes_the_camera():
    stage = Stage(sink=CornerSink())
    session = stage.make()
    with running(session):
        wait_for(lambda: stage.sink.people > 3)
        session.change(replace(GREEN, paused=True))
        wait_for(lambda: session.status().camera == "off")
        card = draw_card("Paused", session._like).planes[0]
        wait_for(stage.passing(lambda: np.array_equal(stage.sink.last.planes[0], card)))
        count, people = stage.sink.count, stage.sink.people
        wait_for(stage.passing(lambda: stage.sink.count > count + 3))
        assert stage.sink.people == people
        np.testing.assert_array_equal(stage.sink.last.planes[0], card)
        session.change(GREEN)
        wait_for(lambda: stage.sink.people > people + 3)


def test_before_it_runs_a_change_is_remembered_and_checked():
    stage = Stage(sink=CornerSink())
    session = stage.make(settings=GREEN)
    with pytest.raises(EngineError):
        session.change(replace(GREEN, model="no-such-model"))
    session.change(GREY)
    with running(session):
        wait_for(lambda: stage.sink.people > 3)
    assert len(corners(stage.sink)) == 1
    assert session.settings == GREY


def test_a_change_while_the_camera_opens_is_not_lost():
    stage = Stage(sink=CornerSink())
    session = stage.make(settings=GREEN, size=None)
    camera = stage.open_camera

    def slow():
        session.change(GREY)
        return camera()

    session._intake._open = slow
    with running(session):
        wait_for(lambda: stage.sink.people > 3)
    assert session.settings == GREY
    assert len(corners(stage.sink)) == 1


def test_from_the_room_to_a_background_and_back():
    stage = Stage()
    session = stage.make(settings=Settings(background="none"))
    with running(session):
        wait_for(lambda: stage.sink.worst > 0.7)
        assert session.status().showing == "room"
        assert stage.engine.calls == 0
        session.change(GREEN)
        wait_for(lambda: session.status().showing == "people")
        session.change(Settings(background="none", mirror=True))
        wait_for(lambda: session.status().showing == "room")


# --- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["camera", "network"])
def test_on_failure_stop_ends_the_run_with_the_reason(what):
    stage = Stage(faults={40: "unplug"} if what == "camera" else {})
    session = stage.make(on_failure="stop")
    stage.on_frame = lambda index: setattr(stage.engine, "fault", "raise" if what == "network" and index > 40 else "")

    if what == "camera":
        stage.open_errors = []
        gone = [SourceError("faulty camera was unplugged")] * 5
        stage.on_frame = lambda index: stage.open_errors.extend(gone) if index == 39 else None
    with pytest.raises(SourceError if what == "camera" else EngineError, match=r"unplugged|injected|not open"):
        session.run()
    assert stage.sink.state == "committed"
    assert stage.sink.worst < 0.002


def test_hold_keeps_the_last_good_picture_and_background_does_not():
    shown = {}
    for policy in ("hold", "background"):
        stage = Stage()
        session = stage.make(on_failure=policy)
        with running(session):
            wait_for(lambda stage=stage: stage.sink.people > 10)
            stage.engine.fault = "raise"
            wait_for(lambda session=session: session.status().showing != "people")
            shown[policy] = session.status().showing
    assert shown == {"hold": "last", "background": "background"}


def test_a_network_that_does_not_open_at_the_start_is_an_error():
    stage = Stage()

    def broken(settings):
        raise EngineError("no such network")

    with pytest.raises(EngineError, match="no such network"):
        stage.make(segmenter=broken).run()
    assert stage.sink.people == 0


def test_a_background_that_is_missing_is_an_error_before_any_output_is_opened():
    stage = Stage()
    opened = []
    session = stage.make(settings=Settings(background="missing.jpg"), outlets=[Outlet("a", opened.append)])
    with pytest.raises(SourceError, match=r"missing\.jpg"):
        session.run()
    assert opened == []


def test_an_unplugged_camera_comes_back_by_itself_and_the_reason_is_said():
    stage = Stage(faults={30: "unplug"})
    stage.on_frame = lambda index: stage.open_errors.extend([SourceError("gone")] * 20) if index == 29 else None
    session = stage.make()
    with running(session):
        wait_for(lambda: session.status().camera == "lost")
        assert session.status().reason in ("gone", "faulty camera was unplugged")
        wait_for(lambda: session.status().showing == "background")
        wait_for(lambda: session.status().showing == "people")
        assert session.status().openings == 2


# --- outputs ----------------------------------------------------------------------------------------------------


def test_one_output_fails_and_comes_back_while_the_other_goes_on():
    stage = Stage()
    sinks = []

    def reopen(info):
        sinks.append(OracleSink(fail_at=[5] if not sinks else []))
        return sinks[-1]

    session = stage.make(outlets=[Outlet("good", lambda info: stage.sink), Outlet("bad", reopen)])
    with running(session):
        wait_for(lambda: session.status().outputs.get("bad") == "injected")
        count = stage.sink.count
        wait_for(lambda: stage.sink.count > count + 5)
        wait_for(lambda: len(sinks) == 2 and sinks[1].count > 5, "the return of the output")
        assert session.status().outputs == {"good": "open", "bad": "open"}
    assert [sink.state for sink in sinks] == ["aborted", "committed"]


def test_an_output_not_worth_another_try_is_left_and_the_last_one_ends_the_run():
    stage = Stage()
    first, second = OracleSink(fail_at=[3]), OracleSink(fail_at=[30])
    outlets = [Outlet("first", lambda info: first, False), Outlet("second", lambda info: second, False)]
    with pytest.raises(OSError, match="injected"):
        stage.make(outlets=outlets).run()
    assert (first.count, first.state, second.state) == (3, "aborted", "aborted")
    assert second.count == 30


def test_a_window_that_is_closed_ends_the_run_in_order():
    stage = Stage()
    sink = OracleSink(fail_at=[20], error=OutputClosedError("the window was closed"))
    stats = stage.make(outlets=[Outlet("window", lambda info: sink)]).run()
    assert stats.frames > 0
    assert sink.count == 20


def test_an_output_that_does_not_open_is_an_error_and_closes_the_others():
    stage = Stage()

    def broken(info):
        raise SinkError("no such device")

    session = stage.make(outlets=[Outlet("good", lambda info: stage.sink), Outlet("bad", broken)])
    with pytest.raises(SinkError, match="no such device"):
        session.run()
    assert stage.sink.state == "aborted"


def test_no_output_is_a_mistake():
    with pytest.raises(ValueError, match="at least one output"):
        Output([], StreamInfo(SIZE, Fraction(30), Fraction(1, 90_000)))


def test_an_output_that_blocks_stops_no_other():
    stage = Stage()
    free = threading.Event()

    class Blocking(OracleSink):
        def write(self, frame):
            free.wait(30)
            super().write(frame)

    session = stage.make(outlets=[Outlet("good", lambda info: stage.sink), Outlet("slow", lambda info: Blocking())])
    with running(session):
        wait_for(lambda: stage.sink.people > 20)
        free.set()


def test_times_of_the_output_increase_and_are_those_of_the_clock():
    clock = FakeClock()
    sink = ListSink()
    output = Output([Outlet("list", lambda info: sink)], StreamInfo(SIZE, Fraction(30), Fraction(1, 90_000)), clock)
    frame = SyntheticSource(1, SIZE).draw(0)
    for seconds in (0, 1, 0, -5, 10):
        clock.advance(seconds)
        output.show(frame)
        wait_for(lambda: not len(output._lanes[0].frames))
    output.close()
    pts = [frame.pts for frame in sink.frames]
    assert pts[:1] == [0]
    assert pts[-1] == 6 * 90_000
    assert all(later > sooner for sooner, later in pairwise(pts))
    assert sink.state == "committed"


# --- demand -----------------------------------------------------------------------------------------------------


def test_while_nobody_looks_the_camera_is_closed_and_nothing_is_computed():
    stage = Stage()
    looked = threading.Event()
    stage.wanted = looked.is_set
    session = stage.make()
    with running(session):
        wait_for(stage.passing(lambda: stage.sink.count > 5))
        assert (stage.index, session.status().camera, session.status().wanted) == (0, "off", False)
        looked.set()
        session.wake()
        wait_for(lambda: stage.sink.people > 5)
        looked.clear()
        wait_for(lambda: session.status().camera == "off")
        wait_for(stage.passing(lambda: session.status().showing == "background"))
        calls, count, people = stage.engine.calls, stage.sink.count, stage.sink.people
        wait_for(stage.passing(lambda: stage.sink.count > count + 5))
        assert (stage.engine.calls, stage.sink.people) == (calls, people)
        looked.set()
        wait_for(lambda: stage.sink.people > people + 5)
        assert session.status().openings == 2


# --- ends -------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_all_in_order():
    stage = Stage()

    def interrupt(status):
        if status.frames > 3:
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        stage.make().run(interrupt)
    assert stage.sink.state == "committed"
    assert stage.sink.worst < 0.002


def test_stop_before_the_camera_opens_ends_it():
    stage = Stage()
    opened = threading.Event()

    def slow():
        opened.wait(30)
        return stage.open_camera()

    session = stage.make(size=None)
    session._intake._open = slow
    stopper = threading.Timer(0.1, lambda: (session.stop(), opened.set()))
    stopper.start()
    assert session.run().frames == 0
    stopper.join()


# --- its parts --------------------------------------------------------------------------------------------------


def test_backoff_doubles_to_a_limit():
    backoff = Backoff(0.25, 1.0)
    assert [backoff() for _ in range(5)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    backoff.reset()
    assert backoff() == 0.25


def test_a_camera_that_is_silent_from_the_start_gets_more_time_than_one_that_stalls():
    clock = FakeClock()
    camera = FaultyCamera(clock=clock, faults={1: "stall"}, pace=lambda: None)
    cameras = iter([camera, FaultyCamera(clock=clock, faults={3: "stall"}, pace=lambda: None)])
    taker = Intake(lambda: next(cameras), clock)
    taker.start()
    taker.want(True)
    try:
        wait_for(lambda: taker.state == "opening" and camera.index == 1)
        clock.advance(intake.FIRST - 0.1)
        taker.watch()
        assert not camera._closed.is_set()
        clock.advance(0.2)
        taker.watch()
        wait_for(lambda: taker.state == "on", "the next camera")
        assert camera._closed.is_set()
        clock.advance(intake.STALL + 0.1)
        taker.watch()
        wait_for(lambda: taker.state == "lost")
    finally:
        assert taker.close()


@pytest.mark.parametrize("off", [0.0, 3600.0, -3600.0, 0.5])
def test_times_of_another_clock_become_those_of_this_one(off):
    clock = FakeClock()
    source = SyntheticSource(0, SIZE)
    taker = Intake(lambda: source, clock)
    times = []
    for index in range(10):
        clock.advance(1 / 30)
        frame = replace(source.draw(index), pts=round((clock() + off) * 1e6), time_base=Fraction(1, 1_000_000))
        times.append(taker._stamped(frame, clock()).time)
    assert times == pytest.approx([1000 + (index + 1) / 30 for index in range(10)], abs=1e-5)


def test_times_go_on_after_the_clock_has_jumped_back():
    clock = FakeClock()
    source = SyntheticSource(0, SIZE)
    taker = Intake(lambda: source, clock)
    before = taker._stamped(source.draw(0), clock()).time
    clock.advance(-500)
    after = [taker._stamped(source.draw(0), clock()).time for _ in range(3)]
    assert before == 1000
    assert after == pytest.approx([500, 500, 500], abs=1e-4)
    assert after[0] < after[1] < after[2]


def test_latency_has_the_last_seconds_and_all():
    latency = Latency()
    for _ in range(100):
        latency.add("x", 0.010)
    assert latency.recent()["x"]["p50"] == pytest.approx(10, rel=0.05)
    latency._began -= 60
    latency.add("x", 0.1)
    latency._began -= 60
    latency.add("x", 0.1)
    assert latency.recent()["x"]["p50"] == pytest.approx(100, rel=0.05)
    assert latency.percentiles()["x"]["p50"] == pytest.approx(10, rel=0.05)
    assert latency.percentiles()["x"]["p99"] == pytest.approx(100, rel=0.05)


def test_latency_is_read_while_others_measure():
    latency = Latency()
    ended = threading.Event()

    def measure():
        for step in range(10_000):  # each in a bucket that was not there before
            latency.add("x", 1e-7 * 1.04**step)
        ended.set()

    for step in range(1000):
        latency.add("x", 1e-7 * 1.04**step)
    latency._began -= 60  # two windows are read
    thread = threading.Thread(target=measure)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        while not ended.is_set():
            latency.recent()
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert sum(latency._counts["x"].values()) == 11_000


def test_a_card_is_of_its_kind_and_says_something():
    like = SyntheticSource(0, (360, 640)).draw(0)
    card = draw_card("No camera", like)
    assert (card.size, card.subsampled, card.color) == (like.size, True, like.color)
    middle, corner = card.planes[0][160:200, 200:440], card.planes[0][:40, :40]
    assert np.ptp(corner) == 0
    assert np.ptp(middle) > 100
    assert draw_card("x", SyntheticSource(0, (2, 2)).draw(0)).size == (2, 2)


# --- pictures of any kind in that of the output -----------------------------------------------------------------


def frame_of(planes, color):
    return Frame(planes, 7, Fraction(1, 30), color)


def test_a_frame_of_the_same_kind_is_not_copied():
    frame = SyntheticSource(0, SIZE).draw(0)
    assert fit_frame(frame, frame) is frame
    tagged = fit_frame(frame, replace(frame, color=replace(frame.color, matrix_code=1)))
    assert tagged.planes is frame.planes
    assert tagged.color.matrix_code == 1


def test_a_frame_of_full_range_becomes_one_of_limited_range():
    y, u, v = (np.full(size, value, np.uint8) for size, value in (((4, 6), 255), ((2, 3), 128), ((2, 3), 128)))
    full, limited = Color("bt601", True), Color("bt601")
    like = frame_of((y, u, v), limited)
    got = fit_frame(frame_of((y, u, v), full), like)
    assert [np.unique(plane).tolist() for plane in got.planes] == [[235], [128], [128]]
    assert got.pts == 7


@pytest.mark.parametrize("size", [(45, 80), (100, 120), (180, 300), (91, 161)])
def test_a_frame_of_another_size_fills_the_output_from_its_middle(size):
    frame = SyntheticSource(0, size).draw(0)
    like = SyntheticSource(0, SIZE).draw(0)
    got = fit_frame(frame, like)
    assert [plane.shape for plane in got.planes] == [plane.shape for plane in like.planes]
    rows, columns = np.nonzero(np.abs(got.planes[0].astype(int) - 180) < 4)
    assert columns.mean() == pytest.approx(SIZE[1] / 2, abs=3)
    # A cover keeps shapes: the disc stays one.
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=5)


def test_a_frame_that_lies_on_its_side_is_turned_upright():
    upright = SyntheticSource(0, SIZE).draw(5)
    lying = frame_of(tuple(np.ascontiguousarray(np.rot90(plane, -1)) for plane in upright.planes), upright.color)
    got = fit_frame(lying, upright, rotation=90)
    for plane, expected in zip(got.planes, upright.planes, strict=True):
        np.testing.assert_array_equal(plane, expected)


def test_options_have_sane_defaults():
    options = LiveOptions()
    assert (options.on_failure, options.sync) == ("background", "strict")
    assert isinstance(LiveSession(lambda: SyntheticSource(0), [], GREEN), LiveSession)
