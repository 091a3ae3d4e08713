from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidseg.backgrounds import (
    BlurBackground,
    PictureBackground,
    TransparentBackground,
    VideoBackground,
    open_background,
)
from vidseg.color import planes_from_rgb, rgb_from_planes
from vidseg.errors import SourceError, SourceNotFoundError
from vidseg.frame import RGB, Color, Frame, Size, allocate
from vidseg.light import HLG, PQ, convert_light

BT709, FULL601 = Color("bt709"), Color("bt601", full_range=True)
RED, GREEN, BLUE, WHITE = (220, 20, 20), (20, 160, 40), (30, 60, 220), (255, 255, 255)


def _frame(
    size: Size = (72, 128), color: Color = BT709, depth: int = 8, subsampled: bool = True, time: float = 0.0
) -> Frame:
    planes = allocate(size, depth, subsampled)
    for plane in planes:
        plane[...] = 99
        plane.flags.writeable = False
    return Frame(planes, round(time * 1000), Fraction(1, 1000), color, depth)


def _rgb(frame: Frame) -> np.ndarray:
    return rgb_from_planes(frame.planes, frame.color, frame.depth).astype(int)


def _clear(frame: Frame) -> np.ndarray:
    return np.zeros(frame.size, np.uint8)


def _quarters(height: int, width: int) -> np.ndarray:
    """Red, green above blue, white."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[: height // 2, : width // 2], rgb[: height // 2, width // 2 :] = RED, GREEN
    rgb[height // 2 :, : width // 2], rgb[height // 2 :, width // 2 :] = BLUE, WHITE
    return rgb


def _save(path: Path, rgb: np.ndarray) -> str:
    Image.fromarray(rgb).save(path)
    return str(path)


def _at(rgb: np.ndarray, row: float, column: float) -> tuple[int, ...]:
    """Pixel at shares of the height and width."""
    return tuple(int(x) for x in rgb[int(row * rgb.shape[0]), int(column * rgb.shape[1])])


def _close(pixel: tuple[int, ...], wanted: tuple[int, ...], most: int = 4) -> bool:
    return max(abs(a - b) for a, b in zip(pixel, wanted, strict=True)) <= most


KINDS = [
    pytest.param((72, 128), BT709, 8, True, id="709"),
    pytest.param((72, 128), FULL601, 8, True, id="601 full"),
    pytest.param((71, 127), BT709, 8, True, id="odd"),
    pytest.param((71, 127), Color("bt2020", primaries=1), 10, True, id="10 bit"),
    pytest.param((73, 129), BT709, 12, False, id="444 12 bit"),
    pytest.param((72, 128), RGB, 8, False, id="rgb"),
    pytest.param((40, 50), replace(RGB, full_range=False), 16, False, id="rgb 16 bit limited"),
]


def _video(path: Path, levels: list[int], fps: Fraction = Fraction(10), size: Size = (48, 64), **tags: object) -> str:
    """Write a video whose frames are grey, one level each, losslessly."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for name, value in tags.items():
            setattr(stream, name, value)
        for level in levels:
            planes = allocate(size)
            for plane, value in zip(planes, (level, 128, 128), strict=True):
                plane[...] = value
            picture = av.VideoFrame.from_ndarray(
                np.concatenate([p.reshape(-1) for p in planes]).reshape(size[0] * 3 // 2, size[1]), format="yuv420p"
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return str(path)


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    """One name of each kind of background."""
    _save(tmp_path / "a.png", _quarters(30, 40))
    first = Image.fromarray(_quarters(30, 40))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[first.rotate(180)], duration=100, loop=0)
    return {
        "picture": str(tmp_path / "a.png"),
        "animation": str(tmp_path / "a.gif"),
        "video": _video(tmp_path / "a.mkv", [50, 100, 150]),
        "colour": "#1e90ff",
        "name": "White",
        "blur": "blur",
        "strong": "blur:100",
        "weak": "blur:5",
        "none": "blur:0",
        "transparent": "transparent",
    }


@pytest.mark.parametrize(("size", "color", "depth", "subsampled"), KINDS)
@pytest.mark.parametrize(
    "kind", ["picture", "animation", "video", "colour", "name", "blur", "strong", "weak", "none", "transparent"]
)
@pytest.mark.parametrize("fit", ["cover", "contain"])
def test_every_background_gives_a_frame_of_the_same_kind(
    texts: dict[str, str], kind: str, fit: str, size: Size, color: Color, depth: int, subsampled: bool
) -> None:
    background = open_background(texts[kind], fit)
    frame = _frame(size, color, depth, subsampled, time=1.5)
    behind = background.render(frame, _clear(frame))
    assert behind.size == frame.size
    assert behind.subsampled == frame.subsampled
    assert (behind.color, behind.depth, behind.pts, behind.time_base) == (color, depth, frame.pts, frame.time_base)
    for plane, given in zip(behind.planes, frame.planes, strict=True):
        assert (plane.shape, plane.dtype) == (given.shape, given.dtype)
        assert plane.max() < 2**depth
        assert (given == 99).all()
    background.close()
    background.close()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 5), (2, 2)])
