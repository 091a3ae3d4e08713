"""Samples: what a network is shown is what the truth says, the same for the same seed, and moves as its alpha does."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs vidseg[train]: torch is not installed")
pytest.importorskip("torchvision", reason="training needs vidseg[train]: torchvision is not installed")

from torch.utils.data import DataLoader  # noqa: E402

from vidseg.cli.main import main  # noqa: E402
from vidseg.errors import SourceError  # noqa: E402
from vidseg.training.augment import STRENGTHS, Policy  # noqa: E402
from vidseg.training.bank import Bank  # noqa: E402
from vidseg.training.compose import clean_rim, draw_scene, lay, match_light, match_sharpness  # noqa: E402
from vidseg.training.samples import Sampler, Samples, contact_sheet  # noqa: E402

SIZE = (96, 128)
PLAIN = replace(STRENGTHS["none"], webcam=1.0, motion=1.0, rotation=5.0)
"""Framing and motion, but no change of colours, which the tests measure."""


def rng(seed=0):
    return np.random.default_rng(seed)


def person(x=64):
    alpha = np.zeros(SIZE, np.uint8)
    cv2.circle(alpha, (x, 34), 14, 255, -1, cv2.LINE_AA)
    cv2.ellipse(alpha, (x, 80), (26, 34), 0, 0, 360, 255, -1, cv2.LINE_AA)
    return alpha


def photograph(x=64):
    """Return people in pure red before rooms in blue and green: red is the alpha."""
    alpha = person(x)
    room = np.zeros((*SIZE, 3), np.uint8)
    room[..., 1:] = rng(x).integers(30, 220, (*SIZE, 2))
    share = alpha[..., None] / 255
    return (room * (1 - share) + np.array((255, 0, 0)) * share).round().astype(np.uint8), alpha


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    assert cv2.imwrite(str(path), pixels)


def room(seed):
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[..., 1:] = cv2.resize(rng(seed).integers(0, 256, (12, 16, 2)).astype(np.uint8), SIZE[::-1])
    return pixels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for index in range(5):
        rgb, alpha = photograph(45 + 8 * index)
        write(root / "people" / f"{index}.png", rgb)
        write(root / "people" / f"{index}_mask.png", np.where(alpha > 127, 255, 0).astype(np.uint8))
        write(root / "cut" / f"{index}.png", np.dstack([rgb, alpha]))
        write(root / "rooms" / f"{index}_room.png", room(index))
        for folder, pixels in (("frames", rgb), ("alphas", alpha)):
            write(root / "clips" / folder / "walk" / f"{index}.png", pixels)
    carried = np.zeros(SIZE, np.uint8)
    carried[60:, 60:] = 255
    write(root / "people" / "1_carried.png", carried)
    return root


@pytest.fixture(scope="module")
def bank(data):
    return Bank.open(data, split="")


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pasted", "frames"), [(0.0, 1), (1.0, 1), (0.5, 3)])
def test_a_batch_is_pictures_alpha_and_weight(bank, pasted, frames):
    sizes, seen, people = [(64, 96), (96, 64)], set(), []
    for batch in itertools.islice(Samples(bank, sizes, 6, seed=3, pasted=pasted, frames=frames), 8):
        size = tuple(batch.rgb.shape[3:])
        assert batch.rgb.shape == (6, frames, 3, *size)
        assert batch.alpha.shape == batch.weight.shape == (6, frames, 1, *size)
        assert all(part.dtype == torch.uint8 for part in batch)
        seen.add(size)
        people += [int(one.max()) for one in batch.alpha]
    assert seen == set(sizes)
    assert 0 in people  # empty rooms
    assert sum(value > 250 for value in people) > len(people) / 2


@pytest.mark.parametrize("frames", [1, 3])
def test_samples_are_a_function_of_the_seed(bank, frames):
    def stream(seed):
        samples = Samples(bank, [(32, 48)], 4, seed, 0.5, frames)
        return [torch.cat(batch, 2) for batch in itertools.islice(samples, 3)]

    first = stream(5)
    assert all(torch.equal(a, b) for a, b in zip(first, stream(5), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, stream(6), strict=True))


def test_the_seed_of_pytorch_is_left_alone(bank):
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    next(iter(Samples(bank, [(32, 48)], 4, 1)))
    assert torch.equal(torch.rand(4), wanted)


def test_workers_draw_different_samples(bank):
    loader = DataLoader(Samples(bank, [(32, 48)], 2, 1), batch_size=None, num_workers=2)
    first, second = itertools.islice(loader, 2)
    assert not torch.equal(first.rgb, second.rgb)


def test_what_is_carried_is_not_asked_for(bank):
    sampler = Sampler(bank, Policy(composites=0), rng(0))
    weights = [sampler.batch((48, 64), 1).weight for _ in range(60)]
    assert any(weight.min() == 0 for weight in weights)
    assert sum(int(weight.min()) == 255 for weight in weights) > 30


# --- the truth --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_the_alpha_of_a_photograph_is_where_the_person_is(data, seed):
    bank = Bank.open(data / "clips", split="")
    scene = draw_scene(rng(seed), bank, (60, 80), 5, PLAIN)
    red = scene.rgb[..., 0].astype(int)  # is the alpha itself
    assert np.abs(red - scene.alpha).max() <= 2
    assert not scene.ignore.any()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("frames", [1, 5])
def test_the_alpha_of_a_composite_is_where_the_person_is(data, seed, frames):
    bank = Bank.open(data / "cut", data / "rooms", split="")
    scene = draw_scene(rng(seed), bank, (60, 80), frames, replace(PLAIN, composites=1.0))
    assert scene.composed
    red = scene.rgb[..., 0].astype(int)
    # Rims are cleaned: of what is nearly all person the colour is the person's, and of the room nothing is red.
    assert np.abs(red - scene.alpha).max() <= 24
    assert np.abs(red - scene.alpha).mean() < 1.5


def test_people_in_made_clips_move_and_rooms_pan(data):
    bank = Bank.open(data / "cut", data / "rooms", split="")
    moved, panned = [], []
    for seed in range(30):
        scene = draw_scene(rng(seed), bank, (60, 80), 4, replace(PLAIN, composites=1.0))
        assert not (scene.alpha[0] == scene.alpha[3]).all() or not scene.alpha.any()
        moved.append(np.abs(scene.alpha[1].astype(int) - scene.alpha[0]).mean())
        away = scene.alpha.max(0) == 0
        panned.append(np.abs(scene.rgb[1][away].astype(int) - scene.rgb[0][away]).mean() if away.any() else 0)
    assert 0.2 < np.mean(moved) < 40
    assert 0.2 < np.mean(np.asarray(panned) == 0) < 0.7  # cameras on a stand


def test_real_clips_are_shown_in_their_order(data):
    bank = Bank.open(data / "clips", split="")
    policy = replace(STRENGTHS["none"], webcam=0.0)
    scene = draw_scene(rng(1), bank, SIZE, 5, policy)
    columns = np.array([(alpha.sum(0) * np.arange(SIZE[1])).sum() / alpha.sum() for alpha in scene.alpha.astype(float)])
    steps = np.diff(columns)
    assert (np.abs(steps) > 3).all()
    assert np.abs(steps).max() < 14


def test_objects_are_no_people(data, tmp_path):
    green = np.zeros((40, 40, 4), np.uint8)
    green[5:35, 5:35] = (0, 255, 0, 255)
    write(tmp_path / "things" / "box.png", green)
    bank = Bank.open(data / "cut", data / "rooms", tmp_path / "things", split="")
    assert len(bank.objects) == 1
    policy = replace(PLAIN, composites=1.0, objects=1.0, occluders=1.0)
    for seed in range(6):
        scene = Sampler(bank, policy, rng(seed)).draw((60, 80))
        box = (scene.rgb[0, ..., 1] > 250) & (scene.rgb[0, ..., 0] < 3) & (scene.rgb[0, ..., 2] < 3)
        assert (scene.alpha[0][box] < 30).all()


# --- composition ------------------------------------------------------------------------------------------------


def test_laying_over():
    below, above = np.full((2, 4, 5, 3), 40, np.uint8), np.full((2, 4, 5, 3), 200, np.uint8)
    alpha = np.zeros((2, 4, 5), np.float32)
    alpha[0, 1], alpha[1, 2] = 1.0, 0.5
    out = lay(below, above, alpha)
    assert (out[0, 1] == 200).all()
    assert (out[1, 2] == 120).all()
    assert (out[0, 0] == 40).all()


def test_a_rim_loses_the_old_background():
    rgb = np.zeros((60, 60, 3), np.uint8)
    alpha = cv2.GaussianBlur(person()[20:80, 34:94].astype(np.float32) / 255, (0, 0), 1.0)
    share = alpha[..., None]
    rgb[:] = (np.array([200, 60, 60]) * share + np.array([0, 255, 0]) * (1 - share)).round()
    rim = (alpha > 0.3) & (alpha < 0.9)
    wrong = np.abs(rgb[rim].astype(int) - [200, 60, 60]).mean()
    assert np.abs(clean_rim(rgb, alpha)[rim].astype(int) - [200, 60, 60]).mean() < 0.1 * wrong
    assert (clean_rim(rgb, alpha)[alpha > 0.96] == rgb[alpha > 0.96]).all()


def test_light_comes_near_the_rooms():
    grain = rng(1).normal(0, 12, (3, *SIZE, 3))
    people = np.clip(180 + grain, 0, 255).astype(np.uint8)
    dark = np.clip(rng(2).normal(55, 12, (3, *SIZE, 3)), 0, 255).astype(np.uint8)
    alpha = np.stack([person() / np.float32(255)] * 3)
    inside = alpha[0] > 0.9
    before, after = people[0][inside].mean(), match_light(people, alpha, dark, 0.8)[0][inside].mean()
    assert 40 < after < before - 15
    untouched = match_light(people, alpha, dark, 0.0)[0][inside]
    assert np.abs(untouched.astype(int) - people[0][inside]).mean() < 4  # through Lab and back


def test_the_sharper_one_is_blurred():
    sharp = rng(1).integers(0, 256, (1, *SIZE, 3)).astype(np.uint8)
    soft = cv2.GaussianBlur(sharp[0], (0, 0), 3)[None]
    alpha = person()[None] / np.float32(255)
    people, _, behind = match_sharpness(soft, alpha, sharp)
    assert people is soft
    assert behind.std() < 0.8 * sharp.std()
    people, rim, behind = match_sharpness(sharp, alpha, soft)
    assert behind is soft
    assert people.std() < sharp.std()
    assert rim.max() <= 1


# --- what there is to draw from -----------------------------------------------------------------------------------


def test_persons_are_drawn_evenly(data, tmp_path):
    for index in range(12):  # one who is there twelve times, and two who are there once
        write(tmp_path / "a" / f"{index}.png", photograph(64)[0])
        write(tmp_path / "a" / f"{index}_m.png", np.where(person(64) > 127, 255, 0).astype(np.uint8))
    rows = [f"{i}.png,{i}_m.png,s,{'one' if i < 10 else i}" for i in range(12)]
    (tmp_path / "a" / "index.csv").write_text("\n".join(["file,mask,set,person", *rows]))
    bank, random = Bank.open(tmp_path / "a"), rng(1)
    drawn = [bank.draw(random, own_background=True).person for _ in range(600)]
    assert {name: 0.25 < drawn.count(name) / 600 < 0.42 for name in set(drawn)} == dict.fromkeys(
        ("one", "10", "11"), True
    )


def test_splits_do_not_mix(data):
    whole, train, held = (Bank.open(data / "rooms", data / "people", split=split) for split in ("", "train", ""))
    assert len(whole.rooms) == len(held.rooms) == 5
    assert len(train.rooms) <= 5
    with pytest.raises(SourceError, match="nobody is in the pictures of split test"):
        Bank.open(data / "people", split="test")


def test_without_people_or_without_rooms(data):
    with pytest.raises(SourceError, match="nobody is in the pictures"):
        Bank.open(data / "rooms")
    with pytest.raises(SourceError, match="folder of rooms"):
        Bank.open(data / "cut", split="")
    scene = Sampler(Bank.open(data / "people", split=""), Policy(), rng(1)).draw((32, 48))  # photographs alone will do
    assert scene.rgb.shape == (1, 32, 48, 3)


def test_class_numbers(tmp_path):
    (tmp_path / "classes.txt").write_text("background\nperson\nchair\n")
    numbers = np.where(person() > 127, 1, 0).astype(np.uint8)
    numbers[70:, :40] = 2
    write(tmp_path / "images" / "a.png", photograph()[0])
    write(tmp_path / "masks" / "a.png", numbers)
    bank = Bank.open(tmp_path, split="")
    assert bank.classes == ("background", "person", "chair")
    seen = set()
    for batch in itertools.islice(Samples(bank, [(48, 64)], 8, 2), 6):
        seen |= set(batch.alpha.unique().tolist())
        assert (batch.alpha[batch.weight == 0] == 255).all()
    assert {0, 1, 2} <= seen <= {0, 1, 2, 255}
    assert contact_sheet(bank, (24, 32), 1, 2, 2).shape == (96, 64, 3)


# --- looking at it ----------------------------------------------------------------------------------------------


def test_the_contact_sheet_shows_samples_over_their_alphas(bank):
    assert contact_sheet(bank, (32, 48), seed=1, rows=2, columns=3).shape == (2 * 2 * 32, 3 * 48, 3)
    strip = contact_sheet(bank, (32, 48), seed=1, rows=2, columns=3, frames=4)
    assert strip.shape == (2 * 2 * 32, 4 * 48, 3)


def test_the_command_tells_what_is_there(data, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["data", str(data), "--sheet", str(sheet), "--json", "--seed", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {one["path"].rpartition("/")[2]: one for one in told["datasets"]}
    assert {name: one["layout"] for name, one in found.items()} == {
        "clips": "clips",
        "cut": "cutouts",
        "people": "beside",
        "rooms": "rooms",
    }
    assert sum(row["entries"] for row in found["people"]["sets"]) == 5
    assert told["problems"] == []
    image = cv2.imread(str(sheet))
    assert image.shape == (6 * 2 * 144, 8 * 240, 3)
    assert list(tmp_path.iterdir()) == [sheet]
    assert main(["data", str(data), "--sheet", str(sheet)]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_the_command_tells_what_is_wrong(data, tmp_path, capsys):
    write(tmp_path / "images" / "a.png", photograph()[0])
    write(tmp_path / "masks" / "a.png", person())
    assert main(["data", str(tmp_path)]) == 0
    assert "but a mask holds 0 and 255" in capsys.readouterr().err
    assert main(["data", str(tmp_path), "--strict", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 1
    assert main(["data", str(tmp_path / "nothing")]) == 1
    assert "is not a folder" in capsys.readouterr().err
