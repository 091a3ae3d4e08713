"""Guard: refuses what a broken network says, and nothing of what happens before a camera in a day."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import vidseg
from vidseg.errors import EngineError, MaskError
from vidseg.live.budget import Rung
from vidseg.live.guard import JUMP, NEARLY, SATURATED, Guard
from vidseg.live.settings import Settings
from vidseg.live.sight import Sight
from vidseg.segmenter import Segmenter
from vidseg.sources import open_source
from vidseg.testing import FakeClock, FaultyEngine, SeeingEngine, SyntheticSource

SIZE = 96, 160
SAMPLE = Path(vidseg.__file__).parent / "demo" / "sample.mp4"


def scene(centre=0.5, radius=0.3, seed=0, noise=1.5, light=1.0):
    """A disc, the person, in a textured room: ``(alpha, guide)``, with a camera's noise."""
    rng = np.random.default_rng(7)
    room = cv2.GaussianBlur(rng.uniform(40, 200, SIZE), (0, 0), 2)
    person = cv2.GaussianBlur(rng.uniform(60, 220, SIZE), (0, 0), 2)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    away = np.hypot(y - SIZE[0] * 0.55, x - SIZE[1] * centre) - SIZE[0] * radius
    alpha = np.clip(0.5 - away / 4, 0, 1)
    shift = int((centre - 0.5) * SIZE[1])
    shown = np.where(alpha > 0.5, np.roll(person, shift, 1), room) * light
    shown += np.random.default_rng(seed).normal(0, noise, SIZE)
    # A network's answer depends on all that it sees, if only in the last digit.
    alpha = np.clip(alpha + np.random.default_rng(seed).normal(0, 1e-6, SIZE), 0, 1)
    return alpha.astype(np.float32), np.clip(shown, 0, 255).astype(np.uint8)


def guard_after(count=5):
    guard = Guard()
    for seed in range(count):
        guard(*scene(seed=seed))
    return guard


def halves(alpha):
    alpha = alpha.copy()
    alpha[:, : SIZE[1] // 2] = 1
    return alpha


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (lambda alpha: np.where(alpha > 0.99, np.float32(np.nan), alpha), "no number"),
        (lambda alpha: np.where(alpha > 0.99, np.float32(np.inf), alpha), "no number"),
        (lambda alpha: alpha + 9, "no number"),
        (np.ones_like, "all of the picture|grew|stands still"),
        (lambda alpha: np.full_like(alpha, 0.7), "all of the picture|grew|stands still"),
        (lambda alpha: 1 - alpha, "grew"),
        (halves, "grew"),
    ],
)
def test_what_is_broken_is_refused_at_once_and_for_as_long_as_it_lasts(broken, text):
    guard = guard_after()
    for seed in range(5, 30):
        alpha, guide = scene(0.5 + 0.002 * seed, seed=seed)
        with pytest.raises(MaskError, match=text):
            guard(broken(alpha), guide)
    guard(*scene(0.56, seed=30))  # and what is whole again is accepted at once


@pytest.mark.parametrize("value", [1.0, 0.999, 0.6])
def test_a_first_mask_that_leaves_no_room_is_refused(value):
    alpha, guide = scene()
    with pytest.raises(MaskError, match="all of the picture"):
        Guard()(np.full_like(alpha, value), guide)


def test_a_frozen_mask_is_refused_in_the_first_frame_that_moves():
    guard = guard_after()
    alpha, guide = scene(seed=5)
    guard(alpha, guide)
    with pytest.raises(MaskError, match="stands still"):
        guard(alpha.copy(), scene(0.52, seed=6)[1])
    with pytest.raises(MaskError, match="stands still"):
        guard(alpha.copy(), scene(0.54, seed=7)[1])
    guard(*scene(0.56, seed=8))


def test_a_mask_from_before_a_failure_is_frozen_too():
    guard = guard_after()
    alpha, guide = scene(seed=5)
    guard(alpha, guide)
    with pytest.raises(MaskError):
        guard(np.ones_like(alpha), scene(0.51, seed=6)[1])
    with pytest.raises(MaskError, match="stands still"):
        guard(alpha.copy(), scene(0.53, seed=7)[1])


@pytest.mark.parametrize("broken", [lambda alpha: 1 - alpha, halves])
def test_a_network_that_loses_its_people_may_find_them_again_but_not_in_the_room(broken):
    guard = guard_after()
    for seed in range(5, 10):
        guard(np.zeros(SIZE, np.float32), scene(seed=seed)[1])
    alpha, guide = scene(0.51, seed=10)
    with pytest.raises(MaskError, match="grew"):
        guard(broken(alpha), guide)
    with pytest.raises(MaskError, match="stands still"):
        guard(scene(seed=4)[0], guide)
    guard(alpha, guide)


def test_slow_movements_under_a_frozen_mask_add_up():
    guard = Guard()
    alpha, _ = scene(noise=0)
    refused = 0
    for step in range(60):
        try:
            guard(alpha.copy(), scene(0.5 + step / 400, noise=0)[1])
        except MaskError:
            refused += 1
        else:
            assert not refused, "what was refused once is refused for as long as it lasts"
    assert refused > 50


