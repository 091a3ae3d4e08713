"""Somebody's own ONNX file: small graphs of every form that fits, and of some that do not."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vidseg.engine import load_spec, open_engine
from vidseg.errors import EngineError, ModelMismatchError
from vidseg.foreign import KEYS
from vidseg.frame import Frame
from vidseg.segmenter import Segmenter

onnx = pytest.importorskip("onnx", reason="onnx, which makes the files, is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CLIPS = Path(__file__).parent.parent.parent / "shared" / "data" / "clips"
MODELS = CLIPS.parent / "models"
RUNTIMES = pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
FLOAT = TensorProto.FLOAT


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def write(path, nodes, inputs, outputs, weights=(), metadata=None):
    """Write a graph; inputs and outputs are ``name=shape``."""
    ends = [
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in values.items()]
        for values in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "graph", *ends, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def grey(path, layout="NCHW", size=("H", "W"), after=(), channels=1, metadata=None, scale=1 / 3):
    """A network whose answer is ``scale`` times red plus green plus blue; the more channels, the less of it."""
    weight = np.full((channels, 3, 1, 1), scale) / np.arange(1, channels + 1).reshape(-1, 1, 1, 1)
    nodes, name = [], "picture"
    last = layout == "NHWC"
    if last:
        nodes.append(helper.make_node("Transpose", [name], ["first"], perm=[0, 3, 1, 2]))
        name = "first"
    nodes.append(helper.make_node("Conv", [name, "weight"], ["conv"]))
    name = "conv"
    for operator in after:
        nodes.append(helper.make_node(operator, [name], [operator]))
        name = operator
    nodes.append(
        helper.make_node("Transpose", [name], ["out"], perm=[0, 2, 3, 1])
        if last
        else helper.make_node("Identity", [name], ["out"])
    )
    shapes = [(1, *size, c) if last else (1, c, *size) for c in (3, channels)]
    return write(
        path,
        nodes,
        {"picture": (FLOAT, shapes[0])},
        {"out": (FLOAT, shapes[1])},
        [constant("weight", weight)],
        metadata,
    )


def opened(path, runtime, **options):
    pytest.importorskip(runtime)
    return open_engine(path, runtime, threads=1, **options)


def pictures(size, count=2):
    return np.random.default_rng(0).uniform(0, 1, (count, 3, *size)).astype(np.float32)


@RUNTIMES
class TestForms:
    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    @pytest.mark.parametrize("fixed", [True, False])
    def test_layouts_and_sizes(self, runtime, layout, fixed, tmp_path):
        path = grey(tmp_path / "net.onnx", layout, (32, 48) if fixed else ("h", "w"))
        spec = load_spec(path)
        assert (spec.name, spec.mean, spec.std) == ("net", (0, 0, 0), (1, 1, 1))
        assert spec.sizes[0] == ((32, 48) if fixed else (288, 512))
        engine = opened(path, runtime, size=(32, 48) if fixed else (64, 32))
        src = pictures(engine.size)
        alpha, state = engine.infer(src)
        assert state == ()
        np.testing.assert_allclose(alpha, src.mean(1), atol=1e-5)
        if fixed:
            with pytest.raises(ValueError, match=r"takes \(32, 48\) and nothing else"):
                open_engine(path, runtime, (64, 32))

    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    def test_logits_get_a_sigmoid(self, runtime, layout, tmp_path, caplog):
        engine = opened(grey(tmp_path / "net.onnx", layout, (32, 32), scale=-9), runtime)
        assert "a sigmoid is put behind it" in caplog.text
        src = pictures((32, 32))
        np.testing.assert_allclose(engine.infer(src)[0], 1 / (1 + np.exp(9 * src.sum(1))), atol=1e-5)

    def test_a_sigmoid_that_is_there_is_enough(self, runtime, tmp_path, caplog):
        engine = opened(grey(tmp_path / "net.onnx", size=(32, 32), after=["Sigmoid"], scale=2), runtime)
        assert not caplog.text
        src = pictures((32, 32))
        np.testing.assert_allclose(engine.infer(src)[0], 1 / (1 + np.exp(-2 * src.sum(1))), atol=1e-5)

    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    def test_classes(self, runtime, layout, tmp_path):
        classes = {"classes": json.dumps(["room", "person", "chair"])}
        path = grey(tmp_path / "net.onnx", layout, (32, 32), channels=3, metadata=classes, scale=5)
        src = pictures((32, 32))
        logits = np.stack([5 * src.sum(1) / k for k in (1, 2, 3)])
        shares = np.exp(logits) / np.exp(logits).sum(0)
        np.testing.assert_allclose(opened(path, runtime).infer(src)[0], shares[1], atol=1e-5)
        both = opened(path, runtime, keep=("chair", "person"))
        np.testing.assert_allclose(both.infer(src)[0], shares[1] + shares[2], atol=1e-5)
        with pytest.raises(ValueError, match="does not know cat: choose of room, person, chair"):
            open_engine(path, runtime, keep=("cat",))

    def test_recurrent(self, runtime, tmp_path):
        """Each frame is averaged with the mean so far; the state begins as one zero, as RobustVideoMatting's."""
        nodes = [
            helper.make_node("Conv", ["src", "third"], ["now"]),
            helper.make_node("Mul", ["now", "zero"], ["nothing"]),
            helper.make_node("Add", ["r1i", "nothing"], ["before"]),
            helper.make_node("Add", ["now", "before"], ["sum"]),
            helper.make_node("Mul", ["sum", "downsample_ratio"], ["r1o"]),
            helper.make_node("Identity", ["r1o"], ["pha"]),
            helper.make_node("Identity", ["src"], ["fgr"]),
        ]
        free = (FLOAT, ("n", "c", "h1", "w1"))
        picture = (FLOAT, ("n", 3, "h", "w"))
        path = write(
            tmp_path / "net.onnx",
            nodes,
            {"src": picture, "r1i": free, "downsample_ratio": (FLOAT, (1,))},
            {"fgr": picture, "pha": (FLOAT, ("n", 1, "h", "w")), "r1o": (FLOAT, ("n", 1, "a", "b"))},
            [constant("third", np.full((1, 3, 1, 1), 0.2)), constant("zero", 0)],
        )
        engine = opened(path, runtime, size=(32, 64))
        src, state, expected = pictures((32, 64)), (), 0
        for _ in range(4):
            alpha, state = engine.infer(src, state)
            expected = 0.6 * (0.2 * src.sum(1) + expected)
            np.testing.assert_allclose(alpha, expected, atol=1e-5)
        assert [part.shape for part in state] == [(2, 1, 32, 64)]


