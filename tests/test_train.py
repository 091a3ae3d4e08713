"""Training: that it learns, goes on exactly where it was cut off, and starts from what it is given."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs vidseg[train]: torch is not installed")
pytest.importorskip("torchvision", reason="training needs vidseg[train]: torchvision is not installed")

from vidseg.cli.main import main  # noqa: E402
from vidseg.errors import ModelMismatchError, OutputExistsError, SourceError  # noqa: E402
from vidseg.networks import Weights, build, read_weights, write_weights  # noqa: E402
from vidseg.training import feed  # noqa: E402
from vidseg.training.feed import batches, policy_of  # noqa: E402
from vidseg.training.ranks import Ranks  # noqa: E402
from vidseg.training.recipe import (  # noqa: E402
    ALPHA_LOSS,
    PHASES,
    Phase,
    Recipe,
    as_toml,
    learning_rate,
    read_recipe,
)
from vidseg.training.samples import Batch  # noqa: E402
from vidseg.training.start import start_from, widened  # noqa: E402
from vidseg.training.trainer import Trainer, Unrolled, normalised, prepared, train  # noqa: E402
from vidseg.training.validation import HeldBack, mean_iou  # noqa: E402

TINY = {"kind": "unet", "channels": [8, 8, 12], "head": 8}
HERE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module", autouse=True)
def settings_come_back():
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv_threads)


def draw(rng, phase):
    """Draw warm squares before cold noise; they move by a pixel a frame."""
    height, width = phase.sizes[rng.integers(len(phase.sizes))]
    shape = (phase.batch, phase.frames)
    rgb = rng.integers(0, 160, (*shape, 3, height, width)).astype(np.uint8)
    alpha = np.zeros((*shape, 1, height, width), np.uint8)
    for clip in range(phase.batch):
        y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
        for frame in range(phase.frames):
            at = (clip, frame, slice(None), slice(y, y + height // 2), slice(x + frame, x + frame + width // 2))
            alpha[at], rgb[at] = 255, np.array((230, 120, 60))[:, None, None]
    return Batch(*map(torch.from_numpy, (rgb, alpha, np.full_like(alpha, 255))))


def recipe(steps=6, frames=1, **changes):
    phase = Phase(((16, 24), (24, 16)), steps, 4, peak=1e-2, frames=frames)
    return replace(Recipe(TINY, (phase,), warm_up=2, validate_every=2), **{"amp": False, **changes})


def checkpoint(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)


def equal(a, b):
    """Return whether two nests of tensors are the same, bit by bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


# --- recipes ----------------------------------------------------------------------------------------------------


