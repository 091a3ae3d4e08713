"""Contracts: small made graphs with the inputs and outputs of the public exports are known for what they are.

Names and shapes are as those who published them say: the sources are in ``vidseg/contracts.py``, and at each case where
another one has them. Of MediaPipe's and RobustVideoMatting's networks the real files are looked at, too.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from vidseg.checking import check
from vidseg.cli.main import main
from vidseg.engine import load_spec, open_engine
from vidseg.foreign import open_foreign, spec_of, template

onnx = pytest.importorskip("onnx", reason="onnx, which makes the files, is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

MODELS = Path(__file__).parent.parent.parent / "shared" / "data" / "models"
RGB = {"mean": (0, 0, 0), "std": (1, 1, 1)}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
ISNET = {"mean": (0.5, 0.5, 0.5), "std": (1, 1, 1)}
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def made(path, inputs, outputs, kind=FLOAT, bright=0.5, logits=False):
    """Write a network with these ends: its masks say how much brighter than ``bright`` a place is, 0 to 1 or as logits.

    States go out as they came in. Features have one channel, whatever is said of them.
    """
    (src, shape), *rest = inputs.items()
    last = shape[3] == 3
    nodes, weights = [], []
    name = src
    if last:
        nodes.append(helper.make_node("Transpose", [src], ["turned"], perm=[0, 3, 1, 2]))
        name = "turned"
    for number, (out, answer) in enumerate(outputs.items()):
        if out.endswith("o") and f"{out[:-1]}i" in inputs:
            nodes.append(helper.make_node("Identity", [f"{out[:-1]}i"], [out]))
            continue
        channels = next((extent for extent in answer[1::2] if isinstance(extent, int) and extent < 3), 1)
        # 20 times the mean of three channels less ``bright``; of two classes the first is the opposite.
        sign = np.ones(channels)
        sign[0] = -1 if channels == 2 else 1
        weight = np.repeat((sign * 20 / 3).reshape(-1, 1, 1, 1), 3, 1)
        dtype = np.float16 if kind == HALF else np.float32
        weights.append(numpy_helper.from_array(weight.astype(dtype), f"w{number}"))
        weights.append(numpy_helper.from_array((-20 * bright * sign).astype(dtype), f"b{number}"))
        answer_last = len(answer) == 4 and answer[3] == channels and answer[1] != channels
        nodes.append(helper.make_node("Conv", [name, f"w{number}", f"b{number}"], [f"c{number}"]))
        end = f"c{number}"
        if not logits:
            nodes.append(helper.make_node("Softmax" if channels == 2 else "Sigmoid", [end], [f"s{number}"]))
            if channels == 2:
                nodes[-1].attribute.append(helper.make_attribute("axis", 1))
            end = f"s{number}"
        after = helper.make_node("Transpose", [end], [out], perm=[0, 2, 3, 1])
        nodes.append(after if answer_last else helper.make_node("Identity", [end], [out]))
    given = [helper.make_tensor_value_info(src, kind, shape)]
    given += [helper.make_tensor_value_info(name, FLOAT if "ratio" in name else kind, shape) for name, shape in rest]
    taken = [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(nodes, "graph", given, taken, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def masks(count, size, first=1959):
    """As PyTorch numbers outputs without names."""
    return {str(first + number): (1, 1, *size) for number in range(count)}


STATES = {f"r{number}": ("batch_size", f"c{number}", f"h{number}", f"w{number}") for number in (1, 2, 3, 4)}
PUBLIC = {
    "RobustVideoMatting": (
        {"src": ("batch_size", 3, "height", "width")}
        | {f"{name}i": shape for name, shape in STATES.items()}
        | {"downsample_ratio": (1,)},
        {"fgr": ("batch_size", 3, "height", "width"), "pha": ("batch_size", 1, "height", "width")}
        | {f"{name}o": shape for name, shape in STATES.items()},
        RGB | {"answer": "pha", "activation": "", "size": (384, 512), "states": 4},
    ),
    "MODNet": (
        {"input": ("batch_size", 3, "height", "width")},
        {"output": ("batch_size", 1, "height", "width")},
        HALVES | {"answer": "output", "activation": "", "size": (512, 672)},
    ),
    "PP-HumanSeg": (
        {"x": (1, 3, 192, 192)},
        {"save_infer_model/scale_0.tmp_1": (1, 2, 192, 192)},
        HALVES | {"answer": "save_infer_model/scale_0.tmp_1", "size": (192, 192)},
    ),
    # https://github.com/hpc203/PP-HumanSeg-opencv-onnxrun/issues/1, and what obs-backgroundremoval reads
    "PP-HumanSeg, channels last": (
        {"x": (1, 3, 192, 192)},
        {"tf.identity": (1, 192, 192, 2)},
        HALVES | {"answer": "tf.identity", "size": (192, 192)},
    ),
    "MediaPipe Selfie Segmentation": (
        {"input_1:0": (1, 256, 256, 3)},
        {"activation_10": (1, 256, 256, 1)},
        RGB | {"answer": "activation_10", "activation": "", "size": (256, 256)},
    ),
    "MediaPipe Selfie Segmentation, landscape": (
        {"input_1": (1, 144, 256, 3)},
        {"activation_10": (1, 144, 256, 1)},
        RGB | {"answer": "activation_10", "activation": "", "size": (144, 256)},
    ),
    # https://huggingface.co/onnx-community/mediapipe_selfie_segmentation
    "MediaPipe Selfie Segmentation, channels first": (
        {"pixel_values": ("batch_size", 3, 256, 256)},
        {"alphas": ("batch_size", 1, 256, 256)},
        RGB | {"answer": "alphas", "activation": "", "size": (256, 256)},
    ),
    # https://github.com/jerrychan7/U2netInBrowser/issues/1 has the names
    "U²-Net": (
        {"input.1": (1, 3, 320, 320)},
        masks(7, (320, 320)),
        IMAGENET | {"answer": "1959", "activation": "", "size": (320, 320)},
    ),
    # Six masks, and the features that they come from: IS-Net/models/isnet.py in https://github.com/xuebinqin/DIS
    "IS-Net": (
        {"input_image": (1, 3, 1024, 1024)},
        masks(6, (1024, 1024), 2000) | {f"feature{number}": (1, 64, "h", "w") for number in range(6)},
        ISNET | {"answer": "2000", "activation": "", "size": (1024, 1024)},
    ),
    "BiRefNet": (
        {"input_image": (1, 3, 1024, 1024)},
        {"output_image": (1, 1, 1024, 1024)},
        IMAGENET | {"answer": "output_image", "activation": "sigmoid", "size": (1024, 1024)},
    ),
}


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    """How long it takes is measured in three pictures."""
    monkeypatch.setattr("vidseg.checking._SECONDS", 0.0)


@pytest.fixture(params=PUBLIC)
def public(request, tmp_path):
    inputs, outputs, wanted = PUBLIC[request.param]
    name = request.param.partition(",")[0]
    return name, made(tmp_path / "net.onnx", inputs, outputs, bright=0, logits=name == "BiRefNet"), wanted


def test_recognised(public):
    name, path, wanted = public
    foreign = open_foreign(path)
    assert foreign.contract is not None
    assert foreign.contract.name == name
    spec = spec_of(foreign)
    assert (spec.mean, spec.std) == (wanted["mean"], wanted["std"])
    assert spec.wiring.answer == wanted["answer"]
    assert spec.wiring.activation == wanted.get("activation")
    assert spec.size_for((480, 640)) == wanted["size"]
    assert len(spec.states) == wanted.get("states", 0)
    assert spec.classes == (("background", "person") if name == "PP-HumanSeg" else ())


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", PUBLIC)
def test_used_as_it_wants_to_be(name, runtime, tmp_path):
    """People are bright: the alpha is high where the picture is, whatever its output is called and looks like."""
    pytest.importorskip(runtime)
    inputs, outputs, wanted = PUBLIC[name]
    small = [
        {end: tuple(128 if extent == 1024 else extent for extent in shape) for end, shape in ends.items()}
        for ends in (inputs, outputs)
    ]
    path = made(tmp_path / "net.onnx", *small, bright=0, logits=name == "BiRefNet")
    with closing(open_engine(path, runtime, threads=1)) as engine:
        src = np.full((1, 3, *engine.size), -2, np.float32)
        src[:, :, : engine.size[0] // 2] = 2
        state = ()
        for _ in range(2):
            alpha, state = engine.infer(src, state)
    assert len(state) == wanted.get("states", 0)
    assert alpha[0, : engine.size[0] // 2].min() > 0.99
    assert alpha[0, engine.size[0] // 2 :].max() < 0.01


@pytest.mark.parametrize("name", ["RobustVideoMatting", "BiRefNet"])
def test_those_of_half_precision(name, tmp_path):
    """Both are published in float16, too; of RobustVideoMatting's inputs the ratio stays float32."""
    inputs, outputs, _ = PUBLIC[name]
    path = made(tmp_path / "net.onnx", inputs, outputs, HALF, bright=0, logits=name == "BiRefNet")
    foreign = open_foreign(path)
    assert foreign.contract is not None
    assert foreign.contract.name == name
    assert spec_of(foreign).wiring.half
    pytest.importorskip("onnxruntime")
    with closing(open_engine(path, "onnxruntime", threads=1)) as engine:
        picture = np.full((1, 3, *engine.size), 2, np.float32)
        alpha, state = engine.infer(picture, engine.infer(picture)[1])
    assert {part.dtype for part in (alpha, *state)} == {np.dtype(np.float32)}
    assert alpha.min() > 0.99


