"""Pipeline and Channel: nothing lost, nothing reordered, and no failure anywhere hangs or leaves a thread."""

from __future__ import annotations

import _thread
import threading
import time
from dataclasses import replace

import pytest

from tests import media
from vidseg import jobs
from vidseg.errors import SourceError
from vidseg.pipeline import Channel, Interrupted, Pipeline, Timings
from vidseg.testing import ListSink, SyntheticSource


def passing(frames, timings):
    return [replace(frame) for frame in frames]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("vidseg")]


def failing_stage(at):
    calls = iter(range(10**6))

    def stage(frames, timings):
        if next(calls) == at:
            raise RuntimeError("stage")
        return passing(frames, timings)

    return stage


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("frames", [1, 2, 7, 50])
def test_every_frame_arrives_in_order(frames, batch):
    sink = ListSink()
    stats = Pipeline(SyntheticSource(frames), passing, sink, batch=batch).run()
    assert [f.pts for f in sink.frames] == list(range(frames))
    assert (stats.frames, stats.dropped, sink.state) == (frames, 0, "committed")
    assert set(stats.stages) == {"decode", "encode"}


@pytest.mark.parametrize("at", [0, 1, 5, 28])
@pytest.mark.parametrize("where", ["source", "stage", "sink"])
def test_an_error_anywhere_ends_all_and_is_raised(where, at):
    source = SyntheticSource(30, fail_at=at if where == "source" else None, error=RuntimeError("source"))
    sink = ListSink(fail_at=at if where == "sink" else None, error=RuntimeError("sink"))
    stage = failing_stage(at) if where == "stage" else passing
    with pytest.raises(RuntimeError, match=where):
        Pipeline(source, stage, sink, batch=1).run()
    assert sink.state == "aborted"


def test_no_frame_is_an_error_that_names_the_source():
    sink = ListSink()
    with pytest.raises(SourceError, match="synthetic holds no frame"):
        Pipeline(SyntheticSource(0), passing, sink).run()
    assert sink.state == "aborted"


def test_interrupt_keeps_what_is_done():
    def slow(frames, timings):
        time.sleep(0.02)
        return passing(frames, timings)

    sink = ListSink()

    def interrupt(progress):
        if progress.frames >= 3:
            _thread.interrupt_main()

    with pytest.raises(Interrupted) as caught:
        Pipeline(SyntheticSource(500), slow, sink).run(interrupt)
    assert caught.value.partial == "memory"
    assert sink.state == "partial"
    assert 3 <= len(sink.frames) < 500


@pytest.mark.parametrize("output", ["out.mp4", "out/"])
def test_an_interrupt_before_the_pipeline_runs_leaves_nothing(tmp_path, monkeypatch, output):
    media.clip(tmp_path / "in.mp4", 2)

    def interrupted(*_, **__):
        assert len(list(tmp_path.iterdir())) == 2  # the input, and the output's temporary name
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "Pipeline", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jobs.process_video(str(tmp_path / "in.mp4"), f"{tmp_path}/{output}", "#fff")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_failing_progress_callback_ends_the_job():
    sink = ListSink()

    def broken(progress):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Pipeline(SyntheticSource(10_000), passing, sink).run(broken)
    assert sink.state == "aborted"


def test_channel_waits_for_room_and_ends_when_closed():
    channel = Channel(2)
    taken = []
    thread = threading.Thread(target=lambda: taken.extend(channel))
    thread.start()
    assert all(channel.put(i) for i in range(100))
    channel.close()
    thread.join(5)
    assert taken == list(range(100))
    assert not channel.put(1)


def test_channel_drops_the_oldest_and_counts():
    channel = Channel(2, "drop")
    for i in range(5):
        channel.put(i)
    assert channel.dropped == 3
    channel.close()
    assert channel.take(9) == [3, 4]
    assert channel.take(9) == []


def test_channel_close_frees_a_waiting_producer():
    channel = Channel(1)
    channel.put(0)
    results = []
    thread = threading.Thread(target=lambda: results.append(channel.put(1)))
    thread.start()
    time.sleep(0.05)
    channel.close(discard=True)
    thread.join(5)
    assert results == [False]
    assert channel.take(1) == []


def test_channel_batches_are_whole_but_for_the_last():
    channel = Channel(4)
    threading.Thread(target=lambda: ([channel.put(i) for i in range(7)], channel.close())).start()
    assert [len(channel.take(3)) for _ in range(4)] == [3, 3, 1, 0]


def test_percentiles_are_within_the_histograms_step():
    timings = Timings()
    for i in range(1, 101):
        timings.add("x", i / 1000)
    assert timings.percentiles()["x"]["p50"] == pytest.approx(50, rel=0.05)
    assert timings.percentiles()["x"]["p95"] == pytest.approx(95, rel=0.05)
