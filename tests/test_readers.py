"""Readers: every layout on a few drawn pictures, and one clear sentence for everything that can be wrong."""

from __future__ import annotations

import base64
import csv
import json
import re
import zlib
from fractions import Fraction

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.media import clip
from vidseg.errors import MissingDependencyError, SourceError, SourceNotFoundError
from vidseg.training.pictures import LONG_SIDE
from vidseg.training.readers import LAYOUTS, held_back, open_dataset, open_datasets

SIZE = (24, 32)


def rgb(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def mask(value=255, left=8):
    pixels = np.zeros(SIZE, np.uint8)
    pixels[6:, left : left + 10] = value
    return pixels


def soft():
    return np.tile(np.linspace(0, 255, SIZE[1]).astype(np.uint8), (SIZE[0], 1))


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    assert cv2.imwrite(str(path), pixels)


def cutout(seed=0):
    return np.dstack([rgb(seed), mask()])


def index(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "index.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def only(dataset, split=""):
    """Return the one picture of a data set."""
    ((entry, clips),) = dataset.read(split)
    (frame,) = clips[0].frames
    return entry, frame


# --- layouts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "truth"), [("masks", mask()), ("masks", mask(1)), ("alphas", soft())])
def test_folders(tmp_path, folder, truth):
    write(tmp_path / "images" / "a" / "one.png", rgb())
    write(tmp_path / folder / "a" / "one.png", truth)
    dataset = open_dataset(tmp_path)
    entry, picture = only(dataset)
    assert (dataset.layout, entry.kind, entry.name) == ("folders", "person", "images/a/one.png")
    assert (picture.rgb == rgb()).all()
    assert (picture.alpha == (truth * 255 if truth.max() == 1 else truth)).all()
    assert picture.own_background
    assert picture.ignore is None


def test_folders_in_splits(tmp_path):
    for part, seed in (("train", 1), ("val", 2)):
        write(tmp_path / part / "images" / "one.png", rgb(seed))
        write(tmp_path / part / "masks" / "one_mask.png", mask())
    dataset = open_dataset(tmp_path)
    assert (only(dataset, "train")[1].rgb == rgb(1)).all()
    assert (only(dataset, "val")[1].rgb == rgb(2)).all()


@pytest.mark.parametrize("ending", ["_mask", "_alpha", "_a", "-matte"])
def test_beside(tmp_path, ending):
    write(tmp_path / "one.png", rgb())
    write(tmp_path / f"one{ending}.png", mask())
    write(tmp_path / "one_ignore.png", mask(left=20))
    dataset = open_dataset(tmp_path)
    _, picture = only(dataset)
    assert (dataset.layout, dataset.problems) == ("beside", ())
    assert (picture.alpha == mask()).all()
    assert (picture.ignore == mask(left=20)).all()


def test_cutouts(tmp_path):
    write(tmp_path / "one.png", cutout())
    dataset = open_dataset(tmp_path)
    entry, picture = only(dataset)
    assert (dataset.layout, entry.kind, picture.own_background) == ("cutouts", "cutout", False)
    assert (picture.rgb == rgb()).all()
    assert (picture.alpha == mask()).all()


def test_index(tmp_path):
    rows = [
        {"file": "a.png", "mask": "a_m.png", "set": "one", "split": "train"},
        {"file": "b.png", "mask": "b_m.png", "set": "one", "split": "val"},
        {"file": "c.png", "mask": "(alpha channel)", "set": "cut", "split": "train"},
    ]
    index(tmp_path, rows)
    for name in "ab":
        write(tmp_path / f"{name}.png", rgb())
        write(tmp_path / f"{name}_m.png", mask())
    write(tmp_path / "a_carried.png", mask(left=20))
    write(tmp_path / "c.png", cutout())
    found = {entry.name: (entry, clips[0].frames[0]) for entry, clips in open_dataset(tmp_path).read()}
    told = {name: (entry.kind, entry.set, entry.split) for name, (entry, _) in found.items()}
    assert told == {
        "a.png": ("person", "one", "train"),
        "b.png": ("person", "one", "val"),
        "c.png": ("cutout", "cut", "train"),
    }
    assert (found["a.png"][1].ignore == mask(left=20)).all()
    assert found["b.png"][1].ignore is None


def test_index_of_clips_stills_rooms_and_things(tmp_path):
    kinds = [("real", "c1", "g", 1), ("real", "c1", "g", 0), ("plain", "c2", "h", 0), ("still", "c3", "i", 0)]
    rows = []
    for number, (kind, shot, group, frame) in enumerate(kinds):
        write(tmp_path / f"{number}.webp", rgb(number))
        write(tmp_path / f"{number}_a.png", mask())
        rows.append({"file": f"{number}.webp", "alpha": f"{number}_a.png", "set": "s", "kind": kind, "clip": shot})
        rows[-1] |= {"group": group, "frame_in_group": frame, "hard": "0"}
    for name, kind, hard in (("room", "room", "0"), ("thing", "thing", "0"), ("hard", "thing", "1")):
        write(tmp_path / f"{name}.png", rgb())
        rows.append({"file": f"{name}.png", "kind": kind, "set": "s", "hard": hard})
    index(tmp_path, rows)
    read = {entry.name: (entry, clips) for entry, clips in open_dataset(tmp_path).read()}
    kinds = {name: entry.kind for name, (entry, _) in read.items()}
    assert kinds == {
        **{"0.webp" if "0.webp" in read else "1.webp": "person", "2.webp": "cutout", "3.webp": "person"},
        **{"room.png": "room", "thing.png": "thing", "hard.png": "hard"},
    }
    (shot,) = read["1.webp"][1]
    assert len(shot.frames) == 2  # in their order, though not in the index
    first = cv2.cvtColor(cv2.imread(str(tmp_path / "1.webp")), cv2.COLOR_BGR2RGB)
    assert (shot.frames[0].rgb == first).all()
    assert (shot.person, read["3.webp"][0].person) == ("c1", "3.webp")
    assert {entry.set for entry, _ in read.values()} == {"s-real", "s-plain", "s-still", "s"}
    assert not read["room.png"][1][0].frames[0].alpha.any()


def test_lossy_alphas_are_snapped(tmp_path):
    alpha = np.full(SIZE, 3, np.uint8)
    alpha[:, 8:], alpha[:, 20:] = 253, 128
    write(tmp_path / "one.png", rgb())
    assert cv2.imwrite(str(tmp_path / "one_a.webp"), alpha, [cv2.IMWRITE_WEBP_QUALITY, 101])
    picture = only(open_dataset(tmp_path))[1]
    assert np.unique(picture.alpha).tolist() == [0, 128, 255]


def test_coco(tmp_path):
    pytest.importorskip("pycocotools", reason="COCO needs vidseg[train]: pycocotools is not installed")
    for name in ("one", "crowd", "none"):
        write(tmp_path / "val2017" / f"{name}.jpg", rgb())
    square = {"segmentation": [[8, 6, 18, 6, 18, 20, 8, 20]], "iscrowd": 0, "area": 140, "bbox": [8, 6, 10, 14]}
    counts = [0, SIZE[0] * 4, SIZE[0] * (SIZE[1] - 4)]  # all but the first four columns is "no": runs by column
    crowd = {"segmentation": {"counts": counts, "size": SIZE}, "iscrowd": 1, "area": 96, "bbox": [0, 0, 4, 24]}
    images = [
        {"id": i, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for i, name in enumerate(("one", "crowd", "none"))
    ]
    annotations = [
        {"id": 1, "image_id": 0, "category_id": 1, **square},
        {"id": 2, "image_id": 1, "category_id": 1, **crowd},
        {"id": 3, "image_id": 1, "category_id": 1, **square},
        {"id": 4, "image_id": 2, "category_id": 2, **square},
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}]
    (tmp_path / "annotations").mkdir()
    told = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(told))
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, {entry.split for entry in dataset.entries}) == ("coco", {"val"})
    one, crowded, none = (clips[0].frames[0] for _, clips in dataset.read())
    inside = np.zeros(SIZE, bool)
    inside[7:19, 9:17] = True
    assert (one.alpha[inside] == 255).all()
    assert one.ignore is None
    assert (crowded.ignore[:, :4] == 255).all()
    assert not crowded.ignore[:, 5:].any()
    assert (crowded.alpha == one.alpha).all()
    assert not none.alpha.any()
    assert [entry.kind for entry in dataset.entries] == ["person", "person", "thing"]


