"""Somebody's own ONNX file as a model: its graph is read, without any library, and must fit one of a few forms.

A picture goes in, float32 RGB ``(N, 3, H, W)`` or ``(N, H, W, 3)``, 0 to 1 or by ``mean`` and ``std``, at a fixed size
or any; an alpha comes out, ``(N, 1, H, W)``, ``(N, H, W, 1)`` or ``(N, H, W)``, or a channel for each of ``classes``.
Recurrent networks have RobustVideoMatting's inputs and outputs: ``r1i`` …, ``r1o`` …, and maybe ``downsample_ratio``.

What a graph cannot tell (``mean``, ``std``, ``classes``, ``sizes``) is taken from the file's metadata, as JSON, or from
a ``manifest.toml`` beside it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidseg.engine import ModelSpec, Wiring, triple
from vidseg.errors import EngineError
from vidseg.frame import Size

SIZES: tuple[Size, ...] = ((288, 512), (512, 288), (384, 512), (512, 384), (512, 512))
"""For networks that take any: those at which RobustVideoMatting works well, all multiples of 32."""
_FLOAT = 1
"""Of TensorProto.DataType in onnx.proto."""
_ALPHA_NAMES = ("pha", "alpha", "matte", "mask")

Shape = tuple[int | str, ...]


def read_foreign(path: Path) -> ModelSpec:
    """Return what vidseg needs to know of the ONNX file ``path``.

    Raises:
        EngineError: It cannot be read, is no ONNX file, or takes or gives something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
    try:
        graph = _read_graph(data)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise EngineError(f"{path} is not an ONNX file: {error}", path=str(path)) from error
    try:
        return _spec(path, graph, _told(path, graph), hashlib.sha256(data).hexdigest())
    except (ValueError, TypeError, KeyError) as error:
        raise EngineError(f"{path} is not a network that vidseg can use: {error}", path=str(path)) from error


def _told(path: Path, graph: _Graph) -> dict[str, object]:
    """Return what the manifest beside the file and its metadata say; the manifest has the last word."""
    told: dict[str, object] = {}
    for key in ("mean", "std", "classes", "sizes", "states", "multiple"):
        if key in graph.metadata:
            try:
                told[key] = json.loads(graph.metadata[key])
            except ValueError:
                raise ValueError(f"its metadata {key} = {graph.metadata[key]!r} is not JSON") from None
    manifest = path.parent / "manifest.toml"
    if manifest.is_file():
        beside = tomllib.loads(manifest.read_text("utf-8"))
        if "files" not in beside:
            told |= beside
        elif path.name in beside["files"].values():
            told |= beside | {"name": f"{beside['name']}/{path.name}"}  # one of several of that model
    return told


def _spec(path: Path, graph: _Graph, told: dict[str, object], sha256: str) -> ModelSpec:
    if graph.scattered:
        raise ValueError("its weights are in another file: save it as one")
    inputs = dict(graph.inputs)
    states = 0
    while f"r{states + 1}i" in inputs and f"r{states + 1}o" in graph.outputs:
        states += 1
        inputs.pop(f"r{states}i")
    ratio = "downsample_ratio" if inputs.pop("downsample_ratio", None) else ""
    pictures = {name: tensor for name, tensor in inputs.items() if len(tensor.shape) == 4 and 3 in tensor.shape[1::2]}
    if len(inputs) != 1 or not pictures:
        raise ValueError(f"one picture of 3 channels should go in, but it takes {_described(inputs)}")
    ((src, picture),) = pictures.items()
    if picture.kind != _FLOAT:
        raise ValueError(f"pictures should go in as float32, but {src} is of ONNX's type {picture.kind}")
    channels_last = picture.shape[1] != 3
    fixed = picture.shape[1:3] if channels_last else picture.shape[2:]
    height, width = (extent if isinstance(extent, int) and extent > 0 else 0 for extent in fixed)
    if (height == 0) != (width == 0):
        raise ValueError(f"height and width should both be fixed or both be free, but {src} is {picture.shape}")

    classes = tuple(map(str, _list(told.get("classes", ()))))
    if len(classes) == 1 or len(set(classes)) != len(classes):
        raise ValueError(f"classes should be two or more different names: {classes}")
    sizes = tuple((int(h), int(w)) for h, w in _list(told.get("sizes", SIZES)))
    known = tuple((int(channels), int(stride)) for channels, stride in _list(told.get("states", ())))
    files = {"onnx-int8" if graph.quantised else "onnx-fp32": path.name}
    return ModelSpec(
        name=str(told.get("name", path.stem)),
        folder=path.parent,
        files=files,
        sha256={path.name: sha256},
        mean=triple(_list(told.get("mean", (0.0, 0.0, 0.0)))),
        std=triple(_list(told.get("std", (1.0, 1.0, 1.0)))),
        multiple=1 if height else int(str(told.get("multiple", 32))),
        sizes=((height, width),) if height else sizes,
        licence=str(told.get("licence", "unknown")),
        summary=str(told.get("summary", "an ONNX file")),
        architecture={},
        classes=classes,
        states=known if len(known) == states else ((0, 0),) * states,
        resizable=not height,
        wiring=Wiring(
            src=src,
            answer=_answer(graph, len(classes), channels_last),
            channels_last=channels_last,
            ratio=ratio,
            activation=None,
        ),
    )


