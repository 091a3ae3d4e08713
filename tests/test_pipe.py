"""Raw video from one program to the next: ``RawSource``, ``RawSink`` and ``vidseg pipe``, with the program ffmpeg."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests import media
from tests.test_sinks import frame, info
from vidseg.cli import app
from vidseg.color import planes_from_rgb
from vidseg.errors import OutputClosedError, SinkError, SourceError
from vidseg.frame import Color, Frame
from vidseg.pipeline import Pipeline
from vidseg.sinks import open_sink
from vidseg.sinks.raw import RawSink
from vidseg.sources import open_source
from vidseg.sources.raw import RawFormat, RawSource
from vidseg.testing import ListSink

ROOT = Path(__file__).parent.parent
SIZE = (48, 64)
pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")


@contextmanager
def piped(data: bytes) -> Iterator[int]:
    """Yield the end of a pipe from which ``data`` can be read, and then no more."""
    out, back = os.pipe()

    def fill() -> None:
        with open(back, "wb", buffering=0) as file:
            try:
                view = memoryview(data)
                while len(view):
                    view = view[file.write(view) :]
            except BrokenPipeError:
                return

    writer = threading.Thread(target=fill)
    writer.start()
    try:
        yield out
    finally:
        os.close(out)
        writer.join(20)


def take(data: bytes, name: str = "-") -> tuple[RawSource, list[Frame]]:
    with piped(data) as fd, RawSource(name, fd) as source:
        return source, list(source)


@contextmanager
def caught() -> Iterator[tuple[int, bytearray]]:
    """Yield the end of a pipe to write to, and what has come out of it; the writer must not close it."""
    out, back = os.pipe()
    got = bytearray()

    def drain() -> None:
        with open(out, "rb", buffering=0) as file:
            while more := file.read(1 << 16):
                got.extend(more)

    reader = threading.Thread(target=drain)
    reader.start()
    try:
        yield back, got
    finally:
        os.close(back)
        reader.join(20)


def given(frames: list[Frame], url: str = "-", **kwargs: Any) -> tuple[bytes, RawSink]:
    """Return what a sink writes of frames, and the sink."""
    content = kwargs.pop("content", "opaque")
    with caught() as (fd, got):
        first = frames[0]
        stream = info(first.size, first.depth, color=first.color, subsampled=first.subsampled, **kwargs)
        sink = RawSink(url, stream, content, fd=fd)
        for one in frames:
            sink.write(one)
        sink.commit()
    return bytes(got), sink


def ffmpeg(*arguments: str, data: bytes | None = None) -> bytes:
    done = subprocess.run(["ffmpeg", "-nostdin", "-v", "error", *arguments], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def y4m(path: Path, *arguments: str) -> bytes:
    return ffmpeg("-i", str(path), *arguments, "-strict", "-1", "-f", "yuv4mpegpipe", "-")


def equal(one: Frame, planes: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.planes, planes, strict=True))


# -- in ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "size"), [(8, SIZE), (10, SIZE), (8, (49, 65)), (10, (7, 6)), (8, (2, 2))])
def test_pictures_come_as_they_are(tmp_path: Path, depth: int, size: tuple[int, int]) -> None:
    source, got = take(y4m(media.lossless(tmp_path / "a.mkv", 5, size, depth)))
    assert (source.info.size, source.info.depth, source.info.live) == (size, depth, False)
    assert source.info.fps == 30
    assert [one.pts * one.time_base for one in got] == [Fraction(n, 30) for n in range(5)]
    assert all(equal(one, media.planes(n, size, depth)) for n, one in enumerate(got))
    assert not source.truncated
    assert source.corrupt == 0


@pytest.mark.parametrize(("tag", "full"), [(1, False), (2, True)])
def test_the_range_is_kept(tmp_path: Path, tag: int, full: bool) -> None:
    source, _ = take(y4m(media.lossless(tmp_path / "a.mkv", 2, color={"color_range": tag})))
    assert source.info.color.full_range == full


def test_rate_and_aspect_are_exact(tmp_path: Path) -> None:
    data = y4m(media.lossless(tmp_path / "a.mkv", 3), "-r", "30000/1001", "-vf", "setsar=16/11")
    source, got = take(data)
    assert source.info.fps == Fraction(30000, 1001)
    assert source.info.sample_aspect == Fraction(16, 11)
    assert got[1].pts * got[1].time_base == Fraction(1001, 30000)


@pytest.mark.parametrize(
    "form",
    ["yuv422p", "yuv444p", "yuv411p", "gray", "yuv420p9le", "yuv420p12le", "yuv422p10le", "yuv444p16le", "gray10le"],
)
def test_other_chroma_and_depths_become_420(tmp_path: Path, form: str) -> None:
    source, got = take(y4m(media.lossless(tmp_path / "a.mkv", 3), "-pix_fmt", form))
    assert len(got) == 3
    assert source.info.subsampled
    deep = not form.endswith(("p", "gray"))
    assert source.info.depth == (10 if deep else 8)
    y, u, v = media.planes(2)
    scale = 4 if deep else 1
    if not form.startswith("gray"):
        assert np.abs(got[2].planes[0].astype(int) - y.astype(int) * scale).max() <= scale
        inner = (slice(2, -2), slice(4, -4))
        for plane, wanted in ((got[2].planes[1], u), (got[2].planes[2], v)):
            assert np.median(np.abs(plane[inner].astype(int) - wanted[inner].astype(int) * scale)) <= 2 * scale
    else:
        assert got[2].planes[1].min() == got[2].planes[1].max() == 128 * scale


def test_fields_become_frames(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mp4", 8, (96, 128))
    source, got = take(y4m(path, "-vf", "setfield=tff"))
    assert len(got) == 8
    assert "standard input is interlaced: deinterlaced (bwdif)" in source.notes


HEAD = b"YUV4MPEG2 W64 H48 F30:1"
PICTURE = b"FRAME\n" + bytes(64 * 48 * 3 // 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "nothing came on standard input: ffmpeg -i"),
        (b"hello\n", "standard input is not y4m: ffmpeg -i"),
        (b"\x00" * 10_000, "is not y4m"),
        (b"YUV4MPEG2", "is not y4m"),
        (b"YUV4MPEG2 " + b"x" * 9999, "is not y4m"),
        (b"YUV4MPEG2 H48 F30:1\n" + PICTURE, "without a size"),
        (b"YUV4MPEG2 W0 H48\n" + PICTURE, "without a size"),
        (HEAD + b" C420weird\n" + PICTURE, "chroma 420weird, which is not known here: give -pix_fmt yuv420p"),
        (HEAD + b" Im C420\n" + PICTURE, "mixed fields and frames"),
        (HEAD + b" C420\n", "holds no frame"),
        (HEAD + b" C420\n" + PICTURE[:-1], "holds no frame"),
        (b"YUV4MPEG2 W99999999 H99999999 C420\n" + PICTURE, "cannot be read|is not a video|no frame"),
    ],
)
def test_what_cannot_be_read(data: bytes, message: str) -> None:
    before = threading.active_count()
    with piped(data) as fd, pytest.raises(SourceError, match=message) as why:
        RawSource("-", fd)
    assert "\n" not in str(why.value)
    assert threading.active_count() == before


@pytest.mark.parametrize("chroma", ["420", "420jpeg", "420mpeg2", "420paldv", ""])
def test_a_y4m_without_extras(chroma: str) -> None:
    head = HEAD + (f" C{chroma}".encode() if chroma else b"") + b"\n"
    _, got = take(head + 3 * PICTURE)
    assert len(got) == 3


def test_frames_with_parameters() -> None:
    source, got = take(HEAD + b" C420\n" + 3 * PICTURE.replace(b"FRAME\n", b"FRAME Ixyz XCOMMENT\n"))
    assert len(got) == 3
    assert not source.truncated


def test_what_stands_between_frames_is_counted() -> None:
    source, got = take(HEAD + b" C420\n" + PICTURE + b"FRUME\n" + PICTURE)
    assert len(got) == 2
    assert source.corrupt > 0


@pytest.mark.parametrize("lost", [1, 1000])
def test_the_end_within_a_frame_is_noticed(tmp_path: Path, lost: int) -> None:
    source, got = take(y4m(media.lossless(tmp_path / "a.mkv", 4))[:-lost])
    assert len(got) == 3
    assert source.truncated


@pytest.mark.parametrize("form", ["yuv420p", "nv12", "yuyv422", "rgb24", "yuv420p10le"])
def test_bare_samples(tmp_path: Path, form: str) -> None:
    path = media.lossless(tmp_path / "a.mkv", 4)
    data = ffmpeg("-i", str(path), "-pix_fmt", form, "-f", "rawvideo", "-")
    name = str(RawFormat(SIZE, Fraction(25), form))
    assert name == f"-:raw:64x48:25:{form}"
    source, got = take(data, name)
    assert (len(got), source.info.size, source.info.fps) == (4, SIZE, 25)
    if form in ("yuv420p", "nv12"):
        assert all(equal(one, media.planes(n)) for n, one in enumerate(got))
    source, got = take(data[:-10], name)
    assert len(got) == 3
    assert source.truncated or source.corrupt == 1


def test_bare_samples_of_no_format() -> None:
    with piped(b"x") as fd, pytest.raises(SourceError, match="nonsense is no pixel format"):
        RawSource("-:raw:64x48:30:nonsense", fd)
    with piped(b"") as fd, pytest.raises(SourceError, match="nothing came"):
        RawSource("-:raw:64x48", fd)
    for name in ("-:raw", "-:raw:64", "-:raw:0x48", "-:raw:64x48:0", "-:raw:64x48:30:yuv420p:x", "-:64x48"):
        with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
            RawSource(name)


def test_closing_ends_the_wait_for_a_frame() -> None:
    out, back = os.pipe()
    os.write(back, HEAD + b" C420\n" + PICTURE)
    source = RawSource("-", out)
    got: list[Frame] = []
    reader = threading.Thread(target=lambda: got.extend(source))
    reader.start()
    time.sleep(0.3)
    assert reader.is_alive()
    source.close()
    reader.join(20)
    assert not reader.is_alive()
    assert len(got) <= 1
    assert not source.truncated  # nobody knows
    os.close(out)
    os.close(back)


# -- out ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "size"), [(8, SIZE), (10, SIZE), (8, (49, 65)), (12, (7, 5)), (8, (1, 1))])
def test_ffmpeg_reads_what_is_written(tmp_path: Path, depth: int, size: tuple[int, int]) -> None:
    data, _ = given([frame(n, size, depth) for n in range(4)])
    end = "" if depth == 8 else f"{depth}le"
    raw = ffmpeg("-f", "yuv4mpegpipe", "-i", "-", "-f", "rawvideo", "-pix_fmt", f"yuv420p{end}", "-", data=data)
    expected = b"".join(plane.tobytes() for n in range(4) for plane in media.planes(n, size, depth))
    assert raw == expected
    bare, _ = given([frame(n, size, depth) for n in range(4)], "-:raw")
    assert bare == expected


def test_a_stream_passes_unchanged(tmp_path: Path) -> None:
    """What FFmpeg writes comes out byte by byte."""
    data = y4m(media.lossless(tmp_path / "a.mkv", 4, color={"color_range": 2}), "-vf", "setsar=4/3")
    source, got = take(data)
    with caught() as (fd, back):
        sink = RawSink("-", source.info, fd=fd)
        for one in got:
            sink.write(one)
        sink.commit()
    assert bytes(back) == data


def test_tags() -> None:
    full = replace(frame(0), color=Color("bt601", True))
    data, _ = given([full], fps=Fraction(30000, 1001), sample_aspect=Fraction(16, 11))
    with av.open(io.BytesIO(data), format="yuv4mpegpipe") as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.sample_aspect_ratio) == (Fraction(30000, 1001), Fraction(16, 11))
        assert int(next(container.decode(video=0)).color_range) == 2


def test_444_grey_and_alpha() -> None:
    y, u, v = media.planes(0)
    big = (y, np.repeat(np.repeat(u, 2, 0), 2, 1), np.repeat(np.repeat(v, 2, 0), 2, 1))
    data, _ = given([Frame(big, 0, Fraction(1, 30), Color())])
    assert b" C444 " in data.split(b"\n")[0] + b" "
    assert data.endswith(b"".join(plane.tobytes() for plane in big))
    data, _ = given([frame(0)], content="grey")
    assert b" Cmono " in data.split(b"\n")[0]
    assert data.endswith(b"FRAME\n" + y.tobytes())
    alpha = np.full(SIZE, 77, np.uint8)
    data, _ = given([frame(0, alpha=alpha)], "-:raw", content="transparent")
    assert data == b"".join(plane.tobytes() for plane in (y, u, v, alpha))
    with pytest.raises(SinkError, match="y4m has no transparency: write -:raw"):
        given([frame(0, alpha=alpha)], content="transparent")


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_pictures_are_turned_upright(rotation: int, mirrored: bool) -> None:
    data, _ = given([frame(0)], "-:raw", rotation=rotation, mirrored=mirrored)
    planes = [np.rot90(plane, rotation // 90) for plane in media.planes(0)]
    planes = [plane[:, ::-1] for plane in planes] if mirrored else planes
    assert data == b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)


def shown(times: list[float], **kwargs: Any) -> tuple[list[int], RawSink]:
    """Return which frame stands in each slot of the stream, of frames that come at ``times``."""
    frames = [
        replace(frame(0), planes=tuple(np.full_like(p, n) for p in frame(0).planes), pts=round(t * 90_000))
        for n, t in enumerate(times)
    ]
    frames = [replace(one, time_base=Fraction(1, 90_000)) for one in frames]
    data, sink = given(frames, "-:raw", **kwargs)
    return [data[at] for at in range(0, len(data), 64 * 48 * 3 // 2)], sink


def test_the_rate_is_kept() -> None:
    even, sink = shown([n / 30 for n in range(20)])
    assert even == list(range(20))
    assert sink.notes == ()
    jitter = np.random.default_rng(1).uniform(-0.45, 0.45, 60) / 30
    assert shown([n / 30 + jitter[n] for n in range(60)])[0] == list(range(60))


def test_a_slower_camera_is_shown_in_real_time() -> None:
    got, sink = shown([n / 15 for n in range(30)])
    assert abs(len(got) - 60) <= 2
    assert sorted(set(got)) == list(range(30))
    assert "were repeated" in sink.notes[0]


def test_a_faster_camera_loses_frames() -> None:
    got, sink = shown([n / 60 for n in range(60)])
    assert abs(len(got) - 30) <= 2
    assert "were left out" in sink.notes[0]


def test_a_pause_is_not_made_up_for() -> None:
    got, _ = shown([0, 1 / 30, 2 / 30, 100, 100 + 1 / 30])
    assert got == [0, 1, 2, 3, 4]


def test_a_reader_that_goes() -> None:
    out, back = os.pipe()
    sink = RawSink("-", info(), fd=back)
    sink.write(frame(0))
    os.close(out)
    with pytest.raises(OutputClosedError, match="read no more"):
        sink.write(frame(1))
    assert sink.abort() is None
    assert sink.abort() is None
    os.close(back)


def test_a_reader_that_does_not_read_can_be_given_up() -> None:
    out, back = os.pipe()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    sink = RawSink("-", info((480, 640)), fd=back)
    failed: list[Exception] = []

    def fill() -> None:
        try:
            for index in range(100):
                sink.write(frame(index, (480, 640)))
        except OutputClosedError as error:
            failed.append(error)

    writer = threading.Thread(target=fill)
    writer.start()
    time.sleep(0.3)
    assert writer.is_alive()
    sink.interrupt()
    writer.join(20)
    assert len(failed) == 1
    sink.abort()
    assert os.get_blocking(back)  # whoever else writes there finds it as it was
    assert not before or len(os.listdir("/proc/self/fd")) == before
    os.close(out)
    os.close(back)


def test_what_cannot_be_written() -> None:
    with pytest.raises(SinkError, match="write - for y4m, or -:raw"):
        open_sink("-:y4m", info())
    closed = os.dup(0)
    os.close(closed)
    with pytest.raises(SinkError, match="is closed"):
        RawSink("-", info(), fd=closed)
    main, terminal = os.openpty()
    with pytest.raises(SinkError, match=r"is a terminal: vidseg pipe .* \| ffmpeg"):
        RawSink("-", info(), fd=terminal)
    with pytest.raises(SourceError, match="is a terminal"):
        RawSource("-", terminal)
    os.close(main)
    os.close(terminal)
    with open("/dev/full", "wb") as full, pytest.raises(SinkError, match="disk is full"):
        RawSink("-", info(), fd=full.fileno()).write(frame(0))


# -- the command -------------------------------------------------------------------------------------------------------


def vidseg(*arguments: str, **kwargs: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vidseg", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


def test_from_one_program_to_the_next(tmp_path: Path) -> None:
    """The demo's clip, decoded and encoded by ffmpeg; what is behind the person is the colour that was asked for."""
    sample = ROOT / "vidseg" / "demo" / "sample.mp4"
    before = subprocess.Popen(
        [
            *("ffmpeg", "-nostdin", "-v", "error", "-i", str(sample), "-frames:v", "12", "-vf", "scale=320:240"),
            *("-f", "yuv4mpegpipe", "-"),
        ],
        stdout=subprocess.PIPE,
    )
    command = [sys.executable, "-m", "vidseg", "pipe", "--bg", "#1e90ff"]
    middle = subprocess.Popen(
        command, cwd=ROOT, stdin=before.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    after = subprocess.Popen(
        [*("ffmpeg", "-v", "error", "-f", "yuv4mpegpipe", "-i", "-"), "-c:v", "ffv1", str(tmp_path / "out.mkv")],
        stdin=middle.stdout,
    )
    for process in (before, middle):
        assert process.stdout is not None
        process.stdout.close()
    _, said = middle.communicate(timeout=120)
    assert (before.wait(60), middle.returncode, after.wait(60)) == (0, 0, 0), said.decode()
    assert b"standard output: 12 frames" in said
    with open_source(str(tmp_path / "out.mkv")) as source:
        got = list(source)
    assert len(got) == 12
    assert got[0].size == (240, 320)
    corner = [int(np.median(plane[:20, :20])) for plane in got[-1].planes]
    asked = planes_from_rgb(np.full((2, 2, 3), (0x1E, 0x90, 0xFF), np.uint8), Color("bt601"))
    assert np.abs(np.array(corner) - [plane[0, 0] for plane in asked]).max() <= 1
    assert len(np.unique(got[-1].planes[0])) > 50  # the person


def test_a_reader_that_has_enough() -> None:
    """As ``| head`` does: no traceback, no hang."""
    process = vidseg("pipe", "--bg", "blur", stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None

    def fill() -> None:
        with process.stdin:  # type: ignore[union-attr]
            try:
                process.stdin.write(HEAD.replace(b"W64 H48", b"W320 H240") + b" C420\n")  # type: ignore[union-attr]
                while True:
                    process.stdin.write(b"FRAME\n" + bytes(320 * 240 * 3 // 2))  # type: ignore[union-attr]
            except (BrokenPipeError, ValueError):
                return

    writer = threading.Thread(target=fill)
    writer.start()
    assert process.stdout.read(9) == b"YUV4MPEG2"
    process.stdout.close()
    assert process.wait(120) == 1
    writer.join(20)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    assert "Traceback" not in said
    assert "bug" not in said


def test_a_request_to_end_is_heard_while_nobody_reads() -> None:
    process = vidseg("pipe", "--bg", "blur", stdout=subprocess.PIPE)
    assert process.stdin is not None
    head = HEAD.replace(b"W64 H48", b"W640 H480") + b" C420\n"
    process.stdin.write(head + 8 * (b"FRAME\n" + bytes(640 * 480 * 3 // 2)))
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.read(9) == b"YUV4MPEG2"  # it works; from now on its output is full
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert process.stderr is not None
    assert b"interrupted" in process.stderr.read()
    for stream in (process.stdin, process.stdout, process.stderr):
        try:
            stream.close()
        except BrokenPipeError:
            continue


def test_what_the_command_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["pipe"]) == 2
    assert "give a picture" in capsys.readouterr().err
    assert app.run(["pipe", "--bg", "white", "--raw", "big"]) == 2
    assert "write WIDTHxHEIGHT:FPS:FORMAT" in capsys.readouterr().err
    process = vidseg("pipe", "--bg", "white", stdout=subprocess.PIPE)
    out, said = process.communicate(b"", timeout=120)
    assert (process.returncode, out) == (1, b"")
    assert "nothing came on standard input" in said.decode()


def test_standard_input_is_a_source_like_any_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = y4m(media.lossless(tmp_path / "a.mkv", 3))
    sink = ListSink()
    with piped(data) as fd:
        source = RawSource("-", fd)
        stats = Pipeline(source, lambda frames, timings: list(frames), sink, batch=2).run()
    assert (stats.frames, stats.truncated, sink.state) == (3, False, "committed")
