"""Adaptation: only sure labels of sure frames are learnt, and a model that got worse is not written."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vidseg.errors import EngineError, OutputExistsError, SourceError, SourceNotFoundError

torch = pytest.importorskip("torch", reason="adapting needs vidseg[train]: torch is not installed")
for module in ("torchvision", "onnx", "onnxruntime", "safetensors"):
    pytest.importorskip(module, reason=f"adapting needs vidseg[train]: {module} is not installed")

from vidseg.cli.main import main  # noqa: E402
from vidseg.engine import load_spec, open_engine  # noqa: E402
from vidseg.networks import Weights, read_weights, write_weights  # noqa: E402
from vidseg.training import adapt as job  # noqa: E402
from vidseg.training.adapt import Pupil, adapt  # noqa: E402
from vidseg.training.bank import Bank  # noqa: E402
from vidseg.training.export import export  # noqa: E402
from vidseg.training.footage import (  # noqa: E402
    RUN,
    Labelled,
    Run,
    doubt_of,
    draw_room,
    empty_room,
    held_back,
    list_clips,
    read_runs,
    trusted,
)
from vidseg.unet import UNet  # noqa: E402

SIZE = (96, 160)
ARCHITECTURE = {"kind": "unet", "channels": [8, 8, 12], "head": 8}
ROOM, PERSON = (40, 60, 120), (230, 200, 170)


@pytest.fixture(autouse=True, scope="module")
def quick():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "ROOMS", 2)
        patch.setattr(job, "SAMPLE_RUNS", 1)
        patch.setattr(job, "BATCH", 2)
        patch.setattr(job, "_sample_runs", lambda: [labelled(3).run])  # the carried one is larger
        yield
    torch.set_num_threads(threads)


def frame(index, size=SIZE):
    """A bright disc, the person, wanders before a room with a stripe; returns RGB and where the person is."""
    y, x = np.mgrid[: size[0], : size[1]]
    person = (y - 0.6 * size[0]) ** 2 + (x - (0.5 + 0.25 * np.sin(index / 5)) * size[1]) ** 2 < (0.3 * size[0]) ** 2
    rgb = np.empty((*size, 3), np.uint8)
    rgb[...] = ROOM
    rgb[:, 20:30] = (90, 40, 40)
    rgb[person] = PERSON
    return rgb, person


def film(path, frames, size=SIZE):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30), options={"crf": "5", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(index, size)[0], format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    film(folder / "a.mp4", 100)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network, set by hand, for which a person is what is bright red."""
    torch.manual_seed(0)
    coarse, head = ARCHITECTURE["channels"][1], ARCHITECTURE["head"]
    net = UNet(ARCHITECTURE["channels"], head).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight *= 0.01  # nothing else counts, but everything can be learnt
        net.stem[0].weight[0, 0, 1, 1] = 1
        net.stem[1].bias[0] = 1
        net.decoder[-1][0].weight[0, coarse, 1, 1] = 1  # the skip
        net.head[0].weight[0, 0, 1, 1] = 1
        net.out.weight[:, 0, 1, 1] = 12
        net.out.bias[:] = -15
    folder = tmp_path_factory.mktemp("models")
    write_weights(folder / "w.safetensors", Weights(ARCHITECTURE, net.state_dict()))
    export(folder / "w.safetensors", folder / "tiny", precisions=("fp32",), sizes=(SIZE,))
    return folder / "tiny"


def labelled(index=0, doubt="", clip="a.mp4"):
    both = [frame(index + step) for step in range(RUN)]
    alpha = np.stack([mask for _, mask in both]).view(np.uint8) * np.uint8(255)
    return Labelled(Run(clip, index / 30, np.stack([rgb for rgb, _ in both])), alpha, np.full_like(alpha, 255), doubt)


# --- footage ----------------------------------------------------------------------------------------------------


