"""ONNX graphs as they are prepared for TensorRT, computed by ONNX Runtime: TensorRT itself is not asked here."""

from __future__ import annotations

import numpy as np
import pytest

from tests.test_runtimes import pictures
from vidseg.engine import load_spec
from vidseg.parity import TOLERANCE, compare

onnx = pytest.importorskip("onnx", reason="onnx, which prepares the graphs, is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime, which computes them, is not installed")
SPEC = load_spec()


def computed(data, src):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, {"src": src})[0][:, 0]


@pytest.fixture(scope="module")
def symmetric():
    from vidseg.runtimes.graphs import symmetric

    return symmetric(SPEC.read("onnx-int8"))


def test_eight_bits_around_zero_are_the_same_network(symmetric):
    src = pictures(4, SPEC.sizes[0])
    parity = compare(computed(symmetric, src), computed(SPEC.read("onnx-fp32"), src))
    assert parity.within(TOLERANCE["tensorrt", "int8"]), parity


def test_fp16_is_the_same_network():
    src = pictures(4, SPEC.sizes[0])
    parity = compare(computed(SPEC.read("onnx-fp16"), src), computed(SPEC.read("onnx-fp32"), src))
    assert parity.within(TOLERANCE["tensorrt", "fp16"]), parity


def test_nothing_is_left_that_tensorrt_does_not_know(symmetric):
    """No uint8, no zero point, no quantised bias; weights are floats before their pair."""
    graph = onnx.load_from_string(symmetric).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert {array.dtype for array in constants.values()} <= {np.dtype(np.float32), np.dtype(np.int8)}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) > 20
    assert not any(constants[node.input[2]].any() for node in pairs)
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            assert node.input[0] not in constants
        if node.op_type == "Conv":
            assert constants[node.input[2]].dtype == np.float32


def test_weights_keep_their_values(symmetric):
    def weights(data):
        graph = onnx.load_from_string(data).graph
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        return {
            node.input[0]: constants[node.input[0]]
            for node in graph.node
            if node.input[:1] and node.input[0] in constants
        }, constants

    before, scales = weights(SPEC.read("onnx-int8"))
    after, _ = weights(symmetric)
    checked = 0
    for name, values in before.items():
        if values.dtype == np.int8 and values.ndim == 4:
            scale = scales[name.removesuffix("_quantized") + "_scale"].reshape(-1, 1, 1, 1)
            np.testing.assert_allclose(after[f"{name}_float"], values * scale, rtol=1e-6)
            checked += 1
    assert checked >= 10


def test_a_constant_takes_the_place_of_an_input():
    from vidseg.runtimes.graphs import with_constants

    helper = onnx.helper
    inputs = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("src", [1, 1]), ("ratio", [1]))]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["src", "ratio"], ["pha"])],
        "g",
        inputs,
        [helper.make_tensor_value_info("pha", 1, [1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = with_constants(model.SerializeToString(), {"ratio": np.array([0.5], np.float32)})
    assert computed(data, np.array([[6.0]], np.float32)).tolist() == [3.0]


def test_what_is_quantised_in_another_way_is_refused():
    from vidseg.runtimes.graphs import symmetric

    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["src", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["pha"]),
        ],
        "g",
        [helper.make_tensor_value_info("src", 1, [1, 1])],
        [helper.make_tensor_value_info("pha", 1, [1, 1])],
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(3), "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ValueError, match="src is not quantised as one uint8 range"):
        symmetric(model.SerializeToString())
