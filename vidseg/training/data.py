"""Pictures with alpha, and the endless stream of augmented training samples made from them.

A *picture* is RGB + alpha + weight. Three kinds of sample are drawn: pictures with their own background, people
composited on other rooms, and rooms (or parts of pictures) with nobody in them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset

Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Rng = np.random.Generator

LONG_SIDE = 400
"""Pictures are kept at this size: twice what the network sees, enough for crops."""


@dataclass(frozen=True)
class Picture:
    """One photograph: ``rgb`` ``(h, w, 3)``, ``alpha`` ``(h, w)``, ``ignore`` ``(h, w)`` or None, all uint8."""

    rgb: Array
    alpha: Array
    ignore: Array | None
    person: str
    """Who is in it, as far as known: sampling is even over persons, not over frames."""
    own_background: bool


def _resized(image: Array, scale: float) -> Array:
    if scale >= 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _read(path: Path, flags: int = cv2.IMREAD_COLOR_RGB) -> Array:
    image = cv2.imread(str(path), flags)
    if image is None:
        raise FileNotFoundError(f"not a readable picture: {path}")
    return np.asarray(image, np.uint8)


def _labelled(root: Path, row: dict[str, str]) -> Picture:
    if row["set"] == "davidg":  # RGBA cut-outs
        rgba = _read(root / row["file"], cv2.IMREAD_UNCHANGED)
        return Picture(np.ascontiguousarray(rgba[..., 2::-1]), rgba[..., 3].copy(), None, row["file"], False)
    rgb, alpha = _read(root / row["file"]), _read(root / row["mask"], cv2.IMREAD_GRAYSCALE)
    carried_path = root / row["file"].replace(".webp", "_carried.png")
    carried = _read(carried_path, cv2.IMREAD_GRAYSCALE) if carried_path.exists() else None
    scale = LONG_SIDE / max(alpha.shape)
    return Picture(
        _resized(rgb, scale),
        _resized(alpha, scale),
        None if carried is None else _resized(carried, scale),
        row["file"],
        True,
    )


def _pseudo(root: Path, row: dict[str, str]) -> Picture:
    rgb, alpha = _read(root / row["file"]), _read(root / row["alpha"], cv2.IMREAD_GRAYSCALE)
    alpha = np.where(alpha < 5, 0, np.where(alpha > 250, 255, alpha)).astype(np.uint8)  # lossy WebP
    scale = LONG_SIDE / max(alpha.shape)
    person = row["file"] if row["kind"] == "still" else row["clip"]
    return Picture(_resized(rgb, scale), _resized(alpha, scale), None, person, row["kind"] != "plain")


def read_labelled(data: Path, split: str) -> dict[str, list[Picture]]:
    """Read ``labelled/`` of ``data``: the pictures of one split, by set."""
    with open(data / "labelled" / "index.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(lambda row: _labelled(data / "labelled", row), rows))
    sets: dict[str, list[Picture]] = {}
    for row, picture in zip(rows, pictures, strict=True):
        sets.setdefault(row["set"], []).append(picture)
    return sets


def read_pseudo(data: Path) -> dict[str, list[Picture]]:
    """Read ``pseudo/`` of ``data``, by set and kind."""
    with open(data / "pseudo" / "index.csv") as file:
        rows = list(csv.DictReader(file))
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(lambda row: _pseudo(data / "pseudo", row), rows))
    sets: dict[str, list[Picture]] = {}
    for row, picture in zip(rows, pictures, strict=True):
        sets.setdefault(f"{row['set']}-{row['kind']}", []).append(picture)
    return sets


def read_rooms(data: Path, split: str) -> list[Array]:
    """Read the rooms without people; every tenth house is kept for validation."""
    paths = sorted((data / "backgrounds").glob("*.webp"))
    chosen = [p for p in paths if (int(p.name.split("_")[0]) % 10 == 7) == (split == "val")]
    with ThreadPoolExecutor() as pool:
        rooms = list(pool.map(_read, chosen))
    return [_resized(room, LONG_SIDE / max(room.shape)) for room in rooms]


SHARES = {
    "ccp": 5.0,
    "vikram": 6.0,
    "pennfudan": 1.0,
    "coco": 0.3,
    "davidg": 1.5,
    "ccp_unlabelled-still": 4.0,
    "facemask-still": 3.0,
    "echomimic2-still": 0.5,
}
"""How often a set is drawn; sets that are not named count by the square root of their clips."""


class Bank:
    """All training pictures, drawn evenly over persons and by a fixed share over sets."""

    def __init__(self, data: Path) -> None:
        self.rooms = read_rooms(data, "train")
        sets = read_labelled(data, "train") | read_pseudo(data)
        self._persons = []
        shares = []
        for name, pictures in sets.items():
            persons: dict[str, list[Picture]] = {}
            for picture in pictures:
                persons.setdefault(picture.person, []).append(picture)
            self._persons.append(list(persons.values()))
            shares.append(SHARES.get(name, 0.35 * len(persons) ** 0.5))
        self._shares = np.asarray(shares) / sum(shares)
        self._real = np.asarray([sets[name][0].own_background for name in sets])
        self._real_shares = self._shares * self._real / (self._shares * self._real).sum()

    def draw(self, rng: Rng, own_background: bool) -> Picture:
        """Draw one picture: a set, a person of it, a frame of that person."""
        persons = self._persons[rng.choice(len(self._shares), p=self._real_shares if own_background else self._shares)]
        frames = persons[rng.integers(len(persons))]
        return frames[rng.integers(len(frames))]


# --- geometry ---------------------------------------------------------------------------------------------------


def _window(rng: Rng, alpha: Array, size: tuple[int, int], confine: bool) -> tuple[float, float, float, float]:
    """Choose the part of a picture to show: centre x, centre y, width, height in its pixels."""
    height, width = alpha.shape
    aspect = size[1] / size[0] * rng.uniform(0.88, 1.14)
    mode = rng.random()
    columns, rows = np.flatnonzero(alpha.max(0) > 127), np.flatnonzero(alpha.max(1) > 127)
    if mode < 0.12 or not len(columns):  # anything
        h = height * rng.uniform(0.35, 1.0)
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
    elif mode < 0.37:  # the whole picture, as a still is seen
        h = max(height, width / aspect) if rng.random() < 0.5 else min(height, width / aspect)
        h *= rng.uniform(0.85, 1.1)
        cx, cy = width * rng.uniform(0.45, 0.55), height * rng.uniform(0.45, 0.55)
    else:  # head and shoulders to half body, as a webcam sees it
        x0, x1, y0, y1 = columns[0], columns[-1], rows[0], rows[-1]
        body = min(y1 - y0, 2.5 * (x1 - x0)) + 1.0
        h = body * rng.uniform(0.3, 1.25)
        head = alpha[y0 : int(y0 + max(body * 0.2, 2))]
        weights = head.sum(0, dtype=np.float64) + 1e-6
        centre = float((weights * np.arange(width)).sum() / weights.sum())
        cx = centre + rng.normal(0, 0.18) * h * aspect
        cy = y0 + h * rng.uniform(0.28, 0.52)
    w = h * aspect
    if confine:
        shrink = min(1.0, width / w, height / h)
        if rng.random() < 0.7:
            w, h = w * shrink, h * shrink
        cx = np.clip(cx, w / 2, width - w / 2) if w <= width else width / 2
        cy = np.clip(cy, h / 2, height - h / 2) if h <= height else height / 2
    return float(cx), float(cy), float(w), float(h)


def _matrix(rng: Rng, window: tuple[float, float, float, float], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the 2x3 affine that maps output pixels to picture pixels, with a little rotation and a coin's flip."""
    cx, cy, w, h = window
    angle = np.deg2rad(rng.normal(0, 5))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    sx, sy = w / size[1], h / size[0]
    c, s = np.cos(angle), np.sin(angle)
    linear = np.array([[flip * c * sx, -s * sy], [flip * s * sx, c * sy]])
    offset = np.array([cx, cy]) - linear @ np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.hstack([linear, offset[:, None]])


