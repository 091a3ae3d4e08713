"""The demo: small, free, deterministic, and it leaves either all of its files or none."""

from __future__ import annotations

import os
import shutil
from importlib.resources import files

import av
import cv2
import numpy as np
import pytest

from vidseg.demo import run_demo
from vidseg.demo.scenery import beach
from vidseg.errors import OutputExistsError, SinkError, SourceError

NAMES = ["beach.jpg", "before-after.png", "composite.mp4", "sample.mp4"]


def copied(source, output, background):
    assert cv2.imread(background) is not None
    shutil.copy(source, output)


def test_the_sample_is_small_and_says_what_it_is():
    sample = files("vidseg.demo").joinpath("sample.mp4")
    assert len(sample.read_bytes()) < 300_000
    with av.open(str(sample)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 30)
        assert (context.color_range, context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
        assert sum(1 for _ in container.decode(stream)) == 120
    assert "public domain" in files("vidseg.demo").joinpath("ORIGIN.md").read_text(encoding="utf-8")


def test_all_files_are_written_and_show_before_and_after(tmp_path):
    paths = run_demo(tmp_path / "demo", copied)
    assert sorted(os.listdir(tmp_path / "demo")) == NAMES
    assert all(path.is_file() for path in paths)
    shown = cv2.imread(str(paths.before_after))
    assert shown.shape == (480, 1288, 3)
    np.testing.assert_array_equal(shown[:, :640], shown[:, 648:])
    assert shown[:, 640:648].min() == 255


def test_files_that_are_there_are_left_alone(tmp_path):
    (tmp_path / "composite.mp4").write_text("precious")
    with pytest.raises(OutputExistsError, match="composite"):
        run_demo(tmp_path, copied)
    assert os.listdir(tmp_path) == ["composite.mp4"]
    run_demo(tmp_path, copied, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == NAMES


@pytest.mark.parametrize("new", [True, False])
def test_a_failure_leaves_nothing_behind(tmp_path, new):
    def failing(source, output, background):
        raise SourceError("no")

    with pytest.raises(SourceError, match="no"):
        run_demo(tmp_path / "demo" if new else tmp_path, failing)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be written"):
        run_demo(tmp_path / "file" / "demo", copied)
    with pytest.raises(SinkError, match="is a file"):
        run_demo(tmp_path / "file", copied)


def test_the_beach_is_drawn_the_same_each_time():
    first = beach((60, 80))
    assert first.shape == (60, 80, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, beach((60, 80)))
    top, bottom = first[:20].mean((0, 1)), first[-8:].mean((0, 1))
    assert top[2] > top[0] + 20  # a blue sky
    assert bottom[0] > bottom[2] + 20  # and warm sand


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (90, 160), (160, 90)])
def test_a_beach_of_any_size(size):
    assert beach(size).shape == (*size, 3)