class TestNotes:
    def test_a_manifest_of_that_file_comes_before_one_of_the_folder(self, tmp_path):
        (tmp_path / "manifest.toml").write_text('name = "folder"')
        (tmp_path / "net.toml").write_text('name = "file"')
        assert load_spec(grey(tmp_path / "net.onnx")).name == "file"
        assert load_spec(grey(tmp_path / "other.onnx")).name == "folder"

    @pytest.mark.parametrize(
        ("told", "mean", "std"),
        [
            ("range = [0, 255]", (0, 0, 0), (1 / 255,) * 3),
            ("range = [-1, 1]", (0.5,) * 3, (0.5,) * 3),
            ("range = [0, 255]\nmean = [127.5, 102, 51]\nstd = [51, 51, 51]", (0.5, 0.4, 0.2), (0.2,) * 3),
        ],
    )
    def test_range_and_mean(self, told, mean, std, tmp_path):
        (tmp_path / "net.toml").write_text(told)
        spec = load_spec(grey(tmp_path / "net.onnx"))
        np.testing.assert_allclose(spec.mean, mean, atol=1e-6)
        np.testing.assert_allclose(spec.std, std, atol=1e-6)

    def test_the_right_checksum(self, tmp_path):
        path = grey(tmp_path / "net.onnx")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (tmp_path / "net.toml").write_text(f'sha256 = "{digest.upper()}"')
        assert load_spec(path).sha256 == {"net.onnx": digest}

    def test_another_checksum(self, tmp_path):
        (tmp_path / "net.toml").write_text(f'sha256 = "{"0" * 64}"')
        with pytest.raises(ModelMismatchError, match=r"net\.onnx is not the file that .*net\.toml describes"):
            load_spec(grey(tmp_path / "net.onnx"))

    @pytest.mark.parametrize(
        ("told", "match"),
        [
            ("mean = [1]", "mean should be 3 numbers"),
            ("mean = ['a', 'b', 'c']", "mean should be 3 numbers"),
            ("mean = [nan, 0, 0]", "mean should be 3 numbers"),
            ("std = [1, 0, 1]", "std should be more than 0"),
            ("range = [1, 0]", "range should rise"),
            ("layout = 'NHCW'", "layout should be one of NCHW, NHWC"),
            ("layout = 'NHWC'", r"3 channels should go in, but picture is float32 \[1, 3, H, W\] \(NHWC\)"),
            ("order = 'GBR'", "order should be one of RGB, BGR"),
            ("activation = 'relu'", "activation should be one of none, sigmoid, softmax"),
            ("multiple = 0", "multiple should be a whole number"),
            ("sizes = [[30, 32]]", "sizes should be pairs of height and width that are multiples of 32"),
            ("sizes = []", "sizes should be pairs"),
            ("sizes = [[1048576, 1048576]]", "sizes should be pairs"),
            ("input = 'src'", "it has no input 'src' that could take a picture: it takes picture float32"),
            ("output = 'alpha'", "it has no output 'alpha'"),
            ("classes = ['person']", "two or more different names"),
            ("classes = [1, 2]", "classes should be names"),
            ("scalars = 1", "scalars should be a table"),
            ("scalars = {ratio = 1}", "it has no input 'ratio'"),
            ("scalars = {picture = 1}", "the scalar picture should be one float32"),
            ("states = [{input = 'h', output = 'out'}]", "it has no 'h' or no 'out'"),
            ("sha256 = 1", "sha256 should be a checksum"),
            ("men = [0, 0, 0]", r"net\.toml says men, which no manifest"),
            ("mean = [0, 0", r"net\.toml is not TOML"),
        ],
    )
    def test_what_no_manifest_says(self, told, match, tmp_path):
        (tmp_path / "net.toml").write_text(told)
        with pytest.raises(EngineError, match=match) as caught:
            load_spec(grey(tmp_path / "net.onnx"))
        assert "\n" not in str(caught.value)
        assert str(tmp_path / "net.") in str(caught.value)

    def test_metadata(self, tmp_path):
        notes = {"mean": "[0.4, 0.5, 0.6]", "std": "[0.2, 0.2, 0.2]", "sizes": "[[64, 96]]"}
        spec = load_spec(grey(tmp_path / "net.onnx", metadata=notes))
        assert (spec.mean, spec.std, spec.sizes) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.2), ((64, 96),))

    def test_a_manifest_beside_it_has_the_last_word(self, tmp_path):
        (tmp_path / "manifest.toml").write_text('name = "mine"\nmean = [1, 2, 3]\nlicence = "MIT"\n')
        spec = load_spec(grey(tmp_path / "net.onnx", metadata={"mean": "[0, 0, 0]", "std": "[4, 4, 4]"}))
        assert (spec.name, spec.mean, spec.std, spec.licence) == ("mine", (1, 2, 3), (4, 4, 4), "MIT")

    def test_a_file_of_a_shipped_model(self):
        folder = load_spec().folder
        spec = load_spec(folder / "model-int8.onnx")
        assert spec.name == "unet-s/model-int8.onnx"
        assert spec.files == {"onnx-int8": "model-int8.onnx"}
        assert (spec.mean, spec.sizes) == (load_spec().mean, load_spec().sizes)


