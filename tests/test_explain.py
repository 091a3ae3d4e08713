"""Explanations: looks that are undone exactly, evidence where it was painted, and a page that stands alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import av
import numpy as np
import pytest
from PIL import Image

from tests.media import clip
from vidseg.cli.main import main
from vidseg.explaining.drawing import colours, outline, sheet
from vidseg.explaining.evidence import occlusion, target_of
from vidseg.explaining.explanation import Evidence, Explanation
from vidseg.explaining.looks import LOOKS, Look, Onlooker, entropy
from vidseg.explaining.page import LAYERS, page

SIZE = (48, 64)
PATCH = slice(8, 16), slice(40, 52)
"""What decides everything for the ``decided`` model."""


@pytest.fixture
def onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx, which makes the files, is not installed")
    from onnx import TensorProto, helper, numpy_helper

    def write(name, nodes, weights):
        ends = [
            [helper.make_tensor_value_info(end, TensorProto.FLOAT, (1, channels, *SIZE))]
            for end, channels in (("src", 3), ("pha", 1))
        ]
        constants = [numpy_helper.from_array(values, key) for key, values in weights.items()]
        made = helper.make_model(
            helper.make_graph([helper.make_node(*node[:3], **node[3]) for node in nodes], name, *ends, constants),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        onnx.checker.check_model(made)
        onnx.save(made, tmp_path / f"{name}.onnx")
        return tmp_path / f"{name}.onnx"

    return write


@pytest.fixture
def decided(onnx_file):
    """A model that says everywhere how bright the red of one place is."""
    starts = {
        "starts": np.array([0, 0, PATCH[0].start, PATCH[1].start]),
        "ends": np.array([1, 1, PATCH[0].stop, PATCH[1].stop]),
        "shape": np.array([1, 1, *SIZE]),
    }
    return onnx_file(
        "decided",
        [
            ("Slice", ["src", "starts", "ends"], ["part"], {}),
            ("ReduceMean", ["part"], ["mean"], {"axes": [1, 2, 3]}),
            ("Expand", ["mean", "shape"], ["pha"], {}),
        ],
        starts,
    )


@pytest.fixture
def red(onnx_file):
    """A model whose alpha is red."""
    weight = np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1)
    return onnx_file("red", [("Conv", ["src", "w"], ["pha"], {})], {"w": weight})


@pytest.fixture
def ramp(onnx_file):
    """A model that sees nothing and says 0 at the left and 1 at the right."""
    nothing = np.zeros((1, 3, 1, 1), np.float32)
    rising = np.broadcast_to(np.linspace(0, 1, SIZE[1], dtype=np.float32), (1, 1, *SIZE)).copy()
    nodes = [("Conv", ["src", "w"], ["none"], {}), ("Add", ["none", "rising"], ["pha"], {})]
    return onnx_file("ramp", nodes, {"w": nothing, "rising": rising})


def smooth_picture():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    red = 128 + 60 * np.sin(y / 9) * np.cos(x / 11)
    return np.dstack([red, 0 * red, 0 * red]).astype(np.uint8)


def painted():
    """A dull picture with one bright place."""
    rgb = np.full((*SIZE, 3), 60, np.uint8)
    rgb[PATCH] = (250, 60, 60)
    return rgb


# --- looks ------------------------------------------------------------------------------------------------------


def test_looks_are_undone_to_the_pixel(red):
    """Moved and mirrored answers come back where they belong: a model that looks at single pixels never disagrees."""
    onlooker = Onlooker(red)
    rgb = smooth_picture()
    opinion = onlooker.opinion(rgb, LOOKS)
    assert np.abs(opinion.first - rgb[..., 0] / 255).max() < 1e-5
    assert np.abs(opinion.alpha - opinion.first).max() < 1e-5
    assert opinion.disagreement.max() < 1e-5
    onlooker.close()


def test_disagreement_is_twice_the_deviation(ramp):
    onlooker = Onlooker(ramp)
    opinion = onlooker.opinion(smooth_picture(), [Look(), Look(mirrored=True)])
    rising = np.linspace(0, 1, SIZE[1], dtype=np.float32)
    assert np.allclose(opinion.alpha, 0.5, atol=1e-6)
    assert np.allclose(opinion.disagreement, np.abs(rising - rising[::-1]), atol=1e-5)
    assert np.allclose(opinion.confidence, 0, atol=1e-5)
    assert np.allclose(opinion.entropy, 1, atol=1e-5)
    assert np.allclose(opinion.uncertainty, 1, atol=1e-5)
    onlooker.close()


def test_what_a_shift_hides_is_no_disagreement(ramp):
    """The ramp moves with the shift, but where the picture was pushed out of view the plain look stands."""
    onlooker = Onlooker(ramp)
    share = 4 / SIZE[1]
    opinion = onlooker.opinion(smooth_picture(), [Look(), Look(shift=(0.0, share))])
    step = 4 / (SIZE[1] - 1)
    assert np.allclose(opinion.disagreement[:, :-4], step, atol=1e-5)
    assert np.allclose(opinion.disagreement[:, -4:], 0, atol=1e-5)
    onlooker.close()


def test_entropy():
    assert np.allclose(entropy(np.float32([0, 0.11, 0.5, 0.89, 1])), [0, 0.49992, 1, 0.49992, 0], atol=1e-4)


# --- evidence ---------------------------------------------------------------------------------------------------


def test_occlusion_finds_the_place_that_decides(decided):
    onlooker = Onlooker(decided)
    rgb = painted()
    src = onlooker.input(rgb, SIZE)
    target, name = target_of(onlooker.alphas(src[None])[0])
    assert name == "the person"
    assert target.all()
    found = occlusion(onlooker.alphas, src, target, patch=12, stride=4)
    y, x = np.unravel_index(found.argmax(), SIZE)
    assert PATCH[0].start <= y < PATCH[0].stop
    assert PATCH[1].start <= x < PATCH[1].stop
    assert found[PATCH].mean() > 0.1
    far = np.ones(SIZE, bool)
    far[: PATCH[0].stop + 12, PATCH[1].start - 12 : PATCH[1].stop + 12] = False
    assert np.abs(found[far]).max() < 1e-6
    onlooker.close()


def test_evidence_against_is_negative(decided):
    """A dark spot in the place that decides: without it there would be more alpha."""
    onlooker = Onlooker(decided)
    rgb = np.full((*SIZE, 3), 200, np.uint8)
    rgb[PATCH] = (140, 200, 200)
    src = onlooker.input(rgb, SIZE)
    found = occlusion(onlooker.alphas, src, np.ones(SIZE, bool), patch=12, stride=4)
    assert found.min() < -0.05
    assert found[PATCH].mean() < 0
    onlooker.close()


def test_what_is_covered_does_not_count(red):
    """A model of single pixels hangs on no other place: beside the patch nothing changes."""
    onlooker = Onlooker(red)
    src = onlooker.input(smooth_picture(), SIZE)
    assert np.abs(occlusion(onlooker.alphas, src, np.ones(SIZE, bool), patch=8, stride=4)).max() < 1e-6
    onlooker.close()


def test_targets():
    alpha = np.zeros((40, 60), np.float32)
    assert target_of(alpha)[0].all()
    assert "nobody" in target_of(alpha)[1]
    alpha[10:20, 5:15] = 0.9
    person, name = target_of(alpha)
    assert name == "the person"
    assert person.sum() == 100
    point, name = target_of(alpha, (0.5, 0.25))
    assert name == "the chosen point"
    assert point[10, 30]
    assert 4 <= point.sum() <= 12


def test_gradcam_is_the_weighted_sum_of_the_coarsest_features(tmp_path):
    torch = pytest.importorskip("torch", reason="Grad-CAM needs vidseg[torch]: torch is not installed")
    pytest.importorskip("safetensors", reason="Grad-CAM needs vidseg[torch]: safetensors is not installed")
    import hashlib

    from vidseg.explaining.gradcam import GradCam
    from vidseg.networks import Weights, write_weights
    from vidseg.testing import ConstantEngine
    from vidseg.unet import UNet

    torch.manual_seed(1)
    architecture = {"kind": "unet", "channels": [4, 8, 8], "head": 4}
    net = UNet([4, 8, 8], 4).eval()
    path = tmp_path / "weights.safetensors"
    write_weights(path, Weights(architecture, net.state_dict()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    spec = replace(
        ConstantEngine().spec,
        name="tiny",
        folder=tmp_path,
        files={"weights": path.name},
        sha256={path.name: digest},
        architecture=architecture,
    )
    src = np.random.default_rng(0).standard_normal((3, 32, 64)).astype(np.float32)
    target = np.zeros((32, 64), bool)
    target[4:20, 8:30] = True
    found = GradCam(spec)(src, target)

    x = torch.from_numpy(src)[None]
    fine = [net.stem(x)]
    for stage in net.encoder:
        fine.append(stage(fine[-1]))
    features = net.bottom(fine.pop()).detach()

    def answer(features):
        y = features
        for stage in net.decoder:
            y = stage(torch.cat([torch.nn.functional.interpolate(y, scale_factor=2.0), rest.pop()], 1))
        logits = torch.nn.functional.pixel_shuffle(net.out(net.head(y)), 2)
        return logits[0, 0][torch.from_numpy(target)].mean()

    rest = list(fine)
    gradient = torch.autograd.functional.jacobian(answer, features)
    coarse = (gradient.mean((2, 3), keepdim=True) * features).sum(1)[0].relu().numpy()
    assert coarse.max() > 0
    blocks = found.reshape(4, 8, 8, 8).mean((1, 3))
    assert np.corrcoef(blocks.ravel(), coarse.ravel())[0, 1] > 0.95
    assert 0 <= found.min() <= found.max() <= 1


# --- pictures and the page --------------------------------------------------------------------------------------


def made(onlooker, rgb, time=0.0):
    opinion = onlooker.opinion(rgb)
    pixels, target = target_of(opinion.first)
    values = occlusion(onlooker.alphas, onlooker.input(rgb, SIZE), pixels, patch=12, stride=6)
    written = np.rint(opinion.alpha * 255).astype(np.uint8)
    return Explanation(rgb, opinion, Evidence(values, target, pixels, "occlusion", time), written, time)


def test_maps_have_their_colours():
    values = np.float32([[-1, 0, 1]])
    rgba = colours(values, "evidence")
    assert rgba[0, 1, 3] == 0
    assert rgba[0, 0, 3] == rgba[0, 2, 3] == 217
    assert rgba[0, 0, 2] > rgba[0, 0, 0]  # blue against
    assert rgba[0, 2, 0] > rgba[0, 2, 2]  # orange for
    assert colours(np.float32([[0]]), "uncertainty")[0, 0, 3] == 0


def test_the_outline_runs_where_alpha_is_half():
    alpha = np.zeros((40, 60), np.uint8)
    alpha[10:30, 20:40] = 255
    line = outline(alpha, (40, 60))
    assert line[10, 30, 3] > 180
    assert line[20, 30, 3] == 0
    assert line[3, 3, 3] == 0


def test_the_sheet_is_even_and_of_one_width(decided):
    onlooker = Onlooker(decided)
    pixels = sheet(made(onlooker, painted()), 100)
    assert pixels.dtype == np.uint8
    assert pixels.shape[0] % 2 == pixels.shape[1] % 2 == 0
    assert pixels.shape[1] == 2 * 100 + 4
    onlooker.close()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_refers_to_nothing_outside(decided):
    onlooker = Onlooker(decided)
    text = page('<script>alert("x")</script>.png', {"Model": "a & b"}, [made(onlooker, painted())])
    onlooker.close()
    assert "<script>alert" not in text
    assert "a &amp; b" in text
    tags = Tags()
    tags.feed(text)
    for tag, attributes in tags.found:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "action", "srcset", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    policy = next(a["content"] for t, a in tags.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:")


def test_the_page_can_be_used_by_keyboard_and_read_aloud(decided):
    onlooker = Onlooker(decided)
    text = page("a.png", {}, [made(onlooker, painted())])
    onlooker.close()
    tags = Tags()
    tags.feed(text)
    radios = [a for t, a in tags.found if t == "input" and a.get("type") == "radio"]
    assert [a["value"] for a in radios] == list(LAYERS)
    assert sum("checked" in a for a in radios) == 1
    images = [a for t, a in tags.found if t == "img"]
    assert len(images) == 2 + len(LAYERS) - 1
    assert all("alt" in a for a in images)
    assert {t for t, _ in tags.found} >= {"main", "h1", "fieldset", "legend", "figure", "table"}
    assert dict(tags.found)["html"]["lang"] == "en"
    assert "prefers-color-scheme:dark" in text


def test_a_page_of_a_clip_says_when(decided):
    onlooker = Onlooker(decided)
    text = page("a.mp4", {}, [made(onlooker, painted(), 0.5), made(onlooker, painted(), 2.25)])
    onlooker.close()
    assert text.count("<figcaption>") == 2
    assert "0.50 s" in text
    assert "2.25 s" in text


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.repeat(np.repeat(painted(), 4, 0), 4, 1)).save(path)
    return path


def told(capsys):
    return json.loads(capsys.readouterr().out)


def test_a_page_beside_the_picture(photo, decided, capsys):
    assert main(["explain", str(photo), "--model", str(decided), "--json", "-q"]) == 0
    said = told(capsys)
    assert said["output"] == str(photo.with_name("photo.explained.html"))
    assert photo.with_name("photo.explained.html").read_text("utf-8").startswith("<!doctype html>")
    (moment,) = said["moments"]
    assert moment["person"] == 1.0
    assert 0.6 < moment["strongest_x"] < 0.85
    assert 0.1 < moment["strongest_y"] < 0.4
    assert (said["width"], said["height"]) == (256, 192)
    assert sorted(p.name for p in photo.parent.iterdir()) == ["decided.onnx", "photo.explained.html", "photo.png"]


def test_a_picture_of_a_picture(photo, decided, tmp_path):
    out = tmp_path / "why.png"
    assert main(["explain", str(photo), str(out), "--model", str(decided), "-q", "--at", "200,50"]) == 0
    with Image.open(out) as image:
        assert image.size == (2 * 256 + 4, 2 * (192 + 26))


def test_a_video_of_a_video(tmp_path, decided):
    source = clip(tmp_path / "in.mp4", 9)
    out = tmp_path / "why.mkv"
    assert main(["explain", str(source), str(out), "--model", str(decided), "-q", "--every", "0.2"]) == 0
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["decided.onnx", "in.mp4", "why.mkv"]


def test_a_page_of_a_video(tmp_path, decided, capsys):
    source = clip(tmp_path / "in.mp4", 30)
    arguments = ["explain", str(source), str(tmp_path / "why.html"), "--model", str(decided), "--every", "0"]
    assert main([*arguments, "--json", "-q"]) == 0
    moments = told(capsys)["moments"]
    assert 6 < len(moments) <= 12
    times = [one["time"] for one in moments]
    assert times == sorted(times)
    assert times[-1] > 0.75


@pytest.mark.parametrize(
    ("output", "more", "words"),
    [
        ("why.mp4", [], "is one picture"),
        ("why.txt", [], "name an .html"),
        ("none/why.html", [], "does not exist"),
        ("photo.png", ["--overwrite"], "is the input"),
        ("there.html", [], "--overwrite"),
        ("why.html", ["--at", "9999,5"], "256x192"),
        ("why.html", ["--method", "gradcam"], "--method occlusion"),
    ],
)
def test_what_cannot_be_done_is_said(photo, decided, tmp_path, capsys, output, more, words):
    (tmp_path / "there.html").write_text("mine")
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main(["explain", str(photo), str(tmp_path / output), "--model", str(decided), *more]) == 1
    assert words in capsys.readouterr().err
    assert (tmp_path / "there.html").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_point_must_be_a_point(photo, capsys):
    assert main(["explain", str(photo), "--at", "here"]) == 2
    assert "320,240" in capsys.readouterr().err


def test_an_error_leaves_no_half_video(tmp_path, decided, monkeypatch):
    from vidseg.explaining import job

    source = clip(tmp_path / "in.mp4", 9)
    calls = []

    def breaks(*arguments, **options):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return sheet(*arguments, **options)

    monkeypatch.setattr(job, "sheet", breaks)
    with pytest.raises(KeyboardInterrupt):
        job.explain(str(source), str(tmp_path / "why.mp4"), model=decided)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["decided.onnx", "in.mp4"]
