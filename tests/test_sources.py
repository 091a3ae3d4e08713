"""The contract of ``Source``, for every implementation, and what PyAVSource makes of every kind of file."""

from __future__ import annotations

import functools
import gc
import http.server
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests import media
from vidseg.errors import SourceError, SourceNotFoundError
from vidseg.frame import Frame, chroma_size
from vidseg.sources import Source, open_source
from vidseg.sources.pyav import PyAVSource


def _pictures(folder: Path) -> str:
    import cv2

    folder = folder / "shots"
    folder.mkdir()
    for index in range(5):
        cv2.imwrite(str(folder / f"{index:06d}.png"), np.full((48, 64, 3), 40 * index, np.uint8))
    return str(folder)


def _video(make: Callable[..., Path], name: str, **kwargs: object) -> Callable[[Path], str]:
    return lambda folder: str(make(folder / name, **kwargs))


# A new source is one line here: its name and a function that makes something to read in a folder.
SOURCES: dict[str, Callable[[Path], str]] = {
    "mp4": _video(media.clip, "clip.mp4"),
    "vfr": _video(media.vfr, "vfr.mp4"),
    "mkv": _video(media.lossless, "odd.mkv", size=(35, 61)),
    "10-bit": _video(media.hdr, "hdr.mp4"),
    "interlaced": _video(media.clip, "fields.mp4", interlaced=True),
    "raw": _video(media.raw, "raw.h264"),
    "size change": _video(media.size_change, "sizes.h264"),
    "cut": _video(media.cut, "cut.mp4"),
    "corrupt": _video(media.corrupt, "corrupt.mp4"),
    "pictures": _pictures,
}


@pytest.fixture(params=SOURCES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return SOURCES[request.param](tmp_path)


def _threads() -> int:
    """Return the number of threads of this process, FFmpeg's included."""
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else threading.active_count()


def _settled(count: int) -> bool:
    for _ in range(100):
        gc.collect()
        if _threads() <= count:
            return True
        time.sleep(0.02)
    return False


# -- the contract ------------------------------------------------------------------------------------------------------


def test_frames_are_what_info_promises(url: str) -> None:
    with open_source(url) as source:
        info = source.info
        frames = list(source)
    assert frames
    for frame in frames:
        assert frame.size == info.size
        assert frame.depth == info.depth
        assert frame.time_base == info.time_base
        assert frame.planes[0].dtype == (np.uint8 if info.depth == 8 else np.uint16)
        assert frame.planes[1].shape == frame.planes[2].shape == chroma_size(info.size, info.subsampled)
        assert frame.color.matrix == info.color.matrix
    assert info.name


def test_timestamps_strictly_increase(url: str) -> None:
    with open_source(url) as source:
        times = [frame.pts for frame in source]
    assert all(a < b for a, b in itertools.pairwise(times))


def test_reading_twice_gives_the_same(url: str) -> None:
    def read() -> list[Frame]:
        with open_source(url) as source:
            return list(source)

    for a, b in zip(read(), read(), strict=True):
        assert a.pts == b.pts
        assert all(np.array_equal(p, q) for p, q in zip(a.planes, b.planes, strict=True))


def test_a_frame_outlives_its_source_and_never_changes(url: str) -> None:
    with open_source(url) as source:
        frames = []
        copies = []
        for frame in source:
            frames.append(frame)
            copies.append([plane.copy() for plane in frame.planes])
    gc.collect()
    for frame, copy in zip(frames, copies, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(frame.planes, copy, strict=True))


def test_close_may_be_called_at_any_time(url: str) -> None:
    source = open_source(url)
    source.close()
    source.close()
    assert list(source) == []
    source = open_source(url)
    frames = iter(source)
    next(frames)
    source.close()
    assert list(frames) == []
    source.close()


def test_close_from_another_thread_ends_the_iteration(url: str) -> None:
    source = open_source(url)
    started = threading.Event()
    seen = []

    def read() -> None:
        for frame in source:
            seen.append(frame.pts)
            started.set()
            time.sleep(0.01)

    reader = threading.Thread(target=read)
    reader.start()
    assert started.wait(5)
    source.close()
    reader.join(5)
    assert not reader.is_alive()


def test_nothing_is_left_behind(url: str) -> None:
    open_source(url).close()  # pools that live for ever are made once
    before, files = _threads(), len(os.listdir("/proc/self/fd"))
    for stop in (0, 1, None):
        with open_source(url) as source:
            for index, _ in enumerate(source):
                if index == stop:
                    break
        del source
        assert _settled(before)
        assert len(os.listdir("/proc/self/fd")) == files


def test_missing(tmp_path: Path) -> None:
    for name in ("gone.mp4", "gone_%04d.png", "gone.png"):
        with pytest.raises(SourceNotFoundError, match="gone"):
            open_source(str(tmp_path / name))


def test_notes_and_counters_exist(url: str) -> None:
    with open_source(url) as source:
        for _ in source:
            pass
        assert source.corrupt >= 0
        assert source.truncated in (True, False)
        assert not any(note.endswith(".") for note in source.notes)


# -- timestamps --------------------------------------------------------------------------------------------------------


def _read(path: Path | str) -> tuple[Source, list[Frame]]:
    with PyAVSource(str(path)) as source:
        return source, list(source)


def test_constant_rate(tmp_path: Path) -> None:
    source, frames = _read(media.clip(tmp_path / "a.mp4", fps=Fraction(30000, 1001)))
    assert source.info.fps == Fraction(30000, 1001)
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(1001 * n, 30000) for n in range(12)]
    assert all(frame.duration * frame.time_base == Fraction(1001, 30000) for frame in frames)
    assert source.info.frames == 12
    assert source.info.duration == pytest.approx(12 * 1001 / 30000, abs=1e-3)
    assert not source.info.live


