"""The segmenter: what the network is shown, what comes back, and what may never come back."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vidseg.color import planes_from_rgb
from vidseg.cuts import is_cut
from vidseg.errors import EngineError
from vidseg.frame import RGB, Color, Frame
from vidseg.segmenter import Segmenter
from vidseg.sources import open_source
from vidseg.testing import ConstantEngine, CountingEngine

CLIPS = Path(__file__).parent.parent.parent / "shared" / "data" / "clips"


class Recorder(ConstantEngine):
    """Remembers what it was shown; its alpha is the red it saw."""

    def infer(self, src, state=()):
        self.src = src.copy()
        return np.clip(src[:, 0] / 2 + 0.5, 0, 1), state


class Broken(ConstantEngine):
    """Answers with ``answer``."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def infer(self, src, state=()):
        return self.answer, ()


def gradient(size=(90, 160)):
    """A picture that is red to the right and green to the bottom."""
    y, x = np.mgrid[: size[0], : size[1]]
    red, green = x * 255 / max(size[1] - 1, 1), y * 255 / max(size[0] - 1, 1)
    return np.dstack([red, green, np.full(size, 64.0)]).round().astype(np.uint8)


def framed(rgb, color=None, depth=8, subsampled=True):
    color = color or Color()
    return Frame(planes_from_rgb(rgb, color, depth, subsampled), 0, Fraction(1, 30), color, depth)


@pytest.fixture(scope="module")
def segmenter():
    opened = Segmenter(threads=1)
    yield opened
    opened.close()