def test_runs_lie_evenly_over_a_clip(clips):
    runs = read_runs(clips / "a.mp4", 3, 1000)
    assert 3 <= len(runs) <= 6
    assert all(run.rgb.shape == (RUN, *SIZE, 3) for run in runs)
    gaps = np.diff([run.time for run in runs])
    assert np.allclose(gaps, gaps[0], atol=1e-3)
    assert runs[-1].time > 2
    expected = np.stack([frame(round(runs[1].time * 30) + step)[0] for step in range(RUN)])
    assert np.abs(runs[1].rgb.astype(int) - expected).mean() < 4  # H.264 and halved chroma


def test_reading_ends_where_it_is_told_to(clips):
    runs = read_runs(clips / "a.mp4", 50, 40)
    assert len(runs) == 10
    assert runs[-1].time < 40 / 30


def test_clips_are_found_in_folders_within(tmp_path):
    with pytest.raises(SourceNotFoundError, match="does not exist"):
        list_clips(tmp_path / "none")
    with pytest.raises(SourceError, match="no video"):
        list_clips(tmp_path)
    (tmp_path / "day").mkdir()
    for name in ("b.mp4", "day/a.MKV", ".hidden.mp4", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_clips(tmp_path)] == ["b.mp4", "a.MKV"]
    assert list_clips(tmp_path / "b.mp4") == [tmp_path / "b.mp4"]


def test_what_is_judged_on_is_never_learnt():
    def runs(clip, count):
        return [Run(clip, float(at), np.zeros((1, 2, 2, 3), np.uint8)) for at in range(count)]

    teaching, judging = held_back([runs("a", 12)])
    assert [run.time for run in teaching] == list(range(8))
    assert [run.time for run in judging] == [9, 10, 11]  # the eighth is a gap
    teaching, judging = held_back([runs(name, 3) for name in "abcde"])
    assert {run.clip for run in judging} == {"d"}
    assert {run.clip for run in teaching} == set("abce")


# --- what is trusted --------------------------------------------------------------------------------------------


def test_only_agreed_and_decided_pixels_and_soft_edges_are_trusted():
    alpha = np.zeros((100, 100), np.float32)
    alpha[20:80, 20:50] = 1
    alpha[20:80, 49:51] = 0.5  # a soft edge
    alpha[40:60, 70:95] = 0.5  # fog
    spread = np.zeros_like(alpha)
    spread[30, 30] = 0.8
    known = trusted(alpha, spread)
    assert known[25, 25]
    assert known[5, 5]
    assert known[50, 50]
    assert not known[50, 82]
    assert not known[30, 30]


def test_sure_frames_have_no_doubt():
    one = labelled()
    alpha = one.alpha / np.float32(255)
    nothing = np.zeros_like(alpha)
    assert doubt_of(one.run.rgb, alpha, nothing, one.known > 0) == ""
    empty = np.zeros_like(alpha)
    assert doubt_of(one.run.rgb, empty, nothing, one.known > 0) == ""  # nobody, for sure


def test_unsure_frames_are_doubted():
    one = labelled()
    alpha, known = one.alpha / np.float32(255), one.known > 0
    nothing = np.zeros_like(alpha)
    speck = nothing.copy()
    speck[:, 50:55, 50:60] = 1
    assert "2 to 85 %" in doubt_of(one.run.rgb, speck, nothing, known)
    assert "2 to 85 %" in doubt_of(one.run.rgb, np.ones_like(alpha), nothing, known)
    assert "undecided" in doubt_of(one.run.rgb, np.where(alpha > 0, np.float32(0.6), 0), nothing, known)
    apart = np.where(alpha > 0, np.float32(0.9), 0)
    assert "looks differ" in doubt_of(one.run.rgb, alpha, apart, known)
    still = np.repeat(one.run.rgb[:1], RUN, 0)
    flicker = alpha.copy()
    flicker[1::2, :, 100:] = 1
    assert "does not" in doubt_of(still, flicker, nothing, known)
    faint = np.full_like(alpha, 0.3)
    assert doubt_of(one.run.rgb, faint, nothing, known) != ""  # nobody, but not for sure


def test_the_room_behind_is_found():
    room = empty_room([labelled(at) for at in range(0, 60, 4)])
    assert room is not None
    wanted = frame(0)[0].copy()
    wanted[...] = ROOM
    wanted[:, 20:30] = (90, 40, 40)
    assert np.abs(room.astype(int) - wanted).mean() < 3  # the middle is never seen and was filled in


