"""From trained weights to a model folder: nothing is lost on the way, and the manifest says what lies there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vidseg.engine import load_spec, open_engine

torch = pytest.importorskip("torch", reason="exporting needs vidseg[train]: torch is not installed")
pytest.importorskip("onnx", reason="exporting needs vidseg[train]: onnx is not installed")
pytest.importorskip("onnxruntime", reason="exporting needs vidseg[train]: onnxruntime is not installed")
safetensors = pytest.importorskip(
    "safetensors.torch", reason="exporting needs vidseg[train]: safetensors is not installed"
)

from vidseg.networks import build  # noqa: E402
from vidseg.runtimes.torch import TorchEngine, fuse  # noqa: E402
from vidseg.training import export  # noqa: E402
from vidseg.unet import UNet  # noqa: E402

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
CHANNELS, HEAD = (8, 12, 16, 20, 24), 8


@pytest.fixture(scope="module")
def net():
    """A small network whose BatchNorms have something to fuse."""
    torch.manual_seed(3)
    net = UNet(CHANNELS, HEAD)
    net.train()
    for _ in range(20):
        net(torch.randn(4, 3, 64, 64))
    return net.eval()


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    """A model folder made of it, without the pictures of a training set."""
    out = tmp_path_factory.mktemp("models") / "tiny"
    out.mkdir()
    export.write_weights(net, out / "weights.safetensors")
    export.write_onnx(net, out / "model.onnx")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*export.CALIBRATION_SIZE, 3), np.uint8) for _ in range(8)]
    export.write_int8(out / "model.onnx", out / "model-int8.onnx", pictures)
    export.write_manifest(out, "tiny", net, "2026-01-31", "nothing but noise")
    return out


def noise(count, size, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, *size)).astype(np.float32)


def test_fusing_changes_nothing(net):
    src = torch.from_numpy(noise(2, (64, 96)))
    fused = fuse(build({"kind": "unet", "channels": CHANNELS, "head": HEAD}).eval())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    import copy

    with torch.inference_mode():
        torch.testing.assert_close(fuse(copy.deepcopy(net))(src)[0], net(src)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_of_a_finished_and_of_a_running_training(net, wrapped, tmp_path):
    path = tmp_path / "weights.pt"
    if wrapped:
        average = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
        torch.save({"net": {}, "average": average.state_dict(), "optimizer": {}, "step": 7}, path)
    else:
        torch.save(net.state_dict(), path)
    loaded = export.load_weights(path)
    src = torch.from_numpy(noise(1, (64, 64)))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(src)[0], net(src)[0])


def test_the_manifest_describes_the_network(folder, net):
    spec = load_spec(folder)
    assert spec.name == "tiny"
    assert spec.architecture == {"kind": "unet", "channels": list(CHANNELS), "head": HEAD}
    assert spec.multiple == net.multiple
    assert spec.sizes == export.SIZES
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)
    assert all(spec.read(role) for role in ("onnx-fp32", "onnx-int8", "weights"))


@pytest.mark.parametrize("size", export.SIZES)
def test_onnx_equals_pytorch(folder, net, size):
    src = noise(2, size)
    with torch.inference_mode():
        expected = net(torch.from_numpy(src))[0].sigmoid()[:, 0].numpy()
    spec = load_spec(folder)
    np.testing.assert_allclose(TorchEngine(spec, size, 1, "fp32", device="cpu").infer(src)[0], expected, atol=1e-5)
    np.testing.assert_allclose(open_engine(spec, "onnxruntime", size, 1, "fp32").infer(src)[0], expected, atol=1e-4)
    quantised = open_engine(spec, "onnxruntime", size, 1, "int8").infer(src)[0]
    assert np.abs(quantised - expected).mean() < 0.03


def test_int8_is_int8_all_through(folder):
    """Every convolution takes and has 8-bit numbers; only the logits are float."""
    import onnx

    graph = onnx.load(folder / "model-int8.onnx").graph
    makers = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 1 + 2 * 4 + 1 + 4 + 1 + 1
    for node in convolutions:
        assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
    shuffle = next(node for node in graph.node if node.op_type == "DepthToSpace")
    assert makers[shuffle.input[0]].op_type == "Conv"
    weights = [i for i in graph.initializer if i.name.endswith("weight_quantized")]
    assert len(weights) == len(convolutions)
    assert all(np.abs(onnx.numpy_helper.to_array(w).astype(int)).max() <= 64 for w in weights)


def test_counts_multiply_accumulates():
    net = UNet((8, 8), 8)
    # At 32x32: the stem and the head and the last work at 16x16, the encoder at 8x8, the decoder at 16x16.
    stem, encoder, bottom = 256 * 27 * 8, 64 * 72 * 8 * 2, 64 * 72 * 8
    decoder, head, out = 256 * 144 * 8, 256 * 72 * 8, 256 * 72 * 4
    assert export.count_macs(net, (32, 32)) == stem + encoder + bottom + decoder + head + out


def test_the_card_keeps_what_was_written_by_hand(tmp_path):
    card = tmp_path / "MODEL_CARD.md"
    card.write_text("# Hand\n\n<!-- validation -->\nold\n<!-- /validation -->\n\n## Weak at\nchairs\n")
    for table in ("first\n", "second\n"):
        export.refresh_card(card, table)
    assert card.read_text() == "# Hand\n\n<!-- validation -->\nsecond\n<!-- /validation -->\n\n## Weak at\nchairs\n"


def test_a_card_without_marks_is_left_alone(tmp_path, caplog):
    card = tmp_path / "MODEL_CARD.md"
    card.write_text("mine")
    export.refresh_card(card, "table")
    assert card.read_text() == "mine"
    assert "no marks" in caplog.text


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the training data in ../shared/data")
def test_calibration_is_the_same_every_time():
    first, second = (list(export.calibration_pictures(DATA, 6, seed=1)) for _ in range(2))
    assert [picture.shape for picture in first] == [(*export.CALIBRATION_SIZE, 3)] * 6
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
