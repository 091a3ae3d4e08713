"""Somebody's own ONNX file: small graphs of every form that fits, and of some that do not."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vidseg.engine import load_spec, open_engine
from vidseg.errors import EngineError

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
        self.refused(path, r"one picture of 3 channels should go in, but it takes a \[1, 3, 8, 8\], b")

    def test_bytes_go_in(self, tmp_path):
        node = helper.make_node("Cast", ["a"], ["out"], to=FLOAT)
        ends = {"a": (TensorProto.UINT8, (1, 3, 8, 8))}
        self.refused(write(tmp_path / "net.onnx", [node], ends, {"out": (FLOAT, (1, 3, 8, 8))}), "float32")

    def test_classes_without_names(self, tmp_path):
        self.refused(
            grey(tmp_path / "net.onnx", channels=4), r"1 channels of float32.*out \[1, 4, H, W\]; if these are"
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
    from vidseg.segmenter import Segmenter
    from vidseg.sources import open_source

    segmenter = Segmenter(str(model), runtime, threads=1)
    with open_source(str(clip)) as source:
        frames = [frame for frame, _ in zip(source, range(6), strict=False)]
    alphas = [segmenter([frame])[0].alpha for frame in frames]
    shares = [float((alpha > 0.5).mean()) for alpha in alphas]
    assert 0.15 < min(shares) <= max(shares) < 0.6
    assert all(np.abs(a - b).mean() < 0.03 for a, b in pairwise(alphas))