def test_the_template_says_the_same(public):
    """What vidseg makes of a file, and of its template as a manifest, is one model."""
    _, path, _ = public
    foreign = open_foreign(path)
    before = spec_of(foreign)
    path.with_suffix(".toml").write_text(template(foreign), "utf-8")
    after = open_foreign(path)
    assert after.manifest == path.with_suffix(".toml")
    assert spec_of(after) == before


def test_a_manifest_has_the_last_word(tmp_path):
    inputs, outputs, _ = PUBLIC["MODNet"]
    path = made(tmp_path / "net.onnx", inputs, outputs)
    (tmp_path / "net.toml").write_text("mean = [0, 0, 0]\nstd = [1, 1, 1]\nsizes = [[64, 96]]")
    spec = load_spec(path)
    assert (spec.mean, spec.std, spec.sizes) == ((0, 0, 0), (1, 1, 1), ((64, 96),))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"input": (1, 3, 512, 512)}, {"output": (1, 1, 512, 512)}),
        ({"input": ("batch_size", 3, "height", "width")}, {"output": ("batch_size", 2, "height", "width")}),
        ({"image": (1, 3, 320, 320)}, {"mask": (1, 1, 320, 320)}),
        ({"input.1": (1, 3, 320, 320)}, masks(6, (320, 320))),
        ({"input_1": (1, 512, 512, 3)}, {"activation_10": (1, 512, 512, 1)}),
        ({"x": (1, 3, 192, 192)}, {"y": (1, 19, 192, 192)}),
    ],
)
def test_not_recognised(inputs, outputs, tmp_path):
    """What could be anybody's is nobody's."""
    assert open_foreign(made(tmp_path / "net.onnx", inputs, outputs)).contract is None


