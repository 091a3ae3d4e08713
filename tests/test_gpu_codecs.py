"""Pictures that NVDEC left on a GPU and NVENC takes there: tensors of the CPU here, ``tests/gpu`` has the real ones.

PyAV lends planes of the CPU by DLPack as it lends those of a GPU; the hardware's pictures are fakes over such planes.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from tests import media
from tests.test_compositing import random_frame
from tests.test_gpu_compositor import Spot, clip
from vidseg.backgrounds import open_background
from vidseg.frame import Color, StreamInfo
from vidseg.segmenter import Segmenter
from vidseg.sinks import OutputOptions
from vidseg.sinks.pyav import PyAVSink
from vidseg.sources.pyav import PyAVSource, color_of
from vidseg.testing import SyntheticSource

torch = pytest.importorskip("torch", reason="PyTorch, which a GPU is used with, is not installed")

from vidseg.gpu.codecs import encodable, from_decoder, to_encoder  # noqa: E402
from vidseg.gpu.compositor import GpuCompositor  # noqa: E402
from vidseg.gpu.pictures import Kind, Lifted, to_frame  # noqa: E402
from vidseg.gpu.uploads import Lift, Uploads  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
FORMATS = pytest.mark.parametrize(("form", "depth"), [("nv12", 8), ("p010le", 10)])


@pytest.fixture
def device():
    return CPU


class Far:
    """A fake of a picture that NVDEC left on its GPU: what ``inner`` holds, under the names that those have."""

    def __init__(self, inner, **given):
        self.inner, self.sw_format, self.given = inner, inner.format, given

    def __getattr__(self, name):
        return self.given.get(name, getattr(self.inner, name))

    @property
    def format(self):
        return av.VideoFormat("cuda")

    @property
    def planes(self):
        return self.inner.planes


@pytest.fixture
def nvdec(monkeypatch):
    """Decode as a GPU would that leaves its pictures there; returns what was brought down."""
    brought, decode = [], PyAVSource._pictures

    def decoded(self, packet):
        form = "nv12" if self._stream.codec_context.pix_fmt == "yuv420p" else "p010le"
        return [Far(picture.reformat(format=form)) for picture in decode(self, packet)]

    def bring(self, picture):
        if not isinstance(picture, Far):
            return picture
        brought.append(picture.pts)
        return picture.inner

    monkeypatch.setattr(PyAVSource, "_pictures", decoded)
    monkeypatch.setattr(PyAVSource, "_brought", bring)
    monkeypatch.setattr(PyAVSource, "_accelerated", lambda self, device: None)
    return brought


@FORMATS
def test_planes_of_a_decoder_are_tensors_by_value(form, depth):
    truth = media.picture(3, (48, 66), "yuv420p" if depth == 8 else "yuv420p10le")
    picture = truth.reformat(format=form, threads=1)
    assert picture.planes[0].line_size > 66 * (1 if depth == 8 else 2)  # rows are padded
    planes = from_decoder(*picture.planes, depth)
    for index, (tensor, size) in enumerate(zip(planes, ((48, 66), (24, 33), (24, 33)), strict=True)):
        dtype = np.uint8 if depth == 8 else np.uint16
        plane = truth.planes[index]
        expected = np.frombuffer(plane, dtype).reshape(size[0], -1)[:, : size[1]]
        np.testing.assert_array_equal(tensor.numpy(), expected)
    if depth == 8:  # not copied
        assert planes[2].data_ptr() == planes[1].data_ptr() + 1
        assert planes[1].stride() == (picture.planes[1].line_size, 2)
        del picture
        np.testing.assert_array_equal(planes[0].numpy()[0, :4], np.frombuffer(truth.planes[0], np.uint8)[:4])


@pytest.mark.parametrize("depth", [8, 10])
def test_frames_stay_where_they_were_decoded(nvdec, tmp_path, depth):
    path = media.lossless(tmp_path / "a.mkv", 5, (48, 64), depth)
    with PyAVSource(path, hwaccel="cuda:0", lent=from_decoder) as source:
        frames = list(source)
        assert (source.info.size, source.info.depth, source.info.subsampled) == ((48, 64), depth, True)
    assert nvdec == []
    assert all(isinstance(plane, torch.Tensor) for frame in frames for plane in frame.planes)
    for number, frame in enumerate(map(to_frame, frames)):
        for plane, truth in zip(frame.planes, media.planes(number, (48, 64), depth), strict=True):
            np.testing.assert_array_equal(plane, truth)


def test_what_cannot_be_lent_comes_down(nvdec, tmp_path):
    """Fields are put together on the CPU, odd sizes are not lent; nor is what PyAV or PyTorch refuses, with a line."""
    fields = media.clip(tmp_path / "a.mkv", 6, interlaced=True)
    odd = media.clip(tmp_path / "b.mkv", 3, (49, 63), codec="ffv1")
    plain = media.clip(tmp_path / "c.mkv", 3)

    def refuse(luma, chroma, depth):
        raise NotImplementedError("CUDA stream synchronization is not\nsupported")

    for path, lent, said in ((fields, from_decoder, "deinterlaced"), (odd, from_decoder, ""), (plain, refuse, "again")):
        with PyAVSource(path, hwaccel="cuda:0", lent=lent) as source:
            got = list(source)
            assert [note for note in source.notes if said in note]
            assert not [note for note in source.notes if "\n" in note]
        assert all(isinstance(frame.planes[0], np.ndarray) for frame in got)
        assert len(got) == len(nvdec)
        nvdec.clear()
    assert "The pictures of c.mkv come down from cuda:0 and go up again: CUDA stream" in source.notes[-1]
    with PyAVSource(plain) as source:
        for one, other in zip(got, source, strict=True):
            np.testing.assert_array_equal(one.planes[1], other.planes[1])


def test_the_colours_of_a_picture_on_a_gpu():
    picture = media.picture(0, (48, 64)).reformat(format="nv12")
    picture.color_range = 2
    assert color_of(Far(picture)) == color_of(picture)
    assert color_of(picture).full_range


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_decoder_or_encoder_that_is_not_there_is_one_line(tmp_path):
    path = media.clip(tmp_path / "a.mkv", 3)
    with PyAVSource(path, hwaccel="cuda:0", lent=from_decoder) as source:
        assert isinstance(next(iter(source)).planes[0], np.ndarray)
        assert len([note for note in source.notes if "decoded by the CPU, cuda:0" in note]) == 1
    info = StreamInfo((48, 64), Fraction(25), Fraction(1, 25), Color())
    for codec in ("libx264", "h264"):  # asked for nothing of a GPU: nothing to say
        sink = PyAVSink(str(tmp_path / "b.mkv"), info, OutputOptions(codec=codec), device="cuda:0", lent=to_encoder)
        assert (sink.device, sink.notes) == (None, ())
        sink.abort()
    try:
        gpu = PyAVSink.__new__(PyAVSink)
        gpu._info, gpu._options, gpu._notes = info, OutputOptions(), []
        gpu._turns, gpu._mirrors = 0, False
        assert gpu._accelerator(av.Codec("h264_nvenc", "w"), "cuda:0") is None
    except av.codec.codec.UnknownCodecError:
        pytest.skip("this FFmpeg has no h264_nvenc")
    [note] = gpu._notes
    assert note.startswith("h264_nvenc gets its pictures over the host's memory, not from cuda:0 (")


@FORMATS
def test_frames_go_to_the_encoder_where_they_lie(tmp_path, form, depth):
    """The memory is NVENC's: chroma in pairs right behind luma, one pitch; the encoder here is FFV1."""
    size = (48, 66)
    frames = [replace(random_frame(size, depth, seed=seed), pts=seed, time_base=Fraction(1, 25)) for seed in range(4)]
    kind = Kind.of(frames[0])
    made = encodable(kind, kind.upload(frames, CPU))
    y, u, v = made[0]
    assert y.stride() == (256, 1)
    assert u.stride() == v.stride() == (256, 2)
    assert u.data_ptr() == y.data_ptr() + 48 * 256 * y.itemsize
    assert v.data_ptr() == u.data_ptr() + y.itemsize
    picture = av.VideoFrame.from_dlpack(to_encoder(replace(frames[0], planes=made[0])), form, 66, 48)
    assert picture.format.name == form
    back = picture.reformat(format="yuv420p" if depth == 8 else "yuv420p10le", threads=1)
    for index, truth in enumerate(frames[0].planes):
        plane = back.planes[index]
        got = np.frombuffer(plane, truth.dtype).reshape(truth.shape[0], -1)[:, : truth.shape[1]]
        np.testing.assert_array_equal(got, truth)
    if depth > 8:
        return  # FFV1 takes no P010, and PyAV's own conversion for it, on several threads, is wrong now and then

    info = StreamInfo(size, Fraction(25), Fraction(1, 25), Color(), depth=depth)
    options = OutputOptions(codec="ffv1")
    for name, given in (
        ("near.mkv", frames),
        ("far.mkv", [replace(frame, planes=planes) for frame, planes in zip(frames, made, strict=True)]),
    ):
        sink = PyAVSink(str(tmp_path / name), info, options)
        if name == "far.mkv":
            sink._lent, sink._pix_fmt = to_encoder, form
        for frame in given:
            sink.write(frame)
        sink.commit()
    with PyAVSource(tmp_path / "near.mkv") as near, PyAVSource(tmp_path / "far.mkv") as far:
        for one, other in zip(near, far, strict=True):
            assert (one.pts, one.color) == (other.pts, other.color)
            for plane, truth in zip(other.planes, one.planes, strict=True):
                np.testing.assert_array_equal(plane, truth)


