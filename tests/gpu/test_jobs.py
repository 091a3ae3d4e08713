"""``vidseg process`` on a GPU: what it writes is what the CPU writes."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

from vidseg.jobs import process_video
from vidseg.sinks import OutputOptions
from vidseg.sources import open_source

SAMPLE = str(Path(__file__).parents[2] / "vidseg" / "demo" / "sample.mp4")


@pytest.mark.parametrize("hwaccel", ["auto", "off"])
@pytest.mark.parametrize("background", ["#336699", "blur", None])
def test_the_file_is_that_of_the_cpu(gpu, tmp_path, background, hwaccel):
    options = OutputOptions(codec="ffv1", audio=False)
    for device in ("cpu", gpu):
        output = str(tmp_path / f"{device[:3]}.mkv")
        stats = process_video(
            SAMPLE, output, background, runtime="torch", options=options, device=device, hwaccel=hwaccel
        )
        assert not [note for note in stats.notes if "CPU" in note]
    far = total = 0
    with open_source(str(tmp_path / "cpu.mkv")) as one, open_source(str(tmp_path / "cud.mkv")) as other:
        for expected, got in zip_longest(one, other):
            assert expected.pts == got.pts
            for truth, plane in zip(expected.planes, got.planes, strict=True):
                difference = np.abs(truth.astype(int) - plane.astype(int))
                far += np.count_nonzero(difference > 2)
                total += difference.size
    assert far <= total / 1000  # the network is the same one, in other roundings