def test_variable_rate(tmp_path: Path) -> None:
    _, frames = _read(media.vfr(tmp_path / "a.mp4"))
    expected = [0, 33, 67, 100, 250, 251, 400, 433, 900, 933, 967, 1500]
    assert [round(frame.pts * frame.time_base * 1000) for frame in frames] == expected


def test_no_timestamps(tmp_path: Path) -> None:
    source, frames = _read(media.raw(tmp_path / "a", fps=Fraction(24000, 1001)))
    assert [frame.pts * frame.time_base for frame in frames][:3] == pytest.approx([0, 1001 / 24000, 2002 / 24000], 1e-3)
    assert "12 timestamps were missing or out of order" in " ".join(source.notes)


def test_negative_timestamps(tmp_path: Path) -> None:
    source, frames = _read(media.odd_timestamps(tmp_path / "a.mkv", [-100, -60, -20, 20]))
    assert [frame.pts for frame in frames] == [-100, -60, -20, 20]
    assert not any("timestamp" in note for note in source.notes)


def test_doubled_timestamps_are_moved_as_little_as_possible(tmp_path: Path) -> None:
    source, frames = _read(media.odd_timestamps(tmp_path / "a.mkv", [0, 40, 40, 80, 70, 120]))
    assert [frame.pts for frame in frames] == [0, 40, 41, 80, 81, 120]
    assert any("2 timestamps" in note for note in source.notes)


def test_a_clock_that_was_set_back_goes_on(tmp_path: Path) -> None:
    _, frames = _read(media.odd_timestamps(tmp_path / "a.mkv", [9000, 9040, 9080, 0, 40, 80]))
    assert [frame.pts for frame in frames] == [9000, 9040, 9080, 9120, 9160, 9200]


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (48, 64), (361, 641)], ids=str)
def test_planes_are_exact(tmp_path: Path, size: tuple[int, int], depth: int) -> None:
    source, frames = _read(media.lossless(tmp_path / "a.mkv", 3, size, depth))
    assert source.info.size == size
    assert source.info.depth == depth
    for index, frame in enumerate(frames):
        for plane, expected in zip(frame.planes, media.planes(index, size, depth), strict=True):
            np.testing.assert_array_equal(plane, expected)