class TestWhatTheNetworkSees:
    @pytest.mark.parametrize(
        ("color", "depth", "subsampled"),
        [
            (Color(), 8, True),
            (Color("bt601", full_range=True), 8, True),
            (Color("bt709"), 10, True),
            (Color("bt2020"), 12, False),
            (RGB, 8, False),
        ],
    )
    def test_the_same_rgb_whatever_the_coding(self, color, depth, subsampled):
        engine = Recorder(size=(32, 64))
        Segmenter(engine=engine)([framed(gradient((64, 128)), color, depth, subsampled)])
        expected = gradient((64, 128)).astype(np.float32).reshape(32, 2, 64, 2, 3).mean((1, 3)) / 127.5 - 1
        np.testing.assert_allclose(engine.src[0].transpose(1, 2, 0), expected, atol=0.04)

    @pytest.mark.parametrize("rotation", [0, 90, 180, 270])
    def test_upright(self, rotation):
        upright = gradient((64, 64))
        # A player turns the stored picture counter-clockwise by ``rotation`` to make it upright.
        stored = np.ascontiguousarray(np.rot90(upright, -rotation // 90))
        engine = Recorder(size=(32, 32))
        matte = Segmenter(engine=engine, rotation=rotation)([framed(stored)])[0]
        straight = Recorder(size=(32, 32))
        Segmenter(engine=straight)([framed(upright)])
        np.testing.assert_allclose(engine.src, straight.src, atol=0.05)
        # What comes back lies as the stored picture does: alpha is the red of it, here.
        np.testing.assert_allclose(matte.alpha, stored[1::2, 1::2, 0] / 255, atol=0.03)
        np.testing.assert_allclose(matte.guide, framed(stored).planes[0][1::2, 1::2], atol=5)

    @pytest.mark.parametrize(("rotation", "shape"), [(0, (160, 256)), (90, (160, 256)), (270, (160, 256))])
    def test_a_turned_picture_gets_the_upright_network(self, segmenter, rotation, shape):
        turned = Segmenter(threads=1, rotation=rotation)
        matte = turned([framed(gradient((90, 160)))])[0]
        assert matte.alpha.shape == matte.guide.shape == shape
        assert list(turned._engines) == [(160, 256) if rotation == 0 else (256, 160)]

    def test_anamorphic_pictures_are_seen_as_shown(self):
        wide = Segmenter(threads=1, sample_aspect=Fraction(4, 3), size=(1080, 1440))
        assert list(wide._engines) == [(160, 256)]

    @pytest.mark.parametrize("transfer", [16, 18])
    def test_hdr_looks_like_sdr(self, transfer):
        """A grey of 18 % and reference white, coded as BT.2100 says."""
        code = {16: (0.3788, 0.5807), 18: (0.378, 0.75)}[transfer]
        color = Color("bt2020", primaries=9, transfer=transfer)
        rgb = np.empty((64, 64, 3), np.uint16)
        rgb[:, :32], rgb[:, 32:] = (round(c * 65535) for c in code)
        engine = Recorder(size=(32, 32))
        Segmenter(engine=engine)([framed(rgb, color, 10)])
        grey, white = engine.src[0][:, :, 4].mean() / 2 + 0.5, engine.src[0][:, :, -4].mean() / 2 + 0.5
        assert 0.35 < grey < 0.55
        assert 0.9 < white <= 1
        assert np.ptp(engine.src[0], axis=0).max() < 0.03  # grey stays grey


class TestMatte:
    @pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 5), (641, 361), (2, 4000)])
    def test_any_size(self, segmenter, size):
        matte = segmenter([framed(gradient(size))])[0]
        assert matte.alpha.shape == matte.guide.shape
        assert matte.alpha.dtype == np.float32
        assert matte.guide.dtype == np.uint8
        assert np.isfinite(matte.alpha).all()

    def test_a_batch_is_its_frames(self, segmenter):
        frames = [framed(np.roll(gradient(), 40 * i, 1)) for i in range(3)]
        for together, alone in zip(segmenter(frames), (segmenter([frame])[0] for frame in frames), strict=True):
            np.testing.assert_allclose(together.alpha, alone.alpha, atol=1e-5)
            np.testing.assert_array_equal(together.guide, alone.guide)

    def test_frames_are_not_changed(self, segmenter):
        frame = framed(gradient())
        before = [plane.copy() for plane in frame.planes]
        segmenter([frame])
        for plane, kept in zip(frame.planes, before, strict=True):
            np.testing.assert_array_equal(plane, kept)

    def test_ten_bits(self, segmenter):
        eight, ten = segmenter([framed(gradient())])[0], segmenter([framed(gradient(), depth=10)])[0]
        np.testing.assert_allclose(eight.alpha, ten.alpha, atol=0.1)
        np.testing.assert_allclose(eight.guide, ten.guide, atol=2)

    def test_no_frames(self, segmenter):
        assert segmenter([]) == []

    def test_frames_of_different_sizes(self, segmenter):
        with pytest.raises(ValueError, match="one size"):
            segmenter([framed(gradient()), framed(gradient((10, 10)))])

    def test_engines_are_kept(self):
        opened = Segmenter(threads=1, size=(90, 160))
        first = opened._engines[160, 256]
        opened([framed(gradient((160, 90)))])
        opened([framed(gradient((90, 160)))])
        assert opened._engines[160, 256] is first
        assert set(opened._engines) == {(160, 256), (256, 160)}

    def test_says_what_runs(self):
        opened = Segmenter(threads=1)
        assert opened.model == "unet-s"
        assert opened.runtime == ""
        opened([framed(gradient())])
        assert opened.runtime
        assert opened.batch >= 1
        opened.close()
        opened.close()

    def test_a_crooked_rotation(self):
        with pytest.raises(ValueError, match="rotation = 45"):
            Segmenter(rotation=45)


