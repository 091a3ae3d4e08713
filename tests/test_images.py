"""Still pictures: the same path as video, their own sizes, bits and names, and nothing half done."""

from __future__ import annotations

import os
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from vidseg.decoding import read_picture
from vidseg.errors import EngineError, OutputExistsError, SinkError, SourceError, SourceNotFoundError
from vidseg.images import process_pictures
from vidseg.pipeline import Interrupted
from vidseg.segmenter import Segmenter
from vidseg.sinks.pictures import encode_picture
from vidseg.testing import ConstantEngine

RED, GREY = (200, 20, 20), (128, 128, 128)


class SeeingEngine(ConstantEngine):
    """Finds what is grey."""

    def infer(self, src, state=()):
        super().infer(src)
        return np.clip(1.2 - 4 * (src[:, 0] - src[:, 1]), 0, 1).astype(np.float32), ()


def seeing():
    return Segmenter(engine=SeeingEngine(size=(64, 64)))


def constant(value):
    return lambda: Segmenter(engine=ConstantEngine(value))


def never():
    raise AssertionError("the model was loaded before the names were checked")


def room(size=(96, 128), dtype=np.uint8):
    """Return a red room and where the grey person stands in it."""
    y, x = np.mgrid[: size[0], : size[1]]
    person = (y - size[0] * 0.5) ** 2 + (x - size[1] * 0.4) ** 2 < (min(size) * 0.3) ** 2
    rgb = np.where(person[..., None], np.uint8(GREY), np.uint8(RED))
    return (rgb if dtype == np.uint8 else rgb.astype(np.uint16) * 257), person


def save(path, rgb, alpha=None):
    path.write_bytes(encode_picture(path.suffix, rgb, alpha))
    return path


