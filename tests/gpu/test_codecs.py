"""NVDEC and NVENC for real: frames that stay on the GPU from the decoder to the encoder."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch, which a GPU is used with, is not installed")

from tests import media  # noqa: E402
from tests.test_gpu_codecs import TestUploads, test_a_compositor_leaves_what_an_encoder_takes  # noqa: E402, F401
from vidseg.errors import SinkError  # noqa: E402
from vidseg.gpu.codecs import from_decoder  # noqa: E402
from vidseg.gpu.pictures import to_frame  # noqa: E402
from vidseg.jobs import process_video  # noqa: E402
from vidseg.sinks import OutputOptions  # noqa: E402
from vidseg.sources import open_source  # noqa: E402

SAMPLE = str(Path(__file__).parents[2] / "vidseg" / "demo" / "sample.mp4")


@pytest.fixture
def device(gpu):
    return torch.device(gpu)


@pytest.mark.parametrize("depth", [8, 10])
def test_decoded_frames_stay_there_and_are_those_of_the_cpu(gpu, tmp_path, depth):
    """What H.264 and HEVC decode to is defined to the bit (ITU-T H.264, H.265)."""
    path = SAMPLE
    if depth == 10:
        path = str(media.clip(tmp_path / "deep.mp4", 20, (288, 512), codec="libx265", pix_fmt="yuv420p10le"))
    with open_source(path, gpu, from_decoder) as far, open_source(path) as near:
        assert far.info.depth == near.info.depth == depth
        for one, other in zip_longest(near, far):
            assert (one.pts, one.color) == (other.pts, other.color)
            assert all(plane.is_cuda for plane in other.planes)
            for plane, truth in zip(to_frame(other).planes, one.planes, strict=True):
                np.testing.assert_array_equal(plane, truth)
        assert not [note for note in far.notes if "CPU" in note or "come down" in note]


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc"])
def test_frames_go_to_nvenc_where_they_lie(gpu, tmp_path, codec):
    """What it makes of them is what it makes of the same pictures from the host, but for its rate control."""
    outputs = []
    for hwaccel in ("off", "auto"):
        output = str(tmp_path / f"{hwaccel}.mkv")
        try:
            stats = process_video(
                SAMPLE,
                output,
                "#336699",
                runtime="torch",
                device=gpu,
                hwaccel=hwaccel,
                options=OutputOptions(codec=codec, crf=20, audio=False),
            )
        except SinkError as error:
            pytest.skip(f"this GPU has no NVENC, as those of data centres have none: {error}")
        assert not [note for note in stats.notes if "over the host" in note]
        outputs.append(output)
    with open_source(outputs[0]) as one, open_source(outputs[1]) as other:
        for expected, got in zip_longest(one, other):
            assert expected.pts == got.pts
            for truth, plane in zip(expected.planes, got.planes, strict=True):
                assert np.mean((truth.astype(float) - plane.astype(float)) ** 2) < 255**2 / 10**4  # 40 dB