def _warp(image: Array, matrix: npt.NDArray[np.float64], size: tuple[int, int], border: int) -> Array:
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    while scale > 1.6:  # halve first, or it aliases
        image = np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = np.hstack([matrix[:, :2] / 2, (matrix[:, 2:] - 0.5) / 2])
        scale /= 2
    return np.asarray(
        cv2.warpAffine(image, matrix, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=border),
        np.uint8,
    )


# --- light, sensor, codec ---------------------------------------------------------------------------------------


def _relight(rng: Rng, image: Floats, strength: float) -> Floats:
    """Change exposure, white balance, gamma, contrast, saturation and add a light that falls off to one side."""
    height, width = image.shape[:2]
    image = image * np.exp(rng.normal(0, 0.12 * strength, 3) + rng.normal(0, 0.22 * strength)).astype(np.float32)
    image = np.clip(image, 0, 1.2) ** np.float32(np.exp(rng.normal(0, 0.2 * strength)))
    grey = image @ np.asarray([0.3, 0.59, 0.11], np.float32)
    saturation = np.float32(np.clip(rng.normal(1, 0.3 * strength), 0, 2))
    image = grey[..., None] + (image - grey[..., None]) * saturation
    image = (image - 0.45) * np.float32(np.exp(rng.normal(0, 0.15 * strength))) + np.float32(0.45)
    if rng.random() < 0.3:
        angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.7) * strength
        x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
        ramp = 1 + np.float32(slope) * (np.float32(np.cos(angle)) * x[None] + np.float32(np.sin(angle)) * y[:, None])
        image = image * ramp[..., None]
    return image


