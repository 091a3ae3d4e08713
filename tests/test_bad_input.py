"""Bad input, end to end through the command: one clear sentence, exit status 1, nothing lost and nothing left behind.

What can still be used is used, and said so. The network is a fake that sees nobody, so that every pixel of an output
is the background's, except in the tests of signals at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from PIL import Image

import vidseg.segmenter
from tests import media
from vidseg.cli.main import main
from vidseg.testing import ConstantEngine

# A child that works in another folder finds the checkout too.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(vidseg.__file__).parents[1]), *sys.path])}


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidseg.segmenter, "open_engine", lambda *_: ConstantEngine(0.0))


class Result(NamedTuple):
    status: int
    lines: list[str]


@pytest.fixture
def vidseg_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Result]]:
    """Run the command in ``tmp_path``; whatever comes of it, no thread, open file or hidden file may be left."""
    monkeypatch.chdir(tmp_path)
    threads = set(threading.enumerate())

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert said.out == ""
        return Result(status, said.err.splitlines())

    yield run
    assert set(threading.enumerate()) <= threads
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".") or "partial" in path.name] == []
    if Path("/proc/self/fd").is_dir():
        opened = [os.path.realpath(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.exists(entry.path)]
        assert [name for name in opened if name.startswith(str(tmp_path))] == []


def refused(result: Result, *words: str) -> None:
    """Check for exit status 1 and one sentence with all of ``words``."""
    assert result.status == 1, result
    assert len(result.lines) == 1, result
    (line,) = result.lines
    assert line.startswith("vidseg: ")
    assert "bug in vidseg" not in line
    assert "Errno" not in line
    assert [word for word in words if word not in line] == [], line


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_noise(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)).save(path)


def read_back(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return media.clip(tmp_path / "clip.mp4", size=(96, 128))


# --- inputs that are no videos ----------------------------------------------------------------------------------


def _text(path: Path) -> None:
    path.write_text("This is not a video. " * 500)


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(100_000))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _folder(path: Path) -> None:
    path.mkdir()


def _missing(_: Path) -> None:
    pass


def _no_fragments(path: Path) -> None:
    # A header and no sample: what an interrupted recording leaves.
    whole = media.clip(path, 1, container_options={"movflags": "frag_keyframe+empty_moov"}).read_bytes()
    path.write_bytes(whole[: whole.index(b"moof") - 4])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_text, ["talk.mp4", "not a video"]),
        (_noise, ["talk.mp4", "not a video"]),
        (_empty, ["talk.mp4", "empty"]),
        (_missing, ["talk.mp4", "does not exist"]),
        (_folder, ["talk.mp4", "holds no picture"]),
        (media.no_index, ["talk.mp4", "moov"]),
        (media.no_frames, ["talk.mp4", "holds no"]),
        (_no_fragments, ["talk.mp4", "no frame"]),
        (media.sound_only, ["talk.mp4", "no video"]),
    ],
)
@pytest.mark.parametrize("command", ["process", "matte"])
def test_what_is_no_video(
    command: str,
    make: Callable[[Path], None],
    words: list[str],
    tmp_path: Path,
    vidseg_command: Callable[..., Result],
) -> None:
    make(tmp_path / "talk.mp4")
    before = everything(tmp_path)
    more = ["--bg", "blur"] if command == "process" else []
    refused(vidseg_command(command, "talk.mp4", "out.mp4", *more), *words)
    assert everything(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_input_that_may_not_be_read(clip: Path, vidseg_command: Callable[..., Result]) -> None:
    clip.chmod(0)
    refused(vidseg_command("process", clip, "out.mp4", "--bg", "blur"), "clip.mp4", "permission")


def test_a_url_keeps_its_password(vidseg_command: Callable[..., Result]) -> None:
    result = vidseg_command("process", "http://joe:secret@127.0.0.1:9/talk.mp4", "out.mp4", "--bg", "blur")
    refused(result, "127.0.0.1")
    assert "secret" not in result.lines[0]


# --- inputs that are damaged ------------------------------------------------------------------------------------


def test_cut_in_the_middle(tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    media.cut(tmp_path / "cut.mp4")
    result = vidseg_command("process", "cut.mp4", "out.mp4", "--bg", "#ff0000")
    assert result.status == 0
    (warning,) = [line for line in result.lines if "warning" in line]
    got = len(read_back(tmp_path / "out.mp4"))
    assert 20 <= got < 60
    assert f"{got} frames" in warning
    assert "too early" in warning
    (tmp_path / "out.mp4").unlink()
    strict = vidseg_command("process", "cut.mp4", "out.mp4", "--bg", "#ff0000", "--strict", "--quiet")
    refused(strict, "too early", f"{got} frames")
    assert len(read_back(tmp_path / "out.mp4")) == got  # nothing lost


def test_cut_in_the_middle_matroska(tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    cut = media.clip(tmp_path / "cut.mkv", 60)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    result = vidseg_command("process", "cut.mkv", "out.mp4", "--bg", "#ff0000")
    assert result.status == 0
    assert any("warning" in line for line in result.lines)
    assert 20 <= len(read_back(tmp_path / "out.mp4")) < 60
    assert vidseg_command("process", "cut.mkv", "out.mp4", "--bg", "blue", "--overwrite", "--strict").status == 1


@pytest.mark.parametrize("name", ["holes.mp4", "holes.mkv", "holes.ts"])
def test_corrupt_packets(name: str, tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    path = media.clip(tmp_path / name, 60, (192, 256), options={"g": "6", "bf": "0"})
    data = bytearray(path.read_bytes())
    middle = len(data) * 2 // 5
    data[middle : middle + len(data) // 8] = np.random.default_rng(2).bytes(len(data) // 8)
    path.write_bytes(data)
    result = vidseg_command("process", name, "out.mp4", "--bg", "#ff0000")
    assert result.status == 0, result
    assert any("warning" in line and "corrupt" in line for line in result.lines), result
    assert 30 <= len(read_back(tmp_path / "out.mp4")) <= 60
    assert vidseg_command("process", name, "out.mp4", "--bg", "blue", "--overwrite", "--strict").status == 1


# --- inputs that are odd but fine -------------------------------------------------------------------------------


def test_one_frame(tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    media.still(tmp_path / "one.mp4")
    assert vidseg_command("process", "one.mp4", "out.mp4", "--bg", "#ff0000").status == 0
    (frame,) = read_back(tmp_path / "out.mp4")
    assert np.abs(frame.astype(int) - [255, 0, 0]).max() < 16


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (3, 5), (361, 641), (2, 300)])
@pytest.mark.parametrize("output", ["out.mkv --codec ffv1", "out.mp4", "out.webm"])
def test_odd_sizes(size: tuple[int, int], output: str, tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    media.clip(tmp_path / "odd.nut", 3, size, codec="rawvideo")
    result = vidseg_command("process", "odd.nut", *output.split(), "--bg", "#ff0000")
    target = tmp_path / output.split()[0]
    if result.status == 1:  # what an encoder cannot take has to be said; ffv1 takes everything
        refused(result, "out.mp4")
        assert not target.exists()
        assert "mp4" in output
        assert min(size) < 16
        return
    frames = read_back(target)
    assert len(frames) == 3
    even = tuple(side + side % 2 for side in size)
    assert frames[0].shape[:2] in (size, even)
    assert np.abs(np.median(frames[0], (0, 1)) - [255, 0, 0]).max() < 16


def test_8k(tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    media.clip(tmp_path / "8k.mp4", 2, (4320, 7680))
    result = vidseg_command("process", "8k.mp4", "out.mp4", "--bg", "#ff0000", "--preset", "ultrafast")
    assert result.status == 0, result
    frames = read_back(tmp_path / "out.mp4")
    assert [frame.shape for frame in frames] == [(4320, 7680, 3)] * 2


def test_a_size_change(tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    small = media.clip(tmp_path / "a.ts", 8, (96, 128))
    large = media.clip(tmp_path / "b.ts", 8, (180, 320))
    (tmp_path / "both.ts").write_bytes(small.read_bytes() + large.read_bytes())
    result = vidseg_command("process", "both.ts", "out.mp4", "--bg", "#ff0000")
    assert result.status == 0, result
    assert any("128x96" in line and "320x180" in line for line in result.lines), result
    frames = read_back(tmp_path / "out.mp4")
    assert {frame.shape for frame in frames} == {(96, 128, 3)}
    assert len(frames) == 16


def pts_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def test_no_timestamps(tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    media.raw(tmp_path / "raw.h264")
    result = vidseg_command("process", "raw.h264", "out.mp4", "--bg", "#ff0000")
    assert result.status == 0, result
    times = pts_of(tmp_path / "out.mp4")
    assert len(times) == 12
    assert np.all(np.diff(times) > 0)


@pytest.mark.parametrize("name", ["early.ts", "early.asf", "early.mkv"])
def test_negative_timestamps(name: str, tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    # MPEG-TS gives them as they are, ASF has a hole in their place, and Matroska gives none before zero.
    if name == "early.mkv":
        media.odd_timestamps(tmp_path / name, [40 * index - 200 for index in range(12)])
    else:
        keep = {"avoid_negative_ts": "disabled"}
        media.clip(tmp_path / name, pts=range(-6, 6), options={"bf": "0"}, container_options=keep)
    result = vidseg_command("process", name, "out.mkv", "--bg", "#ff0000")
    assert result.status == 0, result
    times = pts_of(tmp_path / "out.mkv")
    assert len(times) == 12
    assert np.all(np.diff(times) > 0)
    assert times[0] >= 0
    if name == "early.ts":
        assert np.diff(times) == pytest.approx([1 / 30] * 11, abs=2e-3)


def test_timestamps_that_go_back(tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    first = media.clip(tmp_path / "a.ts", 10, options={"bf": "0"}).read_bytes()
    (tmp_path / "twice.ts").write_bytes(first + first)  # the clock starts again in the middle
    result = vidseg_command("process", "twice.ts", "out.mp4", "--bg", "#ff0000")
    assert result.status == 0, result
    times = pts_of(tmp_path / "out.mp4")
    assert len(times) == 20
    assert np.all(np.diff(times) > 0)


# --- backgrounds ------------------------------------------------------------------------------------------------


def _bg_missing(path: Path) -> str:
    return "does not exist"


def _bg_text(path: Path) -> str:
    path.write_text("hello")
    return "not a picture"


def _bg_empty(path: Path) -> str:
    path.write_bytes(b"")
    return "empty"


def _bg_wide(path: Path) -> str:
    Image.new("L", (20_000, 4)).save(path, "PNG")
    return "20000"


def _bg_cut(path: Path) -> str:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:3000])
    return "damaged"


def _bg_folder(path: Path) -> str:
    path.mkdir()
    return "holds no picture"


def _bg_sound(path: Path) -> str:
    media.sound_only(path.with_suffix(".m4a"))
    path.with_suffix(".m4a").rename(path)
    return "not a picture"


@pytest.mark.parametrize("make", [_bg_missing, _bg_text, _bg_empty, _bg_wide, _bg_cut, _bg_folder, _bg_sound])
def test_backgrounds_that_cannot_be_used(
    make: Callable[[Path], str], clip: Path, tmp_path: Path, vidseg_command: Callable[..., Result]
) -> None:
    word = make(tmp_path / "beach.png")
    before = everything(tmp_path)
    refused(vidseg_command("process", clip, "out.mp4", "--bg", "beach.png"), "beach.png", word)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("text", ["#12345", "#gggggg", "blur:x", "blur:101", "blur:-1", "no-such-colour"])
def test_backgrounds_that_are_mistyped(text: str, clip: Path, vidseg_command: Callable[..., Result]) -> None:
    refused(vidseg_command("process", clip, "out.mp4", "--bg", text), text)


def _rgb(path: Path) -> tuple[int, int, int]:
    Image.new("RGB", (64, 48), (200, 40, 90)).save(path)
    return 200, 40, 90


def _cmyk(path: Path) -> tuple[int, int, int]:
    Image.new("CMYK", (64, 48), (0, 255, 255, 0)).save(path)
    return 254, 0, 0


def _grey(path: Path) -> tuple[int, int, int]:
    Image.new("L", (64, 48), 130).save(path)
    return 130, 130, 130


def _grey16(path: Path) -> tuple[int, int, int]:
    Image.fromarray(np.full((48, 64), 130 * 257, np.uint16)).save(path)
    return 130, 130, 130


def _alpha(path: Path) -> tuple[int, int, int]:
    Image.new("RGBA", (64, 48), (200, 100, 50, 128)).save(path)
    return 100, 50, 25  # over black


def _palette(path: Path) -> tuple[int, int, int]:
    Image.new("RGB", (64, 48), (0, 128, 255)).convert("P", palette=Image.Palette.ADAPTIVE).save(path)
    return 0, 128, 255


def _rgb16(path: Path) -> tuple[int, int, int]:
    import cv2

    cv2.imwrite(str(path), np.full((48, 64, 3), (90 * 257, 40 * 257, 200 * 257), np.uint16))
    return 200, 40, 90


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("beach.jpg", _rgb),
        ("beach.webp", _rgb),
        ("cmyk.jpg", _cmyk),
        ("grey.png", _grey),
        ("grey16.png", _grey16),
        ("deep.png", _rgb16),
        ("alpha.png", _alpha),
        ("palette.png", _palette),
        ("palette.gif", _palette),
    ],
)
def test_unusual_pictures_are_backgrounds(
    name: str,
    make: Callable[[Path], tuple[int, int, int]],
    clip: Path,
    tmp_path: Path,
    vidseg_command: Callable[..., Result],
) -> None:
    color = make(tmp_path / name)
    result = vidseg_command("process", clip, "out.mkv", "--bg", name, "--codec", "ffv1")
    assert result.status == 0, result
    frames = read_back(tmp_path / "out.mkv")
    assert len(frames) == 12
    assert np.abs(np.array(frames).astype(int) - color).max() <= 8  # of JPEG and WebP


@pytest.mark.parametrize("name", ["move.gif", "move.webp"])
def test_animations_are_backgrounds(
    name: str, clip: Path, tmp_path: Path, vidseg_command: Callable[..., Result]
) -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    first, *rest = [Image.new("RGB", (64, 48), color) for color in colors]
    how = {"lossless": True} if name.endswith("webp") else {}
    first.save(tmp_path / name, save_all=True, append_images=rest, duration=100, loop=0, **how)
    result = vidseg_command("process", clip, "out.mkv", "--bg", name, "--codec", "ffv1")
    assert result.status == 0, result
    seen = [np.median(frame, (0, 1)) for frame in read_back(tmp_path / "out.mkv")]
    for index, color in enumerate(seen):  # 3 frames of 30 a second for each 100 ms; then it starts again
        assert np.abs(color - colors[index // 3 % 3]).max() < 8, index


# --- outputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["no/such/folder/out.mp4", "clip.mp4/out.mp4"])
def test_no_folder_for_the_output(output: str, clip: Path, vidseg_command: Callable[..., Result]) -> None:
    before = clip.read_bytes()
    refused(vidseg_command("process", "clip.mp4", output, "--bg", "blur"), output)
    assert clip.read_bytes() == before
    assert not Path("no").exists()


def test_a_folder_that_cannot_be_written(clip: Path, tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    folder = Path("/proc/self") if hasattr(os, "geteuid") and os.geteuid() == 0 else tmp_path / "shut"
    if folder == Path("/proc/self"):
        if not folder.is_dir():
            pytest.skip("root may write everywhere here")
    else:
        folder.mkdir()
        folder.chmod(0o555)
    try:
        refused(vidseg_command("process", clip, folder / "out.mp4", "--bg", "blur"), "out.mp4")
    finally:
        if folder.name == "shut":
            folder.chmod(0o755)


@pytest.mark.parametrize("output", ["clip.mp4", "./clip.mp4", "link.mp4", "hard.mp4"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_an_output_that_is_the_input(
    output: str, more: list[str], clip: Path, vidseg_command: Callable[..., Result]
) -> None:
    Path("link.mp4").symlink_to(clip)
    os.link(clip, "hard.mp4")
    before = clip.read_bytes()
    refused(vidseg_command("process", clip, output, "--bg", "blur", *more), output.removeprefix("./"))
    assert clip.read_bytes() == before
    assert Path("hard.mp4").read_bytes() == before
    assert Path("link.mp4").is_symlink()


def test_an_output_that_is_the_background(clip: Path, tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    behind = media.clip(tmp_path / "waves.mp4")
    before = behind.read_bytes()
    refused(vidseg_command("process", clip, "waves.mp4", "--bg", "waves.mp4"), "waves.mp4", "exists")
    assert behind.read_bytes() == before
    result = vidseg_command("process", clip, "waves.mp4", "--bg", "waves.mp4", "--overwrite")
    if result.status:  # refused, or done: but never half of it
        refused(result, "waves.mp4")
        assert behind.read_bytes() == before
    else:
        assert len(read_back(behind)) == 12


def test_an_output_that_exists(clip: Path, vidseg_command: Callable[..., Result]) -> None:
    Path("out.mp4").write_bytes(b"precious")
    refused(vidseg_command("process", clip, "out.mp4", "--bg", "#ff0000"), "out.mp4", "overw")
    assert Path("out.mp4").read_bytes() == b"precious"
    assert vidseg_command("process", "missing.mp4", "out.mp4", "--bg", "#ff0000", "--overwrite").status == 1
    assert Path("out.mp4").read_bytes() == b"precious"  # lost only when there is something better
    assert vidseg_command("process", clip, "out.mp4", "--bg", "#ff0000", "--overwrite").status == 0
    assert len(read_back(Path("out.mp4"))) == 12


@pytest.mark.parametrize("output", ["out.xyz", "out.txt", "out.jpg", "out.mp3", "out.srt"])
def test_an_output_of_an_unknown_kind(output: str, clip: Path, vidseg_command: Callable[..., Result]) -> None:
    refused(vidseg_command("process", clip, output, "--bg", "#ff0000"), output)
    assert not Path(output).exists()


@pytest.mark.parametrize(
    ("output", "more"),
    [
        ("out.webm", ["--codec", "h264"]),
        ("out.mp4", ["--codec", "no-such-encoder"]),
        ("out.mp4", ["--codec", "aac"]),
        ("out.mp4", ["--bg", "transparent"]),
        ("out.mp4", ["--preset", "no-such-preset"]),
        ("out.mp4", ["--model", "no-such-model"]),
        ("folder/", ["--codec", "h264"]),
    ],
)
def test_what_does_not_go_together(
    output: str, more: list[str], clip: Path, vidseg_command: Callable[..., Result]
) -> None:
    if "--bg" not in more:
        more = ["--bg", "#ff0000", *more]
    result = vidseg_command("process", clip, output, *more)
    refused(result)
    assert sorted(os.listdir()) == ["clip.mp4"]


# The output is noise and larger than what fits: the last letter of its name says how to write it without loss.
LARGE = {"4": ["--crf", "1"], "v": ["--codec", "ffv1"], "/": []}
LIMITED = """
import resource, signal, sys
import vidseg.segmenter
from vidseg.cli.main import main
from vidseg.testing import ConstantEngine
vidseg.segmenter.open_engine = lambda *_: ConstantEngine(0.0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("output", ["out.mp4", "out.mkv", "out/"])
def test_a_file_that_may_not_grow(output: str, tmp_path: Path) -> None:
    clip = media.clip(tmp_path / "clip.mp4", 12, (480, 640))
    write_noise(tmp_path / "noise.png")
    command = [sys.executable, "-c", LIMITED, "process", clip, output, "--bg", "noise.png", *LARGE[output[-1]]]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path, env=ENVIRONMENT
    )
    refused(Result(done.returncode, done.stderr.splitlines()), output)
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "noise.png"]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a file system of our own: unshare")
@pytest.mark.parametrize("output", ["disk/out.mp4", "disk/out.mkv", "disk/out/"])
def test_a_full_disk(output: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    clip = media.clip(tmp_path / "clip.mp4", 12, (480, 640))
    write_noise(tmp_path / "noise.png")
    program = tmp_path / "limited.py"
    program.write_text(LIMITED.replace("resource.setrlimit", "# "))
    more = " ".join(LARGE[output[-1]])
    script = (
        "mount -t tmpfs -o size=200k tmpfs disk || exit 77\n"
        f"'{sys.executable}' limited.py process '{clip}' '{output}' --bg noise.png {more}; status=$?\n"
        "ls -A disk; exit $status"
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path, env=ENVIRONMENT
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("no file system of our own may be mounted here")
    refused(Result(done.returncode, done.stderr.splitlines()), output)
    assert done.stdout == ""  # nothing left on the disk


# --- pictures ---------------------------------------------------------------------------------------------------


def write_photo(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, (120, 130, 140)).save(path)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_text, ["talk.png", "not a picture"]),
        (_noise, ["talk.png", "not a picture"]),
        (_empty, ["talk.png"]),
        (_missing, ["talk.png", "does not exist"]),
        (_folder, ["talk.png", "no picture"]),
        (lambda path: Image.new("L", (20_000, 4)).save(path), ["talk.png", "20000"]),
        (lambda path: media.clip(path.with_suffix(".mp4")).rename(path), ["talk.png", "not a picture"]),
    ],
)
@pytest.mark.parametrize("command", ["image", "matte"])
def test_what_is_no_picture(
    command: str,
    make: Callable[[Path], object],
    words: list[str],
    tmp_path: Path,
    vidseg_command: Callable[..., Result],
) -> None:
    make(tmp_path / "talk.png")
    before = everything(tmp_path)
    more = ["--bg", "blur"] if command == "image" else []
    refused(vidseg_command(command, "talk.png", "out/", *more), *words)
    assert everything(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_broken_picture(tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    for name in ("a.png", "c.jpg"):
        write_photo(tmp_path / "photos" / name)
    (tmp_path / "photos" / "b.png").write_bytes(b"")
    result = vidseg_command("image", "photos", "out", "--bg", "#ff0000")
    assert result.status == 1, result
    assert any("b.png" in line for line in result.lines)
    assert "1 picture could not be read; 2 pictures could be read and are in out" in result.lines[-1]
    assert sorted(os.listdir("out")) == ["a.png", "c.jpg"]
    refused(vidseg_command("image", "photos", "new", "--bg", "red", "--quiet"), "1 picture could not be read")
    assert vidseg_command("matte", "photos", "mattes").status == 1
    assert sorted(os.listdir("new")) == ["a.png", "c.jpg"]
    refused(vidseg_command("image", "photos", "out", "--bg", "#ff0000"), "out", "exists")
    (tmp_path / "photos" / "b.png").unlink()
    assert vidseg_command("image", "photos", "out", "--bg", "#ff0000", "--overwrite").status == 0


@pytest.mark.parametrize(
    ("output", "bg"),
    [("no/folder/out.png", "red"), ("out.xyz", "red"), ("out.jpg", "transparent"), ("photo.png", "red"), (".", "red")],
)
def test_outputs_of_a_picture(output: str, bg: str, tmp_path: Path, vidseg_command: Callable[..., Result]) -> None:
    photo = write_photo(tmp_path / "photo.png")
    before = photo.read_bytes()
    refused(vidseg_command("image", "photo.png", output, "--bg", bg, "--overwrite"), output)
    assert os.listdir() == ["photo.png"]
    assert photo.read_bytes() == before


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (641, 361)])
@pytest.mark.parametrize("output", ["out.png", "out.jpg", "out.webp"])
def test_pictures_of_odd_sizes(
    size: tuple[int, int], output: str, tmp_path: Path, vidseg_command: Callable[..., Result]
) -> None:
    write_photo(tmp_path / "photo.png", size)
    assert vidseg_command("image", "photo.png", output, "--bg", "#ff0000").status == 0
    with Image.open(tmp_path / output) as picture:
        assert picture.size == size
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - [255, 0, 0]).max() <= 8
    assert vidseg_command("matte", "photo.png", "matte.png").status == 0
    with Image.open(tmp_path / "matte.png") as picture:
        assert (picture.mode, picture.size, picture.getextrema()) == ("L", size, (0, 0))


# --- an end before the end --------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("output", ["out.mp4", "out.mkv", "out/"])
def test_what_was_done_is_kept_when_interrupted(
    output: str, number: signal.Signals, status: int, tmp_path: Path
) -> None:
    media.clip(tmp_path / "long.mp4", 2000, (180, 320))
    write_noise(tmp_path / "noise.png")
    command = [sys.executable, "-m", "vidseg", "process", "long.mp4", output, "--bg", "noise.png", "--crf", "1"]
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=ENVIRONMENT
    )

    given = {"long.mp4", "noise.png"}

    def started() -> bool:
        written = [path for path in tmp_path.rglob("*") if path.name not in given]
        return sum(path.stat().st_size for path in written if path.is_file()) > 30_000

    until = time.monotonic() + 60
    while not started() and time.monotonic() < until and child.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (status, ""), err
    (partial,) = set(os.listdir(tmp_path)) - given
    assert "partial" in partial
    assert partial in err.splitlines()[-1]
    assert "Traceback" not in err
    if output != "out/":
        assert len(read_back(tmp_path / partial)) > 10
    else:
        assert len(list((tmp_path / partial).glob("*.png"))) > 10
