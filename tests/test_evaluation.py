"""Evaluation: what is read, what scenes are made of it, and that the numbers are those of the alpha that is written."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from vidseg.cli.app import run
from vidseg.errors import SourceError, SourceNotFoundError
from vidseg.evaluation import cases, metrics, presets, scenes
from vidseg.evaluation.cases import Case, CaseSet, moving, still
from vidseg.evaluation.judging import evaluate
from vidseg.evaluation.sheet import contact_sheet

SIZE = (64, 96)
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


# --- drawn data -------------------------------------------------------------------------------------------------


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    assert cv2.imwrite(str(path), pixels)


def figure(size=SIZE, left=None):
    """Return the mask of a head on shoulders that stands on the picture's bottom."""
    (height, width), mask = size, np.zeros(size, np.uint8)
    x = width // 2 if left is None else left
    cv2.circle(mask, (x, round(height * 0.35)), round(height * 0.15), 255, -1)
    cv2.ellipse(mask, (x, height), (round(height * 0.3), round(height * 0.5)), 0, 180, 360, 255, -1)
    return mask


def photograph(mask, room=(90, 160, 30), person=(220, 150, 250)):
    """Return a picture whose blue channel is bright on the person alone."""
    return np.where(mask[..., None] > 127, np.uint8(person), np.uint8(room)).astype(np.uint8)


@pytest.fixture
def data(tmp_path):
    """Write a data folder as the presets read it: two portraits, rooms of houses 7 and 8, clips before plain walls."""
    rng = np.random.default_rng(3)
    rows = []
    for index, split in enumerate(("val", "val", "train")):
        mask = figure((360, 480), 240 + 20 * index)
        write(tmp_path / f"labelled/vikram/{split}/{index}.png", photograph(mask))
        write(tmp_path / f"labelled/vikram/{split}/{index}_mask.png", mask)
        name = f"vikram/{split}/{index}"
        rows.append({"file": f"{name}.png", "mask": f"{name}_mask.png", "set": "vikram", "split": split})
    carried = np.zeros((360, 480), np.uint8)
    carried[:, :40] = 255
    write(tmp_path / "labelled/vikram/val/1_carried.png", carried)
    index_file(tmp_path / "labelled/index.csv", rows)
    for house in (7, 8, 17):
        noise = cv2.GaussianBlur(rng.uniform(0, 255, (400, 640, 3)).astype(np.float32), (0, 0), 4)
        write(tmp_path / f"backgrounds/{house}_kitchen.png", noise.astype(np.uint8))
    mask = figure((360, 480))
    write(tmp_path / "pseudo/wall/0_0.png", photograph(mask))
    write(tmp_path / "pseudo/wall/0_0_a.png", mask)
    index_file(
        tmp_path / "pseudo/index.csv",
        [{"file": "wall/0_0.png", "alpha": "wall/0_0_a.png", "kind": "plain", "clip": "wall/0"}],
    )
    return tmp_path


