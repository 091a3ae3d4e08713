"""Networks by name: the contract that all of them keep, and their weights as files."""

from __future__ import annotations

import json
import sys

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")
pytest.importorskip("safetensors", reason="weights need safetensors")

from vidseg.errors import EngineError, MissingDependencyError, ModelMismatchError  # noqa: E402
from vidseg.networks import PRESETS, Weights, build, load, read_weights, write_weights  # noqa: E402
from vidseg.runtimes.torch import fuse  # noqa: E402

SMALL = {"kind": "unet", "channels": [8, 12, 16], "head": 8}
DENSE = [
    {"kind": "fcn", "backbone": "mobilenet_v3_small"},
    {"kind": "deeplabv3", "backbone": "mobilenet_v3_small", "width": 16},
]


def randomised(net):
    """Give running means and variances values that folding could get wrong."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return net


@pytest.mark.parametrize("architecture", [SMALL, {**SMALL, "gates": 2}, *DENSE], ids=lambda a: "-".join(map(str, a)))
@pytest.mark.parametrize("outputs", [1, 3])
def test_every_network_keeps_the_contract(architecture, outputs):
    if architecture["kind"] != "unet":
        pytest.importorskip("torchvision", reason="this network is made of torchvision's parts")
    torch.manual_seed(0)
    net = randomised(build({**architecture, "outputs": outputs})).eval()
    height, width = 2 * net.multiple, 3 * net.multiple
    src = torch.randn(2, 3, height, width)
    with torch.inference_mode():
        logits, state = net(src)
        assert logits.shape == (2, outputs, height, width)
        assert [tuple(s.shape) for s in state] == [(2, c, height // s, width // s) for c, s in net.states]
        assert len(net.states) == architecture.get("gates", 0)
        again, _ = net(src, ())
        torch.testing.assert_close(again, logits)
        torch.testing.assert_close(fuse(net)(src)[0], logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_networks(name):
    if PRESETS[name]["kind"] != "unet":
        pytest.importorskip("torchvision", reason="this network is made of torchvision's parts")
    with torch.device("meta"):
        assert build(PRESETS[name]).multiple in (16, 32, 64)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ({"kind": "transformer"}, "'transformer' is not an architecture"),
        ({"channels": [8, 8]}, "None is not an architecture"),
        ({**SMALL, "depth": 3}, "depth"),
        ({**SMALL, "gates": 3}, "gates = 3"),
    ],
)
def test_what_is_no_network(architecture, said):
    with pytest.raises(ModelMismatchError, match=said):
        build(architecture)


def test_without_torchvision_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    monkeypatch.delitem(sys.modules, "vidseg.mobilenet", raising=False)
    monkeypatch.delattr("vidseg.mobilenet", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vidseg\[train\]'"):
        build({"kind": "fcn"})


# --- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights():
    torch.manual_seed(1)
    architecture = {**SMALL, "outputs": 3, "gates": 1}
    return Weights(architecture, build(architecture).state_dict(), ("room", "person", "chair"), {"step": "7"})


def same(state, other):
    return set(state) == set(other) and all(torch.equal(state[key], other[key]) for key in state)


def test_a_file_says_what_it_holds(weights, tmp_path):
    write_weights(tmp_path / "w.safetensors", weights)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    read = read_weights(tmp_path / "w.safetensors")
    assert (read.architecture, read.classes, read.notes) == (weights.architecture, weights.classes, {"step": "7"})
    assert same(read.state, weights.state)
    assert same(read.network().state_dict(), weights.state)


def test_a_file_that_says_nothing_is_read_off_its_shapes(weights, tmp_path):
    torch.save(weights.state, tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.pt").architecture == weights.architecture
    plain = build(SMALL).state_dict()
    torch.save(
        {"average": {f"module.{k}": v for k, v in plain.items()} | {"n_averaged": torch.tensor(3)}}, tmp_path / "c.pt"
    )
    assert read_weights(tmp_path / "c.pt").architecture == SMALL
    assert same(read_weights(tmp_path / "c.pt").state, plain)


def test_the_folder_of_a_model(weights, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"")
    plain = Weights(weights.architecture, weights.state)
    write_weights(tmp_path / "w.safetensors", plain)
    architecture = json.dumps(weights.architecture).replace('":', '" =')
    (tmp_path / "manifest.toml").write_text(
        f'classes = ["a", "b", "c"]\narchitecture = {architecture}\n[files]\nweights = "w.safetensors"\n'
    )
    read = read_weights(tmp_path)
    assert read.classes == ("a", "b", "c")
    assert same(read.state, weights.state)


def test_files_that_are_not_weights(tmp_path):
    with pytest.raises(EngineError, match="there is no file"):
        read_weights(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("weights")
    (tmp_path / "text.pt").write_text("weights")
    for name in ("text.safetensors", "text.pt"):
        with pytest.raises(EngineError, match=f"{name} cannot be read as weights"):
            read_weights(tmp_path / name)
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ModelMismatchError, match=r"other\.pt holds no weights of a network of ours"):
        read_weights(tmp_path / "other.pt")
    with pytest.raises(EngineError, match="is not a folder of a model"):
        read_weights(tmp_path)


def test_other_weights_than_the_network_has(weights):
    with pytest.raises(ModelMismatchError, match="the weights of mine are not the network"):
        load(SMALL, weights.state, "mine")
