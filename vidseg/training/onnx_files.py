"""Networks as ONNX files: float32, float16 and, calibrated, eight bits."""

from __future__ import annotations

import copy
import io
import json
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from vidseg.frame import Size
from vidseg.runtimes.torch import fuse

OPSET = 17
CALIBRATION_PERCENTILE = 99.999
"""Of 120 pictures at one size (the calibrator's histograms want it). IoU with fp32 on 60 validation pictures, an early
checkpoint: minimum and maximum .992, 99.99 % .989, entropy .993, this .9945."""

Feed = dict[str, npt.NDArray[np.float32]]
"""Inputs of an ONNX file by name, of one picture."""


class _Answer(nn.Module):
    """A network with what makes probabilities of its logits."""

    def __init__(self, net: nn.Module, classes: Sequence[str]) -> None:
        super().__init__()
        self.net, self.classes = net, bool(classes)

    def forward(self, src: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
        logits, after = self.net(src, before)
        return logits.softmax(1) if self.classes else logits.sigmoid(), *after


class _Half(nn.Module):
    """The same in float16, but for what goes in and comes out.

    The casts are nodes of the graph, so that a runtime with strong types needs no other hint.
    """

    def __init__(self, net: _Answer) -> None:
        super().__init__()
        self.net = net.half()

    def forward(self, src: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.float() for part in self.net(src.half(), *(part.half() for part in before)))


def write_onnx(
    net: nn.Module, path: Path, classes: Sequence[str] = (), notes: dict[str, Any] | None = None, *, half: bool = False
) -> None:
    """Write ``net`` with N, H and W free, and its sigmoid or softmax.

    ``src`` ``(N, 3, H, W)`` and states ``r1i``, ``r2i`` … go in; ``pha`` ``(N, 1, H, W)``, or ``classes``
    ``(N, K, H, W)``, and ``r1o``, ``r2o`` … come out, all float32.

    Args:
        net: In evaluation mode; it is not changed.
        path: Of the file.
        classes: What it tells apart; empty for an alpha.
        notes: Metadata, written as JSON.
        half: Weights and all that is computed are float16.
    """
    states: Sequence[tuple[int, int]] = net.states  # type: ignore[assignment]
    height = width = 4 * int(net.multiple)  # type: ignore[arg-type]
    zeros = [torch.zeros(1, channels, height // stride, width // stride) for channels, stride in states]
    answer = "classes" if classes else "pha"
    axes = {"src": {0: "N", 2: "H", 3: "W"}, answer: {0: "N", 2: "H", 3: "W"}}
    for number in range(1, len(states) + 1):
        axes[f"r{number}i"] = axes[f"r{number}o"] = {0: "N", 2: f"H{number}", 3: f"W{number}"}
    answering = _Answer(fuse(copy.deepcopy(net)), classes).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is called deprecated
        torch.onnx.export(
            _Half(answering) if half else answering,
            (torch.zeros(1, 3, height, width), *zeros),
            str(path),
            input_names=["src", *(f"r{number}i" for number in range(1, len(states) + 1))],
            output_names=[answer, *(f"r{number}o" for number in range(1, len(states) + 1))],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in (notes or {}).items()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Iterable[Feed]) -> None:
        self._samples: Iterator[Feed] = iter(samples)

    def get_next(self) -> Feed | None:
        return next(self._samples, None)


def write_int8(fp32: Path, path: Path, samples: Iterable[Feed]) -> None:
    """Quantise the ONNX file ``fp32``: 7-bit weights by channel, uint8 activations, as QDQ pairs.

    Every convolution computes in int8, but what a sigmoid or softmax is taken of stays float: in eight bits a step of
    alpha would be 3 % at a soft edge. Recurrent states stay float as well: a mean over many frames would get stuck at
    the steps of eight bits.

    Args:
        fp32: The network.
        path: Where the quantised one goes.
        samples: What the ranges of the activations are measured on, all of one size.
    """
    # The quantiser prints what it does, and standard output may be somebody's JSON.
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(prepared)
        _copy_states(model.graph)
        onnx.save(model, prepared)
        quantize_static(
            str(prepared),
            str(path),
            _Calibration(samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "Resize", "Concat", "Split"],
            per_channel=True,
            # Seven bits of weight: CPUs without VNNI add two products in 16 bits, which eight overflow (IoU .96 there).
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": CALIBRATION_PERCENTILE},
        )
    model = onnx.load(path)
    for node in [node for node in model.graph.node if node.op_type in ("Sigmoid", "Softmax")]:
        _keep_float(model.graph, node)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _copy_states(graph: onnx.GraphProto) -> None:
    """Let every concatenation take a copy of a state, so that the copy is quantised and the state itself is not."""
    ends = {value.name for value in (*graph.input, *graph.output) if value.name.startswith("r")}
    for at, node in reversed(list(enumerate(graph.node))):
        for place, name in enumerate(node.input):
            if node.op_type == "Concat" and name in ends:
                node.input[place] = f"{name}_copy_{at}"
                graph.node.insert(at, onnx.helper.make_node("Identity", [name], [f"{name}_copy_{at}"]))


def _keep_float(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Take away the quantisation between ``node`` and the convolution before it."""
    makers = {name: maker for maker in graph.node for name in maker.output}
    while node.op_type != "Conv":
        before = makers.get(node.input[0])
        if before is None:
            return
        quantize = makers.get(before.input[0]) if before.op_type == "DequantizeLinear" else None
        if quantize is not None and quantize.op_type == "QuantizeLinear":
            node.input[0] = quantize.input[0]
            for unused in (before, quantize):
                if not any(unused.output[0] in other.input for other in graph.node):
                    graph.node.remove(unused)
        else:
            node = before


def count_macs(net: nn.Module, size: Size) -> int:
    """Return the multiply-accumulates of all convolutions for one picture."""
    counts = []

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        counts.append(output.numel() * module.weight[0].numel())  # type: ignore[index]

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d)]
    with torch.inference_mode():
        net(torch.zeros(1, 3, *size))
    for hook in hooks:
        hook.remove()
    return sum(counts)
