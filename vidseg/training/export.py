"""``python -m vidseg.training.export --weights X.pt --data DIR --out engines/unet-s``: from weights to a model folder.

Writes ``weights.safetensors`` (as trained, fp32: the reference), ``model.onnx`` (fp32), ``model-int8.onnx``
(calibrated on real pictures), ``manifest.toml``, ``validation.{md,json}`` and ``MODEL_CARD.md``.
"""

from __future__ import annotations

import argparse
import copy
import csv
import datetime
import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import safetensors.torch
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from vidseg.color import planes_from_rgb
from vidseg.engine import Precision, list_runtimes, load_spec, open_engine
from vidseg.frame import Color, Frame, Size
from vidseg.runtimes.torch import TorchEngine, fuse
from vidseg.segmenter import SCALES, Segmenter
from vidseg.settling import settle
from vidseg.training.data import Array, read_labelled, read_rooms
from vidseg.unet import UNET_S_CHANNELS, UNet

log = logging.getLogger(__name__)

OPSET = 17
SIZES: tuple[Size, ...] = ((160, 256), (256, 160), (192, 224), (224, 192), (192, 192))
MEAN = STD = 0.5
CALIBRATION_PICTURES, CALIBRATION_SIZE = 120, (192, 224)
CALIBRATION_PERCENTILE = 99.999
"""Of 120 pictures at one size (the calibrator's histograms want it). IoU with fp32 on 60 validation pictures, an early
checkpoint: minimum and maximum .992, 99.99 % .989, entropy .993, this .9945."""

Planes = npt.NDArray[np.float32]


def load_weights(path: Path) -> UNet:
    """Read a finished ``weights.pt``, or the averaged weights of a running training's ``checkpoint.pt``."""
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    if "average" in state:
        average: dict[str, Tensor] = state["average"]  # type: ignore[assignment]
        state = {key.removeprefix("module."): value for key, value in average.items() if key != "n_averaged"}
    channels = [state["stem.0.weight"].shape[0]]
    channels += [state[f"encoder.{level}.1.0.weight"].shape[0] for level in range(len(UNET_S_CHANNELS) - 1)]
    net = UNet(channels, state["head.0.weight"].shape[0])
    net.load_state_dict(state)
    return net.eval()


def write_weights(net: UNet, path: Path) -> None:
    """Write ``net`` as trained, its BatchNorms apart: training can go on from it."""
    path.write_bytes(safetensors.torch.save({name: value.contiguous() for name, value in net.state_dict().items()}))


class _Alpha(nn.Module):
    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, src: Tensor) -> Tensor:
        return self.net(src)[0].sigmoid()  # type: ignore[no-any-return]