def test_an_equal_mask_of_an_equal_picture_is_no_failure():
    """A screen, a picture in place of a camera: nothing moves, and so nothing freezes. Nor does noise move."""
    guard = Guard()
    for seed in range(20):
        guard(scene(seed=0)[0], scene(seed=seed)[1])


def test_an_empty_room_in_which_things_move_is_no_failure():
    guard = Guard()
    for step in range(20):  # a network may say exactly 0 everywhere
        guard(np.zeros(SIZE, np.float32), scene(0.2 + step * 0.03)[1])


def test_whoever_is_found_late_is_no_jump():
    guard = Guard()
    for seed in range(5):
        guard(np.zeros(SIZE, np.float32), scene(seed=seed)[1])
    guard(*scene(seed=5))


@pytest.mark.parametrize("fps", [10, 30])
def test_ordinary_days_in_a_drawn_room(fps):
    """Walking in and out, leaning in until hardly any room is left, lights that are switched."""
    guard = Guard()
    number = iter(range(10**6))
    for at in np.linspace(-0.4, 0.5, fps):
        guard(*scene(at, seed=next(number)))
    for radius in (*np.linspace(0.3, 2.2, fps // 2), *np.linspace(2.2, 0.3, fps // 2)):
        guard(*scene(0.5, radius, seed=next(number)))
    for light in (0.2, 1.0, 0.05, 1.0):
        for _ in range(5):
            guard(*scene(light=light, seed=next(number)))
    for at in np.linspace(0.5, 1.5, fps):
        guard(*scene(at, seed=next(number)))
    guard(*scene(0.5, seed=next(number)))


def test_the_room_stays_known_until_it_looks_different():
    guard = guard_after()
    for seed in range(100, 160):
        alpha, guide = scene(seed=seed)
        with pytest.raises(MaskError, match="grew"):
            guard(halves(alpha), guide)
    # A camera that was moved, or lights: the picture explains any mask. That is the limit of what can be known.
    alpha, guide = scene(light=0.5)
    guard(halves(alpha), guide)


@pytest.fixture(scope="module")
def clip():
    with open_source(str(SAMPLE)) as source:
        return [frame for frame, _ in zip(source, range(45), strict=False)]


@pytest.fixture(scope="module")
def segmenter():
    segmenter = Segmenter(threads=2)
    yield segmenter
    segmenter.close()


def nearer(frame, share):
    """The frame as if its person came so near that ``share`` of the picture fills it."""

    def part(plane):
        height, width = plane.shape
        tall, wide = int(height * share), int(width * share)
        top, left = (height - tall) // 4, (width - wide) // 2
        return cv2.resize(np.ascontiguousarray(plane[top : top + tall, left : left + wide]), (width, height))

    return replace(frame, planes=tuple(part(plane) for plane in frame.planes))


def darker(frame, light):
    luma = np.clip(16 + (frame.planes[0].astype(np.float32) - 16) * light, 0, 255).astype(np.uint8)
    return replace(frame, planes=(luma, *frame.planes[1:]))


@pytest.mark.parametrize("use", ["talk", "lean in", "lights", "cut"])
def test_the_shipped_network_on_real_people_is_never_refused(use, clip, segmenter):
    segmenter.reset()
    guard = Guard()
    for index, frame in enumerate(clip):
        match use:
            case "lean in":  # to four times the size and back within half a second each
                frame = nearer(frame, 1 - 0.75 * np.sin(index / 30 * np.pi) ** 2)
            case "lights":
                frame = darker(frame, 0.15 if index // 10 % 2 else 1)
            case "cut":
                frame = clip[index // 15 * 15]
        matte = segmenter([frame])[0]
        guard(matte.alpha, matte.guide)


def test_the_fakes_of_other_tests_are_not_refused():
    engine = SeeingEngine(size=(48, 80))
    segmenter, guard = Segmenter(engine=engine), Guard()
    for frame in SyntheticSource(60):
        matte = segmenter([frame])[0]
        guard(matte.alpha, matte.guide)


def test_the_thresholds_stand_in_order():
    assert 0 < JUMP < NEARLY < SATURATED < 1


@pytest.mark.parametrize("between", ["zeros", "inverted", "ones"])
def test_a_mask_of_the_warming_up_that_comes_back_later_is_refused(between):
    """A network that is opened anew, is wrong, and then gives again what it gave when it was warmed up."""

    class Planned(FaultyEngine):
        plan, rest = (), ""

        def infer(self, src, state=()):
            self.fault, *self.plan = self.plan or (self.rest,)
            return super().infer(src, state)

    engine, clock, source = Planned(), FakeClock(), SyntheticSource(0, (180, 320))
    sight = Sight(lambda: Segmenter(engine=engine), clock)

    def look(index):
        clock.advance(1 / 30)
        return sight(source.draw(index), Rung(), Settings(background="#00ff00"))

    for index in range(6):
        look(index)
    engine.plan = ("raise",)
    with pytest.raises(EngineError):
        look(6)
    clock.advance(10)
    engine.plan, engine.rest = ("", between), between
    for index in range(7, 13):
        with suppress(MaskError):
            look(index)
    engine.plan, engine.rest = (), "frozen"
    with pytest.raises(MaskError, match="stands still"):
        look(30)
    sight.close()