def _degrade(rng: Rng, image: Floats) -> Array:
    """Add what a cheap camera adds: motion blur, defocus, low light with noise, JPEG."""
    if rng.random() < 0.25:
        if rng.random() < 0.5:
            length = int(rng.integers(3, 8))
            kernel = np.zeros((length, length), np.float32)
            start, end = ((int(x), int(y)) for x, y in rng.integers(0, length, (2, 2)))
            cv2.line(kernel, start, end, (1.0,))
            kernel[length // 2, length // 2] = 1.0
            image = np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.float32)
        else:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.4)), np.float32)
    if rng.random() < 0.15:
        image = image * np.float32(rng.uniform(0.2, 0.6))
    if rng.random() < 0.4:
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0.005, 0.06))
        image = image + (noise if rng.random() < 0.5 else noise.mean(2, keepdims=True))
    out = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < 0.3:
        _, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))])
        out = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return out


def _float(image: Array) -> Floats:
    return image.astype(np.float32) * np.float32(1 / 255)


# --- samples ----------------------------------------------------------------------------------------------------


def _backdrop(rng: Rng, bank: Bank, size: tuple[int, int]) -> Array:
    room = bank.rooms[rng.integers(len(bank.rooms))]
    empty = np.zeros(room.shape[:2], np.uint8)
    matrix = _matrix(rng, _window(rng, empty, size, confine=True), size)
    return _warp(room, matrix, size, cv2.BORDER_REFLECT_101)