def write_onnx(net: UNet, path: Path) -> None:
    """Write ``net`` with its sigmoid: ``src`` ``(N, 3, H, W)`` in, ``pha`` ``(N, 1, H, W)`` out, with N, H, W free."""
    axes = {0: "N", 2: "H", 3: "W"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is called deprecated
        torch.onnx.export(
            _Alpha(fuse(copy.deepcopy(net))).eval(),
            (torch.zeros(1, 3, *SIZES[0]),),
            str(path),
            input_names=["src"],
            output_names=["pha"],
            dynamic_axes={"src": axes, "pha": axes},
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def normalised(rgb: Array) -> Planes:
    """Return uint8 ``(h, w, 3)`` as the network's input ``(1, 3, h, w)``."""
    return ((rgb.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)


def calibration_pictures(data: Path, count: int, seed: int) -> Iterator[Array]:
    """Yield training pictures: whole or cropped, lighter or darker; one in eight is an empty room."""
    rng = np.random.default_rng(seed)
    people = [
        picture.rgb
        for name, pictures in read_labelled(data, "train").items()
        if name != "davidg"
        for picture in pictures
    ]
    rooms = read_rooms(data, "train")
    for index in range(count):
        bank = rooms if index % 8 == 7 else people
        rgb = bank[rng.integers(len(bank))]
        height, width = CALIBRATION_SIZE
        scale = rng.uniform(0.45, 1.0) * min(rgb.shape[0] / height, rgb.shape[1] / width)
        h, w = int(height * scale), int(width * scale)
        y, x = rng.integers(rgb.shape[0] - h + 1), rng.integers(rgb.shape[1] - w + 1)
        small = cv2.resize(rgb[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_AREA)
        yield np.clip(small * rng.uniform(0.5, 1.3), 0, 255).astype(np.uint8)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, pictures: list[Array]) -> None:
        self._pictures = iter(pictures)

    def get_next(self) -> dict[str, Planes] | None:
        picture = next(self._pictures, None)
        return None if picture is None else {"src": normalised(picture)}


def write_int8(fp32: Path, path: Path, pictures: list[Array]) -> None:
    """Quantise the ONNX file ``fp32``: 7-bit weights by channel, uint8 activations, as QDQ pairs.

    The last convolution computes in int8 like all others, but its logits stay float: in eight bits a step of alpha
    would be 3 % at a soft edge.

    Args:
        fp32: The network.
        path: Where the quantised one goes.
        pictures: What the ranges of the activations are measured on.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            _Calibration(pictures),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "Resize", "Concat"],
            per_channel=True,
            # Seven bits of weight: CPUs without VNNI add two products in 16 bits, which eight overflow (IoU .96 there).
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": CALIBRATION_PERCENTILE},
        )
    model = onnx.load(path)
    nodes = model.graph.node
    makers = {name: node for node in nodes for name in node.output}
    shuffle = next(node for node in nodes if node.op_type == "DepthToSpace")
    dequantize = makers[shuffle.input[0]]
    quantize = makers[dequantize.input[0]]
    if (dequantize.op_type, quantize.op_type) == ("DequantizeLinear", "QuantizeLinear"):
        shuffle.input[0] = quantize.input[0]
        nodes.remove(dequantize)
        nodes.remove(quantize)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def parity(folder: Path, pictures: list[Array]) -> dict[str, dict[str, float]]:
    """Compare both ONNX files with PyTorch float32 on ``pictures``: alpha's largest and mean difference, and IoU."""
    spec = load_spec(folder)
    report = {}
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    for precision in precisions:
        largest, means, ious = 0.0, [], []
        for size in spec.sizes:
            shown = [cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA) for rgb in pictures]
            src = np.concatenate([normalised(np.asarray(rgb, np.uint8)) for rgb in shown])
            with closing(TorchEngine(spec, size, None, "fp32", device="cpu")) as engine:
                reference, _ = engine.infer(src)
            with closing(open_engine(spec, "onnxruntime", size, precision=precision)) as engine:
                alpha, _ = engine.infer(src)
            largest = max(largest, float(np.abs(alpha - reference).max()))
            means.append(float(np.abs(alpha - reference).mean()))
            ious += [_iou(a > 0.5, r > 0.5) for a, r in zip(alpha, reference, strict=True) if (r > 0.5).mean() > 0.01]
        report[spec.files[f"onnx-{precision}"]] = {
            "max": largest,
            "mean": float(np.mean(means)),
            "iou": float(np.mean(ious)),
        }
    return report


def _iou(mask: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    return float((mask & truth).sum() / max((mask | truth).sum(), 1))


def validate(
    folder: Path, data: Path, runtime: str, precision: Precision, scales: Sequence[float] = (1.0,)
) -> dict[str, dict[str, float]]:
    """Return measures by set on whole validation pictures, through ``Segmenter`` and ``settle``, as a user gets them.

    The alpha is resized to the picture; a pixel is a person from 0.5. What is carried is ignored. ``mad`` is the
    mean absolute difference of alpha times 1000. The set ``rooms`` has nobody in it: ``seen`` is the share of rooms in
    which more than half a percent of the pixels are taken for somebody.
    """
    report: dict[str, dict[str, float]] = {}
    with closing(Segmenter(folder, runtime, precision=precision, scales=scales)) as segmenter:

        def alpha_of(rgb: Array) -> npt.NDArray[np.float32]:
            color = Color("bt709")
            frame = Frame(planes_from_rgb(rgb, color), 0, Fraction(1, 30), color)
            alpha = settle(segmenter([frame])[0].alpha)
            return np.asarray(cv2.resize(alpha, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)

        for name, pictures in read_labelled(data, "val").items():
            rows = []
            for picture in pictures:
                known = np.ones(picture.alpha.shape, bool) if picture.ignore is None else picture.ignore < 128
                pha = alpha_of(picture.rgb)[known]
                true = picture.alpha[known].astype(np.float32) / 255
                mask, truth = pha > 0.5, true > 0.5
                hit = float((mask & truth).sum())
                rows.append(
                    {
                        "iou": _iou(mask, truth),
                        "precision": hit / max(float(mask.sum()), 1.0),
                        "recall": hit / max(float(truth.sum()), 1.0),
                        "accuracy": float((mask == truth).mean()),
                        "mad": 1e3 * float(np.abs(pha - true).mean()),
                    }
                )
            report[name] = {"pictures": len(rows)} | {
                key: float(np.mean([row[key] for row in rows])) for key in rows[0]
            }
        rooms = [alpha_of(room) for room in read_rooms(data, "val")]
        report["rooms"] = {
            "pictures": len(rooms),
            "mad": 1e3 * float(np.mean([pha.mean() for pha in rooms])),
            "seen": float(np.mean([(pha > 0.5).mean() > 0.005 for pha in rooms])),
        }
    return report


def write_manifest(folder: Path, name: str, net: UNet, trained: str, data: str) -> None:
    """Write ``manifest.toml`` for the files that lie in ``folder``."""
    files = {"onnx-fp32": "model.onnx", "onnx-int8": "model-int8.onnx", "weights": "weights.safetensors"}
    sums = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files.values()}
    channels = [net.stem[0].out_channels] + [stage[1][0].out_channels for stage in net.encoder]  # type: ignore[index]
    parameters = sum(parameter.numel() for parameter in net.parameters())
    lines = [
        "# Written by python -m vidseg.training.export; the fields are those of vidseg.engine.ModelSpec.",
        f'name = "{name}"',
        f'summary = "People: a U-Net of 3x3 convolutions, {parameters / 1e6:.1f} M parameters, made for int8 on CPUs"',
        'licence = "Apache-2.0"',
        f"mean = {[MEAN] * 3}",
        f"std = {[STD] * 3}",
        f"multiple = {net.multiple}",
        f"sizes = {[list(size) for size in SIZES]}  # height, width",
        "",
        "[architecture]",
        'kind = "unet"',
        f"channels = {channels}",
        f"head = {net.head[0].out_channels}",
        "",
        "[files]",
        *(f'{role} = "{file}"' for role, file in files.items()),
        "",
        "[sha256]",
        *(f'"{file}" = "{digest}"' for file, digest in sums.items()),
        "",
        "[training]",
        f'date = "{trained}"',
        f"parameters = {parameters}",
        f'data = "{data}"',
        "",
    ]
    (folder / "manifest.toml").write_text("\n".join(lines), "utf-8")


def data_summary(data: Path) -> str:
    """Return in one line what ``data`` holds for training."""
    with open(data / "labelled" / "index.csv") as labelled, open(data / "pseudo" / "index.csv") as pseudo:
        pictures = sum(row["split"] == "train" for row in csv.DictReader(labelled))
        frames = sum(1 for _ in csv.DictReader(pseudo))
    return (
        f"{pictures} labelled pictures, {frames} pseudo-labelled frames, {len(read_rooms(data, 'train'))} empty rooms"
    )


def export(args: argparse.Namespace) -> None:
    """Write the whole model folder and say what was lost on the way."""
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    net = load_weights(args.weights)
    write_weights(net, out / "weights.safetensors")
    macs = count_macs(net, SIZES[0])
    write_onnx(net, out / "model.onnx")
    pictures = list(calibration_pictures(args.data, CALIBRATION_PICTURES, seed=7))
    write_int8(out / "model.onnx", out / "model-int8.onnx", pictures)
    modified = datetime.datetime.fromtimestamp(args.weights.stat().st_mtime, datetime.UTC)
    write_manifest(out, out.resolve().name, net, modified.date().isoformat(), data_summary(args.data))

    people = [picture.rgb for pictures in read_labelled(args.data, "val").values() for picture in pictures][::4]
    differences = parity(out, people)
    int8 = "openvino" if {name: usable for name, usable, _ in list_runtimes()}["openvino"] else "onnxruntime"
    measures = {
        "PyTorch fp32": validate(out, args.data, "torch", "fp32"),
        f"{int8} int8": validate(out, args.data, int8, "int8"),
        f"{int8} int8, in three sizes, as stills are looked at": validate(out, args.data, int8, "int8", SCALES),
    }
    report = {"parity": differences, "validation": measures, "macs": macs, "date": modified.date().isoformat()}
    (out / "validation.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    table = as_markdown(report)
    (out / "validation.md").write_text(table, "utf-8")
    refresh_card(out / "MODEL_CARD.md", table)
    print(table)
    fp32, quantised, _ = measures.values()
    for name in fp32:
        lost = 100 * (fp32[name].get("iou", 0) - quantised[name].get("iou", 0))
        if lost > 0.5:
            log.warning("int8 loses %.2f points of IoU on %s", lost, name)


def count_macs(net: UNet, size: Size) -> int:
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


def as_markdown(report: dict[str, Any]) -> str:
    """Return the tables of ``validation.md``."""
    lines = [
        f"Weights of {report['date']}. {report['macs'] / 1e6:.0f} million multiply-accumulates a picture at 256x160.",
        "Whole validation pictures through `Segmenter` and `settle`, alpha resized to the picture; a person from 0.5;",
        "what is carried is ignored; MAD is the mean absolute difference of alpha x 1000; none was trained on.",
        "",
    ]
    for name, sets in report["validation"].items():
        lines += [f"| {name} | pictures | IoU | precision | recall | accuracy | MAD |", "|---|---|---|---|---|---|---|"]
        for title, row in sets.items():
            if title != "rooms":
                cells = [f"{row[key]:.3f}" for key in ("iou", "precision", "recall", "accuracy")]
                lines.append(f"| {title} | {row['pictures']:.0f} | {' | '.join(cells)} | {row['mad']:.1f} |")
        rooms = sets["rooms"]
        lines += [
            "",
            f"Empty rooms in which it sees somebody (over 0.5 % of the pixels): {100 * rooms['seen']:.1f} % "
            f"of {rooms['pictures']:.0f}, MAD {rooms['mad']:.1f}.",
            "",
        ]
    lines += ["| file against PyTorch fp32 | largest difference | mean | IoU |", "|---|---|---|---|"]
    for name, row in report["parity"].items():
        lines.append(f"| {name} | {row['max']:.4f} | {row['mean']:.5f} | {row['iou']:.4f} |")
    return "\n".join(lines) + "\n"


def refresh_card(card: Path, table: str) -> None:
    """Put ``table`` between the marks of the model card; the rest of it is written by hand."""
    begin, end = "<!-- validation -->", "<!-- /validation -->"
    text = card.read_text("utf-8") if card.exists() else f"# Model card\n\n{begin}\n{end}\n"
    if begin not in text or end not in text:
        log.warning("%s has no marks for the validation table: it was left as it is", card)
        return
    before, after = text.split(begin)[0], text.split(end)[1]
    card.write_text(f"{before}{begin}\n{table}{end}{after}", "utf-8")


def main() -> None:
    """Parse the command line and export."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m vidseg.training.export", description=__doc__)
    parser.add_argument(
        "--weights", type=Path, required=True, help="weights.pt, or the checkpoint.pt of a running training"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with labelled/, pseudo/ and backgrounds/")
    parser.add_argument("--out", type=Path, default=Path("engines/unet-s"))
    export(parser.parse_args())


if __name__ == "__main__":
    main()
