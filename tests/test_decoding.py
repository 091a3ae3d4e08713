from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from vidseg.decoding import is_animated, is_picture, picture_size, read_animation, read_picture
from vidseg.errors import SourceError, SourceNotFoundError

cv2 = pytest.importorskip("cv2")

LEFT, RIGHT, CORNER = (200, 30, 20), (20, 60, 220), (255, 255, 255)


def _sample() -> np.ndarray:
    rgb = np.zeros((40, 60, 3), np.uint8)
    rgb[:, :30], rgb[:, 30:], rgb[:10, :10] = LEFT, RIGHT, CORNER
    return rgb


def _near(pixel: np.ndarray, wanted: tuple[int, ...], most: int) -> bool:
    return bool(np.abs(pixel.astype(int) - np.array(wanted)).max() <= most)


@pytest.mark.parametrize(
    ("name", "mode", "most"),
    [
        ("a.png", "RGB", 0),
        ("a.webp", "RGB", 0),
        ("a.bmp", "RGB", 0),
        ("a.tif", "RGB", 0),
        ("a.jpg", "RGB", 3),
        ("a.jpg", "CMYK", 4),
        ("a.tif", "CMYK", 1),
        ("a.png", "P", 2),
        ("a.gif", "P", 2),
        ("wrong-suffix.txt", "RGB", 0),
    ],
)
def test_every_kind_becomes_rgb(tmp_path: Path, name: str, mode: str, most: int) -> None:
    path = tmp_path / name
    image = Image.fromarray(_sample())
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    options = {"quality": 95} if name.endswith("jpg") else {"lossless": True} if name.endswith("webp") else {}
    image.save(path, format="PNG" if name.endswith("txt") else None, **options)
    rgb, alpha = read_picture(path)
    assert rgb.shape == (40, 60, 3)
    assert rgb.dtype == np.uint8
    assert rgb.flags["C_CONTIGUOUS"]
    assert alpha is None
    assert _near(rgb[30, 15], LEFT, most)
    assert _near(rgb[30, 45], RIGHT, most)
    assert _near(rgb[3, 3], CORNER, most)
    assert is_picture(path)
    assert picture_size(path) == (40, 60)
    assert not is_animated(path)


