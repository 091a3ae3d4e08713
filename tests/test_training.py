"""Training: what the network is shown, and that it learns and goes on after a kill."""

from __future__ import annotations

import argparse
import csv
import itertools

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs vidseg[train]: torch is not installed")

from vidseg.training import __main__ as training  # noqa: E402
from vidseg.training.__main__ import PHASES, Phase, learning_rate, train, validate  # noqa: E402
from vidseg.training.data import Bank, Samples, contact_sheet, draw_sample, read_labelled, read_rooms  # noqa: E402
from vidseg.training.losses import matting_loss  # noqa: E402
from vidseg.unet import UNet  # noqa: E402

SIZE = (96, 128)


@pytest.fixture(scope="module", autouse=True)
def settings_come_back():
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv_threads)


# --- a small set of drawn pictures ------------------------------------------------------------------------------


def room(rng):
    """Return blurred noise in cold colours."""
    noise = cv2.GaussianBlur(rng.uniform(0, 1, (*SIZE, 1)).astype(np.float32), (0, 0), 5)
    return np.clip(noise[..., None] * (60, 160, 200), 0, 255).astype(np.uint8)


def person(rng):
    """Return the alpha of a head on shoulders."""
    alpha, x = np.zeros(SIZE, np.uint8), int(rng.integers(48, 80))
    cv2.circle(alpha, (x, 40), 14, 255, -1, cv2.LINE_AA)
    cv2.ellipse(alpha, (x, 96), (30, 40), 0, 0, 360, 255, -1, cv2.LINE_AA)
    return alpha


def photograph(rng):
    alpha = person(rng)
    share = alpha[..., None] / 255
    return (room(rng) * (1 - share) + np.array((225, 150, 110)) * share).astype(np.uint8), alpha


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if path.suffix == ".webp" else []
    assert cv2.imwrite(str(path), pixels, lossless)


