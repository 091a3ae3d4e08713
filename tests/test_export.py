"""From trained weights to a model folder: nothing is lost on the way, and the manifest says what lies there."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidseg.cli.app import run
from vidseg.engine import load_spec, open_engine
from vidseg.errors import EngineError, OutputExistsError, SinkError, SourceError

torch = pytest.importorskip("torch", reason="exporting needs vidseg[train]: torch is not installed")
onnx = pytest.importorskip("onnx", reason="exporting needs vidseg[train]: onnx is not installed")
pytest.importorskip("onnxruntime", reason="exporting needs vidseg[train]: onnxruntime is not installed")
pytest.importorskip("safetensors", reason="exporting needs vidseg[train]: safetensors is not installed")

from vidseg.networks import Weights, build, write_weights  # noqa: E402
from vidseg.runtimes.torch import TorchEngine, fuse  # noqa: E402
from vidseg.training import export as job  # noqa: E402
from vidseg.training.onnx_files import count_macs  # noqa: E402
from vidseg.unet import UNet  # noqa: E402

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
ALPHA = {"kind": "unet", "channels": [8, 12, 16, 20, 24], "head": 8}
KINDS = {
    "alpha": (ALPHA, ()),
    "recurrent": ({**ALPHA, "gates": 2}, ()),
    "classes": ({**ALPHA, "outputs": 3}, ("room", "person", "chair")),
    "fcn": ({"kind": "fcn", "backbone": "mobilenet_v3_small"}, ()),
    "deeplabv3": ({"kind": "deeplabv3", "backbone": "mobilenet_v3_small", "width": 16, "outputs": 2}, ("room", "cat")),
}
SIZES = ((64, 96), (96, 64))


def trained(kind):
    """Weights whose BatchNorms have something to fuse, and whose gates are half open."""
    architecture, classes = KINDS[kind]
    if architecture["kind"] != "unet":
        pytest.importorskip("torchvision", reason="this network needs torchvision, which is not installed")
    torch.manual_seed(3)
    net = build(architecture).train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics are those of what is seen now: nothing fades on its way
    for _ in range(3):
        net(torch.randn(2, 3, 64, 64))
    for gate in getattr(net, "gates", ()):
        torch.nn.init.normal_(gate.gate.weight, 0, 0.1)
        torch.nn.init.zeros_(gate.gate.bias)
    return Weights(architecture, net.eval().state_dict(), classes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(job.drawn((120, 160), rng)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "CALIBRATION_PICTURES", 8)
        patch.setattr(job, "CALIBRATION_SIZE", (64, 96))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # for networks as small as these, a second one costs more than it does
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory, photos):
    """A model folder of that kind."""
    home = tmp_path_factory.mktemp("models")
    write_weights(home / "weights.safetensors", trained(request.param))
    job.export(home / "weights.safetensors", home / request.param, pictures=photos, sizes=SIZES)
    return home / request.param


def noise(count, size, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, *size)).astype(np.float32)


@pytest.mark.parametrize("kind", ["alpha", "deeplabv3"])
def test_fusing_changes_nothing(kind):
    net = trained(kind).network()
    fused = fuse(copy.deepcopy(net))
    left = sum(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    assert left == 0
    src = torch.from_numpy(noise(2, (64, 96)))
    with torch.inference_mode():
        torch.testing.assert_close(fused(src)[0], net(src)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("folder", KINDS, indirect=True)
class TestFolder:
    def test_manifest(self, folder):
        spec = load_spec(folder)
        architecture, classes = KINDS[folder.name]
        assert spec.name == folder.name
        assert spec.architecture == architecture
        assert spec.classes == classes
        assert spec.states == (((12, 32), (10, 16)) if folder.name == "recurrent" else ())
        assert spec.sizes == SIZES
        assert spec.mean == spec.std == (0.5, 0.5, 0.5)
        assert set(spec.files) == {"onnx-fp32", "onnx-fp16", "onnx-int8", "weights"}
        assert all(spec.read(role) for role in spec.files)

    @pytest.mark.parametrize("size", SIZES)
    def test_every_file_answers_as_pytorch_does(self, folder, size):
        spec = load_spec(folder)
        if spec.classes:
            spec = spec.keeping(spec.classes[1:2])
        reference = TorchEngine(spec, size, 1, "fp32", device="cpu")
        engines = {p: open_engine(spec, "onnxruntime", size, 1, p) for p in ("fp32", "fp16", "int8")}
        rng, states, expected = np.random.default_rng(1), dict.fromkeys(engines, ()), ()
        for _ in range(3):
            src = np.concatenate([job.normalised(job.drawn(size, rng)) for _ in range(2)])
            truth, expected = reference.infer(src, expected)
            # Untrained depthwise convolutions, fifty in a row, are the worst case of eight bits.
            eight = (0.3, 0.03) if "unet" in str(spec.architecture) else (0.8, 0.15)
            for precision, largest, mean in (("fp32", 1e-4, 1e-5), ("fp16", 0.02, 2e-3), ("int8", *eight)):
                alpha, states[precision] = engines[precision].infer(src, states[precision])
                assert np.abs(alpha - truth).max() < largest
                assert np.abs(alpha - truth).mean() < mean
                for state, true in zip(states[precision], expected, strict=True):
                    assert np.abs(state - true).mean() < 2 * mean * max(true.max(), 1)

    def test_all_weights_of_the_half_file_are_half(self, folder):
        graph = onnx.load(folder / "model-fp16.onnx").graph
        big = [i for i in graph.initializer if np.prod(i.dims) > 8]
        assert big
        assert {i.data_type for i in big} == {onnx.TensorProto.FLOAT16}
        assert {i.type.tensor_type.elem_type for i in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}

    def test_int8_is_int8_all_through(self, folder):
        """Every convolution takes 8-bit numbers; what becomes a probability, and every state, is float."""
        graph = onnx.load(folder / "model-int8.onnx").graph
        makers = {name: node for node in graph.node for name in node.output}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        assert convolutions
        for node in convolutions:
            assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
        for node in graph.node:
            if node.op_type in ("Sigmoid", "Softmax"):
                before = makers[node.input[0]]
                while before.op_type in ("DepthToSpace", "Resize"):
                    before = makers[before.input[0]]
                assert before.op_type == "Conv"
        assert not [o.name for o in graph.output if makers[o.name].op_type in ("DequantizeLinear", "Cast")]
        weights = [i for i in graph.initializer if i.name.endswith("weight_quantized")]
        assert all(np.abs(onnx.numpy_helper.to_array(w).astype(int)).max() <= 64 for w in weights)

    def test_card(self, folder):
        card = (folder / "MODEL_CARD.md").read_text()
        assert f"# {folder.name}\n" in card
        assert "million multiply-accumulates a picture at 96x64" in card
        assert "| model-int8.onnx | 0." in card
        assert json.loads((folder / "validation.json").read_text())["parity"]["fp32"]["iou"] > 0.99

    def test_an_onnx_file_alone_says_the_same(self, folder, tmp_path):
        (tmp_path / "alone.onnx").write_bytes((folder / "model.onnx").read_bytes())
        alone, spec = load_spec(tmp_path / "alone.onnx"), load_spec(folder)
        for name in ("mean", "std", "multiple", "sizes", "classes", "states"):
            assert getattr(alone, name) == getattr(spec, name)

    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_runs_without_torch(self, folder, runtime):
        if runtime == "openvino":
            pytest.importorskip("openvino")
        keep = repr(KINDS[folder.name][1][1:2])
        code = (
            "import sys; sys.modules['torch'] = None\n"
            "import numpy as np; from vidseg.engine import open_engine\n"
            f"engine = open_engine({str(folder)!r}, {runtime!r}, keep={keep})\n"
            "alpha, _ = engine.infer(np.zeros((1, 3, *engine.size), np.float32)); print(engine.runtime, alpha.shape)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == f"{runtime} int8 (CPU) (1, 64, 96)\n"


@pytest.mark.parametrize("folder", ["classes"], indirect=True)
class TestCommands:
    """``--keep`` and ``vidseg export``, as a person types them."""

    def test_keep(self, folder, photos, tmp_path, capsys):
        sure = trained("classes")
        sure.state["out.bias"][:] = torch.tensor([0.0, 12.0, 0.0]).repeat_interleave(4)
        write_weights(tmp_path / "sure.safetensors", sure)
        model = str(tmp_path / "sure")
        job.export(tmp_path / "sure.safetensors", tmp_path / "sure", precisions=("fp32",), sizes=SIZES)
        found = []
        for number, more in enumerate(([], ["--keep", "room"], ["--keep", " chair,person"])):
            out = tmp_path / f"{number}.png"
            assert run(["matte", str(photos / "0.png"), str(out), "--model", model, "--quiet", *more]) == 0
            found.append(np.asarray(Image.open(out)))
        assert [round(matte.mean()) for matte in found] == [255, 0, 255]

    @pytest.mark.parametrize(
        ("keep", "sentence"),
        [("cat", "does not know cat: choose of room, person, chair"), (",", "it is empty; name what stays")],
    )
    def test_what_cannot_be_kept(self, folder, keep, sentence, photos, tmp_path, capsys):
        for command in ("matte", "image", "process"):
            bg = [] if command == "matte" else ["--bg", "white"]
            line = [command, str(photos / "0.png"), str(tmp_path / "out.png"), "--model", str(folder), "--keep", keep]
            assert run([*line, *bg]) == 2
            assert sentence in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_a_model_of_people_has_nothing_to_choose(self, folder, photos, tmp_path, capsys):
        assert run(["matte", str(photos / "0.png"), str(tmp_path / "out.png"), "--keep", "chair"]) == 2
        assert "unet-s has no classes to choose from" in capsys.readouterr().err

    def test_an_onnx_file_as_model(self, folder, photos, tmp_path, capsys):
        line = ["matte", str(photos / "0.png"), str(tmp_path / "out.png"), "--json"]
        assert run([*line, "--model", str(folder / "model.onnx")]) == 0
        assert json.loads(capsys.readouterr().out)["model"] == "classes/model.onnx"

    def test_export(self, folder, photos, tmp_path, capsys):
        line = ["export", str(folder), str(tmp_path / "mine"), "--precision", "fp32,int8", "--size", "96x64", "--json"]
        line += ["--pictures", str(photos)]
        assert run(line) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["name"] == "mine"
        assert told["sizes"] == [[64, 96]]
        assert told["agreement"]["fp32"]["largest"] < 1e-3
        assert load_spec(tmp_path / "mine").classes == ("room", "person", "chair")
        assert run(line) == 1
        assert "exists already: give --overwrite" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("more", "sentence"),
        [
            (["--precision", "int8"], "give --data or --pictures"),
            (["--precision", "int4"], "int4 is none of fp32, fp16, int8"),
            (["--size", "96"], "96 is not a size like 256x160"),
            (["--size", "90x60"], "multiples of 32"),
        ],
    )
    def test_usage(self, folder, more, sentence, tmp_path, capsys):
        assert run(["export", str(folder), str(tmp_path / "mine"), *more]) == 2
        assert sentence in capsys.readouterr().err


class TestTarget:
    """What stands under the name of the output, before and after."""

    @pytest.fixture
    def weights(self, tmp_path):
        write_weights(tmp_path / "weights.safetensors", trained("alpha"))
        return tmp_path / "weights.safetensors"

    def fp32(self, weights, out, **options):
        return job.export(weights, out, precisions=("fp32",), sizes=((64, 64),), **options)

    def test_what_was_written_by_hand_stays(self, weights, tmp_path):
        out = tmp_path / "mine"
        self.fp32(weights, out)
        card = (out / "MODEL_CARD.md").read_text().replace("Not written yet: look", "Chairs. Look")
        (out / "MODEL_CARD.md").write_text(card.replace("| model.onnx | 0.", "| stale | 0."))
        (out / "notes.txt").write_text("mine")
        (out / "samples").mkdir()
        (out / "samples" / "one.png").write_bytes(b"1")
        assert self.fp32(out, out, overwrite=True, name="other").warnings == ()
        card = (out / "MODEL_CARD.md").read_text()
        assert "Chairs. Look" in card
        assert "stale" not in card
        assert "| model.onnx | 0." in card
        assert (out / "notes.txt").read_text() == "mine"
        assert (out / "samples" / "one.png").read_bytes() == b"1"
        assert load_spec(out).name == "other"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "weights.safetensors"]

    def test_a_card_without_marks_is_left_alone(self, weights, tmp_path):
        out = tmp_path / "mine"
        self.fp32(weights, out)
        (out / "MODEL_CARD.md").write_text("all mine")
        assert "left as it is" in self.fp32(weights, out, overwrite=True).warnings[0]
        assert (out / "MODEL_CARD.md").read_text() == "all mine"

    def test_a_file_that_is_not_asked_for_goes(self, weights, tmp_path):
        out = tmp_path / "mine"
        job.export(weights, out, precisions=("fp32", "fp16"), sizes=((64, 64),))
        self.fp32(weights, out, overwrite=True)
        assert not (out / "model-fp16.onnx").exists()

    def test_nothing_is_replaced_unasked(self, weights, tmp_path):
        out = tmp_path / "mine"
        self.fp32(weights, out)
        with pytest.raises(OutputExistsError, match="--overwrite"):
            self.fp32(weights, out)
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "a.jpg").write_bytes(b"")
        with pytest.raises(SinkError, match="is no model"):
            self.fp32(weights, tmp_path / "photos", overwrite=True)

    def test_a_file_that_does_not_agree_leaves_all_as_it_was(self, weights, tmp_path, monkeypatch):
        out = tmp_path / "mine"
        self.fp32(weights, out)
        before = (out / "manifest.toml").read_text()
        monkeypatch.setitem(job.MOST_OFF, "fp32", -1.0)
        with pytest.raises(EngineError, match="differs from PyTorch"):
            self.fp32(weights, out, overwrite=True)
        assert (out / "manifest.toml").read_text() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "weights.safetensors"]

    def test_mistakes(self, weights, tmp_path):
        with pytest.raises(ValueError, match="calibrated on real pictures"):
            job.export(weights, tmp_path / "a", precisions=("int8",))
        with pytest.raises(ValueError, match=r"multiples of 32: \[\(60, 64\)\]"):
            job.export(weights, tmp_path / "a", sizes=((60, 64),))
        with pytest.raises(EngineError, match="there is no file"):
            job.export(tmp_path / "none.pt", tmp_path / "a")
        with pytest.raises(SinkError, match="does not exist"):
            job.export(weights, tmp_path / "no" / "a")
        (tmp_path / "empty").mkdir()
        with pytest.raises(SourceError, match="holds no picture"):
            job.export(weights, tmp_path / "a", pictures=tmp_path / "empty")
        assert not (tmp_path / "a").exists()


def test_counts_multiply_accumulates():
    net = UNet((8, 8), 8)
    # At 32x32: the stem and the head and the last work at 16x16, the encoder at 8x8, the decoder at 16x16.
    stem, encoder, bottom = 256 * 27 * 8, 64 * 72 * 8 * 2, 64 * 72 * 8
    decoder, head, out = 256 * 144 * 8, 256 * 72 * 8, 256 * 72 * 4
    assert count_macs(net, (32, 32)) == stem + encoder + bottom + decoder + head + out


def test_a_clip_of_a_still_moves_a_little(photos):
    rgb = np.asarray(Image.open(photos / "0.png"))
    clip = job.clip_of(rgb, (64, 96), 5, np.random.default_rng(0))
    steps = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(clip)]
    assert {frame.shape for frame in clip} == {(64, 96, 3)}
    assert 0 < max(steps) < 12


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the training data in ../shared/data")
def test_calibration_never_sees_what_is_held_back():
    teaching, trying = job._pictures(DATA, None)
    assert len(teaching) == job.CALIBRATION_PICTURES
    assert not set(teaching) & set(trying)
    assert all("/val/" not in str(path) for path in teaching)
    assert all("/val/" in str(path) for path in trying)
    assert job._pictures(DATA, None)[0] == teaching