@pytest.mark.parametrize(("mode", "wanted"), [("L", 80), ("1", None), ("LA", 80), ("I;16", 80)])
def test_grey(tmp_path: Path, mode: str, wanted: int | None) -> None:
    grey = Image.fromarray(_sample()).convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / "a.png")
    rgb, alpha = read_picture(tmp_path / "a.png")
    assert alpha is None
    assert rgb.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    assert (rgb[..., 0] == rgb[..., 1]).all()
    assert (rgb[..., 0] == rgb[..., 2]).all()
    if wanted is not None:
        assert rgb[30, 15, 0] == wanted * (257 if mode == "I;16" else 1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bits_are_kept(tmp_path: Path, suffix: str, channels: int) -> None:
    rgba = np.random.default_rng(0).integers(0, 65536, (13, 17, channels), np.uint16)
    stored = rgba[..., [2, 1, 0, 3][:channels]]
    path = tmp_path / f"a.{suffix}"
    assert cv2.imwrite(str(path), stored)
    rgb, alpha = read_picture(path)
    np.testing.assert_array_equal(rgb, rgba[..., :3])
    assert rgb.dtype == np.uint16
    if channels == 4:
        np.testing.assert_array_equal(alpha, rgba[..., 3])
    else:
        assert alpha is None


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(_sample())
    alpha = np.full((40, 60), 255, np.uint8)
    alpha[:, :30] = 64 if mode != "P" else 0
    if mode == "P":
        image = image.quantize(4)
        image.save(tmp_path / "a.png", transparency=image.getpixel((15, 30)))
    else:
        image = image.convert(mode)
        image.putalpha(Image.fromarray(alpha))
        image.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha[20:], alpha[20:])
    if mode == "RGBA":
        assert _near(picture.rgb[30, 15], LEFT, 0)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, depth: int, orientation: int) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    if depth == 8:
        Image.fromarray(_sample()).save(path, exif=exif)
    else:
        # Pillow cannot write 16-bit colour: put its eXIf chunk into OpenCV's file, after the header.
        Image.fromarray(_sample()).save(path, exif=exif)
        chunk = path.read_bytes()
        start = chunk.index(b"eXIf") - 4
        chunk = chunk[start : start + 12 + int.from_bytes(chunk[start : start + 4], "big")]
        assert cv2.imwrite(str(path), _sample()[..., ::-1].astype(np.uint16) * 257)
        data = path.read_bytes()
        path.write_bytes(data[:33] + chunk + data[33:])
    rgb, _ = read_picture(path)
    assert rgb.dtype == (np.uint8 if depth == 8 else np.uint16)
    assert rgb.shape == ((40, 60, 3) if orientation < 5 else (60, 40, 3))
    assert picture_size(path) == rgb.shape[:2]
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    row, column = corner[orientation]
    one = 1 if depth == 8 else 257
    assert tuple(rgb[row, column] // one) == CORNER
    # The red half of the stored picture is on its left; orientation says where that ends up.
    opposite = rgb[-1 - row if row == 0 else 0, column] if orientation >= 5 else rgb[row, -1 if column == 0 else 0]
    assert tuple(opposite // one) == RIGHT


def test_icc_profile_is_applied(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    Image.fromarray(_sample()).save(tmp_path / "wrong.png", icc_profile=profile.tobytes())
    assert _near(read_picture(tmp_path / "wrong.png").rgb[30, 15], LEFT, 0)
    Image.fromarray(_sample()).save(tmp_path / "broken.png", icc_profile=b"nonsense")
    assert _near(read_picture(tmp_path / "broken.png").rgb[30, 15], LEFT, 0)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    rgba = Image.fromarray(_sample())
    rgba.putalpha(77)
    rgba.save(tmp_path / "srgb.png", icc_profile=srgb.tobytes())
    picture = read_picture(tmp_path / "srgb.png")
    assert _near(picture.rgb[30, 15], LEFT, 1)
    assert picture.alpha is not None
    assert (picture.alpha == 77).all()


def test_large_jpeg_comes_out_smaller_but_never_too_small(tmp_path: Path) -> None:
    Image.fromarray(np.full((1600, 2400, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    rgb, _ = read_picture(tmp_path / "a.jpg", at_least=(300, 500))
    assert rgb.shape == (800, 1200, 3)
    assert read_picture(tmp_path / "a.jpg").rgb.shape == (1600, 2400, 3)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animation(tmp_path: Path, suffix: str) -> None:
    first = Image.fromarray(_sample())
    second = Image.fromarray(255 - _sample())
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    first.save(path, save_all=True, append_images=[second], duration=[120, 250], loop=0, **options)
    assert is_animated(path)
    shown = list(read_animation(path))
    assert [round(seconds, 3) for _, seconds in shown] == [0.12, 0.25]
    assert _near(shown[0][0].rgb[30, 15], LEFT, 2)
    assert _near(shown[1][0].rgb[30, 15], tuple(255 - c for c in LEFT), 2)
    assert _near(read_picture(path).rgb[30, 15], LEFT, 2)


def _huge_png(path: Path, width: int, height: int) -> None:
    """Write a PNG whose header claims a size that its data does not have."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "wide", "many", "cut jpeg", "cut png", "lie"])
def test_errors_are_one_clear_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "beach.jpg"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "wide":
        _huge_png(path, 20000, 10)
    elif kind == "many":
        _huge_png(path, 16000, 16000)
    elif kind == "lie":
        _huge_png(path, 300, 200)
    elif kind != "missing":
        noise.save(path, format="JPEG" if "jpeg" in kind else "PNG")
        path.write_bytes(path.read_bytes()[:5000])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SourceNotFoundError if kind == "missing" else SourceError, match=r"beach\.jpg") as caught:
            read_picture(path)
    text = str(caught.value)
    assert "\n" not in text
    assert ": " in text
    if kind in ("wide", "many"):
        assert "scale it down" in text
    if kind in ("missing", "folder", "empty", "text"):
        assert not is_picture(path)
