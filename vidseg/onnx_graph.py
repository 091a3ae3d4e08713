"""ONNX files read without any library: what goes in and out, and weights in files beside, which stay in their folder.

The field numbers are those of onnx.proto; how a field is written is in protobuf.dev, "Encoding".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FLOAT16, FLOAT32 = 10, 1
"""Of TensorProto.DataType."""
MOST_BYTES = 2**31 - 1
"""Of a protobuf message, and so of a network that is given to a runtime as one."""

Shape = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is said of an input or output.

    Attributes:
        kind: Its TensorProto.DataType.
        shape: A number or a name for each axis; ``?`` where there is neither.
    """

    kind: int
    shape: Shape

    def __str__(self) -> str:
        return f"{_KINDS.get(self.kind, f'type {self.kind}')} [{', '.join(map(str, self.shape))}]"


_KINDS = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}


@dataclass(slots=True)
class Graph:
    """What is asked of an ONNX file.

    Attributes:
        inputs, outputs: By name, in the file's order; inputs without those that are weights.
        metadata: The file's own notes.
        quantised: It computes in 8 bits.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    quantised: bool = False


_INTEGER_OPERATORS = {"DequantizeLinear", "QLinearConv", "ConvInteger"}


def read_graph(data: bytes) -> Graph:
    """Return what an ONNX file says of itself.

    Raises:
        ValueError: It is none.
    """
    try:
        return _graph(data)
    except (IndexError, KeyError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("it is damaged") from error


def _graph(data: bytes) -> Graph:
    graph, weights = Graph(), set()
    for number, value in _fields(memoryview(data)):
        if number == 14:
            pair = dict(_fields(_bytes(value)))
            graph.metadata[_text(pair[1])] = _text(pair.get(2, b""))
        elif number == 7:
            for part, content in _fields(_bytes(value)):
                if part == 1:
                    graph.quantised |= _text(dict(_fields(_bytes(content))).get(4, b"")) in _INTEGER_OPERATORS
                elif part == 5:
                    weights.add(_text(dict(_fields(_bytes(content))).get(8, b"")))
                elif part in (11, 12):
                    name, described = _value_info(_bytes(content))
                    (graph.inputs if part == 11 else graph.outputs)[name] = described
    if not graph.inputs or not graph.outputs:
        raise ValueError("it has no inputs or no outputs")
    for name in weights & graph.inputs.keys():  # before version 4 of the format, weights were inputs too
        del graph.inputs[name]
    return graph


def _value_info(message: memoryview) -> tuple[str, Tensor]:
    fields = dict(_fields(message))
    tensor = dict(_fields(_bytes(dict(_fields(_bytes(fields.get(2, b"")))).get(1, b""))))
    shape: list[int | str] = []
    for number, value in _fields(_bytes(tensor.get(2, b""))):
        if number == 1:
            extent = dict(_fields(_bytes(value)))
            fixed = extent.get(1)
            shape.append(fixed if isinstance(fixed, int) else _text(extent.get(2, b"")) or "?")
    kind = tensor.get(1, 0)
    return _text(fields[1]), Tensor(kind if isinstance(kind, int) else 0, tuple(shape))


# --- weights in other files --------------------------------------------------------------------------------------


def gathered(data: bytes, folder: Path, sha256: Mapping[str, str]) -> bytes:
    """Return an ONNX file with the weights that lie in files beside it put into it.

    A runtime that gets the result opens no file. One that is left to read them itself follows ``../`` and links, and
    ONNX Runtime takes one such path for an address in memory.

    Args:
        data: The ONNX file.
        folder: Where it lies. Files elsewhere are refused, by whatever way the path leads there.
        sha256: Of those files, by name; of one that is not named anything is taken.

    Raises:
        ValueError: It is no ONNX file; its weights lie elsewhere, cannot be read, are others or too many.
    """
    if b"location" not in data:  # without this key no runtime finds a file: almost all models end here
        return data
    files: dict[str, memoryview] = {}

    def read(said: dict[str, str]) -> memoryview:
        location = said.get("location", "")
        if location not in files:
            files[location] = memoryview(_inside(folder, location).read_bytes())
            if location in sha256 and hashlib.sha256(files[location]).hexdigest() != sha256[location]:
                raise ValueError(f"{location!r}, which holds its weights, is not the file that its manifest describes")
        content = files[location]
        try:
            offset = int(said.get("offset", "0"))
            length = int(said.get("length", len(content) - offset))
        except ValueError:
            raise ValueError(f"where its weights lie in {location!r} is not said in numbers") from None
        if offset < 0 or length < 0 or offset + length > len(content):
            raise ValueError(f"{location!r}, which holds its weights, is too short: fetch it again")
        return content[offset : offset + length]

    try:
        whole = _whole(memoryview(data), _MODEL, read)
    except OSError as error:
        raise ValueError(f"its weights cannot be read: {error.strerror}") from error
    except (IndexError, KeyError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("it is damaged") from error
    if whole is None:
        return data
    if len(whole) > MOST_BYTES:
        raise ValueError(f"with its weights it has {len(whole) / 1e9:.1f} GB, and more than 2 cannot be loaded")
    return whole


def _inside(folder: Path, location: str) -> Path:
    """Return the file that ``location`` names, if it is one in ``folder`` or below.

    Raises:
        ValueError: It is not.
    """
    if not location or "\0" in location:
        raise ValueError("it does not say which file its weights are in")
    path = (folder / location).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"its weights lie in {location!r}, outside its own folder, where nothing is read")
    if not path.is_file():
        raise ValueError(f"its weights lie in {location!r}, which is not beside it: fetch that file, too")
    return path


@dataclass(frozen=True, slots=True)
class _Message:
    """A message of onnx.proto: which of its fields hold messages that can hold weights."""

    fields: dict[int, _Message] = field(default_factory=dict)
    weights: bool = False


_TENSOR = _Message(weights=True)
_SPARSE = _Message({1: _TENSOR, 2: _TENSOR})
_GRAPH, _NODE = _Message(), _Message()
_ATTRIBUTE = _Message({5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE})
_NODE.fields[5] = _ATTRIBUTE
_GRAPH.fields.update({1: _NODE, 5: _TENSOR, 15: _SPARSE})
_FUNCTION = _Message({7: _NODE, 11: _ATTRIBUTE})
_MODEL = _Message({7: _GRAPH, 20: _Message({1: _GRAPH, 2: _GRAPH}), 25: _FUNCTION})
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14

_Read = Callable[[dict[str, str]], memoryview]


def _whole(message: memoryview, kind: _Message, read: _Read) -> bytes | None:
    """Return ``message`` with all weights in it; None if they are there already."""
    parts: list[bytes | memoryview] = []
    changed = False
    said: dict[str, str] = {}
    before = 0
    for number, value, end in _spans(message):
        span, before = message[before:end], end
        if kind.weights and number in (_EXTERNAL_DATA, _DATA_LOCATION):
            # Of fields that are given twice or with another type runtimes take one or the other: none of them stays.
            changed = True
            if number == _EXTERNAL_DATA:
                pair = dict(_fields(_bytes(value)))
                said[_text(pair[1])] = _text(pair.get(2, b""))
            continue
        inner = kind.fields.get(number)
        if inner is not None and isinstance(value, memoryview):
            whole = _whole(value, inner, read)
            if whole is not None:
                changed = True
                parts += [_written(number << 3 | 2), _written(len(whole)), whole]
                continue
        parts.append(span)
    if said:
        content = read(said)
        parts += [_written(_RAW_DATA << 3 | 2), _written(len(content)), content]
    return b"".join(parts) if changed else None


# --- protobuf ----------------------------------------------------------------------------------------------------


def _fields(message: memoryview | bytes) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a message; those of a fixed width are passed over."""
    for number, value, _ in _spans(memoryview(message)):
        if value is not None:
            yield number, value


def _spans(message: memoryview) -> Iterator[tuple[int, int | memoryview | None, int]]:
    """Yield number and value of each field, and where it ends; the value of those of a fixed width is None."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        value: int | memoryview | None = None
        match key & 7:
            case 0:
                value, at = _varint(message, at)
            case 2:
                length, at = _varint(message, at)
                value = message[at : at + length]
                at += length
            case 1 | 5 as kind:
                at += 8 if kind == 1 else 4
            case _:
                raise ValueError("it is not a protobuf message")
        if at > len(message):
            raise ValueError("it ends too early")
        yield key >> 3, value, at


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("it is not a protobuf message")


def _written(value: int) -> bytes:
    """Return ``value`` as a varint."""
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


def _bytes(value: int | memoryview | bytes | None) -> memoryview:
    if value is None or isinstance(value, int):
        raise ValueError("a number stands where a message should be")
    return memoryview(value)


def _text(value: int | memoryview | bytes) -> str:
    return bytes(_bytes(value)).decode("utf-8")
