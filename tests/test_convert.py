"""Pictures of other libraries: what goes in comes out, bit by bit, and what is no picture is refused in a sentence."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import repeat

import av
import cv2
import numpy as np
import pytest

import vidseg
from vidseg.convert import alike, alpha_alike, to_frame
from vidseg.frame import Color, Frame, allocate
from vidseg.testing import ConstantEngine, SeeingEngine, SyntheticSource

SIZE = 34, 46


def noise(*shape, dtype=np.uint8):
    numbers = np.random.default_rng(7).integers(0, np.iinfo(np.uint16).max + 1, shape)
    if dtype == np.uint8:
        return (numbers >> 8).astype(np.uint8)
    return numbers.astype(np.uint16) if dtype == np.uint16 else (numbers / 65535).astype(dtype)


def same(one, other):
    assert type(one) is type(other)
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


# -- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(*SIZE, 3), (3, *SIZE), (1, *SIZE, 3), (1, 3, *SIZE), (33, 45, 3), (1, 1, 3)])
@pytest.mark.parametrize("layout", ["rgb", "bgr"])
def test_colours_come_back_bit_by_bit(layout, shape, dtype):
    array = noise(*shape, dtype=dtype)
    same(alike(to_frame(array, layout), array, layout), array)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats_come_back_to_a_step_of_16_bits(dtype):
    array = noise(*SIZE, 3, dtype=dtype)
    back = alike(to_frame(array), array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    # Rounding to 1/65535, and to what half floats have.
    np.testing.assert_allclose(back, array, atol=0.51 / 65535 + np.finfo(dtype).eps)


def test_red_green_and_blue_are_told_apart():
    for layout, order in (("rgb", (0, 1, 2)), ("bgr", (2, 1, 0))):
        array = np.zeros((2, 2, 3), np.uint8)
        array[...] = np.array([10, 20, 30])[list(order)]
        green, blue, red = to_frame(array, layout).planes
        assert (red[0, 0], green[0, 0], blue[0, 0]) == (10, 20, 30)


@pytest.mark.parametrize("layout", ["i420", "nv12"])
@pytest.mark.parametrize("size", [(34, 46), (36, 48), (2, 2)])
def test_planes_come_back_bit_by_bit(layout, size):
    array = noise(size[0] * 3 // 2, size[1])
    frame = to_frame(array, layout)
    assert frame.size == size
    same(alike(frame, array, layout), array)
    same(alike(to_frame(array[None], layout), array[None], layout), array[None])


def test_i420_and_nv12_are_those_of_opencv():
    bgr = np.zeros((16, 16, 3), np.uint8)
    bgr[...] = 200, 60, 20
    i420 = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    u, v = i420[16:].reshape(2, 8, 8)
    nv12 = np.concatenate([i420[:16], np.stack([u, v], axis=-1).reshape(8, 16)])
    np.testing.assert_allclose(cv2.cvtColor(nv12, cv2.COLOR_YUV2BGR_NV12), bgr, atol=2)
    for array, layout in ((i420, "i420"), (nv12, "nv12")):
        from_planes = alike(to_frame(array, layout), bgr, "bgr")
        np.testing.assert_allclose(from_planes, bgr, atol=2)  # fixed point and rounding


def test_memory_that_is_not_contiguous_is_read_as_it_is():
    wide = noise(SIZE[0] * 3 // 2, 2 * SIZE[1])[:, ::2]
    same(alike(to_frame(wide, "i420"), wide, "i420"), np.ascontiguousarray(wide))
    turned = noise(SIZE[1], SIZE[0], 3).transpose(1, 0, 2)
    same(alike(to_frame(turned), turned), np.ascontiguousarray(turned))


@pytest.mark.parametrize(
    ("array", "layout", "error", "text"),
    [
        (np.zeros((4, 4), np.uint8), "rgb", ValueError, r"\(height, width, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), "rgb", ValueError, r"\(height, width, 3\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "rgb", ValueError, r"\(height, width, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "rgb", ValueError, r"\(height, width, 3\)"),
        (np.zeros((4, 4, 3), np.int32), "rgb", TypeError, "int32"),
        (np.full((4, 4, 3), 255.0), "rgb", ValueError, "divide by 255"),
        (np.full((4, 4, 3), np.nan), "rgb", ValueError, "0 to 1"),
        (np.zeros((4, 4), np.uint8), "i420", ValueError, "even height"),
        (np.zeros((9, 5), np.uint8), "nv12", ValueError, "even height"),
        (np.zeros((9, 4), np.uint16), "i420", TypeError, "uint16"),
        (np.zeros((4, 4, 3), np.uint8), "yuy2", ValueError, "yuy2"),
        ("talk.mp4", "rgb", TypeError, "str"),
        (None, "rgb", TypeError, "NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(array, layout, error, text):
    with pytest.raises(error, match=text):
        to_frame(array, layout)


def test_an_alpha_is_a_fourth_channel_and_yuv_has_no_place_for_it():
    array = noise(*SIZE, 3)
    alpha = noise(*SIZE)
    frame = replace(to_frame(array, "bgr"), alpha=alpha)
    same(alike(frame, array, "bgr"), np.dstack([array, alpha]))
    deep = noise(*SIZE, 3, dtype=np.uint16)
    np.testing.assert_array_equal(alike(replace(to_frame(deep), alpha=alpha), deep)[..., 3], alpha.astype(int) * 257)
    planes = noise(SIZE[0] * 3 // 2, SIZE[1])
    with pytest.raises(ValueError, match="no alpha"):
        alike(replace(to_frame(planes, "nv12"), alpha=alpha), planes, "nv12")


# -- tensors ---------------------------------------------------------------------------------------------------------


def test_tensors_come_back_as_tensors():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for array in (noise(3, *SIZE), noise(1, 3, *SIZE), noise(*SIZE, 3), noise(3, 5, 3)):
        tensor = torch.from_numpy(array)
        back = alike(to_frame(tensor), tensor)
        assert torch.equal(back, tensor)
        assert (back.dtype, back.device) == (tensor.dtype, tensor.device)
    # Of (3, 5, 3) the first axis is the colours: that is how tensors are.
    assert to_frame(tensor).size == (5, 3)
    floats = torch.from_numpy(noise(3, *SIZE, dtype=np.float32)).requires_grad_()
    torch.testing.assert_close(alike(to_frame(floats), floats), floats.detach(), atol=1 / 65535, rtol=0)
    alpha = alpha_alike(noise(*SIZE), floats)
    assert (alpha.dtype, tuple(alpha.shape), float(alpha.max())) == (torch.float32, SIZE, 1.0)
    with pytest.raises(TypeError, match="bfloat16"):
        to_frame(floats.bfloat16())


# -- PyAV ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["yuv420p", "yuvj420p", "yuv444p", "yuv420p10le", "nv12", "rgb24", "bgr24", "rgb48le", "gbrp", "yuv422p"]
)
@pytest.mark.parametrize("size", [(36, 48), (35, 47)])
def test_pictures_of_pyav_come_back(form, size):
    rgb = cv2.resize(noise(5, 6, 3), size[::-1], interpolation=cv2.INTER_CUBIC)
    picture = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=form, dst_colorspace=5)
    picture.pts, picture.time_base, picture.colorspace = 12345, Fraction(1, 90000), 5
    frame = to_frame(picture)
    assert (frame.size, frame.pts, frame.time_base) == (size, 12345, Fraction(1, 90000))
    back = alike(frame, picture)
    assert (back.width, back.height, back.pts) == (size[1], size[0], 12345)
    assert back.format.name == form.replace("yuvj", "yuv")
    assert (int(back.colorspace), int(back.color_range)) == (5, 2 if "yuvj" in form else int(picture.color_range))
    for before, after in zip(planes_of(picture), planes_of(back), strict=True):
        # Chroma of 4:2:2 goes through 4:2:0; all else is not touched.
        np.testing.assert_allclose(after.astype(int), before, atol=40 if form == "yuv422p" else 0)


def planes_of(picture):
    deep = max(component.bits for component in picture.format.components) > 8
    for index, plane in enumerate(picture.planes):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        rows = rows.view("<u2") if deep else rows
        wide = {"nv12": (1, 2)}.get(picture.format.name, (1,) * 4)[index]
        wide *= 3 if picture.format.name in ("rgb24", "bgr24", "rgb48le") else 1
        yield rows[:, : plane.width * wide]


def test_a_picture_of_pyav_without_a_time_gets_the_given_one():
    assert to_frame(av.VideoFrame(16, 16, "yuv420p"), time=2.5).time == 2.5


@pytest.mark.parametrize(("form", "expected"), [("yuv420p", "yuva420p"), ("rgb24", "rgba"), ("bgr24", "rgba")])
def test_a_picture_of_pyav_gets_an_alpha(form, expected):
    picture = av.VideoFrame.from_ndarray(noise(*SIZE, 3), "rgb24").reformat(format=form)
    alpha = noise(*SIZE)
    back = alike(replace(to_frame(picture), alpha=alpha), picture)
    assert back.format.name == expected
    shown = back.to_ndarray(format="rgba")
    np.testing.assert_array_equal(shown[..., 3], alpha)


# -- Segmenter and Compositor ----------------------------------------------------------------------------------------


def synthetic(index=0, size=(90, 160)):
    source = SyntheticSource(1, size)
    return source.draw(index), source.person(index)


def kinds(frame):
    """Return one frame as each kind of picture."""
    flat = np.zeros((frame.size[0] * 3 // 2, frame.size[1]), np.uint8)
    rgb = np.zeros((*frame.size, 3), np.uint8)
    yield frame, "rgb"
    for layout in ("i420", "nv12"):
        yield alike(replace(frame, color=to_frame(flat, "i420").color), flat, layout), layout
    for layout in ("rgb", "bgr"):
        yield alike(frame, rgb, layout), layout
    yield alike(frame, rgb.astype(np.float32)), "rgb"
    yield alike(frame, av.VideoFrame(frame.size[1], frame.size[0], "yuv420p")), "rgb"


def test_the_alpha_of_every_kind_of_picture_is_the_same():
    frame, person = synthetic()
    for picture, layout in kinds(frame):
        with vidseg.Segmenter(engine=SeeingEngine(size=(90, 160))) as segmenter:
            alpha = segmenter(picture, layout=layout)
        assert alpha.shape == frame.size
        top = 1.0 if alpha.dtype == np.float32 else 255
        assert ((alpha > top / 2) == person).mean() > 0.99


def test_every_kind_of_picture_gets_the_background():
    frame, person = synthetic()
    inner = cv2.erode(person.astype(np.uint8), np.ones((9, 9))).astype(bool)
    outer = cv2.dilate(person.astype(np.uint8), np.ones((9, 9))) == 0
    for picture, layout in kinds(frame):
        segmenter = vidseg.Segmenter(engine=SeeingEngine(size=(90, 160)))
        with vidseg.Compositor("#0000ff", segmenter) as compositor:
            done = compositor(picture, layout=layout)
        assert type(done) is type(picture)
        rgb = alike(to_frame(done, layout), np.zeros((*frame.size, 3), np.uint8))
        was = alike(to_frame(picture, layout), rgb)
        np.testing.assert_allclose(rgb[inner].astype(int), was[inner], atol=1)
        np.testing.assert_allclose(rgb[outer].astype(int), np.broadcast_to((0, 0, 255), rgb[outer].shape), atol=3)


def test_what_is_given_is_not_changed():
    frame, _ = synthetic()
    for picture, layout in kinds(frame):
        if isinstance(picture, np.ndarray):
            before = picture.copy()
            vidseg.Compositor("#0000ff", vidseg.Segmenter(engine=SeeingEngine()))(picture, layout=layout)
            np.testing.assert_array_equal(picture, before)


def test_a_transparent_background_gives_a_fourth_channel():
    frame, person = synthetic()
    rgb = alike(frame, np.zeros((*frame.size, 3), np.uint8))
    done = vidseg.Compositor("transparent", vidseg.Segmenter(engine=SeeingEngine(size=(90, 160))))(rgb)
    assert done.shape == (*frame.size, 4)
    assert ((done[..., 3] > 127) == person).mean() > 0.99


def test_time_is_counted_and_can_be_given():
    times = []
    segmenter = vidseg.Segmenter(engine=ConstantEngine(0.5))
    smoother = segmenter._smoother
    segmenter._smoother = lambda alpha, guide, time: times.append(time) or smoother(alpha, guide, time)
    rgb = np.zeros((*SIZE, 3), np.uint8)
    for given in (None, None, 1.0, None):
        segmenter(rgb, time=given)
    segmenter(Frame(allocate(SIZE), 5, Fraction(1), Color()))
    np.testing.assert_allclose(times, [1 / 30, 2 / 30, 1.0, 1 + 1 / 30, 5.0], atol=2e-6)


def test_the_alpha_is_steadied_over_time_until_reset():
    class Flicker(ConstantEngine):
        def infer(self, src, state=()):
            self._value = 1.0 - self._value
            return super().infer(src, state)

    rgb = np.full((*SIZE, 3), 99, np.uint8)
    segmenter = vidseg.Segmenter(engine=Flicker(0.0))
    first, second = segmenter(rgb), segmenter(rgb)
    assert (first.min(), second.max() > 100) == (255, True)  # the network said 1, then 0
    segmenter.reset()
    segmenter(rgb)
    segmenter.reset()
    assert segmenter(rgb).max() == 0
    alone = vidseg.Segmenter(engine=Flicker(0.0), stream=False)
    assert [alone(rgb).max() for _ in range(3)] == [255, 0, 255]


def test_a_compositor_closes_what_it_has_opened_and_only_that():
    class Closing(ConstantEngine):
        closed = 0

        def close(self):
            self.closed += 1

    engine = Closing()
    with vidseg.Compositor("#00ff00", vidseg.Segmenter(engine=engine)) as compositor:
        compositor(np.zeros((*SIZE, 3), np.uint8))
    assert engine.closed == 0
    with vidseg.Segmenter(engine=engine):
        pass
    assert engine.closed == 1


def test_compositors_side_by_side_on_changing_threads_are_as_if_alone():
    """As docs/python.md has it: no globals, and one compositor need not always be on the same thread."""
    colours = ("#0000ff", "#00ff00", "#ffffff")
    frames = [synthetic(index)[0] for index in range(12)]

    def opened(colour):
        return vidseg.Compositor(colour, vidseg.Segmenter(engine=SeeingEngine()))

    alone = [[compositor(frame) for frame in frames] for compositor in map(opened, colours)]
    beside = [opened(colour) for colour in colours]
    with ThreadPoolExecutor(len(colours)) as threads:
        for number, frame in enumerate(frames):
            # Whichever thread is free takes the next one.
            done = threads.map(lambda one, picture: one(picture), beside, repeat(frame))
            for shown, expected in zip(done, alone, strict=True):
                for plane, there in zip(shown.planes, expected[number].planes, strict=True):
                    np.testing.assert_array_equal(plane, there)