def test_planes_are_views_of_the_decoder(tmp_path: Path) -> None:
    _, frames = _read(media.clip(tmp_path / "a.mp4"))
    for plane in frames[0].planes:
        assert not plane.flags.owndata
        assert isinstance(plane.base, av.video.plane.VideoPlane)


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "suffix", "depth", "tolerance"),
    [
        ("yuv422p", "ffv1", ".mkv", 8, 2),
        ("yuv444p", "ffv1", ".mkv", 8, 2),
        ("yuva420p", "ffv1", ".mkv", 8, 0),
        ("yuv422p10le", "ffv1", ".mkv", 10, 4),
        ("yuv420p12le", "ffv1", ".mkv", 10, 1),
        ("yuv444p16le", "ffv1", ".mkv", 10, 8),
        ("yuv422p10le", "prores_ks", ".mov", 10, 30),
        ("nv12", "rawvideo", ".nut", 8, 0),
    ],
)
def test_other_formats_become_420(
    tmp_path: Path, pix_fmt: str, codec: str, suffix: str, depth: int, tolerance: int
) -> None:
    source, frames = _read(media.clip(tmp_path / f"a{suffix}", 3, codec=codec, pix_fmt=pix_fmt, color=media.BT709))
    assert source.info.depth == depth
    if suffix != ".nut":  # which stores no tags
        assert source.info.color.matrix == "bt709"
    assert not source.info.color.full_range
    assert depth == media.sample_depth(pix_fmt)
    for index, frame in enumerate(frames):
        for plane, scaled in zip(frame.planes, media.planes(index, depth=depth), strict=True):
            # The square's hard edges ring: most of the picture counts.
            assert np.quantile(np.abs(plane.astype(float) - scaled), 0.8) <= tolerance


@pytest.mark.parametrize(("range_code", "pix_fmt"), [(1, "yuv422p"), (2, "yuv422p"), (2, "yuv444p10le")])
def test_conversion_keeps_matrix_and_range(tmp_path: Path, range_code: int, pix_fmt: str) -> None:
    tags = {**media.BT601, "color_range": range_code}
    path = media.clip(tmp_path / "a.mkv", 1, codec="ffv1", pix_fmt=pix_fmt, color=tags)
    source, frames = _read(path)
    assert source.info.color.full_range == (range_code == 2)
    assert source.info.color.matrix == "bt601"
    np.testing.assert_array_equal(frames[0].planes[0], media.planes(0, depth=source.info.depth)[0])


def test_rgb_becomes_limited_range(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = 720, 1280, "bgr0"
        frame = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), (255, 0, 0), np.uint8), "rgb24").reformat(
            format="bgr0"
        )
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source, frames = _read(path)
    color = source.info.color
    assert (color.matrix, color.full_range, color.matrix_code, color.range_code) == ("bt709", False, 1, 1)
    # Red in limited-range BT.709.
    assert [int(plane[9, 9]) for plane in frames[0].planes] == pytest.approx([63, 102, 240], abs=1)


def test_grey(tmp_path: Path) -> None:
    source, frames = _read(media.clip(tmp_path / "a.mkv", 3, codec="ffv1", pix_fmt="gray"))
    assert source.info.color.full_range
    with av.open(str(tmp_path / "a.mkv")) as container:
        for frame, picture in zip(frames, container.decode(video=0), strict=True):
            np.testing.assert_array_equal(frame.planes[0], picture.to_ndarray())
            assert (frame.planes[1] == 128).all()
            assert frame.subsampled


def test_eight_k(tmp_path: Path) -> None:
    source, frames = _read(media.clip(tmp_path / "a.mp4", 2, (4320, 7680)))
    assert source.info.size == (4320, 7680)
    assert len(frames) == 2


def test_one_frame(tmp_path: Path) -> None:
    source, frames = _read(media.still(tmp_path / "a.mp4"))
    assert len(frames) == 1
    assert not source.truncated


# -- tags --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "matrix", "full"),
    [
        (media.BT709, "bt709", False),
        (media.BT601, "bt601", False),
        (media.BT2020, "bt2020", False),
        ({**media.BT709, "color_range": 2}, "bt709", True),
        ({"colorspace": 5, "color_range": 2}, "bt601", True),
    ],
)
def test_color(tmp_path: Path, tags: dict[str, int], matrix: str, full: bool) -> None:
    source, frames = _read(media.clip(tmp_path / "a.mp4", 2, color=tags))
    for color in (source.info.color, frames[-1].color):
        assert (color.matrix, color.full_range) == (matrix, full)
        assert color.matrix_code == tags["colorspace"]
        assert color.range_code == tags["color_range"]
        assert color.primaries == tags.get("color_primaries", 2)
        assert color.transfer == tags.get("color_trc", 2)
    assert source.notes == ()


