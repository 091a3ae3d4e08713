"""Pictures in and out: natural order, exact samples, names that appear only when all is whole."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
from PIL import Image

from vidseg.color import planes_from_rgb
from vidseg.decoding import Picture, read_picture
from vidseg.errors import OutputExistsError, SinkError, SourceError, SourceNotFoundError
from vidseg.frame import RGB, Color, Frame, StreamInfo
from vidseg.sinks import OutputOptions
from vidseg.sinks import pictures as sinks
from vidseg.sinks.pictures import PictureSink, encode_picture
from vidseg.sources import pictures as sources
from vidseg.sources.pictures import PictureSource, list_pictures, to_frame

INFO = StreamInfo((6, 10), Fraction(30), Fraction(1, 30), RGB, subsampled=False)


def noise(size=(6, 10), dtype=np.uint8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)


def save(path, rgb):
    path.write_bytes(encode_picture(path.suffix, rgb))
    return path


def rgb_of(frame):
    green, blue, red = frame.planes
    return np.dstack([red, green, blue])


# Source


def test_pictures_come_in_natural_order_exactly_and_timed(tmp_path):
    for number in (10, 2, 1):
        save(tmp_path / f"shot_{number}.png", noise(seed=number))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    with PictureSource(str(tmp_path), Fraction(25)) as source:
        frames = list(source)
    assert (source.info.frames, source.info.fps, source.info.subsampled) == (3, 25, False)
    assert (source.corrupt, source.truncated, source.notes) == (0, False, ())
    assert [f.time for f in frames] == [0, 0.04, 0.08]
    for frame, number in zip(frames, (1, 2, 10), strict=True):
        np.testing.assert_array_equal(rgb_of(frame), noise(seed=number))
        assert all(plane.flags.c_contiguous for plane in frame.planes)


def test_sixteen_bits_stay(tmp_path):
    path = save(tmp_path / "deep.png", noise(dtype=np.uint16))
    (frame,) = PictureSource(str(path))
    assert frame.depth == 16
    np.testing.assert_array_equal(rgb_of(frame), noise(dtype=np.uint16))


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise((40, 60))).save(tmp_path / "a.png", exif=exif)
    (frame,) = PictureSource(str(tmp_path))
    np.testing.assert_array_equal(rgb_of(frame), np.rot90(noise((40, 60)), -1))


def test_alpha_is_carried(tmp_path):
    rgba = noise(channels=4)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", rgba)[1].tobytes())
    (frame,) = PictureSource(str(tmp_path))
    np.testing.assert_array_equal(frame.alpha, rgba[..., 3])


def test_other_sizes_and_depths_become_the_first_ones(tmp_path):
    save(tmp_path / "1.png", np.full((40, 80, 3), 200, np.uint8))
    save(tmp_path / "2.png", np.full((80, 40, 3), 51400, np.uint16))  # 200 in 16 bits
    with PictureSource(str(tmp_path)) as source:
        _, second = source
    assert second.size == (40, 80)
    assert second.depth == 8
    assert np.all(second.planes[0][:, 30:50] == 200)
    assert not second.planes[0][:, :30].any()
    assert source.notes == ("1 pictures of another size were scaled to 80x40 as the first",)


@pytest.mark.parametrize("broken", ["1.png", "2.png", "3.png"])
def test_a_broken_picture_is_counted_and_leaves_a_gap(tmp_path, broken):
    for name in ("1.png", "2.png", "3.png"):
        save(tmp_path / name, noise())
    (tmp_path / broken).write_bytes(b"not a picture")
    with PictureSource(str(tmp_path)) as source:
        assert [f.pts for f in source] == [i for i in range(3) if f"{i + 1}.png" != broken]
    assert source.corrupt == 1
    assert broken in source.notes[0]


def test_close_ends_the_iteration(tmp_path):
    for number in range(5):
        save(tmp_path / f"{number}.png", noise())
    source = PictureSource(str(tmp_path))
    frames = iter(source)
    next(frames)
    source.close()
    source.close()
    assert list(frames) == []


def test_patterns_and_globs(tmp_path):
    for number in (1, 9, 10):
        save(tmp_path / f"shot_{number:02d}.png", noise())
    save(tmp_path / "shot_x.png", noise())
    names = [p.name for p in list_pictures(str(tmp_path / "shot_%02d.png"))]
    assert names == ["shot_01.png", "shot_09.png", "shot_10.png"]
    assert len(list_pictures(str(tmp_path / "shot_*.png"))) == 4


def test_what_counts_as_pictures(tmp_path):
    animated, still = tmp_path / "moving.webp", tmp_path / "still.webp"
    pictures = [Image.fromarray(noise(seed=seed)) for seed in range(2)]
    pictures[0].save(animated, save_all=True, append_images=pictures[1:])
    pictures[0].save(still)
    pictures[0].save(tmp_path / "moving.gif", save_all=True, append_images=pictures[1:])
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    save(tmp_path / "odd name 100%.png", noise())
    yes = [tmp_path, still, tmp_path / "odd name 100%.png", tmp_path / "a_%04d.png", tmp_path / "*.png", "missing.png"]
    no = [animated, tmp_path / "moving.gif", tmp_path / "film.mp4", "missing.mp4", "http://host/a.png", "film_%d.mp4"]
    assert [sources.is_pictures(str(p)) for p in yes] == [True] * len(yes)
    assert [sources.is_pictures(str(p)) for p in no] == [False] * len(no)


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("missing.png", SourceNotFoundError, "does not exist"),
        ("missing/shot_%d.png", SourceNotFoundError, "folder"),
        ("shot_%d.png", SourceNotFoundError, "No file fits"),
        ("*.jpg", SourceNotFoundError, "No file fits"),
        ("empty", SourceError, "holds no picture"),
        ("zero.png", SourceError, "0 bytes"),
        ("text.png", SourceError, "not a picture"),
        ("", SourceError, "none|no picture"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, error, text):
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(error, match=text) as caught:
        PictureSource(str(tmp_path / name))
    assert "\n" not in str(caught.value)


# Sink


def write(url, frames, *, info=INFO, **options):
    sink = PictureSink(str(url), info, OutputOptions(**options))
    for frame in frames:
        sink.write(frame)
    sink.commit()


def frame_of(rgb, alpha=None):
    return to_frame(Picture(rgb, alpha))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_are_written_exactly(tmp_path, dtype):
    write(tmp_path / "out", [frame_of(noise(dtype=dtype, seed=seed)) for seed in range(3)])
    assert sorted(os.listdir(tmp_path / "out")) == ["000001.png", "000002.png", "000003.png"]
    assert os.listdir(tmp_path) == ["out"]
    for seed in range(3):
        read = read_picture(tmp_path / "out" / f"{seed + 1:06d}.png").rgb
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, noise(dtype=dtype, seed=seed))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparent_pictures_have_straight_alpha_and_no_room_under_it(tmp_path, dtype):
    rgb, alpha = noise(dtype=dtype), noise(channels=1, seed=1)[..., 0]
    alpha[:, :4] = 0
    write(tmp_path / "out", [replace(frame_of(rgb), alpha=alpha)], content="transparent")
    read = cv2.imread(str(tmp_path / "out" / "000001.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read[..., 3], alpha.astype(dtype) * (1 if dtype == np.uint8 else 257))
    assert not read[:, :4].any()
    np.testing.assert_array_equal(read[:, 4:, 2::-1][alpha[:, 4:] > 0], rgb[:, 4:][alpha[:, 4:] > 0])


@pytest.mark.parametrize("content", ["opaque", "transparent"])
def test_alpha_that_does_not_fit_the_content_is_refused(tmp_path, content):
    frame = frame_of(noise()) if content == "transparent" else replace(frame_of(noise()), alpha=noise()[..., 0])
    with pytest.raises(ValueError, match="alpha"):
        write(tmp_path / "out", [frame], content=content)


@pytest.mark.parametrize("color", [Color("bt709", True), Color("bt709", False)])
def test_a_matte_is_grey(tmp_path, color):
    luma = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4
    chroma = np.full((3, 5), 128, np.uint8)
    write(tmp_path / "out", [Frame((luma, chroma, chroma), 0, Fraction(1, 30), color)], content="grey")
    read = cv2.imread(str(tmp_path / "out" / "000001.png"), cv2.IMREAD_UNCHANGED)
    assert read.ndim == 2
    expected = luma if color.full_range else np.rint(np.clip((luma - 16.0) / 219, 0, 1) * 255)
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(("matrix", "depth"), [("bt601", 8), ("bt709", 8), ("bt2020", 10)])
def test_ycbcr_becomes_the_right_colour(tmp_path, matrix, depth):
    rgb = np.full((6, 10, 3), (200, 90, 30), np.uint8)
    color = Color(matrix, False, 9, 16) if depth == 10 else Color(matrix)
    frame = Frame(planes_from_rgb(rgb, color, depth), 0, Fraction(1, 30), color, depth)
    write(tmp_path / "out", [frame])
    written = tmp_path / "out" / "000001.png"
    read = read_picture(written).rgb
    assert read.dtype == (np.uint8 if depth == 8 else np.uint16)
    scale = 1 if depth == 8 else 257
    assert np.abs(read.astype(int) - rgb.astype(int) * scale).max() <= 1.5 * scale
    assert (b"cICP\x09\x10\x00\x01" in written.read_bytes()) == (depth == 10)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_pictures_stand_upright(tmp_path, rotation):
    write(tmp_path / "out", [frame_of(noise())], info=replace(INFO, rotation=rotation))
    np.testing.assert_array_equal(read_picture(tmp_path / "out" / "000001.png").rgb, np.rot90(noise(), rotation // 90))


def test_a_mirrored_stream_and_oblong_pixels(tmp_path):
    info = replace(INFO, rotation=90, mirrored=True, sample_aspect=Fraction(4, 3))
    write(tmp_path / "out", [frame_of(noise())], info=info)
    written = tmp_path / "out" / "000001.png"
    np.testing.assert_array_equal(read_picture(written).rgb, np.rot90(noise())[:, ::-1])
    assert b"pHYs\0\0\0\x04\0\0\0\x03\0" in written.read_bytes()  # so many pixels a unit, across and down


@pytest.mark.parametrize("name", ["out", "seen/shot_%03d.png", "shot_%03d.jpg", "out/"])
def test_nothing_has_its_name_before_commit(tmp_path, name):
    (tmp_path / "seen").mkdir()
    sink = PictureSink(f"{tmp_path}/{name}", INFO, OutputOptions())
    sink.write(frame_of(noise()))
    assert [p for p in tmp_path.rglob("*") if not any(q.startswith(".") for q in p.relative_to(tmp_path).parts)] == [
        tmp_path / "seen"
    ]
    assert sink.abort() is None
    assert os.listdir(tmp_path) == ["seen"]
    assert os.listdir(tmp_path / "seen") == []


def test_abort_keeps_what_is_there_as_partial(tmp_path):
    sink = PictureSink(str(tmp_path / "out"), INFO, OutputOptions())
    sink.write(frame_of(noise()))
    assert sink.abort(keep_partial=True) == str(tmp_path / "out.partial")
    assert os.listdir(tmp_path) == ["out.partial"]
    assert os.listdir(tmp_path / "out.partial") == ["000001.png"]


def test_the_folder_may_be_entered_by_others(tmp_path):
    os.umask(mask := os.umask(0))
    write(tmp_path / "out", [frame_of(noise())])
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_full_folder_is_left_alone(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(OutputExistsError, match="not empty"):
        PictureSink(str(out), INFO, OutputOptions())
    assert os.listdir(out) == ["mine.txt"]
    save(out / "shot_1.png", noise())
    with pytest.raises(OutputExistsError, match=r"shot_1\.png"):
        PictureSink(str(out / "shot_%d.png"), INFO, OutputOptions())


def test_to_overwrite_replaces_numbered_pictures_only(tmp_path):
    out = tmp_path / "out"
    write(out, [frame_of(noise(seed=seed)) for seed in range(5)])
    (out / "mine.txt").write_text("precious")
    write(out, [frame_of(noise(seed=7))], overwrite=True)
    assert sorted(os.listdir(out)) == ["000001.png", "mine.txt"]
    np.testing.assert_array_equal(read_picture(out / "000001.png").rgb, noise(seed=7))


@pytest.mark.parametrize(
    ("source", "output"),
    [("in", "in"), ("in", "in/../in"), ("in", "in/%06d.png"), ("in/%06d.png", "in"), ("in/000001.png", "in/%d.png")],
)
def test_the_input_is_never_replaced(tmp_path, monkeypatch, source, output):
    monkeypatch.chdir(tmp_path)
    write("in", [frame_of(noise())])
    with PictureSource(source) as opened, pytest.raises(SinkError, match="is the input"):
        PictureSink(output, opened.info, OutputOptions(overwrite=True))
    assert os.listdir("in") == ["000001.png"]


def test_pictures_beside_a_video_may_be_replaced(tmp_path):
    write(tmp_path, [frame_of(noise())], info=replace(INFO, name=str(tmp_path / "film.mp4")))
    write(tmp_path, [frame_of(noise())], info=replace(INFO, name=str(tmp_path / "film.mp4")), overwrite=True)
    assert os.listdir(tmp_path) == ["000001.png"]


def test_what_appears_meanwhile_is_spared(tmp_path):
    sink = PictureSink(str(tmp_path / "out"), INFO, OutputOptions())
    sink.write(frame_of(noise()))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000001.png").write_text("precious")
    with pytest.raises(OutputExistsError, match=r"out\.partial"):
        sink.commit()
    sink.abort()
    assert (tmp_path / "out" / "000001.png").read_text() == "precious"
    assert os.listdir(tmp_path / "out.partial") == ["000001.png"]


def test_an_older_partial_is_spared(tmp_path):
    (tmp_path / "out.partial").mkdir()
    sink = PictureSink(str(tmp_path / "out"), INFO, OutputOptions())
    sink.write(frame_of(noise()))
    assert sink.abort(keep_partial=True) == str(tmp_path / "out.partial-2")


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("missing/deep/out", {}, "does not exist"),
        ("file", {}, "is a file"),
        ("file/out", {}, "does not exist"),
        ("shot_%d.jpg", {"content": "transparent"}, "JPEG has no alpha"),
        ("a_%d_%d.png", {}, "one number"),
        ("out", {"codec": "h264"}, "codec"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(tmp_path, name, options, text):
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=text):
        PictureSink(str(tmp_path / name), INFO, OutputOptions(**options))
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    sink = PictureSink(str(tmp_path / "out"), INFO, OutputOptions())

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(SinkError, match="No space left"):
        sink.write(frame_of(noise()))
    sink.abort()
    assert os.listdir(tmp_path) == []


def test_which_outputs_are_pictures(tmp_path):
    (tmp_path / "folder.v2").mkdir()
    yes = ["out", "out/", "out.d/", "a_%04d.png", "a_%d.webp", str(tmp_path / "folder.v2")]
    no = ["out.mp4", "out.png", "rtmp://host/live", "film_%d.mp4"]
    assert [sinks.is_pictures(name) for name in yes] == [True] * len(yes)
    assert [sinks.is_pictures(name) for name in no] == [False] * len(no)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_an_icc_profile_is_embedded(suffix, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode_picture(suffix, noise((64, 64)), profile=profile))
    with Image.open(path) as image:
        image.load()
        assert image.info["icc_profile"] == profile


def test_a_size_that_the_format_cannot_hold_is_one_sentence():
    with pytest.raises(SinkError, match="20000x1"):
        encode_picture(".webp", np.zeros((1, 20000, 3), np.uint8), name="a.webp")