def index_file(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def inside(mask):
    """Return what lies far enough inside a mask not to share chroma with the outside."""
    return cv2.erode(mask, np.ones((7, 7), np.uint8)) > 127


def off(rgb, expected, where):
    """Return the largest difference."""
    return np.abs(rgb.astype(int) - expected)[where].max()


def shots_of(found):
    return [shot for case in found.cases for shot in case.shots()]


# --- folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["_mask", "_alpha", "_a"])
def test_pairs_by_name(tmp_path, ending):
    mask = figure()
    write(tmp_path / "anna.jpg", photograph(mask))
    write(tmp_path / f"anna{ending}.png", mask)
    (found,) = presets.read_sets("mine", "pairs", tmp_path)
    (shot,) = shots_of(found)
    assert (found.name, found.cases[0].name, found.people, found.moving) == ("mine", "anna", True, False)
    np.testing.assert_array_equal(shot.alpha, mask)
    assert shot.known is None
    assert shot.frame.size == SIZE


@pytest.mark.parametrize("folder", ["masks", "alphas"])
def test_pairs_by_folder(tmp_path, folder):
    mask = figure()
    rgb = photograph(mask)
    write(tmp_path / "images/anna.png", rgb)
    write(tmp_path / folder / "anna.png", mask)
    (shot,) = shots_of(cases.read_pairs("mine", tmp_path))
    np.testing.assert_array_equal(shot.rgb, rgb)
    np.testing.assert_array_equal(shot.alpha, mask)


def test_an_index_has_its_split_by_sets_and_what_is_carried(data):
    (found,) = presets.read_sets("lab", "index", data / "labelled" / "index.csv")
    assert (found.name, [case.name for case in found.cases]) == ("lab-vikram", ["0", "1"])
    first, second = shots_of(found)
    assert first.known is None
    assert not second.known[:, :40].any()
    assert second.known[:, 40:].all()


def spoil(folder, how):
    mask = figure()
    write(folder / "anna.png", photograph(mask))
    write(folder / "anna_mask.png", mask)
    match how:
        case "no mask":
            (folder / "anna_mask.png").unlink()
            write(folder / "bert.png", photograph(mask))
            write(folder / "bert_mask.png", mask)
        case "no picture":
            (folder / "anna.png").unlink()
        case "size":
            write(folder / "anna_mask.png", mask[1:])
        case "values":
            write(folder / "anna_mask.png", mask // 255)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("no mask", r"anna.png has no mask: add anna_mask.png"),
        ("no picture", r"anna_mask.png has no picture"),
        ("size", r"anna_mask.png is 96x63 and its picture 96x64"),
        ("values", r"anna_mask.png holds 0 and 1: a mask is white, 255"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, how, sentence):
    spoil(tmp_path, how)
    with pytest.raises(SourceError, match=sentence):
        shots_of(cases.read_pairs("mine", tmp_path))


def test_an_index_that_is_none(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"index.csv does not exist"):
        cases.read_index(tmp_path)
    (tmp_path / "index.csv").write_text("file,split\na.png,val\n")
    with pytest.raises(SourceError, match=r"needs the columns file, mask, set and split"):
        cases.read_index(tmp_path)
    (tmp_path / "index.csv").write_text("file,mask,set,split\na.png,b.png,mine,train\n")
    with pytest.raises(SourceError, match=r"no row of split val"):
        cases.read_index(tmp_path)


@pytest.mark.parametrize("alone", [True, False])
def test_clips_of_pictures(tmp_path, alone):
    folder = tmp_path if alone else tmp_path / "walk"
    for index in (0, 1, 10, 2):
        mask = figure(left=30 + index)
        write(folder / f"f{index}.png", photograph(mask))
        write(folder / f"f{index}_alpha.png", mask)
    found = cases.read_clips("mine", tmp_path)
    assert found.moving
    shots = shots_of(found)
    assert [round(shot.frame.time * 30) for shot in shots] == [0, 1, 2, 3]
    assert shots[0].frame.subsampled
    np.testing.assert_array_equal(shots[3].alpha, figure(left=40))


def make_video(path, frames):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "bgr0"
        for pixels in frames:
            shown = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode(None))


def test_clips_of_videos(tmp_path):
    masks = [figure(left=30 + 3 * index) for index in range(3)]
    make_video(tmp_path / "walk.mkv", [photograph(mask) for mask in masks])
    make_video(tmp_path / "walk_alpha.mkv", masks)
    shots = shots_of(cases.read_clips("mine", tmp_path))
    assert len(shots) == 3
    for shot, mask in zip(shots, masks, strict=True):
        np.testing.assert_array_equal(shot.alpha, mask)
        assert off(shot.rgb, photograph(mask), inside(mask) | inside(255 - mask)) <= 2
    make_video(tmp_path / "walk_alpha.mkv", masks[:2])
    with pytest.raises(SourceError, match=r"walk_alpha.mkv is shorter than its partner"):
        shots_of(cases.read_clips("mine", tmp_path))
    (tmp_path / "walk_alpha.mkv").unlink()
    with pytest.raises(SourceError, match=r"walk.mkv has no alpha: add walk_alpha.mkv"):
        cases.read_clips("mine", tmp_path)


def test_foregrounds_are_set_before_rooms(tmp_path, data):
    mask = figure()
    for index in range(2):
        write(tmp_path / f"vm/fgr/0001/{index}.png", photograph(mask))
        write(tmp_path / f"vm/pha/0001/{index}.png", mask)
    rooms = presets.validation_rooms(data)
    (found,) = presets.read_sets("vm", "foregrounds", tmp_path / "vm", rooms)
    first, second = shots_of(found)
    assert off(first.rgb, photograph(mask), inside(mask)) <= 2
    assert off(first.rgb, photograph(mask), inside(255 - mask)) > 100
    np.testing.assert_array_equal(first.rgb, second.rgb)
    with pytest.raises(SourceError, match="name a folder of rooms"):
        presets.read_sets("vm", "foregrounds", tmp_path / "vm")


def test_cutouts_are_set_before_rooms(tmp_path, data):
    mask = figure((300, 400))
    write(tmp_path / "cut/anna.png", np.dstack([photograph(mask), mask]))
    (found,) = presets.read_sets("cut", "cutouts", tmp_path / "cut", presets.validation_rooms(data))
    (shot,) = shots_of(found)
    assert shot.frame.size == scenes.SCENE
    assert 0.1 < (shot.alpha > 127).mean() < 0.7
    write(tmp_path / "cut/bert.png", photograph(mask))
    with pytest.raises(SourceError, match=r"bert.png is opaque"):
        shots_of(presets.read_sets("cut", "cutouts", tmp_path / "cut", presets.validation_rooms(data))[0])


def test_an_unknown_kind_or_preset(tmp_path):
    with pytest.raises(ValueError, match="'films' is not one of pairs, index"):
        presets.read_sets("mine", "films", tmp_path)
    with pytest.raises(ValueError, match="'beach' is not one of webcam"):
        presets.preset_sets("beach", tmp_path)


# --- scenes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [2.6, 4.2])
@pytest.mark.parametrize("confined", [True, False])
def test_a_webcam_frames_the_head(heads, confined):
    mask = figure((720, 1280), 700)
    box = scenes.frame_person(mask, heads, np.random.default_rng(0), confined)
    assert box.width / box.height == pytest.approx(16 / 9)
    assert box.top + box.height <= 720 + 1e-6
    assert box.left < 600 < 800 < box.left + box.width  # the whole head
    assert box.top < 144  # and what is above it
    if confined:
        assert min(box.left, box.top) >= 0
        assert box.left + box.width <= 1280 + 1e-6


def test_nobody_and_specks_are_not_framed():
    rng = np.random.default_rng(0)
    assert scenes.frame_person(np.zeros((480, 640), np.uint8), 2.6, rng, True) is None
    speck = np.zeros((480, 640), np.uint8)
    speck[200:260, 300:320] = 255
    assert scenes.frame_person(speck, 2.6, rng, True) is None


def test_somebody_cut_off_at_a_side_stays_there():
    mask = figure((480, 640), 20)
    for seed in range(5):
        box = scenes.frame_person(mask, 4.2, np.random.default_rng(seed), confined=False)
        assert box.left == 0


def test_the_truth_is_what_was_painted_with(monkeypatch):
    monkeypatch.setattr(scenes, "NOISE", 0)
    mask = cv2.GaussianBlur(figure((360, 640)), (0, 0), 3)
    person = scenes.Cutout(np.full((360, 640, 3), (200, 40, 90), np.uint8), mask)
    room = np.full((400, 700, 3), (20, 120, 240), np.uint8)
    shot = scenes.compose(person, scenes.Box(0, 0, 640, 360), room, np.random.default_rng(1))
    share = shot.alpha[..., None] / 255
    lit = np.array((200, 40, 90)) * scenes._gain(person, room)
    assert np.abs(shot.rgb - (share * lit + (1 - share) * (20, 120, 240))).max() <= 1
    # The box fills the scene: the alpha is the mask made smaller.
    small = cv2.resize(mask, (512, 288), interpolation=cv2.INTER_AREA)
    assert np.abs(shot.alpha.astype(int) - small).mean() < 1


@pytest.mark.parametrize("pans", [False, True])
def test_clips_move_smoothly_and_rooms_stand_still_unless_the_camera_pans(pans):
    rng = np.random.default_rng(2)
    room = cv2.GaussianBlur(rng.uniform(0, 255, (480, 854, 3)).astype(np.float32), (0, 0), 3).astype(np.uint8)
    room = cv2.normalize(room, None, 0, 255, cv2.NORM_MINMAX)
    mask = figure((360, 640))
    person = scenes.Cutout(photograph(mask), mask)
    shots = list(scenes.compose_clip(person, scenes.Box(0, 0, 640, 360), room, pans, np.random.default_rng(5)))
    assert len(shots) == scenes.CLIP_FRAMES
    alphas = [shot.alpha.astype(np.float32) / 255 for shot in shots]
    steps = [np.abs(b - a).mean() for a, b in itertools.pairwise(alphas)]
    assert 1e-5 < max(steps) < 0.03  # moves, and never jumps
    alike = metrics.unchanged(shots[12].rgb, shots[11].rgb, alphas[12], alphas[11])[alphas[12] == 0].mean()
    assert alike < 0.6 if pans else alike > 0.95


def begun(found):
    """Return the first shots of the first two cases."""
    return [shot for case in found.cases[:2] for shot in itertools.islice(case.shots(), 2)]


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_presets_are_made_of_validation_data_and_depend_on_the_seed_alone(data, preset):
    (found,) = presets.preset_sets(preset, data, 4)
    (again,) = presets.preset_sets(preset, data, 4)
    assert found.cases
    assert found.note
    assert [case.name for case in found.cases] == [case.name for case in again.cases]
    for one, two in zip(begun(found), begun(again), strict=True):
        np.testing.assert_array_equal(one.rgb, two.rgb)
        np.testing.assert_array_equal(one.alpha, two.alpha)
    names = {case.name.split("-")[0] for case in found.cases}
    if preset == "rooms":
        assert names == {"7_kitchen", "17_kitchen"}
        assert not any(shot.alpha.any() for shot in begun(found))
    elif preset != "composites-pseudo":
        assert names <= {"0", "1"}  # 2 is for training
    if preset in ("webcam", "composites", "clips"):
        other = begun(presets.preset_sets(preset, data, 5)[0])
        assert all(shot.frame.size == scenes.SCENE for shot in begun(found))
        assert any((one.rgb != two.rgb).any() for one, two in zip(begun(found), other, strict=False))


def test_rooms_for_validation_are_asked_for(tmp_path):
    write(tmp_path / "backgrounds/8_kitchen.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(SourceError, match="no room for validation"):
        presets.validation_rooms(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_the_shared_data_gives_the_presets():
    (webcam,) = presets.preset_sets("webcam", SHARED)
    (rooms,) = presets.preset_sets("rooms", SHARED)
    assert len(webcam.cases) > 150
    assert len(rooms.cases) > 60
    shots = begun(webcam)
    assert {shot.frame.size for shot in shots} == {scenes.SCENE}
    assert all(0.1 < (shot.alpha > 127).mean() < 0.9 for shot in shots)


# --- judging ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Write a network that takes everything very blue for a person, and one that remembers all it saw."""
    onnx = pytest.importorskip("onnx", reason="the networks of these tests are made with onnx, which is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from onnx import TensorProto, helper, numpy_helper

    folder = tmp_path_factory.mktemp("models")
    blue = np.zeros((1, 3, 1, 1), np.float32)
    blue[0, 2] = 8
    weights = [numpy_helper.from_array(blue, "w"), numpy_helper.from_array(np.array([-4], np.float32), "b")]
    floor = numpy_helper.from_array(np.array(0, np.float32), "zero")
    top = numpy_helper.from_array(np.array(1, np.float32), "one")

    def value(name, channels):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, *SIZE])

    nodes = [
        helper.make_node("Conv", ["src", "w", "b"], ["level"]),
        helper.make_node("Clip", ["level", "zero", "one"], ["pha"]),
    ]
    graph = helper.make_graph(nodes, "blue", [value("src", 3)], [value("pha", 1)], [*weights, floor, top])
    plain = folder / "blue.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), plain)
    return plain


def blue_set(count=2, moves=False, **how):
    """Return cases that the blue network gets right, but for the last one, which it gets all wrong."""

    def shots(index):
        for frame in range(4 if moves else 1):
            mask = figure(left=40 + 2 * index)
            truth = 255 - mask if index == count - 1 else mask
            yield moving(photograph(mask), truth, frame) if moves else still(photograph(mask), truth)

    made = [Case(f"case{index}", lambda index=index: shots(index)) for index in range(count)]
    return CaseSet("moves" if moves else "blue", made, moving=moves, **how)


def test_right_and_wrong_by_value(model):
    report = evaluate([], [blue_set(3)], peers=[model], runtime="onnxruntime", worst=2)
    (row,) = report.rows
    assert (row.set, row.model, row.path, row.cases, row.frames) == ("blue", "blue", "raw", 3, 3)
    assert row.by_case["case0"]["iou"] == row.by_case["case1"]["boundary_f"] == 1.0
    assert row.by_case["case1"]["mad"] == 0.0
    assert row.by_case["case2"]["mad"] == pytest.approx(1000)
    assert row.measures["iou"] == pytest.approx(2 / 3)
    assert row.measures["mad"] == pytest.approx(1000 / 3)
    assert "dtssd" not in row.measures
    assert row.milliseconds > 0
    assert "onnxruntime" in row.runtime
    assert [found.case for found in report.worst] == ["case2", report.worst[1].case]
    assert report.worst[0].score == pytest.approx(1000)


def test_what_is_judged_is_what_matte_writes(model, tmp_path):
    from vidseg.images import process_pictures
    from vidseg.segmenter import SCALES, Segmenter

    rng = np.random.default_rng(0)
    mask = figure((128, 192))
    rgb = np.clip(photograph(mask) + rng.normal(0, 20, (128, 192, 3)), 0, 255).astype(np.uint8)
    write(tmp_path / "anna.png", rgb)
    write(tmp_path / "anna_mask.png", mask)

    def open_segmenter():
        return Segmenter(str(model), "onnxruntime", scales=SCALES, stream=False)

    process_pictures(str(tmp_path / "anna.png"), str(tmp_path / "out.png"), None, open_segmenter)
    written = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
    (tmp_path / "out.png").unlink()
    report = evaluate([str(model)], [cases.read_pairs("mine", tmp_path)], runtime="onnxruntime")
    (row,) = report.rows
    assert row.path == "as written"
    expected = metrics.mad(written, mask.astype(np.float32) / 255)
    assert row.measures["mad"] == pytest.approx(expected, rel=1e-6)
    assert expected > 0
    raw = evaluate([str(model)], [cases.read_pairs("mine", tmp_path)], runtime="onnxruntime", raw=True).rows[0]
    assert raw.path == "raw"
    assert raw.measures["mad"] != pytest.approx(expected, rel=1e-3)


def test_clips_are_measured_in_time_and_begin_anew(model):
    report = evaluate([str(model)], [blue_set(2, moves=True)], runtime="onnxruntime")
    right, wrong = report.rows[0].by_case.values()
    # Nothing moves and nothing changes, also from the right clip to the wrong one.
    assert right["dtssd"] == wrong["dtssd"] == pytest.approx(0, abs=0.02)
    assert right["flicker"] == wrong["flicker"] == pytest.approx(0, abs=0.02)
    assert right["iou"] > 0.95
    assert wrong["iou"] < 0.05
    assert report.rows[0].frames == 8


def test_empty_rooms_count_false_alarms_alone(model):
    def room(blue_rows):
        rgb = np.full((*SIZE, 3), (90, 160, 30), np.uint8)
        rgb[:blue_rows, :, 2] = 255
        yield still(rgb, np.zeros(SIZE, np.uint8))

    made = [Case("free", lambda: room(0)), Case("seen", lambda: room(16))]
    report = evaluate([], [CaseSet("rooms", made, people=False)], peers=[model], runtime="onnxruntime")
    measures = report.rows[0].measures
    assert set(measures) == {"seen", "mean"}
    assert measures["seen"] == 0.5
    assert measures["mean"] == pytest.approx(125)


def test_models_stand_side_by_side_in_the_report(model):
    sets = [blue_set(2), blue_set(2, moves=True, note="Drawn.")]
    report = evaluate([str(model)], sets, peers=[str(model)], runtime="onnxruntime", worst=1)
    assert [(row.set, row.path) for row in report.rows] == [
        ("blue", "as written"), ("blue", "raw"), ("moves", "as written"), ("moves", "raw"),
    ]  # fmt: skip
    text = report.as_markdown()
    tables = [line for line in text.splitlines() if line.startswith("| model")]
    assert ["dtSSD" in line for line in tables] == [False, True]
    assert "**moves**: 2 clips. Drawn." in text
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert values["rows"][1]["mad"] == pytest.approx(500)
    assert values["rows"][1]["by_case"]["case0"]["mad"] == 0
    sheet = contact_sheet(report.worst)
    assert sheet.shape[0] % 4 == 0  # one strip for each set and model
    strip = sheet[: sheet.shape[0] // 4]
    assert strip.std() > 20


def test_the_sheet_shows_what_is_too_much_in_red(model):
    report = evaluate([], [blue_set(1)], peers=[model], runtime="onnxruntime", worst=1)
    sheet = contact_sheet(report.worst, width=96)
    mask = figure(left=40)
    difference = sheet[6 : 6 + 64, 3 * 102 + 6 : 4 * 102]
    assert (difference[mask > 0][:, 0] == 255).mean() > 0.9
    assert (difference[mask == 0][:, 2] == 255).mean() > 0.9
    with pytest.raises(ValueError, match="at least one case"):
        contact_sheet([])


def test_nothing_to_judge_and_two_of_one_name(model):
    with pytest.raises(ValueError, match="at least one model and one set"):
        evaluate([], [blue_set()])
    with pytest.raises(ValueError, match="names of their own"):
        evaluate([model], [blue_set(), blue_set()])


def test_two_versions_of_a_model_are_told_apart(model, tmp_path):
    (tmp_path / "blue.onnx").write_bytes(model.read_bytes())
    report = evaluate([], [blue_set()], peers=[model, tmp_path / "blue.onnx"], runtime="onnxruntime")
    assert [row.model for row in report.rows] == [str(model), str(tmp_path / "blue.onnx")]


def test_limited_takes_evenly():
    found = blue_set(10)
    assert [case.name for case in found.limited(3).cases] == ["case0", "case3", "case6"]
    assert "3 of 10" in found.limited(3).note
    assert found.limited(10) is found
    assert found.limited(None) is found


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    for index in range(3):
        mask = figure(left=30 + index)
        write(tmp_path / f"photos/{index}.png", photograph(mask))
        write(tmp_path / f"photos/{index}_mask.png", mask)
    return tmp_path / "photos"


def test_the_command_writes_report_and_sheet(model, photos, tmp_path, capfd):
    report, sheet = tmp_path / "report.md", tmp_path / "worst.png"
    arguments = ["eval", "--set", f"mine=pairs:{photos}", "--model", str(model), "--raw", "--runtime", "onnxruntime"]
    assert run([*arguments, "--output", str(report), "--sheet", str(sheet), "--limit", "2"]) == 0
    out, _ = capfd.readouterr()
    assert "**mine**: 2 pictures" in out
    assert "| blue | raw | 1.000 | 1.000 |" in report.read_text()
    assert cv2.imread(str(sheet)).shape[1] > 1000
    assert run([*arguments, "--output", str(report)]) == 1
    assert "exists already" in capfd.readouterr().err
    assert run([*arguments, "--output", str(tmp_path / "report.json"), "--json"]) == 0
    values = json.loads(capfd.readouterr().out)
    assert values["rows"][0]["iou"] == 1.0
    assert json.loads((tmp_path / "report.json").read_text()) == values
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ([], 2, "give --data DIR or --set NAME=KIND:PATH"),
        (["--set", "webcam"], 2, "give --data DIR too"),
        (["--set", "mine=films:x"], 2, "KIND one of pairs, index"),
        (["--set", "beach", "--data", "."], 2, "beach is not one of webcam"),
        (["--set", "mine=pairs:no-such-folder"], 1, "no-such-folder does not exist"),
        (["--set", "mine=clips:no-such-folder"], 1, "no-such-folder does not exist"),
        (["--set", "mine=cutouts:x"], 1, "name a folder of rooms"),
        (["--set", "mine=pairs:x", "--output", "report.pdf"], 2, "should end in .md or .json"),
        (["--set", "mine=pairs:x", "--sheet", "nowhere/a.png"], 1, "the folder nowhere does not exist"),
    ],
)
def test_mistakes_are_named(arguments, status, sentence, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["eval", *arguments]) == status
    error = capfd.readouterr().err
    assert sentence in " ".join(error.split())
    assert "bug" not in error