@pytest.mark.parametrize(("size", "matrix"), [((480, 640), "bt601"), ((720, 1280), "bt709")])
def test_an_unspecified_matrix_is_guessed_and_told(tmp_path: Path, size: tuple[int, int], matrix: str) -> None:
    source, _ = _read(media.clip(tmp_path / "a.mp4", 2, size))
    assert (source.info.color.matrix, source.info.color.matrix_code) == (matrix, 2)
    assert "does not say which matrix" in source.notes[0]


def test_hdr(tmp_path: Path) -> None:
    source, frames = _read(media.hdr(tmp_path / "a.mp4"))
    color, mastering = source.info.color, source.info.mastering
    assert (source.info.depth, color.matrix, color.primaries, color.transfer) == (10, "bt2020", 9, 16)
    assert frames[0].planes[0].dtype == np.uint16
    assert mastering is not None
    assert mastering.content_light == (1000, 400)
    assert mastering.luminance == (Fraction(5, 1000), Fraction(1000))
    assert mastering.primaries[:2] == (Fraction(34000, 50000), Fraction(16000, 50000))
    assert mastering.primaries[6:] == (Fraction(15635, 50000), Fraction(16450, 50000))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rotation(tmp_path: Path, rotation: int, mirrored: bool, suffix: str) -> None:
    source, _ = _read(media.clip(tmp_path / f"a{suffix}", 2, rotation=rotation, mirrored=mirrored))
    assert (source.info.rotation, source.info.mirrored) == (rotation, mirrored)
    assert source.info.size == (48, 64)


def test_sample_aspect(tmp_path: Path) -> None:
    source, _ = _read(media.clip(tmp_path / "a.mp4", 2, sample_aspect=Fraction(16, 11)))
    assert source.info.sample_aspect == Fraction(16, 11)