def test_coco_without_pycocotools(tmp_path, monkeypatch):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.coco", None)
    with pytest.raises(MissingDependencyError, match=r"vidseg\[train\]"):
        open_dataset(tmp_path)


def test_p3m(tmp_path):
    write(tmp_path / "train" / "blurred_image" / "p.jpg", rgb())
    write(tmp_path / "train" / "mask" / "p.png", soft())
    write(tmp_path / "validation" / "P3M-500-NP" / "original_image" / "q.jpg", rgb())
    write(tmp_path / "validation" / "P3M-500-NP" / "mask" / "q.png", soft())
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, {entry.split for entry in dataset.entries}) == ("p3m", {"train", "val"})
    assert (only(dataset, "val")[1].alpha == soft()).all()


def test_aisegment(tmp_path):
    write(tmp_path / "clip_img" / "1803" / "clip_00" / "one.jpg", rgb())
    write(tmp_path / "matting" / "1803" / "matting_00" / "one.png", np.dstack([rgb(), soft()]))
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.problems) == ("aisegment", ())
    assert (only(dataset)[1].alpha == soft()).all()


def test_supervisely(tmp_path):
    (tmp_path / "meta.json").write_text("{}")
    piece = np.full((4, 6), 255, np.uint8)
    data = base64.b64encode(zlib.compress(cv2.imencode(".png", piece)[1].tobytes())).decode()
    ring = {"exterior": [[8, 6], [17, 6], [17, 19], [8, 19]], "interior": [[[10, 10], [12, 10], [12, 12], [10, 12]]]}
    objects = [
        {"classTitle": "person_poly", "geometryType": "polygon", "points": ring},
        {"classTitle": "person_bmp", "bitmap": {"origin": [22, 3], "data": data}},
        {"classTitle": "cat", "bitmap": {"origin": [0, 0], "data": data}},
    ]
    write(tmp_path / "ds1" / "img" / "one.png", rgb())
    (tmp_path / "ds1" / "ann").mkdir()
    told = {"size": {"height": SIZE[0], "width": SIZE[1]}, "objects": objects}
    (tmp_path / "ds1" / "ann" / "one.png.json").write_text(json.dumps(told))
    dataset = open_dataset(tmp_path)
    wanted = np.zeros(SIZE, np.uint8)
    wanted[6:20, 8:18] = 255
    wanted[10:13, 10:13] = 0
    wanted[3:7, 22:28] = 255
    assert (dataset.layout, dataset.problems) == ("supervisely", ())
    assert (only(dataset)[1].alpha == wanted).all()


