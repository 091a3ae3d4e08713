"""GpuCompositor held against Compositor, and what it does when something fails; on tensors of the CPU here."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tests import media
from tests.test_compositing import random_frame
from vidseg.backgrounds import BlurBackground, TransparentBackground, open_background
from vidseg.compositor import Compositor
from vidseg.engine import load_spec
from vidseg.errors import EngineError
from vidseg.frame import Color, Frame, allocate
from vidseg.pipeline import Timings
from vidseg.segmenter import Segmenter

torch = pytest.importorskip("torch", reason="PyTorch, which a GPU is used with, is not installed")

from vidseg.gpu import pictures  # noqa: E402
from vidseg.gpu.compositor import GpuCompositor  # noqa: E402

SIZE = (180, 320)
NETWORK = (32, 64)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def device():
    return torch.device("cpu")


class Spot:
    """An engine that takes what is brighter than grey for a person; honest on arrays and on tensors."""

    runtime = "spot"

    def __init__(self, size=NETWORK, states=()):
        self.spec = replace(load_spec(), states=states)
        self.size = size
        self.answer = None

    def infer_on_device(self, src, state=()):
        alpha = (src.mean(1) * 2 + 0.5).clamp(0, 1)
        if self.spec.states:
            before = state[0] if state else torch.zeros_like(alpha)[:, None]
            alpha = (alpha + before[:, 0]) / 2
            state = (alpha[:, None],)
        return (alpha if self.answer is None else self.answer(alpha)), state

    def infer(self, src, state=()):
        alpha, after = self.infer_on_device(torch.from_numpy(src), tuple(map(torch.from_numpy, state)))
        return alpha.numpy(), tuple(part.numpy() for part in after)

    def close(self):
        pass


class Brighter:
    """A background that somebody made: it looks at the alpha."""

    def render(self, frame, alpha):
        assert alpha.shape == frame.size
        y, u, v = (np.array(plane) for plane in frame.planes)
        y[...] = 255 - alpha // 2
        return replace(frame, planes=(y, u, v), alpha=None)

    def close(self):
        pass


def clip(count, size=SIZE, depth=8, color=None, start=0):
    """A bright disc that moves before a dark room with noise."""
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for index in range(start, start + count):
        distance = np.hypot(rows - size[0] / 2, columns - 90 - 6 * index)
        planes = allocate(size, depth)
        bright = 50 + 150 * np.clip((50 - distance) / 6 + 0.5, 0, 1) + rng.normal(0, 2, size)
        planes[0][...] = np.rint(bright * 2 ** (depth - 8))
        planes[1][...] = (128 - 30 * (planes[0][::2, ::2] > 100 * 2 ** (depth - 8))) * 2 ** (depth - 8)
        planes[2][...] = 2 ** (depth - 1)
        yield Frame(planes, index, Fraction(1, 30), color or Color(), depth)


def both(device, make, frames, batch=3, states=(), **options):
    """Return what both compositors make of ``frames``."""
    results = []
    for kind, extra in ((Compositor, {}), (GpuCompositor, {"device": device})):
        rotation = options.get("rotation", 0)
        size = NETWORK if rotation % 180 == 0 else NETWORK[::-1]
        segmenter = Segmenter(engine=Spot(size, states), rotation=rotation)
        chosen = {name: value for name, value in options.items() if name != "rotation"}
        with kind(make(), segmenter, **chosen, **extra) as compositor:
            done = []
            for index in range(0, len(frames), batch):
                done += compositor(frames[index : index + batch])
        results.append(done)
    return results


def agree(device, *args, **options):
    expected, got = both(device, *args, **options)
    assert len(expected) == len(got)
    far = total = 0
    for one, other in zip(expected, got, strict=True):
        assert (one.pts, one.time_base, one.color, one.depth) == (other.pts, other.time_base, other.color, other.depth)
        for plane, truth in zip(other.planes, one.planes, strict=True):
            assert (plane.dtype, plane.shape) == (truth.dtype, truth.shape)
            difference = np.abs(plane.astype(int) - truth.astype(int)) >> (one.depth - 8)
            # A step of alpha, from another rounding of the network's input, is more than one where colours differ much.
            assert difference.max() <= 2
            far += np.count_nonzero(difference > 1)
            total += difference.size
        assert (one.alpha is None) == (other.alpha is None)
        if one.alpha is not None:
            assert np.abs(one.alpha.astype(int) - other.alpha.astype(int)).max() <= 1
    assert far <= total / 1000
    return got


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: open_background("#336699"), id="colour"),
        pytest.param(lambda: BlurBackground(40), id="blur"),
        pytest.param(lambda: BlurBackground(0), id="no blur"),
        pytest.param(TransparentBackground, id="transparent"),
        pytest.param(Brighter, id="own"),
        pytest.param(lambda: None, id="alpha"),
    ],
)
def test_frames_are_those_of_the_cpu(device, make):
    got = agree(device, make, list(clip(5)))
    assert got[0].planes[0].flags.c_contiguous


@pytest.mark.parametrize(
    ("depth", "color"),
    [(10, Color()), (8, Color("bt601", True)), (10, Color("bt2020", primaries=9, transfer=16))],
    ids=["10 bits", "full range", "PQ"],
)
def test_other_kinds_of_frames(device, depth, color):
    agree(device, lambda: open_background("teal"), list(clip(2, depth=depth, color=color)))


@pytest.mark.parametrize("rotation", [90, 180])
def test_turned_frames(device, rotation):
    agree(device, lambda: open_background("teal"), list(clip(2)), rotation=rotation)


def test_odd_sizes_and_options(device):
    agree(device, lambda: BlurBackground(70), list(clip(2, (91, 143))), decontaminate=False, smooth=False)


def test_a_picture_with_an_alpha_of_its_own_keeps_it(device):
    frames = [replace(frame, alpha=np.tile(np.uint8([255, 100]), (180, 160))) for frame in clip(2)]
    agree(device, TransparentBackground, frames)


def test_a_network_that_remembers_goes_on_and_forgets_at_a_cut(device):
    frames = list(clip(4))
    other = [replace(frame, planes=(255 - frame.planes[0], *frame.planes[1:])) for frame in clip(3, start=4)]
    back = list(clip(2))  # earlier than the last: another clip
    for batch in (1, 3):
        agree(device, lambda: open_background("teal"), [*frames, *other, *back], batch=batch, states=((1, 1),))


def test_a_moving_background_is_rendered_for_each_frame(device, tmp_path):
    path = media.clip(tmp_path / "behind.mp4", frames=6)
    agree(device, lambda: open_background(str(path)), list(clip(5)))


def wrong_number(alpha):
    alpha = alpha.clone()
    alpha[0, 3, 5] = float("nan")
    return alpha


@pytest.mark.parametrize(
    "answer",
    [wrong_number, lambda alpha: alpha + 0.5, lambda alpha: alpha - 0.5, lambda alpha: alpha * float("inf")],
    ids=["nan", "above", "below", "inf"],
)
def test_no_frame_is_shown_with_an_alpha_that_is_none(device, answer):
    engine = Spot()
    with GpuCompositor(open_background("teal"), Segmenter(engine=engine), device=device) as compositor:
        compositor(list(clip(2)))
        engine.answer = answer
        with pytest.raises(EngineError, match="outside 0 to 1; no frame was shown"):
            compositor(list(clip(2, start=2)))
        engine.answer = None
        again = compositor(list(clip(2, start=2)))
    fresh = GpuCompositor(open_background("teal"), Segmenter(engine=Spot()), device=device)(list(clip(2, start=2)))
    for one, other in zip(again, fresh, strict=True):  # nothing was kept
        np.testing.assert_array_equal(one.planes[0], other.planes[0])


def test_a_state_that_is_no_number_is_refused(device):
    class Broken(Spot):
        def infer_on_device(self, src, state=()):
            alpha, after = super().infer_on_device(src, state)
            return alpha, tuple(part * float("nan") for part in after)

    compositor = GpuCompositor(None, Segmenter(engine=Broken(states=((1, 1),))), device=device)
    with pytest.raises(EngineError, match="no frame was shown"):
        compositor(list(clip(1)))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: end what else uses"),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), "unspecified launch failure"),
    ],
)
def test_a_device_that_fails_is_one_line_or_the_cpu_goes_on(device, error, text, caplog):
    def fail(alpha):
        raise error

    engine = Spot()
    frames = list(clip(4))
    named = GpuCompositor(open_background("teal"), Segmenter(engine=engine), device=device)
    named(frames[:2])
    engine.answer = fail
    with pytest.raises(EngineError, match=text) as caught:
        named(frames[2:])
    assert "\n" not in str(caught.value)

    working = Spot()
    engine.answer = None
    with GpuCompositor(
        open_background("teal"),
        Segmenter(engine=engine),
        device=device,
        otherwise=lambda: Compositor(open_background("teal"), Segmenter(engine=working)),
    ) as automatic:
        automatic(frames[:2])
        engine.answer = fail
        got = automatic(frames[2:])
        assert [frame.pts for frame in got] == [2, 3]
        assert automatic.runtime == "CPU"
        expected = Compositor(open_background("teal"), Segmenter(engine=Spot()))(frames[2:])
        np.testing.assert_array_equal(got[0].planes[0], expected[0].planes[0])
        automatic.reset()
    assert sum(text in record.getMessage() for record in caplog.records) == 1


def test_frames_that_a_decoder_left_on_the_device(device, monkeypatch):
    """As NVDEC leaves them: rows with padding, chroma in pairs."""
    frames = list(clip(3))

    def left(frame):
        y, u, v = (torch.from_numpy(plane.copy()).to(device) for plane in frame.planes)
        wide = torch.nn.functional.pad(y, (0, 64))[:, : frame.size[1]]
        pairs = torch.stack([u, v], -1)
        return replace(frame, planes=(wide, pairs[..., 0], pairs[..., 1]))

    for make in (lambda: open_background("teal"), lambda: BlurBackground(30)):
        expected = GpuCompositor(make(), Segmenter(engine=Spot()), device=device)(frames)
        got = GpuCompositor(make(), Segmenter(engine=Spot()), device=device)([left(frame) for frame in frames])
        for one, other in zip(expected, got, strict=True):
            for plane, truth in zip(other.planes, one.planes, strict=True):
                np.testing.assert_array_equal(plane, truth)
    # And when the device fails, the CPU gets them as it knows them.
    broken = Spot()

    def lost(alpha):
        raise RuntimeError("lost")

    broken.answer = lost
    automatic = GpuCompositor(
        None,
        Segmenter(engine=broken),
        device=device,
        otherwise=lambda: Compositor(None, Segmenter(engine=Spot())),
    )
    [got, *_] = automatic([left(frame) for frame in frames])
    [expected, *_] = Compositor(None, Segmenter(engine=Spot()))(frames)
    np.testing.assert_array_equal(got.planes[0], expected.planes[0])
    # Unless they are lost with it: then nothing is shown.
    monkeypatch.setattr(pictures, "to_host", lost)
    with pytest.raises(EngineError, match="failed: lost"):
        automatic([left(frame) for frame in frames])


def test_an_engine_of_the_cpu_is_refused_by_name(device):
    class Elsewhere:
        spec, size, runtime, close = load_spec(), NETWORK, "openvino int8 (CPU)", Spot.close

    with pytest.raises(EngineError, match=r"openvino int8 \(CPU\) takes no pictures from"):
        GpuCompositor(None, Segmenter(engine=Elsewhere()), device=device)(list(clip(1)))


def test_frames_of_two_kinds_are_a_mistake(device):
    compositor = GpuCompositor(None, Segmenter(engine=Spot()), device=device)
    with pytest.raises(ValueError, match="of one kind"):
        compositor([random_frame((32, 48)), random_frame((32, 48), depth=10)])
    assert compositor([]) == []


def test_crowded_frames_and_labyrinths_are_done_again(device):
    """Fog over everything: larger blocks, as on the CPU; and a mask that takes more rounds than a person."""

    def fog(alpha):
        noise = torch.rand(alpha.shape, generator=torch.Generator().manual_seed(1)).to(alpha.device)
        return (0.3 + 0.4 * noise).clamp(0, 1) * (alpha * 0 + 1) + 0.2

    def way(alpha):
        alpha = torch.zeros_like(alpha)
        for row in range(2, 94, 4):
            alpha[:, row, 4:156] = 0.4
            alpha[:, row : row + 4, 155 if row % 8 == 2 else 4] = 0.4
        alpha[:, 2:6, 4:8] = 1
        return alpha

    for answer, size in ((fog, (720, 1280)), (way, (192, 320))):
        results = []
        for kind, extra in ((Compositor, {}), (GpuCompositor, {"device": device})):
            engine = Spot((96, 160))
            engine.answer = answer
            frames = list(clip(1, size))
            results.append(kind(open_background("teal"), Segmenter(engine=engine), smooth=False, **extra)(frames)[0])
        for one, other in zip(results[0].planes, results[1].planes, strict=True):
            assert np.abs(one.astype(int) - other.astype(int)).max() <= 2


def test_what_each_step_took_is_told(device):
    timings = Timings()
    GpuCompositor(open_background("teal"), Segmenter(engine=Spot()), device=device)(list(clip(2)), timings)
    assert {"upload", "gpu", "background"} <= set(timings.percentiles())
