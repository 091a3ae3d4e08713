"""Matter: inference where something changes, nothing shown that is not known to be a person."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from vidseg.errors import EngineError
from vidseg.exposure import match_exposure
from vidseg.frame import Frame, allocate
from vidseg.live.budget import Rung
from vidseg.live.matting import Matter
from vidseg.motion import Carrier, change
from vidseg.segmenter import Segmenter
from vidseg.settling import settle
from vidseg.smoothing import Smoother
from vidseg.subject import Subject
from vidseg.testing import ConstantEngine

SMALL = (160, 256)
FULL = (180, 320)
FPS = 30


class RedEngine(ConstantEngine):
    """An engine without a network: what is redder than the room is a person, to the pixel. Counts its calls."""

    def __init__(self, size=SMALL) -> None:
        super().__init__(size=size)
        self.opinion = None  # changes what it says: (alpha, call) -> alpha

    def infer(self, src, state=()):
        self.calls += 1
        red = (src[:, 0] - src[:, 1]) / 2
        alpha = np.clip((red - 0.15) / 0.1, 0, 1).astype(np.float32)
        if self.opinion is not None:
            alpha = np.clip(self.opinion(alpha, self.calls), 0, 1).astype(np.float32)
        return alpha, ()


def textured(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    total = np.zeros(FULL)
    for cells in (9, 18, 36):
        grid = (rng.random((cells, cells)) - 0.5).astype(np.float32)
        total += cv2.resize(grid, FULL[::-1], interpolation=cv2.INTER_CUBIC) * (30 + 1.5 * 72 / cells)
    return total


OUTLINE = 2 * np.pi * 110 * 256 / 640
"""Small pixels around a disc of the usual size."""
ROOM, CLOTH = 110 + textured(0), 120 + textured(1)


ROWS, COLUMNS = (2 * n.astype(np.float32) for n in np.mgrid[: FULL[0], : FULL[1]])


def disc(x: float, y: float = 190, radius: float = 110) -> np.ndarray:
    """A person; in the coordinates of a picture of 640x360."""
    return np.clip((radius - np.hypot(ROWS - y, COLUMNS - x)) / 3 + 0.5, 0, 1)


NOISE = np.random.default_rng(7).normal(0, 1, (FULL[0] + 64, FULL[1] + 64)).astype(np.float32)


def grain(index: float, size: tuple[int, int]) -> np.ndarray:
    """Noise of another frame: one large piece of it, seen from elsewhere."""
    y, x = np.random.default_rng(round(1000 * index)).integers(0, 64, 2)
    return NOISE[y : y + size[0], x : x + size[1]]


def frame(alpha: np.ndarray, index: float, *, shift=(0, 0), gain=1.0, noise=2.0, red=60.0) -> Frame:
    """A frame in which the people of ``alpha`` are ``red``; their clothes moved by ``shift``."""
    look = np.roll(CLOTH, (shift[0] // 2, shift[1] // 2), (0, 1))
    planes = allocate(FULL)
    luma = (alpha * look + (1 - alpha) * ROOM) * gain
    planes[0][...] = np.clip(luma + noise * grain(index, FULL), 16, 235)
    half = cv2.resize(alpha, (FULL[1] // 2, FULL[0] // 2), interpolation=cv2.INTER_AREA)
    planes[1][...] = np.clip(128 - 0.3 * red * half + noise / 2 * grain(index + 0.1, half.shape), 16, 240)
    planes[2][...] = np.clip(128 + red * half + noise / 2 * grain(index + 0.2, half.shape), 16, 240)
    return Frame(planes, round(1000 * index / FPS), Fraction(1, 1000))


def ideal(picture: Frame) -> np.ndarray:
    """What the engine says of this very frame."""
    return Segmenter(engine=RedEngine())([picture])[0].alpha


def truth(alpha: np.ndarray) -> np.ndarray:
    return cv2.resize(alpha, SMALL[::-1], interpolation=cv2.INTER_AREA)


def matter(smoother: Smoother | None = None, **more) -> tuple[Matter, RedEngine]:
    engine = RedEngine()
    return Matter(Segmenter(engine=engine), smoother, **more), engine


def settled_matter(person: np.ndarray, **more) -> tuple[Matter, RedEngine, int]:
    """A matter that has seen ``person`` stand still for long enough; and the index of the next frame."""
    made, engine = matter(Smoother(), **more)
    for index in range(8):
        seen = made(frame(person, index))
    assert seen.how == "still"
    return made, engine, 8


def test_what_moves_is_inferred_on_every_frame():
    made, engine = matter()
    for index in range(20):
        person = disc(150 + 12 * index)
        seen = made(frame(person, index, shift=(0, 12 * index)))
        assert seen.how == "inferred"
        assert seen.alpha.shape == seen.guide.shape == SMALL
        assert np.abs(seen.alpha - truth(person)).mean() < 0.02
    assert engine.calls == 20


@pytest.mark.parametrize("noise", [0.0, 1.5, 3.0])
def test_a_still_picture_is_looked_at_about_once_a_second(noise):
    made, engine = matter(Smoother())
    how = Counter(made(frame(disc(300), index, noise=noise)).how for index in range(150))
    assert 5 + 3 <= engine.calls <= 5 + 12
    assert how["still"] == 150 - engine.calls


def test_a_still_mask_is_the_same_array_with_the_new_picture():
    made, _, index = settled_matter(disc(300))
    first, second = made(frame(disc(300), index)), made(frame(disc(300), index + 1))
    assert first.how == second.how == "still"
    assert first.alpha is second.alpha
    assert first.guide is not second.guide


def test_no_mask_stands_before_several_have_agreed():
    made, engine = matter(Smoother())
    # The first word is wrong: half of the room, too.
    engine.opinion = lambda alpha, call: np.maximum(alpha, np.float32(call == 1) * (np.arange(256) < 128))
    for index in range(40):
        seen = made(frame(disc(400), index))
    assert np.abs(seen.alpha - truth(disc(400))).mean() < 0.02


def test_a_network_that_changes_its_mind_is_followed():
    made, engine, index = settled_matter(disc(300))
    engine.opinion = lambda alpha, call: np.maximum(alpha, (np.arange(256) < 60).astype(np.float32))
    seen = [made(frame(disc(300), index + n)) for n in range(60)]
    assert seen[0].how == "still"
    assert seen[-1].alpha[:, :60].min() > 0.95, "within two seconds, not one opinion a second averaged into the old"


@pytest.mark.parametrize("where", [(300, 0), (0, 100), (639, 300), (560, 350), (30, 20)])
@pytest.mark.parametrize("contrast", [25, 50])
def test_whatever_comes_into_the_picture_is_seen_in_its_first_frame(where, contrast):
    made, _, index = settled_matter(disc(300))
    intruder = disc(*where, radius=22)
    person = np.maximum(disc(300), intruder)
    new = frame(person, index)
    new.planes[0][...] = np.clip(frame(disc(300), index).planes[0] + contrast * intruder, 0, 255)
    seen = made(new)
    assert seen.how == "inferred"
    np.testing.assert_array_equal(seen.raw, ideal(new))
    assert np.abs(seen.alpha - settle(seen.raw))[truth(intruder) > 0.9].max() < 0.1


def test_a_change_of_colour_alone_is_seen():
    made, _, index = settled_matter(disc(300))
    plain = frame(disc(300), index)
    other = frame(np.maximum(disc(300), disc(560, 100, 30)), index)
    assert made(replace(plain, planes=(plain.planes[0], *other.planes[1:]))).how == "inferred"


@pytest.mark.parametrize("speed", [0.05, 0.3])
def test_a_slow_movement_adds_up_until_it_is_seen(speed):
    made, _, index = settled_matter(disc(300))
    for n in range(120):
        new = frame(disc(300 + speed * n), index + n, shift=(0, round(speed * n)))
        assert np.abs(made(new).alpha - ideal(new)).sum() < 0.4 * OUTLINE, "a fraction of a small pixel behind"


def test_what_moves_inside_a_person_is_looked_at_less_often():
    made, engine, index = settled_matter(disc(300))
    calls, times = engine.calls, []
    for n in range(90):
        new = frame(disc(300), index + n)
        new.planes[0][75:90, 140:160] = 60 + 40 * (n % 2)  # a mouth
        if made(new).how == "inferred":
            times.append((index + n) / FPS)
    assert 6 <= engine.calls - calls <= 10
    assert max(np.diff(times)) <= 0.45


@pytest.mark.parametrize("kind", ["gain", "offset"])
def test_light_that_swings_neither_costs_much_nor_makes_the_mask_breathe(kind):
    made, engine = matter(Smoother(patience=0.6))
    areas, raw = [], []
    for n in range(300):
        light = 0.1 * np.sin(2 * np.pi * n / 37)
        # The network's person grows and shrinks with the light: as much as half a small pixel all around.
        engine.opinion = lambda alpha, _, light=light: cv2.blur(alpha[0], (13, 13))[None] * (1 + 3 * light)
        new = frame(disc(300), n, gain=1 + light if kind == "gain" else 1.0)
        if kind == "offset":
            new.planes[0][...] = np.clip(new.planes[0] + 110 * light, 0, 255)
        areas.append(float(made(new).alpha.sum()))
        raw.append(float(cv2.blur(truth(disc(300)), (13, 13)).__mul__(1 + 3 * light).clip(0, 1).sum()))
    assert np.ptp(areas[60:]) < 0.35 * np.ptp(raw[60:])
    assert engine.calls < 0.75 * 300


def test_carried_masks_follow_the_person_and_save_inference():
    made, engine = matter()
    errors, how = [], Counter()
    for index in range(60):
        new = frame(disc(150 + 4 * index), index, shift=(0, 4 * index))
        seen = made(new, Rung(every=3))
        how[seen.how] += 1
        wanted = ideal(new)
        errors.append((np.maximum(seen.alpha - wanted, 0).sum(), np.maximum(wanted - seen.alpha, 0).sum()))
    assert engine.calls <= 30
    assert how["carried"] >= 30
    leak, loss = np.array(errors).T / OUTLINE
    assert leak.max() < 0.5, "pixels of the small alpha, for each of outline"
    assert loss.max() < 1.0


def test_a_person_who_jumps_is_not_carried():
    made, _ = matter()
    made(frame(disc(150), 0), Rung(every=4))
    for index, x in ((1, 450), (2, 150), (3, 450)):
        seen = made(frame(disc(x), index), Rung(every=4))
        assert seen.how == "inferred"
        assert np.abs(seen.alpha - truth(disc(x))).mean() < 0.02


@pytest.mark.parametrize("there", [None, 450, 190, 230])
@pytest.mark.parametrize("radius", [110, 30])
def test_carrying_fails_closed(there, radius):
    """Wherever somebody has gone: what cannot be followed is room, and if it is much, the network is asked."""
    standing = disc(500, 200, 90)
    before, after = (np.maximum(standing, disc(x, 150, radius) if x else 0 * standing) for x in (150, there))
    made, _ = matter()
    first = made(frame(before, 0), Rung(every=9))
    new = frame(after, 1, shift=(0, (there or 150) - 150))
    seen = made(new, Rung(every=9))
    assert first.how == "inferred"
    leak = np.maximum(seen.alpha - ideal(new), 0).sum()
    assert leak < 0.25 * OUTLINE
    assert seen.how == "inferred" or leak < 0.1 * first.alpha[:, :110].sum()


def test_what_is_uncovered_is_room_and_counted_as_lost():
    pictures = []
    for person in (disc(150), 0 * disc(150)):
        luma = np.where(person > 0.5, 40, ROOM + 40).astype(np.uint8)
        pictures.append(cv2.resize(luma, SMALL[::-1], interpolation=cv2.INTER_AREA))
    before, now = pictures
    alpha = truth(disc(150))
    carried, lost = Carrier()(alpha, before, now, change(now, before.astype(np.float32)))
    assert carried.sum() < 0.02 * alpha.sum()
    assert lost > 0.9 * alpha.sum()


def test_carried_pictures_that_are_too_small():
    alpha = np.ones((8, 8), np.float32)
    before, now = np.full((8, 8), 50, np.uint8), np.full((8, 8), 50, np.uint8)
    now[:, 4:] = 200
    carried, lost = Carrier()(alpha, before, now, change(now, before.astype(np.float32)))
    assert carried[:, 6:].max() == 0
    assert carried.sum() + lost == 64


def test_an_error_leaves_nothing_to_show():
    made, engine, index = settled_matter(disc(300))

    def fail(alpha, call):
        raise EngineError("injected")

    engine.opinion = fail
    moved = [frame(disc(320), index + n) for n in range(4)]
    for new in moved[:3]:  # not only the first time: nothing is remembered that a later frame could be like
        with pytest.raises(EngineError):
            made(new)
    engine.opinion = None
    assert made(moved[3]).how == "inferred"


def test_not_a_number_raises():
    made, engine = matter()
    engine.opinion = lambda alpha, call: alpha * np.float32("nan")
    with pytest.raises(EngineError):
        made(frame(disc(300), 0))


@pytest.mark.parametrize("why", ["gap", "back", "size", "reset"])
def test_starts_anew(why):
    made, _, index = settled_matter(disc(300))
    new = frame(disc(300), index)
    if why == "gap":
        new = replace(new, pts=new.pts + 3_600_000)
    elif why == "back":
        new = replace(new, pts=new.pts - 3_600_000)
    elif why == "size":
        new = replace(new, planes=tuple(np.ascontiguousarray(plane[:90, :160]) for plane in new.planes))
    else:
        made.reset()
    assert made(new, Rung(every=5)).how == "inferred"


def test_another_subject_or_smoother_takes_effect_at_once():
    both = np.maximum(disc(200), disc(500, 190, 60))
    made, _, index = settled_matter(both)
    made.choose(Subject("largest"))
    seen = made(frame(both, index))
    assert seen.alpha[:, 180:].max() < 0.8, "it fades with the smoother"
    for n in range(30):
        seen = made(frame(both, index + 1 + n))
    assert seen.alpha[:, 180:].max() < 0.12, "what refine makes nothing of"
    made.steady(None)
    assert made(frame(both, index + 40)).how == "inferred"


def test_a_rung_with_a_smaller_network_is_used_once_its_engine_is_open(monkeypatch):
    asked, opening = [], threading.Event()

    class Sized(Segmenter):
        def look(self, frame, planes, scale=1.0):
            asked.append(scale)
            return super().look(frame, planes, 1.0)

        def prepare(self, size, scale=1.0):
            assert opening.wait(30)
            if scale == 0.1:
                raise EngineError("too small")

    made = Matter(Sized(engine=RedEngine()))
    for index in range(3):
        made(frame(disc(100 + 40 * index), index), Rung(0.5))
    opening.set()
    made.close()
    made(frame(disc(300), 4), Rung(0.5))
    made(frame(disc(400), 5), Rung(0.1))
    made.close()
    made(frame(disc(200), 6), Rung(0.1))
    assert asked == [1.0, 1.0, 1.0, 0.5, 1.0, 1.0]
    assert not [thread for thread in threading.enumerate() if thread.name == "vidseg-engine"]


def test_the_shipped_network_at_another_scale_answers_at_the_same_size():
    segmenter = Segmenter(size=FULL, threads=1)
    picture = frame(disc(300), 0)
    planes = segmenter.shrink(picture)
    whole, half = segmenter.look(picture, planes), segmenter.look(picture, planes, 0.6)
    assert whole.shape == half.shape == planes[0].shape
    np.testing.assert_array_equal(whole, segmenter([picture])[0].alpha)
    assert not np.array_equal(whole, half)
    segmenter.close()


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (1.0, 12.0), (1.15, 0.0), (0.85, 6.0), (0.85, -8.0)])
def test_exposure_is_found_while_somebody_moves(gain, offset):
    rng = np.random.default_rng(0)
    before = rng.integers(20, 200, SMALL).astype(np.float32)
    now = gain * before + offset + rng.normal(0, 1.5, SMALL)
    now[50:, 60:170] = rng.integers(20, 200, (110, 110))
    found = match_exposure(np.clip(np.rint(now), 0, 255).astype(np.uint8), before)
    for level in (30, 110, 190):
        assert found[0] * level + found[1] == pytest.approx(gain * level + offset, abs=2.5)


def test_exposure_of_a_flat_picture_is_an_offset():
    gain, offset = match_exposure(np.full(SMALL, 90, np.uint8), np.full(SMALL, 80, np.float32))
    assert gain == pytest.approx(1.0)
    assert offset == pytest.approx(10.0)
