"""A worker as the server sees it: a process that answers messages, and may end at any moment."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vidseg.server import wire
from vidseg.server.limits import MEBI

_MOST = 256 * MEBI
"""Bytes that an answer may have: a PNG of 40 megapixels has less."""


class WorkerGoneError(Exception):
    """The worker has ended, or says what is no message."""


@dataclass(frozen=True, slots=True)
class Network:
    """What computes.

    Attributes:
        model: As in ``Segmenter``.
        runtime: As in ``Segmenter``.
        threads: For the network; None chooses.
    """

    model: str = "unet-s"
    runtime: str = "auto"
    threads: int | None = None

    def options(self) -> dict[str, Any]:
        """Return it for a worker's first message."""
        return asdict(self)


class Process:
    """One worker. ``end`` has to be called."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    @classmethod
    async def start(cls, kind: Literal["live", "pictures", "job"], options: dict[str, Any]) -> Process:
        """Start a worker and give it its options."""
        # The token is none of its business. One that hangs on the terminal would hear its Ctrl-C before the server.
        environment = {key: value for key, value in os.environ.items() if key != "VIDSEG_TOKEN"}
        process = cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "vidseg.server.worker", kind),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        )
        process.post(options)
        return process

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def post(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Send a message; whoever sends many of them waits for answers in between."""
        with suppress(OSError, RuntimeError):  # it has gone: ``receive`` says so
            self._in.write(wire.packed(header, payload))

    async def receive(self) -> tuple[dict[str, Any], bytes]:
        """Return the next answer.

        Raises:
            WorkerGoneError: There will be none.
        """
        try:
            return await wire.receive(self._out, _MOST)
        except (asyncio.IncompleteReadError, ValueError, OSError) as error:
            raise WorkerGoneError(str(error)) from error

    async def end(self) -> None:
        """End it now, whatever it does. May be called again."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._in.close()
        await self._process.wait()