@pytest.mark.parametrize(("pictures", "truths", "kind"), [("fgr", "pha", "cutout"), ("frames", "masks", "person")])
def test_frame_folders(tmp_path, pictures, truths, kind):
    for number in range(11):
        write(tmp_path / "train" / pictures / "a" / f"{number}.png", rgb(number))
        write(tmp_path / "train" / truths / "a" / f"{number}.png", mask(left=number))
    dataset = open_dataset(tmp_path)
    ((entry, clips),) = dataset.read("train")
    assert (dataset.layout, entry.kind, [len(clip.frames) for clip in clips]) == ("clips", kind, [8, 3])
    frames = [frame for clip in clips for frame in clip.frames]
    for number, frame in enumerate(frames):  # 10 comes after 9
        assert (frame.rgb == rgb(number)).all()
        assert (frame.alpha == mask(left=number)).all()


def test_alpha_videos(tmp_path):
    for folder in ("fgr", "pha"):
        (tmp_path / folder).mkdir()
        clip(tmp_path / folder / "a.mp4", 40, (48, 64), fps=Fraction(25))
    dataset = open_dataset(tmp_path)
    ((entry, clips),) = dataset.read()
    assert (entry.name, [len(one.frames) for one in clips]) == ("fgr/a.mp4", [8, 8, 8, 8])
    assert clips[0].frames[0].rgb.shape == (48, 64, 3)
    frame = clips[3].frames[7]
    bright = frame.rgb[..., 1] > 250  # the matte is the same video here, and is snapped
    assert (frame.alpha[bright] == 255).all()
    assert not (clips[0].frames[0].rgb == clips[0].frames[1].rgb).all()