def _photograph(rng: Rng, bank: Bank, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Draw a picture with its own background: RGB, alpha, weight."""
    picture = bank.draw(rng, own_background=True)
    matrix = _matrix(rng, _window(rng, picture.alpha, size, confine=True), size)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.2 else cv2.BORDER_REFLECT_101
    known = np.full(size, 255, np.uint8)
    if picture.ignore is not None:
        known = 255 - _warp(picture.ignore, matrix, size, border)
    return _warp(picture.rgb, matrix, size, border), _warp(picture.alpha, matrix, size, border), known


def draw_sample(rng: Rng, bank: Bank, size: tuple[int, int], pasted: float = 0.0) -> tuple[Array, Array, Array]:
    """Draw one sample: RGB ``(h, w, 3)``, alpha ``(h, w)``, weight ``(h, w)`` (255: the truth is known), uint8.

    ``pasted`` is the share of composites whose people are put, often farther off, into a picture that has people
    already (copy-paste, Ghiasi et al. 2021, arXiv:2012.07177) instead of into an empty room.
    """
    kind = rng.random()
    known = np.full(size, 255, np.uint8)
    if kind < 0.11:
        image = _relight(rng, _float(_backdrop(rng, bank, size)), 1.0)
        return _degrade(rng, image), np.zeros(size, np.uint8), known
    if kind < 0.58:
        rgb, alpha, known = _photograph(rng, bank, size)
        return _degrade(rng, _relight(rng, _float(rgb), 1.0)), alpha, known
    company = bool(pasted) and rng.random() < pasted
    if company:
        rgb, alpha, known = _photograph(rng, bank, size)
        image, total = _float(rgb), _float(alpha)
    else:
        image, total = _float(_backdrop(rng, bank, size)), np.zeros(size, np.float32)
    if not company and rng.random() < 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 4)), np.float32)
    image = _relight(rng, image, 0.8)
    for _ in range(2 if rng.random() < 0.15 else 1):
        picture = bank.draw(rng, own_background=False)
        whole = picture.alpha if picture.ignore is None else np.maximum(picture.alpha, picture.ignore)
        # What is cut off at the picture's edge may not float in the room: stay inside the picture then.
        touches = max(int(whole[-1].max()), int(whole[:, 0].max()), int(whole[:, -1].max())) > 127
        cx, cy, w, h = _window(rng, whole, size, confine=touches and rng.random() < 0.9)
        if company and not touches:  # farther off, anywhere
            far = rng.uniform(1, 3)
            cx, cy = cx + rng.uniform(-0.3, 0.3) * far * w, cy + rng.uniform(-0.3, 0.1) * far * h
            w, h = w * far, h * far
        matrix = _matrix(rng, (cx, cy, w, h), size)
        person = _float(_warp(picture.rgb, matrix, size, cv2.BORDER_REPLICATE))
        beyond = cv2.BORDER_REPLICATE if touches else cv2.BORDER_CONSTANT
        soft = _float(_warp(whole, matrix, size, beyond))
        # The rim still carries the old background's colour; a slightly smaller alpha keeps it out of the picture.
        soft = np.asarray(np.clip(cv2.GaussianBlur(soft, (3, 3), 0) * 1.25 - 0.25, 0, 1), np.float32)
        image = image + soft[..., None] * (_relight(rng, person, 0.8) - image)
        total = total + soft * (1 - total)
    return _degrade(rng, _relight(rng, image, 0.6)), (total * 255 + 0.5).astype(np.uint8), known


class Samples(IterableDataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """Endless batches ``rgb (N, 3, h, w)``, ``alpha (N, 1, h, w)``, ``weight (N, 1, h, w)``, uint8.

    All of a batch have one of ``sizes`` ``(h, w)``. The stream is a function of ``seed`` and the worker's number.
    """

    def __init__(self, bank: Bank, sizes: list[tuple[int, int]], batch: int, seed: int, pasted: float = 0.0) -> None:
        self.bank, self.sizes, self.batch, self.seed, self.pasted = bank, sizes, batch, seed, pasted

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        cv2.setNumThreads(0)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            size = self.sizes[rng.integers(len(self.sizes))]
            samples = [draw_sample(rng, self.bank, size, self.pasted) for _ in range(self.batch)]
            rgb, alpha, weight = (np.stack(x) for x in zip(*samples, strict=True))
            yield (
                torch.from_numpy(rgb.transpose(0, 3, 1, 2)),
                torch.from_numpy(alpha[:, None]),
                torch.from_numpy(weight[:, None]),
            )


def contact_sheet(
    bank: Bank, size: tuple[int, int], seed: int, rows: int = 6, columns: int = 8, pasted: float = 0.0
) -> Array:
    """Return a picture of augmented samples, each beside its alpha: what the network is really shown."""
    rng = np.random.default_rng(seed)
    tiles = []
    for _ in range(rows * columns):
        rgb, alpha, weight = draw_sample(rng, bank, size, pasted)
        shown = np.dstack([alpha, alpha, np.where(weight > 127, alpha, 255)])
        tiles.append(np.vstack([rgb, shown]))
    return np.vstack([np.hstack(tiles[r * columns : (r + 1) * columns]) for r in range(rows)])
