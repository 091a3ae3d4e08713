"""remove_background: which path a file takes, and what stands there afterwards."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest
from PIL import Image

import vidseg
from tests import media
from vidseg.errors import OutputExistsError, SinkError, SourceNotFoundError


def portrait(path, size=(96, 128)):
    cv2.imwrite(str(path), media.picture(0, size).to_ndarray(format="bgr24"))
    return path


def test_a_picture_is_cut_out_and_not_replaced_unasked(tmp_path):
    source, output = portrait(tmp_path / "a.jpg"), tmp_path / "a.png"
    stats = vidseg.remove_background(source, output)
    with Image.open(output) as image:
        assert (image.mode, image.size) == ("RGBA", (128, 96))
    assert (stats.frames, stats.output, stats.model) == (1, str(output), "unet-s")
    with pytest.raises(OutputExistsError):
        vidseg.remove_background(source, output)
    vidseg.remove_background(str(source), str(output), "#00ff00", overwrite=True)
    # There is nobody in this picture, so there is nothing but the background.
    with Image.open(output) as image:
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image).astype(int) - (0, 255, 0)).mean() < 1


def test_a_folder_of_pictures_becomes_one(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        portrait(tmp_path / "in" / name)
    assert vidseg.remove_background(tmp_path / "in", tmp_path / "out").frames == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_a_video_becomes_a_video(tmp_path):
    source, output = media.clip(tmp_path / "a.mp4", 5, (96, 128)), tmp_path / "b.mp4"
    seen = []
    stats = vidseg.remove_background(source, output, background="white", progress=seen.append)
    assert (stats.frames, seen[-1].frames) == (5, 5)
    with av.open(str(output)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    assert all(frame.mean() > 250 for frame in frames)


def test_what_cannot_be_leaves_nothing(tmp_path):
    clip = media.clip(tmp_path / "a.mp4", 3)
    for output, background, error in (
        ("b.mp4", "transparent", SinkError),
        ("b.mp4", "no-such.jpg", SourceNotFoundError),
        ("b.xyz", "white", SinkError),
    ):
        with pytest.raises(error):
            vidseg.remove_background(clip, tmp_path / output, background)
    with pytest.raises(SourceNotFoundError):
        vidseg.remove_background(tmp_path / "no-such.mp4", tmp_path / "b.mp4", "white")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