def test_a_camera_that_moves_has_no_room():
    rng = np.random.default_rng(0)
    runs = [labelled(at) for at in range(0, 60, 4)]
    moved = [replace(one, run=replace(one.run, rgb=rng.integers(0, 255, one.run.rgb.shape, np.uint8))) for one in runs]
    assert empty_room(moved) is None


SAMPLE_RUNS = job._sample_runs


def test_the_carried_sample_can_be_read():
    (run,) = SAMPLE_RUNS()
    assert run.rgb.shape == (RUN, 384, 512, 3)
    assert run.rgb.std() > 20


def test_drawn_rooms_are_many_and_by_seed():
    first, again = (draw_room(np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, draw_room(np.random.default_rng(4)))
    assert first.std() > 5


# --- learning ---------------------------------------------------------------------------------------------------


def pupil(model, seed=0, runs=None):
    runs = runs or [labelled(at) for at in range(0, 40, 8)]
    rooms = [draw_room(np.random.default_rng(at)) for at in range(2)]
    bank = Bank([job._dataset("footage", runs, rooms)])
    return Pupil(load_spec(model), read_weights(model), bank, bank, [(64, 96)], seed)


def test_steps_and_seed_give_the_same_weights_again(model):
    states = []
    for seed in (0, 0, 1):
        one = pupil(model, seed)
        assert one.learn(0, 3, lambda progress: None) == 3
        states.append(one.weights().state)
    same = [all(torch.equal(states[0][name], other[name]) for name in other) for other in states[1:]]
    assert same == [True, False]


def test_statistics_stay_and_the_network_is_changed(model):
    one = pupil(model)
    one.learn(0, 3, lambda progress: None)
    before, after = read_weights(model).state, one.weights().state
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "out.weight" in changed
    assert not any("running" in name for name in changed)


def test_what_is_not_known_teaches_nothing(model):
    """Pixels that the teacher was not sure of have no part in the loss, whatever their label says."""
    states = []
    for wrong in (False, True):
        runs = []
        for at in range(0, 40, 8):
            one = labelled(at)
            known, alpha = one.known.copy(), one.alpha.copy()
            known[...] = 0
            if wrong:
                alpha = 255 - alpha
            # Where a person is framed depends on the alpha: let it be the same.
            runs.append(replace(one, alpha=alpha, known=known))
        rng = np.random.default_rng(0)
        policy = replace(job.STRENGTHS["none"])
        bank = Bank([job._dataset("footage", runs, [])])
        batch = job._batch(rng, bank, policy, (64, 96), 1)
        logits = torch.zeros(batch.alpha.shape, requires_grad=True)
        loss, _ = job.loss_of(job.LOSS, logits, batch.alpha.float() / 255, batch.weight.float() / 255)
        loss.backward()
        states.append(float(logits.grad.abs().max()))
    assert max(states) < 1e-6


def test_as_many_steps_as_the_time_allows_but_ten(model):
    assert pupil(model).learn(0.0, None, lambda progress: None) == job.WARM_UP


# --- the gate ---------------------------------------------------------------------------------------------------


def measures(before, after):
    return {"footage": {"before": before, "after": after}}


def test_the_gate():
    before = {"iou": 0.9, "boundary_f": 0.8, "flicker": 1.0}
    assert job._worse(measures(before, before)) == []
    assert job._worse(measures(before, {"iou": 0.95, "boundary_f": 0.9, "flicker": 0.5})) == []
    (reason,) = job._worse(measures(before, {**before, "iou": 0.89}))
    assert reason == "iou on footage went from 0.9000 to 0.8900"
    assert len(job._worse(measures(before, {"iou": 0.5, "boundary_f": 0.5, "flicker": 5.0}))) == 3
    assert len(job._worse(measures(before, {**before, "iou": float("nan")}))) == 1
    rooms = {"rooms": {"before": {"seen": 0.1, "mean": 5.0}, "after": {"seen": 0.3, "mean": 5.0}}}
    assert len(job._worse(rooms)) == 1
    check = {"check mine": {"before": {"iou": 0.9}, "after": {"iou": 0.8}}}
    assert len(job._worse(check)) == 1


# --- the whole job ----------------------------------------------------------------------------------------------


def test_an_adapted_model_can_be_used_at_once(model, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(Pupil, "weights", lambda self: self._weights)  # unharmed: what is tried is the way there
    out = tmp_path / "room"
    done = adapt(clips, out, model=model, minutes=0.4, steps=2)
    assert done.accepted, done.reasons
    assert done.steps == 2
    assert done.learnt >= 4
    assert done.measures["footage"]["before"]["iou"] > 0.9
    spec = load_spec(out)
    assert (spec.name, spec.sizes) == ("room", (SIZE,))
    rgb, person = frame(7)
    engine = open_engine(out, size=SIZE)
    alpha, _ = engine.infer((rgb.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None])
    engine.close()
    assert ((alpha[0] > 0.5) == person).mean() > 0.97
    card = (out / "MODEL_CARD.md").read_text("utf-8")
    assert "From `tiny` by `vidseg adapt`" in card
    assert "of 1 clip of its user" in card
    assert 'adapted_from = "tiny"' in (out / "manifest.toml").read_text("utf-8")
    assert "| footage | iou |" in card
    assert [path.name for path in tmp_path.iterdir()] == ["room"]
    assert not list(out.rglob("*.png"))


def harmed(self):
    state = {name: value.clone() for name, value in self._weights.state.items()}
    state["out.weight"] = -state["out.weight"]
    state["out.bias"] = -state["out.bias"]
    return replace(self._weights, state=state)


def test_a_model_that_got_worse_is_not_written(model, clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Pupil, "weights", harmed)
    out = tmp_path / "room"
    arguments = ["--model", str(model), "--minutes", "0.4", "--steps", "2", "--json", "-q"]
    assert main(["adapt", "--clips", str(clips), "--out", str(out), *arguments]) == 1
    said = capsys.readouterr()
    assert "nothing was written" in said.err
    told = json.loads(said.out)
    assert told["accepted"] is False
    assert told["out"] is None
    assert any(reason.startswith("iou on footage") for reason in told["reasons"])
    assert told["measures"]["footage"]["after"]["iou"] < told["measures"]["footage"]["before"]["iou"]
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_ones_own_decide_too(model, clips, tmp_path, monkeypatch):
    """The footage may look well while the labelled pictures do not: here their masks are those of another person."""
    check = tmp_path / "check"
    check.mkdir()
    for index in range(2):
        rgb, person = frame(index * 9)
        Image.fromarray(rgb).save(check / f"{index}.png")
        Image.fromarray(person.view(np.uint8) * np.uint8(255)).save(check / f"{index}_mask.png")
    monkeypatch.setattr(Pupil, "weights", harmed)
    monkeypatch.setattr(job, "SLACK", {name: {} for name in job.SLACK} | {"check": {"iou": 0.0}})
    done = adapt(clips, tmp_path / "room", model=model, minutes=0.4, steps=1, check=check)
    assert not done.accepted
    assert [reason.split(" went")[0] for reason in done.reasons] == ["iou on check"]


def test_an_interrupt_leaves_nothing(model, clips, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "_judge", interrupted)
    arguments = ["--model", str(model), "--minutes", "0.4", "--steps", "1", "-q"]
    assert main(["adapt", "--clips", str(clips), "--out", str(tmp_path / "room"), *arguments]) == 130
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_adapted(model, clips, tmp_path):
    with pytest.raises(EngineError, match="has no weights"):
        adapt(clips, tmp_path / "room", model=model / "model.onnx")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(Exception, match="is no model"):
        adapt(clips, tmp_path / "mine", model=model, overwrite=True)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "manifest.toml").touch()
    with pytest.raises(OutputExistsError):
        adapt(clips, tmp_path / "there", model=model)
    assert Path(tmp_path / "there" / "manifest.toml").read_text() == ""


def test_footage_that_is_not_clear_is_refused(model, tmp_path):
    film(tmp_path / "short.mp4", 6)
    with pytest.raises(SourceError, match="longer or clearer"):
        adapt(tmp_path, tmp_path / "room", model=model, minutes=0.4)