def test_classes(tmp_path):
    (tmp_path / "classes.txt").write_text("background\nperson\nchair\n")
    numbers = np.zeros(SIZE, np.uint8)
    numbers[4:, 4:12], numbers[4:, 12:20], numbers[0] = 1, 2, 255
    write(tmp_path / "images" / "one.jpg", rgb())
    (tmp_path / "masks").mkdir()
    paletted = Image.fromarray(numbers, "P")
    paletted.putpalette(list(range(256)) * 3)
    paletted.save(tmp_path / "masks" / "one.png")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("background", "person", "chair")
    assert (only(dataset)[1].alpha == numbers).all()


def test_rooms_and_things(tmp_path):
    for name in ("1_bath", "1_kitchen", "17_bath"):
        write(tmp_path / "rooms" / f"{name}.png", rgb())
    write(tmp_path / "things" / "mug.png", cutout())
    rooms, things = open_datasets([tmp_path])
    assert {entry.name: entry.split for entry in rooms.entries} == {
        "1_bath.png": "train",
        "1_kitchen.png": "train",
        "17_bath.png": "val",
    }
    assert (things.layout, only(things)[0].kind) == ("things", "thing")
    assert (only(things)[1].alpha == mask()).all()


def test_large_pictures_are_kept_small(tmp_path):
    write(tmp_path / "one.png", cv2.resize(rgb(), (1600, 1200)))
    write(tmp_path / "one_mask.png", cv2.resize(mask(), (1600, 1200), interpolation=cv2.INTER_NEAREST))
    picture = only(open_dataset(tmp_path))[1]
    assert picture.rgb.shape == (LONG_SIDE * 3 // 4, LONG_SIDE, 3)
    assert picture.alpha.shape == picture.rgb.shape[:2]


def test_a_layout_can_be_named(tmp_path):
    write(tmp_path / "one.png", rgb())
    (dataset,) = open_datasets([f"rooms:{tmp_path}"])
    assert (dataset.layout, dataset.entries[0].kind) == ("rooms", "room")
    with pytest.raises(ValueError, match="nonsense"):
        open_dataset(tmp_path, "nonsense")


def test_what_is_held_back():
    assert [held_back(f"{number}_kitchen") for number in (7, 17, 70)] == [True, True, False]
    share = np.mean([held_back(f"somebody {name}") for name in map(chr, range(200, 2200))])
    assert 0.07 < share < 0.13


# --- what can be wrong --------------------------------------------------------------------------------------------


def folders(root, image=None, truth=None, where="masks"):
    for seed in range(2):
        write(root / "images" / f"{seed}.png", rgb(seed))
        write(root / where / f"{seed}.png", mask())
    if image is not None:
        write(root / "images" / "x.png", image)
    if truth is not None:
        write(root / where / "x.png", truth)


@pytest.mark.parametrize(
    ("image", "truth", "where", "told"),
    [
        (rgb(), None, "masks", r"images.x\.png has no mask: put x\.png into .*masks"),
        (None, mask(), "masks", r"masks.x\.png is a mask without its picture"),
        (rgb(), mask()[:-1], "masks", r"x\.png and x\.png are of different size \(32x24 and 32x23\)"),
        (rgb(), soft(), "masks", r"x\.png holds \d+, but a mask holds 0 and 255 \(or 0 and 1\) only.*alphas"),
        (rgb(), mask(7), "masks", r"x\.png holds 7, but a mask"),
        (rgb(), mask(1), "alphas", r"x\.png reaches 1 of 255"),
        (rgb(), mask(0), "masks", r"x\.png has an empty mask, but stands among people.*rooms"),
    ],
)
def test_a_pair_that_is_wrong(tmp_path, image, truth, where, told):
    folders(tmp_path, image, truth, where)
    dataset = open_dataset(tmp_path)
    problems = list(dataset.problems)
    read = list(dataset.read(problems=problems))
    assert len(read) == 2  # the others are of use
    (problem,) = problems

    assert re.search(told, problem)
    if not dataset.problems:
        with pytest.raises(SourceError, match=told):
            list(dataset.read())


def test_an_unreadable_picture(tmp_path):
    folders(tmp_path, rgb(), mask())
    (tmp_path / "images" / "x.png").write_bytes(b"no picture")
    (tmp_path / "masks" / "0.png").write_bytes(b"")
    problems = []
    assert len(list(open_dataset(tmp_path).read(problems=problems))) == 1
    assert len(problems) == 2
    assert all("is not a readable picture" in problem for problem in problems)


def test_masks_alone_and_pictures_alone(tmp_path):
    write(tmp_path / "masks" / "one.png", mask())
    (tmp_path / "images").mkdir()
    with pytest.raises(SourceError, match="mask without its picture"):
        open_dataset(tmp_path)
    write(tmp_path / "pictures" / "one.png", rgb())
    with pytest.raises(SourceError, match="no layout that is known"):
        open_dataset(tmp_path / "pictures")


def test_no_folder_an_empty_one_and_one_of_other_things(tmp_path):
    with pytest.raises(SourceNotFoundError, match="is not a folder"):
        open_dataset(tmp_path / "nothing")
    with pytest.raises(SourceError, match="is empty"):
        open_dataset(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(SourceError, match="no layout that is known") as error:
        open_datasets([tmp_path])
    assert all(name in str(error.value) for name in LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_that_is_not_there(tmp_path, layout):
    if layout == "coco":
        pytest.importorskip("pycocotools")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(SourceError):
        open_dataset(tmp_path, layout)


def test_an_index_that_is_wrong(tmp_path):
    index(tmp_path, [{"name": "a.png"}])
    with pytest.raises(SourceError, match="no column 'file'"):
        open_dataset(tmp_path)
    write(tmp_path / "a.png", cutout())
    index(tmp_path, [{"file": "a.png", "mask": ""}, {"file": "b.png", "mask": ""}])
    dataset = open_dataset(tmp_path)
    assert "names b.png, which is not there" in dataset.problems[0]
    write(tmp_path / "a.png", rgb())
    with pytest.raises(SourceError, match="no alpha channel"):
        list(dataset.read())


@pytest.mark.parametrize(
    ("numbers", "told"),
    [(np.full(SIZE, 2, np.uint8), "holds class 2, but classes.txt names 2"), (rgb(), "has colours")],
)
def test_class_numbers_that_are_wrong(tmp_path, numbers, told):
    (tmp_path / "classes.txt").write_text("background\nperson\n")
    write(tmp_path / "images" / "one.png", rgb())
    write(tmp_path / "masks" / "one.png", numbers)
    with pytest.raises(SourceError, match=told):
        list(open_dataset(tmp_path).read())


def test_annotations_that_are_wrong(tmp_path):
    (tmp_path / "meta.json").write_text("{}")
    write(tmp_path / "ds" / "img" / "one.png", rgb())
    write(tmp_path / "ds" / "img" / "two.png", rgb())
    (tmp_path / "ds" / "ann").mkdir()
    (tmp_path / "ds" / "ann" / "one.png.json").write_text('{"size": 3}')
    (tmp_path / "ds" / "ann" / "three.png.json").write_text("{}")
    dataset = open_dataset(tmp_path)
    assert "three.png.json is an annotation without its picture" in dataset.problems[0]
    assert "two.png has no mask" in dataset.problems[1]
    with pytest.raises(SourceError, match="not an annotation of Supervisely"):
        list(dataset.read())


def test_videos_of_different_size(tmp_path):
    (tmp_path / "fgr").mkdir()
    (tmp_path / "pha").mkdir()
    clip(tmp_path / "fgr" / "a.mp4", 3, (48, 64))
    clip(tmp_path / "pha" / "a.mp4", 3, (48, 48))
    clip(tmp_path / "fgr" / "b.mp4", 3, (48, 64))
    dataset = open_dataset(tmp_path)
    assert "b.mp4 has no mask" in dataset.problems[0]
    with pytest.raises(SourceError, match="64x48 and 48x48"):
        list(dataset.read())
