"""The room is never shown: an oracle. The synthetic room is of one red that nothing else in these tests has."""

from __future__ import annotations

import numpy as np
import pytest

from vidseg.backgrounds import open_background
from vidseg.compositor import Compositor
from vidseg.errors import EngineError
from vidseg.pipeline import Pipeline
from vidseg.segmenter import Segmenter
from vidseg.testing import PERSON_LUMA, ConstantEngine, ListSink, SeeingEngine, SyntheticSource, room_share


def run(engine, background, frames=40, **source):
    sink = ListSink()
    behind = None if background is None else open_background(background)
    compositor = Compositor(behind, Segmenter(engine=engine))
    pipeline = Pipeline(SyntheticSource(frames, (180, 320), **source), compositor, sink, batch=4)
    return pipeline, sink


def test_the_oracle_sees_the_room():
    source = SyntheticSource(1, (180, 320))
    assert room_share(next(iter(source))) > 0.5


@pytest.mark.parametrize("background", ["#00ff00", "#808080", "transparent"])
def test_a_moving_person_shows_nothing_of_the_room(background):
    pipeline, sink = run(SeeingEngine(size=(96, 160)), background)
    pipeline.run()
    assert len(sink.frames) == 40
    assert max(room_share(frame) for frame in sink.frames) < 0.001
    for index, frame in enumerate(sink.frames):  # and the person is there
        inside = SyntheticSource(1, (180, 320)).person(index)
        middle = frame.planes[0][inside]
        assert np.median(middle) == pytest.approx(PERSON_LUMA, abs=2)


@pytest.mark.parametrize("background", ["#00ff00", "transparent", None])
def test_an_empty_room_shows_nothing(background):
    pipeline, sink = run(ConstantEngine(0.0), background)
    pipeline.run()
    assert [room_share(frame) for frame in sink.frames] == [0.0] * 40
    if background == "transparent":  # nor does it lie hidden under an alpha of zero
        assert all(len(np.unique(plane)) == 1 for frame in sink.frames for plane in frame.planes)


@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_a_failing_engine_ends_the_job_without_output(at):
    pipeline, sink = run(SeeingEngine(size=(96, 160), fail_at=at, error=EngineError("injected")), "#00ff00")
    with pytest.raises(EngineError, match="injected"):
        pipeline.run()
    assert sink.state == "aborted"
    assert all(room_share(frame) < 0.001 for frame in sink.frames)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 7.0])
def test_what_is_no_alpha_ends_the_job_without_output(value):
    pipeline, sink = run(ConstantEngine(value), "#00ff00")
    with pytest.raises(EngineError):
        pipeline.run()
    assert (sink.state, sink.frames) == ("aborted", [])