def write_index(folder, rows):
    with open(folder / "index.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write a training set as ``vidseg.training.data`` reads it."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    labelled, pseudo = [], []
    for index in range(6):
        rgb, alpha = photograph(rng)
        row = {"file": f"drawn/{index}.webp", "mask": f"drawn/{index}_mask.png", "set": "drawn"}
        labelled.append({**row, "split": "val" if index == 0 else "train"})
        write(root / "labelled" / row["file"], rgb)
        write(root / "labelled" / row["mask"], alpha)
    carried = np.zeros(SIZE, np.uint8)
    carried[:, :64] = 255
    write(root / "labelled" / "drawn" / "1_carried.png", carried)
    write(root / "labelled" / "davidg" / "0.png", np.dstack(photograph(rng)))
    labelled.append({"file": "davidg/0.png", "mask": "", "set": "davidg", "split": "train"})
    for index, kind in enumerate(("still", "real", "real", "plain")):
        rgb, alpha = photograph(rng)
        row = {"file": f"clips/{index}.webp", "alpha": f"clips/{index}_a.webp", "set": "clips", "kind": kind}
        pseudo.append({**row, "clip": "clips/one"})
        write(root / "pseudo" / row["file"], rgb)
        write(root / "pseudo" / row["alpha"], alpha)
    write_index(root / "labelled", labelled)
    write_index(root / "pseudo", pseudo)
    for house in (1, 2, 7):  # 7 is kept for validation
        write(root / "backgrounds" / f"{house}_kitchen.webp", room(rng))
    return root


@pytest.fixture(scope="module")
def bank(data):
    return Bank(data)


# --- what the network is shown ----------------------------------------------------------------------------------


def test_splits_do_not_mix(data):
    train_set, val_set = read_labelled(data, "train"), read_labelled(data, "val")
    assert {name: len(pictures) for name, pictures in train_set.items()} == {"drawn": 5, "davidg": 1}
    assert {name: len(pictures) for name, pictures in val_set.items()} == {"drawn": 1}
    assert (len(read_rooms(data, "train")), len(read_rooms(data, "val"))) == (2, 1)
    carried, plain = train_set["drawn"][:2]
    assert carried.ignore is not None
    assert plain.ignore is None
    assert not train_set["davidg"][0].own_background


@pytest.mark.parametrize("pasted", [0.0, 1.0])
def test_a_batch_is_pictures_alpha_and_weight(bank, pasted):
    sizes = [(64, 96), (96, 64)]
    seen = set()
    people = []
    for rgb, alpha, weight in itertools.islice(Samples(bank, sizes, 6, seed=3, pasted=pasted), 8):
        size = tuple(rgb.shape[2:])
        assert rgb.shape == (6, 3, *size)
        assert alpha.shape == weight.shape == (6, 1, *size)
        assert rgb.dtype == alpha.dtype == weight.dtype == torch.uint8
        seen.add(size)
        people += [int(one.max()) for one in alpha]
    assert seen == set(sizes)
    assert 0 in people  # empty rooms
    assert people.count(255) > len(people) / 2


def test_samples_are_a_function_of_the_seed(bank):
    def stream(seed):
        return [torch.cat(batch, 1) for batch in itertools.islice(Samples(bank, [(32, 48)], 4, seed, 0.5), 3)]

    first = stream(5)
    assert all(torch.equal(a, b) for a, b in zip(first, stream(5), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, stream(6), strict=True))


def test_what_a_person_carries_is_not_asked_for(bank):
    rng = np.random.default_rng(0)
    weights = [draw_sample(rng, bank, (48, 64))[2] for _ in range(60)]
    assert any(weight.min() == 0 for weight in weights)
    assert sum(weight.min() == 255 for weight in weights) > 30


def test_the_contact_sheet_shows_samples_over_their_alphas(bank):
    assert contact_sheet(bank, (32, 48), seed=1, rows=2, columns=3).shape == (2 * 2 * 32, 3 * 48, 3)


def test_learning_rate():
    phases = [Phase(((32, 32),), 1000, 1, peak=1e-2), Phase(((32, 32),), 500, 1), Phase(((32, 32),), 400, 1, peak=1e-3)]
    rates = [learning_rate(step, phases) for step in range(1900)]
    assert rates[0] == pytest.approx(1e-2 / training.WARM_UP)
    assert max(rates[:1500]) == rates[training.WARM_UP] == pytest.approx(1e-2)
    assert rates[1499] == pytest.approx(0.005 * 1e-2, rel=0.01)
    assert rates[1500] == pytest.approx(1e-3 / training.WARM_UP)  # a warm restart
    assert rates[1899] == pytest.approx(0.005 * 1e-3, rel=0.05)
    assert learning_rate(0) == pytest.approx(PHASES[0].peak / training.WARM_UP)


# --- that it learns ---------------------------------------------------------------------------------------------

FIRST = Phase(((64, 64), (64, 96)), 40, 8, peak=2e-2)
SECOND = Phase(((64, 96),), 6, 4, peak=1e-2, pasted=0.5)


def arguments(data, out):
    return argparse.Namespace(data=data, out=out, seed=7, threads=1, workers=0)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Train through the first phase only, as if killed after it."""
    out = tmp_path_factory.mktemp("run")
    train(arguments(data, out), [FIRST])
    return out


def state(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)


def test_training_reduces_the_loss(bank, trained):
    rgb, alpha, weight = next(iter(Samples(bank, [(64, 96)], 24, seed=99)))
    torch.manual_seed(7)
    net = UNet()

    def loss():
        with torch.no_grad():
            logits = net(training.normalised(rgb))[0]
        return matting_loss(logits, alpha.float() / 255, weight.float() / 255).item()

    before = loss()
    net.load_state_dict(state(trained)["net"])
    assert loss() < 0.8 * before


def test_what_it_leaves_behind(data, trained):
    assert sorted(path.name for path in trained.iterdir()) == ["checkpoint.pt", "samples.png", "weights.pt"]
    net = UNet()
    net.load_state_dict(torch.load(trained / "weights.pt", weights_only=True))
    report = validate(net, data)
    assert set(report) == {"drawn", "empty"}
    assert all(0 <= value <= 1 for value in report.values())


def test_a_second_call_goes_on(data, trained, tmp_path, capsys):
    (tmp_path / "checkpoint.pt").write_bytes((trained / "checkpoint.pt").read_bytes())
    train(arguments(data, tmp_path), [FIRST, SECOND])
    said = capsys.readouterr().out
    assert [line.split("  ")[0] for line in said.splitlines()] == ["step 46"]  # not one step of the first phase again
    before, after = state(trained), state(tmp_path)
    assert (before["step"], after["step"]) == (40, 46)
    assert not torch.equal(before["net"]["out.weight"], after["net"]["out.weight"])
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(value, after["average"][f"module.{name}"]) for name, value in weights.items())
    train(arguments(data, tmp_path), [FIRST, SECOND])  # there is nothing left to do
    assert capsys.readouterr().out == ""
    assert state(tmp_path)["step"] == 46


def test_a_run_that_was_killed_between_phases_ends_as_one_that_was_not(data, tmp_path):
    short = Phase(((32, 32),), 3, 4, peak=1e-2)
    phases = [short, short]
    train(arguments(data, tmp_path / "whole"), phases)
    train(arguments(data, tmp_path / "killed"), phases[:1])
    train(arguments(data, tmp_path / "killed"), phases)
    whole, killed = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("whole", "killed"))
    for name, value in whole.items():
        torch.testing.assert_close(value, killed[name], rtol=1e-4, atol=1e-5, msg=name)