class TestMemory:
    """The state of a recurrent network: the fake's alpha is one over the number of frames since it began."""

    def counts(self, segmenter, frames, together=False):
        mattes = segmenter(frames) if together else [segmenter([frame])[0] for frame in frames]
        return [round(1 / float(matte.alpha.mean())) for matte in mattes]

    def clip(self, count=4, rgb=None, start=0, size=(90, 160)):
        shown = gradient(size) if rgb is None else rgb
        color = Color()
        return [Frame(planes_from_rgb(shown, color), start + i, Fraction(1, 30), color) for i in range(count)]

    @pytest.mark.parametrize("together", [False, True])
    def test_frames_of_a_stream_follow_one_another(self, together):
        segmenter = Segmenter(engine=CountingEngine())
        assert segmenter.batch == 1
        assert self.counts(segmenter, self.clip(), together) == [1, 2, 3, 4]
        assert self.counts(segmenter, self.clip(2, start=4), together) == [5, 6]

    def test_unrelated_pictures_are_seen_alone(self):
        segmenter = Segmenter(engine=CountingEngine(), stream=False)
        assert segmenter.batch == 2
        assert self.counts(segmenter, self.clip(), together=True) == [1, 1, 1, 1]
        assert self.counts(segmenter, self.clip()) == [1, 1, 1, 1]

    def test_reset(self):
        segmenter = Segmenter(engine=CountingEngine())
        self.counts(segmenter, self.clip())
        segmenter.reset()
        assert self.counts(segmenter, self.clip(2, start=4)) == [1, 2]

    def test_another_size(self):
        segmenter = Segmenter(engine=CountingEngine())
        self.counts(segmenter, self.clip())
        assert self.counts(segmenter, self.clip(2, start=4, size=(180, 320))) == [1, 2]

    def test_back_in_time(self):
        segmenter = Segmenter(engine=CountingEngine())
        self.counts(segmenter, self.clip(start=9))
        assert self.counts(segmenter, self.clip(2)) == [1, 2]

    def test_a_failure_leaves_no_state_behind(self):
        engine = CountingEngine()
        segmenter = Segmenter(engine=engine)
        self.counts(segmenter, self.clip())
        infer = engine.infer
        engine.infer = lambda src, state=(): (infer(src, state)[0], (np.full((1, 1, 1, 2), np.nan, np.float32),))
        with pytest.raises(EngineError, match="no frame was shown"):
            segmenter(self.clip(1, start=4))
        engine.infer = infer
        assert self.counts(segmenter, self.clip(2, start=5)) == [1, 2]

    def test_a_cut(self):
        segmenter = Segmenter(engine=CountingEngine())
        shots = self.clip(3) + self.clip(3, 255 - gradient(), 3)
        assert self.counts(segmenter, shots) == [1, 2, 3, 1, 2, 3]

    def test_no_cut(self):
        """Neither a lamp that is switched on, nor noise, nor a person who comes in, nor a slow pan."""
        rng = np.random.default_rng(0)
        room = gradient((90, 320))
        room[20:60, 40:90] = 30
        room[50:80, 150:210] = 220
        base = room[:, 80:240]
        lit = np.clip(base * 1.3 + 20, 0, 255).astype(np.uint8)
        noisy = np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8)
        person = base.copy()
        person[30:, 60:100] = 110
        panned = room[:, 84:244]
        segmenter = Segmenter(engine=CountingEngine())
        shown = [base, lit, base, noisy, base, person, base, panned]
        frames = [self.clip(1, np.ascontiguousarray(rgb), i)[0] for i, rgb in enumerate(shown)]
        assert self.counts(segmenter, frames) == [1, 2, 3, 4, 5, 6, 7, 8]

    def test_pictures_without_anything_in_them_are_one_scene(self):
        segmenter = Segmenter(engine=CountingEngine())
        rng = np.random.default_rng(0)
        dark = [np.clip(rng.normal(18, 2, (90, 160, 3)), 0, 255).astype(np.uint8) for _ in range(3)]
        frames = [self.clip(1, rgb, i)[0] for i, rgb in enumerate(dark)]
        assert self.counts(segmenter, frames) == [1, 2, 3]
        assert self.counts(segmenter, self.clip(1, start=3)) == [1]

    @pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the clips in ../shared/data")
    def test_real_cuts(self):
        """From one clip to another is a cut; within a clip, with people who move and enter, there is none."""
        segmenter = Segmenter(engine=CountingEngine(size=(160, 256)))
        for name in ("webcam-hands-1280x720.mp4", "empty-room-then-person-768x432.mp4", "office-signs-640x480.mkv"):
            with open_source(str(CLIPS / name)) as source:
                frames = [frame for frame, _ in zip(source, range(60), strict=False)]
            assert self.counts(segmenter, frames) == list(range(1, len(frames) + 1))
        assert is_cut(np.zeros((10, 16), np.uint8), np.zeros((16, 10), np.uint8))


class TestFailsClosed:
    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 7.0, -1.0])
    def test_what_is_no_alpha_never_gets_out(self, poison):
        answer = np.ones((1, 32, 64), np.float32)
        answer[0, 5, 7] = poison
        with pytest.raises(EngineError, match="numbers outside 0 to 1"):
            Segmenter(engine=Broken(answer))([framed(gradient())])

    def test_another_shape(self):
        with pytest.raises(EngineError, match="another size"):
            Segmenter(engine=Broken(np.ones((1, 8, 8), np.float32)))([framed(gradient())])

    def test_rounding_is_clipped(self):
        answer = np.full((1, 32, 64), 1.0000005, np.float32)
        assert Segmenter(engine=Broken(answer))([framed(gradient())])[0].alpha.max() == 1

    def test_the_engines_error_is_passed_on(self):
        with pytest.raises(EngineError, match="injected"):
            Segmenter(engine=ConstantEngine(fail_at=0, error=EngineError("injected")))([framed(gradient())])
