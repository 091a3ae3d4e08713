"""Messages between the server and its workers: a JSON object and bytes, both with their length before them.

No pickle: a worker that a hostile file has taken over can answer wrongly, but not make the server run anything.
"""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, BinaryIO

Header = dict[str, Any]

_LENGTHS = struct.Struct(">II")
_MOST_HEADER = 1 << 16


def packed(header: Header, payload: bytes = b"") -> bytes:
    """Return a message."""
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def read(stream: BinaryIO) -> tuple[Header, bytes] | None:
    """Return the next message, or None at the end of the stream."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header, payload = _LENGTHS.unpack(lengths)
    text, data = stream.read(header), stream.read(payload)
    return None if len(text) < header or len(data) < payload else (json.loads(text), data)


async def receive(reader: asyncio.StreamReader, most: int) -> tuple[Header, bytes]:
    """Return the next message.

    Args:
        reader: Of a worker's standard output.
        most: Bytes of payload that are believed.

    Raises:
        asyncio.IncompleteReadError: The worker has ended.
        ValueError: It sends what is no message.
    """
    header, payload = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    if header > _MOST_HEADER or payload > most:
        raise ValueError(f"a worker sends a message of {header} and {payload} bytes")
    values = json.loads(await reader.readexactly(header))
    if not isinstance(values, dict):
        raise ValueError("a worker sends what is no object")
    return values, await reader.readexactly(payload)
