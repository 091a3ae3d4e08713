"""Veil: what it shows while the network opens, when it fails, and after another background was chosen."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.live import wait_for
from vidseg.errors import EngineError, SourceNotFoundError
from vidseg.integrations.veil import Veil
from vidseg.segmenter import Segmenter
from vidseg.testing import FaultyEngine, SyntheticSource, person_share, room_share

SIZE = 90, 160
CAMERA = SyntheticSource(0, SIZE)
FAULTS = ("raise", "crash", "nan", "huge", "ones", "inverted")


def seeing(engine):
    return lambda frame: Segmenter(engine=engine)


def warm(veil):
    """Give frames until the network is open; returns the number of the next."""
    index = 0

    def shown():
        nonlocal index
        index += 1
        veil(CAMERA.draw(index))
        return veil.shown

    wait_for(shown, "the network")
    return index + 1


@pytest.fixture
def engine():
    return FaultyEngine()


def test_the_people_are_shown_before_the_background(engine):
    veil = Veil("#00ff00", open_segmenter=seeing(engine), wait=True)
    for index in range(20):
        frame = CAMERA.draw(index)
        done = veil(frame)
        assert (done.pts, done.time_base, done.size, done.color) == (frame.pts, frame.time_base, SIZE, frame.color)
        assert room_share(done) < 0.002
        assert person_share(done) > 0.1
    assert (veil.shown, veil.hidden) == (20, 0)
    veil.close()


@pytest.mark.parametrize("background", ["#00ff00", "blur"])
def test_until_the_network_is_open_there_is_the_background_alone(background, engine):
    opening = threading.Event()

    def slow(frame):
        opening.wait(30)
        return Segmenter(engine=engine)

    veil = Veil(background, open_segmenter=slow)
    for index in range(5):
        done = veil(CAMERA.draw(index))
        assert (room_share(done), done.pts) == (0.0, index)
        assert person_share(done) < 0.001  # the edges of letters on a card
    assert (veil.shown, veil.hidden) == (0, 5)
    opening.set()
    warm(veil)
    veil.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_network_that_fails_shows_the_background_alone(fault, engine):
    veil = Veil("#00ff00", open_segmenter=seeing(engine), wait=True)
    for index in range(10):
        veil(CAMERA.draw(index))
    engine.fault = fault
    for index in range(10, 20):
        done = veil(CAMERA.draw(index))
        assert (room_share(done), person_share(done)) == (0.0, 0.0)
    assert veil.hidden == 10
    veil.close()


def test_a_network_that_cannot_be_opened_is_said_to_whoever_waits_and_shows_nothing_to_others():
    def broken(frame):
        raise EngineError("injected")

    waiting = Veil("#00ff00", open_segmenter=broken, wait=True)
    with pytest.raises(EngineError, match="injected"):
        waiting(CAMERA.draw(0))
    veil = Veil("#00ff00", open_segmenter=broken)
    for index in range(5):
        assert room_share(veil(CAMERA.draw(index))) == 0
    veil.close()


def test_another_background(engine):
    veil = Veil("#00ff00", open_segmenter=seeing(engine), wait=True)
    green = veil(CAMERA.draw(0)).planes[0][0, 0]
    veil.change("#ffffff")
    white = veil(CAMERA.draw(1))
    assert (white.planes[0][0, 0] > green, person_share(white) > 0.1) == (True, True)
    assert veil.still(CAMERA.draw(2)).planes[0].min() == white.planes[0][0, 0]
    with pytest.raises(SourceNotFoundError):
        veil.change("no-such.jpg")
    assert veil(CAMERA.draw(3)).planes[0][0, 0] == white.planes[0][0, 0]
    veil.close()
    veil.close()


def test_another_size_gets_its_own_background(engine):
    veil = Veil("#00ff00", open_segmenter=seeing(engine), wait=True)
    veil(CAMERA.draw(0))
    other = SyntheticSource(0, (60, 80)).draw(1)
    assert veil(other).size == veil.still(other).size == (60, 80)
    assert room_share(veil(other)) < 0.01
    veil.close()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"background": "transparent"}, ValueError),
        ({"background": "none"}, SourceNotFoundError),
        ({"background": "no-such.jpg"}, SourceNotFoundError),
        ({"model": "no-such"}, EngineError),
        ({"subject": "smallest"}, ValueError),
    ],
)
def test_what_cannot_be_is_refused_at_once(arguments, error):
    with pytest.raises(error):
        Veil(**arguments)


def test_before_the_first_frame_there_is_a_card(engine):
    card = Veil("#00ff00", open_segmenter=seeing(engine)).still(CAMERA.draw(7))
    assert (card.pts, room_share(card)) == (7, 0)
    assert len(np.unique(card.planes[0])) > 2  # words
