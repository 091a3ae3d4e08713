"""ONNX graphs as TensorRT takes them: eight bits without zero points, and no input that is a constant."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

_MOST = 127
"""Of an int8 without a zero point."""


def symmetric(data: bytes) -> bytes:
    """Return an int8 network of QDQ pairs with int8 activations around 0 instead of uint8 ones around a zero point.

    TensorRT's GPU kernels know no zero point, no uint8 and no quantised bias, and it wants weights as floats before a
    pair (Developer Guide, "Working with Quantized Types"). The range of an activation stays as it was measured, in
    half as many steps where it began at 0; biases are floats; weights keep their values.

    Args:
        data: As ``vidseg export`` writes it, opset 17.

    Raises:
        ValueError: It holds a quantisation of another kind.
    """
    model = onnx.load_from_string(data)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {name for node in graph.node for name in node.output}
    nodes, added = [], []
    changed: dict[str, npt.NDArray[np.generic]] = {}
    renamed: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            nodes.append(node)
            continue
        src, scale_name, *rest = node.input
        zero = constants[rest[0]] if rest else np.zeros(1, np.uint8)
        scale = constants[scale_name]
        if src in made or src not in constants:  # an activation
            if zero.dtype != np.uint8 or zero.size != 1 or scale.size != 1:
                raise ValueError(f"{src} is not quantised as one uint8 range")
            low, high = float(zero.reshape(())), 255 - float(zero.reshape(()))
            changed[scale_name] = np.asarray(scale * (max(low, high) / _MOST), np.float32)
            changed[rest[0]] = np.zeros_like(zero, np.int8)
            if low == 0 and node.op_type == "QuantizeLinear":
                # uint8 from 0 on cuts off what is below: the quantiser has left out the Relu for that.
                positive = f"{node.output[0]}_positive"
                nodes.append(onnx.helper.make_node("Relu", [src], [positive]))
                node.input[0] = positive
            nodes.append(node)
            continue
        if node.op_type != "DequantizeLinear":
            raise ValueError(f"{src} is a constant and quantised anew")
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        values = _dequantised(constants[src], scale, zero, axis)
        floats = f"{src}_float"
        added.append(numpy_helper.from_array(values, floats))
        if constants[src].dtype == np.int8:
            if zero.any():
                raise ValueError(f"{src} has weights around a zero point")
            quantised = f"{src}_again"
            nodes.append(onnx.helper.make_node("QuantizeLinear", [floats, scale_name, *rest], [quantised], axis=axis))
            node.input[0] = quantised
            nodes.append(node)
        else:  # a bias, int32
            renamed[node.output[0]] = floats
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [
        numpy_helper.from_array(changed[tensor.name], tensor.name) if tensor.name in changed else tensor
        for tensor in graph.initializer
    ]
    del graph.initializer[:]
    graph.initializer.extend(tensor for tensor in [*kept, *added] if tensor.name in used)
    del graph.value_info[:]  # types of what was uint8
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def with_constants(data: bytes, constants: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """Return the network with inputs fixed to these values: what sizes depend on must be known when it is compiled."""
    model = onnx.load_from_string(data)
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _dequantised(
    values: npt.NDArray[np.generic], scale: npt.NDArray[np.float32], zero: npt.NDArray[np.generic], axis: int
) -> npt.NDArray[np.float32]:
    if scale.size > 1:
        shape = [1] * values.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape) if zero.size > 1 else zero
    return np.asarray((values.astype(np.int64) - zero.astype(np.int64)) * scale, np.float32)
