"""Somebody's own ONNX file as a model: what its graph says, what a manifest beside it adds, and what fits.

The manifest of ``my.onnx`` is ``my.toml`` beside it, or a ``manifest.toml`` there; its keys are in docs/models.md. What
it does not say is taken from the file's metadata, where the values are JSON, then from the contract of a well-known
network whose inputs and outputs the graph has (``vidseg.contracts``), then from the graph itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vidseg.contracts import Contract, recognised
from vidseg.engine import ModelSpec, Scalar, Wiring, triple
from vidseg.errors import EngineError, ModelMismatchError
from vidseg.frame import Size
from vidseg.onnx_graph import FLOAT16, FLOAT32, MOST_BYTES, Graph, Tensor, gathered, read_graph

SIZES: tuple[Size, ...] = ((288, 512), (512, 288), (384, 512), (512, 384), (512, 512))
"""For networks that take any: those at which RobustVideoMatting works well, all multiples of 32."""
MOST_EXTENT = 8192
"""Of height or width: what is more is a mistake, and would fill the memory."""
KEYS = {
    "name",
    "summary",
    "licence",
    "sha256",
    "input",
    "layout",
    "order",
    "range",
    "mean",
    "std",
    "multiple",
    "sizes",
}
KEYS |= {"output", "activation", "classes", "states", "scalars"}
"""Of a manifest."""
_ALPHA_NAMES = ("pha", "alpha", "matte", "mask")
RGB = tuple[float, float, float]
_SCALAR_KINDS: dict[int, Literal["float32", "int32", "int64"]] = {1: "float32", 6: "int32", 7: "int64"}


@dataclass(frozen=True, slots=True)
class Foreign:
    """An ONNX file as it was read.

    Attributes:
        path: The file.
        graph: What goes in and out of it.
        contract: Of the well-known network that it is; None if it could be anybody's.
        manifest: The manifest that speaks of it.
        told: What contract, metadata and manifest say together.
        sha256: Of the file.
        bytes: Of the file.
    """

    path: Path
    graph: Graph
    contract: Contract | None
    manifest: Path | None
    told: Mapping[str, object]
    sha256: str
    bytes: int


def read_foreign(path: Path) -> ModelSpec:
    """Return what vidseg needs to know of the ONNX file ``path``.

    Raises:
        EngineError: It cannot be read, is no ONNX file, takes or gives something else, or has weights elsewhere.
        ModelMismatchError: It is not the file that its manifest describes.
    """
    return spec_of(open_foreign(path))


def open_foreign(path: Path) -> Foreign:
    """Read an ONNX file and what is said of it; whether it can be used is ``spec_of``'s to say.

    Raises:
        EngineError: It or its manifest cannot be read, or it is no ONNX file.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise EngineError(f"{path} has more than 2 GB, which no network of one file has", path=str(path))
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
    try:
        graph = read_graph(data)
    except ValueError as error:
        raise EngineError(f"{path} is not an ONNX file: {error}", path=str(path)) from error
    contract = recognised(graph)
    manifest, beside = _manifest(path)
    try:
        told = (contract.told if contract is not None else {}) | _metadata(graph) | beside
        gathered(data, path.parent, _sums(path, told))
    except ValueError as error:
        raise EngineError(f"{path} is not a network that vidseg can use: {error}", path=str(path)) from error
    return Foreign(path, graph, contract, manifest, told, hashlib.sha256(data).hexdigest(), len(data))


def _metadata(graph: Graph) -> dict[str, object]:
    told: dict[str, object] = {}
    for key in ("mean", "std", "classes", "sizes", "states", "multiple"):
        if key not in graph.metadata:
            continue
        try:
            told[key] = json.loads(graph.metadata[key])
        except ValueError:
            raise ValueError(f"its metadata {key} = {graph.metadata[key]!r} is not JSON") from None
    return told