def inside(person):
    # The network sees 64 pixels: two of its pixels away from the edge is inside.
    return cv2.erode(person.astype(np.uint8), np.ones([1 + max(person.shape) // 16] * 2, np.uint8)) > 0


def outside(person):
    return cv2.dilate(person.astype(np.uint8), np.ones([1 + max(person.shape) // 8] * 2, np.uint8)) == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(96, 128), (301, 203)])
def test_the_person_stays_and_the_room_goes(tmp_path, size, dtype):
    rgb, person = room(size, dtype)
    save(tmp_path / "in.png", rgb)
    stats = process_pictures(str(tmp_path / "in.png"), str(tmp_path / "out.png"), "#0000ff", seeing)
    assert (stats.frames, stats.corrupt, stats.output) == (1, 0, str(tmp_path / "out.png"))
    read = read_picture(tmp_path / "out.png").rgb
    assert read.dtype == dtype
    np.testing.assert_array_equal(read[inside(person)], rgb[inside(person)])
    top = np.iinfo(dtype).max
    assert np.abs(read[outside(person)].astype(int) - (0, 0, top)).max() <= top // 255
    assert (read[..., 0] > read[..., 1] + 0.2 * top).mean() < 0.002  # no red rim
    assert sorted(os.listdir(tmp_path)) == ["in.png", "out.png"]


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_a_cutout_has_alpha_and_no_room(tmp_path, suffix):
    rgb, person = room()
    save(tmp_path / "in.png", rgb)
    process_pictures(str(tmp_path / "in.png"), str(tmp_path / f"out{suffix}"), "transparent", seeing)
    with Image.open(tmp_path / f"out{suffix}") as image:
        read = np.array(image.convert("RGBA")).astype(int)
    assert (read[inside(person)][:, 3] == 255).all()
    assert not read[outside(person)][:, 3].any()
    assert ((read[..., 0] - read[..., 1]) > 60).mean() < 0.002
    if suffix == ".png":
        assert not read[read[..., 3] == 0].any()


def test_a_matte_is_a_grey_picture(tmp_path):
    rgb, person = room()
    save(tmp_path / "in.png", rgb)
    process_pictures(str(tmp_path / "in.png"), str(tmp_path / "out.png"), None, seeing)
    read = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    assert read.shape == person.shape
    assert (read[inside(person)] == 255).all()
    assert not read[outside(person)].any()


def test_alpha_that_is_there_is_multiplied_in(tmp_path):
    rgb, _ = room()
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[:, :40], alpha[:, 40:80] = 0, 100
    save(tmp_path / "in.png", rgb, alpha)
    process_pictures(str(tmp_path / "in.png"), str(tmp_path / "out.png"), "transparent", constant(1.0))
    read = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read[..., 3], alpha)
    assert not read[:, :40].any()


def test_exif_is_applied_once(tmp_path):
    rgb, person = room()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "in.jpg", exif=exif, quality=95)
    process_pictures(str(tmp_path / "in.jpg"), str(tmp_path / "out.jpg"), "#0000ff", seeing)
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.size == (96, 128)
        assert image.getexif().get(0x0112, 1) == 1
        read = np.array(image)
    upright = np.rot90(inside(person), -1)
    assert np.abs(read[upright].astype(int) - GREY).max() < 30


def test_the_profile_of_a_deep_picture_stays(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb, _ = room(dtype=np.uint16)
    (tmp_path / "in.png").write_bytes(encode_picture(".png", rgb, profile=profile))
    process_pictures(str(tmp_path / "in.png"), str(tmp_path / "out.png"), "#0000ff", seeing)
    with Image.open(tmp_path / "out.png") as image:
        assert image.info["icc_profile"] == profile


def test_a_folder_keeps_names_sizes_and_formats(tmp_path):
    (tmp_path / "in").mkdir()
    sizes = {"a.png": (40, 60), "b.jpg": (80, 50), "c.webp": (33, 1), "d.bmp": (1, 1)}
    for name, size in sizes.items():
        Image.fromarray(room(size)[0]).save(tmp_path / "in" / name)
    seen = []
    stats = process_pictures(
        str(tmp_path / "in"), str(tmp_path / "out"), "#0000ff", constant(1.0), progress=seen.append
    )
    assert (stats.frames, stats.output, seen[-1].total) == (4, str(tmp_path / "out"), 4)
    written = {p.name: read_picture(p).rgb.shape[:2] for p in (tmp_path / "out").iterdir()}
    assert written == {"a.png": (40, 60), "b.jpg": (80, 50), "c.webp": (33, 1), "d.png": (1, 1)}
    np.testing.assert_array_equal(read_picture(tmp_path / "out" / "a.png").rgb, room((40, 60))[0])


def test_cutouts_whose_names_would_meet_are_told_apart(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "a.png", "a.jpg.png", "A.webp"):
        Image.fromarray(room((40, 60))[0]).save(tmp_path / "in" / name)
    process_pictures(str(tmp_path / "in"), str(tmp_path / "out"), "transparent", constant(1.0))
    assert len({name.lower() for name in os.listdir(tmp_path / "out")}) == 4
    assert all(name.endswith(".png") for name in os.listdir(tmp_path / "out"))


def test_one_picture_into_a_folder(tmp_path):
    save(tmp_path / "in.jpg", room()[0])
    (tmp_path / "there").mkdir()
    for folder in ("there", "new", "new.d/"):
        stats = process_pictures(str(tmp_path / "in.jpg"), f"{tmp_path}/{folder}", "transparent", constant(1.0))
        assert os.listdir(tmp_path / folder) == ["in.png"]
        assert stats.output == str(tmp_path / folder / "in.png")


def test_a_broken_picture_is_named_and_the_rest_goes_on(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "c.png"):
        save(tmp_path / "in" / name, room()[0])
    (tmp_path / "in" / "b.png").write_text("no picture")
    stats = process_pictures(str(tmp_path / "in"), str(tmp_path / "out"), "transparent", constant(1.0))
    assert (stats.frames, stats.corrupt, len(stats.notes)) == (2, 1, 1)
    assert "b.png" in stats.notes[0]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "c.png"]


def test_a_folder_of_broken_pictures_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.png").write_text("no picture")
    with pytest.raises(SourceError, match=r"holds no picture that can be read.*b\.png"):
        process_pictures(str(tmp_path / "in"), str(tmp_path / "out"), "transparent", constant(1.0))
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
    ("source", "output", "background", "error", "text"),
    [
        ("missing.png", "out.png", "#fff", SourceNotFoundError, "does not exist"),
        ("empty", "out", "#fff", SourceError, "holds no picture"),
        ("text.png", "out.png", "#fff", SourceError, "not a picture"),
        ("text", "out.png", "#fff", SourceError, "not a still picture"),
        ("moving.gif", "out.png", "#fff", SourceError, "vidseg process"),
        ("a.png", "out.gif", "#fff", SinkError, r"\.png, \.webp or \.jpg"),
        ("a.png", "out.jpg", "transparent", SinkError, "JPEG has no alpha"),
        ("a.png", "a.png", "#fff", SinkError, "which is read"),
        ("a.png", ".", "#fff", SinkError, "which is read"),
        ("a.png", "link.png", "#fff", SinkError, "which is read"),
        ("a.png", "hard.png", "#fff", SinkError, "which is read"),
        ("full", "full/", "transparent", SinkError, "is the input"),
        ("full/*.png", "full", "#fff", SinkError, "which is read"),
        ("a.png", "there.png", "#fff", OutputExistsError, "exists"),
        ("a" * 300 + ".png", "out.png", "#fff", SourceNotFoundError, "does not exist"),
        ("a.png", "o" * 300 + ".png", "#fff", SinkError, "too long"),
        ("full", "o" * 300, "#fff", SinkError, "too long"),
        ("a.png", "missing/out.png", "#fff", SinkError, "does not exist"),
        ("a.png", "text.png/out.png", "#fff", SinkError, "does not exist"),
        ("full", "out.png", "#fff", SinkError, "name a folder"),
        ("full", "noext", "#fff", SinkError, "is a file"),
        ("full", "missing/out", "#fff", SinkError, "does not exist"),
        ("a.png", "out.png", "missing.jpg", SourceNotFoundError, "missing.jpg"),
    ],
)
def test_mistakes_are_one_sentence_and_change_nothing(tmp_path, monkeypatch, source, output, background, error, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    for name in ("a.png", "there.png", "full/b.png", "full/c.png"):
        save(tmp_path / name, room()[0])
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "hard.png").hardlink_to(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "noext").write_text("hello")
    frames = [Image.fromarray(room()[0]), Image.fromarray(room()[0][:, ::-1])]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=text) as caught:
        process_pictures(source, output, background, never)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_to_overwrite_is_allowed_when_asked_for(tmp_path):
    save(tmp_path / "a.png", room()[0])
    (tmp_path / "out.png").write_text("old")
    process_pictures(str(tmp_path / "a.png"), str(tmp_path / "out.png"), "#fff", constant(0.0), overwrite=True)
    assert read_picture(tmp_path / "out.png").rgb.min() == 255


class SlowEngine(ConstantEngine):
    def infer(self, src, state=()):
        time.sleep(0.04)
        return super().infer(src)


def test_ctrl_c_keeps_what_is_whole(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(30):
        save(tmp_path / "in" / f"{number}.png", room()[0])

    def pressed(progress):
        if progress.frames:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        process_pictures(
            str(tmp_path / "in"), f"{tmp_path}/out", "#fff", lambda: Segmenter(engine=SlowEngine()), progress=pressed
        )
    assert caught.value.partial == str(tmp_path / "out.partial")
    assert sorted(os.listdir(tmp_path)) == ["in", "out.partial"]
    assert 1 <= len(os.listdir(tmp_path / "out.partial")) < 30


def test_a_link_stays_a_link(tmp_path):
    save(tmp_path / "a.png", room()[0])
    (tmp_path / "real").mkdir()
    (tmp_path / "out.png").symlink_to(tmp_path / "real" / "b.png")
    process_pictures(str(tmp_path / "a.png"), str(tmp_path / "out.png"), "#fff", constant(0.0))
    assert (tmp_path / "out.png").is_symlink()
    assert os.listdir(tmp_path / "real") == ["b.png"]


def test_a_model_that_cannot_be_opened_leaves_nothing(tmp_path):
    def failing():
        raise EngineError("no model")

    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.png", room()[0])
    with pytest.raises(EngineError, match="no model"):
        process_pictures(str(tmp_path / "in"), str(tmp_path / "out"), "#fff", failing)
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("background", ["#00ff00", "transparent", "blur", None])
def test_a_failing_engine_shows_nothing(tmp_path, background):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, room()[0])
    with pytest.raises(RuntimeError, match="injected"):
        process_pictures(
            str(tmp_path / "in"), str(tmp_path / "out"), background, lambda: Segmenter(engine=ConstantEngine(fail_at=1))
        )
    assert os.listdir(tmp_path) == ["in"]