def test_a_recipe_survives_its_file(tmp_path):
    first = Phase(((32, 64), (64, 32)), 10, 4, peak=1e-5, frames=3)
    whole = Recipe(
        {**TINY, "gates": 1},
        (first, Phase(((64, 64),), 5, 2, pasted=0.5)),
        ("room", 'a "person"'),
        "ce=1",
        "sgd",
        amp=False,
        patience=3,
        augmentation={"strength": "strong", "jpeg": 0.1},
        shares={"my own": 2.5, "ccp_unlabelled-still": 4.0},
    )
    (tmp_path / "recipe.toml").write_text(as_toml(whole), "utf-8")
    assert read_recipe(tmp_path / "recipe.toml") == whole
    assert whole.network == {**TINY, "gates": 1, "outputs": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("phases = 3", "not iterable"),
        ("[architecture]", "phases"),
        ("speed = 3\n[[phases]]\nsizes = [[32, 32]]\nsteps = 1\nbatch = 1\npeak = 1.0", "a recipe has no speed"),
        ("[[phases]]\nsizes = [[32, 32]]\nsteps = 1\nbatch = 1\nlr = 1.0", "a phase has no lr"),
        ("architecture = {}\n[[phases]]\nsizes = [[32, 32]]\nsteps = 1\nbatch = 1", "needs a peak"),
        ("architecture = {}\n[[phases]]\nsizes = [[32, 32]]\nsteps = 0\nbatch = 1\npeak = 1.0", "at least one"),
        (
            'optimizer = "lion"\narchitecture = {}\n[[phases]]\nsizes = [[8, 8]]\nsteps = 1\nbatch = 1\npeak = 1.0',
            "lion",
        ),
        ('loss = "ce"\narchitecture = {}\n[[phases]]\nsizes = [[8, 8]]\nsteps = 1\nbatch = 1\npeak = 1.0', "'ce'"),
        ("[[phases", "recipe"),
    ],
)
def test_what_is_no_recipe(text, said, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(SourceError, match=r"recipe\.toml is not a recipe") as raised:
        read_recipe(path)
    assert said in str(raised.value)


def test_learning_rate():
    phases = [Phase(((32, 32),), 1000, 1, peak=1e-2), Phase(((32, 32),), 500, 1)]
    phases.append(Phase(((32, 32),), 400, 1, peak=1e-3, final=0.5))
    rates = [learning_rate(step, phases, 300) for step in range(1900)]
    assert rates[0] == pytest.approx(1e-2 / 300)
    assert max(rates[:1500]) == rates[300] == pytest.approx(1e-2)
    assert rates[1499] == pytest.approx(0.005 * 1e-2, rel=0.01)
    assert rates[1500] == pytest.approx(1e-3 / 100)  # a warm restart, whose warm-up is a quarter of it
    assert rates[1899] == pytest.approx(0.5 * 1e-3, rel=0.01)
    assert learning_rate(0) == pytest.approx(PHASES[0].peak / 300)


def test_scaled_phases_keep_their_shares():
    base = Recipe(TINY)
    small = base.scaled(steps=114, batch=3, size=(32, 64), rate=3e-4)
    assert [phase.steps for phase in small.phases] == [40, 36, 24, 14]
    assert [phase.peak for phase in small.phases] == [pytest.approx(3e-4), None, None, pytest.approx(1e-4)]
    assert {(phase.batch, phase.sizes) for phase in small.phases} == {(3, ((32, 64),))}
    assert base.scaled() == base
    assert [phase.steps for phase in base.scaled(steps=5).phases] == [2, 1, 1, 1]
    with pytest.raises(ValueError, match="steps = 3"):
        base.scaled(steps=3)


def test_augmentation_by_name():
    assert policy_of({"strength": "gentle", "noise": 0.0}).noise == 0
    assert policy_of({}) == policy_of({"strength": "standard"})
    with pytest.raises(ValueError, match="wild"):
        policy_of({"strength": "wild"})
    with pytest.raises(ValueError, match="snow"):
        policy_of({"snow": 1})


# --- what it is fed with ----------------------------------------------------------------------------------------


def test_a_batch_belongs_to_its_step_whoever_draws_it():
    phase = Phase(((16, 16),), 9, 2, peak=1.0)
    alone = dict(batches(draw, phase, 5, range(0, 5), HERE))
    helped = dict(batches(draw, phase, 5, range(2, 5), HERE, workers=2))
    assert list(helped) == [2, 3, 4]
    assert all(equal(list(alone[step]), list(helped[step])) for step in helped)
    assert not torch.equal(alone[0].rgb, alone[1].rgb)
    other = dict(batches(draw, phase, 5, range(1), replace(HERE, rank=1)))
    assert not torch.equal(alone[0].rgb, other[0].rgb)


# --- that it learns, and goes on --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_training_reduces_the_loss(optimizer, tmp_path):
    rate = 0.1 if optimizer == "sgd" else 0.02
    train(recipe(40, optimizer=optimizer, validate_every=20).scaled(rate=rate), draw, tmp_path)
    batch = draw(np.random.default_rng(99), Phase(((16, 24),), 1, 16))

    def iou(weights):
        with torch.inference_mode():
            said = weights.network()(normalised(batch.rgb[:, 0]))[0] > 0
        truth = batch.alpha[:, 0] > 127
        return float((said & truth).sum() / (said | truth).sum())

    torch.manual_seed(7)
    assert iou(read_weights(tmp_path / "weights.safetensors")) > 0.9
    assert iou(Weights(TINY, build(TINY).state_dict())) < 0.7


@pytest.mark.parametrize(
    "changes",
    [{}, {"amp": True}, {"optimizer": "sgd"}, {"frames": 3, "architecture": {**TINY, "gates": 2}}],
    ids=["plain", "amp", "sgd", "clips"],
)
def test_a_run_that_was_killed_ends_as_one_that_was_not(changes, tmp_path):
    plan = recipe(7, **changes)
    plan = replace(plan, phases=(*plan.phases, Phase(((32, 32),), 3, 2, peak=5e-3)))
    train(plan, draw, tmp_path / "whole")

    taken = []

    def dies(rng, phase):
        taken.append(phase)
        if len(taken) == 6:  # while step 6 is drawn; the last checkpoint is that of step 4
            raise RuntimeError("killed")
        return draw(rng, phase)

    with pytest.raises(RuntimeError, match="killed"):
        train(plan, dies, tmp_path / "killed")
    assert checkpoint(tmp_path / "killed")["step"] == 4
    result = train(plan, draw, tmp_path / "killed", resume=True)
    assert (result.step, result.steps, result.early) == (10, 10, False)
    assert equal(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed"))
    whole, killed = (read_weights(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert equal(whole.state, killed.state)
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "killed")]
    steps, others = ([line.split(",")[0] for line in log] for log in logs)
    assert steps == others == ["step", "2", "4", "6", "8", "10"]
    train(plan, draw, tmp_path / "killed", resume=True)  # there is nothing left to do
    assert equal(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed"))


def test_an_interrupt_leaves_a_checkpoint(tmp_path):
    plan = recipe(9, validate_every=100)
    train(plan, draw, tmp_path / "whole")
    taken = []

    def interrupted(rng, phase):
        taken.append(phase)
        if len(taken) == 3:
            signal.raise_signal(signal.SIGINT)
        return draw(rng, phase)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(plan, interrupted, tmp_path / "cut")
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint(tmp_path / "cut")["step"] == 3  # the step it was heard in is finished first
    assert not list((tmp_path / "cut").glob("*.tmp"))
    train(plan, draw, tmp_path / "cut", resume=True)
    assert equal(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut"))


def test_a_run_is_not_overwritten_and_not_mixed_up(tmp_path):
    plan = recipe(2)
    with pytest.raises(SourceError, match="holds no run"):
        prepared(plan, tmp_path, resume=True)
    train(plan, draw, tmp_path)
    with pytest.raises(OutputExistsError, match="--resume"):
        train(plan, draw, tmp_path)
    with pytest.raises(ValueError, match="another network"):
        prepared(replace(plan, architecture={**TINY, "gates": 1}), tmp_path, resume=True)
    assert prepared(None, tmp_path, resume=True) == plan
    (tmp_path / "checkpoint.pt").write_text("half")
    with pytest.raises(SourceError, match=r"checkpoint\.pt is not a checkpoint"):
        train(plan, draw, tmp_path, resume=True)


def test_sizes_have_to_fit_the_network(tmp_path):
    with pytest.raises(ValueError, match="multiples of 8: 20x16"):
        prepared(recipe().scaled(size=(16, 20)), tmp_path, resume=False)


def test_a_loss_that_is_no_number_ends_it(tmp_path):
    from vidseg.errors import EngineError

    plan = replace(recipe(4).scaled(rate=1e30), clip=1e30)
    with pytest.raises(EngineError, match="not a number any more at step"):
        train(plan, draw, tmp_path)
    assert not (tmp_path / "weights.safetensors").exists() or checkpoint(tmp_path)["step"] < 4


class Scores:
    """A validation with given scores."""

    def __init__(self, *scores):
        self.scores = list(scores)

    def __call__(self, net, device, picture):
        return {"score": self.scores.pop(0)}


def test_patience(tmp_path):
    plan = recipe(20, patience=2)
    with pytest.raises(ValueError, match="patience needs a validation"):
        train(plan, draw, tmp_path)
    result = train(plan, draw, tmp_path, validation=Scores(0.1, 0.5, 0.4, 0.3, 0.9))
    assert (result.step, result.early, result.score, result.best_score) == (8, True, 0.3, 0.5)
    assert read_weights(result.best).notes["step"] == "4"
    assert read_weights(result.weights).notes["step"] == "8"
    assert train(plan, draw, tmp_path, validation=Scores(), resume=True).step == 8  # it stays ended


# --- clips ------------------------------------------------------------------------------------------------------


def test_a_clip_is_unrolled_through_the_state():
    torch.manual_seed(0)
    net = build({**TINY, "gates": 2}).eval()
    for gate in net.gates:
        torch.nn.init.zeros_(gate.gate.bias)
    rgb = draw(np.random.default_rng(0), Phase(((16, 16),), 1, 2, frames=3)).rgb
    with torch.inference_mode():
        logits = Unrolled(net)(rgb)
        state, expected = (), []
        for frame in range(3):
            one, state = net(normalised(rgb[:, frame]), state)
            expected.append(one)
        assert torch.equal(logits, torch.stack(expected, 1))
        alone = Unrolled(net)(rgb[:, 2:])
    assert not torch.allclose(alone[:, 0], logits[:, 2])


def test_the_gates_learn_from_clips():
    trainer = Trainer(recipe(frames=3, architecture={**TINY, "gates": 2}), HERE)
    before = [gate.gate.weight.clone() for gate in trainer.net.gates]
    for step in range(2):
        trainer.learn(draw(np.random.default_rng(step), trainer.recipe.phases[0]))
    assert all(not torch.equal(old, gate.gate.weight) for old, gate in zip(before, trainer.net.gates, strict=True))


# --- what it starts from ----------------------------------------------------------------------------------------


def lively(architecture, seed=0):
    """Return a network that has seen a few pictures, so that none of its numbers are special."""
    trainer = Trainer(recipe(architecture=architecture, seed=seed), HERE)
    for step in range(3):
        trainer.learn(draw(np.random.default_rng(step), trainer.recipe.phases[0]))
    return trainer.net.eval()


def weights_of(net, architecture):
    return Weights(architecture, net.state_dict())


@pytest.mark.parametrize("gates", [0, 2])
def test_a_wider_network_computes_the_same(gates):
    narrow, wide = {**TINY, "gates": gates}, {"kind": "unet", "channels": [12, 20, 26], "head": 10, "gates": gates}
    old, new = lively(narrow), build(wide).eval()
    notes = start_from(new, weights_of(old, narrow), "old.pt")
    assert notes == ["old.pt is grown from (8, 8, 12, 8) to (12, 20, 26, 10): it computes the same"]
    src = torch.randn(2, 3, 16, 24)
    with torch.inference_mode():
        before, state = old(src)
        after, wide_state = new(src)
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(new(src, wide_state)[0], old(src, state)[0], rtol=1e-4, atol=1e-4)
    assert [s.shape[1] for s in wide_state] == [c for c, _ in new.states]


def test_a_deeper_network_computes_the_same_and_learns_to_use_its_depth():
    old, new = lively(TINY), build({**TINY, "channels": [8, 12, 12, 16]}).eval()
    notes = start_from(new, weights_of(old, TINY), "old.pt")
    assert notes == ["old.pt is grown from (8, 8, 12, 8) to (8, 12, 12, 16, 8): it computes the same"]
    src = torch.randn(2, 3, 32, 64)
    torch.testing.assert_close(new(src)[0], old(src)[0], rtol=1e-4, atol=1e-4)
    new.train()(src)[0].square().mean().backward()
    below = new.decoder[0][0].weight
    assert not below[:, :16].any()
    assert below.grad[:, :16].any()


def test_replicas_grow_apart():
    old, new = lively(TINY), build({**TINY, "channels": [16, 16, 24]})
    new.load_state_dict(widened(old, new))
    assert torch.equal(new.stem[0].weight[0], new.stem[0].weight[4])  # channel 4 of 16 repeats the first of 8
    batch = draw(np.random.default_rng(0), Phase(((16, 16),), 1, 4))
    new(normalised(batch.rgb[:, 0]))[0].square().mean().backward()
    gradient = new.stem[0].weight.grad
    assert not torch.allclose(gradient[0], gradient[4], rtol=1e-2)


def test_weights_without_gates_start_a_network_with_gates():
    old, new = lively(TINY), build({**TINY, "gates": 1})
    start = new.gates[0].gate.weight.clone()
    notes = start_from(new, weights_of(old, TINY), "old.pt")
    assert notes == ["old.pt has no weights for some gates: those keep their start values"]
    assert torch.equal(new.gates[0].gate.weight, start)
    assert torch.equal(new.bottom[0].weight, old.bottom[0].weight)


def test_a_network_for_classes_starts_from_one_for_alphas():
    old, new = lively(TINY), build({**TINY, "outputs": 3})
    notes = start_from(new, weights_of(old, TINY), "old.pt")
    assert notes == ["old.pt has another number of outputs: the last layer keeps its start values"]
    assert torch.equal(new.head[0].weight, old.head[0].weight)


@pytest.mark.parametrize("channels", [[8, 8], [6, 8, 12], [6, 8, 12, 16]])
def test_networks_that_do_not_fit(channels):
    old = build(TINY)
    with pytest.raises(ModelMismatchError, match=r"cannot be widened to"):
        start_from(build({**TINY, "channels": channels}), weights_of(old, TINY), "old.pt")


def test_a_run_starts_from_a_file(tmp_path):
    old = lively(TINY)
    write_weights(tmp_path / "old.safetensors", weights_of(old, TINY))
    said = []
    plan = recipe(1).scaled(rate=1e-12)
    plan = replace(plan, architecture={**TINY, "gates": 1})
    train(plan, draw, tmp_path / "run", init=tmp_path / "old.safetensors", note=said.append)
    assert any("keep their start values" in text for text in said)
    new = read_weights(tmp_path / "run" / "weights.safetensors").state
    torch.testing.assert_close(new["bottom.0.weight"], old.state_dict()["bottom.0.weight"], atol=1e-8, rtol=0)


# --- several processes ------------------------------------------------------------------------------------------


def test_two_ranks_end_with_the_same_weights(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys, torch
            from pathlib import Path
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_train import TINY, draw, recipe
            from vidseg.training import trainer
            torch.set_num_threads(1)
            kept = []
            class Kept(trainer.Trainer):
                def __init__(self, *arguments):
                    super().__init__(*arguments)
                    kept.append(self)
            trainer.Trainer = Kept
            plan = recipe(5, frames=2, architecture={{**TINY, "gates": 1}})
            trainer.train(plan, draw, Path("run"), device="cpu")
            torch.save(kept[0].net.state_dict(), f"rank{{os.environ['RANK']}}.pt")
            """
        )
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in first:
        if "running" not in name:  # those belong to what each rank saw last; rank 0's are kept
            assert torch.equal(first[name], second[name]), name
    kept = checkpoint(tmp_path / "run")
    assert kept["step"] == 5
    assert equal(kept["net"], first)
    train(recipe(5, frames=2, architecture={**TINY, "gates": 1}), draw, tmp_path / "alone")
    assert not torch.equal(checkpoint(tmp_path / "alone")["net"]["out.weight"], first["out.weight"])  # both were heard


# --- the command ------------------------------------------------------------------------------------------------


def photograph(rng, size=(48, 64)):
    alpha = np.zeros(size, np.uint8)
    x = int(rng.integers(20, 44))
    cv2.circle(alpha, (x, 20), 8, 255, -1, cv2.LINE_AA)
    cv2.ellipse(alpha, (x, 52), (16, 22), 0, 0, 360, 255, -1, cv2.LINE_AA)
    noise = cv2.GaussianBlur(rng.uniform(0, 1, (*size, 1)).astype(np.float32), (0, 0), 3)
    room = np.clip(noise[..., None] * (200, 160, 60), 0, 255)
    share = alpha[..., None] / 255
    return (room * (1 - share) + np.array((110, 150, 225)) * share).astype(np.uint8), alpha


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write people of an alpha, rooms, and the same people as class numbers."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    for part, count in (("train", 6), ("val", 3)):
        for folder in ("people", "classes"):
            for kind in ("images", "masks"):
                (root / folder / part / kind).mkdir(parents=True)
        (root / "rooms" / part).mkdir(parents=True)
        for index in range(count):
            bgr, alpha = photograph(rng)
            mask = (alpha > 127).astype(np.uint8)
            for folder, truth in (("people", mask * 255), ("classes", mask)):
                cv2.imwrite(str(root / folder / part / "images" / f"{index}.png"), bgr)
                cv2.imwrite(str(root / folder / part / "masks" / f"{index}.png"), truth)
            cv2.imwrite(str(root / "rooms" / part / f"{index}.png"), photograph(rng)[0] // 3)
    (root / "classes" / "classes.txt").write_text("room\nperson\n")
    return root


@pytest.fixture
def tiny_preset(monkeypatch):
    import vidseg.networks

    monkeypatch.setitem(vidseg.networks.PRESETS, "fcn", TINY)  # which is not shipped, so that it has no recipe


def command(data, out, *options, folders=("people", "rooms")):
    places = [word for folder in folders for word in ("--data", str(data / folder))]
    fixed = ["--arch", "fcn", "--size", "32x24", "--batch", "4", "--workers", "0", "--device", "cpu"]
    return main(["train", *places, "--out", str(out), *fixed, *options])


def test_the_command(data, tmp_path, tiny_preset, capsys):
    out = tmp_path / "run"
    assert command(data, out, "--steps", "8", "--validate-every", "4", "--loss", "bce,l1", "--no-amp", "--json") == 0
    said = capsys.readouterr()
    values = json.loads(said.out)
    assert (values["step"], values["steps"], values["early"]) == (8, 8, False)
    assert set(values["measures"]) == {"people", "mad", "empty", "score"}
    assert values["best_score"] == pytest.approx(max(values["score"], values["best_score"]))
    assert "step 8 " in said.err
    pictures = {"curves.png", "predictions-000004.png", "predictions-000008.png"}
    files = {"checkpoint.pt", "weights.safetensors", "best.safetensors", "recipe.toml", "log.csv"}
    assert {path.name for path in out.iterdir()} - {"tensorboard"} == files | pictures
    for name in pictures:
        assert cv2.imread(str(out / name)).std() > 5
    kept = read_recipe(out / "recipe.toml")
    assert (kept.steps, kept.loss, kept.amp, kept.architecture) == (8, "bce,l1", False, TINY)
    with open(out / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8"]
    assert all(float(row["loss"]) == pytest.approx(float(row["bce"]) + float(row["l1"]), rel=1e-4) for row in rows)
    assert float(rows[-1]["val/score"]) == pytest.approx(values["score"], rel=1e-4)
    assert command(data, out, "--steps", "8") == 1
    assert "holds a run already" in capsys.readouterr().err


def test_ctrl_c_and_on(data, tmp_path, tiny_preset, monkeypatch, capsys):
    assert command(data, tmp_path / "whole", "--steps", "6", "--quiet") == 0
    drawn, taken = feed.Drawn.__call__, []

    def interrupted(self, rng, phase):
        taken.append(phase)
        if len(taken) == 3:
            signal.raise_signal(signal.SIGINT)
        return drawn(self, rng, phase)

    with monkeypatch.context() as patch:
        patch.setattr(feed.Drawn, "__call__", interrupted)
        assert command(data, tmp_path / "cut", "--steps", "6") == 130
    assert "interrupted; there is a checkpoint in" in capsys.readouterr().err
    assert checkpoint(tmp_path / "cut")["step"] == 3
    places = ["--data", str(data / "people"), "--data", str(data / "rooms")]
    assert (
        main(["train", *places, "--out", str(tmp_path / "cut"), "--resume", "--workers", "1", "--device", "cpu"]) == 0
    )
    assert equal(checkpoint(tmp_path / "whole")["net"], checkpoint(tmp_path / "cut")["net"])


def test_classes(data, tmp_path, tiny_preset, capsys):
    steps = ["--steps", "40", "--lr", "0.02", "--augment", "none", "--classes", "auto", "--json"]
    assert command(data, tmp_path / "run", *steps, folders=("classes",)) == 0
    measures = json.loads(capsys.readouterr().out)["measures"]
    assert measures["score"] == measures["classes"] > 0.6
    weights = read_weights(tmp_path / "run" / "weights.safetensors")
    assert weights.classes == ("room", "person")
    assert weights.architecture == {**TINY, "outputs": 2}
    assert command(data, tmp_path / "other", "--classes", "room,chair", "--steps", "4", folders=("classes",)) == 2
    assert "the data is of classes room, person" in capsys.readouterr().err
    assert command(data, tmp_path / "other", "--steps", "4", folders=("classes",)) == 2
    assert command(data, tmp_path / "other", "--classes", "auto", "--steps", "4") == 2
    assert not (tmp_path / "other").exists()


def test_mean_iou_by_hand():
    # Class 0: 3 of 3 + 1 + 0; class 1: 1 of 1 + 0 + 1; class 2 occurs nowhere.
    assert mean_iou(np.array([[3, 0, 0], [1, 1, 0], [0, 0, 0]])) == pytest.approx((3 / 4 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "big"], "'big' is not a width and a height"),
        (["--size", "30x30"], "multiples of 8: 30x30"),
        (["--loss", "hinge"], "'hinge'"),
        (["--steps", "2"], "steps = 2"),
        (["--lr", "-1"], "above 0"),
        (["--gates", "7"], "gates = 7"),
    ],
)
def test_mistakes_on_the_command_line(options, said, data, tmp_path, tiny_preset, capsys):
    assert command(data, tmp_path / "run", *options) in (1, 2)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_the_extra_it_says_what_to_install(data, tmp_path, monkeypatch, capsys):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchvision" else found(name))
    assert command(data, tmp_path / "run") == 1
    assert "pip install 'vidseg[train]'" in capsys.readouterr().err


def test_validation_knows_the_truth(data):
    from vidseg.training.readers import open_datasets

    held_back = HeldBack(open_datasets([data / "people", data / "rooms"]), [(48, 64)])

    class Truth(torch.nn.Module):
        """Finds the drawn people by their colour."""

        def forward(self, src, state=()):
            red, _, blue = src.split(1, 1)
            return 50 * (red - blue - 0.3), ()

    measures = held_back(Truth(), torch.device("cpu"), data / "grid.png")
    assert measures["people"] > 0.95
    assert measures["empty"] == 1  # in the dark rooms somebody stands, too
    assert measures["score"] == pytest.approx(measures["people"] / 2)
    assert ALPHA_LOSS.startswith("bce")