def _answer(graph: _Graph, classes: int, channels_last: bool) -> str:
    """Return the name of the output that is the alpha or the classes."""
    outputs = {name: tensor for name, tensor in graph.outputs.items() if not re.fullmatch(r"r\d+o", name)}
    channels = classes or 1
    fit = []
    for name, tensor in outputs.items():
        shape = tensor.shape
        if len(shape) == 4:
            known = shape[3 if channels_last else 1]
            right = known == channels or isinstance(known, str) or (channels == 1 and 1 in shape[1::2])
        else:
            right = len(shape) == 3 and channels == 1
        if right and tensor.kind == _FLOAT:
            fit.append(name)
    named = [name for name in fit if name.lower() in _ALPHA_NAMES]
    if not fit or len(named) > 1:
        mend = "" if classes else "; if these are classes, name them in a manifest.toml beside it"
        raise ValueError(f"{channels} channels of float32 should come out, but it gives {_described(outputs)}{mend}")
    return (named or fit)[0]


def _list(value: object) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is not a list")
    return list(value)


def _described(tensors: dict[str, _Tensor]) -> str:
    if not tensors:
        return "nothing"
    return ", ".join(f"{name} [{', '.join(map(str, tensor.shape))}]" for name, tensor in tensors.items())


# --- onnx.proto: the few fields that are asked for ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tensor:
    kind: int
    shape: Shape


@dataclass(slots=True)
class _Graph:
    inputs: dict[str, _Tensor] = field(default_factory=dict)
    outputs: dict[str, _Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    quantised: bool = False
    scattered: bool = False


def _read_graph(data: bytes) -> _Graph:
    graph, weights = _Graph(), set()
    for number, value in _fields(memoryview(data)):
        if number == 14:
            pair = dict(_fields(_bytes(value)))
            graph.metadata[_text(pair[1])] = _text(pair.get(2, b""))
        elif number == 7:
            for part, content in _fields(_bytes(value)):
                if part == 1:
                    graph.quantised |= _text(dict(_fields(_bytes(content))).get(4, b"")) in _INTEGER_OPERATORS
                elif part == 5:
                    tensor = dict(_fields(_bytes(content)))
                    weights.add(_text(tensor.get(8, b"")))
                    graph.scattered |= tensor.get(14) == 1
                elif part in (11, 12):
                    name, described = _value_info(_bytes(content))
                    (graph.inputs if part == 11 else graph.outputs)[name] = described
    if not graph.inputs or not graph.outputs:
        raise ValueError("it has no inputs or no outputs")
    for name in weights & graph.inputs.keys():  # before version 4 of the format, weights were inputs too
        del graph.inputs[name]
    return graph


_INTEGER_OPERATORS = {"DequantizeLinear", "QLinearConv", "ConvInteger"}


def _value_info(message: memoryview) -> tuple[str, _Tensor]:
    fields = dict(_fields(message))
    tensor = dict(_fields(_bytes(dict(_fields(_bytes(fields.get(2, b"")))).get(1, b""))))
    shape: list[int | str] = []
    for number, value in _fields(_bytes(tensor.get(2, b""))):
        if number == 1:
            extent = dict(_fields(_bytes(value)))
            fixed = extent.get(1)
            shape.append(fixed if isinstance(fixed, int) else _text(extent.get(2, b"")) or "?")
    kind = tensor.get(1, 0)
    return _text(fields[1]), _Tensor(kind if isinstance(kind, int) else 0, tuple(shape))


def _fields(message: memoryview | bytes) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a protobuf message (protobuf.dev, "Encoding")."""
    message, at = memoryview(message), 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                value, at = _varint(message, at)
                yield key >> 3, value
            case 2:
                length, at = _varint(message, at)
                if at + length > len(message):
                    raise ValueError("it ends too early")
                yield key >> 3, message[at : at + length]
                at += length
            case 1 | 5 as kind:
                at += 8 if kind == 1 else 4
            case _:
                raise ValueError("it is not a protobuf message")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _bytes(value: int | memoryview | bytes) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should be")
    return memoryview(value)


def _text(value: int | memoryview | bytes) -> str:
    return bytes(_bytes(value)).decode("utf-8")