def test_interlaced_becomes_progressive(tmp_path: Path) -> None:
    """Two fields of different times comb; nothing of that may be left."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.flags |= av.codec.context.Flags.interlaced_dct | av.codec.context.Flags.interlaced_me
        for index in range(10):
            frame = av.VideoFrame(96, 64, "yuv420p")
            for plane in frame.planes:
                np.frombuffer(plane, np.uint8)[:] = 128
            view = np.ndarray((64, 96), np.uint8, buffer=frame.planes[0], strides=(frame.planes[0].line_size, 1))
            for field in (0, 1):
                view[field::2] = 40
                view[field::2, 8 * index + 4 * field : 8 * index + 4 * field + 10] = 200
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source, frames = _read(path)
    assert "deinterlaced" in " ".join(source.notes)
    assert len(frames) == 10
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(n, 25) for n in range(10)]
    for frame in frames[2:-2]:
        luma = frame.planes[0][8:-8].astype(int)
        combing = np.abs(2 * luma[1:-1] - luma[:-2] - luma[2:]).mean()
        assert combing < 6


# -- what is wrong with a file -----------------------------------------------------------------------------------------


def test_cut_in_the_middle(tmp_path: Path) -> None:
    source, frames = _read(media.cut(tmp_path / "a.mp4"))
    assert source.truncated
    assert 15 < len(frames) < 45
    whole, _ = _read(media.clip(tmp_path / "b.mp4", 60))
    assert not whole.truncated


def test_cut_matroska(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mkv", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source, frames = _read(path)
    assert source.truncated
    assert frames


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".mov"])
def test_a_whole_file_is_not_called_truncated(tmp_path: Path, suffix: str) -> None:
    path = media.clip(tmp_path / f"a{suffix}", 20, audio=[("aac", "eng")], seconds=3.0)
    source, frames = _read(path)
    assert len(frames) == 20
    assert not source.truncated
    assert source.corrupt == 0


def test_corrupt_packets_are_skipped_and_counted(tmp_path: Path) -> None:
    source, frames = _read(media.corrupt(tmp_path / "a.mp4"))
    assert source.corrupt >= 3
    assert len(frames) + source.corrupt == 60
    last = frames[-1]
    assert last.pts * last.time_base == Fraction(59, 30)
    assert not source.truncated


def test_corrupt_transport_stream(tmp_path: Path) -> None:
    source, frames = _read(media.corrupt(tmp_path / "a.ts"))
    assert source.corrupt > 0
    assert len(frames) > 40


def test_size_change_is_scaled_and_told_once(tmp_path: Path) -> None:
    source, frames = _read(media.size_change(tmp_path / "a.h264"))
    assert len(frames) == 12
    assert {frame.size for frame in frames} == {(48, 64)}
    assert sum("changes its size from 64x48 to 96x80" in note for note in source.notes) == 1


def _write(data: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return make


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (media.no_index, "a.mp4", "index \\(moov\\) is missing"),
        (media.sound_only, "a.m4a", "sound but no video"),
        (media.no_frames, "a.mp4", "no video"),
        (media.no_frames, "a.mkv", "no frame|no video"),
        (_write(b""), "a.mp4", "empty"),
        (_write(b"Dear Sir or Madam,\n" * 100), "a.mp4", "not a video"),
        (_write(b"Dear Sir or Madam,\n" * 100), "a.txt", "not a video"),
        (_write(bytes(range(256)) * 99), "a.mkv", "not a video"),
        (_write(b"1\n00:00:00,000 --> 00:00:01,000\nHello\n\n"), "a.srt", "no video"),
        (lambda path: path.mkdir() or path, "folder.mp4", "is a folder"),
    ],
)
def test_not_a_video(tmp_path: Path, make: Callable[[Path], Path], name: str, message: str) -> None:
    path = make(tmp_path / name)
    before = _threads()
    with pytest.raises(SourceError, match=message) as caught:
        PyAVSource(str(path))
    text = str(caught.value)
    assert name in text
    assert not text.endswith(".")
    assert "\n" not in text
    del caught
    assert _settled(before)


def test_unreadable(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mp4", 2)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(SourceError, match="permission denied"):
        PyAVSource(str(path))


@pytest.mark.parametrize("name", ["talk: part 1.mp4", "100%d.mp4", "ünï çödé.mp4", "-x.mp4", "a'b.mp4"])
def test_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(media.clip(tmp_path / "plain.mp4", 2), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(_read(name)[1]) == 2


def test_cover_picture_is_not_the_video(tmp_path: Path) -> None:
    """A song with its cover has no video."""
    song, path = media.sound_only(tmp_path / "a.m4a"), tmp_path / "b.m4a"
    with av.open(str(song)) as source, av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream_from_template(source.streams.audio[0])
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(media.picture(0).reformat(format="yuvj420p")))
        container.mux(cover.encode(None))
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = sound
                container.mux(packet)
    with pytest.raises(SourceError, match="sound but no video"):
        PyAVSource(str(path))


# -- streams -----------------------------------------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def _serve(folder: Path) -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_http(tmp_path: Path) -> None:
    media.clip(tmp_path / "a.mp4", container_options={"movflags": "faststart"})
    server = _serve(tmp_path)
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        source, frames = _read(f"{address}/a.mp4")
        assert len(frames) == 12
        assert source.info.name == "a.mp4"
        with pytest.raises(SourceNotFoundError, match="404"):
            PyAVSource(f"{address}/b.mp4")
    finally:
        server.shutdown()
        server.server_close()


def test_credentials_stay_out_of_messages() -> None:
    with pytest.raises(SourceError) as caught:
        PyAVSource("http://someone:secret@127.0.0.1:9/a.mp4")
    assert "secret" not in str(caught.value) + caught.value.url + repr(caught.value)


def test_memory_does_not_grow(tmp_path: Path) -> None:
    def peak(path: Path) -> int:
        with PyAVSource(str(path)) as source:
            for _ in source:
                pass
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        return 0

    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs /proc")
    short = media.clip(tmp_path / "a.mp4", 60, (360, 640))
    long = media.clip(tmp_path / "b.mp4", 900, (360, 640))
    peak(short)
    first = peak(short)
    assert peak(long) - first < 8000  # kB; 900 pictures have 300 MB