class TestErrors:
    """One sentence each, and the file in it."""

    def refused(self, path, match):
        with pytest.raises(EngineError, match=match) as caught:
            load_spec(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_file(self, tmp_path):
        self.refused(tmp_path / "none.onnx", "cannot be read")

    @pytest.mark.parametrize("data", [b"", b"hello there", b"\x3a\xff\xff\xff\xff", bytes(64), b"\x89PNG\r\n\x1a\n"])
    def test_no_onnx(self, data, tmp_path):
        (tmp_path / "net.onnx").write_bytes(data)
        self.refused(tmp_path / "net.onnx", "is not an ONNX file")

    def test_cut_short(self, tmp_path):
        data = grey(tmp_path / "net.onnx").read_bytes()
        for length in range(0, len(data), 7):
            (tmp_path / "net.onnx").write_bytes(data[:length])
            with pytest.raises(EngineError, match=r"net\.onnx is not"):
                load_spec(tmp_path / "net.onnx")

    def test_two_pictures(self, tmp_path):
        ends = {"a": (FLOAT, (1, 3, 8, 8)), "b": (FLOAT, (1, 3, 8, 8))}
        path = write(
            tmp_path / "net.onnx", [helper.make_node("Add", ["a", "b"], ["out"])], ends, {"out": (FLOAT, (1, 3, 8, 8))}
        )
        self.refused(path, r"one picture of 3 channels should go in, but it takes a float32 \[1, 3, 8, 8\], b")

    def test_bytes_go_in(self, tmp_path):
        node = helper.make_node("Cast", ["a"], ["out"], to=FLOAT)
        ends = {"a": (TensorProto.UINT8, (1, 3, 8, 8))}
        self.refused(write(tmp_path / "net.onnx", [node], ends, {"out": (FLOAT, (1, 3, 8, 8))}), "float32")

    def test_classes_without_names(self, tmp_path):
        self.refused(
            grey(tmp_path / "net.onnx", channels=4), r"1 channels of float32.*out float32 \[1, 4, H, W\]; if these are"
        )

    def test_notes_that_are_none(self, tmp_path):
        self.refused(grey(tmp_path / "net.onnx", metadata={"mean": "grey"}), "metadata mean = 'grey' is not JSON")
        self.refused(grey(tmp_path / "net.onnx", metadata={"mean": "[1]"}), "not a network that vidseg can use")

    @RUNTIMES
    def test_an_alpha_of_another_size(self, runtime, tmp_path):
        node = helper.make_node("AveragePool", ["a"], ["out"], kernel_shape=[2, 2], strides=[2, 2])
        slices = helper.make_node("ReduceMean", ["out"], ["grey"], axes=[1])
        path = write(
            tmp_path / "net.onnx",
            [node, slices],
            {"a": (FLOAT, (1, 3, 8, 8))},
            {"grey": (FLOAT, (1, 1, 4, 4))},
        )
        with pytest.raises(EngineError, match="does not return 1 times 8x8 numbers"):
            opened(path, runtime)


@RUNTIMES
@pytest.mark.parametrize("name", ["mediapipe_selfie_256", "rvm_mobilenetv3"])
def test_networks_of_others_on_a_real_clip(runtime, name, tmp_path):
    """Their alpha has the person in it, and the same person on both runtimes."""
    pytest.importorskip(runtime)
    clip, model = CLIPS / "webcam-hands-1280x720.mp4", MODELS / f"{name}.onnx"
    if not (clip.is_file() and model.is_file()):
        pytest.skip("needs the clips and models in ../shared/data")
    from vidseg.sources import open_source

    segmenter = Segmenter(str(model), runtime, threads=1)
    with open_source(str(clip)) as source:
        frames = [frame for frame, _ in zip(source, range(6), strict=False)]
    alphas = [segmenter([frame])[0].alpha for frame in frames]
    shares = [float((alpha > 0.5).mean()) for alpha in alphas]
    assert 0.15 < min(shares) <= max(shares) < 0.6
    assert all(np.abs(a - b).mean() < 0.03 for a, b in pairwise(alphas))


@RUNTIMES
class TestManifests:
    """What a graph cannot tell, told."""

    def test_blue_first(self, runtime, tmp_path):
        """The network's answer is its first channel."""
        weight = np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1)
        node = helper.make_node("Conv", ["x", "weight"], ["y"])
        ends = {"x": (FLOAT, (1, 3, 8, 8))}, {"y": (FLOAT, (1, 1, 8, 8))}
        path = write(tmp_path / "net.onnx", [node], *ends, [constant("weight", weight)])
        src = pictures((8, 8))
        np.testing.assert_allclose(opened(path, runtime).infer(src)[0], src[:, 0], atol=1e-6)
        (tmp_path / "net.toml").write_text("order = 'bgr'")
        np.testing.assert_allclose(opened(path, runtime).infer(src)[0], src[:, 2], atol=1e-6)

    def test_half_precision(self, runtime, tmp_path):
        half = TensorProto.FLOAT16
        weight = numpy_helper.from_array(np.full((1, 3, 1, 1), 0.25, np.float16), "weight")
        node = helper.make_node("Conv", ["x", "weight"], ["y"])
        ends = {"x": (half, (1, 3, 8, 8))}, {"y": (half, (1, 1, 8, 8))}
        engine = opened(write(tmp_path / "net.onnx", [node], *ends, [weight]), runtime)
        src = pictures((8, 8))
        alpha, _ = engine.infer(src)
        assert alpha.dtype == np.float32
        np.testing.assert_allclose(alpha, src.sum(1) / 4, atol=2e-3)  # 11 bits

    def test_states_and_scalars_of_any_name(self, runtime, tmp_path):
        """Each frame is averaged with a half-size memory; how much the new one counts is an integer's share of 10."""
        nodes = [
            helper.make_node("Conv", ["frame", "third"], ["now"]),
            helper.make_node("AveragePool", ["now"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Cast", ["tenths"], ["count"], to=FLOAT),
            helper.make_node("Mul", ["count", "tenth"], ["share"]),
            helper.make_node("Mul", ["small", "share"], ["new"]),
            helper.make_node("Add", ["memory", "new"], ["kept"]),
            helper.make_node("Identity", ["now"], ["person"]),
        ]
        path = write(
            tmp_path / "net.onnx",
            nodes,
            {
                "memory": (FLOAT, (1, 1, "mh", "mw")),
                "frame": (FLOAT, (1, 3, "h", "w")),
                "tenths": (TensorProto.INT64, ()),
            },
            {"kept": (FLOAT, (1, 1, "kh", "kw")), "person": (FLOAT, (1, 1, "h", "w"))},
            [constant("third", np.full((1, 3, 1, 1), 1 / 3)), constant("tenth", 0.1)],
        )
        with pytest.raises(EngineError, match="one picture of 3 channels should go in, but it takes memory"):
            load_spec(path)
        (tmp_path / "net.toml").write_text(
            "states = [{input = 'memory', output = 'kept', channels = 1, stride = 2}]\n"
            "scalars = {tenths = 3}\noutput = 'person'\nmultiple = 2\nactivation = 'none'\n"
        )
        engine = opened(path, runtime, size=(8, 16))
        src, state, expected = pictures((8, 16)), (), 0
        for _ in range(3):
            alpha, state = engine.infer(src, state)
            np.testing.assert_allclose(alpha, src.mean(1), atol=1e-6)
            expected = expected + 0.3 * src.mean(1).reshape(2, 4, 2, 8, 2).mean((2, 4))
            np.testing.assert_allclose(state[0][:, 0], expected, atol=1e-6)

    def test_the_state_is_forgotten_at_a_cut_and_another_size(self, runtime, tmp_path):
        """The network's answer is how many frames it remembers, divided by 100."""
        pytest.importorskip(runtime)
        nodes = [
            helper.make_node("Conv", ["src", "nought"], ["nothing"]),
            helper.make_node("Add", ["r1i", "hundredth"], ["more"]),
            helper.make_node("Add", ["nothing", "more"], ["r1o"]),
            helper.make_node("Identity", ["r1o"], ["pha"]),
        ]
        path = write(
            tmp_path / "net.onnx",
            nodes,
            {"src": (FLOAT, ("n", 3, "h", "w")), "r1i": (FLOAT, ("n", 1, "h1", "w1"))},
            {"pha": (FLOAT, ("n", 1, "h", "w")), "r1o": (FLOAT, ("n", 1, "a", "b"))},
            [constant("nought", np.zeros((1, 3, 1, 1))), constant("hundredth", 0.01)],
        )
        (tmp_path / "net.toml").write_text("sizes = [[32, 32]]\nactivation = 'none'")
        one, other = (np.random.default_rng(seed).integers(16, 235, (8, 8), np.uint8) for seed in (1, 2))
        clip = [(one, 1), (one, 1), (one, 1), (other, 1), (other, 1), (other, 2), (other, 2)]
        with Segmenter(str(path), runtime, threads=1) as segmenter:
            seen = []
            for time, (picture, scale) in enumerate(clip):
                y = np.kron(picture, np.ones((8 * scale, 8 * scale), np.uint8))
                grey = np.full((y.shape[0] // 2, y.shape[1] // 2), 128, np.uint8)
                [matte] = segmenter([Frame((y, grey, grey), time, Fraction(1, 30))])
                seen.append(round(100 * float(matte.alpha.mean())))
        assert seen == [1, 2, 3, 1, 2, 1, 2]


def test_the_documentation_has_every_key():
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text("utf-8")
    assert tomllib.loads(page.partition("```toml\n")[2].partition("```")[0]).keys() == KEYS


class TestWeightsInOtherFiles:
    """They are read from the folder of the model and from nowhere else, and no runtime is given a path."""

    def scattered(self, folder, location, weights=None, name="net.onnx"):
        """Write a network whose answer is a third of red, green and blue, with the weights at ``location``."""
        folder.mkdir(exist_ok=True)
        path = grey(folder / name, size=(16, 16))
        model = onnx.load(path)
        (tensor,) = model.graph.initializer
        data = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "4", "length": str(len(data))}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        onnx.save(model, path)
        if weights is not None:
            weights.parent.mkdir(exist_ok=True)
            weights.write_bytes(b"here" + data)
        return path

    @RUNTIMES
    @pytest.mark.parametrize("location", ["net.data", "sub/net.data", "sub/../net.data"])
    def test_inside(self, runtime, location, tmp_path):
        (tmp_path / "sub").mkdir()
        path = self.scattered(tmp_path, location, tmp_path / location)
        src = pictures((16, 16))
        np.testing.assert_allclose(opened(path, runtime).infer(src)[0], src.mean(1), atol=1e-6)

    @pytest.mark.parametrize("runtime", ["auto", "openvino", "onnxruntime"])
    @pytest.mark.parametrize("way", ["above", "absolute", "link", "linked folder"])
    def test_outside(self, way, runtime, tmp_path):
        folder, secret = tmp_path / "model", tmp_path / "secret"
        location = {"above": "../secret", "absolute": str(secret), "link": "net.data"}.get(way, "linked/secret")
        path = self.scattered(folder, location, secret)
        if way == "link":
            (folder / "net.data").symlink_to(secret)
        elif way == "linked folder":
            (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
        with pytest.raises(EngineError, match=r"net\.onnx .*outside its own folder") as caught:
            open_engine(path, runtime)
        assert "\n" not in str(caught.value)

    def test_outside_by_a_manifest_of_a_folder(self, tmp_path):
        """What a folder with a manifest names is held to the same."""
        path = self.scattered(tmp_path / "model", "../secret", tmp_path / "secret")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (path.parent / "manifest.toml").write_text(
            "name = 'mine'\nmean = [0, 0, 0]\nstd = [1, 1, 1]\nmultiple = 1\nsizes = [[16, 16]]\nlicence = ''\n"
            "summary = ''\narchitecture = {}\nfiles = {onnx-fp32 = 'net.onnx'}\n"
            f"sha256 = {{'net.onnx' = '{digest}'}}\n"
        )
        with pytest.raises(EngineError, match="outside its own folder"):
            open_engine(path.parent, "onnxruntime")

    @pytest.mark.parametrize("place", ["attribute", "subgraph", "function", "sparse"])
    def test_outside_from_deep_within(self, place, tmp_path):
        """Weights hide in more places than the list of weights."""
        (tmp_path / "secret").write_bytes(bytes(64))
        model = onnx.load(grey(tmp_path / "net.onnx", size=(16, 16)))
        hidden = TensorProto(dims=[1], data_type=FLOAT, name="hidden", data_location=TensorProto.EXTERNAL)
        entry = hidden.external_data.add()
        entry.key, entry.value = "location", "../secret"
        node = helper.make_node("Constant", [], ["c"])
        node.attribute.append(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=hidden))
        if place == "attribute":
            model.graph.node.append(node)
        elif place == "subgraph":
            branch = helper.make_graph([node], "branch", [], [])
            model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))
        elif place == "function":
            model.functions.append(helper.make_function("own", "f", [], ["c"], [node], [helper.make_opsetid("", 17)]))
        else:
            model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=hidden, dims=[1]))
        folder = tmp_path / "model"
        folder.mkdir()
        onnx.save(model, folder / "net.onnx")
        with pytest.raises(EngineError, match="outside its own folder"):
            load_spec(folder / "net.onnx")

    @pytest.mark.parametrize("location", ["", "none", "sub", "*/_ORT_MEM_ADDR_/*", "net\0.data"])
    def test_nothing_there(self, location, tmp_path):
        (tmp_path / "sub").mkdir()
        with pytest.raises(
            EngineError, match=r"net\.onnx is not a network that vidseg can use: its weights lie|which file"
        ):
            load_spec(self.scattered(tmp_path, location))

    def test_too_short(self, tmp_path):
        path = self.scattered(tmp_path, "net.data", tmp_path / "net.data")
        (tmp_path / "net.data").write_bytes(b"here")
        with pytest.raises(EngineError, match="is too short"):
            load_spec(path)

    def test_a_fifo_is_no_file(self, tmp_path):
        os.mkfifo(tmp_path / "net.data")
        with pytest.raises(EngineError, match="is not beside it"):
            load_spec(self.scattered(tmp_path, "net.data"))

    def test_their_checksum(self, tmp_path):
        path = self.scattered(tmp_path, "net.data", tmp_path / "net.data")
        digest = hashlib.sha256((tmp_path / "net.data").read_bytes()).hexdigest()
        (tmp_path / "net.toml").write_text(f"sha256 = {{'net.data' = '{digest}'}}")
        load_spec(path)
        (tmp_path / "net.toml").write_text(f"sha256 = {{'net.data' = '{'0' * 64}'}}")
        with pytest.raises(EngineError, match=r"'net\.data', which holds its weights, is not the file"):
            load_spec(path)