def _manifest(path: Path) -> tuple[Path | None, dict[str, object]]:
    """Return the manifest that speaks of ``path``, and what it says.

    Raises:
        EngineError: It cannot be read, or says what no manifest says.
    """
    for manifest in (path.with_suffix(".toml"), path.parent / "manifest.toml"):
        try:
            beside = tomllib.loads(manifest.read_text("utf-8"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise EngineError(f"{manifest} cannot be read: {error.strerror}", path=str(manifest)) from error
        except ValueError as error:
            raise EngineError(f"{manifest} is not TOML: {error}", path=str(manifest)) from error
        if "files" not in beside:
            if unknown := sorted(beside.keys() - KEYS):
                raise EngineError(
                    f"{manifest} says {', '.join(unknown)}, which no manifest of an ONNX file does: it knows "
                    f"{', '.join(sorted(KEYS))}",
                    path=str(manifest),
                )
            return manifest, beside
        files = beside["files"]
        if isinstance(files, dict) and path.name in files.values():  # one of several of that model
            shipped = {key: value for key, value in beside.items() if key in KEYS}
            return manifest, shipped | {"name": f"{beside.get('name')}/{path.name}"}
    return None, {}


def spec_of(foreign: Foreign) -> ModelSpec:
    """Return how an ONNX file is to be used.

    Raises:
        EngineError: It takes or gives something else, or what is said of it cannot be.
        ModelMismatchError: It is not the file that its manifest describes.
    """
    path = foreign.path
    try:
        if _sums(path, foreign.told).get(path.name, foreign.sha256) != foreign.sha256:
            raise ModelMismatchError(
                f"{path} is not the file that {foreign.manifest} describes: its sha256 is {foreign.sha256}",
                path=str(path),
            )
        return _spec(foreign)
    except ModelMismatchError:
        raise
    except (ValueError, TypeError) as error:
        raise EngineError(f"{path} is not a network that vidseg can use: {error}", path=str(path)) from error


def _sums(path: Path, told: Mapping[str, object]) -> dict[str, str]:
    said = told.get("sha256", {})
    sums = {path.name: said} if isinstance(said, str) else said
    if not isinstance(sums, Mapping) or not all(isinstance(value, str) for value in sums.values()):
        raise ValueError(f"sha256 should be a checksum, or a table of them by file: {said!r}")
    return {str(name): str(value).lower() for name, value in sums.items()}


def _spec(foreign: Foreign) -> ModelSpec:
    path, graph, told = foreign.path, foreign.graph, foreign.told
    states = _states(graph, told)
    scalars = _scalars(graph, told)
    taken = {name for name, _, _ in states} | {scalar.name for scalar in scalars}
    src = _picture_name(graph, told, taken)
    picture = graph.inputs[src]
    if picture.kind not in (FLOAT32, FLOAT16):
        raise ValueError(f"pictures should go in as float32 or float16, but {src} is {picture}")
    last = _channels_last(src, picture, told)
    fixed = picture.shape[1:3] if last else picture.shape[2:]
    height, width = (extent if isinstance(extent, int) and extent > 0 else 0 for extent in fixed)
    if (height == 0) != (width == 0):
        raise ValueError(f"height and width should both be fixed or both be free, but {src} is {picture}")
    classes = tuple(_strings(told, "classes"))
    if len(classes) == 1 or len(set(classes)) != len(classes):
        raise ValueError(f"classes should be two or more different names: {classes}")
    answer, answer_last = _answer(graph, told, len(classes), last, {name for _, name, _ in states})
    mean, std = normalisation(told)
    activation = _choice(told, "activation", ("none", "sigmoid", "softmax", "?"), "?")
    multiple = 1 if height else _whole(told, "multiple", 32)
    shapes = [_state_shape(graph.inputs[name], said, (height, width)) for name, _, said in states]
    return ModelSpec(
        name=str(told.get("name", path.stem)),
        folder=path.parent,
        files={"onnx-int8" if graph.quantised else "onnx-fp32": path.name},
        sha256=_sums(path, told) | {path.name: foreign.sha256},
        mean=mean,
        std=std,
        multiple=multiple,
        sizes=((height, width),) if height else _sizes(told, multiple),
        licence=str(told.get("licence", "unknown")),
        summary=str(
            told.get("summary", f"an ONNX file, as {foreign.contract.name}" if foreign.contract else "an ONNX file")
        ),
        architecture={},
        classes=classes,
        states=tuple(shapes),
        resizable=not height,
        wiring=Wiring(
            src=src,
            answer=answer,
            channels_last=last,
            answer_last=answer_last,
            bgr=_choice(told, "order", ("RGB", "BGR"), "RGB") == "BGR",
            half=picture.kind == FLOAT16,
            states=tuple((name, after) for name, after, _ in states),
            scalars=scalars,
            activation={"none": "", "sigmoid": "sigmoid", "softmax": "softmax"}.get(activation),  # type: ignore[arg-type]
        ),
    )


def normalisation(told: Mapping[str, object]) -> tuple[RGB, RGB]:
    """Return mean and std, for numbers from 0 to 1, of what a manifest says: it may know its own range.

    Raises:
        ValueError: It says what cannot be.
    """
    low, high = _numbers(told, "range", (0, 1))
    if not low < high:
        raise ValueError(f"range should rise, as in [0, 255]: {[low, high]}")
    means, spreads = _numbers(told, "mean", (0, 0, 0)), _numbers(told, "std", (1, 1, 1))
    if not all(spread > 0 for spread in spreads):
        raise ValueError(f"std should be more than 0: {[*spreads]}")
    span = high - low
    return triple([(mean - low) / span for mean in means]), triple([spread / span for spread in spreads])


# --- what goes in and out ----------------------------------------------------------------------------------------


def _states(graph: Graph, told: Mapping[str, object]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return input, output and what is said of it, for each state; by default ``r1i`` and ``r1o`` …."""
    said = _list(told, "states")
    if all(isinstance(state, Mapping) for state in said) and said:
        known = [(str(state.get("input", "")), str(state.get("output", "")), state) for state in said]
    else:
        count = 0
        while f"r{count + 1}i" in graph.inputs and f"r{count + 1}o" in graph.outputs:
            count += 1
        shapes: list[Mapping[str, Any]] = [{}] * count
        if len(said) == count:  # as vidseg writes them: channels and stride
            shapes = [dict(zip(("channels", "stride"), state, strict=True)) for state in said]
        known = [(f"r{number}i", f"r{number}o", shape) for number, shape in enumerate(shapes, 1)]
    for name, after, _ in known:
        if name not in graph.inputs or after not in graph.outputs:
            raise ValueError(f"its states should go in and out, but it has no {name!r} or no {after!r}: {_ends(graph)}")
    return known


def _state_shape(tensor: Tensor, said: Mapping[str, Any], size: Size) -> tuple[int, int]:
    """Return channels and stride of a state; (0, 0) where only the graph knows."""
    if "channels" in said or "stride" in said:
        channels, stride = said.get("channels"), said.get("stride")
        if not (isinstance(channels, int) and isinstance(stride, int) and channels >= 0 and stride >= 0):
            raise ValueError(f"channels and stride of a state should be whole numbers: {channels}, {stride}")
        return channels, stride
    if len(tensor.shape) == 4 and all(isinstance(extent, int) and extent > 0 for extent in (*tensor.shape[1:], *size)):
        channels, height, width = (int(extent) for extent in tensor.shape[1:])
        stride = size[0] // height
        if (size[0] // max(stride, 1), size[1] // max(stride, 1)) == (height, width):
            return channels, stride
    return 0, 0


def _scalars(graph: Graph, told: Mapping[str, object]) -> tuple[Scalar, ...]:
    said = told.get("scalars", {})
    if not isinstance(said, Mapping):
        raise ValueError(f"scalars should be a table, as in {{downsample_ratio = 0.6}}: {said!r}")
    found = []
    for name, value in said.items():
        if name not in graph.inputs:
            raise ValueError(f"it has no input {name!r} that could take a scalar: {_ends(graph)}")
        tensor = graph.inputs[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"the scalar {name} should be a number: {value!r}")
        if tensor.kind not in _SCALAR_KINDS or any(isinstance(extent, int) and extent > 1 for extent in tensor.shape):
            raise ValueError(f"the scalar {name} should be one float32, int32 or int64, but it is {tensor}")
        found.append(Scalar(name, float(value), _SCALAR_KINDS[tensor.kind], (1,) * len(tensor.shape)))
    return tuple(found)


def _picture_name(graph: Graph, told: Mapping[str, object], taken: set[str]) -> str:
    others = {name: tensor for name, tensor in graph.inputs.items() if name not in taken}
    name = told.get("input")
    if name is not None:
        if name not in others:
            raise ValueError(f"it has no input {name!r} that could take a picture: {_ends(graph)}")
        if len(others) > 1:
            left = ", ".join(other for other in others if other != name)
            raise ValueError(f"its manifest should say what goes into {left}: a number (scalars) or a state (states)")
        return str(name)
    pictures = [name for name, tensor in others.items() if len(tensor.shape) == 4 and 3 in tensor.shape[1::2]]
    if len(others) != 1 or not pictures:
        raise ValueError(f"one picture of 3 channels should go in, but it takes {_described(others)}")
    return pictures[0]


def _channels_last(src: str, picture: Tensor, told: Mapping[str, object]) -> bool:
    if len(picture.shape) != 4:
        raise ValueError(f"a picture should have 4 axes, but {src} is {picture}")
    known = "NHWC" if 3 not in picture.shape[1:2] and picture.shape[3] == 3 else "NCHW"
    last = _choice(told, "layout", ("NCHW", "NHWC"), known) == "NHWC"
    channels, other = picture.shape[3 if last else 1], picture.shape[1 if last else 3]
    if channels != 3 and (other == 3 or (isinstance(channels, int) and channels > 0)):
        raise ValueError(f"a picture of 3 channels should go in, but {src} is {picture} ({'NHWC' if last else 'NCHW'})")
    return last


def _answer(graph: Graph, told: Mapping[str, object], classes: int, last: bool, states: set[str]) -> tuple[str, bool]:
    """Return the name of the output that is the alpha or the classes, and whether its channels come last."""
    outputs = {name: tensor for name, tensor in graph.outputs.items() if name not in states}
    wanted = told.get("output")
    if wanted is not None:
        if wanted not in outputs:
            raise ValueError(f"it has no output {wanted!r}: {_ends(graph)}")
        outputs = {str(wanted): outputs[str(wanted)]}
    fit = {name: place for name, tensor in outputs.items() if (place := _place(tensor, classes or 1, last)) is not None}
    named = [name for name in fit if name.lower() in _ALPHA_NAMES]
    if not fit or len(named) > 1:
        whole = [name for name, tensor in outputs.items() if tensor.kind in (2, 3, 6, 7)]
        mend = "" if classes else "; if these are classes, name them in a manifest beside it"
        if whole and len(whole) == len(outputs):
            mend = "; whole numbers say who is where but not how surely: export it without argmax"
        raise ValueError(
            f"{classes or 1} channels of float32 should come out, but it gives {_described(outputs)}{mend}"
        )
    name = (named or [*fit])[0]
    return name, fit[name]


def _place(tensor: Tensor, channels: int, last: bool) -> bool | None:
    """Return whether so many channels of an answer come last; None if it has not that many."""
    if tensor.kind not in (FLOAT32, FLOAT16):
        return None
    if len(tensor.shape) == 3:
        return last if channels == 1 else None
    if len(tensor.shape) != 4:
        return last if not tensor.shape and channels == 1 else None  # nothing is said of it
    for place in (last, not last):
        if tensor.shape[3 if place else 1] == channels:
            return place
    return last if isinstance(tensor.shape[3 if last else 1], str) else None


def _described(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tensor}" for name, tensor in tensors.items()) or "nothing"


def _ends(graph: Graph) -> str:
    return f"it takes {_described(graph.inputs)} and gives {_described(graph.outputs)}"


# --- what is said ------------------------------------------------------------------------------------------------


def _list(told: Mapping[str, object], key: str) -> list[Any]:
    value = told.get(key, [])
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key} should be a list: {value!r}")
    return list(value)


def _strings(told: Mapping[str, object], key: str) -> list[str]:
    values = _list(told, key)
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} should be names: {values!r}")
    return values


def _numbers(told: Mapping[str, object], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    values = _list(told, key) if key in told else list(default)
    right = all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
    if len(values) != len(default) or not right:
        raise ValueError(f"{key} should be {len(default)} numbers: {values!r}")
    return tuple(float(value) for value in values)


def _whole(told: Mapping[str, object], key: str, default: int) -> int:
    value = told.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_EXTENT:
        raise ValueError(f"{key} should be a whole number from 1 to {MOST_EXTENT}: {value!r}")
    return value


def _choice(told: Mapping[str, object], key: str, choices: tuple[str, ...], default: str) -> str:
    value = told.get(key, default)
    for choice in choices:
        if isinstance(value, str) and value.lower() == choice.lower():
            return choice
    raise ValueError(f"{key} should be one of {', '.join(choice for choice in choices if choice != '?')}: {value!r}")


def _sizes(told: Mapping[str, object], multiple: int) -> tuple[Size, ...]:
    default = [(h // multiple * multiple or multiple, w // multiple * multiple or multiple) for h, w in SIZES]
    sizes = _list(told, "sizes") if "sizes" in told else default
    for size in sizes or [None]:
        pair = isinstance(size, list | tuple) and len(size) == 2 and all(type(extent) is int for extent in size)
        if not pair or not all(1 <= extent <= MOST_EXTENT and extent % multiple == 0 for extent in size):
            raise ValueError(f"sizes should be pairs of height and width that are multiples of {multiple}: {sizes!r}")
    return tuple((height, width) for height, width in sizes)


# --- a manifest to fill in ---------------------------------------------------------------------------------------


def template(foreign: Foreign, guess: Mapping[str, object] | None = None) -> str:
    """Return a manifest for an ONNX file: what is known of it, and after ``#`` what has to be looked up.

    That of a file that can be used makes the same model of it.

    Args:
        foreign: The file.
        guess: What was found out about it by trying.
    """
    foreign = replace(foreign, told=dict(foreign.told) | dict(guess or {}))
    graph, told = foreign.graph, foreign.told
    try:
        spec: ModelSpec | None = _spec(foreign)
    except (ValueError, TypeError):
        spec = None
    inputs = ", ".join(f"{name} {tensor}" for name, tensor in graph.inputs.items())
    outputs = ", ".join(f"{name} {tensor}" for name, tensor in graph.outputs.items())
    lines = [
        f"# Manifest of {_comment(foreign.path.name)}: save it beside that file as {_comment(foreign.path.stem)}.toml.",
        f"# in:  {_comment(inputs)}",
        f"# out: {_comment(outputs)}",
    ]

    def line(key: str, value: object, comment: str, known: bool) -> None:
        lines.append(f"{'' if known else '# '}{key} = {_toml(value)}{'  # ' + comment if comment else ''}")

    def say(key: str, value: object, comment: str = "") -> None:
        line(key, told.get(key, value), comment if key not in told else "", key in told or spec is not None)

    picture = next((name for name, tensor in graph.inputs.items() if len(tensor.shape) == 4), next(iter(graph.inputs)))
    wiring = spec.wiring if spec is not None else Wiring(src=picture, answer=next(iter(graph.outputs)))
    line("sha256", foreign.sha256, "", True)
    line("licence", told.get("licence", "unknown"), "look it up: it says whether you may use the weights", True)
    say("input", wiring.src)
    say("layout", "NHWC" if wiring.channels_last else "NCHW")
    say("order", "RGB")
    say("range", [0, 1], "a guess: or [0, 255], [-1, 1]")
    say("mean", [0.0, 0.0, 0.0], "a guess: look at how its authors prepare a picture")
    say("std", [1.0, 1.0, 1.0], "a guess")
    if spec is None or spec.resizable:
        say("multiple", 32)
        say("sizes", [list(size) for size in (spec.sizes if spec else SIZES)], "height, width")
    say("output", wiring.answer)
    if "activation" in told:
        say("activation", "none")
    else:
        line("activation", "sigmoid", "softmax or none; left out, it is found out", False)
    if told.get("classes") or spec is None:
        say("classes", ["background", "person"], "if there is a channel for each")
    if spec is not None and spec.states:
        pairs = zip(wiring.states, spec.states, strict=True)
        shaped = [
            {"input": name, "output": after} | ({"channels": shape[0], "stride": shape[1]} if shape[1] else {})
            for (name, after), shape in pairs
        ]
        line("states", shaped, "", True)
    scalars = told.get("scalars", {})
    left = {name: 0 for name in graph.inputs if name not in (wiring.src, *(name for name, _ in wiring.states))}
    if scalars or left:
        line("scalars", scalars or left, "numbers that go in" if not scalars else "", bool(scalars))
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    return re.sub(r"[^\x20-\x7e²]", "?", text)


def _toml(value: object) -> str:
    """Return a value as TOML writes it; its strings are as JSON's."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())