def test_a_compositor_leaves_what_an_encoder_takes(device):
    frames = list(clip(3))
    near = GpuCompositor(open_background("teal"), Segmenter(engine=Spot()), device=device)(frames)
    far = GpuCompositor(open_background("teal"), Segmenter(engine=Spot()), device=device, leave=True)(frames)
    for one, other in zip(near, far, strict=True):
        assert isinstance(other.planes[0], torch.Tensor)
        assert (one.pts, one.size, one.subsampled) == (other.pts, other.size, other.subsampled)
        for plane, truth in zip(to_frame(other).planes, one.planes, strict=True):
            np.testing.assert_array_equal(plane, truth)


class TestUploads:
    def test_frames_are_on_the_device_and_on_the_host(self, device):
        source = SyntheticSource(size=(48, 64), frames=4)
        expected = list(SyntheticSource(size=(48, 64), frames=4))
        with Uploads(source, device) as uploads:
            assert uploads.info == source.info
            assert (uploads.corrupt, uploads.truncated, uploads.notes) == (0, False, ())
            got = list(uploads)
        for one, other in zip(expected, got, strict=True):
            assert (one.pts, one.size) == (other.pts, other.size)
            assert isinstance(other.planes, Lifted)
            assert to_frame(other).planes is other.planes.host
            for plane, truth in zip(other.planes, one.planes, strict=True):
                assert plane.device.type == device.type
                np.testing.assert_array_equal(plane.cpu().numpy(), truth)

    def test_they_are_computed_as_others_are(self, device):
        frames = list(clip(3))
        lift = Lift(device)
        expected = GpuCompositor(open_background("teal"), Segmenter(engine=Spot()), device=device)(frames)
        for lifted in ([lift(frame) for frame in frames], [frames[0], lift(frames[1]), frames[2]]):
            got = GpuCompositor(open_background("teal"), Segmenter(engine=Spot()), device=device)(lifted)
            for one, other in zip(expected, got, strict=True):
                np.testing.assert_array_equal(one.planes[0], other.planes[0])
                np.testing.assert_array_equal(one.planes[2], other.planes[2])
        assert all(lift(frame) is frame for frame in map(lift, frames))

    def test_without_room_frames_stay_where_they_are(self, device, monkeypatch):
        [frame] = clip(1)
        lift = Lift(device)

        def full(self, frames, device):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

        monkeypatch.setattr(Kind, "upload", full)
        assert lift(frame) is frame
        monkeypatch.undo()
        assert lift(frame) is frame  # for good: nobody wants to hear of it for each frame