@pytest.mark.parametrize(
    ("file", "name"),
    [("mediapipe_selfie_256", "MediaPipe Selfie Segmentation"), ("rvm_mobilenetv3", "RobustVideoMatting")],
)
def test_the_real_ones(file, name, capsys):
    """They see the person that our network sees, and are slower."""
    path = MODELS / f"{file}.onnx"
    if not path.is_file():
        pytest.skip("needs the models in ../shared/data")
    pytest.importorskip("onnxruntime")
    assert main(["models", "check", str(path), "--runtime", "onnxruntime", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["contract"] == name
    assert told["agreement"] > 0.9
    assert 0.3 < told["share"] < 0.5
    assert told["advice"] == ""
    assert told["milliseconds"] > 0 < told["unet_s_milliseconds"]


class TestCheck:
    """Made networks take for a person what is bright."""

    def path(self, tmp_path, **options):
        return made(tmp_path / "net.onnx", {"in": (1, 3, 96, 128)}, {"out": (1, 1, 96, 128)}, **options)

    def test_another_range_suits_it_better(self, tmp_path, capsys):
        """Shown 0 to 1 it sees nothing; shown 0 to 255, what is bright."""
        path = self.path(tmp_path, bright=150)
        assert main(["models", "check", str(path), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["contract"] is told["manifest"] is None
        assert told["share"] == told["agreement"] == 0
        assert told["tried"]["0 to 255"] > 0.05
        assert told["advice"] == "numbers from 0 to 255 suit it better: say so in a manifest"
        path.with_suffix(".toml").write_text(told["template"])
        assert main(["models", "check", str(path), "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert again["agreement"] == told["tried"]["0 to 255"]
        assert again["tried"] == {}

    def test_for_a_person(self, tmp_path, capsys):
        assert main(["models", "check", str(self.path(tmp_path))]) == 0
        out = capsys.readouterr().out
        for text in ("in   in float32 [1, 3, 96, 128]", "could be anybody's", "input 128x96 on", "times as long"):
            assert text in out

    def test_a_shipped_one(self, capsys):
        assert main(["models", "check", "unet-s", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["agreement"] > 0.95
        assert told["advice"] == ""

    def test_the_clock(self, tmp_path):
        """A picture takes what the clock says, and both networks are timed in turns."""
        seconds = iter(range(10**6))
        report = check(open_foreign(self.path(tmp_path)), clock=lambda: next(seconds))
        assert report.milliseconds == report.beside == 1000

    def test_what_does_not_fit(self, tmp_path, capsys):
        """One sentence, 1, and a manifest to fill in."""
        path = made(tmp_path / "net.onnx", {"in": (1, 3, 96, 128)}, {"out": (1, 5, 96, 128)})
        assert main(["models", "check", str(path), "--json"]) == 1
        out, err = capsys.readouterr()
        assert err.count("\n") == 1
        told = json.loads(out)
        assert "1 channels of float32 should come out" in told["error"]
        assert '# classes = ["background", "person"]' in told["template"]
        assert told["outputs"] == {"out": "float32 [1, 5, 96, 128]"}

    def test_no_class_is_a_person(self, tmp_path, capsys):
        path = made(tmp_path / "net.onnx", {"in": (1, 3, 96, 128)}, {"out": (1, 2, 96, 128)})
        path.with_suffix(".toml").write_text('classes = ["cat", "dog"]')
        assert main(["models", "check", str(path)]) == 1
        assert "net does not know person: choose of cat, dog" in capsys.readouterr().err

    def test_only_the_template(self, tmp_path, capsys):
        path = self.path(tmp_path)
        assert main(["models", "check", str(path), "--template"]) == 0
        out = capsys.readouterr().out
        path.with_suffix(".toml").write_text(out)
        assert load_spec(path).wiring.src == "in"

    @pytest.mark.parametrize("arguments", [["check"], ["list", "net.onnx"]])
    def test_usage(self, arguments, capsys):
        assert main(["models", *arguments]) == 2
        assert "give a model to check" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("data", "match"), [(None, "cannot be read"), (b"", "not an ONNX file"), (bytes(100), "not an ONNX file")]
    )
    def test_no_model(self, data, match, tmp_path, capsys):
        path = tmp_path / "net.onnx"
        if data is not None:
            path.write_bytes(data)
        assert main(["models", "check", str(path)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert match in err
        assert err.count("\n") == 1

    def test_an_alpha_of_another_size(self, tmp_path, capsys):
        """What only shows when it is run is said as well."""
        path = made(tmp_path / "net.onnx", {"in": (1, 3, 96, 128)}, {"out": (1, 1, 96, 128)})
        model = onnx.load(path)
        (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
        conv.attribute.append(helper.make_attribute("strides", [2, 2]))
        model.graph.output[0].type.tensor_type.ClearField("shape")
        onnx.save(model, path)
        assert main(["models", "check", str(path)]) == 1
        assert "does not return 1 times 96x128 numbers" in capsys.readouterr().err