@pytest.mark.parametrize("kind", ["picture", "animation", "video", "colour", "blur", "strong", "transparent"])
def test_tiny_frames(texts: dict[str, str], kind: str, size: Size) -> None:
    for rotation in (0, 90):
        background = open_background(texts[kind], "contain", rotation)
        frame = _frame(size)
        assert background.render(frame, _clear(frame)).size == size
        background.close()


@pytest.mark.parametrize(("size", "color", "depth", "subsampled"), KINDS)
def test_a_picture_of_the_same_size_is_itself(
    tmp_path: Path, size: Size, color: Color, depth: int, subsampled: bool
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    frame = _frame(size, color, depth, subsampled)
    behind = open_background(_save(tmp_path / "a.png", rgb)).render(frame, _clear(frame))
    for plane, wanted in zip(behind.planes, planes_from_rgb(rgb, color, depth, subsampled), strict=True):
        np.testing.assert_array_equal(plane, wanted)


@pytest.mark.parametrize(
    ("text", "wanted"), [("#1e90ff", (30, 144, 255)), ("#F80", (255, 136, 0)), ("red", (255, 0, 0))]
)
@pytest.mark.parametrize(("size", "color", "depth", "subsampled"), KINDS)
def test_colours(
    text: str, wanted: tuple[int, int, int], size: Size, color: Color, depth: int, subsampled: bool
) -> None:
    frame = _frame(size, color, depth, subsampled)
    rgb = _rgb(open_background(text).render(frame, _clear(frame)))
    assert np.abs(rgb - np.array(wanted)).max() <= (2 if depth == 8 else 1)


def test_a_picture_is_rendered_once_for_a_kind_of_frame(texts: dict[str, str]) -> None:
    background = open_background(texts["picture"])
    frame = _frame()
    first = background.render(frame, _clear(frame))
    second = background.render(replace(frame, pts=77), _clear(frame))
    assert second.planes[0] is first.planes[0]
    assert second.pts == 77
    other = _frame((40, 40), FULL601)
    assert background.render(other, _clear(other)).size == (40, 40)


# Fits: an 80x40 picture (2:1) of four colours.


def test_cover_cuts_the_sides_equally(tmp_path: Path) -> None:
    frame = _frame((60, 60))
    rgb = _rgb(open_background(_save(tmp_path / "a.png", _quarters(40, 80)), "cover").render(frame, _clear(frame)))
    assert _close(_at(rgb, 0.02, 0.02), RED)
    assert _close(_at(rgb, 0.02, 0.97), GREEN)
    assert _close(_at(rgb, 0.97, 0.02), BLUE)
    edge = np.abs(rgb[10] - np.array(GREEN)).sum(axis=1) < 100
    assert abs(int(np.argmax(edge)) - 30) <= 1


def test_contain_shows_all_and_pads_with_black(tmp_path: Path) -> None:
    frame = _frame((60, 60))
    rgb = _rgb(open_background(_save(tmp_path / "a.png", _quarters(40, 80)), "contain").render(frame, _clear(frame)))
    assert rgb[:12].max() <= 2
    assert rgb[-12:].max() <= 2
    assert _close(tuple(rgb[20, 5]), RED)
    assert _close(tuple(rgb[40, 55]), WHITE)


def test_stretch_distorts(tmp_path: Path) -> None:
    frame = _frame((60, 60))
    rgb = _rgb(open_background(_save(tmp_path / "a.png", _quarters(40, 80)), "stretch").render(frame, _clear(frame)))
    for row, column, wanted in ((5, 5, RED), (5, 55, GREEN), (55, 5, BLUE), (55, 55, WHITE)):
        assert _close(tuple(rgb[row, column]), wanted)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("moving", [False, True])
def test_the_viewer_sees_it_upright(tmp_path: Path, rotation: int, mirrored: bool, moving: bool) -> None:
    upright = _quarters(40, 80)
    path = tmp_path / ("a.gif" if moving else "a.png")
    image = Image.fromarray(upright)
    if moving:
        image.save(path, save_all=True, append_images=[image.rotate(180)], duration=1000, loop=0)
    else:
        image.save(path)
    stored = (80, 160) if rotation in (0, 180) else (160, 80)
    frame = _frame(stored)
    background = open_background(str(path), "cover", rotation, mirrored=mirrored)
    seen = np.rot90(_rgb(background.render(frame, _clear(frame))), rotation // 90)
    seen = seen[:, ::-1] if mirrored else seen
    for row, column, wanted in ((0.1, 0.1, RED), (0.1, 0.9, GREEN), (0.9, 0.1, BLUE), (0.9, 0.9, WHITE)):
        assert _close(_at(seen, row, column), wanted, 6)


@pytest.mark.parametrize("rotation", [0, 90])
def test_sample_aspect_is_respected(tmp_path: Path, rotation: int) -> None:
    # Stored 60 wide, pixels twice as wide as high: shown 2:1, as the picture is, so contain leaves no bars.
    frame = _frame((60, 60))
    background = open_background(_save(tmp_path / "a.png", _quarters(40, 80)), "contain", rotation, Fraction(2))
    rgb = _rgb(background.render(frame, _clear(frame)))
    if rotation == 0:
        assert rgb[0].max() > 100
        assert rgb[:, 0].max() > 100
    else:  # shown 1:2, so the picture fills the width and a quarter of the height, which is stored as columns
        assert rgb[:, :20].max() <= 2
        assert rgb[:, -20:].max() <= 2
        assert rgb[0, 25:35].max() > 100


# Pictures of every sort reach the frame.


@pytest.mark.parametrize("kind", ["cmyk.jpg", "grey.png", "grey16.png", "palette.png", "exif.jpg", "alpha.png"])
def test_kinds_of_pictures(tmp_path: Path, kind: str) -> None:
    image = Image.fromarray(_quarters(64, 64))
    path, options = tmp_path / kind, {}
    wanted: tuple[int, ...] = RED
    if kind == "cmyk.jpg":
        image, options = image.convert("CMYK"), {"quality": 95}
    elif kind == "grey.png":
        image, wanted = image.convert("L"), (80, 80, 80)
    elif kind == "grey16.png":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        image, wanted = Image.fromarray(grey), (80, 80, 80)
    elif kind == "palette.png":
        image = image.quantize(8)
    elif kind == "exif.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6  # stored on its side: what is left below is above left
        options, wanted = {"exif": exif, "quality": 95}, BLUE
    else:
        image.putalpha(Image.fromarray(np.full((64, 64), 128, np.uint8)))
        wanted = tuple(round(c * 128 / 255) for c in RED)
    image.save(path, **options)
    frame = _frame((64, 64))
    assert _close(_at(_rgb(open_background(str(path)).render(frame, _clear(frame))), 0.2, 0.2), wanted, 8)


# HDR: BT.2408's white is 58 % of PQ and 75 % of HLG.


@pytest.mark.parametrize(("transfer", "signal"), [(PQ, 0.5807), (HLG, 0.75)])
def test_white_in_hdr_is_at_203_nits(transfer: int, signal: float) -> None:
    color = Color("bt2020", False, 9, transfer)
    frame = _frame((8, 8), color, 10)
    luma, cb, cr = open_background("white").render(frame, _clear(frame)).planes
    assert np.abs(luma.astype(float) - (64 + 876 * signal)).max() <= 1.5
    assert np.abs(cb.astype(int) - 512).max() <= 1
    assert np.abs(cr.astype(int) - 512).max() <= 1
    assert open_background("black").render(frame, _clear(frame)).planes[0].max() == 64


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_and_back_is_the_same_below_the_knee(transfer: int) -> None:
    rgb = np.random.default_rng(0).integers(0, 200, (9, 11, 3), np.uint8)
    wide = Color("bt2020", False, 9, transfer)
    there = convert_light(rgb, RGB, wide)
    assert there.dtype == np.uint16
    back = convert_light(there, wide, RGB).astype(float) / 257
    np.testing.assert_allclose(back, rgb, atol=1.0)
    assert convert_light(rgb, RGB, BT709) is rgb
    peak = convert_light(np.full((1, 1, 3), 65535, np.uint16), wide, RGB)
    assert peak.min() > 0.9 * 65535


def test_the_brightest_pure_colour_is_still_rolled_off() -> None:
    red = np.array([[[65535, 0, 0]]], np.uint16)
    shown = convert_light(red, Color("bt2020", False, 9, PQ), RGB)
    # 10000 nits of BT.2020's red are 1.66 times as much of BT.709's, and 0.7 + 0.3 * 81.1 / 81.4 once bent.
    assert abs(shown[0, 0, 0] / 65535 - 0.9995) < 0.0001
    assert shown[0, 0, 1:].max() == 0


def test_wide_primaries_are_those_of_the_standard() -> None:
    # BT.2087: BT.709's red in linear BT.2020 is 0.6274, 0.0691, 0.0164.
    red = np.array([[[255, 0, 0]]], np.uint8)
    there = convert_light(red, RGB, Color("bt2020", False, 9, 14)).astype(float)[0, 0] / 65535
    linear = np.where(there <= 0.04045, there / 12.92, ((there + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(linear, [0.6274, 0.0691, 0.0164], atol=0.0005)


# Blur.


def _scene(size: Size, color: Color = BT709, depth: int = 8, subsampled: bool = True) -> tuple[Frame, np.ndarray]:
    """A red person with a soft edge before a green room with a darker half."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot((rows - 0.7 * height) / 1.4, columns - 0.45 * width)
    soft = max(2.0, 0.01 * height)
    alpha = np.clip((0.25 * height - distance) / soft + 0.5, 0, 1)
    room = np.where((columns > width / 2)[..., None], np.array([10, 110, 30]), np.array(GREEN))
    rgb = np.rint(alpha[..., None] * np.array(RED) + (1 - alpha[..., None]) * room).astype(np.uint8)
    frame = Frame(planes_from_rgb(rgb, color, depth, subsampled), 0, Fraction(1, 30), color, depth)
    return frame, np.rint(alpha * 255).astype(np.uint8)


@pytest.mark.parametrize("strength", [3, 10, 30, 50, 77, 100])
@pytest.mark.parametrize(("size", "color", "depth", "subsampled"), KINDS)
def test_no_colour_of_the_person_is_in_the_blur(
    strength: float, size: Size, color: Color, depth: int, subsampled: bool
) -> None:
    frame, alpha = _scene((size[0] * 4, size[1] * 4), color, depth, subsampled)
    rgb = _rgb(BlurBackground(strength).render(frame, alpha))
    # The room has 10 to 20 of red; chroma of 4:2:0 and rounding add a little.
    assert rgb[..., 0].max() <= 26
    assert rgb[..., 1].min() >= 100


def test_the_room_stays_where_it_was() -> None:
    frame, alpha = _scene((360, 640))
    rgb, blurred = _rgb(frame), _rgb(open_background("blur").render(frame, alpha))
    for row, column in ((0.05, 0.1), (0.05, 0.9), (0.9, 0.02), (0.9, 0.98)):
        assert _close(_at(blurred, row, column), _at(rgb, row, column), 3)
    edge = blurred[10, :, 1]
    assert abs(int(np.argmax(edge < (edge[20] + edge[-20]) / 2)) - 320) <= 6


def test_blur_blurs_more_with_strength() -> None:
    checks = np.random.default_rng(0).integers(20, 220, (30, 54), np.uint8).repeat(12, 0).repeat(12, 1)[:, :640]
    frame = Frame(planes_from_rgb(np.repeat(checks[..., None], 3, 2), BT709), 0, Fraction(1, 30))
    spread = [
        open_background(f"blur:{strength}").render(frame, np.zeros((360, 640), np.uint8)).planes[0].std()
        for strength in (0, 10, 30, 60, 100)
    ]
    assert spread[0] > 40, spread
    assert all(more > less for more, less in itertools.pairwise(spread)), spread
    assert spread[4] < 12, spread


def test_no_strength_is_the_room_itself() -> None:
    frame, alpha = _scene((36, 64))
    assert open_background("blur:0").render(frame, alpha).planes[0] is frame.planes[0]


@pytest.mark.parametrize(("size", "color", "depth", "subsampled"), KINDS)
def test_where_the_person_hides_everything_it_is_grey(size: Size, color: Color, depth: int, subsampled: bool) -> None:
    rgb = np.empty((*size, 3), np.uint8)
    rgb[...] = RED
    frame = Frame(planes_from_rgb(rgb, color, depth, subsampled), 0, Fraction(1, 30), color, depth)
    for strength in (10, 100):
        blurred = _rgb(BlurBackground(strength).render(frame, np.full(size, 255, np.uint8)))
        assert np.abs(blurred - 128).max() <= 2


def test_where_the_person_hides_nearly_everything_it_is_the_rest() -> None:
    rgb = np.empty((180, 320, 3), np.uint8)
    rgb[...] = RED
    rgb[:40, :40] = GREEN
    alpha = np.full((180, 320), 255, np.uint8)
    alpha[:40, :40] = 0
    frame = Frame(planes_from_rgb(rgb, BT709), 0, Fraction(1, 30))
    blurred = _rgb(BlurBackground(50).render(frame, alpha))
    assert np.abs(blurred - np.array(GREEN)).max() <= 4


# Video.


def _level(background: object, time: float) -> int:
    frame = _frame(time=time)
    luma = background.render(frame, _clear(frame)).planes[0]  # type: ignore[attr-defined]
    assert luma.min() == luma.max()
    return int(luma[0, 0])


def test_a_video_keeps_its_own_time_and_loops(tmp_path: Path) -> None:
    background = open_background(_video(tmp_path / "a.mkv", [40, 80, 120, 160]))  # 10 fps: 0.4 s
    start = 100.0
    for index in range(0, 60):
        time = index / 30
        assert _level(background, start + time + 0.001) == 40 + 40 * (int((time + 0.0005) / 0.1) % 4), time
    background.close()


def test_a_frame_that_is_still_on_is_not_rendered_again(tmp_path: Path) -> None:
    background = open_background(_video(tmp_path / "a.mkv", [40, 80, 120]))
    frames = [background.render(_frame(time=t), _clear(_frame())) for t in (0.0, 0.03, 0.06, 0.12)]
    assert frames[0].planes is frames[1].planes is frames[2].planes
    assert frames[3].planes is not frames[0].planes
    assert [round(f.time, 2) for f in frames] == [0.0, 0.03, 0.06, 0.12]
    background.close()


def test_a_jump_of_many_rounds_and_one_backwards(tmp_path: Path) -> None:
    background = open_background(_video(tmp_path / "a.mkv", [40, 80, 120, 160]))
    assert _level(background, 0.0) == 40
    assert _level(background, 0.55) == 80
    assert _level(background, 4000.25) == 120
    assert _level(background, 1.0) == 40  # a new beginning
    assert _level(background, 1.15) == 80
    background.close()


def test_a_video_of_one_frame_stands_still(tmp_path: Path) -> None:
    background = open_background(_video(tmp_path / "a.mkv", [90]))
    assert [_level(background, t) for t in (0.0, 0.5, 100.0, 3.0)] == [90] * 4
    background.close()


def test_an_animation_keeps_its_own_time(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 10), (level, level, level)) for level in (0, 128, 255)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 300, 100], loop=0)
    background = open_background(str(tmp_path / "a.gif"))
    levels = [_level(background, t) for t in (0.0, 0.05, 0.15, 0.35, 0.45, 0.55, 0.65)]
    assert levels == [16, 16, 126, 126, 235, 16, 126]
    background.close()


@pytest.mark.parametrize(("size", "color", "depth", "subsampled"), KINDS)
def test_a_video_changes_its_matrix_range_and_depth(
    tmp_path: Path, size: Size, color: Color, depth: int, subsampled: bool
) -> None:
    background = open_background(_video(tmp_path / "a.mkv", [126]))
    frame = _frame(size, color, depth, subsampled)
    rgb = _rgb(background.render(frame, _clear(frame)))
    assert np.abs(rgb - 128).max() <= 1
    background.close()


class _Broken:
    """A clip that fails after some frames, and when it is opened again."""

    rotation, mirrored, sample_aspect = 0, False, Fraction(1)
    opened = 0

    def __init__(self, lasts: int, opens: int = 99) -> None:
        _Broken.opened += 1
        if _Broken.opened > opens:
            raise SourceError("gone")
        self._lasts = lasts

    def __iter__(self) -> Iterator[tuple[Frame, float]]:
        for index in range(self._lasts):
            frame = _frame(time=index / 10)
            planes = allocate(frame.size)
            for plane, value in zip(planes, (50 + 10 * index, 128, 128), strict=True):
                plane[...] = value
            yield replace(frame, planes=planes), (index + 1) / 10
        raise SourceError("damaged")

    def close(self) -> None:
        pass


def test_a_damaged_video_starts_again_or_keeps_its_last_good_frame() -> None:
    _Broken.opened = 0
    background = VideoBackground(lambda: _Broken(3))
    assert [_level(background, t + 0.01) for t in (0, 0.1, 0.2, 0.3, 0.4)] == [50, 60, 70, 50, 60]
    _Broken.opened = 0
    background = VideoBackground(lambda: _Broken(3, opens=1))
    assert [_level(background, t + 0.01) for t in (0, 0.1, 0.2, 0.3, 0.4, 9)] == [50, 60, 70, 70, 70, 70]
    background.close()


def test_an_hdr_video_behind_an_sdr_frame() -> None:
    class Bright:
        rotation, mirrored, sample_aspect = 0, False, Fraction(1)

        def __iter__(self) -> Iterator[tuple[Frame, float]]:
            planes = allocate((40, 60), 10)
            for plane, value in zip(planes, (64 + 876 * 0.5807, 512, 512), strict=True):
                plane[...] = round(value)
            yield Frame(planes, 0, Fraction(1, 25), Color("bt2020", False, 9, PQ), 10), 0.04

        def close(self) -> None:
            pass

    frame = _frame()
    rgb = _rgb(VideoBackground(Bright).render(frame, _clear(frame)))
    assert rgb.min() > 220
    assert np.ptp(rgb) <= 2


# What is no background.


def test_the_transparent_background_is_a_marker() -> None:
    assert isinstance(open_background("transparent"), TransparentBackground)
    assert isinstance(open_background("blur"), BlurBackground)
    assert isinstance(open_background("#123"), PictureBackground)


@pytest.mark.parametrize(
    "text",
    ["#12345", "#ggg", "#", "blur:101", "blur:-1", "blur:much", "blur:nan", "missing.jpg", "nocolour", "missing.mp4"],
)
def test_bad_names(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_background(text)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SourceNotFoundError) == (text[0] in "mn")


@pytest.mark.parametrize("name", ["a.jpg", "a.mp4", "a.gif", "notes.txt", "a.heic"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind, only some words that go on for a while " * 9])
def test_files_that_are_no_background(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=name.replace(".", r"\.")):
        open_background(str(tmp_path / name))


def test_an_empty_folder_is_no_background(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        open_background(str(tmp_path))


def test_mistakes_of_a_caller() -> None:
    with pytest.raises(ValueError, match="fill"):
        open_background("white", "fill")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="45"):
        open_background("white", rotation=45)
    with pytest.raises(ValueError, match="aspect"):
        open_background("white", sample_aspect=Fraction(0))
    with pytest.raises(ValueError, match="101"):
        BlurBackground(101)
